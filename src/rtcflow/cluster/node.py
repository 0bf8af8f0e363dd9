"""One node of a cluster: what it tells the others, and what it does with what they tell it.

Subjects, all below the cluster's prefix:

| subject | who subscribes | what comes |
|---|---|---|
| ``nodes`` | every node | each node's report, once or twice a second |
| ``hello`` | every node | a new node's report; the answer says whether they fit together |
| ``claimed`` | every node | which node has taken which id or slot: hints only. Reports say what was given back |
| ``node.{name}`` | that node | requests to serve, messages of pipes, pings, the question which slots it holds |
| ``call.{hash of the id}`` | the node of the call | requests to serve, pings, claims; for ids that callers chose |
| ``slot.{number}`` | the node that holds the slot | claims; only with a limit of the whole cluster |

This module reads the messages and hands each to the part that it is for:

- `peers`: which nodes there are, and which have died;
- `holdings`: the ids and slots of the calls here, with `names` and `slots`;
- `routing`: which node answers a request;
- `carrying`: requests on their way to another node, and those of other nodes, with `pipe`.

Decisions are made without waiting, in `policy`, `claims`, `members` and `ids`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import anyio
import anyio.abc

from .._engine.nats_link import LinkDown, NatsLink, NoListener
from ..exceptions import ClusterError
from ..serving.router import Receive, RequestTarget, Scope, Send
from .carrying import Carrier, Request
from .holdings import Holdings
from .ids import new_key, new_name
from .members import PROTOCOL, Report, disagreement, read_report
from .messages import unpack
from .peers import BEAT, Peers
from .pipe import TAKEN
from .policy import Load, is_news, read_release
from .routing import Routing

if TYPE_CHECKING:
    from ..serving.calls import Calls

logger: logging.Logger = logging.getLogger(__name__)

HELLO: Final = 10.0
"""Seconds for the answer of another node at the start. Only a node that is stopped, or very busy, needs them."""


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
        self.name: str = new_name()
        self._key = new_key()
        self._calls = calls
        self._link = link
        self._prefix = prefix
        self._release = read_release(release)
        self._clock = clock
        self._tasks: anyio.abc.TaskGroup
        self._peers = Peers(self.name, link, prefix)
        self._holdings = Holdings(self._peers, self._key, limit)
        self._carrier = Carrier(calls.endpoints, self._peers)
        self._routing = Routing(calls, calls.endpoints, self._load, self._peers, self._holdings, self._carrier)
        self._lag = 0.0
        self._left = False
        self._said: Report
        self._said_over: float | None = None

    # -- joining and leaving

    async def start(self, tasks: anyio.abc.TaskGroup) -> None:
        """Join the cluster; `tasks` hold what the node does from then on.

        Raises:
            ClusterError: The nodes that are there do not fit this one.
        """
        self._tasks = tasks
        self._said = self._report()
        tasks.start_soon(self._read)
        for subject in ("nodes", "claimed", "hello", f"node.{self.name}"):
            await self._link.subscribe(f"{self._prefix}.{subject}")
        mine = self._said
        try:
            theirs = read_report(await self._link.request(f"{self._prefix}.hello", mine.to_bytes(), HELLO))
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
        self._tell_report()

    def _tell_report(self) -> None:
        self._said, self._said_over = self._report(), self._link.up_since
        report = replace(self._said, freed=self._holdings.take_freed())
        self._link.publish(f"{self._prefix}.nodes", report.to_bytes())

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
        is_due = True
        while True:
            # After NATS was away, others wait for a report over the new connection.
            if is_due or is_news(self._said.load, self._load()) or self._said_over != self._link.up_since:
                self._tell_report()
                is_due = False
            else:
                is_due = True
            self._peers.look(self._tasks)
            due = self._peers.now() + BEAT
            await anyio.sleep(BEAT)
            late = self._peers.now() - due
            self._lag = 0.8 * self._lag + 0.2 * max(0.0, late)

    def _heard(self, report: Report) -> None:
        if report.node != self.name:
            self._peers.heard(report)
            self._holdings.heard_from(report)

    # -- messages

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
            why = disagreement(self._said, report)
            if why is None:
                self._heard(report)
            elif subject == "hello":
                logger.error("a node with the same prefix does not fit, and does not start: %s", why)
            if reply:
                keys, held = self._peers.members.latest_keys(), self._holdings.known_ids()
                self._link.publish(reply, replace(self._report(), keys=keys, held=held).to_bytes())
            return
        head, rest = unpack(data)
        match head["kind"]:
            case "claimed":
                self._holdings.said(head["name"], head["node"])
            case "claim":
                self._holdings.asked(head["name"], head["node"], reply)
            case "slots":
                self._link.publish(reply, self._holdings.slots_held())
            case "ping":
                self._link.publish(reply, TAKEN)
            case "pipe":
                self._carrier.piped(head, rest, reply)
            case "serve":
                self._tasks.start_soon(self._carrier.serve, head, rest, reply, self._load())

    # -- what the stream asks

    def new_id(self) -> str:
        return self._holdings.new_id()

    async def claim(self, webrtc_id: str) -> None:
        await self._holdings.claim(webrtc_id)

    async def rename(self, webrtc_id: str, new_id: str) -> None:
        await self._holdings.rename(webrtc_id, new_id)

    def release(self, webrtc_id: str) -> None:
        self._holdings.release(webrtc_id)

    async def route(
        self, target: RequestTarget, endpoint: str, scope: Scope, receive: Receive, send: Send, body: bytes | None
    ) -> bool:
        return await self._routing.route(target, Request(endpoint, scope, receive, send, body))
