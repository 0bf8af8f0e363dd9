"""The WebSocket protocol: FastRTC's JSON, and what a client may ask for beyond it in ``start``.

    -> {"event":"start","websocket_id":"abc"}                        FastRTC's: mu-law, text, rates of the handler
    -> {"event":"start","websocket_id":"abc","codec":"pcm_s16le","sample_rate":24000,"layout":"mono","binary":true,
        "clear":true,"marks":true,"resume":true}                     each key by itself, all optional
    <- {"event":"started","websocket_id":"abc","receive":{codec, sample_rate, layout},"send":{…},"binary":true,
        "resume":{"secret":"…","seconds":30}}                        if the call can be resumed; see `resume`
    -> {"event":"media","media":{"payload":"<base64>"}}              or, with binary, the bytes by themselves
    <- the same
    -> {"event":"ping"}              <- {"event":"pong"}
    <- {"event":"clear"}             drop what you have not played yet
    <- {"event":"mark","mark":{"name":"m"}}     -> the same, when everything before it was played
    -> {"event":"stop"}
    both ways: any JSON object with "type" and without "event" is a data message, as on a WebRTC data channel
               {"event":"message","data":"any text"} is one with any other text

``started`` is sent only to clients that named more than FastRTC's two keys. ``clear`` and ``mark`` are sent only to
clients that asked for them. So FastRTC's own clients get only messages that they know, and any text as it is.

A client whose link broke opens another WebSocket with its id in the URL (``?resume=abc``), and sends ``start`` as
before with ``"resume":{"number":…,"proof":"…"}``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, NoReturn

from ..exceptions import RemoteProtocolError, absent_name
from ..frames import CHANNELS, ChannelLayout
from .json_text import read_json_object
from .lines import (
    CODECS,
    WRONG_KIND,
    CallStarted,
    CodecName,
    LineCodec,
    LineCommand,
    LineEvent,
    MarkPlayed,
    Media,
    MediaFormat,
    Message,
    Ping,
    SendAccepted,
    SendClear,
    SendMark,
    SendMedia,
    SendPong,
    SendText,
    Stopped,
    TextMessage,
    binary_json,
    parse_object,
    read_count,
    read_id,
    read_object,
    read_payload,
    read_text,
    unknown_event,
    write,
    write_payload,
    wrong,
)
from .resume import Permit, Proof, read_permit, read_request

SAMPLE_RATES: Final = range(8000, 48001, 50)
"""Hz; a multiple of 50, so that 20 ms are whole samples."""


_ID = re.compile(r"[A-Za-z0-9_.~-]{1,128}", re.ASCII)  # as `webrtc_id` of an offer


@dataclass(frozen=True, slots=True)
class StartOptions:
    """What a client asks for in ``start``; the defaults are FastRTC's.

    Attributes:
        codec: In both directions.
        sample_rate: Hz, in both directions. None means the handler's own rates. *Received* Opus is always decoded to
            48,000 Hz.
        layout: In both directions.
        binary: Audio travels in binary messages, not as base64 in JSON.
        clear: The client wants ``clear`` messages, and then drops what it buffered.
        marks: The client answers marks, and so tells what it has played.
        named: Whether the client named any of these. If so, it gets ``started``. A client that asks for something
            other than the defaults names it in any case.
        resume: True: the client would like to come back if its link breaks. A proof: it comes back.
    """

    codec: CodecName = "mulaw"
    sample_rate: int | None = None
    layout: ChannelLayout = "mono"
    binary: bool = False
    clear: bool = False
    marks: bool = False
    named: bool = False
    resume: bool | Proof = False


class WebSocketCodec(LineCodec):
    """The WebSocket protocol in either role.

    Args:
        options: In the client's role, what to ask for.

    Attributes:
        options: What the client asked for.
    """

    name: ClassVar[str] = "websocket"

    def __init__(self, options: StartOptions | None = None) -> None:
        super().__init__()
        self._set_options(options or StartOptions())

    def _set_options(self, options: StartOptions) -> None:
        self.options: StartOptions = options
        self.marks: bool = options.marks
        self.clears: bool = options.clear
        self.joins: bool = options.codec != "opus"

    # -- the server's role

    def _decode_event(self, message: Message) -> LineEvent | None:
        if isinstance(message, bytes):
            if (self.call is None or not self.options.binary) and (error := binary_json(message)) is not None:
                raise error
            if self.call is not None and not self.options.binary:
                raise RemoteProtocolError(
                    'a binary message came, but start did not say "binary": true', close_code=WRONG_KIND
                )
            return self._media(message)
        said = parse_object(message)
        match said.get("event"):
            case "media":
                if self.call is not None and self.options.binary:
                    raise RemoteProtocolError("audio came as text where binary was agreed", close_code=WRONG_KIND)
                return self._media(read_payload(read_object(said, "media")))
            case "start":
                if self.call is None:
                    self._set_options(read_start_options(said))
                own_id = read_text(said, "websocket_id", "")
                if own_id and not _ID.fullmatch(own_id):
                    raise wrong("'websocket_id' must have 1 to 128 letters, digits and _ . ~ -")
                return CallStarted(own_id, own_id, format=None)
            case "stop":
                return Stopped()
            case "ping":
                return Ping()
            case "mark":
                return MarkPlayed(read_text(read_object(said, "mark"), "name"))
            case "message":
                return TextMessage(read_text(said, "data"))
            case None if isinstance(said.get("type"), str):
                return TextMessage(message)
            case other:
                raise unknown_event(other, "start, media, message, stop, ping, mark; a data message has 'type'")

    def _media(self, payload: bytes) -> Media:
        """The event for `payload`, which must hold whole samples."""
        if self.options.codec != "opus":
            size = CHANNELS[self.options.layout] * (2 if self.options.codec == "pcm_s16le" else 1)
            if len(payload) % size:
                coding = f"{self.options.layout} {self.options.codec}"
                raise wrong(f"{len(payload)} bytes of {coding} are not a multiple of {size}")
        return Media(payload)

    def send(self, command: LineCommand) -> Message:
        """See `LineCodec.send`."""
        match command:
            case SendMedia(payload):
                return payload if self.options.binary else _media_message(payload)
            case SendText(text):
                return _text_message(text) if self.options.named else text
            case SendPong():
                return write({"event": "pong"})
            case SendClear():
                return write({"event": "clear"})
            case SendMark(name):
                return write({"event": "mark", "mark": {"name": name}})
            case SendAccepted(call_id, receive, send, permit):
                agreed: dict[str, Any] = {"receive": _format_object(receive), "send": _format_object(send)}
                agreed["binary"] = self.options.binary
                if permit is not None:
                    agreed["resume"] = permit.to_json()
                return write({"event": "started", "websocket_id": call_id, **agreed})
            case _:
                raise NotImplementedError(command)

    # -- the client's role

    def _encode_event(self, event: LineEvent) -> Message:
        match event:
            case Media(payload):
                return payload if self.options.binary else _media_message(payload)
            case CallStarted(call_id):
                return write({"event": "start", "websocket_id": call_id, **_start_fields(self.options)})
            case TextMessage(text):
                return _text_message(text)
            case Stopped():
                return write({"event": "stop"})
            case Ping():
                return write({"event": "ping"})
            case MarkPlayed(name):
                return write({"event": "mark", "mark": {"name": name}})
        raise NotImplementedError(f"a WebSocket client has no message for {type(event).__name__}")

    def receive_command(self, message: Message) -> LineCommand:
        """See `LineCodec.receive_command`."""
        if isinstance(message, bytes):
            return SendMedia(message)
        said = parse_object(message)
        match said.get("event"):
            case "media":
                return SendMedia(read_payload(read_object(said, "media")))
            case "pong":
                return SendPong()
            case "clear":
                return SendClear()
            case "mark":
                return SendMark(read_text(read_object(said, "mark"), "name"))
            case "started":
                receive, send = (_read_format(read_object(said, key)) for key in ("receive", "send"))
                return SendAccepted(read_id(said, "websocket_id"), receive, send, _read_permit(said))
            case "message":
                return SendText(read_text(said, "data"))
            case None:
                return SendText(message)
            case other:
                raise unknown_event(other, "media, message, pong, clear, mark, started")


def read_start_options(said: dict[str, Any]) -> StartOptions:
    """Read what the ``start`` message `said` asks for.

    Raises:
        RemoteProtocolError: The server cannot do that.
    """
    codec, layout = read_text(said, "codec", "mulaw"), read_text(said, "layout", "mono")
    if codec not in CODECS:
        raise _not_served(f"codec {codec[:40]!r}; expected one of {', '.join(CODECS)}")
    if layout not in CHANNELS:
        raise _not_served(f"layout {layout[:40]!r}; expected mono or stereo")
    sample_rate = read_count(said, "sample_rate")
    if sample_rate is not None and sample_rate not in SAMPLE_RATES:
        raise _not_served(f"sample_rate {sample_rate}; expected a multiple of 50 from 8000 to 48000")
    if codec == "opus" and sample_rate not in {None, 8000, 12000, 16000, 24000, 48000}:
        raise _not_served(f"sample_rate {sample_rate}; Opus has 8000, 12000, 16000, 24000 and 48000")
    switches: dict[str, bool] = {}
    for key in ("binary", "clear", "marks"):
        value = said.get(key, False)
        if not isinstance(value, bool):
            raise wrong(f"{key!r} must be true or false")
        switches[key] = value
    try:
        resume = read_request(said.get("resume"))
    except ValueError as error:
        raise wrong(str(error)) from None
    return StartOptions(
        codec=codec,
        sample_rate=sample_rate,
        layout=layout,
        named=not said.keys().isdisjoint(("codec", "sample_rate", "layout", "binary", "clear", "marks", "resume")),
        resume=resume,
        **switches,
    )


def _not_served(what: str) -> RemoteProtocolError:
    return RemoteProtocolError(what, close_code=WRONG_KIND)


def _start_fields(options: StartOptions) -> dict[str, object]:
    if options == StartOptions():
        return {}
    rate = {} if options.sample_rate is None else {"sample_rate": options.sample_rate}
    switches: dict[str, object] = {"binary": options.binary, "clear": options.clear, "marks": options.marks}
    if options.resume:
        switches["resume"] = options.resume.to_json() if isinstance(options.resume, Proof) else True
    return {"codec": options.codec, "layout": options.layout, **rate, **switches}


def _read_permit(said: dict[str, Any]) -> Permit | None:
    try:
        return read_permit(said.get("resume"))
    except ValueError as error:
        raise wrong(str(error)) from None


def _text_message(text: str) -> str:
    """A data message: as it is if it has a ``type``, otherwise in an envelope."""
    said = read_json_object(text) if text.startswith("{") else None
    if said is not None and isinstance(said.get("type"), str) and "event" not in said:
        return text
    return write({"event": "message", "data": text})


def _media_message(payload: bytes) -> str:
    return '{"event":"media","media":{"payload":"' + write_payload(payload) + '"}}'


def _format_object(told: MediaFormat) -> dict[str, object]:
    return {"codec": told.codec, "sample_rate": told.sample_rate, "layout": told.layout}


def _read_format(said: dict[str, Any]) -> MediaFormat:
    codec, layout, rate = read_text(said, "codec"), read_text(said, "layout"), read_count(said, "sample_rate")
    if codec not in CODECS or layout not in CHANNELS or rate is None:
        raise wrong("a format needs codec, sample_rate and layout")
    return MediaFormat(codec, rate, layout)


if not TYPE_CHECKING:

    def __getattr__(name: str) -> NoReturn:
        read = f"{__name__}.read_start_options"
        raise absent_name(__name__, name, {"Wish": "rtcflow.transports.StartOptions", "read_wish": read})
