"""Vonage Voice WebSockets: linear audio in binary messages, everything else as JSON text.

Source: "WebSockets in the Vonage Voice API", Vonage's documentation. The parameters of the NCCO's ``headers`` stand at
the top level of the first message.
"""

from __future__ import annotations

import json
import re
from typing import Any, ClassVar, Final

from ...exceptions import RemoteProtocolError
from ..lines import (
    TOO_BIG,
    WRONG_KIND,
    CallStarted,
    Cleared,
    KeyPressed,
    LineCodec,
    LineCommand,
    LineEvent,
    MarkPlayed,
    Media,
    MediaFormat,
    Message,
    SendClear,
    SendMark,
    SendMedia,
    Stopped,
    binary_json,
    parse_object,
    read_digit,
    read_object,
    read_parameters,
    read_text,
    unknown_event,
    unknown_to_us,
    write,
    wrong,
)

SAMPLE_RATES: Final = (8000, 16000, 24000)
DEFAULT: Final = MediaFormat("pcm_s16le", 16000)
RESERVED: Final = ("event", "content-type")
"""Keys of Vonage's own in the first message. The application's parameters cannot have these names."""
MAX_AUDIO: Final = 1 << 16
"""The longest binary message that is audio, in bytes: 2 s at 16 kHz. Vonage sends 20 ms."""


class VonageCodec(LineCodec):
    """Vonage: signed 16-bit little-endian samples, mono, at 8, 16 or 24 kHz, in binary messages of 20 ms."""

    name: ClassVar[str] = "vonage"
    joins = False
    stops: ClassVar[bool] = False

    def _decode_event(self, message: Message) -> LineEvent | None:
        if isinstance(message, bytes):
            if self.call is None and (error := binary_json(message)) is not None:
                raise error
            if len(message) > MAX_AUDIO:
                problem = f"a binary message of {len(message)} bytes; at most {MAX_AUDIO} are audio"
                raise RemoteProtocolError(problem, close_code=TOO_BIG)
            if len(message) % 2:
                raise wrong(f"{len(message)} bytes are not a whole number of 16-bit samples")
            return Media(message)
        said = parse_object(message)
        match said.get("event"):
            case "websocket:connected":
                return self._decode_start(said)
            case "websocket:dtmf":
                nested = said.get("dtmf")
                return read_digit((nested if isinstance(nested, dict) else said).get("digit"))
            case "websocket:notify":
                payload = said.get("payload")
                name = payload.get("name") if isinstance(payload, dict) else None
                return MarkPlayed(name) if isinstance(name, str) else None  # we name each of ours
            case "websocket:cleared":
                return Cleared()
            case "websocket:media:update":
                return None  # whether the caller is muted: nothing to do
            case "websocket:disconnected" | "websocket:hangup":
                return Stopped()
            case other:
                return unknown_to_us(other, "websocket:connected, :dtmf, :notify, :cleared")

    def _decode_start(self, said: dict[str, Any]) -> CallStarted:
        custom = read_parameters({key: said[key] for key in said.keys() - {"event", "content-type"}})
        call_id = custom.pop("call_id", "")
        caller, callee = custom.pop("caller", ""), custom.pop("callee", "")
        return CallStarted(call_id, call_id, caller, callee, custom, _decode_format(read_text(said, "content-type")))

    def _encode_event(self, event: LineEvent) -> Message:
        match event:
            case Media(payload):
                return payload
            case CallStarted():
                ours = {"call_id": event.call_id, "caller": event.caller, "callee": event.callee}
                return write(
                    {
                        "event": "websocket:connected",
                        "content-type": content_type((event.format or DEFAULT).sample_rate),
                        **{name: value for name, value in ours.items() if value},
                        **{name: value for name, value in event.custom.items() if name not in RESERVED},
                    }
                )
            case KeyPressed(digit):
                return write({"event": "websocket:dtmf", "digit": digit, "duration": 260})
            case MarkPlayed(name):
                return write({"event": "websocket:notify", "payload": {"name": name}})
            case Cleared():
                return write({"event": "websocket:cleared"})
            case Stopped():
                return write({"event": "websocket:disconnected"})
        raise NotImplementedError(f"Vonage has no message for {type(event).__name__}")

    def send(self, command: LineCommand) -> Message:
        """See `LineCodec.send`."""
        match command:
            case SendMedia(payload):
                return payload
            case SendMark(name):
                return write({"action": "notify", "payload": {"name": name}})
            case SendClear():
                return write({"action": "clear"})
        raise NotImplementedError(f"Vonage has no message for {type(command).__name__}")

    def receive_command(self, message: Message) -> LineCommand:
        """See `LineCodec.receive_command`."""
        if isinstance(message, bytes):
            return SendMedia(message)
        said = parse_object(message)
        match said.get("action"):
            case "notify":
                return SendMark(read_text(read_object(said, "payload"), "name"))
            case "clear":
                return SendClear()
            case other:
                raise unknown_event(other, "notify, clear")


def content_type(sample_rate: int) -> str:
    """Vonage's name for its audio."""
    return f"audio/l16;rate={sample_rate}"


def _decode_format(told: str) -> MediaFormat:
    found = re.fullmatch(r"audio/l16; ?rate=([0-9]{4,5})", told)
    if not found or int(found[1]) not in SAMPLE_RATES:
        raise RemoteProtocolError(
            f"content-type {json.dumps(told[:40])}; expected audio/l16;rate=8000, 16000 or 24000",
            close_code=WRONG_KIND,
        )
    return MediaFormat("pcm_s16le", int(found[1]))
