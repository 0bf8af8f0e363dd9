"""What all lines over a WebSocket have in common: events of the far side, commands to it, formats, order.

A *line* is one call: a browser's WebSocket, or a carrier's media stream. Each kind has a `LineCodec` that turns
messages into events and commands into messages. It plays both roles: the server's, and the caller's for simulators and
tests. A codec is pure: it knows the line's state, but neither a clock nor a socket.

If a codec cannot read a message, it raises `RemoteProtocolError` with a close code of RFC 6455 section 7.4.1:

    1002  wrong order                    1007  wrong content: not JSON, wrong shape, bad base64
    1003  wrong kind: text where binary was agreed, or a format that is not served
    1008  a limit was passed             1009  too long
"""

from __future__ import annotations

import base64
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, NoReturn, TypeAlias

from ..exceptions import RemoteProtocolError, absent_name
from ..frames import FRAME_SECONDS, AudioFormat, ChannelLayout
from .json_text import read_json, read_json_object, scalar_text
from .resume import Permit

NORMAL: Final = 1000
WRONG_ORDER: Final = 1002
WRONG_KIND: Final = 1003
WRONG_CONTENT: Final = 1007
OVER_LIMIT: Final = 1008
TOO_BIG: Final = 1009
INTERNAL_ERROR: Final = 1011

CodecName: TypeAlias = Literal["pcm_s16le", "opus", "mulaw", "alaw"]
CODECS: Final[tuple[CodecName, ...]] = ("pcm_s16le", "opus", "mulaw", "alaw")


@dataclass(frozen=True, slots=True)
class MediaFormat:
    """How the audio of a line is coded.

    Attributes:
        codec: One of `CODECS`.
        sample_rate: Hz, of the samples that are coded.
        layout: ``"mono"`` or ``"stereo"``; stereo samples are interleaved.
    """

    codec: CodecName
    sample_rate: int
    layout: ChannelLayout = "mono"

    @property
    def audio(self) -> AudioFormat:
        """The same without the codec."""
        return AudioFormat(self.sample_rate, self.layout)


TELEPHONE: Final = MediaFormat("mulaw", 8000)


# -- what the far side does


@dataclass(frozen=True, slots=True)
class Connected:
    """The carrier is there; the call follows.

    Attributes:
        token: The secret that Telnyx repeats in this message, or "".
    """

    token: str = ""


@dataclass(frozen=True, slots=True)
class CallStarted:
    """The call begins: always the first event but `Connected`, and the only one of its kind.

    Attributes:
        call_id: The carrier's id of the call, or the WebSocket client's own id.
        stream_id: The carrier's id of this media stream; the same as `call_id` if the carrier has no such id.
        caller: The caller's number if the carrier tells it, or "".
        callee: The called number if the carrier tells it, or "".
        custom: The application's own parameters, as given in the answer to the webhook.
        format: How audio is coded; None if the client left it to the server.
    """

    call_id: str
    stream_id: str
    caller: str = ""
    callee: str = ""
    custom: Mapping[str, str] = field(default_factory=dict, hash=False)
    format: MediaFormat | None = TELEPHONE


@dataclass(frozen=True, slots=True)
class Media:
    """Some audio of the caller.

    Attributes:
        payload: Coded audio.
        chunk: Its number in the stream, from 1, if the carrier counts.
        timestamp: Milliseconds since the stream began, if the carrier tells.
    """

    payload: bytes
    chunk: int | None = None
    timestamp: int | None = None


@dataclass(frozen=True, slots=True)
class TextMessage:
    """A data message, as on the data channel of a WebRTC connection."""

    text: str


@dataclass(frozen=True, slots=True)
class Ping:
    """A WebSocket client asks whether we are there."""


@dataclass(frozen=True, slots=True)
class KeyPressed:
    """The caller pressed a key: one of ``0123456789*#ABCD``."""

    digit: str


@dataclass(frozen=True, slots=True)
class MarkPlayed:
    """Everything sent before the mark of this name was played, or cut off by a clear."""

    name: str


@dataclass(frozen=True, slots=True)
class Cleared:
    """The far side dropped what it had buffered."""


@dataclass(frozen=True, slots=True)
class Stopped:
    """The call is over."""

    reason: str = ""


@dataclass(frozen=True, slots=True)
class CarrierFailed:
    """The carrier reports an error of its own."""

    reason: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """An event that this carrier did not have when its codec was written.

    Carriers add events without notice. That is no reason to hang up on a caller, so such events are ignored.
    """

    name: str


LineEvent: TypeAlias = (
    Connected
    | CallStarted
    | Media
    | TextMessage
    | Ping
    | KeyPressed
    | MarkPlayed
    | Cleared
    | Stopped
    | CarrierFailed
    | Unknown
)


# -- what we tell it


@dataclass(frozen=True, slots=True)
class SendMedia:
    """Play this coded audio."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class SendMark:
    """Tell us (`MarkPlayed`) when everything before this was played."""

    name: str


@dataclass(frozen=True, slots=True)
class SendClear:
    """Drop what you have buffered."""


@dataclass(frozen=True, slots=True)
class SendText:
    """A data message, as on the data channel of a WebRTC connection."""

    text: str


@dataclass(frozen=True, slots=True)
class SendPong:
    """The answer to `Ping`."""


@dataclass(frozen=True, slots=True)
class SendAccepted:
    """The answer to a start that named a format: what was agreed.

    Attributes:
        call_id: The connection's id.
        receive: What we take.
        send: What we send.
        permit: The message to the caller's end, if the caller may come back after its link broke.
    """

    call_id: str
    receive: MediaFormat
    send: MediaFormat
    permit: Permit | None = None


@dataclass(frozen=True, slots=True)
class SendDtmf:
    """Press these keys towards the caller."""

    digits: str


@dataclass(frozen=True, slots=True)
class SendGoodbye:
    """We hang up, or answer a far side that has."""


LineCommand: TypeAlias = SendMedia | SendMark | SendClear | SendText | SendPong | SendAccepted | SendDtmf | SendGoodbye

Message: TypeAlias = str | bytes
"""One WebSocket message: str is a text message, bytes a binary one."""


class LineCodec(ABC):
    """Messages of one line to events, commands to messages, and the same for the caller's end.

    One object serves one line, in one role: a server calls `receive` and `send`, a caller `receive_command` and
    `send_event`. Both keep the state `call`.

    Attributes:
        name: The carrier's name in routes and logs.
        marks: Whether the far side can tell what was played.
        clears: Whether the far side can be told to drop what it buffered.
        ordered: Whether media comes in order.
        joins: Whether one message may hold more than one frame of audio.
        stops: Whether the far side says when the call is over; otherwise it closes the WebSocket, and that says it.
        message_seconds: How much audio that is due soon may leave in one message.
        answers: Whether the far side waits for `SendAccepted`, and for `SendGoodbye` at the end.
        presses: Whether the far side can be told to press keys (`SendDtmf`).
        call: How the call began, or None.
    """

    name: ClassVar[str]
    marks: bool = True
    clears: bool = True
    joins: bool = True
    ordered: ClassVar[bool] = True
    stops: ClassVar[bool] = True
    message_seconds: ClassVar[float] = FRAME_SECONDS
    answers: ClassVar[bool] = False
    presses: ClassVar[bool] = False

    def __init__(self) -> None:
        self.call: CallStarted | None = None
        self._stopped = False

    def receive(self, message: Message) -> LineEvent | None:
        """What the far side's `message` says; None if it can be ignored.

        Raises:
            RemoteProtocolError: It makes no sense, or not now.
        """
        event = self._decode_event(message)
        self._keep_order(event)
        return event

    def _keep_order(self, event: LineEvent | None) -> None:
        if self._stopped:
            raise RemoteProtocolError("a message came after the call was over", close_code=WRONG_ORDER)
        match event:
            case CallStarted():
                if self.call is not None:
                    raise RemoteProtocolError(
                        "the call was started twice; open a second WebSocket for a second call", close_code=WRONG_ORDER
                    )
                self.call = event
            case Media() | KeyPressed() | MarkPlayed() | Cleared() | TextMessage():
                if self.call is None:
                    raise RemoteProtocolError(
                        f"{_in_words(event)} came before the call was started; send the start message first",
                        close_code=WRONG_ORDER,
                    )
            case Connected():
                if self.call is not None:
                    raise RemoteProtocolError("'connected' came after the call was started", close_code=WRONG_ORDER)
            case Stopped():
                self._stopped = True
            case Ping() | CarrierFailed() | Unknown() | None:
                pass

    def send_event(self, event: LineEvent) -> Message:
        """The message by which the caller's end says `event`."""
        if isinstance(event, CallStarted):
            self.call = event
        return self._encode_event(event)

    @abstractmethod
    def _decode_event(self, message: Message) -> LineEvent | None: ...

    @abstractmethod
    def _encode_event(self, event: LineEvent) -> Message: ...

    @abstractmethod
    def send(self, command: LineCommand) -> Message:
        """The message by which the server says `command`; only after the call was started."""

    @abstractmethod
    def receive_command(self, message: Message) -> LineCommand:
        """What the server's `message` says to the caller's end.

        Raises:
            RemoteProtocolError: It makes no sense.
        """


def _in_words(event: object) -> str:
    match event:
        case Media():
            return "media"
        case KeyPressed():
            return "a DTMF digit"
        case MarkPlayed():
            return "a mark"
        case Cleared():
            return "an answer to a clear"
    return "a data message"


# -- reading JSON that somebody else wrote

_SHOWN = 60  # characters of what was wrong that are shown: a close reason has 123 bytes (RFC 6455 section 5.5)


def wrong(what: str) -> RemoteProtocolError:
    """The error for content that makes no sense."""
    return RemoteProtocolError(what, close_code=WRONG_CONTENT)


def parse_object(message: Message) -> dict[str, Any]:
    """The JSON object in a text message.

    Raises:
        RemoteProtocolError: The message is binary, not JSON, or not an object.
    """
    if not isinstance(message, str):
        raise binary_json(message) or RemoteProtocolError(
            "a binary message came where JSON text was agreed", close_code=WRONG_KIND
        )
    try:
        value = read_json(message)
    except ValueError:
        raise wrong(f"not JSON: {message[:_SHOWN]!r}") from None
    if not isinstance(value, dict):
        raise wrong(f"JSON, but not an object: {message[:_SHOWN]!r}")
    return value


def binary_json(message: bytes) -> RemoteProtocolError | None:
    """The error for JSON that came in a binary message; None if `message` is something else."""
    if message[:1] != b"{":
        return None
    said = read_json_object(message)
    if said is None:
        return None
    named = f" {str(said['event'])[:_SHOWN]!r}" if "event" in said else ""
    return RemoteProtocolError(
        f"the message{named} came as a binary message; send JSON as a text message", close_code=WRONG_KIND
    )


def read_object(message: Mapping[str, Any], key: str) -> dict[str, Any]:
    """The object at `key`."""
    value = message.get(key)
    if not isinstance(value, dict):
        raise wrong(f"{key!r} must be an object")
    return value


def read_text(message: Mapping[str, Any], key: str, default: str | None = None) -> str:
    """The string at `key`, as `scalar_text`; `default` where it is missing or null, if there is one."""
    value = message.get(key)
    if value is None and default is not None:
        return default
    if not isinstance(value, str):
        raise wrong(f"{key!r} must be a string")
    return scalar_text(value)


def read_id(message: Mapping[str, Any], key: str) -> str:
    """The id at `key`: a string of 1 to 256 characters."""
    value = read_text(message, key)
    if not 0 < len(value) <= 256:
        raise wrong(f"{key!r} must have 1 to 256 characters, not {len(value)}")
    return value


def read_count(message: Mapping[str, Any], key: str) -> int | None:
    """The whole number at `key`, or None if it is missing. Some carriers write it as a string.

    JSON has one kind of number, so 16000.0 is 16000 (RFC 8259 section 6).
    """
    value = message.get(key)
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,18}", value):
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**18:
        return value
    raise wrong(f"{key!r} must be a whole number, not {str(value)[:_SHOWN]!r}")


def read_payload(message: Mapping[str, Any]) -> bytes:
    """The base64 bytes at ``payload``.

    Line breaks are ignored, and padding may be missing, as browsers read base64 (WHATWG Infra, "forgiving-base64
    decode"). Encoders for mail (Android's ``DEFAULT``, Python's ``encodebytes``) put line breaks in.
    """
    text = read_text(message, "payload")
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        pass
    try:
        whole = "".join(text.split())
        return base64.b64decode(whole + "=" * (-len(whole) % 4), validate=True)
    except ValueError:
        safe = " but its URL-safe variant; write + and / for - and _" if {*text} & {*"-_"} else ""
        raise wrong(f"'payload' is not base64{safe}") from None


def read_parameters(value: object) -> dict[str, str]:
    """An application's own parameters; values that are not strings are written as JSON."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise wrong("custom parameters must be an object")
    try:
        return {
            scalar_text(name): scalar_text(part) if isinstance(part, str) else json.dumps(part)
            for name, part in value.items()
        }
    except RecursionError:
        raise wrong("custom parameters are nested too deeply") from None


def read_digit(value: object) -> KeyPressed:
    """A key of a telephone (ITU-T Q.23)."""
    if not isinstance(value, str) or not re.fullmatch(r"[0-9*#A-Da-d]", value):
        raise wrong("'digit' must be one of 0123456789*#ABCD")
    return KeyPressed(value.upper())


def unknown_event(name: object, known: str) -> RemoteProtocolError:
    """The error for an event that this line does not have."""
    return RemoteProtocolError(f"unknown event {str(name)[:_SHOWN]!r}; known are {known}", close_code=WRONG_ORDER)


def unknown_to_us(name: object, known: str) -> Unknown:
    """A carrier's event that is not known here; an error if `name` can be no event's."""
    if not isinstance(name, str):
        raise unknown_event(name, known)
    return Unknown(name)


def write_payload(payload: bytes) -> str:
    """`payload` as base64."""
    return base64.b64encode(payload).decode("ascii")


def write(message: Mapping[str, Any]) -> str:
    """`message` as compact JSON."""
    return json.dumps(message, separators=(",", ":"))


# -- limits and order, as arithmetic


class Reorder:
    """Puts numbered media in order, and waits for what is missing for a limited time.

    Telnyx: "Media frame order is not guaranteed. Use media.chunk … to order frames".

    Args:
        bound: The most items that wait for an earlier one; 5 are 100 ms.
    """

    RESTART = 50
    """By how much a number must fall to mean that the far side counts from the start again: 1 s."""

    def __init__(self, bound: int = 5) -> None:
        self.bound = bound
        self.late: int = 0
        self._next: int | None = None
        self._waiting: dict[int, Media] = {}

    def push(self, media: Media) -> list[Media]:
        """What can go on now, in order. Media that comes too late, or twice, is dropped and counted in `late`."""
        if media.chunk is None:
            return [media]
        if self._next is None:  # numbers begin with 1; what is a few further overtook the first
            self._next = min(1, media.chunk) if media.chunk <= self.bound else media.chunk
        if media.chunk < self._next - self.RESTART:
            self._waiting.clear()
            self._next = media.chunk
        if media.chunk < self._next or media.chunk in self._waiting:
            self.late += 1
            return []
        self._waiting[media.chunk] = media
        if len(self._waiting) > self.bound:
            self._next = min(self._waiting)  # what is missing will not come any more
        ready: list[Media] = []
        while (following := self._waiting.pop(self._next, None)) is not None:
            ready.append(following)
            self._next += 1
        return ready

    def flush(self) -> list[Media]:
        """What still waits, in order, since nothing more will come."""
        waiting = [self._waiting[chunk] for chunk in sorted(self._waiting)]
        self._waiting.clear()
        return waiting


class MediaClock:
    """Media time of what a line delivers, in samples; a gap in the line's own timestamps is a jump.

    Args:
        sample_rate: Hz.
    """

    GAP = 0.02
    """Seconds by which a timestamp must be ahead to count as a gap: one frame. Less is rounding to milliseconds."""
    LONGEST_GAP = 3600.0
    """Seconds beyond which a timestamp is taken for a new beginning, not for a gap."""

    def __init__(self, sample_rate: int) -> None:
        self._rate = sample_rate
        self._next = 0
        self._base: int | None = None

    def pts(self, n: int, timestamp: int | None) -> int:
        """The media time of the next `n` samples, which the line says begin at `timestamp` milliseconds."""
        if timestamp is not None:
            if self._base is None:
                self._base = timestamp - self._next * 1000 // self._rate
            ahead = (timestamp - self._base) * self._rate // 1000 - self._next
            if not -self.LONGEST_GAP * self._rate < ahead < self.LONGEST_GAP * self._rate:
                self._base = timestamp - self._next * 1000 // self._rate
            elif ahead >= self.GAP * self._rate:
                self._next += ahead
        pts = self._next
        self._next += n
        return pts


class MarkTracker:
    """How much of what was sent the far side has played, as far as its answers to marks tell.

    What a clear cut off counts as not heard, though its marks come back as well. Figures are samples per channel.

    Attributes:
        sent: Sent to the far side.
        heard: Of that, played for certain.
        cut: Of that, dropped by a clear before it was confirmed; a part of it may have been heard.
    """

    PENDING_BOUND = 1000

    def __init__(self, every: int) -> None:
        self.sent: int = 0
        self.heard: int = 0
        self.cut: int = 0
        self._every = every
        self._settled = 0  # everything sent before is either heard or cut
        self._marked = 0
        self._count = 0
        self._pending: dict[str, int] = {}

    @property
    def pending(self) -> int:
        """Marks that were not answered yet."""
        return len(self._pending)

    @property
    def unmarked(self) -> int:
        """Samples sent since the last mark."""
        return self.sent - self._marked

    def send(self, n: int) -> str | None:
        """`n` samples are being sent: the name of the mark to send after them, if it is time for one."""
        self.sent += n
        return self.mark() if self.unmarked >= self._every else None

    def mark(self) -> str:
        """The name of a mark after everything sent so far."""
        self._count += 1
        self._marked = self.sent
        name = f"rtcflow-{self._count}"
        self._pending[name] = self.sent
        if len(self._pending) > self.PENDING_BOUND:  # a far side that never answers
            del self._pending[next(iter(self._pending))]
        return name

    def clear(self) -> None:
        """The far side is told to drop what it has not played."""
        self._pending.clear()
        self.cut += self.sent - self._settled
        self._settled = self._marked = self.sent

    def played(self, name: str) -> None:
        """The far side returned this mark. Marks of before a clear, and strange ones, tell nothing."""
        position = self._pending.pop(name, None)
        if position is not None and position > self._settled:
            self.heard += position - self._settled
            self._settled = position


if not TYPE_CHECKING:

    def __getattr__(name: str) -> NoReturn:
        now = {
            "Dtmf": f"{__name__}.KeyPressed",
            "Failed": f"{__name__}.CarrierFailed",
            "Heard": f"{__name__}.MarkTracker",
            "MessageRate": "rtcflow.protocol.rates.MessageRate",
        }
        raise absent_name(__name__, name, now)
