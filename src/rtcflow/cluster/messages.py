"""What nodes say to each other, as bytes: a head in JSON, and data as it is. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

_FIELDS: Final = (
    "type", "http_version", "method", "scheme", "path", "root_path", "path_params", "client", "server", "subprotocols",
)  # fmt: skip
"""What a forwarded request keeps of its ASGI scope, beside the fields that are bytes. All of them are plain JSON."""


def pack(head: Mapping[str, Any], data: bytes = b"") -> bytes:
    """One message."""
    return json.dumps(head, separators=(",", ":")).encode() + b"\n" + data


def unpack(message: bytes) -> tuple[dict[str, Any], bytes]:
    """The head and the data of a message.

    Raises:
        ValueError: It has no head.
    """
    head, _, data = message.partition(b"\n")
    fields = json.loads(head)
    if not isinstance(fields, dict):
        raise ValueError("the head of a message is not a JSON object")  # noqa: TRY004  bad input, not a wrong call
    return fields, data


def pack_scope(scope: Mapping[str, Any]) -> dict[str, Any]:
    """What another node needs of an ASGI scope, as JSON can carry it."""
    fields = {name: scope[name] for name in _FIELDS if scope.get(name) is not None}
    fields["path_params"] = {name: str(value) for name, value in scope.get("path_params", {}).items()}
    fields["headers"] = pack_headers(scope["headers"])
    fields["query_string"] = scope["query_string"].decode("latin-1")
    return fields


def unpack_scope(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The ASGI scope of a forwarded request."""
    scope = {name: fields[name] for name in _FIELDS if name in fields}
    # From version 2.4 on, Starlette notices a client that has left only at the next `send`, and then raises an error.
    scope["asgi"] = {"version": "3.0", "spec_version": "2.3"}
    scope["headers"] = unpack_headers(fields["headers"])
    scope["query_string"] = fields["query_string"].encode("latin-1")
    scope["raw_path"] = None
    for name in ("client", "server"):
        if isinstance(scope.get(name), list):
            scope[name] = tuple(scope[name])
    scope["extensions"] = {"websocket.http.response": {}} if scope["type"] == "websocket" else {}
    return scope


def pack_headers(headers: Any) -> list[list[str]]:
    """ASGI's headers, as JSON can carry them."""
    return [[name.decode("latin-1"), value.decode("latin-1")] for name, value in headers]


def unpack_headers(headers: Any) -> list[tuple[bytes, bytes]]:
    """ASGI's headers."""
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]


def pack_event(event: Mapping[str, Any]) -> tuple[dict[str, Any], bytes]:
    """An ASGI message of a request or a WebSocket, as head and data."""
    head = {name: value for name, value in event.items() if name not in {"body", "bytes", "headers"}}
    if "headers" in event:
        head["headers"] = pack_headers(event["headers"])
    for name in ("body", "bytes"):
        if event.get(name) is not None:
            return head | {"data": name}, event[name]
    return head, b""


def unpack_event(head: dict[str, Any], data: bytes) -> dict[str, Any]:
    """The ASGI message that `pack_event` packed."""
    event = dict(head)
    name = event.pop("data", None)
    if name is not None:
        event[name] = data
    if "headers" in event:
        event["headers"] = unpack_headers(event["headers"])
    return event
