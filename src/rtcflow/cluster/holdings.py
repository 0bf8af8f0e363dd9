"""What the calls of one node hold in the whole cluster: their ids, and slots of its limit.

An id that the node has made needs no claim, since nobody else can make it. An id that a caller chose is a name that one
node holds (see `claims`). What other nodes say of their names are hints. They tell a caller that the node of the call
has died, and where a free slot is likely. No answer depends on a hint alone.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from .._engine.nats_link import LinkDown, NoListener
from ..exceptions import ConnectionExists, NotServing
from .ids import is_signed, make_id, read_id
from .messages import pack
from .names import ASK, AWAY, Names
from .slots import Slots, is_slot_name, read_slot_name, read_slots, slot_name, write_slots

if TYPE_CHECKING:
    from .members import Report
    from .peers import Peers

HINTS: Final = 10_000
"""Ids whose node is remembered, so that a caller is told that this node has gone."""

TOLD: Final = 2_000
"""Of these, how many a new node is told, the latest ones: 120 KB. NATS takes messages of 1 MB."""


class Holdings:
    """The names that the calls of one node hold.

    Args:
        peers: The other nodes.
        key: What this node signs ids with.
        limit: How many calls the whole cluster takes, or None.
    """

    def __init__(self, peers: Peers, key: bytes, limit: int | None) -> None:
        self._peers = peers
        self._link = peers.link
        self._key = key
        self._names = Names(peers.name, peers.link, peers.prefix, peers.now, peers.settle_claim)
        self.slots: Slots | None = None if limit is None else Slots(limit, self._names, partial(self._slots_of, limit))
        self._held: dict[str, list[str]] = {}
        self._hints: OrderedDict[str, str] = OrderedDict()
        self._mute: dict[str, Callable[[], object]] = {}
        self._freed: dict[str, None] = {}

    def new_id(self) -> str:
        """See `rtcflow.serving.router.CallRouter`."""
        return make_id(self._peers.name, self._key)

    async def claim(self, webrtc_id: str) -> None:
        """See `rtcflow.serving.router.CallRouter`."""
        names: list[str] = []
        try:
            if not self._is_own(webrtc_id):
                names.append(await self._win(webrtc_id))
            if self.slots is not None:
                if not self._link.is_up:
                    raise NotServing(AWAY)
                names.append(slot_name(await self.slots.take()))
        except BaseException:
            self._give_back(names)
            raise
        self._held[webrtc_id] = names
        self._announce(names)

    async def rename(self, webrtc_id: str, new_id: str) -> None:
        """See `rtcflow.serving.router.CallRouter`."""
        if self._is_own(new_id):
            raise ConnectionExists
        name = await self._win(new_id)
        self._held[new_id] = [name, *self._held.pop(webrtc_id, [])]
        self._announce([name])

    async def _win(self, webrtc_id: str) -> str:
        name = call_name(webrtc_id)
        if await self._names.win(name, unasked=True) is not None:
            raise ConnectionExists
        return name

    def release(self, webrtc_id: str) -> None:
        """See `rtcflow.serving.router.CallRouter`."""
        self._give_back(self._held.pop(webrtc_id, []))

    def _is_own(self, webrtc_id: str) -> bool:
        found = read_id(webrtc_id)
        return found is not None and found.node == self._peers.name and is_signed(found, self._key)

    def _announce(self, names: list[str]) -> None:
        for name in names:
            self._freed.pop(name, None)
            message = pack({"kind": "claimed", "name": name, "node": self._peers.name})
            self._link.publish(f"{self._peers.prefix}.claimed", message)
        self._peers.wake()  # those who wait for the id at this node

    def _give_back(self, names: list[str]) -> None:
        for name in names:
            self._names.release(name)
            if self.slots is not None and is_slot_name(name):
                self.slots.free(read_slot_name(name))
            self._freed[name] = None

    def take_freed(self) -> tuple[str, ...]:
        """What was given back since the last call, for the next report."""
        freed, self._freed = tuple(self._freed), {}
        return freed

    def known_ids(self) -> dict[str, str]:
        """Which node holds which id, as far as it is known here: for a node that has just started."""
        names = (name for names in self._held.values() for name in names if not is_slot_name(name))
        own = dict.fromkeys(names, self._peers.name)
        known = own | self._hints | own  # its own are left out first: a live node answers for them
        return dict(list(known.items())[-TOLD:])

    # -- what other nodes say and ask

    def said(self, name: str, node: str) -> None:
        """A node says that it has taken a name."""
        if is_slot_name(name):
            if self.slots is not None:
                self.slots.said(read_slot_name(name), node)
            return
        self._hints[name] = node
        self._hints.move_to_end(name)
        while len(self._hints) > HINTS:
            self._hints.popitem(last=False)
        self._peers.wake()

    def _unsaid(self, name: str, node: str) -> None:
        """A node says that it has given a name back."""
        if is_slot_name(name):
            if self.slots is not None:
                self.slots.unsaid(read_slot_name(name), node)
        elif self._hints.get(name) == node:
            del self._hints[name]

    def said_to_hold(self, name: str) -> str | None:
        """The other node that is said to hold an id."""
        return self._hints.get(name)

    def has_heard_of(self, name: str) -> bool:
        """Whether an id is held here, or is said to be held elsewhere."""
        return name in self._hints or name in self._names

    def asked(self, name: str, node: str, reply: str) -> None:
        """Another node wants a name."""
        self._names.asked(name, node, reply)

    def slots_held(self) -> bytes:
        """The answer to a node that asks which slots this one holds."""
        return write_slots(() if self.slots is None else self.slots.held)

    def heard_from(self, report: Report) -> None:
        """A node has reported: it is not stopped."""
        gone = self._mute.pop(report.node, None)
        if gone is not None:
            self._peers.unwatch(self._peers.node_subject(report.node), gone)
        for name in report.freed:
            self._unsaid(name, report.node)
        for name, node in report.held.items():
            self.said(name, node)

    async def _slots_of(self, limit: int, node: str) -> list[int] | None:
        """The slots that a node says it holds; None if it does not answer."""
        if node in self._mute:
            return None
        subject, asked = self._peers.node_subject(node), self._peers.now()
        while True:
            try:
                return read_slots(await self._link.request(subject, pack({"kind": "slots"}), ASK), limit)
            except NoListener:
                if not await self._peers.may_return(asked):
                    return []
            except LinkDown:
                raise NotServing(AWAY) from None
            except TimeoutError:
                gone = self._mute[node] = partial(self._slots_lost, node)
                self._peers.watch(subject, gone)
                return None

    def _slots_lost(self, node: str) -> None:
        """A node that did not answer has died: its slots are free."""
        self._mute.pop(node, None)
        if self.slots is not None:
            self.slots.forget(node)


def call_name(webrtc_id: str) -> str:
    """The name of an id among the claims. It is a hash: whole ids give power over a call, and NATS shows subjects."""
    return f"call.{hashlib.sha256(webrtc_id.encode()).hexdigest()[:32]}"
