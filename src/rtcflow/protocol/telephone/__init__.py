"""Telephone carriers: their media streams, their webhooks' answers. Formats only; no carrier is called from here."""

from __future__ import annotations

from ...exceptions import RemoteProtocolError
from ..lines import WRONG_KIND, LineCodec, Message, binary_json, parse_object, unknown_event
from .answers import answer_call
from .exotel import ExotelCodec
from .genesys import GenesysCodec
from .json_media import JsonMediaCodec, PlivoCodec, TelnyxCodec, TwilioCodec
from .vonage import VonageCodec

__all__ = [
    "CARRIERS",
    "MEDIA_STREAMS",
    "ExotelCodec",
    "GenesysCodec",
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
"""Carriers whose webhooks are answered; they are served by default."""

MEDIA_STREAMS: dict[str, type[LineCodec]] = {**CARRIERS, "exotel": ExotelCodec, "genesys": GenesysCodec}
"""All carriers whose media streams are understood. Exotel's and Genesys' own settings name the WebSocket's URL."""


def carrier_codec(name: str) -> LineCodec:
    """A codec for one call of the carrier called `name`.

    Raises:
        ValueError: No carrier has that name.
    """
    if name not in MEDIA_STREAMS:
        raise ValueError(f"unknown carrier {str(name)[:40]!r}; known are {', '.join(MEDIA_STREAMS)}")
    return MEDIA_STREAMS[name]()


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
            return TwilioCodec() if "protocol" in said else TelnyxCodec() if "version" in said else ExotelCodec()
        case "start" if "streamSid" in said:
            return TwilioCodec()
        case "start" if "stream_sid" in said or (isinstance(start, dict) and "stream_sid" in start):
            return ExotelCodec()
        case "start" if "streamId" in said or (isinstance(start, dict) and "streamId" in start):
            return PlivoCodec()
        case "start":
            return TelnyxCodec()
        case "websocket:connected":
            return VonageCodec()
        case None if said.get("type") == "open" and "version" in said:
            return GenesysCodec()
        case other:
            raise unknown_event(other, "a carrier's connected, start or websocket:connected, to begin with")
