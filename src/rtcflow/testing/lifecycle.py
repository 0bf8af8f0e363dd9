"""Drive a handler through any legal life, on a live connection, in virtual time.

    class MyBotLife(HandlerLifecycle):
        def make_handler(self):
            return MyBot()

    TestMyBot = MyBotLife.TestCase

pytest and unittest then run it. Hypothesis makes up calls (frames, messages, arguments, barge-in, slowness, errors, and
every kind of end at any point), and the invariants below are checked after each step. A failure is shrunk to a short
story and printed as a test that can be pasted.

Strategy: Hypothesis' rules are sync, so the machine holds a portal to a loop whose time is virtual and manual: nothing
moves but by a rule. A `Stream` with one slot serves the calls, as in production; the handler is a copy of yours, with a
journal around its methods (`_probe`).
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import wraps
from typing import Any, ClassVar

import anyio
import av
import numpy as np
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from .._bridge import Event
from ..abc import MediaOffer
from ..connection import Connection
from ..ends import End, EndCause, Timeouts
from ..exceptions import ApplicationFailed, NegotiationError, NotAuthorized, TooManyConnections
from ..flow import FlowStatistics
from ..frames import AudioFormat, AudioFrame
from ..handlers.base import AsyncStreamHandler, StreamHandlerBase
from ..handlers.checking import check_handler, has_own_method, has_video
from ..outputs import AdditionalOutputs, CloseStream
from ..player import LEAD
from ..session import Caller as Peer
from ..session import Session
from ..stream import Stream
from ..threads import INTERRUPT_GRACE, SETTLE
from ..transports.memory import MemoryTransport, memory_pair
from . import strategies as rtc
from ._probe import Cause, Fault, InjectedError, Journal, probe_copies
from .clocks import BackendName, VirtualTime, virtual_backend, virtual_time
from .conformance import refuse_shared_state

__all__ = ["HandlerLifecycle", "InjectedError"]

SECONDS = (0.02, 0.01, 0.1, 0.5, 1.0, 6.0)
"""How much time a step lets pass: a frame, half of one, and what handlers and deadlines notice."""

EMITS = (
    "none",
    "audio",
    "long audio",
    "stereo audio",
    "float audio",
    "outputs",
    "audio and outputs",
    "close",
    "audio and close",
)

POOLS = ("Trio thread", "AnyIO worker", "asyncio_", "ThreadPoolExecutor", "rtcflow life")
"""Names of threads that pools keep, idle, by design."""

TIMEOUTS = Timeouts()

LONGEST_END = TIMEOUTS.shutdown + TIMEOUTS.grace + 2 * TIMEOUTS.goodbye + SETTLE + INTERRUPT_GRACE
"""Seconds within which an end is over, beside what is queued to be played."""


TIME_LIMITS = st.sampled_from((None, 0.5, 30.0))
ALREADY = st.sampled_from((None, "peer left", "closed"))


def _while_live(step: Callable[..., None]) -> Callable[..., None]:
    """Have a step do nothing while no call goes on.

    Not a precondition: whether a sync handler's call goes on is decided by threads, and what Hypothesis may choose from
    must not depend on them.
    """

    @wraps(step)
    def rule_body(self: HandlerLifecycle, **arguments: Any) -> None:
        if self._live:
            step(self, **arguments)

    return rule_body


class HandlerLifecycle(RuleBasedStateMachine):
    """A Hypothesis state machine that plays the lives your handler may have; override `make_handler`.

    Checked for you: `shutdown` is called exactly once; nothing is called before the context is set, or after `shutdown`
    began; each method runs one call at a time; frames come in order; every queue keeps its bound, and the figures add
    up; barge-in leaves nothing queued; every connection has one reason for its end, the one that came first, and ends
    in time; nothing is sent after it; no task and no thread is left, and the slot is free.

    Further rules and invariants are Hypothesis' own: `@rule()` and `@invariant()` on methods of your subclass;
    `handler` is the copy that serves the call that goes on, `connection` its connection.

    Attributes:
        backend: ``"trio"`` or ``"asyncio"``.
        expected_errors: Exceptions that your handler may raise by itself; others fail the test.
        texts: A strategy for messages of the application's own.
        arguments: A strategy for what `set_args` is given.
    """

    backend: ClassVar[BackendName] = "trio"
    expected_errors: ClassVar[tuple[type[BaseException], ...]] = ()
    texts: ClassVar[st.SearchStrategy[str]] = rtc.messages()
    arguments: ClassVar[st.SearchStrategy[list[Any]]] = rtc.args()

    def make_handler(self) -> StreamHandlerBase:
        """Make the handler that you would give to a `Stream`: a new one for each run."""
        raise NotImplementedError(
            f"{type(self).__name__} does not say what to test; write:\n"
            "    def make_handler(self):\n"
            "        return MyHandler()"
        )

    def __init__(self) -> None:
        super().__init__()
        prototype = self.make_handler()
        check_handler(prototype)
        refuse_shared_state(prototype, self.make_handler(), "make_handler()")
        self.step = 0
        self.call: _Call | None = None
        self._journals: list[Journal] = []
        self._copy_fails = False
        self._authorized = True
        name, options = virtual_backend(self.backend, manual=True)
        self._room: AbstractContextManager[BlockingPortal] = start_blocking_portal(name, options, name="rtcflow life")
        self.portal = self._room.__enter__()
        self.clock: VirtualTime = self.portal.call(_virtual_time)
        probe_copies(prototype, self._new_journal)
        self._prototype = prototype
        self._threads = _threads()
        self._serving: _Serving | None = None
        self._serve()
        self._idle_tasks: int = self.portal.call(_count_tasks)

    # -- what happens

    @property
    def handler(self) -> StreamHandlerBase:
        """The copy that serves the present call."""
        assert self.call is not None
        return self.call.session.handler

    @property
    def connection(self) -> Connection:
        """The present call's connection."""
        assert self.call is not None
        assert self.call.session.connection is not None
        return self.call.session.connection

    @initialize(
        time_limit=TIME_LIMITS,
        messages=st.sampled_from((True, False)),
        phone=st.sampled_from((False, True)),
        already=ALREADY,
    )
    def the_first_call_begins(
        self, *, time_limit: float | None = None, messages: bool = True, phone: bool = False, already: str | None = None
    ) -> None:
        """As `a_call_begins`."""
        self.a_call_begins(time_limit=time_limit, messages=messages, phone=phone, already=already)

    @rule(
        time_limit=TIME_LIMITS,
        messages=st.sampled_from((True, False)),
        phone=st.sampled_from((False, True)),
        already=ALREADY,
        copy_fails_first=st.sampled_from((False, True)),
    )
    def a_call_begins(
        self,
        *,
        time_limit: float | None = None,
        messages: bool = True,
        phone: bool = False,
        already: str | None = None,
        copy_fails_first: bool = False,
    ) -> None:
        """Somebody calls; perhaps he is gone (`already`) before the connection is up.

        With `copy_fails_first` somebody else had called, and was refused because `copy()` raised. Nothing happens while
        another call goes on; one that is ending is given the time it needs.
        """
        if self._live:
            return
        self._finish_call()
        self._begin_step()
        if self._serving is None or self._serving.time_limit != time_limit:
            self._stop_serving()
            self._serve(time_limit)
        assert self._serving is not None
        if copy_fails_first:
            self._copy_fails = True
            try:
                self._refuse(ApplicationFailed, "copy fails")
            finally:
                self._copy_fails = False
        video = has_video(self._prototype)
        offer = MediaOffer(receive_video=video, send_video=video, messages=messages and not phone)
        self.call = call = _Call(self._prototype, self.clock, phone=phone)
        task = self.portal.start_task_soon(call.run, self._serving.stream, offer, already, self._newest_journal)
        self._settle()
        if task.done():
            task.result()

    @rule(n=st.integers(1, 60))
    @_while_live
    def frames_arrive(self, n: int = 1) -> None:
        """`n` frames of the caller's audio arrive at this moment."""
        self._begin_step()
        assert self.call is not None
        self.portal.call(self.call.hear, n)
        self._settle()

    @precondition(lambda self: has_video(self._prototype))
    @rule()
    @_while_live
    def a_picture_arrives(self) -> None:
        """One frame of the caller's video arrives."""
        self._begin_step()
        assert self.call is not None
        self.portal.call(self.call.see)
        self._settle()

    @rule(seconds=st.sampled_from(SECONDS))
    def time_passes(self, seconds: float = 0.02) -> None:
        """Time passes, and what is due happens."""
        self._begin_step()
        self._settle(seconds)

    @rule(text=st.runner().flatmap(lambda self: self.texts))
    @_while_live
    def a_message_comes(self, text: str = "") -> None:
        """The caller sends a text on the data channel."""
        self._begin_step()
        assert self.call is not None
        if self.connection.transport.offer.messages:
            self.portal.call(self.call.theirs.send_message_nowait, text)
        self._settle()

    @rule(args=st.runner().flatmap(lambda self: self.arguments))
    @_while_live
    def args_are_set(self, args: list[Any]) -> None:
        """The page posts arguments."""
        self._begin_step()
        assert self.call is not None
        self.call.session.set_input(*args)
        self._settle()

    @rule()
    @_while_live
    def barge_in(self) -> None:
        """The caller interrupts: `clear_queue` is called, in the middle of whatever is going on."""
        self._begin_step()
        self.portal.call(self.call_clear_queue)
        self._settle()

    def call_clear_queue(self) -> None:
        """What `barge_in` does, in the loop."""
        connection = self.connection
        if connection.end is None and connection.statistics().setup is not None:
            waiting = connection.transport.audio_out.queued_seconds
            dropped = self.handler.clear_queue()
            if isinstance(self._prototype, AsyncStreamHandler):  # a worker thread may put more at the same time
                left = connection.transport.audio_out.queued_seconds
                assert left == 0, f"clear_queue drops everything queued: {left:g} s were left"
                told = f"clear_queue says what it dropped: {dropped:g} s, not {waiting:g} s"
                assert abs(dropped - waiting) < 1e-9, told

    @rule(method=st.sampled_from(("receive", "emit", "on_message", "video_receive")), seconds=st.sampled_from(SECONDS))
    @_while_live
    def handler_is_slow(self, method: str = "receive", seconds: float = 0.5) -> None:
        """The next call of `method` takes longer."""
        self._begin_step()
        self._arm(method, Fault(delay=seconds))

    @rule(method=st.sampled_from(("receive", "emit", "on_message", "shutdown", "video_receive", "video_emit")))
    @_while_live
    def handler_raises(self, method: str = "receive") -> None:
        """The next call of `method` raises."""
        self._begin_step()
        self._arm(method, Fault(error=InjectedError(f"{method} was told to raise")))

    @rule(what=st.one_of(st.sampled_from(EMITS), st.sampled_from(rtc.JUNK)))
    @_while_live
    def emit_returns(self, what: str = "audio") -> None:
        """The next call of `emit` returns this."""
        self._begin_step()
        self._arm("emit", Fault(items=(_item(what, self.handler.output_sample_rate),)))

    @rule()
    @_while_live
    def peer_leaves(self) -> None:
        """The caller hangs up."""
        self._ends(EndCause.PEER_LEFT, "the peer left")
        assert self.call is not None
        self.portal.call(self.call.theirs.aclose)
        self._settle()

    @rule()
    @_while_live
    def link_breaks(self) -> None:
        """The network fails."""
        self._ends(EndCause.LINK_BROKE, "the link broke")
        assert self.call is not None
        self.portal.call(self.call.ours.break_link, OSError("the network is gone"))
        self._settle()

    @rule()
    @_while_live
    def server_closes(self) -> None:
        """The application closes the connection, from another thread."""
        self._ends(EndCause.CLOSED, "the server closed it")
        assert self.call is not None
        self.call.session.close("enough")
        self._settle()

    @rule()
    @_while_live
    def server_shuts_down(self) -> None:
        """The whole stream is shut down."""
        self._ends(EndCause.CLOSED, "the server shut down")
        assert self._serving is not None
        self.portal.call(self._serving.stop.set)
        self._settle()

    @rule()
    @_while_live
    def call_is_cancelled(self) -> None:
        """Whoever runs the connection cancels it."""
        self._ends(EndCause.CANCELLED, "it was cancelled")
        assert self.call is not None
        self.portal.call(self.call.scope.cancel)
        self._settle()

    @rule(why=st.sampled_from(("the line is busy", "not authorized")))
    @_while_live
    def somebody_is_refused(self, why: str = "the line is busy") -> None:
        """A second caller is refused; nothing is disturbed, and no slot is lost."""
        if self._serving is None or self._serving.stop.is_set():
            return
        self._begin_step()
        self._authorized = why != "not authorized"
        try:
            self._refuse(NotAuthorized if why == "not authorized" else TooManyConnections, why)
        finally:
            self._authorized = True
        self._settle()

    def _refuse(self, expected: type[NegotiationError], why: str) -> None:
        assert self._serving is not None
        stream = self._serving.stream
        before = stream.admitted
        refusal = self.portal.call(_refused, stream)
        assert type(refusal) is expected, f"a caller is refused because {why}: {refusal!r}"
        assert stream.admitted == before, f"a refusal gives the slot back: {stream.admitted - before} more are taken"

    # -- what always holds

    def check(self) -> None:
        """Hold what has happened so far against every promise; called after each step."""
        # No `@invariant()` of Hypothesis, which would print each of them after every line of a story.
        if self.call is not None and not hasattr(self.call, "session"):
            return
        self.promises_are_kept()
        self.figures_add_up()
        self.one_reason_for_the_end()
        self.an_end_is_soon_over()

    def promises_are_kept(self) -> None:
        """Once, in order, one at a time, in a context, not after shutdown (see `_probe.Journal`)."""
        for journal in self._journals:
            assert not journal.broken, journal.broken[0]

    def figures_add_up(self) -> None:
        """Each queue keeps its bound, and nothing that went in is unaccounted for."""
        if self.call is None:
            return
        transport = self.connection.transport
        for name in ("audio_in", "video_in", "video_out", "messages_in"):
            _check_flow(name, getattr(transport, name).statistics())
        out = transport.audio_out.statistics()
        total = out.played + out.dropped + out.waiting
        assert out.queued == total, f"audio_out: queued is played + dropped + waiting: {out}"
        most = LEAD + self.call.journal.longest_item + 0.04
        waiting = transport.audio_out.queued_seconds
        assert waiting <= most, f"audio_out holds at most {most:g} s of what this handler emits: {waiting:g} s wait"
        figures, begun = self.connection.statistics(), self.call.journal.began["receive"]
        assert 0 <= figures.received - begun <= 1, f"statistics count each receive: {figures.received}, called {begun}"

    def one_reason_for_the_end(self) -> None:
        """The end that is recorded is the one that came first, and does not change."""
        call = self.call
        if call is None or self.connection.end is None:
            return
        end = self.connection.end
        call.end = call.end or end
        assert call.end is end, f"a connection has one end: {call.end} became {end}"
        first = call.journal.first_causes()
        if end.cause is EndCause.HANDLER_RAISED and not any(cause.injected for cause in first):
            for error in _leaves(end.error):
                if not isinstance(error, (InjectedError, *self.expected_errors)):
                    raise AssertionError(f"the handler raised by itself: {error!r}") from error
        words = " or ".join(f"{cause.cause.name} ({cause.why})" for cause in first) or "nothing did"
        told = f"it ended as {end.cause.name}, but what ended it: {words}"
        assert end.cause in {cause.cause for cause in first}, told

    def an_end_is_soon_over(self) -> None:
        """Closing takes as long as `Timeouts` say at most, and leaves nothing behind."""
        call = self.call
        if call is None:
            return
        if call.over:
            self._check_nothing_left(call)
            self.call = None
        elif self.connection.end is not None:
            call.ended_at = self.clock.now if call.ended_at is None else call.ended_at
            most = LONGEST_END + call.journal.longest_item + LEAD + 0.1
            took = self.clock.now - call.ended_at
            assert took <= most, f"an end is over within {most:g} s: it has taken {took:g} s"

    def teardown(self) -> None:
        """The last caller hangs up, everything is closed, and nothing is left."""
        try:
            if self.call is not None:
                self.peer_leaves()
                self._finish_call()
            self.promises_are_kept()
        finally:
            self._close()

    # -- parts

    def _finish_call(self) -> None:
        """Give a call that is ending the time it needs."""
        for _ in range(60):
            if self.call is None:
                return
            self._settle(0.5)
        raise AssertionError("a call is over when its time is up: this one goes on")

    @property
    def _live(self) -> bool:
        call = self.call
        return call is not None and call.session.connection is not None and call.session.connection.end is None

    def _begin_step(self) -> None:
        self.step += 1
        for journal in self._journals:
            journal.step = self.step

    def _ends(self, cause: EndCause, why: str) -> None:
        self._begin_step()
        assert self.call is not None
        self.call.journal.ends(cause, why)

    def _arm(self, method: str, fault: Fault) -> None:
        if has_own_method(self.handler, method):
            assert self.call is not None
            self.call.journal.faults[method].append(fault)

    def _settle(self, seconds: float = 0.0) -> None:
        """Let time pass, and everything happen that can; then look whether all is well."""
        self.portal.call(self.clock.advance, seconds)
        if self._serving is not None and self._serving.over:
            self._serving = None
        self.check()

    def _new_journal(self) -> Journal:
        if self._copy_fails:
            raise InjectedError("copy was told to raise")
        journal = Journal(lambda: self.clock.now, step=self.step)
        self._journals.append(journal)
        return journal

    def _newest_journal(self) -> Journal:
        return self._journals[-1]

    async def _authorize(self, _: Peer) -> bool:
        return self._authorized

    def _serve(self, time_limit: float | None = None) -> None:
        stream = Stream(
            self._prototype,
            modality="audio-video" if has_video(self._prototype) else "audio",
            concurrency_limit=1,
            time_limit=time_limit,
            authorize=self._authorize,
            timeouts=TIMEOUTS,
        )
        self._serving = _Serving(stream, time_limit)
        self.portal.start_task_soon(self._serving.run)
        self._settle()

    def _stop_serving(self) -> None:
        if self._serving is not None:
            self.portal.call(self._serving.stop.set)
            for _ in range(60):
                self._settle(0.0 if self.call is None else 0.25)
                if self._serving is None:
                    return
            raise AssertionError("a stream ends when it is told to: this one goes on")

    def _check_nothing_left(self, call: _Call) -> None:
        journal = call.journal
        times = journal.began["shutdown"]
        assert times == 1, f"shutdown is called exactly once: it was called {times} times"
        assert not journal.running, f"nothing runs after the end: {', '.join(journal.running)} does"
        after = [at for at in call.heard if call.over_at is not None and at > call.over_at + 1e-9]
        assert not after, f"nothing is sent after the end: {len(after)} frames were"
        assert self.connection.end is not None, "a call that is over has a reason"
        if self._serving is not None:
            stream = self._serving.stream
            assert stream.admitted == 0, f"the slot is free after the end: {stream.admitted} are taken"
            threads = stream._threads.statistics()
            assert not threads.reserved, f"threads are given back: {threads.reserved} are reserved"
            assert not threads.abandoned, "every worker thread comes back: one was abandoned"
            tasks = self.portal.call(_count_tasks)
            assert tasks == self._idle_tasks, f"no task is left: there are {tasks - self._idle_tasks} more than before"
        assert not (calls := self.clock.workers.calls()), f"no thread is left in the handler: {calls}"
        deadline = time.monotonic() + 0.5
        while left := _threads() - self._threads:
            assert time.monotonic() < deadline, f"no thread is left: {sorted(thread.name for thread in left)}"
            time.sleep(0.005)

    def _close(self) -> None:
        # After a failed check things may be left that would never end by themselves: they are cancelled.
        self.clock.workers.wake(math.inf)
        self.portal.call(self.clock.run_free)
        self.portal.call(self.portal.stop, True)
        self._room.__exit__(None, None, None)


class _Serving:
    """A stream that runs in the machine's room until it is told to stop."""

    def __init__(self, stream: Stream, time_limit: float | None) -> None:
        self.stream = stream
        self.time_limit = time_limit
        self.stop = Event()
        self.over = False

    async def run(self) -> None:
        try:
            async with self.stream.running():
                await self.stop.wait()
        finally:
            self.over = True


class _Call:
    """One call, seen from the caller's side."""

    ours: MemoryTransport
    theirs: MemoryTransport
    session: Session
    journal: Journal
    scope: anyio.CancelScope

    def __init__(self, prototype: StreamHandlerBase, clock: VirtualTime, *, phone: bool) -> None:
        self._phone = phone
        self._rate = prototype.input_sample_rate
        self._speaks = AudioFormat(prototype.output_sample_rate)
        self._clock = clock
        self.heard: list[float] = []
        self.end: End | None = None
        self.ended_at: float | None = None
        self.over_at: float | None = None
        self.over = False
        self._n = 0

    async def run(self, stream: Stream, offer: MediaOffer, already: str | None, journal: Callable[[], Journal]) -> None:
        try:
            async with (
                memory_pair(offer, phone=self._phone) as (self.ours, self.theirs),
                anyio.create_task_group() as tasks,
            ):
                self.theirs.start(self._speaks, AudioFormat(self._rate))
                tasks.start_soon(self._listen)
                tasks.start_soon(self._read)
                async with stream.admit(Peer(), "memory") as self.session:
                    self.journal = journal()
                    self.journal.context_id = self.session.webrtc_id
                    if stream._settings.time_limit is not None:
                        self._limit(stream._settings.time_limit)
                    if already == "peer left":
                        self.journal.ends(EndCause.NOT_CONNECTED, "the peer was gone already")
                        await self.theirs.aclose()
                        await self.ours.wait_ended()
                    elif already == "closed":
                        self.journal.ends(EndCause.CLOSED, "the server closed it before it began")
                        self.session.close("enough")
                    with anyio.CancelScope() as self.scope:
                        await stream.run(self.session, self.ours)
                self.over_at = self._clock.now
                tasks.cancel_scope.cancel()
        finally:
            self.over = True

    def _limit(self, seconds: float) -> None:
        cause = Cause(self._clock.now + seconds, -1, EndCause.TIME_LIMIT, "the time limit was reached")
        self.journal.causes.append(cause)

    def hear(self, n: int) -> None:
        """`n` frames arrive now, numbered by their samples."""
        size = self._rate // 50
        for _ in range(n):
            self._n += 1
            frame = AudioFrame(np.full((1, size), min(self._n, 32767), np.int16), self._rate, self._n * size)
            self.ours.audio_in.put_nowait(frame)

    def see(self) -> None:
        """A grey picture arrives."""
        picture = np.full((16, 16, 3), 128, np.uint8)
        self.ours.video_in.put_nowait(av.VideoFrame.from_ndarray(picture, format="bgr24"))

    async def _listen(self) -> None:
        try:
            while True:
                await self.theirs.audio_in.take()
                self.heard.append(self._clock.now)
        except (anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError):
            return

    async def _read(self) -> None:
        try:
            while True:
                await self.theirs.messages_in.take()
        except (anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError):
            return


async def _virtual_time() -> VirtualTime:
    return virtual_time()


async def _count_tasks() -> int:
    return len(anyio.get_running_tasks())


async def _refused(stream: Stream) -> BaseException | None:
    try:
        async with stream.admit(Peer(), "memory"):
            return None
    except NegotiationError as error:
        return error


def _threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if not thread.name.startswith(POOLS)}


def _leaves(error: BaseException | None) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    elif error is not None:
        yield error


def _check_flow(name: str, figures: FlowStatistics) -> None:
    assert figures.most_waiting <= figures.bound, f"{name} holds at most {figures.bound}: {figures.most_waiting} waited"
    assert figures.waiting <= figures.bound, f"{name} holds at most {figures.bound}: {figures.waiting} wait"
    total = figures.taken + figures.dropped + figures.waiting
    assert figures.put == total, f"{name}: put is taken + dropped + waiting: {figures}"


def _item(what: str, rate: int) -> Any:
    """What `emit_returns` has `emit` return."""
    if what in rtc.JUNK:
        return rtc.make_junk(what)
    audio = (rate, np.full((1, rate // 50), 1000, np.int16))
    return {
        "none": None,
        "audio": audio,
        "long audio": (rate, np.full((1, 2 * rate), 1000, np.int16)),
        "stereo audio": (48000, np.full((2, 960), 1000, np.int16)),
        "float audio": (16000, np.full(777, 0.5, np.float32)),
        "outputs": AdditionalOutputs("a word"),
        "audio and outputs": (audio, AdditionalOutputs("a word")),
        "close": CloseStream("that was all"),
        "audio and close": (audio, CloseStream("that was all")),
    }[what]
