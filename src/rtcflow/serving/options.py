"""The options of a stream, in groups: each group is a frozen dataclass that checks its own values.

`Limits`, `Access` and `Page` are what users write. Each of their fields may also be given to `Stream` as a keyword of
its own (``concurrency_limit=10``), as FastRTC's users do. `merge` puts such keywords where they belong. `Options` is
everything together, as admission, the live calls and the routes read it.
"""

from __future__ import annotations

import enum
import math
import os
import re
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar

from ..connection.connection import ConnectionStatistics
from ..context import Context, shorten_id
from ..ends import End, Timeouts
from ..exceptions import HandlerError
from ..handlers.base import StreamHandlerBase
from ..handlers.checking import has_video
from ..handlers.functions import is_video_function
from ..media.playout import Latency
from ..protocol.ice import read_rtc_configuration
from ..protocol.origins import read_allow_list
from .form import Field, read_arguments, read_settings
from .output_events import OutputFunction
from .session import CallRequest, Session

if TYPE_CHECKING:
    from ..transports.line_socket import LineLimits
    from ..transports.telephone import TelephoneConfig
    from ..transports.webrtc import WebRTCConfig
    from .router import RouterSource

_E = TypeVar("_E", bound=enum.Enum)
_G = TypeVar("_G", "Limits", "Access", "Page")

OnCallEnd = Callable[[Session, End, ConnectionStatistics], Any]
"""A function that is told how a call ended; see `Stream`."""

OnRecorded = Callable[[Path, Context], Any]
"""A function that is told of a recording's file; see `Stream`."""

Authorize = Callable[[CallRequest], Any] | Callable[[CallRequest], Awaitable[Any]]
"""A function that decides whether a request is allowed; see `Access`."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much a stream takes on. None means no limit.

    Attributes:
        concurrency_limit: How many calls may be live at once, over all transports. ``"default"`` means 1.
        time_limit: Seconds after which a call is ended, counted from the moment it is connected.
        thread_limit: How many worker threads sync handlers may hold at once, over all calls.
        offer_rate: How many offers and questions for ICE servers one address may send per second in the long run. Ten
            times as many may come at once. The server answers more with 429. Wrong tokens and wrong proofs of being the
            caller (`Stream(resume=...)`) count, too. Requests from this machine do not count.
        drain_time: Seconds that live calls may go on when the server stops, while new ones are refused
            (`Stream.drain`).

    Raises:
        TypeError: A limit is not a number.
        ValueError: A limit is too low.
    """

    concurrency_limit: int | Literal["default"] | None = 1
    time_limit: float | None = None
    thread_limit: int | None = None
    offer_rate: float | None = 10
    drain_time: float = 0.0

    def __post_init__(self) -> None:
        if self.concurrency_limit == "default":
            object.__setattr__(self, "concurrency_limit", 1)
        _check_limit("concurrency_limit", self.concurrency_limit, int, 1, "would admit nobody")
        _check_limit("time_limit", self.time_limit, int | float, None, "would end each call at once")
        _check_limit("thread_limit", self.thread_limit, int, 0, "is not a number of threads")
        _check_limit("offer_rate", self.offer_rate, int | float, None, "would take no offer")
        if self.offer_rate is not None and not 1e-6 <= self.offer_rate <= 1e6:
            raise ValueError(f"offer_rate={self.offer_rate!r}; expected 0.000001 to 1000000; None means no limit")
        if not isinstance(self.drain_time, int | float) or isinstance(self.drain_time, bool):
            raise TypeError(f"drain_time={self.drain_time!r}; expected a number of seconds")
        if not 0 <= self.drain_time < math.inf:
            raise ValueError(f"drain_time={self.drain_time!r}; expected 0 or more seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Which callers and which web pages may call.

    Attributes:
        authorize: Called with the `CallRequest` before anything is made for the call. Its result says who is calling
            (`Context.principal`). It refuses by raising `NotAuthorized`, or by returning None, False or "". If it
            raises anything else, the call is refused too. A sync function runs in a worker thread. After an async one
            returns, its caller is admitted before anybody else: it may count the live calls (`Stream.calls`).
        allowed_origins: Origins whose web pages may call, such as ``"https://app.example.org"``. Pages of the server's
            own host always may; ``"*"`` allows all. Requests without an ``Origin`` header are not checked: they do not
            come from a browser.
        authorize_operator: If it is given, ``GET {path}/calls`` shows the live calls, and ends one on request. Called
            with the `CallRequest` of each such request, and decides as `authorize` does. `authorize` is not asked:
            that somebody may call does not mean that they may see or end the calls of others.

    Raises:
        TypeError: `authorize` or `authorize_operator` is not a function, or `allowed_origins` is one string.
        ValueError: An origin is invalid.
    """

    authorize: Authorize | None = None
    allowed_origins: Iterable[str] = ()
    authorize_operator: Authorize | None = None

    def __post_init__(self) -> None:
        for name in ("authorize", "authorize_operator"):
            hook = getattr(self, name)
            if not (hook is None or callable(hook)):
                raise TypeError(f"{name} is a {type(hook).__name__}; expected a function: def {name}(caller): ...")
        object.__setattr__(self, "allowed_origins", read_allow_list(self.allowed_origins))


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What the page, and other clients, are told before they call.

    Attributes:
        title: The page's heading: the name of what people talk to.
        description: One sentence below it.
        arguments: What the page asks its user for. The values go to the handler (`set_input`) when a call begins and
            at each change. For each name, give the first value (a text, number or bool), a list to choose from, or a
            `range`. By default a function's parameters beyond the frame, with their defaults and annotations.
        rtc_configuration: What browsers give to their ``RTCPeerConnection`` (``{"iceServers": [...]}``), or a function
            that returns it, sync or async. The function is called whenever a page or a WHIP client asks. A sync one
            runs in a worker thread.
        track_constraints: What pages ask of microphone and camera, such as ``{"width": {"ideal": 640}}``: a
            ``MediaTrackConstraints`` of the Media Capture API. For ``"audio-video"``,
            ``{"audio": ..., "video": ...}``.
        rtp_params: How pages encode what they send, such as ``{"degradationPreference": "maintain-framerate"}``. Pages
            pass it to ``RTCRtpSender.setParameters``.

    Raises:
        TypeError: A value has the wrong type, or cannot be sent as JSON.
        ValueError: A list or a range to choose from is empty.
    """

    arguments: Mapping[str, Any] | None = None
    rtc_configuration: Mapping[str, Any] | Callable[[], Any] | None = None
    track_constraints: Mapping[str, Any] | None = None
    rtp_params: Mapping[str, Any] | None = None
    title: str = "rtcflow"
    description: str = ""

    def __post_init__(self) -> None:
        for name in ("title", "description"):
            if not isinstance(getattr(self, name), str):
                raise TypeError(f"{name}={getattr(self, name)!r}; expected a text")
        if self.arguments is not None:
            read_arguments(self.arguments)
        if not callable(self.rtc_configuration):
            read_rtc_configuration(self.rtc_configuration)
        object.__setattr__(self, "track_constraints", read_settings("track_constraints", self.track_constraints))
        object.__setattr__(self, "rtp_params", read_settings("rtp_params", self.rtp_params))


class Keywords(TypedDict, total=False):
    """The fields of `Limits`, `Access` and `Page`, as `Stream` takes them one by one; see there what they mean."""

    concurrency_limit: int | Literal["default"] | None
    time_limit: float | None
    thread_limit: int | None
    offer_rate: float | None
    drain_time: float
    authorize: Authorize | None
    allowed_origins: Iterable[str]
    authorize_operator: Authorize | None
    arguments: Mapping[str, Any] | None
    rtc_configuration: Mapping[str, Any] | Callable[[], Any] | None
    server_rtc_configuration: Mapping[str, Any] | Callable[[], Any] | None
    track_constraints: Mapping[str, Any] | None
    rtp_params: Mapping[str, Any] | None
    title: str
    description: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """All that a stream was made with, checked.

    Attributes:
        handler: It is copied for each call, and never runs itself.
        form: The fields of the page's form for the handler's arguments.
        additional_outputs_handler: See `Stream`.
        on_call_end: See `Stream`.
        record: See `Stream`; a directory has become a function.
        on_recorded: See `Stream`.
        metrics: See `Stream`.
        cluster: See `Stream`.
        resume: See `Stream`.
    """

    handler: StreamHandlerBase
    modality: Modality
    mode: Mode
    limits: Limits
    access: Access
    page: Page
    form: tuple[Field, ...] = ()
    additional_outputs_handler: Callable[..., Any] | None = None
    on_call_end: OnCallEnd | None = None
    record: Callable[[Context], Any] | None = None
    on_recorded: OnRecorded | None = None
    latency: Latency = Latency.BUFFERED
    timeouts: Timeouts = field(default_factory=Timeouts)
    debug: bool = False
    metrics: bool = False
    webrtc: WebRTCConfig | None = None
    telephone: TelephoneConfig | None = None
    websocket: LineLimits | None = None
    cluster: RouterSource | None = None
    resume: float | None = None

    def __post_init__(self) -> None:
        _check_modality(self.handler, self.modality)
        _check_resume(self.resume)
        given = self.additional_outputs_handler
        if not (given is None or callable(given)):
            raise TypeError(f"additional_outputs_handler={given!r} must be a function")
        if given is not None:
            OutputFunction(given)  # its error is raised now, not for the first reader
        if not (self.cluster is None or callable(getattr(self.cluster, "joined", None))):
            raise TypeError(f"cluster={self.cluster!r}; expected rtcflow.cluster.Cluster(...)")
        if not (self.on_call_end is None or callable(self.on_call_end)):
            raise TypeError(
                f"on_call_end={self.on_call_end!r}; expected a function: def on_call_end(session, end, statistics): ..."
            )
        if not (self.on_recorded is None or callable(self.on_recorded)):
            raise TypeError(
                f"on_recorded={self.on_recorded!r}; expected a function: def on_recorded(path, context): ..."
            )


def recorded_where(record: Any) -> Callable[[Context], Any] | None:
    """The function that chooses each call's file, from what `Stream` was given as `record`.

    Raises:
        TypeError: It is neither a directory nor a function.
    """
    if record is None or callable(record):
        return record  # type: ignore[no-any-return]
    if isinstance(record, str | os.PathLike):
        return partial(name_recording, Path(record))
    raise TypeError(f"record={record!r}; expected a directory, or a function: def record(context): return path or None")


def name_recording(directory: Path, context: Context) -> Path:
    """A new name in `directory`: the time (UTC), the beginning of the call's id, and something to tell them apart."""
    now = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    call = re.sub(r"[^A-Za-z0-9_-]", "", shorten_id(context.webrtc_id))
    return directory / f"{now}-{call}-{secrets.token_hex(4)}.wav"


def choose(name: str, given: object, kind: type[_E]) -> _E:
    """The member of `kind` that `given` is or names.

    Raises:
        ValueError: There is no such member.
    """
    if isinstance(given, kind) or given in (known := [member.value for member in kind]):
        return kind(given)
    raise ValueError(f"{name}={given!r}; expected {', '.join(map(repr, known[:-1]))} or {known[-1]!r}")


def merge(name: str, group: _G, keywords: dict[str, Any]) -> _G:
    """`group` with the `keywords` that are fields of it, which are taken out of `keywords`.

    Args:
        name: The keyword by which `Stream` takes the group.
        group: The group that was given, or the one of defaults.
        keywords: Those that are left; changed in place.

    Raises:
        TypeError: `group` is of another class, or a field was given both ways.
    """
    own = {one.name for one in fields(group)} & keywords.keys()
    taken = {key: keywords.pop(key) for key in own}
    if not taken:
        return group
    default = type(group)()
    twice = sorted(key for key in taken if getattr(group, key) != getattr(default, key))
    if twice:
        raise TypeError(f"{twice[0]} was given twice: as {twice[0]}= and in {name}={type(group).__name__}(...)")
    return replace(group, **taken)


def _check_limit(name: str, given: Any, kind: Any, least: int | None, what: str) -> None:
    """Check a number that must be at least `least`, or above 0 if that is None. None is no limit."""
    if given is None:
        return
    if not isinstance(given, kind) or isinstance(given, bool):
        expected = "whole number" if kind is int else "number"
        raise TypeError(f"{name}={given!r}; expected a {expected}, or None for no limit")
    if not (given > 0 if least is None else given >= least):
        raise ValueError(f"{name}={given!r} {what}; None means no limit")


def _check_resume(given: Any) -> None:
    if given is None:
        return
    if not isinstance(given, int | float) or isinstance(given, bool):
        raise TypeError(f"resume={given!r}; expected a number of seconds, or None: calls end when their link breaks")
    if not 0 < given < math.inf:
        raise ValueError(f"resume={given!r}; expected more than 0 seconds, such as 30, or None")


def _check_modality(handler: StreamHandlerBase, modality: Modality) -> None:
    name = type(handler).__qualname__
    better = "subclass AudioVideoStreamHandler or AsyncAudioVideoStreamHandler and use modality='audio-video'"
    if modality is Modality.AUDIO_VIDEO and not has_video(handler):
        raise HandlerError(f"{name} has no video side; use modality='audio', or {better}")
    if modality is Modality.VIDEO and not is_video_function(handler):
        what = "use modality='audio-video'" if has_video(handler) else f"use modality='audio', or {better}"
        raise HandlerError(f"{name} cannot serve modality='video', since it has an audio side; {what}")
