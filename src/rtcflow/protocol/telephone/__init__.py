"""Telephone carriers: their media streams, their webhooks' answers. Formats only; no carrier is called from here."""

from __future__ import annotations

from ...exceptions import RemoteProtocolError
from ..lines import WRONG_KIND, LineCodec, Message, binary_json, parse_object, unknown_event
from .answers import answer_call
from .json_media import JsonMediaCodec, PlivoCodec, TelnyxCodec, TwilioCodec
from .vonage import VonageCodec

__all__ = [
    "CARRIERS",
    "JsonMediaCodec",
    "PlivoCodec",
    "TelnyxCodec",
    "TwilioCodec",
    "VonageCodec",
    "answer_call",
    "carrier_codec",
    "detect",
]

CARRIERS: dict[str, type[LineCodec]] = {
    codec.name: codec for codec in (TwilioCodec, TelnyxCodec, PlivoCodec, VonageCodec)
}


def carrier_codec(name: str) -> LineCodec:
    """A codec for one call of the carrier called `name`.

    Raises:
        ValueError: No carrier has that name.
    """
    if name not in CARRIERS:
        raise ValueError(f"unknown carrier {name[:40]!r}; known are {', '.join(CARRIERS)}")
    return CARRIERS[name]()


def detect(first_message: Message) -> LineCodec:
    """The codec of the carrier that begins with `first_message`, which is then still to be received.

    Raises:
        RemoteProtocolError: No carrier begins like that.
    """
    if isinstance(first_message, bytes):
        raise binary_json(first_message) or RemoteProtocolError(
            "audio came before the call was started; every carrier begins with a text message", close_code=WRONG_KIND
        )
    said = parse_object(first_message)
    start = said.get("start")
    match said.get("event"):
        case "connected":
            return TwilioCodec() if "protocol" in said else TelnyxCodec()
        case "start" if "streamSid" in said:
            return TwilioCodec()
        case "start" if "streamId" in said or (isinstance(start, dict) and "streamId" in start):
            return PlivoCodec()
        case "start":
            return TelnyxCodec()
        case "websocket:connected":
            return VonageCodec()
        case other:
            raise unknown_event(other, "a carrier's connected, start or websocket:connected, to begin with")
