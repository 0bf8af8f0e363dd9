"""The page to talk with, and its JavaScript client.

    GET {path}/rtcflow.js   the client, for pages of any application
    GET {path}/             the page; with page.js, page.css and icon.svg beside it

The page's markup says what the stream is: its modality, its mode, its arguments. So nothing moves after the first
paint. Only what depends on the caller is asked for when a call begins.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from html import escape
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING, Final

from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from ..handlers.base import StreamHandlerBase
from ..serving.form import Field, Value
from .origin_guard import guarded

if TYPE_CHECKING:
    from starlette.requests import Request

    from ..serving.calls import Calls
    from ..serving.options import Options

_HTML: Final = "text/html; charset=utf-8"
_SCRIPT: Final = "text/javascript; charset=utf-8"
_FILES: Final = {"page.js": _SCRIPT, "page.css": "text/css; charset=utf-8", "icon.svg": "image/svg+xml"}

HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "media-src 'self' blob: mediastream:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Permissions-Policy": "microphone=(self), camera=(self), speaker-selection=(self), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}
"""Only this server's scripts and styles run, no other site may frame the page, and it sends nothing elsewhere."""


def routes(calls: Calls, path: str = "", *, page: bool) -> list[BaseRoute]:
    """The client's route under `path`, and the page's routes if `page` is true."""
    found: list[BaseRoute] = [
        # Guarded, so that pages of allowed origins may import it too.
        guarded(calls, f"{path}/rtcflow.js", _serving(_read("rtcflow.js"), _SCRIPT), ["GET"])
    ]
    if page:
        found.append(Route(f"{path}/", _serving(make_page(calls.options), _HTML), methods=["GET"]))
        found += [
            Route(f"{path}/{name}", _serving(_read(name), kind), methods=["GET"]) for name, kind in _FILES.items()
        ]
    return found


def make_page(options: Options) -> bytes:
    """The page's HTML for a stream with these options."""
    return (
        Template(_read("index.html").decode())
        .substitute(
            title=escape(options.page.title),
            description=escape(options.page.description),
            modality=options.modality.value,
            mode=options.mode.value,
            arguments="\n".join(_labelled(field.name, _input(field)) for field in options.form) or _ANY,
            hidden="" if options.form else "hidden",  # until the handler asks
            # There is a text field for `on_message` if the handler has that method.
            quiet="hidden" if type(options.handler).on_message is StreamHandlerBase.on_message else "",
            # The last result of a function stands for all outputs so far.
            outputs="all" if options.additional_outputs_handler is None else "last",
        )
        .encode()
    )


def _labelled(name: str, control: str) -> str:
    return f'<label class="field"><span>{escape(name)}</span>{control}</label>'


_ANY: Final = _labelled("JSON values", '<input id="json" type="text" placeholder="&quot;French&quot;, 0.7">')
"""The field for a handler that does not say which arguments it takes."""


def _input(field: Field) -> str:
    name, value = f'name="{escape(field.name)}"', field.value
    if field.choices:
        return f"<select {name}>{''.join(_option(choice, value) for choice in field.choices)}</select>"
    match value:
        case bool():
            return f'<input {name} type="checkbox"{" checked" if value else ""}>'
        case int() | float():
            least, greatest, step = field.limits or ("", "", 1 if isinstance(value, int) else "any")
            limits = f'min="{least}" max="{greatest}" step="{step}"'
            return f'<input {name} type="number" {limits} value="{value}" required>'
        case None:
            return f'<input {name} type="text" required>'
    return f'<input {name} type="text" value="{escape(value)}">'


def _option(choice: Value, value: Value | None) -> str:
    # As JSON, so that a number comes back as one.
    selected = " selected" if choice == value else ""
    return f'<option value="{escape(json.dumps(choice))}"{selected}>{escape(str(choice))}</option>'


def _read(name: str) -> bytes:
    return (files("rtcflow") / "web" / name).read_bytes()


def _serving(content: bytes, media_type: str) -> Callable[[Request], Awaitable[Response]]:
    async def serve(_: Request) -> Response:
        return Response(content, media_type=media_type, headers=HEADERS)

    return serve
