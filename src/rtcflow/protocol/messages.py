"""What goes over the data channel: FastRTC's messages, typed.

A server tells its page about the conversation in JSON, ``{"type": T, "data": D}``. A page opens with the plain word
``handshake``. Any other text is the application's own. FastRTC's documentation gives errors and warnings under ``data``
while its code sends them under ``message``: both keys are written, either is read.

Text is ours only if it is *exactly* ours. A message with one of our types but other keys, or other data, is the
application's, and reaches it unchanged.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from ..exceptions import RemoteProtocolError
from .json_text import read_json_object

MAX_MESSAGE_SIZE: Final = 65_536
"""Bytes of UTF-8 in one message: what a peer that says nothing else takes (RFC 8841 section 6.1, 64 KB)."""

HANDSHAKE: Final = "handshake"

DIGITS: Final = "0123456789*#ABCD"
"""The keys of a telephone (ITU-T Q.23)."""


def check_keys(keys: str, more: str = "") -> None:
    """Check that a telephone has these keys, or that they are among `more`.

    Raises:
        ValueError: One of the keys is something else.
    """
    if strange := [key for key in keys if key not in DIGITS + more]:
        raise ValueError(f"a telephone has no key {strange[0]!r}; it has {DIGITS}")


@dataclass(frozen=True, slots=True)
class Handshake:
    """The page's channel is open: its first words."""


@dataclass(frozen=True, slots=True)
class SendInput:
    """The handler would like new arguments: the page should post them."""


@dataclass(frozen=True, slots=True)
class FetchOutput:
    """There are additional outputs to be fetched."""


@dataclass(frozen=True, slots=True)
class EndStream:
    """The connection is about to end, on purpose.

    Attributes:
        reason: Words for the user.
    """

    reason: str = ""


@dataclass(frozen=True, slots=True)
class StopWord:
    """A stop word was heard.

    Attributes:
        text: Which; FastRTC leaves it empty.
    """

    text: str = ""


@dataclass(frozen=True, slots=True)
class Log:
    """Something happened in the conversation.

    Attributes:
        text: ``"started_talking"``, ``"pause_detected"``, ``"response_starting"``, or any words.
    """

    text: str


@dataclass(frozen=True, slots=True)
class Error:
    """Something failed; the page shows it.

    Attributes:
        text: What happened.
    """

    text: str


@dataclass(frozen=True, slots=True)
class Warning:  # noqa: A001 - the protocol's word
    """Something the user should know; the page shows it.

    Attributes:
        text: What.
    """

    text: str


@dataclass(frozen=True, slots=True)
class UpdateConnection:
    """The page should change its connection.

    Attributes:
        state: Only ``"closed"`` is known.
    """

    state: str = "closed"


@dataclass(frozen=True, slots=True)
class Dtmf:
    """The peer pressed a key of a telephone; on telephone lines the carrier says so.

    Attributes:
        digit: One of ``0123456789*#ABCD``.
    """

    digit: str


@dataclass(frozen=True, slots=True)
class AppMessage:
    """Text of the application's own, as it came.

    Attributes:
        text: Any text. Text that is exactly one of the messages above is read as that message.
    """

    text: str


Message: TypeAlias = (
    Handshake
    | SendInput
    | FetchOutput
    | EndStream
    | StopWord
    | Log
    | Error
    | Warning
    | UpdateConnection
    | Dtmf
    | AppMessage
)

_READERS: Mapping[str, Callable[[Any], Message | None]] = {
    "send_input": lambda data: SendInput() if data == [] else None,
    "fetch_output": lambda data: FetchOutput() if data == [] else None,
    "end_stream": lambda data: EndStream(data) if isinstance(data, str) else None,
    "stopword": lambda data: StopWord(data) if isinstance(data, str) else None,
    "log": lambda data: Log(data) if isinstance(data, str) else None,
    "error": lambda data: Error(data) if isinstance(data, str) else None,
    "warning": lambda data: Warning(data) if isinstance(data, str) else None,
    "dtmf": lambda data: Dtmf(data) if isinstance(data, str) and len(data) == 1 and data in DIGITS else None,
    "update_connection": lambda data: UpdateConnection(data) if data == "closed" else None,
}


def encode(message: Message) -> str:
    """Write `message` as the text that goes over the wire."""
    match message:
        case AppMessage(text):
            return text
        case Handshake():
            return HANDSHAKE
        case SendInput():
            return _typed("send_input", [])
        case FetchOutput():
            return _typed("fetch_output", [])
        case EndStream(reason):
            return _typed("end_stream", reason)
        case StopWord(text):
            return _typed("stopword", text)
        case Log(text):
            return _typed("log", text)
        case Error(text):
            return json.dumps({"type": "error", "message": text, "data": text})
        case Warning(text):
            return json.dumps({"type": "warning", "message": text, "data": text})
        case UpdateConnection(state):
            return _typed("update_connection", state)
        case _:
            return _typed("dtmf", message.digit)


def _typed(type_: str, data: str | list[Any]) -> str:
    return json.dumps({"type": type_, "data": data})


def decode(text: str, *, max_size: int = MAX_MESSAGE_SIZE) -> Message:
    """Read one message of the peer; ``decode(encode(message)) == message``.

    Args:
        text: Anything.
        max_size: Bytes of UTF-8 allowed.

    Raises:
        RemoteProtocolError: The message is longer than `max_size`. Nothing else is an error: what is not ours is an
            `AppMessage`.
    """
    if len(text) > max_size or (len(text) * 4 > max_size and len(text.encode(errors="surrogatepass")) > max_size):
        raise RemoteProtocolError(f"a message of more than {max_size} bytes", close_code=1009)
    if text == HANDSHAKE:
        return Handshake()
    fields = read_json_object(text) if text.startswith("{") else None
    return (None if fields is None else _read(fields)) or AppMessage(text)


def _read(fields: dict[str, Any]) -> Message | None:
    """The message that `fields` spell, or None if they are not ours."""
    type_ = fields.get("type")
    reader = _READERS.get(type_) if isinstance(type_, str) else None
    if reader is None:
        return None
    values = [fields[key] for key in fields if key != "type"]
    keys = fields.keys() - {"type"}
    allowed = {"data", "message"} if type_ in {"error", "warning"} else {"data"}
    if not keys or not keys <= allowed or any(value != values[0] for value in values):
        return None
    return reader(values[0])
