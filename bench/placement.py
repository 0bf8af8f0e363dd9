"""Placement of new calls, simulated: `python bench/placement.py [--plot FILE]`; a thousand nodes take seconds.

It uses the very policy of the cluster (`rtcflow.cluster.policy`), which is pure. Offers arrive at random, at
some of the nodes. Each of these has the picture of the last reports, which are up to a second old. It knows what it has
itself placed since, and its own load. Calls last three minutes on average.
"""

from __future__ import annotations

import argparse
import heapq
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rtcflow.cluster.policy import Load, Placement, is_news

BEAT = 0.5
HOUR = 3600.0
CALL = 180.0
ATTEMPTS = 8


@dataclass
class Outcome:
    """What came out of a simulation.

    Attributes:
        refused: Calls that no node took.
        wrongly: Those of them that were refused while some node had room.
        most: The most calls that a node had at once.
        asked: Nodes that were asked, for all calls together.
        live: How many nodes had how many calls, at the end of each minute: ``live[minute][node]``.
    """

    refused: int = 0
    wrongly: int = 0
    most: int = 0
    asked: int = 0
    live: list[list[int]] = field(default_factory=list)


def simulate(
    nodes: int, calls: int, limit: int, doors: int = 3, choose: Callable[..., str | None] = Placement.choose
) -> Outcome:
    """One hour with `calls` calls on `nodes` nodes that take `limit` calls each; offers arrive at `doors` of them."""
    rng = random.Random(1)
    names = [f"n{k}" for k in range(nodes)]
    live = dict.fromkeys(names, 0)
    deciders = [Placement(name) for name in names[:doors]]
    for decider in deciders:
        for name in names:
            decider.update(name, Load(0, limit))
    out = Outcome()
    room = nodes * limit
    changed: set[str] = set()
    ends: list[tuple[float, str]] = []
    told = dict.fromkeys(names, Load(0, limit))
    reported, beats = 0.0, 0
    for now in sorted(rng.uniform(0, HOUR) for _ in range(calls)):
        while ends and ends[0][0] <= now:
            name = heapq.heappop(ends)[1]
            live[name] -= 1
            room += 1
            changed.add(name)
        if now - reported >= BEAT:
            reported, beats = now, beats + 1
            for name in list(changed):  # a report that says the same as the last one changes nothing
                load = Load(live[name], limit)
                if beats % 2 and not is_news(told[name], load):
                    continue
                told[name] = load
                changed.discard(name)
                for decider in deciders:
                    decider.update(name, load)
            if now >= 60 * (len(out.live) + 1):
                out.live.append(list(live.values()))
        door = rng.randrange(doors)
        decider, tried = deciders[door], set[str]()
        decider.update(names[door], Load(live[names[door]], limit))  # a node knows its own load
        while len(tried) < ATTEMPTS and (chosen := choose(decider, rng.randrange, tried)) is not None:
            tried.add(chosen)
            out.asked += 1
            decider.reserve(chosen)
            taken = live[chosen] < limit  # the node itself decides
            decider.settle(chosen, taken=taken)
            changed.add(chosen)
            if taken:
                live[chosen] += 1
                room -= 1
                out.most = max(out.most, live[chosen])
                heapq.heappush(ends, (now + rng.expovariate(1 / CALL), chosen))
                break
        else:
            out.refused += 1
            out.wrongly += room > 0
    return out


def at_random(decider: Placement, draw: Callable[[int], int], tried: set[str]) -> str | None:
    """For comparison: any node that has room, as a proxy that knows loads would choose without weighing."""
    for _ in range(ATTEMPTS):
        name = f"n{draw(len(decider))}"
        if name not in tried and decider.has_room(name):
            return name
    return None


def plot(file: Path, found: dict[str, Outcome], nodes: int, calls: int) -> None:
    """How many nodes have how many calls, at the end of a minute, on average over the second half hour."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "rtcflow"
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3.4))
    for (name, outcome), shift in zip(found.items(), (-0.2, 0.2), strict=True):
        minutes = outcome.live[30:]
        most = max(max(minute) for minute in minutes)
        shares = [sum(minute.count(calls_here) for minute in minutes) / len(minutes) for calls_here in range(most + 1)]
        axes.bar([k + shift for k in range(most + 1)], shares, width=0.4, label=name)
    axes.set_xlabel("live calls of a node")
    axes.set_ylabel("nodes")
    axes.set_title(f"{nodes:,} nodes, {calls:,} calls an hour, each of 3 minutes on average", fontsize=10)
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})


def main(arguments: Sequence[str] | None = None) -> None:
    """Simulate, print, and plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--limit", type=int, default=20)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args(arguments)
    found = {}
    for name, choose in (("power of two choices", Placement.choose), ("any node at random", at_random)):
        began = time.process_time()
        outcome = found[name] = simulate(options.nodes, options.calls, options.limit, choose=choose)
        seconds = time.process_time() - began
        print(
            f"{name}: at most {outcome.most} calls on one node, {outcome.refused} refused ({outcome.wrongly} while "
            f"there was room), {outcome.asked / options.calls:.3f} nodes asked for each call; {seconds:.1f} s of CPU"
        )
    if options.plot:
        plot(options.plot, found, options.nodes, options.calls)


if __name__ == "__main__":
    main()
