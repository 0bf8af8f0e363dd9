"""Carrying requests between nodes: a node in front of a client has another one serve it.

The node in front sends the whole request in one message. The beginning of the answer is the reply to it. What follows,
of a long answer or of a WebSocket, comes through a `rtcflow.cluster.pipe.Pipe`. Neither node waits for the other
longer than it lives: both are watched.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, Final

import anyio

from .._engine.nats_link import LinkDown, NoListener
from ..exceptions import CallLost, NotServing
from .messages import pack, pack_headers, pack_scope, unpack, unpack_headers, unpack_scope
from .names import ASK
from .pipe import GONE, TAKEN, Pipe, PipeBroken

if TYPE_CHECKING:
    from ..serving.router import Application, Receive, Scope, Send
    from .peers import Peers
    from .policy import Load

logger: logging.Logger = logging.getLogger(__name__)

SERVE: Final = 30.0
"""Seconds in which another node must begin to answer a request. It notices a dead node within `BEAT`."""

NO_ANSWER: Final = "the server that carries this call does not answer; try again"

MOST: Final = 1000
"""Requests of other nodes that are served at once; more are refused with 503."""


class Carrier:
    """What one node carries: requests of its clients to other nodes, and requests of other nodes to its application.

    Args:
        endpoints: What answers each route of its stream.
        peers: The other nodes.
    """

    def __init__(self, endpoints: Mapping[str, Application], peers: Peers) -> None:
        self._endpoints = endpoints
        self._peers = peers
        self._pipes: dict[int, Pipe] = {}
        self._numbers = count(1)
        self._serving = 0

    # -- in front of a client

    async def forward(self, subject: str, node: str | None, request: Request) -> bool:
        """Have the node behind `subject` serve a request. False if nobody listens there.

        Raises:
            CallLost: The node died before it answered.
            NotServing: NATS cannot be reached, or the node does not answer.
        """
        async with self._open_pipe() as pipe:
            answer = await self._ask_to_serve(subject, node, request, pipe, new=False)
            if answer is None:
                return False
            await self._carry(answer, pipe, request)
            return True

    async def offer(self, node: str, request: Request) -> AnswerStart | None:
        """Have a node take a new call, unless it is full: then its refusal is returned, and nothing was sent.

        Raises:
            CallLost: The node is dead, or died before it answered.
            NotServing: NATS cannot be reached, or the node does not answer.
        """
        async with self._open_pipe() as pipe:
            answer = await self._ask_to_serve(self._peers.node_subject(node), node, request, pipe, new=True)
            if answer is None:
                raise CallLost
            if answer.status == 503:
                return answer
            await self._carry(answer, pipe, request)
            return None

    async def _ask_to_serve(
        self, subject: str, node: str | None, request: Request, pipe: Pipe, *, new: bool
    ) -> AnswerStart | None:
        """The beginning of another node's answer; None if nobody listens to `subject`.

        Raises:
            CallLost: The node died before it answered.
            NotServing: NATS cannot be reached, or the node does not answer.
        """
        head = {"kind": "serve", "new": new, "endpoint": request.endpoint, "scope": pack_scope(request.scope)}
        message = pack(head | {"node": self._peers.name, "pipe": pipe.number}, request.body or b"")
        is_silent = node is not None and node not in self._peers.members
        asked = self._peers.now()
        while True:
            with self._peers.unless_silent(node) as silence, self._watching(subject) as watch:
                try:
                    found, body = unpack(await self._peers.link.request(subject, message, ASK if is_silent else SERVE))
                    answer = AnswerStart(found["status"], unpack_headers(found["headers"]), body)
                    answer.pipe = found.get("pipe")
                    if answer.pipe is not None:
                        pipe.join(found["node"], answer.pipe)
                    return answer
                except NoListener:
                    pass
                except LinkDown:
                    raise NotServing("the servers cannot reach one another now; try again") from None
                except TimeoutError:
                    raise NotServing(NO_ANSWER) from None
            if watch.cancel_called:
                raise CallLost
            if silence.cancel_called:
                raise NotServing(NO_ANSWER)
            if not await self._peers.settle(asked):
                return None

    @contextmanager
    def _watching(self, subject: str) -> Iterator[anyio.CancelScope]:
        with anyio.CancelScope() as scope:
            self._peers.watch(subject, scope.cancel)
            try:
                yield scope
            finally:
                self._peers.unwatch(subject, scope.cancel)

    @asynccontextmanager
    async def _open_pipe(self) -> AsyncIterator[Pipe]:
        pipe = Pipe(self._peers, next(self._numbers))
        self._pipes[pipe.number] = pipe
        try:
            yield pipe
        finally:
            del self._pipes[pipe.number]
            pipe.leave()

    async def _carry(self, answer: AnswerStart, pipe: Pipe, request: Request) -> None:
        if request.body is None:
            await self._carry_websocket(pipe, request)
        elif answer.pipe is None:
            await request.send_whole(answer)
        else:
            await self._carry_stream(answer, pipe, request)

    async def _carry_stream(self, answer: AnswerStart, pipe: Pipe, request: Request) -> None:
        async def until_left() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass
            reading.cancel_scope.cancel()

        whole = False
        try:
            await request.send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
            await request.send({"type": "http.response.body", "body": answer.body, "more_body": True})
            async with anyio.create_task_group() as reading:
                reading.start_soon(until_left)
                try:
                    while not whole:
                        event = await pipe.receive()
                        whole = not event.get("more_body", False)
                        await request.send(event)
                except PipeBroken:
                    whole = True
                    await request.send({"type": "http.response.body", "body": b""})
                reading.cancel_scope.cancel()
        finally:
            if not whole:
                await _say_goodbye(pipe, {"type": "http.disconnect"})

    async def _carry_websocket(self, pipe: Pipe, request: Request) -> None:
        left = False

        async def upward() -> None:
            nonlocal left
            try:
                while not left:
                    event = await request.receive()
                    left = event["type"] == "websocket.disconnect"
                    await pipe.send(event)
            except PipeBroken:
                pipe.fail()

        await request.receive()  # websocket.connect; the other node makes its own
        try:
            async with anyio.create_task_group() as both:
                both.start_soon(upward)
                with suppress(OSError):  # the client has left: servers may say so when something is sent (ASGI)
                    await self._downward(pipe, request)
                both.cancel_scope.cancel()
        finally:
            if not left:
                await _say_goodbye(pipe, {"type": "websocket.disconnect", "code": 1006})

    async def _downward(self, pipe: Pipe, request: Request) -> None:
        closed = False
        try:
            while True:
                event = await pipe.receive()
                if event["type"] == "rtcflow.end":
                    return
                closed = closed or event["type"] == "websocket.close"
                await request.send(event)
        except PipeBroken:
            if not closed:  # a node that ends closes what it carries, and may be gone before it can say more
                await request.send({"type": "websocket.close", "code": 1012, "reason": str(CallLost())})

    # -- for the client of another node

    def piped(self, head: dict[str, Any], data: bytes, reply: str) -> None:
        """A message of a pipe has come."""
        pipe = self._pipes.get(head["to"])
        if pipe is None:
            self._peers.link.publish(reply, GONE)
        else:
            pipe.take(head["n"], (head["event"], data), partial(self._peers.link.publish, reply, TAKEN))

    async def serve(self, head: dict[str, Any], body: bytes, reply: str, load: Load) -> None:
        endpoint = self._endpoints.get(head["endpoint"])
        if endpoint is None or self._serving >= MOST:
            self._peers.link.publish(reply, pack({"status": 503, "headers": [["retry-after", "5"]]}))
            return
        scope = unpack_scope(head["scope"])
        websocket = scope["type"] == "websocket"
        if websocket and head["new"] and not load.has_room:  # a call that is resumed has its slot
            self._peers.link.publish(reply, pack({"status": 503, "headers": []}))
            return
        self._serving += 1
        try:
            async with self._open_pipe() as pipe:
                pipe.join(head["node"], head["pipe"])
                answering = _Guest(self._peers, pipe, reply, websocket=websocket, body=body)
                try:
                    await endpoint(scope, answering.receive, answering.send)
                except PipeBroken:
                    logger.debug("the node in front of a client has gone")
                except Exception:
                    # Supervises: one request of another node failed, as it would fail in a server.
                    logger.exception("a request of node %s failed", head["node"])
                await answering.finish()
        finally:
            self._serving -= 1


class AnswerStart:
    """The beginning of an answer, or all of it.

    Attributes:
        pipe: The pipe at the other node that the rest comes from, or None if this is all.
    """

    def __init__(self, status: int, headers: Any = (), body: bytes = b"") -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self.pipe: int | None = None


class Request:
    """One request, with the ways to its client."""

    def __init__(self, endpoint: str, scope: Scope, receive: Receive, send: Send, body: bytes | None) -> None:
        self.endpoint = endpoint
        self.scope = scope
        self.receive = receive
        self.send = send
        self.body = body

    async def send_whole(self, answer: AnswerStart) -> None:
        await self.send({"type": "http.response.start", "status": answer.status, "headers": list(answer.headers)})
        await self.send({"type": "http.response.body", "body": answer.body})


class _Guest:
    """An ASGI server's part for one request that another node has sent."""

    def __init__(self, peers: Peers, pipe: Pipe, reply: str, *, websocket: bool, body: bytes) -> None:
        self._peers = peers
        self._pipe = pipe
        self._reply = reply
        self._websocket = websocket
        self._body: bytes | None = body
        self._start: dict[str, Any] | None = None
        self._answered = False
        if websocket:
            self._answer({"status": 0, "headers": [], "pipe": pipe.number})

    def _answer(self, head: dict[str, Any], body: bytes = b"") -> None:
        self._answered = True
        self._peers.link.publish(self._reply, pack(head | {"node": self._peers.name}, body))

    async def receive(self) -> dict[str, Any]:
        body, self._body = self._body, None
        if body is not None:
            if self._websocket:
                return {"type": "websocket.connect"}
            return {"type": "http.request", "body": body, "more_body": False}
        try:
            return await self._pipe.receive()
        except PipeBroken:
            if self._websocket:
                return {"type": "websocket.disconnect", "code": 1006}
            return {"type": "http.disconnect"}

    async def send(self, event: Any) -> None:
        if event["type"] == "http.response.start":
            self._start = {"status": event["status"], "headers": pack_headers(event.get("headers", ()))}
        elif self._start is not None:
            head, self._start = self._start, None
            if event.get("more_body", False):
                head["pipe"] = self._pipe.number
            self._answer(head, event.get("body", b""))
        else:
            await self._pipe.send(event)

    async def finish(self) -> None:
        """The application has returned, or has failed."""
        if not self._answered:
            self._answer({"status": 500, "headers": []})
        elif self._websocket and not self._pipe.broken:
            await _say_goodbye(self._pipe, {"type": "rtcflow.end"})


async def _say_goodbye(pipe: Pipe, event: dict[str, Any]) -> None:
    """Tell the other end that this one has left; not for long, also when cancelled."""
    with anyio.move_on_after(ASK, shield=True):
        with suppress(PipeBroken):
            await pipe.send(event)
