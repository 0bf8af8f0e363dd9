"""Exotel's Voicebot applet: the JSON of the other carriers in snake_case, with linear samples inside.

Source: "Working with the Stream and Voicebot Applet", Exotel's documentation. It asks for messages of 100 ms or more
(3,200 bytes at 8 kHz), so what is due within 100 ms leaves together.
"""

from __future__ import annotations

from typing import Any, ClassVar

from ...exceptions import RemoteProtocolError
from ..lines import (
    TELEPHONE,
    WRONG_KIND,
    CallStarted,
    Connected,
    LineEvent,
    MarkPlayed,
    MediaFormat,
    read_count,
    read_id,
    read_object,
    read_parameters,
    read_text,
    unknown_to_us,
    write,
)
from .json_media import JsonMediaCodec

_LINEAR = ("base64", "raw/slin", "audio/x-l16", "audio/l16")  # codespell:ignore slin
"""How Exotel names signed 16-bit little-endian samples; ``base64`` names only what they travel in."""


class ExotelCodec(JsonMediaCodec):
    """Exotel, bidirectional: signed 16-bit little-endian samples, mono, 8, 16 or 24 kHz, or mu-law at 8 kHz."""

    name: ClassVar[str] = "exotel"
    message_seconds: ClassVar[float] = 0.1

    def _decode_start(self, said: dict[str, Any], start: dict[str, Any]) -> CallStarted:
        return CallStarted(
            call_id=read_id(start, "call_sid"),
            stream_id=read_id(start if "stream_sid" in start else said, "stream_sid"),
            caller=read_text(start, "from", ""),
            callee=read_text(start, "to", ""),
            custom=read_parameters(start.get("custom_parameters")),
            format=_read_format(read_object(start, "media_format")),
        )

    def _decode_other(self, event: object, said: dict[str, Any]) -> LineEvent:
        match event:
            case "connected":
                return Connected()
            case "mark":
                return MarkPlayed(read_text(read_object(said, "mark"), "name"))
        return unknown_to_us(event, "connected, start, media, dtmf, mark, stop")

    def _write(self, event: str, **parts: object) -> str:
        return write({"event": event, "sequence_number": self._sequence, "stream_sid": self._stream_id, **parts})

    def _encode_start(self, event: CallStarted) -> str:
        agreed = event.format or MediaFormat("pcm_s16le", 8000)
        encoding = "base64" if agreed.codec == "pcm_s16le" else "audio/x-mulaw"
        start: dict[str, object] = {
            "stream_sid": event.stream_id,
            "call_sid": event.call_id,
            "account_sid": "rtcflow",
            "from": event.caller,
            "to": event.callee,
            "custom_parameters": dict(event.custom),
            "media_format": {"encoding": encoding, "sample_rate": str(agreed.sample_rate), "bit_rate": "128kbps"},
        }
        return self._write("start", start=start)

    def _encode_other(self, event: LineEvent) -> str:
        if isinstance(event, Connected):
            self._sequence = 0
            return write({"event": "connected"})
        return super()._encode_other(event)

    def _stop_parts(self) -> dict[str, str]:
        return {"call_sid": "" if self.call is None else self.call.call_id, "reason": "callended"}

    def _stream_parts(self) -> dict[str, str]:
        return {"stream_sid": self._stream_id}


def _read_format(said: dict[str, Any]) -> MediaFormat:
    encoding, sample_rate = read_text(said, "encoding", "base64").lower(), read_count(said, "sample_rate")
    if encoding == "audio/x-mulaw" and sample_rate == 8000:
        return TELEPHONE
    if encoding in _LINEAR and sample_rate in {8000, 16000, 24000}:
        return MediaFormat("pcm_s16le", sample_rate)
    raise RemoteProtocolError(
        f"Exotel sends {encoding[:40]!r} at {sample_rate} Hz; set sample-rate to 8000, 16000 or 24000",
        close_code=WRONG_KIND,
    )
