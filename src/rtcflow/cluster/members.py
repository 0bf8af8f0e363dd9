"""The members of a cluster: what each node says of itself, and when it was last heard. Pure: `now` is an argument."""

from __future__ import annotations

import base64
import json
import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from .policy import Load

PROTOCOL: Final = 3
"""The version of what nodes say to each other. Nodes of different versions do not work together."""

SILENCE: Final = 3.0
"""Seconds without a report after which a node gets no new calls. One comes each second, or more often."""

REMEMBERED: Final = 4096
"""Nodes that have gone whose keys are kept, so that their callers are told what happened."""

TOLD: Final = 200
"""Keys of other nodes that a new node is told, the latest ones."""

SKEW: Final = 60.0
"""Seconds by which the clocks of two nodes may differ. Telephone carriers' signatures are only valid for minutes."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a node says of itself.

    Attributes:
        node: Its name, another one after each start.
        key: What it signs ids with.
        protocol: Its version of this protocol.
        stream: What it serves: the handler and its media.
        routes: Where, or "" while no application has mounted it.
        clock: What its wall clock says (seconds since 1970).
        load: How busy it is.
        left: Whether it is about to leave.
        keys: The keys of nodes that it has heard, for a node that has just started. With them the new node can tell
            callers of nodes that have gone what happened, also those of its own former life.
        held: Which node holds which id that a caller chose, for the same purpose.
        freed: The ids and slots that it has given back since its last report: hints only, which need not be there at
            once.
    """

    node: str
    key: bytes
    protocol: int
    stream: str
    routes: str
    clock: float
    load: Load
    left: bool = False
    keys: Mapping[str, bytes] = field(default_factory=dict)
    held: Mapping[str, str] = field(default_factory=dict)
    freed: tuple[str, ...] = ()

    def to_bytes(self) -> bytes:
        """Write it for NATS."""
        fields = asdict(self) | {"key": base64.b64encode(self.key).decode()}
        fields["keys"] = {node: base64.b64encode(key).decode() for node, key in self.keys.items()}
        return json.dumps(fields, separators=(",", ":")).encode()


def read_report(data: bytes) -> Report:
    """Read what `Report.to_bytes` wrote, also of another version.

    Raises:
        ValueError: It is something else.
    """
    try:
        fields: dict[str, Any] = json.loads(data)
        load = fields["load"]
        return Report(
            node=str(fields["node"]),
            key=base64.b64decode(fields["key"]),
            protocol=int(fields["protocol"]),
            stream=str(fields["stream"]),
            routes=str(fields["routes"]),
            clock=float(fields["clock"]),
            load=Load(
                calls=int(load["calls"]),
                limit=None if load["limit"] is None else int(load["limit"]),
                draining=bool(load["draining"]),
                release=tuple(int(number) for number in load["release"]),
                lag=float(load["lag"]),
            ),
            left=bool(fields["left"]),
            keys={str(node): base64.b64decode(key) for node, key in fields.get("keys", {}).items()},
            held={str(name): str(node) for name, node in fields.get("held", {}).items()},
            freed=tuple(map(str, fields.get("freed", ()))),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not the report of a node: {data[:60]!r}") from error


def disagreement(mine: Report, theirs: Report) -> str | None:
    """Why two nodes cannot work together, in words for the operator; None if they can."""
    if mine.protocol != theirs.protocol:
        return (
            f"node {theirs.node} speaks version {theirs.protocol} of the cluster's protocol, this one version "
            f"{mine.protocol}; install the same version of rtcflow on all nodes, or use another prefix"
        )
    if mine.stream != theirs.stream:
        return (
            f"node {theirs.node} serves another stream: {theirs.stream}; this one serves {mine.stream}. "
            "Give each stream, and each deployment, a prefix of its own: Cluster(..., prefix=...)"
        )
    if mine.routes and theirs.routes and mine.routes != theirs.routes:
        return (
            f"node {theirs.node} has mounted the stream elsewhere: {_missing(theirs, mine)}; all nodes need the same "
            "path, and the same modality, mode and telephone carriers"
        )
    if abs(mine.clock - theirs.clock) > SKEW:
        return (
            f"the clock of this machine and that of node {theirs.node} differ by "
            f"{abs(mine.clock - theirs.clock):.0f} s; set them by NTP, since carriers' signatures have a time"
        )
    return None


def _missing(theirs: Report, mine: Report) -> str:
    """Routes that one of two nodes lacks."""
    one, other = set(theirs.routes.split()), set(mine.routes.split())
    return f"it has {sorted(one - other)[:3]}, this one has {sorted(other - one)[:3]}"


class Members:
    """The other nodes, as far as they were heard."""

    def __init__(self) -> None:
        self._keys: OrderedDict[str, bytes] = OrderedDict()
        self._heard: dict[str, float] = {}
        self._silent: set[str] = set()
        self._back: dict[str, float] = {}

    def __contains__(self, node: str) -> bool:
        return node in self._heard

    def __len__(self) -> int:
        return len(self._heard)

    def heard(self, report: Report, now: float) -> None:
        """A node has reported."""
        self._keys[report.node] = report.key
        self._keys.move_to_end(report.node)
        for node, key in report.keys.items():
            self._keys.setdefault(node, key)
        while len(self._keys) > REMEMBERED:
            self._keys.popitem(last=False)
        if report.left:
            self.remove(report.node)
            return
        if report.node in self._silent:
            self._silent.discard(report.node)
            self._back[report.node] = now
        self._heard[report.node] = now

    def expire(self, now: float) -> list[str]:
        """Leave out the nodes that have been silent for `SILENCE` seconds; returns their names. Their keys are kept."""
        silent = [node for node, heard in self._heard.items() if now - heard > SILENCE]
        for node in silent:
            del self._heard[node]
            self._silent.add(node)
        self._back = {node: since for node, since in self._back.items() if now - since <= SILENCE}
        return silent

    def silent(self) -> frozenset[str]:
        """The nodes that were left out because they were silent, and are not known to be dead: stopped, or cut off."""
        return frozenset(self._silent)

    def unsteady(self) -> frozenset[str]:
        """The nodes that are silent, or were until `SILENCE` seconds ago: their connection to NATS may still change."""
        return frozenset(self._silent | self._back.keys())

    def heard_one_since(self, nodes: frozenset[str], moment: float) -> bool:
        """Whether one of these nodes has reported since `moment`."""
        return any(self._heard.get(node, -math.inf) >= moment for node in nodes)

    def remove(self, node: str) -> None:
        """A node has gone."""
        self._heard.pop(node, None)
        self._silent.discard(node)
        self._back.pop(node, None)

    def key(self, node: str) -> bytes | None:
        """The key of a node that is, or was, in the cluster; None if this node has never heard of it."""
        return self._keys.get(node)

    def latest_keys(self) -> dict[str, bytes]:
        """The keys of the latest nodes, for a node that has just started."""
        return {node: self._keys[node] for node in list(self._keys)[-TOLD:]}

    def not_heard_since(self, moment: float) -> bool:
        """Whether some node that should be there has not reported since `moment`."""
        return any(heard < moment for heard in self._heard.values())
