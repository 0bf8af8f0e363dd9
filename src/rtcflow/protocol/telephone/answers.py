"""The answer to a carrier's webhook when a call comes in: "stream this call to that WebSocket".

Sources: TwiML ``<Connect><Stream>`` (Twilio), TeXML ``<Stream>`` (Telnyx), Plivo XML ``<Stream>``, NCCO ``connect``
with an endpoint of type ``websocket`` (Vonage). This module does not dial out; use the carrier's own API.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from .json_media import write_extra_headers
from .vonage import RESERVED, content_type

XML = "application/xml"
JSON = "application/json"

NCCO_HEADERS_BOUND = 512
"""Vonage takes at most this many bytes of ``headers`` ("WebSockets in the Vonage Voice API")."""

EXTRA_HEADERS_BOUND = 512
"""Plivo takes at most this many bytes of ``extraHeaders`` ("The Stream element")."""

NUMBER_BOUND = 32
"""The most characters of a number that are passed on. E.164 numbers and the carriers' SIP user parts are shorter."""
CALL_ID_BOUND = 64
"""The same for a call's id. The longest, Vonage's, has 40."""

_ESCAPES = {ord(sign): f"&#{ord(sign)};" for sign in '&<>"\t\n\r'}
_NOT_PLAIN = re.compile(r'[^\x20-\x7e]|["\\]')
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0 section 2.2


def answer_call(
    carrier: str,
    url: str,
    parameters: Mapping[str, str] | None = None,
    *,
    sample_rate: int = 16000,
    signed: bool = False,
) -> tuple[str, str]:
    """The answer that connects an incoming call to the WebSocket at `url`.

    Args:
        carrier: ``"twilio"``, ``"telnyx"``, ``"plivo"`` or ``"vonage"``.
        url: A ``wss://`` URL. Twilio allows no query string in it.
        parameters: Passed to the WebSocket with the start of the call, as `CallStarted.custom`. ``caller``, ``callee``
            and ``call_id`` have fields of their own there.
        sample_rate: Of Vonage's audio, Hz: 8000, 16000 or 24000. The others are telephone audio, 8000 Hz.
        signed: Have Vonage sign the WebSocket's upgrade as it signs its webhooks.

    Returns:
        ``(media_type, body)`` of the HTTP answer.

    Raises:
        ValueError: The carrier is unknown, or takes fewer bytes of parameters.
    """
    named = dict(parameters or {})
    match carrier:
        case "twilio":
            return XML, _response(f"<Connect><Stream url={_attribute(url)}>{_parameters(named)}</Stream></Connect>")
        case "telnyx":
            settings = 'codec="PCMU" bidirectionalMode="rtp" bidirectionalCodec="PCMU"'
            stream = f"<Stream url={_attribute(url)} {settings}>{_parameters(named)}</Stream>"
            return XML, _response(f"<Connect>{stream}</Connect>")
        case "plivo":
            settings = 'bidirectional="true" keepCallAlive="true" contentType="audio/x-mulaw;rate=8000"'
            if named:
                headers = write_extra_headers(named, ",")
                _check_room("Plivo", len(headers), EXTRA_HEADERS_BOUND)
                settings += f" extraHeaders={_attribute(headers)}"
            return XML, _response(f"<Stream {settings}>{_escaped(url)}</Stream>")
        case "vonage":
            if taken := [name for name in named if name in RESERVED]:
                raise ValueError(f"Vonage has a {taken[0]!r} of its own; give the parameter another name")
            _check_room("Vonage", len(json.dumps(named)), NCCO_HEADERS_BOUND)
            endpoint: dict[str, object] = {
                "type": "websocket",
                "uri": url,
                "content-type": content_type(sample_rate),
                "headers": named,
            }
            if signed:
                endpoint["authorization"] = {"type": "vonage"}
            return JSON, json.dumps([{"action": "connect", "endpoint": [endpoint]}])
    raise ValueError(f"unknown carrier {carrier[:40]!r}; known are twilio, telnyx, plivo, vonage")


def _check_room(carrier: str, size: int, bound: int) -> None:
    if size > bound:
        raise ValueError(
            f"{carrier} takes {bound} bytes of parameters at most, the caller's and the callee's numbers among them; "
            f"these are up to {size}: hand over fewer, or a key under which the application finds the rest"
        )


def check_parameters(carrier: str, parameters: Mapping[str, str]) -> None:
    """Check that `answer_call` has room for `parameters` in every call.

    Raises:
        ValueError: There is not enough room, or a name is one of the carrier's own.
    """
    call = {"caller": NUMBER_BOUND * "+", "callee": NUMBER_BOUND * "+"}
    if carrier == "vonage":
        call["call_id"] = CALL_ID_BOUND * "-"
    answer_call(carrier, "", {**parameters, **call})


def read_call(said: Mapping[str, str]) -> dict[str, str]:
    """Read caller, callee and call id from a carrier's webhook, as parameters for `answer_call`.

    Twilio and Telnyx (TeXML) name the call ``CallSid``, Plivo ``CallUUID``, Vonage ``uuid``. These values hold
    printable ASCII without quotes and backslashes, so other characters are left out. A longer value is cut. So all
    three have room beside parameters that passed `check_parameters`.
    """
    names = {"caller": ("From", "from"), "callee": ("To", "to"), "call_id": ("CallSid", "CallUUID", "uuid")}
    found = {ours: next((said[name] for name in theirs if said.get(name)), "") for ours, theirs in names.items()}
    bounds = {"caller": NUMBER_BOUND, "callee": NUMBER_BOUND, "call_id": CALL_ID_BOUND}
    plain = {name: _NOT_PLAIN.sub("", value)[: bounds[name]] for name, value in found.items()}
    return {name: value for name, value in plain.items() if value}


def _response(inside: str) -> str:
    return f'<?xml version="1.0" encoding="UTF-8"?><Response>{inside}</Response>'


def _parameters(named: Mapping[str, str]) -> str:
    return "".join(f"<Parameter name={_attribute(name)} value={_attribute(text)}/>" for name, text in named.items())


def _attribute(text: str) -> str:
    return f'"{_escaped(text)}"'


def _escaped(text: str) -> str:
    """`text` for XML; white space as references, which parsers leave alone (XML 1.0 section 3.3.3)."""
    return _NOT_XML.sub("", text).translate(_ESCAPES)
