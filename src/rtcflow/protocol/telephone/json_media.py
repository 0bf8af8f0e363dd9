"""Media streams as JSON with base64 audio: Twilio, Telnyx and Plivo, which differ in names only.

Sources: "Media Streams: WebSocket Messages" (Twilio), "Stream call media over WebSocket" (Telnyx), "Audio streaming"
(Plivo), each carrier's own documentation. Numbers come as strings from some and as numbers from others; both are read.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar
from urllib.parse import unquote

from ...exceptions import RemoteProtocolError
from ..lines import (
    TELEPHONE,
    WRONG_KIND,
    CallStarted,
    CarrierFailed,
    Cleared,
    Connected,
    KeyPressed,
    LineCodec,
    LineCommand,
    LineEvent,
    MarkPlayed,
    Media,
    MediaFormat,
    Message,
    SendClear,
    SendDtmf,
    SendMark,
    SendMedia,
    Stopped,
    parse_object,
    read_count,
    read_digit,
    read_id,
    read_object,
    read_parameters,
    read_payload,
    read_text,
    unknown_event,
    unknown_to_us,
    write,
    write_payload,
    wrong,
)

_NOT_ALPHANUMERIC = re.compile("[^A-Za-z0-9]+")

_OUR_PARAMETERS = ("caller", "callee")
"""Our answer to the webhook hands the two numbers on as parameters, for carriers whose start message lacks them."""


class JsonMediaCodec(LineCodec):
    """What the three carriers have in common."""

    _sequence = 0
    _chunk = 0

    # -- the server's role

    def _decode_event(self, message: Message) -> LineEvent | None:
        said = parse_object(message)
        match said.get("event"):
            case "media":
                media = read_object(said, "media")
                if read_text(media, "track", "inbound").startswith("outbound"):
                    return None  # our own voice, where both tracks were asked for
                return Media(read_payload(media), read_count(media, "chunk"), read_count(media, "timestamp"))
            case "start":
                return self._decode_start(said, read_object(said, "start"))
            case "dtmf":
                return read_digit(read_object(said, "dtmf").get("digit"))
            case "stop":
                return Stopped()
            case other:
                return self._decode_other(other, said)

    @abstractmethod
    def _decode_start(self, said: dict[str, Any], start: dict[str, Any]) -> CallStarted: ...

    @abstractmethod
    def _decode_other(self, event: object, said: dict[str, Any]) -> LineEvent | None: ...

    # -- the caller's role

    def _encode_event(self, event: LineEvent) -> Message:
        self._sequence += 1
        match event:
            case Media(payload, chunk, timestamp):
                self._chunk = self._chunk + 1 if chunk is None else chunk
                return self._write(
                    "media",
                    media={
                        "track": "inbound",
                        "chunk": str(self._chunk),
                        "timestamp": str(20 * self._chunk if timestamp is None else timestamp),
                        "payload": write_payload(payload),
                    },
                )
            case KeyPressed(digit):
                return self._write("dtmf", dtmf={"track": "inbound_track", "digit": digit})
            case MarkPlayed(name):
                return self._write("mark", mark={"name": name})
            case CallStarted():
                return self._encode_start(event)
            case Stopped():
                return self._write("stop", stop=self._stop_parts())
            case other:
                return self._encode_other(other)

    @abstractmethod
    def _write(self, event: str, **parts: object) -> str:
        """A message with the carrier's own names of the sequence number and the stream."""

    @abstractmethod
    def _encode_start(self, event: CallStarted) -> str: ...

    def _encode_other(self, event: LineEvent) -> str:
        raise NotImplementedError(f"{self.name} has no message for {type(event).__name__}")

    def _stop_parts(self) -> dict[str, str]:
        return {}

    # -- what the server says. Plivo has names of its own

    def send(self, command: LineCommand) -> Message:
        """See `LineCodec.send`."""
        match command:
            case SendMedia(payload):
                parts: dict[str, object] = {"event": "media", "media": {"payload": write_payload(payload)}}
            case SendMark(name):
                parts = {"event": "mark", "mark": {"name": name}}
            case SendClear():
                parts = {"event": "clear"}
            case _:
                raise NotImplementedError(f"{self.name} has no message for {type(command).__name__}")
        return write({**parts, **self._stream_parts()})

    def receive_command(self, message: Message) -> LineCommand:
        """See `LineCodec.receive_command`."""
        said = parse_object(message)
        match said.get("event"):
            case "media":
                return SendMedia(read_payload(read_object(said, "media")))
            case "mark":
                return SendMark(read_text(read_object(said, "mark"), "name"))
            case "clear":
                return SendClear()
            case other:
                raise unknown_event(other, "media, mark, clear")

    def _stream_parts(self) -> dict[str, str]:
        """The carrier's name of the stream, in what the server says."""
        return {}

    @property
    def _stream_id(self) -> str:
        return self.call.stream_id if self.call is not None else ""


def _take_numbers(custom: dict[str, str]) -> tuple[str, str]:
    caller, callee = (custom.pop(name, "") for name in _OUR_PARAMETERS)
    return caller, callee


def _with_numbers(event: CallStarted) -> dict[str, str]:
    numbers = {"caller": event.caller, "callee": event.callee}
    return {**event.custom, **{name: number for name, number in numbers.items() if number}}


def _mime_format(said: Mapping[str, Any], carrier: str) -> MediaFormat:
    """A format as Twilio and Plivo write it."""
    encoding, sample_rate = read_text(said, "encoding"), read_count(said, "sampleRate")
    if encoding == "audio/x-mulaw" and sample_rate == 8000:
        return TELEPHONE
    if encoding == "audio/x-l16" and sample_rate in {8000, 16000}:
        return MediaFormat("pcm_s16le", sample_rate)
    raise RemoteProtocolError(
        f"{carrier} sends {encoding[:40]!r} at {sample_rate} Hz; set the stream to audio/x-mulaw;rate=8000",
        close_code=WRONG_KIND,
    )


def _format(call: CallStarted | None) -> MediaFormat:
    return (None if call is None else call.format) or TELEPHONE


_MIME: dict[str, str] = {"mulaw": "audio/x-mulaw", "pcm_s16le": "audio/x-l16"}


_ACCOUNT = "AC" + 32 * "0"
"""The simulated caller's account at Twilio."""


class TwilioCodec(JsonMediaCodec):
    """Twilio Media Streams, bidirectional (``<Connect><Stream>``): mu-law, 8 kHz, mono."""

    name: ClassVar[str] = "twilio"

    def _decode_start(self, said: dict[str, Any], start: dict[str, Any]) -> CallStarted:
        custom = read_parameters(start.get("customParameters"))
        caller, callee = _take_numbers(custom)
        return CallStarted(
            call_id=read_id(start, "callSid"),
            stream_id=read_id(said, "streamSid"),
            caller=caller,
            callee=callee,
            custom=custom,
            format=_mime_format(read_object(start, "mediaFormat"), "Twilio"),
        )

    def _decode_other(self, event: object, said: dict[str, Any]) -> LineEvent:
        match event:
            case "connected":
                return Connected()
            case "mark":
                return MarkPlayed(read_text(read_object(said, "mark"), "name"))
        return unknown_to_us(event, "connected, start, media, dtmf, mark, stop")

    def _write(self, event: str, **parts: object) -> str:
        return write({"event": event, "sequenceNumber": str(self._sequence), "streamSid": self._stream_id, **parts})

    def _encode_start(self, event: CallStarted) -> str:
        start = {
            "accountSid": _ACCOUNT,
            "streamSid": event.stream_id,
            "callSid": event.call_id,
            "tracks": ["inbound"],
            "customParameters": _with_numbers(event),
            "mediaFormat": {
                "encoding": _MIME[_format(event).codec],
                "sampleRate": _format(event).sample_rate,
                "channels": 1,
            },
        }
        return self._write("start", start=start)

    def _stop_parts(self) -> dict[str, str]:
        return {"accountSid": _ACCOUNT, "callSid": self.call.call_id if self.call is not None else ""}

    def _encode_other(self, event: LineEvent) -> str:
        if isinstance(event, Connected):
            self._sequence = 0  # 'connected' is not counted
            return write({"event": "connected", "protocol": "Call", "version": "1.0.0"})
        return super()._encode_other(event)

    def _stream_parts(self) -> dict[str, str]:
        return {"streamSid": self._stream_id}

    def receive_command(self, message: Message) -> LineCommand:
        """See `LineCodec.receive_command`."""
        if parse_object(message).get("streamSid") != self._stream_id:
            raise wrong(f"'streamSid' must be {self._stream_id!r}")
        return super().receive_command(message)


class TelnyxCodec(JsonMediaCodec):
    """Telnyx Media Streaming with ``stream_bidirectional_mode: rtp``: PCMU or PCMA, 8 kHz, mono, both ways alike.

    The order of media is not guaranteed; `Reorder` puts it right.
    """

    name: ClassVar[str] = "telnyx"
    ordered: ClassVar[bool] = False
    _FORMATS: ClassVar[dict[tuple[str, int | None], MediaFormat]] = {
        ("PCMU", 8000): TELEPHONE,
        ("PCMA", 8000): MediaFormat("alaw", 8000),
    }

    def _decode_start(self, said: dict[str, Any], start: dict[str, Any]) -> CallStarted:
        custom = read_parameters(start.get("custom_parameters"))
        caller, callee = _take_numbers(custom)
        media_format = read_object(start, "media_format")
        encoding, sample_rate = read_text(media_format, "encoding"), read_count(media_format, "sample_rate")
        agreed = self._FORMATS.get((encoding, sample_rate))
        if agreed is None:
            raise RemoteProtocolError(
                f"Telnyx sends {encoding[:40]!r} at {sample_rate} Hz; set codec and bidirectionalCodec to PCMU",
                close_code=WRONG_KIND,
            )
        call_id = read_id(start, "call_control_id")
        return CallStarted(
            call_id=call_id,
            stream_id=read_text(said, "stream_id", call_id),
            caller=read_text(start, "from", caller),
            callee=read_text(start, "to", callee),
            custom=custom,
            format=agreed,
        )

    def _decode_other(self, event: object, said: dict[str, Any]) -> LineEvent:
        match event:
            case "connected":
                return Connected(read_text(said, "x-telnyx-streaming-auth-token", ""))
            case "mark":
                return MarkPlayed(read_text(read_object(said, "mark"), "name"))
            case "error":
                details = said.get("payload")
                details = details if isinstance(details, dict) else {}
                return CarrierFailed(read_text(details, "title", "") or read_text(details, "detail", "error"))
        return unknown_to_us(event, "connected, start, media, dtmf, mark, error, stop")

    def _write(self, event: str, **parts: object) -> str:
        return write({"event": event, "sequence_number": str(self._sequence), "stream_id": self._stream_id, **parts})

    def _encode_start(self, event: CallStarted) -> str:
        encoding = {"mulaw": "PCMU", "alaw": "PCMA"}[_format(event).codec]
        start: dict[str, object] = {
            "call_control_id": event.call_id,
            "from": event.caller,
            "to": event.callee,
            "custom_parameters": dict(event.custom),
            "media_format": {"encoding": encoding, "sample_rate": _format(event).sample_rate, "channels": 1},
        }
        return self._write("start", start=start)

    def _encode_other(self, event: LineEvent) -> str:
        match event:
            case Connected(token):
                self._sequence = 0
                secret = {"x-telnyx-streaming-auth-token": token} if token else {}
                return write({"event": "connected", "version": "1.0.0", **secret})
            case CarrierFailed(reason):
                return self._write("error", payload={"code": 100002, "title": reason})
        return super()._encode_other(event)


class PlivoCodec(JsonMediaCodec):
    """Plivo Audio Streaming, bidirectional: mu-law at 8 kHz, or linear samples at 8 or 16 kHz; mono.

    The end of the call is the end of the WebSocket; a ``stop`` is read all the same.
    """

    name: ClassVar[str] = "plivo"
    stops: ClassVar[bool] = False
    presses: ClassVar[bool] = True

    def _decode_start(self, said: dict[str, Any], start: dict[str, Any]) -> CallStarted:
        custom = read_extra_headers(said.get("extra_headers"))
        caller, callee = _take_numbers(custom)
        return CallStarted(
            call_id=read_id(start, "callId"),
            stream_id=read_id(start if "streamId" in start else said, "streamId"),
            caller=caller,
            callee=callee,
            custom=custom,
            format=_mime_format(read_object(start, "mediaFormat"), "Plivo"),
        )

    def _decode_other(self, event: object, said: dict[str, Any]) -> LineEvent:
        match event:
            case "playedStream":
                return MarkPlayed(read_text(said, "name"))
            case "clearedAudio":
                return Cleared()
        return unknown_to_us(event, "start, media, dtmf, playedStream, clearedAudio, stop")

    def _write(self, event: str, **parts: object) -> str:
        return write({"event": event, "sequenceNumber": self._sequence, "streamId": self._stream_id, **parts})

    def _encode_start(self, event: CallStarted) -> str:
        start: dict[str, object] = {
            "callId": event.call_id,
            "streamId": event.stream_id,
            "accountId": "0",
            "tracks": ["inbound"],
            "mediaFormat": {"encoding": _MIME[_format(event).codec], "sampleRate": _format(event).sample_rate},
        }
        headers = write_extra_headers(_with_numbers(event))
        return write({"event": "start", "sequenceNumber": self._sequence, "start": start, "extra_headers": headers})

    def _encode_other(self, event: LineEvent) -> str:
        if isinstance(event, Cleared):
            return self._write("clearedAudio")
        return super()._encode_other(event)

    def _encode_event(self, event: LineEvent) -> Message:
        if isinstance(event, MarkPlayed):
            self._sequence += 1
            return self._write("playedStream", name=event.name)
        return super()._encode_event(event)

    def send(self, command: LineCommand) -> Message:
        """See `LineCodec.send`."""
        match command:
            case SendMedia(payload):
                agreed = _format(self.call)
                media = {
                    "contentType": _MIME[agreed.codec],
                    "sampleRate": agreed.sample_rate,
                    "payload": write_payload(payload),
                }
                return write({"event": "playAudio", "streamId": self._stream_id, "media": media})
            case SendMark(name):
                return write({"event": "checkpoint", "streamId": self._stream_id, "name": name})
            case SendClear():
                return write({"event": "clearAudio", "streamId": self._stream_id})
            case SendDtmf(digits):
                return write({"event": "sendDTMF", "dtmf": digits})
        raise NotImplementedError(f"Plivo has no message for {type(command).__name__}")

    def receive_command(self, message: Message) -> LineCommand:
        """See `LineCodec.receive_command`."""
        said = parse_object(message)
        match said.get("event"):
            case "playAudio":
                media = read_object(said, "media")
                agreed = _format(self.call)
                told = (read_text(media, "contentType"), read_count(media, "sampleRate"))
                if told != (_MIME[agreed.codec], agreed.sample_rate):
                    raise wrong(f"the stream is {_MIME[agreed.codec]};rate={agreed.sample_rate}, not {told}")
                return SendMedia(read_payload(media))
            case "checkpoint":
                return SendMark(read_text(said, "name"))
            case "clearAudio":
                return SendClear()
            case "sendDTMF":
                return SendDtmf(read_text(said, "dtmf"))
            case other:
                raise unknown_event(other, "playAudio, checkpoint, clearAudio, sendDTMF")


def read_extra_headers(value: object) -> dict[str, str]:
    """Plivo's ``extra_headers``: ``a=b;c=d``, percent-encoded as by `write_extra_headers`; or an object."""
    if value is None or isinstance(value, dict):
        return read_parameters(value)
    if not isinstance(value, str):
        raise wrong("'extra_headers' must be a string")
    pairs = (part.partition("=") for part in value.strip("{}").replace(",", ";").split(";"))
    return {unquote(name.strip()): unquote(text.strip()) for name, equals, text in pairs if equals}


def write_extra_headers(parameters: Mapping[str, str], separator: str = ";") -> str:
    """`parameters` as Plivo's ``extra_headers``, percent-encoded since Plivo allows letters, digits and % only."""
    return separator.join(f"{_plain(name)}={_plain(text)}" for name, text in parameters.items())


def _plain(text: str) -> str:
    """`text` of letters, digits and % alone; `quote` would leave ``_.-~``."""
    return _NOT_ALPHANUMERIC.sub(lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode()), text)
