"""The routes for data beside the media: arguments for a call's handler, and its outputs.

    POST {path}/webrtc/input     {"webrtc_id", "args": [...]} → `Stream.set_input`
    GET  {path}/webrtc/outputs?webrtc_id=...     its `AdditionalOutputs`, as server-sent events

Everybody who knows the id may use them. They are under ``webrtc/``, so that the ``/input_hook`` and ``/outputs`` which
FastRTC's users write stay the application's own.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from functools import partial
from typing import TYPE_CHECKING, Final

import anyio
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute

from ..exceptions import InvalidOffer, TooManyConnections
from ..protocol import signalling
from ..protocol.sse import COMMENT, MEDIA_TYPE, encode_event
from . import routed
from .origin_guard import guarded
from .requests import answering, read_body

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

    from .._core.fanout import Reader
    from ..serving.calls import Calls
    from ..serving.output_events import OutputEvent
    from ..serving.session import Session

MAX_READERS: Final = 16
"""The most readers of one call's outputs. A page has one; a few more may watch."""

KEEP_ALIVE: Final = 15.0
"""Seconds without an output after which an empty comment is sent: the HTML standard's advice (section 9.2.7)."""

HEADERS: Final = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
"""They keep caches and nginx from holding events back."""


def routes(calls: Calls, path: str = "") -> list[BaseRoute]:
    """The routes for arguments and outputs of a stream's calls."""
    return [
        guarded(
            calls,
            f"{path}/webrtc/input",
            answering(partial(set_input, calls)),
            ["POST"],
            find=routed.arguments,
        ),
        guarded(
            calls,
            f"{path}/webrtc/outputs",
            answering(partial(outputs, calls)),
            ["GET"],
            find=routed.in_query,
        ),
    ]


async def set_input(calls: Calls, request: Request) -> Response:
    """`POST {path}/webrtc/input`: arguments for the handler of one call."""
    wanted = signalling.parse_input(await read_body(request))
    try:
        calls.find(wanted.webrtc_id).set_input(*wanted.args)
    except ValueError as error:
        raise InvalidOffer(str(error), status=422) from None
    return JSONResponse(signalling.SUCCESS)


async def outputs(calls: Calls, request: Request) -> Response:
    """`GET {path}/webrtc/outputs`: events ``output`` (a list of values) until ``end`` (how the call ended).

    An event ``failure``, in words, stands for an output that could not be shown.
    """
    webrtc_id = request.query_params.get("webrtc_id")
    if webrtc_id is None:
        raise InvalidOffer("the query has no webrtc_id; ask for outputs?webrtc_id=...", status=422)
    session = calls.find(webrtc_id)
    if request.method == "HEAD":  # an answer without an end would keep the client's connection
        return Response(media_type=MEDIA_TYPE, headers=HEADERS)
    events = calls.events(session)
    if events.readers >= MAX_READERS:
        raise TooManyConnections(MAX_READERS, f"{MAX_READERS} others read the outputs of this call")
    last = request.headers.get("last-event-id", "")
    kept, reader = events.read(int(last) if re.fullmatch(r"[0-9]{1,18}", last, re.ASCII) else 0)
    return _EventResponse(_events(session, kept, reader), reader)


class _EventResponse(StreamingResponse):
    """Events as they come. However it ends, nothing is kept for the reader afterwards."""

    def __init__(self, events: AsyncIterator[bytes], reader: Reader[OutputEvent]) -> None:
        super().__init__(events, media_type=MEDIA_TYPE, headers=HEADERS)
        self._reader = reader

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._reader.close()


async def _events(session: Session, kept: list[OutputEvent], reader: Reader[OutputEvent]) -> AsyncIterator[bytes]:
    yield COMMENT  # now the page knows that it is connected
    for event in kept:
        yield encode_event(event.name, event.data, event.number)
    while True:
        with anyio.move_on_after(KEEP_ALIVE) as waiting:
            new = await anext(reader, None)
        if waiting.cancelled_caught:
            yield COMMENT
            continue
        if new is None:
            end = session.end
            yield encode_event("end", None if end is None else end.cause.name.lower())
            return
        yield encode_event(new.name, new.data, new.number)
