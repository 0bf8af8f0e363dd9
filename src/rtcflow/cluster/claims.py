"""Names that exactly one node of a cluster holds: the ids that callers choose, and the slots of the cluster. Pure.

No table says which node holds a name, since a table can be out of date. The node that holds a name *subscribes* to it,
so NATS itself knows. A node that wants a name subscribes first and then asks everybody else who subscribes to it. NATS
answers at once if nobody does: then the name is ours. If a node dies, its subscriptions end with it.

Several nodes may want the same name at the same time. Each asks the others. The node whose own name is smaller goes
first. The other one steps aside: it unsubscribes, and asks on until the matter is settled. The one that goes first
answers when it knows: it has the name, or wants it no more. So a name is refused only while some node holds it. Two
nodes that give way to one another do not lose a free name.
"""

from __future__ import annotations

import enum
from typing import Final

LIVE: Final = b"live "
"""The answer of a node that holds the name; its own name follows."""
YIELDED: Final = b"yielded"
"""The answer of a node that does not want the name, or not any more: ask again."""


class Outcome(enum.Enum):
    """What an answer means for the node that asked."""

    WON = enum.auto()
    """The name is ours."""
    LOST = enum.auto()
    """Another node holds it."""
    AGAIN = enum.auto()
    """Ask again."""
    ANEW = enum.auto()
    """The node that went first has given up: subscribe again, then ask again."""


class _State(enum.Enum):
    ASKING = enum.auto()
    ASIDE = enum.auto()
    HELD = enum.auto()


class Claims:
    """The names that one node holds, or has asked for.

    Args:
        node: The node's own name.
    """

    def __init__(self, node: str) -> None:
        self._node = node
        self._names: dict[str, _State] = {}

    def __contains__(self, name: str) -> bool:
        return self._names.get(name) is _State.HELD

    def begin(self, name: str) -> bool:
        """Want a name. False if this node has or wants it already. Otherwise subscribe to it and ask."""
        if name in self._names:
            return False
        self._names[name] = _State.ASKING
        return True

    def asked(self, name: str, node: str) -> bytes | None:
        """What to answer another node that wants the name; None is "later, when our own claim is settled".

        Unsubscribe before the answer `YIELDED`.
        """
        state = self._names.get(name)
        if state is _State.HELD:
            return LIVE + self._node.encode()
        if state is _State.ASKING:
            if self._node < node:
                return None
            self._names[name] = _State.ASIDE
        return YIELDED

    def answered(self, name: str, answer: bytes | None) -> Outcome:
        """What an answer means; None is NATS's word that nobody else subscribes to the name."""
        if answer is not None:
            return Outcome.AGAIN if answer == YIELDED else Outcome.LOST
        if self._names[name] is _State.ASIDE:
            self._names[name] = _State.ASKING
            return Outcome.ANEW
        self._names[name] = _State.HELD
        return Outcome.WON

    def hold(self, name: str) -> None:
        """Hold a name without asking, since NATS does not answer. For ids only: they are hard to guess."""
        self._names[name] = _State.HELD

    def release(self, name: str) -> None:
        """Give a name back, or want it no more. Then unsubscribe, and answer those that wait."""
        self._names.pop(name, None)
