"""A stream: one handler, offered to many callers. Admission, limits, the live connections, and their end.

Every caller, on every transport, comes in through one door (`Stream.admit`), in this order: authorize → slot → copy of
the handler → transport. Whatever fails, or is cancelled, gives back what was taken before it.
"""

from __future__ import annotations

import enum
import logging
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

import anyio

from ._core.bridge import current_loop_token
from ._core.fanout import Reader
from ._core.guard import is_cancellation
from ._core.hooks import ask
from ._core.threads import WorkerThreads
from .abc import Transport
from .connection.connection import shut_down
from .ends import End, Timeouts, sole_error
from .exceptions import (
    ApplicationFailed,
    ConnectionExists,
    HandlerError,
    LocalProtocolError,
    NegotiationError,
    NotAuthorized,
    NotServing,
    TooManyConnections,
    TooManyRequests,
    UnknownConnection,
)
from .handlers.base import StreamHandlerBase
from .handlers.checking import copy_handler, has_video
from .handlers.functions import VideoStreamHandler, handler_from, is_video_function
from .media.playout import Latency
from .outputs import AdditionalOutputs
from .protocol.ice import read_rtc_configuration
from .protocol.origins import read_allow_list
from .protocol.rates import AddressRate
from .serving.engine import EngineRoom, Room
from .serving.form import arguments_of, read_arguments, read_settings
from .serving.outputs_board import Board, Making
from .serving.session import Caller, ConnectionSettings, Session, threads_needed

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from .transports.line_socket import LineLimits
    from .transports.telephone import TelephoneConfig
    from .transports.webrtc import WebRTCConfig, WebRTCTransport

logger = logging.getLogger(__name__)

CLOSING: Final = 2.0
"""Seconds that live connections get to say goodbye when a stream ends, before they are cancelled."""

FETCH: Final = 10.0
"""Seconds that `Stream.fetch_latest_output` waits: as long as FastRTC's."""

Authorize = Callable[[Caller], Any] | Callable[[Caller], Awaitable[Any]]


_E = TypeVar("_E", bound=enum.Enum)


class Modality(enum.StrEnum):
    """Which media a stream carries."""

    AUDIO = "audio"
    VIDEO = "video"
    AUDIO_VIDEO = "audio-video"


class Mode(enum.StrEnum):
    """Which way media flows, seen from the caller."""

    SEND_RECEIVE = "send-receive"
    SEND = "send"
    RECEIVE = "receive"


class Stream:
    """One handler, offered to many callers at once.

    Args:
        handler: The one that is copied for each caller; itself it never runs. Or a plain function: one of video takes
            a frame (uint8, shape (height, width, 3), BGR) and returns one; a generator makes audio or video for
            ``mode="receive"``. What it takes beyond the frame are the arguments the caller set.
        modality: ``"audio"`` or ``"audio-video"``. An audio-video handler also serves callers without a camera.
            ``"video"`` is for functions.
        mode: What callers may do: ``"send-receive"``, ``"send"`` (the handler only listens) or ``"receive"``
            (it only speaks).
        concurrency_limit: How many may be served at once, over all transports; None for no limit.
        time_limit: Seconds after which a connection is ended, counted from connected; None for no limit.
        additional_outputs_handler: Makes of each of a call's `AdditionalOutputs` what readers of the outputs route
            (``GET {path}/webrtc/outputs``) are shown: called, once for each output, with what it returned before (at
            first None) and the output's values; returns one value, or a tuple of them. It may be async; a sync one runs
            in a worker thread. How many former values it takes is seen from its parameters without a default, or, with
            ``*values``, from those before it.
        authorize: Called with the `Caller` before anything is made for it; returns who it is (`Context.principal`), or
            refuses by raising `NotAuthorized` or returning None, False or "" (a name that was not found). A sync one
            runs in a worker thread. If it raises anything else the caller is refused, too. Nobody else is admitted
            between the return of an async one and the admission of its caller: it may count (`sessions`).
        latency: What is done about audio that queues up after a stall: ``"buffered"`` keeps every sample, ``"live"``
            lets go of what makes the call late (see `Latency`).
        thread_limit: How many worker threads sync handlers may hold at once, over all connections; None for no limit.
        timeouts: How long the phases of a connection may take.
        allowed_origins: Origins whose web pages may call, such as ``"https://app.example.org"``, beside the pages of
            the server's own host; ``"*"`` allows all. Who sends no ``Origin`` header is no browser, and is not asked.
        debug: Whether callers are told the text of a handler's exception.
        rtc_configuration: What browsers give to their ``RTCPeerConnection`` (``{"iceServers": [...]}``), or a function
            that fetches it, sync or async: called whenever a page or a WHIP client asks. A sync one runs in a worker
            thread.
        track_constraints: What pages ask of microphone and camera, such as ``{"width": {"ideal": 640}}``: a
            ``MediaTrackConstraints`` of the Media Capture API; for ``"audio-video"`` ``{"audio": ..., "video": ...}``.
        rtp_params: How pages encode what they send, such as ``{"degradationPreference": "maintain-framerate"}``: what
            they give to ``RTCRtpSender.setParameters``.
        arguments: What the page asks its user for, and hands to the handler (`set_input`) when a call begins and at
            each change: for each name a text, number or bool that it is at first, a list to choose from, or a `range`.
            By default what a function takes beyond the frame, by its parameters' defaults and annotations.
        offer_rate: How many offers a second, and questions for ICE servers, are taken over HTTP from one address for
            long, ten times as many at once; beyond it is a 429. None for no limit. This machine itself has none.
        webrtc: How the server's own side of WebRTC is set up.
        telephone: How it is reached by telephone, and the secrets of carriers.
        websocket: What WebSocket clients may do, and for how long they may say nothing.

    Raises:
        HandlerError: This is no handler, or it does not fit the modality; the message says what to use.
        ValueError: There is no such modality or mode, a limit is below what it may be, or an allowed origin is none.
        TypeError: An option is of another type.

    Attributes:
        refused: How many calls over a WebSocket or by telephone came to nothing, webhooks among them, by reason: an
            error's `code`, ``"protocol_error"`` (also in a call that had begun), ``"left"``, ``"wrong_signature"``,
            ``"carrier_not_served"`` or ``"origin_not_allowed"``.
        allowed_origins: As given, in one way of writing.
        track_constraints: As given, or {}; pages are told when they ask.
        rtp_params: The same.
        form: The arguments, as the fields of the page's form.

    The stream serves only inside `running()`; `mount` and `asgi` see to that through the server's lifespan.
    """

    def __init__(
        self,
        handler: StreamHandlerBase | VideoStreamHandler | Callable[..., Any],
        *,
        modality: Modality | Literal["audio", "video", "audio-video"] = "audio",
        mode: Mode | Literal["send-receive", "send", "receive"] = "send-receive",
        concurrency_limit: int | Literal["default"] | None = 1,
        time_limit: float | None = None,
        additional_outputs_handler: Callable[..., Any] | None = None,
        authorize: Authorize | None = None,
        latency: Latency | Literal["live", "buffered"] = Latency.BUFFERED,
        thread_limit: int | None = None,
        timeouts: Timeouts | None = None,
        allowed_origins: Iterable[str] = (),
        debug: bool = False,
        rtc_configuration: Mapping[str, Any] | Callable[[], Any] | None = None,
        track_constraints: Mapping[str, Any] | None = None,
        rtp_params: Mapping[str, Any] | None = None,
        arguments: Mapping[str, Any] | None = None,
        offer_rate: float | None = 10,
        webrtc: WebRTCConfig | None = None,
        telephone: TelephoneConfig | None = None,
        websocket: LineLimits | None = None,
    ) -> None:
        self.modality = _choose("modality", modality, Modality)
        self.mode = _choose("mode", mode, Mode)
        self.handler: StreamHandlerBase = handler_from(handler, modality=self.modality.value, mode=self.mode.value)
        _check_modality(self.handler, self.modality)
        self.concurrency_limit = 1 if concurrency_limit == "default" else concurrency_limit
        _check_limit("concurrency_limit", self.concurrency_limit, int, 1, "would admit nobody")
        _check_limit("time_limit", time_limit, int | float, None, "would end each call at once")
        _check_limit("offer_rate", offer_rate, int | float, None, "would take no offer")
        self._offer_rate = None if offer_rate is None else AddressRate(offer_rate)
        _check_limit("thread_limit", thread_limit, int, 0, "is no number of threads")
        self.latency = _choose("latency", latency, Latency)
        self.rtc_configuration = rtc_configuration
        if not callable(rtc_configuration):
            read_rtc_configuration(rtc_configuration)
        self.track_constraints = read_settings("track_constraints", track_constraints)
        self.rtp_params = read_settings("rtp_params", rtp_params)
        own = 0 if self.mode is Mode.RECEIVE else 1
        self.form = arguments_of(handler, own) if arguments is None else read_arguments(arguments)
        self.allowed_origins = read_allow_list(allowed_origins)
        if not (additional_outputs_handler is None or callable(additional_outputs_handler)):
            raise TypeError(f"additional_outputs_handler={additional_outputs_handler!r} must be a function")
        if additional_outputs_handler is not None:
            Making(additional_outputs_handler)  # its error is said now, not to the first reader
        self.additional_outputs_handler = additional_outputs_handler
        if not (authorize is None or callable(authorize)):
            raise TypeError(
                f"authorize is a {type(authorize).__name__}; expected a function: def authorize(caller): ..."
            )
        self._authorize = authorize
        self._timeouts = timeouts or Timeouts()
        self._threads = WorkerThreads(thread_limit)
        self._settings = ConnectionSettings(time_limit, self._timeouts, debug, self._threads)
        self._webrtc = webrtc
        self.telephone = telephone
        self.websocket = websocket
        self.refused: Counter[str] = Counter()
        self._slots = 0
        self._sessions: dict[str, Session] = {}
        self._room: Room | None = None
        self._emptied: anyio.Event | None = None
        self._asgi: Starlette | None = None

    def __repr__(self) -> str:
        state = "running" if self._room is not None else "not running"
        return f"<Stream {type(self.handler).__qualname__} {self.modality.value} {state}, {self._slots} admitted>"

    # -- serving

    @property
    def is_running(self) -> bool:
        """Whether callers are admitted now."""
        return self._room is not None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Stream]:
        """Serve callers inside this block.

        Connections run in a task group that lives as long as the block; the WebRTC engine is opened at the first offer.
        When the block ends, every connection is closed with a reason and gets `CLOSING` seconds for its goodbye.
        Entered a second time in the same loop (an application that mounts the stream twice), the first block counts.

        Raises:
            RuntimeError: The stream is running in another event loop.
        """
        token = current_loop_token()
        if self._room is not None:
            if self._room.token is not token:
                raise RuntimeError("this stream is running in another event loop; make one Stream for each server")
            yield self
            return
        engine = EngineRoom(self._webrtc)
        try:
            async with anyio.create_task_group() as connections:
                self._room = Room(token, connections, engine)
                try:
                    yield self
                finally:
                    await self._close_all()
                    connections.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise sole_error(group) from None  # tasks in here are supervised: this is what the block itself raised
        finally:
            await engine.aclose()  # after the connections: their goodbyes go through it

    async def _close_all(self) -> None:
        self._room = None  # admits nobody from here on
        for session in list(self._sessions.values()):
            session.close("the server is shutting down")
        if self._sessions:
            self._emptied = emptied = anyio.Event()
            with anyio.move_on_after(CLOSING, shield=True):
                await emptied.wait()
            self._emptied = None

    def mount(self, app: Starlette, path: str = "", *, page: bool | None = None) -> None:
        """Add this stream's routes to a FastAPI or Starlette application, and let its lifespan run the stream.

        Args:
            app: The application; before it has started.
            path: Prefix of the routes, such as ``"/talk"``.
            page: Whether ``GET {path}/`` serves the page to talk with. By default only under a prefix, since at ``/``
                an application has its own.
        """
        from .routes.app import mount

        mount(self, app, path, page=bool(path) if page is None else page)

    @property
    def asgi(self) -> Starlette:
        """A complete ASGI application that serves this stream, and the page to talk with at ``/``."""
        if self._asgi is None:
            from .routes.app import application

            self._asgi = application(self)
        return self._asgi

    # -- admission

    @asynccontextmanager
    async def admit(self, caller: Caller, kind: str, webrtc_id: str | None = None) -> AsyncIterator[Session]:
        """Let a caller in: authorize → slot → copy of the handler; inside the block the transport is opened.

        Then either `start` the session, and leave the block while it lives on, or `run` it inside the block. Left in
        any other way, the block gives the slot back and has the handler's `shutdown()` called.

        Args:
            caller: Who wants to be served.
            kind: The kind of transport.
            webrtc_id: The id that the caller chose; an unguessable one is made if None.

        Raises:
            NotServing: The stream is not running.
            NotAuthorized: `authorize` refused.
            ConnectionExists: Somebody is being served under this id.
            TooManyConnections: No slot, or not enough worker threads, are free.
            ApplicationFailed: `authorize` or `copy()` raised.
        """
        self._get_room()
        principal = await self.authorize(caller)
        self._get_room()
        session = self._take_slot(caller, kind, webrtc_id or secrets.token_urlsafe(18), principal)
        try:
            yield session
        except BaseException:
            session.close("the request that opened the call failed")
            raise
        finally:
            if session.connection is None:
                await self._drop(session)

    def may_ask(self, host: str | None) -> None:
        """Count one offer, or question for ICE servers, of the address `host`; the HTTP routes do, before all else.

        Raises:
            TooManyRequests: It asks too often (`offer_rate`).
        """
        if self._offer_rate is not None and not self._offer_rate.take(host, anyio.current_time()):
            raise TooManyRequests(self._offer_rate.wait)

    async def authorize(self, caller: Caller) -> Any:
        """Ask the `authorize` hook who this is. `admit` does so for a call; requests about a call may do so again.

        Raises:
            NotAuthorized: The hook refused.
            ApplicationFailed: It raised.
        """
        if self._authorize is None:
            return None
        try:
            principal = await ask(self._authorize, caller)
        except NegotiationError:
            raise
        except Exception as error:
            # The hook decides about strangers: if it fails, nobody comes in, and the server goes on.
            logger.exception("authorize raised for %s %s", caller, caller.path)
            raise ApplicationFailed("the server could not check whether this call is allowed") from error
        if principal is None or principal is False or (isinstance(principal, str) and not principal):
            raise NotAuthorized("this call is not allowed")
        return principal

    def _take_slot(self, caller: Caller, kind: str, webrtc_id: str, principal: Any) -> Session:
        """Everything between two awaits, so that no two callers get the same slot or id."""
        if webrtc_id in self._sessions:
            raise ConnectionExists("this id is in use; choose another, or wait until that call has ended")
        if self.concurrency_limit is not None and self._slots >= self.concurrency_limit:
            raise TooManyConnections(self.concurrency_limit)
        threads = threads_needed(self.handler)
        self._threads.reserve(threads)
        self._slots += 1
        try:
            handler = self._copy_handler()
        except BaseException:
            self._slots -= 1
            self._threads.release(threads)
            raise
        session = Session(webrtc_id, kind, caller, principal, handler, self._settings)
        self._sessions[webrtc_id] = session
        return session

    def _copy_handler(self) -> StreamHandlerBase:
        try:
            return copy_handler(self.handler)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            # copy() is the application's: if it fails, this call is refused and no other is disturbed.
            logger.exception("%s.copy failed: a call was refused", type(self.handler).__qualname__)
            raise ApplicationFailed("the server could not make a handler for this call") from error

    def _release(self, session: Session) -> None:
        """Give back what a session held; the second time nothing is left to give."""
        if self._sessions.get(session.webrtc_id) is not session:
            return
        del self._sessions[session.webrtc_id]
        self._slots -= 1
        self._threads.release(threads_needed(self.handler))
        session.release()
        if self._emptied is not None and not self._sessions:
            self._emptied.set()

    async def _drop(self, session: Session) -> None:
        """Give back a session that was never served; its handler was copied, so it is shut down."""
        try:
            owner = None if self._room is None else self._room.connections
            await shut_down(session.handler, self._timeouts.shutdown, workers=self._threads, owner=owner)
        except BaseException as error:
            if is_cancellation(error) or isinstance(error, KeyboardInterrupt):
                raise
            # Supervises: nobody is being served who could be told.
            logger.exception("%s.shutdown raised after a call was refused", type(session.handler).__qualname__)
        finally:
            self._release(session)

    async def open_engine(self) -> None:
        """Open the WebRTC engine now, so that the first caller need not wait half a second for it."""
        await self._get_room().engine.get()

    async def open_webrtc(self, offer_sdp: str, *, send: bool = True, receive: bool = True) -> WebRTCTransport:
        """Answer a WebRTC offer with a transport that fits this stream; the first call opens the engine.

        Args:
            offer_sdp: The offer.
            send: Whether media is sent, if the stream's mode allows.
            receive: Whether it is received, if the mode allows.

        Raises:
            InvalidOffer: The offer makes no sense.
            UnsupportedMedia: It offers nothing that this stream's handler can use.
            ApplicationFailed: The function in `WebRTCConfig.ice_servers` raised, or returned something else.
        """
        engine = await self._get_room().engine.get()
        try:
            config = await engine.next_config()
        except Exception as error:
            # The application's, like `rtc_configuration`: if it fails, this call is refused and no other is disturbed.
            logger.exception("WebRTCConfig.ice_servers raised")
            raise ApplicationFailed("the server could not get its own ICE servers") from error
        return await engine.answer(
            offer_sdp,
            audio=self.modality is not Modality.VIDEO,
            video=self.modality is not Modality.AUDIO,
            send=send and self.mode is not Mode.SEND,
            receive=receive and self.mode is not Mode.RECEIVE,
            latency=self.latency,
            config=config,
        )

    async def resolve_rtc_configuration(self) -> dict[str, Any]:
        """What clients give to their ``RTCPeerConnection``, now.

        Raises:
            ApplicationFailed: The function that fetches it raised, or returned something else.
        """
        found: Any = self.rtc_configuration
        if callable(found):
            try:
                found = await ask(found)
            except Exception as error:
                # The application's, like `authorize`: if it fails, this request is refused and no other is disturbed.
                logger.exception("rtc_configuration raised")
                raise ApplicationFailed("the server could not get its ICE servers") from error
        try:
            return read_rtc_configuration(found)
        except TypeError as error:
            logger.error("%s", error)
            raise ApplicationFailed("the server could not get its ICE servers") from None

    def start(self, session: Session, transport: Transport, custom: Mapping[str, str] = MappingProxyType({})) -> None:
        """Serve `session` over `transport` in the stream's own task group, from now until its end."""
        room = self._get_room()
        session.prepare(transport, custom)
        room.connections.start_soon(self._serve, session)

    async def run(
        self, session: Session, transport: Transport, custom: Mapping[str, str] = MappingProxyType({})
    ) -> End:
        """Serve `session` over `transport` here, until its end; returns how it ended.

        What the handler raises is logged, and is in `End.error`. Cancelling this ends the connection.
        """
        session.prepare(transport, custom)
        return await self._serve(session)

    def rename(self, session: Session, webrtc_id: str) -> None:
        """Give an admitted session, not yet served, the id that its caller asks for only now.

        Raises:
            ConnectionExists: Somebody is being served under this id.
        """
        if session.connection is not None:
            raise LocalProtocolError("a session that is being served keeps its id")
        if self._sessions.get(webrtc_id, session) is not session:
            raise ConnectionExists("this id is in use; choose another, or wait until that call has ended")
        del self._sessions[session.webrtc_id]
        session.webrtc_id = webrtc_id
        self._sessions[webrtc_id] = session

    async def _serve(self, session: Session) -> End:
        try:
            return await session.serve(partial(self._release, session))
        finally:
            self._release(session)

    def _get_room(self) -> Room:
        if self._room is None:
            raise NotServing(
                "this stream is not running: the server must run the application's lifespan, "
                "or the application must enter `async with stream.running():`"
            )
        return self._room

    # -- the live connections

    @property
    def connections(self) -> Mapping[str, Session]:
        """Those being served now, by id: a snapshot."""
        return {key: session for key, session in list(self._sessions.items()) if session.connection is not None}

    @property
    def sessions(self) -> Mapping[str, Session]:
        """All who are admitted now, by id, also those whose transport is still being opened: a snapshot."""
        return dict(self._sessions)

    @property
    def admitted(self) -> int:
        """How many slots are taken now."""
        return self._slots

    def session(self, webrtc_id: str) -> Session:
        """The live session of this id.

        Raises:
            UnknownConnection: There is none.
        """
        try:
            return self._sessions[webrtc_id]
        except KeyError:
            raise UnknownConnection("no call with this id is live") from None

    def set_input(self, webrtc_id: str, *args: Any) -> None:
        """Hand arguments to the handler of that call: its `latest_args`; `wait_for_args` returns. From any thread.

        Raises:
            UnknownConnection: No call with this id is live.
            ValueError: There are none, or the function that handles this call takes more or fewer; nothing is changed.
        """
        self.session(webrtc_id).set_input(*args)

    def output_stream(self, webrtc_id: str) -> Reader[AdditionalOutputs]:
        """The `AdditionalOutputs` of that call's handler, as an async iterator that stops when the call has ended.

        Any number of readers may iterate, each with a bound of 256 outputs beyond which it loses the oldest. Outputs
        from before the first reader wait for it.

        Raises:
            UnknownConnection: No call with this id is live.
        """
        return self.session(webrtc_id).outputs.read()

    def board(self, session: Session) -> Board:
        """What readers of the outputs route are shown of `session`: one for all of them, made for the first."""
        if session.board is None:
            board = Board(
                session.outputs.read(), self.additional_outputs_handler, f"{session.kind} call {session.name}"
            )
            self._get_room().connections.start_soon(board.run)
            session.board = board
        return session.board

    async def fetch_latest_output(self, webrtc_id: str, timeout: float = FETCH) -> AdditionalOutputs:
        """The next of that call's outputs that was not fetched before (FastRTC's name: it is not always the latest).

        Raises:
            UnknownConnection: No call with this id is live, or it has ended meanwhile.
            TimeoutError: There was none within `timeout` seconds.
        """
        session = self.session(webrtc_id)
        try:
            with anyio.fail_after(timeout):
                return await session.fetch_output()
        except anyio.EndOfStream:
            raise UnknownConnection("the call ended before there was another output") from None

    def close(self, webrtc_id: str, reason: str = "closed by the server") -> None:
        """End that call; the peer is told `reason`. From any thread.

        Raises:
            UnknownConnection: No call with this id is live.
        """
        self.session(webrtc_id).close(reason)


def _choose(name: str, given: object, kind: type[_E]) -> _E:
    if isinstance(given, kind) or given in (known := [member.value for member in kind]):
        return kind(given)
    raise ValueError(f"{name}={given!r}; expected {', '.join(map(repr, known[:-1]))} or {known[-1]!r}")


def _check_limit(name: str, given: Any, kind: Any, least: int | None, what: str) -> None:
    """A number from `least` on, or, without one, above 0; or None, which is no limit."""
    if given is None:
        return
    if not isinstance(given, kind) or isinstance(given, bool):
        expected = "whole number" if kind is int else "number"
        raise TypeError(f"{name}={given!r}; expected a {expected}, or None for no limit")
    if not (given > 0 if least is None else given >= least):
        raise ValueError(f"{name}={given!r} {what}; None means no limit")


def _check_modality(handler: StreamHandlerBase, modality: Modality) -> None:
    name = type(handler).__qualname__
    better = "subclass AudioVideoStreamHandler or AsyncAudioVideoStreamHandler and use modality='audio-video'"
    if modality is Modality.AUDIO_VIDEO and not has_video(handler):
        raise HandlerError(f"{name} has no video side; use modality='audio', or {better}")
    if modality is Modality.VIDEO and not is_video_function(handler):
        what = "use modality='audio-video'" if has_video(handler) else f"use modality='audio', or {better}"
        raise HandlerError(f"{name} cannot serve modality='video', since it has an audio side; {what}")
