"""A stream is one handler, offered to many callers: the public face of `serving` and `routes`.

`serving.options` has the options, `serving.calls` admits and runs the calls, `routes` has the HTTP and WebSocket
routes.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn, Unpack

from ._core.fanout import Reader
from ._core.moved import absent_attribute
from .context import Context
from .ends import Timeouts
from .handlers.base import StreamHandlerBase
from .handlers.functions import VideoStreamHandler, handler_from
from .media.playout import Latency
from .outputs import AdditionalOutputs
from .serving.calls import Calls
from .serving.form import Field, arguments_of, read_arguments
from .serving.negotiation import get_rtc_configuration
from .serving.options import (
    Access,
    Authorize,
    Keywords,
    Limits,
    Modality,
    Mode,
    OnCallEnd,
    OnRecorded,
    Options,
    Page,
    choose,
    merge,
    recorded_where,
)
from .serving.session import CallRequest, Session

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from .cluster import Cluster
    from .routes.app import Endpoints
    from .transports.line_socket import LineLimits
    from .transports.telephone import TelephoneConfig
    from .transports.webrtc import WebRTCConfig

__all__ = [
    "Access",
    "Authorize",
    "CallRequest",
    "Calls",
    "Field",
    "Keywords",
    "Limits",
    "Modality",
    "Mode",
    "OnCallEnd",
    "OnRecorded",
    "Options",
    "Page",
    "Reader",
    "Session",
    "Stream",
]


class Stream:
    """One handler, offered to many callers at once.

    Args:
        handler: It is copied for each call, and never runs itself. Or a plain function. A function of video takes a
            frame (uint8, shape (height, width, 3), BGR) and returns one. A generator makes audio or video for
            ``mode="receive"``. Its parameters beyond the frame are the arguments that the caller sets.
        modality: ``"audio"`` or ``"audio-video"``. An audio-video handler also serves callers without a camera.
            ``"video"`` is for functions.
        mode: What callers do: ``"send-receive"``, ``"send"`` (the handler only listens) or ``"receive"`` (the handler
            only speaks).
        additional_outputs_handler: Turns each of a call's `AdditionalOutputs` into what readers of the outputs route
            (``GET {path}/webrtc/outputs``) get. It is called with what it returned before (at first None) and the
            output's values, and returns one value or a tuple of them. A sync one runs in a worker thread. Its
            parameters without a default say how many former values it takes; with ``*values``, those before it do.
        on_call_end: Called once when everything of a call has ended, with its `Session`, its `End` and its
            `ConnectionStatistics`: for a row in a database, for example. Its slot is free by then. A sync function runs
            in a worker thread. It has `Timeouts.shutdown` seconds, also when the server is stopping. An error in it is
            logged and disturbs no other call. Calls that were refused are not reported.
        record: Where calls are recorded: a directory, in which each call gets a WAV file of its own. Or a function of
            the call's `Context` that returns the file's path, or None for no recording, sync or async; see
            `Connection.record`.
        on_recorded: Called with the path and the `Context` when a call has ended and its recording's file is closed.
            It has `Timeouts.shutdown` seconds. An error in it is logged and disturbs no other call.
        limits: How many calls, threads and offers the stream takes, and how long a call may last.
        access: Which callers and which web pages may call.
        page: What the page, and other clients, are told before they call.
        webrtc: The server's own side of WebRTC.
        telephone: How the stream is reached by telephone, and the secrets of the carriers.
        websocket: What WebSocket clients may do, and how long they may be silent.
        latency: What happens to audio that queues up after a stall: ``"buffered"`` keeps every sample, ``"live"`` drops
            what makes the call late (see `Latency`).
        timeouts: How long the phases of a call may take.
        debug: Whether callers are told the text of a handler's exception.
        metrics: Whether ``GET {path}/metrics`` answers Prometheus (`rtcflow.prometheus`). It says nothing about single
            calls, and needs no authorization. Needs the extra ``prometheus``.
        cluster: With which other processes the stream is served; see `rtcflow.cluster.Cluster`. Then every process
            answers requests about every call, and `calls` are those of this process. Needs the extra ``cluster``.
        resume: If the link to a caller breaks, its call waits this many seconds for the caller to come back. Its
            handler lives on, and keeps its slot and its threads. Only for callers that ask for it (the page and
            `rtcflow.client` do), by WebRTC and WebSocket. None: the call ends.
        **keywords: The fields of `Limits`, `Access` and `Page`, one by one, such as ``concurrency_limit=10``. And
            FastRTC's ``server_rtc_configuration``: ``{"iceServers": [...]}`` for the server's own side, or a function,
            sync or async, that is called for each call. It is `WebRTCConfig.ice_servers`.

    Raises:
        HandlerError: The handler cannot be run, or does not fit the modality; the message says what to use.
        ValueError: There is no such modality or mode, a limit is too low, or an allowed origin is invalid.
        TypeError: An option has the wrong type, is unknown, or was given twice.

    Attributes:
        calls: The live calls by their id, a read-only mapping that is always current: ``len(stream.calls)``,
            ``stream.calls.values()``. From any thread.

    The stream serves only inside `running()`. `mount` and `asgi` enter it through the server's lifespan.
    """

    def __init__(
        self,
        handler: StreamHandlerBase | VideoStreamHandler | Callable[..., Any],
        *,
        modality: Modality | Literal["audio", "video", "audio-video"] = "audio",
        mode: Mode | Literal["send-receive", "send", "receive"] = "send-receive",
        additional_outputs_handler: Callable[..., Any] | None = None,
        on_call_end: OnCallEnd | None = None,
        record: str | os.PathLike[str] | Callable[[Context], Any] | None = None,
        on_recorded: OnRecorded | None = None,
        limits: Limits | None = None,
        access: Access | None = None,
        page: Page | None = None,
        webrtc: WebRTCConfig | None = None,
        telephone: TelephoneConfig | None = None,
        websocket: LineLimits | None = None,
        latency: Latency | Literal["live", "buffered"] = Latency.BUFFERED,
        timeouts: Timeouts | None = None,
        debug: bool = False,
        metrics: bool = False,
        cluster: Cluster | None = None,
        resume: float | None = None,
        **keywords: Unpack[Keywords],
    ) -> None:
        left: dict[str, Any] = dict(keywords)
        limits = merge("limits", _group("limits", limits, Limits), left)
        access = merge("access", _group("access", access, Access), left)
        page = merge("page", _group("page", page, Page), left)
        webrtc = _with_servers(webrtc, left.pop("server_rtc_configuration", None))
        if left:
            raise TypeError(f"Stream has no option {', '.join(sorted(left))}")
        kind, way = choose("modality", modality, Modality), choose("mode", mode, Mode)
        own = 0 if way is Mode.RECEIVE else 1
        options = Options(
            handler=handler_from(handler, modality=kind.value, mode=way.value),
            modality=kind,
            mode=way,
            limits=limits,
            access=access,
            page=page,
            form=arguments_of(handler, own) if page.arguments is None else read_arguments(page.arguments),
            additional_outputs_handler=additional_outputs_handler,
            on_call_end=on_call_end,
            record=recorded_where(record),
            on_recorded=on_recorded,
            latency=choose("latency", latency, Latency),
            timeouts=timeouts or Timeouts(),
            debug=debug,
            metrics=metrics,
            webrtc=webrtc,
            telephone=telephone,
            websocket=websocket,
            cluster=cluster,
            resume=resume,
        )
        self.calls: Calls = Calls(options)
        self._asgi: Starlette | None = None

    def __repr__(self) -> str:
        state = "running" if self.is_running else "not running"
        return f"<Stream {type(self.handler).__qualname__} {self.modality.value} {state}, {len(self.calls)} calls>"

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            raise absent_attribute(self, name, _MOVED)

        def __setattr__(self, name: str, value: object) -> None:
            if name in _GIVEN and not hasattr(type(self), name):
                raise AttributeError(f"to assign {name} would change nothing: {_MOVED[name]}")
            super().__setattr__(name, value)

    @property
    def options(self) -> Options:
        """Everything the stream was made with, checked."""
        return self.calls.options

    @property
    def handler(self) -> StreamHandlerBase:
        """The stream's handler, which is copied for each call."""
        return self.options.handler

    @property
    def modality(self) -> Modality:
        """Which media the stream carries."""
        return self.options.modality

    @property
    def mode(self) -> Mode:
        """Which way media flows, seen from the caller."""
        return self.options.mode

    # -- serving

    @property
    def is_running(self) -> bool:
        """Whether calls are admitted now."""
        return self.calls.is_running

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Stream]:
        """Serve calls inside this block.

        Calls run in a task group that lives as long as the block. The WebRTC engine is opened at the first offer. When
        the block ends, every call is closed with a reason, and gets 2 s to say goodbye. If an application mounts the
        stream twice in one loop, the second block changes nothing.

        Raises:
            RuntimeError: The stream is running in another event loop.
            ClusterError: The stream cannot join its cluster.
        """
        async with self.calls.running():
            yield self

    async def drain(self, seconds: float) -> None:
        """Get ready to stop: take no new calls, and let the live ones go on for up to `seconds`. A checkpoint.

        ``GET {path}/readyz`` and new callers are answered with 503. Requests about live calls are answered as before.
        Calls that are still live after `seconds` are closed; their peers are told that the server is shutting down.
        Returns when no call is left, 2 s after the deadline at the latest. Cancelling this closes the calls at once.
        """
        await self.calls.drain(seconds)

    async def open_engine(self) -> None:
        """Open the WebRTC engine now, so that the first caller does not wait half a second for it. A checkpoint.

        Raises:
            NotServing: The stream is not running.
        """
        await self.calls.engine()

    def mount(self, app: Starlette, path: str = "", *, page: bool | None = None) -> None:
        """Add this stream's routes to a FastAPI or Starlette application, and let its lifespan run the stream.

        Args:
            app: The application, before it has started.
            path: Prefix of the routes, such as ``"/talk"``.
            page: Whether ``GET {path}/`` serves the page to talk with. By default only under a prefix, since at ``/``
                an application has its own.

        Raises:
            ValueError: `path` does not begin with a slash, or another stream is mounted there.
        """
        from .routes.app import mount

        mount(self.calls, app, path, page=bool(path) if page is None else page, endpoints=self._endpoints())

    @property
    def asgi(self) -> Starlette:
        """A complete ASGI application that serves this stream, and the page to talk with at ``/``."""
        if self._asgi is None:
            from .routes.app import application

            self._asgi = application(self.calls, endpoints=self._endpoints())
        return self._asgi

    def _endpoints(self) -> Endpoints | None:
        """What answers the routes, if a subclass answers them differently (`routes.app.Endpoints`)."""
        return None

    async def resolve_rtc_configuration(self) -> dict[str, Any]:
        """What clients give to their ``RTCPeerConnection`` now (`Page.rtc_configuration`). A checkpoint.

        Raises:
            ApplicationFailed: The function that returns it raised, or returned something else.
        """
        return await get_rtc_configuration(self.options.page)

    # -- the live calls

    @property
    def refused(self) -> Mapping[str, int]:
        """How many calls were refused on all transports, by reason. Webhooks and further offers count, too.

        The reason is an error's `code`, ``"protocol_error"`` (also in a call that had begun), ``"left"``,
        ``"wrong_signature"``, ``"carrier_not_served"`` or ``"origin_not_allowed"``.
        """
        return self.calls.refused

    def session(self, webrtc_id: str) -> Session:
        """The live call with this id. From any thread.

        Raises:
            UnknownConnection: No call with this id is live.
        """
        return self.calls.find(webrtc_id)

    def set_input(self, webrtc_id: str, *args: Any) -> None:
        """Hand arguments to the handler of that call: its `latest_args`; `wait_for_args` returns. From any thread.

        Raises:
            UnknownConnection: No call with this id is live.
            ValueError: There are no arguments, or the function that handles this call takes more or fewer. Nothing is
                changed.
        """
        self.session(webrtc_id).set_input(*args)

    def output_stream(self, webrtc_id: str) -> Reader[AdditionalOutputs]:
        """The `AdditionalOutputs` of that call's handler: an async iterator that stops when the call has ended.

        Any number of readers may iterate. Each holds at most 256 outputs that it has not taken yet; beyond that it
        loses the oldest. Outputs from before the first reader wait for it. Cancelling a read loses no output.

        Raises:
            UnknownConnection: No call with this id is live.
        """
        return self.session(webrtc_id).outputs.read()

    def close(self, webrtc_id: str, reason: str = "closed by the server") -> None:
        """End that call; the peer is told `reason`. From any thread.

        Raises:
            UnknownConnection: No call with this id is live.
        """
        self.session(webrtc_id).close(reason)


def _group(name: str, given: Any, kind: Any) -> Any:
    if given is None:
        return kind()
    if not isinstance(given, kind):
        raise TypeError(f"{name}={given!r}; expected {kind.__name__}(...)")
    return given


def _with_servers(webrtc: WebRTCConfig | None, given: Any) -> WebRTCConfig | None:
    if given is None:
        return webrtc
    from .transports.webrtc import WebRTCConfig, read_ice_servers

    if webrtc is not None and webrtc.ice_servers:
        raise TypeError("ICE servers were given twice: as server_rtc_configuration= and in webrtc=WebRTCConfig(...)")
    servers = given if callable(given) else read_ice_servers(given)
    return replace(webrtc or WebRTCConfig(), ice_servers=servers)


_AS_OPTION = "it is in stream.options.{}; options do not change after the stream was made"

_MOVED: Final[Mapping[str, str]] = {
    "connections": "use stream.calls, the mapping of live calls (a call whose connection is None is still connecting)",
    "sessions": "use stream.calls, the mapping of live calls",
    "admitted": "use len(stream.calls)",
    "fetch_latest_output": "read with `async for output in stream.output_stream(webrtc_id)`, or use "
    "rtcflow.fastrtc.Stream, which has it",
    **{name: f"it is stream.calls.{name}" for name in ("admit", "authorize", "rename", "run", "start")},
    "board": "it is stream.calls.events",
    "may_ask": "it is stream.calls.count_request",
    "open_webrtc": "it is rtcflow.serving.negotiation.answer_offer(stream.calls, offer_sdp)",
    **{
        name: _AS_OPTION.format(f"{group}.{name}")
        for group, names in (
            ("limits", ("concurrency_limit", "time_limit")),
            ("access", ("allowed_origins",)),
            ("page", ("rtc_configuration", "track_constraints", "rtp_params")),
        )
        for name in names
    },
    **{
        name: _AS_OPTION.format(name)
        for name in ("additional_outputs_handler", "form", "latency", "telephone", "websocket")
    },
}
"""What `Stream` had in an earlier release, and what to use now."""

_GIVEN: Final = frozenset(
    (
        *("additional_outputs_handler", "allowed_origins", "concurrency_limit", "rtc_configuration", "rtp_params"),
        *("time_limit", "track_constraints"),
    )
)
"""Options that cannot be assigned. Other names are free for attributes of subclasses."""
