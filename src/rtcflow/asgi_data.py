"""The routes of what goes beside the media: arguments to a call's handler, and its outputs.

    POST {path}/webrtc/input     {"webrtc_id", "args": [...]} → `Stream.set_input`
    GET  {path}/webrtc/outputs?webrtc_id=...     its `AdditionalOutputs`, as server-sent events

Who knows the id may use them. They lie beside the offer route, so that an application's own ``/input_hook`` and
``/outputs``, by which FastRTC's users name theirs, stay its own.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import anyio
import anyio.to_thread
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute

from .asgi import answering, read_body
from .asgi_guard import guarded
from .exceptions import InvalidOffer, TooManyConnections
from .protocol import signalling
from .protocol.events import COMMENT, MEDIA_TYPE, encode_event

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

    from .fanout import Reader
    from .outputs import AdditionalOutputs
    from .session import Session
    from .stream import Stream

logger = logging.getLogger(__name__)

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
    """`GET {path}/webrtc/outputs`: events ``output`` (a list of values) until ``end`` (how the call ended)."""
    webrtc_id = request.query_params.get("webrtc_id")
    if webrtc_id is None:
        raise InvalidOffer("the query has no webrtc_id; ask for outputs?webrtc_id=...", status=422)
    session = stream.session(webrtc_id)
    if session.outputs.readers >= MAX_READERS:
        raise TooManyConnections(MAX_READERS, f"{MAX_READERS} others read the outputs of this call")
    reader = session.outputs.read()
    return _EventResponse(_events(session, reader, Shown(stream.additional_outputs_handler)), reader)


class _EventResponse(StreamingResponse):
    """Events as they come; afterwards, however it ended, nothing is kept for the reader."""

    def __init__(self, events: AsyncIterator[bytes], reader: Reader[AdditionalOutputs]) -> None:
        super().__init__(events, media_type=MEDIA_TYPE, headers=HEADERS)
        self._reader = reader

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._reader.close()


async def _events(session: Session, reader: Reader[AdditionalOutputs], shown: Shown) -> AsyncIterator[bytes]:
    yield COMMENT  # now the page knows that it is connected
    while True:
        with anyio.move_on_after(KEEP_ALIVE) as waiting:
            output = await anext(reader, None)
        if waiting.cancelled_caught:
            yield COMMENT
            continue
        if output is None:
            end = session.end
            yield encode_event("end", None if end is None else end.cause.name.lower())
            return
        try:
            event = encode_event("output", await shown.after(output))
        except Exception:
            # Supervises the application's function and its values: this reader is told, the call goes on.
            logger.exception("an output of %s call %s could not be shown", session.kind, session.name)
            yield encode_event("error", "an output could not be shown")
            return
        yield event


class Shown:
    """What one reader is shown after each output: what `additional_outputs_handler` makes of it, or the output itself.

    Args:
        function: Called with what it returned before (at first None) and then the values of the output; returns one
            value or a tuple of them. How many of the former it wants is seen from its signature. A sync one runs in a
            worker thread.
    """

    def __init__(self, function: Callable[..., Any] | None) -> None:
        self._function = function
        self._values: list[Any] = []
        self._parameters = 0 if function is None else _count_parameters(function)

    async def after(self, output: AdditionalOutputs) -> list[Any]:
        """The values to show."""
        if self._function is None:
            return list(output.args)
        before = max(0, self._parameters - len(output.args))
        values = [*self._values, *[None] * before][:before]
        values += output.args
        if inspect.iscoroutinefunction(self._function):
            result = await self._function(*values)
        else:
            result = await anyio.to_thread.run_sync(self._function, *values)
        self._values = list(result) if isinstance(result, tuple) else [result]
        return self._values


def _count_parameters(function: Callable[..., Any]) -> int:
    """How many positional arguments it needs or takes; what comes in ``*args`` are an output's values."""
    parameters = inspect.signature(function).parameters.values()
    return sum(p.kind in {p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD} for p in parameters)
