"""The calls of a stream: who is let in, which calls are live, and how they end.

Every call, on every transport, comes in through `Calls.admit`, in this order: authorize → slot → copy of the handler →
transport. If a step fails or is cancelled, all that was taken before it is given back.

This module knows no route and no transport. `Stream` is the public face in front of it. The routes and
`rtcflow.testing` use it directly.
"""

from __future__ import annotations

import logging
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable, ItemsView, Iterator, Mapping, ValuesView
from contextlib import AbstractContextManager, AsyncExitStack, ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import anyio
import anyio.abc
import anyio.lowlevel

from .._core.bridge import current_loop_token
from .._core.guard import is_for_the_process
from .._core.hooks import ask
from .._core.native import task_group
from .._core.threads import WorkerThreads
from ..abc import Transport
from ..connection.connection import shut_down
from ..context import log_facts
from ..ends import End, sole_error
from ..exceptions import (
    ApplicationFailed,
    CallLost,
    ClusterError,
    ConnectionExists,
    LocalProtocolError,
    NotServing,
    TooManyConnections,
    UnknownConnection,
)
from ..handlers.base import StreamHandlerBase
from ..handlers.checking import copy_handler
from .admission import Admission, NoDescriptors, has_descriptors
from .engine import SharedEngine
from .loop_lag import LoopLag
from .options import Options
from .output_events import OutputEvents
from .router import Application, CallRouter, RouterSource
from .session import CallRequest, ConnectionSettings, Session, threads_needed

if TYPE_CHECKING:
    from ..transports.webrtc import WebRTCEngine

logger: logging.Logger = logging.getLogger(__name__)

CLOSING: Final = 2.0
"""Seconds that live calls get to say goodbye when a stream ends, before they are cancelled."""

_NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class _RunningCalls:
    """What exists while the stream runs: its event loop, the task group of its calls, its WebRTC engine."""

    token: Any
    tasks: anyio.abc.TaskGroup
    engine: SharedEngine


class Calls(Mapping[str, Session]):
    """The live calls by their id, from admission until nothing of a call is left.

    As a mapping it can be read from any thread; iterating goes over a snapshot. A call is in it as soon as it holds a
    slot; its `Session.connection` is None while its transport is still being opened.

    Attributes:
        options: What the stream was made with.
        threads: The worker threads of sync handlers, with their limit.
        refused: How many calls were refused, by reason; webhooks and further offers are among them. A reason is an
            error's `code`, ``"protocol_error"`` (also in a call that had begun), ``"left"``, ``"wrong_signature"``,
            ``"carrier_not_served"`` or ``"origin_not_allowed"``.
        loop_lag: How late the event loop is, if somebody wants to know (`watch_loop`).
        router: The node of a cluster that this stream is, while it runs; None without a cluster.
        join_error: Why the stream could not join its cluster, for `rtcflow serve`: ASGI servers only tell a text.
        endpoints: What answers each route, by the route's path: for requests that other nodes forward.
    """

    def __init__(self, options: Options) -> None:
        limits = options.limits
        self.options: Options = options
        self.refused: Counter[str] = Counter()
        self._admission = Admission(options)
        self.threads: WorkerThreads = WorkerThreads(limits.thread_limit)
        self._sessions: dict[str, Session] = {}
        self._claiming: dict[str, anyio.Event] = {}
        self._unfinished: set[Session] = set()
        self._leaving = False
        self._numbers = count(1)
        self._watchers: list[Callable[[Session], object]] = []
        self._wrappers: list[Callable[[Session], AbstractContextManager[object]]] = []
        self._running: _RunningCalls | None = None
        self._draining = False
        self._emptied: anyio.Event | None = None
        self.loop_lag: LoopLag | None = None
        self.router: CallRouter | None = None
        self.join_error: ClusterError | None = None
        self.endpoints: dict[str, Application] = {}

    def __getitem__(self, webrtc_id: str) -> Session:
        return self._sessions[webrtc_id]

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._sessions))

    def __len__(self) -> int:
        return len(self._sessions)

    def values(self) -> ValuesView[Session]:
        """A snapshot: that of `Mapping` looks up each id when it comes to it, and the call may have ended by then."""
        return dict(self._sessions).values()

    def items(self) -> ItemsView[str, Session]:
        """A snapshot, too."""
        return dict(self._sessions).items()

    def __repr__(self) -> str:
        return f"<Calls {list(self._sessions.values())}>"

    def find(self, webrtc_id: str) -> Session:
        """The live call with this id.

        Raises:
            UnknownConnection: No call with this id is live.
        """
        try:
            return self._sessions[webrtc_id]
        except KeyError:
            raise UnknownConnection("no call with this id is live") from None

    async def find_early(self, webrtc_id: str) -> Session:
        """The call with this id, also while the cluster is still asked for the id. A checkpoint.

        Other nodes send requests about the call here from then on, and some are as early as its offer.

        Raises:
            UnknownConnection: No call with this id is live.
        """
        claiming = self._claiming.get(webrtc_id)
        if claiming is None:
            await anyio.lowlevel.checkpoint()
        else:
            await claiming.wait()
        return self.find(webrtc_id)

    def find_resumable(self, webrtc_id: str) -> Session:
        """The live call with this id, for somebody who wants to go on with it.

        Raises:
            CallLost: No call with this id is live.
        """
        session = self._sessions.get(webrtc_id)
        if session is None:
            raise CallLost("this call is over: it was not resumed in time, or has ended; call again")
        return session

    # -- running

    def join(self, cluster: RouterSource) -> None:
        """Have the stream be served by a cluster, unless it was made with one. Before it runs."""
        if self.options.cluster is None:
            self.options = replace(self.options, cluster=cluster)

    @property
    def is_running(self) -> bool:
        """Whether calls are admitted now."""
        return self._running is not None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Serve calls inside this block; see `Stream.running`."""
        token = current_loop_token()
        if self._running is not None:
            if self._running.token is not token:
                raise RuntimeError("this stream is running in another event loop; make one Stream for each server")
            yield
            return
        engine = SharedEngine(self.options.webrtc)
        self._draining = False
        try:
            async with task_group() as tasks, self._joined(tasks):
                self._running = _RunningCalls(token, tasks, engine)
                if self.loop_lag is not None:
                    tasks.start_soon(self.loop_lag.watch, name="loop lag")
                try:
                    yield
                finally:
                    try:
                        if not self._draining:
                            await self.drain(self.options.limits.drain_time)
                    finally:
                        self._running = None
                        await self._close_all()
                        self._leaving = True
                tasks.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise sole_error(group) from None  # tasks in here are supervised: this is what the block itself raised
        finally:
            self._leaving = False
            await engine.aclose()  # after the calls: their goodbyes go through it

    @asynccontextmanager
    async def _joined(self, tasks: anyio.abc.TaskGroup) -> AsyncIterator[None]:
        """Be a node of the cluster, if there is one, until `tasks` are cancelled."""
        if self.options.cluster is None:
            yield
            return
        async with AsyncExitStack() as stack:
            try:
                self.router = await stack.enter_async_context(self.options.cluster.joined(self, tasks))
            except ClusterError as error:
                self.join_error = error
                raise
            try:
                yield
            finally:
                self.router = None
        tasks.cancel_scope.cancel()

    @property
    def is_held_up(self) -> bool:
        """Whether every call is closed, but tasks still run that were started for calls; from any thread.

        Seconds after the stream was closed, these are methods of handlers that refuse to be cancelled.
        """
        return not self._sessions and (self._leaving or bool(self._unfinished))

    @property
    def is_ready(self) -> bool:
        """Whether the stream is running and is not draining."""
        return self._running is not None and not self._draining

    async def drain(self, seconds: float) -> None:
        """Admit nobody from now on, and let the live calls go on for `seconds`; see `Stream.drain`. A checkpoint."""
        self._draining = True
        if self._sessions and seconds > 0:
            logger.info("draining: %d calls may go on for %g s", len(self._sessions), seconds)
        try:
            await anyio.lowlevel.checkpoint()
            await self._wait_empty(seconds)
        finally:
            await self._close_all()

    async def _close_all(self) -> None:
        for session in list(self._sessions.values()):
            session.close("the server is shutting down")
        with anyio.CancelScope(shield=True):
            await self._wait_empty(CLOSING)

    async def _wait_empty(self, seconds: float) -> None:
        """Wait until no call is left, at most `seconds`."""
        if self._sessions:
            emptied = self._emptied = self._emptied or anyio.Event()
            with anyio.move_on_after(seconds):
                await emptied.wait()

    def _require_running(self) -> _RunningCalls:
        if self._running is None:
            raise NotServing(
                "this stream is not running: the server must run the application's lifespan, "
                "or the application must enter `async with stream.running():`; an application that is mounted in "
                "another one has no lifespan, so mount the stream into the outer one"
            )
        return self._running

    def check_admitting(self) -> None:
        """Check that new calls are taken.

        Raises:
            NotServing: The stream is not running, or is draining.
        """
        self._require_running()
        if self._draining:
            raise NotServing("this server takes no new calls, since it is about to stop; try again elsewhere or later")

    async def engine(self) -> WebRTCEngine:
        """The WebRTC engine; the first call opens it. A checkpoint.

        Raises:
            NotServing: The stream is not running.
        """
        return await self._require_running().engine.get()

    # -- admission

    def count_request(self, host: str | None) -> None:
        """Count one offer, or one question for ICE servers, of the address `host`.

        Raises:
            TooManyRequests: The address asks too often.
        """
        self._admission.count(host)

    async def authorize(self, caller: CallRequest) -> Any:
        """Ask the `authorize` hook. `admit` does so for a new call; routes do so for requests about a live one.
        A checkpoint.

        Raises:
            NotAuthorized: The hook refused.
            ApplicationFailed: The hook raised something else.
        """
        return await self._admission.authorize(caller)

    async def authorize_operator(self, caller: CallRequest) -> Any:
        """Ask the `authorize_operator` hook, for a request that sees or ends the calls of others. A checkpoint.

        Raises:
            NotAuthorized: The hook refused.
            ApplicationFailed: The hook raised something else.
        """
        return await self._admission.authorize_operator(caller)

    @asynccontextmanager
    async def admit(self, caller: CallRequest, kind: str, webrtc_id: str | None = None) -> AsyncIterator[Session]:
        """Let a call in: authorize → slot → copy of the handler. Open its transport inside the block.

        Then either `start` the session, and leave the block while it goes on, or `run` it inside the block. If you
        leave the block in any other way, it gives the slot back and calls the handler's `shutdown()`.

        Args:
            caller: The request for the call.
            kind: The kind of transport.
            webrtc_id: The id that the caller chose. If it is None, the server makes one that cannot be guessed.

        Raises:
            NotServing: The stream is not running, or is draining.
            NotAuthorized: `authorize` refused.
            ConnectionExists: A live call has this id.
            TooManyConnections: No slot is free, or too few worker threads or file descriptors are.
            ApplicationFailed: `authorize` or `copy()` raised.
        """
        self.check_admitting()
        principal = await self.authorize(caller)
        self.check_admitting()
        if self.router is None:
            session = self._take_slot(caller, kind, webrtc_id or secrets.token_urlsafe(18), principal)
        else:
            session = await self._claim_slot(self.router, caller, kind, webrtc_id, principal)
        facts_before = log_facts.get()
        log_facts.set(session.log_facts)
        try:
            yield session
        except BaseException:
            if session.ticket is None or session.connection is None:  # a call that can be resumed outlives its request
                session.close("the request that opened the call failed")
            raise
        finally:
            if session.connection is None:
                await self._drop(session)
            log_facts.set(facts_before)

    def _take_slot(self, caller: CallRequest, kind: str, webrtc_id: str, principal: Any) -> Session:
        """Do everything without an `await` in between, so that two calls never get the same slot or id."""
        self._check_free(webrtc_id)
        if not has_descriptors():
            raise NoDescriptors(len(self._sessions))
        threads = threads_needed(self.options.handler)
        self.threads.reserve(threads)
        try:
            handler = self._copy_handler()
        except BaseException:
            self.threads.release(threads)
            raise
        options = self.options
        settings = ConnectionSettings(
            options.limits.time_limit, options.timeouts, options.debug, self.threads, options.resume
        )
        session = Session(webrtc_id, kind, caller, principal, handler, settings, next(self._numbers))
        self._sessions[webrtc_id] = session
        return session

    def _check_free(self, webrtc_id: str) -> None:
        """Check that an id and a slot are free here."""
        limit = self.options.limits.concurrency_limit
        assert not isinstance(limit, str)  # Limits has made a number of "default"  # noqa: S101
        if webrtc_id in self._sessions:
            raise ConnectionExists
        if limit is not None and len(self._sessions) >= limit:
            raise TooManyConnections(limit)

    async def _claim_slot(
        self, router: CallRouter, caller: CallRequest, kind: str, webrtc_id: str | None, principal: Any
    ) -> Session:
        """Take a slot here, with the id and the slot of the whole cluster that it needs."""
        webrtc_id = webrtc_id or router.new_id()
        self._check_free(webrtc_id)  # if it is not free here, no other node need be asked
        if webrtc_id in self._claiming:
            raise ConnectionExists
        claiming = self._claiming[webrtc_id] = anyio.Event()
        try:
            await router.claim(webrtc_id)
            try:
                self.check_admitting()
                return self._take_slot(caller, kind, webrtc_id, principal)
            except BaseException:
                router.release(webrtc_id)
                raise
        finally:
            del self._claiming[webrtc_id]
            claiming.set()

    def _copy_handler(self) -> StreamHandlerBase:
        handler = self.options.handler
        try:
            return copy_handler(handler)
        except BaseException as error:
            if is_for_the_process(error):
                raise
            # copy() is the application's: if it fails, this call is refused and no other is disturbed.
            logger.exception("%s.copy failed: a call was refused", type(handler).__qualname__)
            raise ApplicationFailed("the server could not make a handler for this call") from error

    def _release(self, session: Session) -> None:
        """Give back what a session held. The second call for the same session does nothing."""
        if self._sessions.get(session.webrtc_id) is not session:
            return
        del self._sessions[session.webrtc_id]
        self.threads.release(threads_needed(self.options.handler))
        session.release()
        if self.router is not None:
            self.router.release(session.webrtc_id)
        if self._emptied is not None and not self._sessions:
            self._emptied.set()
            self._emptied = None

    async def _drop(self, session: Session) -> None:
        """Give back a session that was never served; its handler was copied, so it is shut down."""
        try:
            owner = None if self._running is None else self._running.tasks
            await shut_down(session.handler, self.options.timeouts.shutdown, workers=self.threads, owner=owner)
        except BaseException as error:
            if is_for_the_process(error):
                raise
            # Supervises: there is no caller yet who could be told.
            logger.exception("%s.shutdown raised after a call was refused", type(session.handler).__qualname__)
        finally:
            self._release(session)

    # -- serving

    def start(self, session: Session, transport: Transport, custom: Mapping[str, str] = _NOTHING) -> None:
        """Serve `session` over `transport` in the stream's own task group, from now until its end."""
        running = self._require_running()
        session.prepare(transport, custom)
        running.tasks.start_soon(self._serve, session)

    async def run(self, session: Session, transport: Transport, custom: Mapping[str, str] = _NOTHING) -> End:
        """Serve `session` over `transport` here, until its end; returns how it ended. A checkpoint.

        An error of the handler is logged, and is in `End.error`. Cancelling this ends the call.
        """
        session.prepare(transport, custom)
        return await self._serve(session)

    async def _serve(self, session: Session) -> End:
        self._unfinished.add(session)
        try:
            return await self._serve_and_tell(session)
        finally:
            self._unfinished.discard(session)

    async def _serve_and_tell(self, session: Session) -> End:
        try:
            if self.options.record is not None and session.connection is not None:
                with suppress(RuntimeError):  # it has ended already; `close` may come from any thread
                    session.connection.record(self.options.record)
            with self._wrapped(session):
                return await session.serve(partial(self._closed, session))
        finally:
            self._release(session)
            await self._tell_of_recordings(session)
            await self._tell_of_end(session)

    def wrap(self, wrapper: Callable[[Session], AbstractContextManager[object]]) -> None:
        """Have each call run inside what `wrapper` returns for its session, in the call's own task: for traces.

        Context variables that it sets are seen by everything in the call.
        """
        self._wrappers.append(wrapper)

    @contextmanager
    def _wrapped(self, session: Session) -> Iterator[None]:
        """Be inside all wrappers."""
        around = ExitStack()
        for wrapper in self._wrappers:
            with _watching(session):
                around.enter_context(wrapper(session))
        try:
            yield
        finally:
            with _watching(session):
                around.close()

    def watch_loop(self, observer: Callable[[float], object] | None = None) -> None:
        """Measure how late the event loop is, from when the stream runs next: for metrics.

        Args:
            observer: Called in the loop with each lateness, in seconds.
        """
        if self.loop_lag is None:
            self.loop_lag = LoopLag()
        if observer is not None:
            self.loop_lag.observe(observer)

    def watch(self, watcher: Callable[[Session], object]) -> None:
        """Have `watcher` called with each session whose call has ended, while it still holds its slot.

        It is called in the stream's event loop, and must return at once: it is for counting.
        """
        self._watchers.append(watcher)

    def _closed(self, session: Session) -> None:
        """Everything of a call is closed: count it, and give back what it held."""
        try:
            for watcher in self._watchers:
                watcher(session)
        finally:
            self._release(session)

    async def _tell_of_recordings(self, session: Session) -> None:
        """Call the application's `on_recorded` for each file."""
        hook, connection = self.options.on_recorded, session.connection
        if hook is not None and connection is not None:
            for recording in connection.recordings:
                if recording.made:
                    await self._tell("on_recorded", session, hook, recording.path, connection.context)

    async def _tell_of_end(self, session: Session) -> None:
        """Call the application's `on_call_end`."""
        hook, connection = self.options.on_call_end, session.connection
        if hook is not None and connection is not None and connection.end is not None:
            await self._tell("on_call_end", session, hook, session, connection.end, connection.statistics())

    async def _tell(self, name: str, session: Session, hook: Callable[..., Any], *args: Any) -> None:
        """Call a function of the application after a call, also if the call or the server was cancelled."""
        seconds = self.options.timeouts.shutdown
        with anyio.CancelScope(shield=True), anyio.move_on_after(seconds) as limit:
            try:
                await ask(hook, *args, abandon=True)
            except BaseException as error:
                if is_for_the_process(error):
                    raise
                # The application's, like `authorize`: the call is over, and no other is disturbed.
                logger.exception("%s raised after %s call %s", name, session.kind, session.name)
        if limit.cancelled_caught:
            logger.error("%s did not return within %g s; the server does not wait for it", name, seconds)

    async def rename_everywhere(self, session: Session, webrtc_id: str) -> None:
        """`rename` that also checks the other nodes of the cluster. A checkpoint.

        Raises:
            ConnectionExists: A live call has this id.
        """
        if self.router is None:
            self.rename(session, webrtc_id)
            await anyio.lowlevel.checkpoint()
            return
        if webrtc_id in self._sessions:
            raise ConnectionExists
        await self.router.rename(session.webrtc_id, webrtc_id)
        try:
            self.rename(session, webrtc_id)
        except BaseException:
            self.router.release(webrtc_id)
            raise

    def rename(self, session: Session, webrtc_id: str) -> None:
        """Give a session that is not served yet the id that its caller has sent only now.

        Raises:
            ConnectionExists: A live call has this id.
        """
        if session.connection is not None:
            raise LocalProtocolError("a session that is being served keeps its id")
        if self._sessions.get(webrtc_id, session) is not session:
            raise ConnectionExists
        del self._sessions[session.webrtc_id]
        session.webrtc_id = webrtc_id
        session.log_facts.call = session.name
        self._sessions[webrtc_id] = session

    def events(self, session: Session) -> OutputEvents:
        """What readers of the outputs route are sent of `session`; made for the first reader, shared by all."""
        if session.events is None:
            session.events = OutputEvents(
                session.outputs.read(),
                self.options.additional_outputs_handler,
                f"{session.kind} call {session.name}",
            )
            self._require_running().tasks.start_soon(session.events.run)
        return session.events


@contextmanager
def _watching(session: Session) -> Iterator[None]:
    """What only watches a call costs no call, and not the server, if it raises."""
    try:
        yield
    except BaseException as error:
        if is_for_the_process(error):
            raise
        # The application's, such as a span processor of its own.
        logger.exception("what was to watch %s call %s raised; the call goes on", session.kind, session.name)
