"""The routes of what goes beside the media: arguments to a call's handler, and its outputs.

    POST {path}/webrtc/input     {"webrtc_id", "args": [...]} → `Stream.set_input`
    GET  {path}/webrtc/outputs?webrtc_id=...     its `AdditionalOutputs`, as server-sent events

Who knows the id may use them. They lie beside the offer route, so that an application's own ``/input_hook`` and
``/outputs``, by which FastRTC's users name theirs, stay its own.
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
from .app import answering, read_body
from .origin_guard import guarded

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

    from .._core.fanout import Reader
    from ..serving.outputs_board import Shown
    from ..serving.session import Session
    from ..stream import Stream

MAX_READERS: Final = 16
"""The most readers of one call's outputs: a page has one, and a few more look on."""

KEEP_ALIVE: Final = 15.0
"""Seconds without an output after which an empty comment is sent: the HTML standard's advice (section 9.2.7)."""

HEADERS: Final = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
"""Neither caches nor nginx shall keep events back."""


def routes(stream: Stream, path: str = "") -> list[BaseRoute]:
    """The routes for arguments and outputs of the calls of `stream`."""
    return [
        guarded(stream, f"{path}/webrtc/input", answering(partial(set_input, stream)), ["POST"]),
        guarded(stream, f"{path}/webrtc/outputs", answering(partial(outputs, stream)), ["GET"]),
    ]


async def set_input(stream: Stream, request: Request) -> Response:
    """`POST {path}/webrtc/input`: arguments for the handler of one call."""
    wanted = signalling.parse_input(await read_body(request))
    try:
        stream.set_input(wanted.webrtc_id, *wanted.args)
    except ValueError as error:
        raise InvalidOffer(str(error), status=422) from None
    return JSONResponse(signalling.SUCCESS)


async def outputs(stream: Stream, request: Request) -> Response:
    """`GET {path}/webrtc/outputs`: events ``output`` (a list of values) until ``end`` (how the call ended).

    Between them ``failure``, in words, for an output of which nothing could be made.
    """
    webrtc_id = request.query_params.get("webrtc_id")
    if webrtc_id is None:
        raise InvalidOffer("the query has no webrtc_id; ask for outputs?webrtc_id=...", status=422)
    session = stream.session(webrtc_id)
    board = stream.board(session)
    if board.readers >= MAX_READERS:
        raise TooManyConnections(MAX_READERS, f"{MAX_READERS} others read the outputs of this call")
    last = request.headers.get("last-event-id", "")
    kept, reader = board.read(int(last) if re.fullmatch(r"[0-9]{1,18}", last, re.ASCII) else 0)
    return _EventResponse(_events(session, kept, reader), reader)


class _EventResponse(StreamingResponse):
    """Events as they come; afterwards, however it ended, nothing is kept for the reader."""

    def __init__(self, events: AsyncIterator[bytes], reader: Reader[Shown]) -> None:
        super().__init__(events, media_type=MEDIA_TYPE, headers=HEADERS)
        self._reader = reader

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._reader.close()


async def _events(session: Session, kept: list[Shown], reader: Reader[Shown]) -> AsyncIterator[bytes]:
    yield COMMENT  # now the page knows that it is connected
    for shown in kept:
        yield encode_event(shown.name, shown.data, shown.number)
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
