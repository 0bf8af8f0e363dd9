"""The slots of a whole cluster: a limit of 100 is 100 names, and a call takes one of them.

What nodes say of the slots that they take and free is a hint. It tells where to look first, and nothing else depends on
it. A slot counts as taken only if its node says so when it is asked. So a call is refused only after each slot was
found taken. Asking costs one message for each node that has some, and not one for each slot.

One search runs at a time on a node. Two of them would want the same slot, and one would have to wait for the other.
"""

from __future__ import annotations

import json
import random
from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol

import anyio

from ..exceptions import TooManyConnections


class SlotNames(Protocol):
    """What slots need of `rtcflow.cluster.names.Names`."""

    async def win(self, name: str, *, unasked: bool) -> str | None:
        """Take a name for this node."""


class Slots:
    """The slots of a cluster, as one node knows them.

    Args:
        limit: How many there are.
        names: Where they are won.
        ask: Asks a node which slots it holds. The answer is None if the node does not answer; then it keeps those that
            it is said to hold.
    """

    def __init__(self, limit: int, names: SlotNames, ask: Callable[[str], Awaitable[list[int] | None]]) -> None:
        self._limit = limit
        self._names = names
        self._ask = ask
        self._held: set[int] = set()
        self._holders: dict[int, str] = {}
        self._searching = anyio.Lock()

    @property
    def held(self) -> list[int]:
        """The slots of this node."""
        return sorted(self._held)

    @property
    def hints(self) -> dict[int, str]:
        """Which other node is said to hold which slot."""
        return self._holders

    async def take(self) -> int:
        """Take a slot.

        Raises:
            TooManyConnections: All are taken.
            NotServing: NATS is away.
        """
        async with self._searching:
            taken = set(self._held)
            while len(taken) < self._limit:
                free = [slot for slot in range(self._limit) if slot not in taken and slot not in self._holders]
                holder: str | None
                if free:
                    slot = random.choice(free)  # noqa: S311
                    holder = await self._names.win(slot_name(slot), unasked=False)
                    if holder is None:
                        self._held.add(slot)
                        return slot
                    taken.add(slot)
                else:
                    holder = next(node for slot, node in self._holders.items() if slot not in taken)
                if holder:
                    taken |= await self._look(holder)
            raise TooManyConnections(self._limit)

    async def _look(self, node: str) -> set[int]:
        """The slots that a node holds; the hints about it are corrected."""
        found = await self._ask(node)
        if found is not None:
            self.forget(node)
            self._holders |= dict.fromkeys(found, node)
        return {slot for slot, holder in self._holders.items() if holder == node}

    def free(self, slot: int) -> None:
        """This node has given a slot back."""
        self._held.discard(slot)

    def said(self, slot: int, node: str) -> None:
        """A node says that it has taken a slot."""
        if slot < self._limit:
            self._holders[slot] = node

    def unsaid(self, slot: int, node: str) -> None:
        """A node says that it has freed a slot."""
        if self._holders.get(slot) == node:
            del self._holders[slot]

    def forget(self, node: str) -> None:
        """A node has gone, or says again what it holds."""
        for slot in [slot for slot, holder in self._holders.items() if holder == node]:
            del self._holders[slot]


def slot_name(slot: int) -> str:
    """The name of a slot among the claims."""
    return f"slot.{slot}"


def is_slot_name(name: str) -> bool:
    """Whether this is the name of a slot."""
    return name.startswith("slot.")


def read_slot_name(name: str) -> int:
    """The slot that has this name.

    Raises:
        ValueError: It is not the name of a slot.
    """
    return int(name.removeprefix("slot."))


def write_slots(slots: Iterable[int]) -> bytes:
    """The answer of a node that is asked which slots it holds."""
    return json.dumps(list(slots)).encode()


def read_slots(answer: bytes, limit: int) -> list[int]:
    """The slots in the answer of a node.

    Raises:
        ValueError: It is something else.
    """
    found = json.loads(answer)
    if not isinstance(found, list):
        raise ValueError("the slots of a node are not a list")  # noqa: TRY004  bad input, not a wrong call
    return [int(slot) for slot in found if 0 <= int(slot) < limit]
