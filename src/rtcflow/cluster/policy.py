"""Which node takes the next call: the power of two choices, with reservations. Pure.

Each node publishes its load twice a second if it has changed by some calls, and otherwise once. So every node's picture
of the others is a little old. If all nodes sent
their next call to the one that looks least busy, that node would get a hundred calls in the same moment. So a node
draws two others at random and takes the lighter one. The most loaded node then stays within a few calls of the average
(Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001). The node itself is a third choice, and
counts as one call lighter than it is. So calls are carried to another node only if that helps. Carrying costs time and
CPU, and a difference of one call is less than what is not known yet.

A node also counts what it has itself sent to another one since that one's last report: these are the reservations.

Limits do not rest on this picture. The chosen node decides by itself whether it has a slot. If it has none, it says so,
and the next node is asked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

UNLIMITED: Final = 100
"""Calls at which a node without a limit counts as full, for comparing it with others. It is never refused a call."""

LATE: Final = 0.2
"""If a node's event loop runs late by this many seconds, the node counts as twice as busy."""

ON_TIME: Final = 0.02
"""Seconds of lateness that say nothing: the length of an audio frame. Every loop is late by some milliseconds."""

NEWS: Final = 0.1
"""By how much a node must have become busier, or less busy, to say so at the next beat: a tenth of its limit. A report
wakes two threads in every other node, so a small change waits for the beat after that."""


@dataclass(frozen=True, slots=True)
class Load:
    """How busy a node says it is.

    Attributes:
        calls: Its live calls.
        limit: The most that it takes, or None.
        draining: Whether it takes no new calls.
        release: Which release of the application it runs. New calls prefer the newest.
        lag: Seconds by which its event loop runs late.
    """

    calls: int = 0
    limit: int | None = None
    draining: bool = False
    release: tuple[int, ...] = ()
    lag: float = 0.0

    @property
    def has_room(self) -> bool:
        """Whether the node takes one more call."""
        return not self.draining and (self.limit is None or self.calls < self.limit)

    def weight(self, calls: int) -> float:
        """How busy the node is with this many calls: 0 without calls, 1 if it is full, more if its loop runs late."""
        return calls / (self.limit or UNLIMITED) + max(0.0, self.lag - ON_TIME) / LATE


def is_news(told: Load, load: Load) -> bool:
    """Whether other nodes should hear soon that the load `told` is `load` now."""
    before, now = ((one.has_room, one.draining, one.limit, one.release) for one in (told, load))
    if before != now:
        return True
    return abs(told.weight(told.calls) - load.weight(load.calls)) >= NEWS - 1e-9


def read_release(text: str) -> tuple[int, ...]:
    """The numbers in a release's name, for comparing: ``"2026-11-29.2"`` gives (2026, 11, 29, 2)."""
    return tuple(int(number) for number in re.findall(r"[0-9]{1,18}", text))


class Placement:
    """What one node knows of all nodes' loads, and its choice for the next call.

    Args:
        here: The name of the node that decides. It prefers itself, unless another one is lighter by more than a call.
    """

    def __init__(self, here: str) -> None:
        self._here = here
        self._loads: dict[str, Load] = {}
        self._asked: dict[str, int] = {}
        self._taken: dict[str, int] = {}
        self._pools: dict[tuple[int, ...], list[str]] = {}
        self._places: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._loads)

    def update(self, name: str, load: Load) -> None:
        """A node has reported its load, which includes all calls that it has taken."""
        known = self._loads.get(name)
        self._loads[name] = load
        self._taken.pop(name, None)
        if known is None or (known.draining, known.release) != (load.draining, load.release):
            self._leave_pool(name, known)
            if not load.draining:
                pool = self._pools.setdefault(load.release, [])
                self._places[name] = len(pool)
                pool.append(name)

    def remove(self, name: str) -> None:
        """A node has gone."""
        self._leave_pool(name, self._loads.pop(name, None))
        self._asked.pop(name, None)
        self._taken.pop(name, None)

    def _leave_pool(self, name: str, load: Load | None) -> None:
        place = self._places.pop(name, None)
        if place is None or load is None:
            return
        pool = self._pools[load.release]
        last = pool.pop()
        if last != name:
            pool[place] = last
            self._places[last] = place
        if not pool:
            del self._pools[load.release]

    # -- reservations

    def reserve(self, name: str) -> None:
        """A call is on its way to `name`. `settle` follows in any case."""
        self._asked[name] = self._asked.get(name, 0) + 1

    def settle(self, name: str, *, taken: bool) -> None:
        """The node has answered, or is gone. If it took the call, the call counts until the node's next report."""
        left = self._asked.get(name, 0) - 1
        if left > 0:
            self._asked[name] = left
        else:
            self._asked.pop(name, None)
        if taken and name in self._loads:
            self._taken[name] = self._taken.get(name, 0) + 1

    def calls(self, name: str) -> int:
        """How many calls a node has, as far as is known here, with those on their way."""
        return self._loads[name].calls + self._asked.get(name, 0) + self._taken.get(name, 0)

    def has_room(self, name: str) -> bool:
        """Whether a node has a free slot, as far as is known here."""
        limit = self._loads[name].limit
        return limit is None or self.calls(name) < limit

    def weight(self, name: str) -> float:
        """How busy a node is, as far as is known here; see `Load.weight`."""
        return self._loads[name].weight(self.calls(name))

    # -- the choice

    def choose(self, draw: Callable[[int], int], tried: Collection[str] = ()) -> str | None:
        """The node that should take the next call.

        Args:
            draw: Given a number n, returns a whole number from 0 to n-1 at random: ``random.randrange``.
            tried: Nodes that have refused this call.

        Returns:
            A node that takes calls and has room, of the newest release that has one. None if no node has.
        """
        for release in sorted(self._pools, reverse=True):
            pool = self._pools[release]
            found = self._open(_two(pool, draw), tried)
            if not found:  # two full ones were drawn: look at all
                found = self._open(pool, tried)
                found = _two(found, draw) if found else []
            if found:
                if self._here in self._places and self._loads[self._here].release == release:
                    found += self._open({self._here} - {*found}, tried)
                return min(found, key=self._price)
        return None

    def _price(self, name: str) -> tuple[float, bool]:
        own = name == self._here
        return self.weight(name) - own / (self._loads[name].limit or UNLIMITED), not own

    def believed_full(self, tried: Collection[str] = ()) -> list[str]:
        """Nodes that take calls, and were full at their last report, which may be a second old."""
        return [name for pool in self._pools.values() for name in pool if name not in tried and not self.has_room(name)]

    def _open(self, names: Collection[str], tried: Collection[str]) -> list[str]:
        return [name for name in names if name not in tried and self.has_room(name)]


def _two(names: list[str], draw: Callable[[int], int]) -> list[str]:
    """Two different members, or the only one."""
    if len(names) == 1:
        return names
    first = draw(len(names))
    second = draw(len(names) - 1)
    return [names[first], names[second + (second >= first)]]
