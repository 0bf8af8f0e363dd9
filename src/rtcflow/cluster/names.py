"""What `claims` decides, done over NATS: subscribing to a name, asking about it, answering others."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from .._engine.nats_link import LinkClosed, LinkDown, NatsLink, NoListener
from ..exceptions import NotServing
from .claims import LIVE, YIELDED, Claims, Outcome
from .messages import pack

ASK: Final = 2.0
"""Seconds after which a question without an answer is asked again."""

AWAY: Final = "the servers cannot count the calls of all of them now; try again"

STOPPED: Final = 6.0
"""Seconds after which a node that answers nothing is taken to be stopped. Its names stay its own."""


class Names:
    """The names of one node.

    Args:
        node: The node's own name.
        link: The connection to NATS.
        prefix: What all subjects begin with.
        clock: The clock of the event loop.
        settle: Waits until the other nodes are there again, after NATS was away. Says whether it makes sense to ask
            again.
    """

    def __init__(
        self,
        node: str,
        link: NatsLink,
        prefix: str,
        clock: Callable[[], float],
        settle: Callable[[], Awaitable[bool]],
    ) -> None:
        self._node = node
        self._link = link
        self._prefix = prefix
        self._now = clock
        self._settle = settle
        self._claims = Claims(node)
        self._waiting: dict[str, list[str]] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._claims

    async def win(self, name: str, *, unasked: bool) -> str | None:
        """Take a name for this node.

        Args:
            name: Which one.
            unasked: Whether to take it without asking while NATS is away.

        Returns:
            None if it is this node's now. Otherwise the node that holds it; "" if that one does not answer.

        Raises:
            NotServing: The stream is ending, or NATS is away.
        """
        if not self._claims.begin(name):
            return self._node
        won = False
        try:
            holder = await self._ask(name)
            won = holder is None
            return holder
        except LinkClosed:
            raise NotServing("the server is shutting down") from None
        except LinkDown:
            if not unasked:
                raise NotServing(AWAY) from None
            self._claims.hold(name)
            won = True
            return None
        finally:
            if won:
                self._answer(name, LIVE + self._node.encode())
            else:
                self.release(name)

    async def _ask(self, name: str) -> str | None:
        subject = f"{self._prefix}.{name}"
        message = pack({"kind": "claim", "name": name, "node": self._node})
        stopped = self._now() + STOPPED
        subscribed = False
        while True:
            ask, subscribed = self._link.request if subscribed else self._link.subscribe_and_request, True
            try:
                answer = await ask(subject, message, ASK)
            except NoListener:
                if await self._settle():
                    continue
                answer = None
            except TimeoutError:
                if self._now() < stopped:
                    continue
                return ""
            match self._claims.answered(name, answer):
                case Outcome.WON:
                    return None
                case Outcome.LOST:
                    return (answer or b"").removeprefix(LIVE).decode()
                case Outcome.ANEW:
                    self._link.unsubscribe(subject)
                    subscribed = False

    def asked(self, name: str, node: str, reply: str) -> None:
        """Another node wants the name."""
        answer = self._claims.asked(name, node)
        if answer is None:
            self._waiting.setdefault(name, []).append(reply)
            return
        if answer == YIELDED:
            self._link.unsubscribe(f"{self._prefix}.{name}")
            self._answer(name, YIELDED)
        self._link.publish(reply, answer)

    def release(self, name: str) -> None:
        """Give a name back. The second time does nothing."""
        self._claims.release(name)
        self._link.unsubscribe(f"{self._prefix}.{name}")
        self._answer(name, YIELDED)

    def _answer(self, name: str, answer: bytes) -> None:
        for reply in self._waiting.pop(name, ()):
            self._link.publish(reply, answer)
