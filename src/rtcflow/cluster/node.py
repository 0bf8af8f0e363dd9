"""One node of a cluster: what it tells the others, what it asks them, and what it answers.

Subjects, all below the cluster's prefix:

| subject | who subscribes | what comes |
|---|---|---|
| ``nodes`` | every node | each node's report, twice a second |
| ``hello`` | every node | a new node's report; the answer says whether they fit together |
| ``claimed`` | every node | which node has taken which id or slot: hints only |
| ``node.{name}`` | that node | requests to serve, messages of pipes, pings, the question which slots it holds |
| ``call.{hash of the id}`` | the node of the call | requests to serve, pings, claims; for ids that callers chose |
| ``slot.{number}`` | the node that holds the slot | claims; only with a limit of the whole cluster |

The decisions are made elsewhere, without waiting: `policy` (where a call goes), `claims` (which node gets a name),
`members` (which nodes there are), `ids`. This module only asks, waits and answers.
"""

from __future__ import annotations

import hashlib
import logging
import random
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, Final

import anyio
import anyio.abc

from .._core.bridge import loop_clock
from .._engine.nats_link import LinkDown, NatsLink, NoListener
from ..exceptions import CallLost, ClusterError, ConnectionExists, NotServing
from ..serving.router import About, Receive, Scope, Send, Wish, replay
from .ids import is_signed, make_id, new_key, new_name, read_id
from .members import PROTOCOL, SILENCE, Members, Report, disagreement, read_report
from .messages import pack, pack_headers, pack_scope, unpack, unpack_headers, unpack_scope
from .names import AWAY, Names
from .pipe import GONE, TAKEN, Pipe, PipeBroken
from .policy import Load, Placement, read_release
from .slots import Slots, is_slot_name, read_slot_name, read_slots, slot_name, write_slots

if TYPE_CHECKING:
    from ..serving.calls import Calls

logger = logging.getLogger(__name__)

BEAT: Final = 0.5
"""Seconds between two reports, and between two looks at the nodes that are waited for."""

SERVE: Final = 30.0
"""Seconds in which another node must begin to answer a request. It notices a dead node within `BEAT`."""

ASK: Final = 2.0
"""Seconds in which a node answers what it answers at once."""

EARLY: Final = 1.0
"""Seconds that a trickled candidate waits for the offer of its call, which may be on its way to another node."""

ATTEMPTS: Final = 8
"""Nodes that are asked for one call at most."""

MOST: Final = 1000
"""Requests of other nodes that are served at once; more are refused with 503."""

HINTS: Final = 10_000
"""Ids whose node is remembered, so that a caller is told that this node has gone."""


class Node:
    """One node; see `rtcflow.serving.router.CallRouter`.

    Args:
        calls: The calls of its stream.
        link: The connection to NATS.
        prefix: What all subjects begin with.
        limit: How many calls the whole cluster takes, or None.
        release: Which release of the application this is.
        clock: What the wall clock says.
    """

    def __init__(
        self,
        calls: Calls,
        link: NatsLink,
        *,
        prefix: str,
        limit: int | None = None,
        release: str = "",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.name = new_name()
        self._key = new_key()
        self._calls = calls
        self._link = link
        self._prefix = prefix
        self._release = read_release(release)
        self._clock = clock
        self._now = loop_clock()
        self._tasks: anyio.abc.TaskGroup
        self._members = Members()
        self._placement = Placement(self.name)
        self._names = Names(self.name, link, prefix, self._now, self._settle)
        self._held: dict[str, list[str]] = {}
        self._slots = None if limit is None else Slots(limit, self._names, partial(self._slots_of, limit))
        self._mute: dict[str, Callable[[], object]] = {}
        self._hints: OrderedDict[str, str] = OrderedDict()
        self._pipes: dict[int, Pipe] = {}
        self._numbers = count(1)
        self._watched: dict[str, list[Callable[[], object]]] = {}
        self._pinging: set[str] = set()
        self._serving = 0
        self._news = anyio.Event()
        self._settled: float | None = None
        self._lag = 0.0
        self._left = False

    # -- joining and leaving

    async def start(self, tasks: anyio.abc.TaskGroup) -> None:
        """Join the cluster; `tasks` hold what the node does from then on.

        Raises:
            ClusterError: The nodes that are there do not fit this one.
        """
        self._tasks = tasks
        tasks.start_soon(self._read)
        self._settled = self._link.up_since
        for subject in ("nodes", "claimed", "hello", f"node.{self.name}"):
            await self._link.subscribe(f"{self._prefix}.{subject}")
        mine = self._report()
        try:
            theirs = read_report(await self._link.request(f"{self._prefix}.hello", mine.to_bytes(), ASK))
        except NoListener:
            logger.info("first node of the cluster %s", self._prefix)
        except TimeoutError:
            logger.warning("no other node of the cluster %s answers; this one begins without them", self._prefix)
        except LinkDown as error:
            raise ClusterError(f"the connection to NATS broke at the start: {error}") from error
        except ValueError as error:
            raise ClusterError(f"something else uses the prefix {self._prefix!r} in NATS: {error}") from None
        else:
            if why := disagreement(mine, theirs):
                raise ClusterError(why)
            self._heard(theirs)
        tasks.start_soon(self._beat)

    def leave(self) -> None:
        """Tell the others."""
        self._left = True
        self._link.publish(f"{self._prefix}.nodes", self._report().to_bytes())

    def _report(self) -> Report:
        options = self._calls.options
        handler = type(options.handler)
        stream = f"{handler.__module__}.{handler.__qualname__}, {options.modality}, {options.mode}"
        routes = " ".join(sorted(self._calls.endpoints))
        return Report(self.name, self._key, PROTOCOL, stream, routes, self._clock(), self._load(), left=self._left)

    def _load(self) -> Load:
        limit = self._calls.options.limits.concurrency_limit
        assert not isinstance(limit, str)  # noqa: S101
        return Load(len(self._calls), limit, not self._calls.is_ready, self._release, self._lag)

    async def _beat(self) -> None:
        while True:
            self._link.publish(f"{self._prefix}.nodes", self._report().to_bytes())
            for name in self._members.expire(self._now()):
                logger.warning("node %s is silent: it gets no new calls", name)
                self._placement.remove(name)
            for subject in list(self._watched):
                if subject not in self._pinging:
                    self._pinging.add(subject)
                    self._tasks.start_soon(self._ping, subject)
            due = self._now() + BEAT
            await anyio.sleep(BEAT)
            late = self._now() - due
            self._lag = 0.8 * self._lag + 0.2 * max(0.0, late)

    def _heard(self, report: Report) -> None:
        if report.node == self.name:
            return
        self._members.heard(report, self._now())
        self._unmute(report.node)
        if report.left:
            self._placement.remove(report.node)
        else:
            self._placement.update(report.node, report.load)
        self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = anyio.Event()

    # -- messages

    def node_subject(self, name: str) -> str:
        """Where a node gets its messages."""
        return f"{self._prefix}.node.{name}"

    async def _read(self) -> None:
        """Take the messages of other nodes. They may be anything."""
        while True:
            subject, data, reply = await self._link.messages.take_in_a_row()
            try:
                self._take(subject.removeprefix(f"{self._prefix}."), data, reply)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                logger.warning("a message on %s makes no sense: %r", subject, error)

    def _take(self, subject: str, data: bytes, reply: str) -> None:
        if subject in {"nodes", "hello"}:
            report = read_report(data)
            if disagreement(self._report(), report) is None:
                self._heard(report)
            if reply:
                self._link.publish(reply, self._report().to_bytes())
            return
        head, rest = unpack(data)
        match head["kind"]:
            case "claimed":
                self._hint(head["name"], head["node"])
            case "freed":
                if self._slots is not None:
                    self._slots.unsaid(read_slot_name(head["name"]), head["node"])
            case "slots":
                self._link.publish(reply, write_slots(() if self._slots is None else self._slots.held))
            case "claim":
                self._names.asked(head["name"], head["node"], reply)
            case "ping":
                self._link.publish(reply, TAKEN)
            case "pipe":
                pipe = self._pipes.get(head["to"])
                if pipe is None:
                    self._link.publish(reply, GONE)
                else:
                    pipe.take(head["n"], (head["event"], rest), partial(self._link.publish, reply, TAKEN))
            case "serve":
                self._tasks.start_soon(self._serve, head, rest, reply)

    def _hint(self, name: str, node: str) -> None:
        if is_slot_name(name):
            if self._slots is not None:
                self._slots.said(read_slot_name(name), node)
            return
        self._hints[name] = node
        self._hints.move_to_end(name)
        while len(self._hints) > HINTS:
            self._hints.popitem(last=False)
        self._wake()

    # -- death, and the moments after NATS was away

    def watch(self, subject: str, gone: Callable[[], object]) -> None:
        """Have `gone` called when nobody listens to the subject any more."""
        self._watched.setdefault(subject, []).append(gone)

    def unwatch(self, subject: str, gone: Callable[[], object]) -> None:
        """End `watch`. Idempotent."""
        waiting = self._watched.get(subject, [])
        if gone in waiting:
            waiting.remove(gone)
        if not waiting:
            self._watched.pop(subject, None)

    async def _ping(self, subject: str) -> None:
        try:
            await self._link.request(subject, pack({"kind": "ping"}), ASK)
        except NoListener:
            if not await self._settle():
                for gone in self._watched.pop(subject, []):
                    gone()
        except (LinkDown, TimeoutError):
            pass  # it is not known to be dead
        finally:
            self._pinging.discard(subject)

    async def _settle(self) -> bool:
        """After NATS was away, wait until the other nodes are there again, too.

        Until then "nobody listens" may only mean that a node has not come back yet.

        Returns:
            Whether there was something to wait for, so that it makes sense to ask again.
        """
        up = self._link.up_since
        if up is None:
            return True
        if up == self._settled:
            return False
        with anyio.move_on_after(max(0.0, up + SILENCE - self._now())):
            while self._members.not_heard_since(up):
                await self._news.wait()
        self._settled = up
        return True

    async def deliver(self, subject: str, message: bytes, timeout: float) -> bytes:
        """Send a message until it has an answer, over restarts of NATS. `GONE` if nobody is there to answer."""
        while True:
            try:
                return await self._link.request(subject, message, timeout)
            except NoListener:
                if not await self._settle():
                    return GONE
            except LinkDown:
                await self._link.wait_up()
            except TimeoutError:
                pass  # a stopped node, or a busy one

    # -- ids and slots

    def new_id(self) -> str:
        return make_id(self.name, self._key)

    async def claim(self, webrtc_id: str) -> None:
        names: list[str] = []
        try:
            if not self._is_own(webrtc_id):
                names.append(await self._win(webrtc_id))
            if self._slots is not None:
                if not self._link.is_up:
                    raise NotServing(AWAY)
                names.append(slot_name(await self._slots.take()))
        except BaseException:
            self._give_back(names)
            raise
        self._held[webrtc_id] = names
        self._announce(names)

    async def rename(self, webrtc_id: str, new_id: str) -> None:
        if self._is_own(new_id):
            raise ConnectionExists
        name = await self._win(new_id)
        self._held[new_id] = [name, *self._held.pop(webrtc_id, [])]
        self._announce([name])

    async def _win(self, webrtc_id: str) -> str:
        name = _call_name(webrtc_id)
        if await self._names.win(name, unasked=True) is not None:
            raise ConnectionExists
        return name

    def release(self, webrtc_id: str) -> None:
        self._give_back(self._held.pop(webrtc_id, []))

    def _is_own(self, webrtc_id: str) -> bool:
        found = read_id(webrtc_id)
        return found is not None and found.node == self.name and is_signed(found, self._key)

    def _announce(self, names: list[str]) -> None:
        for name in names:
            self._link.publish(f"{self._prefix}.claimed", pack({"kind": "claimed", "name": name, "node": self.name}))

    def _give_back(self, names: list[str]) -> None:
        for name in names:
            self._names.release(name)
            if self._slots is not None and is_slot_name(name):
                self._slots.free(read_slot_name(name))
                freed = pack({"kind": "freed", "name": name, "node": self.name})
                self._link.publish(f"{self._prefix}.claimed", freed)

    async def _slots_of(self, limit: int, node: str) -> list[int] | None:
        """The slots that a node says it holds; None if it does not answer."""
        if node in self._mute:
            return None
        subject = self.node_subject(node)
        while True:
            try:
                return read_slots(await self._link.request(subject, pack({"kind": "slots"}), ASK), limit)
            except NoListener:
                if not await self._settle():
                    return []
            except LinkDown:
                raise NotServing(AWAY) from None
            except TimeoutError:
                gone = self._mute[node] = partial(self._slots_lost, node)
                self.watch(subject, gone)
                return None

    def _slots_lost(self, node: str) -> None:
        """A node that did not answer has died: its slots are free."""
        self._mute.pop(node, None)
        if self._slots is not None:
            self._slots.forget(node)

    def _unmute(self, node: str) -> None:
        gone = self._mute.pop(node, None)
        if gone is not None:
            self.unwatch(self.node_subject(node), gone)

    # -- requests

    async def route(
        self, wish: Wish, endpoint: str, scope: Scope, receive: Receive, send: Send, body: bytes | None
    ) -> bool:
        webrtc_id = wish.webrtc_id
        if webrtc_id is not None and webrtc_id in self._calls:
            return False
        ways = _Ways(endpoint, scope, receive, send, body)
        if webrtc_id is not None and wish.about is not About.NEW:
            if await self._route_live(webrtc_id, wish, ways):
                return True
            if wish.about is About.LIVE:
                return False
        return await self._place(ways)

    async def _route_live(self, webrtc_id: str, wish: Wish, ways: _Ways) -> bool:
        found = read_id(webrtc_id)
        if found is not None:
            key = self._members.key(found.node)
            if key is None or not is_signed(found, key):
                return False  # made up, or ours and over
            if await self._forward(self.node_subject(found.node), ways):
                return True
            raise CallLost
        name = _call_name(webrtc_id)
        subject = f"{self._prefix}.{name}"
        if await self._forward(subject, ways):
            return True
        if wish.early and await self._announced(name):
            if webrtc_id in self._calls:
                return False
            if await self._forward(subject, ways):
                return True
        node = self._hints.get(name)
        if wish.about is About.LIVE and node is not None and node != self.name and node not in self._members:
            raise CallLost
        return False

    async def _announced(self, name: str) -> bool:
        """Wait until some node has taken an id, for a moment."""
        with anyio.move_on_after(EARLY):
            while name not in self._hints and name not in self._names:
                await self._news.wait()
            return True
        return False

    async def _forward(self, subject: str, ways: _Ways) -> bool:
        """Have the node behind `subject` serve a request. False if nobody listens there."""
        async with self._open_pipe() as pipe:
            answer = await self._ask_to_serve(subject, ways, pipe)
            if answer is None:
                return False
            await self._carry(answer, pipe, ways)
            return True

    async def _place(self, ways: _Ways) -> bool:
        """Find a node for a new call. False if it is to be served here, also if that means refusing it."""
        if ways.body is None and self._has_room():
            return False  # its media comes here anyway
        tried: set[str] = set()
        refusal: _Answer | None = None
        while len(tried) < ATTEMPTS and (name := self._choose(tried)) is not None:
            tried.add(name)
            self._placement.reserve(name)
            taken = False
            try:
                if name == self.name:
                    refusal = await self._serve_here(ways)
                    taken = refusal is None
                else:
                    async with self._open_pipe() as pipe:
                        answer = await self._ask_to_serve(self.node_subject(name), ways, pipe)
                        if answer is None:
                            self._members.remove(name)
                        elif answer.status == 503:
                            refusal = answer
                        else:
                            taken = True
                            await self._carry(answer, pipe, ways)
            except CallLost:
                self._members.remove(name)  # it died with the request in its hands: another one may take it
            except NotServing as error:
                logger.info("node %s did not take a call: %s", name, error)
            finally:
                self._placement.settle(name, taken=taken)
                if name != self.name and name not in self._members:
                    self._placement.remove(name)
            if taken:
                return True
        if refusal is None or ways.body is None:
            return False
        await ways.send_whole(refusal)
        return True

    def _choose(self, tried: set[str]) -> str | None:
        self._placement.update(self.name, self._load())
        name = self._placement.choose(random.randrange, tried)
        if name is None:
            full = self._placement.believed_full(tried)
            name = random.choice(full) if full else None  # noqa: S311
        return name

    def _has_room(self) -> bool:
        load = self._load()
        return not load.draining and (load.limit is None or load.calls < load.limit)

    async def _serve_here(self, ways: _Ways) -> _Answer | None:
        """Serve a new call at this node; returns the refusal if it has no slot after all."""
        if ways.body is None:
            return _Answer(503)
        refusal: _Answer | None = None

        async def send(event: Any) -> None:
            nonlocal refusal
            if event["type"] == "http.response.start" and event["status"] == 503:
                refusal = _Answer(503, event["headers"])
            elif refusal is None:
                await ways.send(event)
            else:
                refusal.body += event.get("body", b"")

        await self._calls.endpoints[ways.endpoint](dict(ways.scope), replay(ways.body, ways.receive), send)
        return refusal

    async def _ask_to_serve(self, subject: str, ways: _Ways, pipe: Pipe) -> _Answer | None:
        """The beginning of another node's answer; None if nobody listens to `subject`.

        Raises:
            CallLost: The node died before it answered.
            NotServing: NATS cannot be reached, or the node does not answer.
        """
        head = {"kind": "serve", "endpoint": ways.endpoint, "scope": pack_scope(ways.scope)}
        message = pack(head | {"node": self.name, "pipe": pipe.number}, ways.body or b"")
        while True:
            with self._watching(subject) as watch:
                try:
                    found, body = unpack(await self._link.request(subject, message, SERVE))
                    answer = _Answer(found["status"], unpack_headers(found["headers"]), body)
                    answer.pipe = found.get("pipe")
                    if answer.pipe is not None:
                        pipe.join(found["node"], answer.pipe)
                    return answer
                except NoListener:
                    pass
                except LinkDown:
                    raise NotServing("the servers cannot reach one another now; try again") from None
                except TimeoutError:
                    raise NotServing("the server that carries this call does not answer; try again") from None
            if watch.cancel_called:
                raise CallLost
            if not await self._settle():
                return None

    @contextmanager
    def _watching(self, subject: str) -> Iterator[anyio.CancelScope]:
        with anyio.CancelScope() as scope:
            self.watch(subject, scope.cancel)
            try:
                yield scope
            finally:
                self.unwatch(subject, scope.cancel)

    @asynccontextmanager
    async def _open_pipe(self) -> AsyncIterator[Pipe]:
        pipe = Pipe(self, next(self._numbers))
        self._pipes[pipe.number] = pipe
        try:
            yield pipe
        finally:
            del self._pipes[pipe.number]
            pipe.leave()

    # -- carrying another node's answer to the client

    async def _carry(self, answer: _Answer, pipe: Pipe, ways: _Ways) -> None:
        if ways.body is None:
            await self._carry_websocket(pipe, ways)
        elif answer.pipe is None:
            await ways.send_whole(answer)
        else:
            await self._carry_stream(answer, pipe, ways)

    async def _carry_stream(self, answer: _Answer, pipe: Pipe, ways: _Ways) -> None:
        async def until_left() -> None:
            while (await ways.receive())["type"] != "http.disconnect":
                pass
            reading.cancel_scope.cancel()

        whole = False
        try:
            await ways.send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
            await ways.send({"type": "http.response.body", "body": answer.body, "more_body": True})
            async with anyio.create_task_group() as reading:
                reading.start_soon(until_left)
                try:
                    while not whole:
                        event = await pipe.receive()
                        whole = not event.get("more_body", False)
                        await ways.send(event)
                except PipeBroken:
                    whole = True
                    await ways.send({"type": "http.response.body", "body": b""})
                reading.cancel_scope.cancel()
        finally:
            if not whole:
                await _say_goodbye(pipe, {"type": "http.disconnect"})

    async def _carry_websocket(self, pipe: Pipe, ways: _Ways) -> None:
        left = False

        async def upward() -> None:
            nonlocal left
            try:
                while not left:
                    event = await ways.receive()
                    left = event["type"] == "websocket.disconnect"
                    await pipe.send(event)
            except PipeBroken:
                pipe.fail()

        await ways.receive()  # websocket.connect; the other node makes its own
        try:
            async with anyio.create_task_group() as both:
                both.start_soon(upward)
                await self._downward(pipe, ways)
                both.cancel_scope.cancel()
        finally:
            if not left:
                await _say_goodbye(pipe, {"type": "websocket.disconnect", "code": 1006})

    async def _downward(self, pipe: Pipe, ways: _Ways) -> None:
        try:
            while True:
                event = await pipe.receive()
                if event["type"] == "rtcflow.end":
                    return
                await ways.send(event)
        except PipeBroken:
            await ways.send({"type": "websocket.close", "code": 1012, "reason": str(CallLost())})

    # -- serving what another node has sent

    async def _serve(self, head: dict[str, Any], body: bytes, reply: str) -> None:
        endpoint = self._calls.endpoints.get(head["endpoint"])
        if endpoint is None or self._serving >= MOST:
            self._link.publish(reply, pack({"status": 503, "headers": [["retry-after", "5"]]}))
            return
        scope = unpack_scope(head["scope"])
        websocket = scope["type"] == "websocket"
        if websocket and not self._has_room():
            self._link.publish(reply, pack({"status": 503, "headers": []}))
            return
        self._serving += 1
        try:
            async with self._open_pipe() as pipe:
                pipe.join(head["node"], head["pipe"])
                answering = _Answering(self, pipe, reply, websocket=websocket, body=body)
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

    def publish(self, reply: str, head: dict[str, Any], body: bytes = b"") -> None:
        """Answer another node."""
        self._link.publish(reply, pack(head | {"node": self.name}, body))


class _Answer:
    """The beginning of an answer, or all of it.

    Attributes:
        pipe: The pipe at the other node that the rest comes from, or None if this is all.
    """

    def __init__(self, status: int, headers: Any = (), body: bytes = b"") -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self.pipe: int | None = None


class _Ways:
    """One request, with the ways to its client."""

    def __init__(self, endpoint: str, scope: Scope, receive: Receive, send: Send, body: bytes | None) -> None:
        self.endpoint = endpoint
        self.scope = scope
        self.receive = receive
        self.send = send
        self.body = body

    async def send_whole(self, answer: _Answer) -> None:
        await self.send({"type": "http.response.start", "status": answer.status, "headers": list(answer.headers)})
        await self.send({"type": "http.response.body", "body": answer.body})


class _Answering:
    """An ASGI server's part for one request that another node has sent."""

    def __init__(self, node: Node, pipe: Pipe, reply: str, *, websocket: bool, body: bytes) -> None:
        self._node = node
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
        self._node.publish(self._reply, head, body)

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


def _call_name(webrtc_id: str) -> str:
    """The name of an id among the claims. It is a hash: whole ids give power over a call, and NATS shows subjects."""
    return f"call.{hashlib.sha256(webrtc_id.encode()).hexdigest()[:32]}"
