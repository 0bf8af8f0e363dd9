"""Genesys Cloud AudioHook (Audio Connector), protocol version 2: binary mu-law, text JSON for all else.

    <- open      -> opened       the session, and one of the offered media formats
    <- ping      -> pong
    <- dtmf, paused, resumed, discarded, playback_started, playback_completed, update, error
    <- close     -> closed       the caller hung up
    -> event with a barge_in     drop what you have not played
    -> disconnect                we hang up; answered with close

Both sides count their messages (``seq``) and name the last one they have seen of the other (``clientseq``,
``serverseq``). There are no marks. Source: "AudioHook Protocol Reference", Genesys' documentation. Genesys limits how
many messages a second it takes, so what is due within 200 ms leaves together.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final

from ...exceptions import RemoteProtocolError
from ..lines import (
    TELEPHONE,
    TOO_BIG,
    WRONG_KIND,
    CallStarted,
    CarrierFailed,
    Cleared,
    KeyPressed,
    LineCodec,
    LineCommand,
    LineEvent,
    Media,
    Message,
    Ping,
    SendAccepted,
    SendClear,
    SendGoodbye,
    SendMedia,
    SendPong,
    Stopped,
    binary_json,
    parse_object,
    read_count,
    read_digit,
    read_id,
    read_object,
    read_parameters,
    read_text,
    unknown_event,
    unknown_to_us,
    write,
)

MAX_AUDIO: Final = 1 << 16
"""The longest binary message that is audio, in bytes: 8 s. Genesys sends 0.1 to 0.2 s."""

_MONO: Final = {"type": "audio", "format": "PCMU", "channels": ["external"], "rate": 8000}
_NOTHING_TO_DO: Final = {
    "paused",
    "resumed",
    "discarded",
    "update",
    "playback_started",
    "playback_completed",
}


class GenesysCodec(LineCodec):
    """Genesys AudioHook: mu-law, 8 kHz, mono (the caller's channel), in binary messages."""

    name: ClassVar[str] = "genesys"
    marks = False
    message_seconds: ClassVar[float] = 0.2
    answers: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__()
        self._sent = self._seen = 0
        self._session = ""

    def _decode_event(self, message: Message) -> LineEvent | None:
        if isinstance(message, bytes):
            if self.call is None and (error := binary_json(message)) is not None:
                raise error
            if len(message) > MAX_AUDIO:
                problem = f"a binary message of {len(message)} bytes; at most {MAX_AUDIO} are audio"
                raise RemoteProtocolError(problem, close_code=TOO_BIG)
            return Media(message)
        said = parse_object(message)
        self._seen = read_count(said, "seq") or self._seen
        parts = said.get("parameters")
        parts = parts if isinstance(parts, dict) else {}
        match said.get("type"):
            case "open":
                return self._decode_open(said, read_object(said, "parameters"))
            case "ping":
                return Ping()
            case "dtmf":
                return read_digit(parts.get("digit"))
            case "close":
                return Stopped()
            case "error":
                return CarrierFailed(read_text(parts, "message", "error"))
            case str(other) if other in _NOTHING_TO_DO:
                return None
            case other:
                return unknown_to_us(other, "open, ping, dtmf, close, error, paused, resumed, discarded, update")

    def _decode_open(self, said: dict[str, Any], parts: dict[str, Any]) -> CallStarted:
        self._session = read_id(said, "id")
        media = parts.get("media")
        if not isinstance(media, list) or not any(_is_mono(one) for one in media):
            raise RemoteProtocolError(
                "Genesys offers no PCMU at 8000 Hz with the external channel alone; choose Audio Connector",
                close_code=WRONG_KIND,
            )
        who = parts.get("participant")
        who = who if isinstance(who, dict) else {}
        return CallStarted(
            call_id=read_id(parts, "conversationId"),
            stream_id=self._session,
            caller=read_text(who, "ani", ""),
            callee=read_text(who, "dnis", ""),
            custom=read_parameters(parts.get("inputVariables")),
            format=TELEPHONE,
        )

    def _write(self, kind: str, parts: dict[str, Any], *, by_server: bool = True) -> str:
        self._sent += 1
        whose = {"clientseq": self._seen} if by_server else {"serverseq": self._seen, "position": "PT0S"}
        said = {"version": "2", "type": kind, "seq": self._sent, **whose, "id": self._session, "parameters": parts}
        return write(said)

    def send(self, command: LineCommand) -> Message:
        """See `LineCodec.send`."""
        match command:
            case SendMedia(payload):
                return payload
            case SendAccepted():
                return self._write("opened", {"startPaused": False, "media": [_MONO]})
            case SendPong():
                return self._write("pong", {})
            case SendClear():
                return self._write("event", {"entities": [{"type": "barge_in", "data": {}}]})
            case SendGoodbye() if self._stopped:
                return self._write("closed", {})
            case SendGoodbye():
                return self._write("disconnect", {"reason": "completed"})
        raise NotImplementedError(f"Genesys has no message for {type(command).__name__}")

    # -- the caller's role

    def _encode_event(self, event: LineEvent) -> Message:
        match event:
            case Media(payload):
                return payload
            case CallStarted():
                self._session = event.stream_id
                parts: dict[str, Any] = {
                    "organizationId": "rtcflow",
                    "conversationId": event.call_id,
                    "participant": {"id": event.call_id, "ani": event.caller, "aniName": "", "dnis": event.callee},
                    "media": [{**_MONO, "channels": ["external", "internal"]}, _MONO],
                    "inputVariables": dict(event.custom),
                }
                return self._write("open", parts, by_server=False)
            case KeyPressed(digit):
                return self._write("dtmf", {"digit": digit}, by_server=False)
            case Ping():
                return self._write("ping", {}, by_server=False)
            case Cleared():
                return self._write("playback_completed", {}, by_server=False)
            case Stopped():
                return self._write("close", {"reason": "end"}, by_server=False)
            case CarrierFailed(reason):
                return self._write("error", {"code": 500, "message": reason}, by_server=False)
        raise NotImplementedError(f"Genesys has no message for {type(event).__name__}")

    def receive_command(self, message: Message) -> LineCommand:
        """See `LineCodec.receive_command`."""
        if isinstance(message, bytes):
            return SendMedia(message)
        said = parse_object(message)
        self._seen = read_count(said, "seq") or self._seen
        match said.get("type"):
            case "opened":
                return SendAccepted(self._session, TELEPHONE, TELEPHONE)
            case "pong":
                return SendPong()
            case "event":
                return SendClear()
            case "closed" | "disconnect":
                return SendGoodbye()
            case other:
                raise unknown_event(other, "opened, pong, event, closed, disconnect")


def _is_mono(offered: object) -> bool:
    return isinstance(offered, dict) and all(offered.get(key) == value for key, value in _MONO.items())
