"""The other nodes, as one node knows them: who is there, who has died, and messages that outlive a restart of NATS.

A node is dead if NATS says twice, `RECONNECT` apart, that nobody listens to its subject. A connection that breaks is
made again sooner than that. After NATS was away that takes longer. With several NATS servers that are joined, a node
may also be on its way from one that died to another one. So then nobody is dead before every other node has reported
again, or is silent. A node may be silent although somebody still listens to its subject. Then it is stopped or cut off.
It gets no new calls, and keeps the calls that it has. When it comes back, NATS may close its old connection before it
has a new one. What it had sent arrives first, so it may be a member again by then. While nodes are silent, or have just
come back, "nobody listens" counts only after the time that one of them would need to report again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import anyio
import anyio.abc

from .._core.bridge import loop_clock
from .._engine.nats_link import LinkDown, NatsLink, NoListener
from .members import SILENCE, Members, Report
from .messages import pack
from .names import ASK
from .pipe import GONE
from .policy import Placement

logger: logging.Logger = logging.getLogger(__name__)

BEAT: Final = 0.5
"""Seconds between two looks at the nodes that are waited for. A node reports at each beat that has news, and at least
at every second one."""

RECONNECT: Final = 0.4
"""Seconds that a node has to connect to NATS again. nats-py tries at once, and then each 0.2 s. With
`BEAT`, a caller whose request is under way is told of a death within a second."""


class Peers:
    """The other nodes.

    Args:
        name: This node's own name.
        link: The connection to NATS.
        prefix: What all subjects begin with.

    Attributes:
        members: Which nodes there are.
        placement: How busy they are.
    """

    def __init__(self, name: str, link: NatsLink, prefix: str) -> None:
        self.name: str = name
        self.link: NatsLink = link
        self.prefix: str = prefix
        self.now: Callable[[], float] = loop_clock()
        self.members: Members = Members()
        self.placement: Placement = Placement(name)
        self._watched: dict[str, list[Callable[[], object]]] = {}
        self._waiting: dict[str, list[Callable[[], object]]] = {}
        self._pinging: set[str] = set()
        self._settled = link.up_since
        self._news = anyio.Event()

    def node_subject(self, name: str) -> str:
        """Where a node gets its messages."""
        return f"{self.prefix}.node.{name}"

    # -- who is there

    def heard(self, report: Report) -> None:
        """A node has reported."""
        self.members.heard(report, self.now())
        if report.left:
            self.placement.remove(report.node)
        else:
            self.placement.update(report.node, report.load)
        self.wake()

    def remove(self, node: str) -> None:
        """A node has died."""
        self.members.remove(node)
        self.placement.remove(node)
        self.wake()

    def look(self, tasks: anyio.abc.TaskGroup) -> None:
        """Each `BEAT`: leave out the nodes that are silent, and ping those that somebody waits for."""
        before = self.members.silent()
        for name in self.members.expire(self.now()):
            logger.warning("node %s is silent: it gets no new calls", name)
            self.placement.remove(name)
            for give_up in self._waiting.pop(name, []):
                give_up()
        for name in self.members.silent():
            if self.node_subject(name) not in self._pinging:
                self._pinging.add(self.node_subject(name))
                tasks.start_soon(self._look_for_death, name, name in before)
        for subject in list(self._watched):
            if subject not in self._pinging:
                self._pinging.add(subject)
                tasks.start_soon(self._ping, subject)

    async def _look_for_death(self, node: str, returns: bool) -> None:  # noqa: FBT001
        """Note that a silent node is dead, so that nobody waits for it.

        One that has just become silent is dead if nobody listens. One that `returns`, perhaps, has some time for it.
        """
        subject = self.node_subject(node)
        try:
            is_dead = await (self._is_gone(subject) if returns else self._nobody_listens(subject))
            if is_dead and node not in self.members:
                self.remove(node)
        finally:
            self._pinging.discard(subject)

    def wake(self) -> None:
        """There is news: all `wait_news` return."""
        self._news.set()
        self._news = anyio.Event()

    async def wait_news(self) -> None:
        """Wait until a node has reported, or has taken an id. Safe to cancel."""
        await self._news.wait()

    @contextmanager
    def unless_silent(self, node: str | None) -> Iterator[anyio.CancelScope]:
        """A scope that is cancelled when a node becomes silent; for a question that another node can answer, too."""
        with anyio.CancelScope() as scope:
            waiting = self._waiting.setdefault(node or "", [])
            waiting.append(scope.cancel)
            try:
                yield scope
            finally:
                if scope.cancel in waiting:
                    waiting.remove(scope.cancel)
                if not waiting:
                    self._waiting.pop(node or "", None)

    async def is_dead(self, node: str) -> bool:
        """Ask NATS whether a node is dead. False if that is not known."""
        if node not in self.members and node not in self.members.silent():
            return True
        if not await self._is_gone(self.node_subject(node)):
            return False
        self.remove(node)
        return True

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
            if await self._is_gone(subject):
                for gone in self._watched.pop(subject, []):
                    gone()
        finally:
            self._pinging.discard(subject)

    async def _is_gone(self, subject: str) -> bool:
        """Whether nobody listens to a subject, also after the time that those who are away have to come back."""
        asked = self.now()
        while await self._nobody_listens(subject):
            if not await self.may_return(asked):
                return True
        return False

    async def _nobody_listens(self, subject: str) -> bool:
        with anyio.move_on_after(ASK):
            while True:
                try:
                    await self.link.request(subject, pack({"kind": "ping"}), BEAT)
                except NoListener:
                    return True
                except LinkDown:
                    return False
                except TimeoutError:
                    continue  # NATS takes back the subjects of a dead node one after the other: perhaps it is at it
                else:
                    return False
        return False  # it is not known to be dead

    async def settle(self, asked: float) -> bool:
        """After NATS, or another NATS server, was away, wait until the other nodes are there again, too.

        Until then "nobody listens" may only mean that a node has not come back yet.

        Args:
            asked: When the question was put for the first time.

        Returns:
            Whether there was something to wait for, so that it makes sense to ask again.
        """
        up = self.link.up_since
        if up is None:
            return True
        if up != self._settled:
            await self._all_heard(up)
            self._settled = up
            return True
        if self.link.is_joined and self.now() < asked + SILENCE and self.members.not_heard_since(asked):
            await self._all_heard(asked)
            return True
        return False

    async def settle_claim(self) -> bool:
        """`settle` for a name that nobody need hold. That is the usual case, so only a late node is waited for."""
        return await self.settle(self.now() - 3 * BEAT)

    async def may_return(self, asked: float) -> bool:
        """Wait for news of the nodes to which nobody may listen only for a moment, until `SILENCE` after `asked`.

        Args:
            asked: When the question was put for the first time.

        Returns:
            Whether there was news, so that it makes sense to ask again.
        """
        if await self.settle(asked):
            return True
        since, unsteady = self.now(), self.members.unsteady()
        if not unsteady and since < asked + RECONNECT:
            await anyio.sleep(asked + RECONNECT - since)
            return True
        with anyio.move_on_after(max(0.0, asked + SILENCE - since)):
            while unsteady:
                await self.wait_news()
                if self.members.heard_one_since(unsteady, since) or not unsteady <= self.members.unsteady():
                    return True
        return False

    async def _all_heard(self, since: float) -> None:
        """Wait until every node has reported after `since`, or is silent."""
        with anyio.move_on_after(max(0.0, since + SILENCE - self.now())):
            while self.members.not_heard_since(since):
                await self.wait_news()

    async def deliver(self, subject: str, message: bytes, timeout: float) -> bytes:
        """Send a message until it has an answer, over restarts of NATS. `GONE` if nobody is there to answer."""
        asked = self.now()
        while True:
            try:
                return await self.link.request(subject, message, timeout)
            except NoListener:
                if not await self.may_return(asked):
                    return GONE
            except LinkDown:
                await self.link.wait_up()
            except TimeoutError:
                pass  # a stopped node, or a busy one
