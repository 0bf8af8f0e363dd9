"""A relay that loses, swaps and delays packets, by seeds: between a caller and a server."""

from __future__ import annotations

import heapq
import random
import re
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

CANDIDATE = re.compile(r"^(a=candidate:\S+ 1 udp \d+ )(\S+) (\d+) ", re.MULTILINE)

Fate = Callable[[int], float | None]
"""What becomes of the nth audio packet of the caller: seconds of delay, or None if it is lost."""


def good(number: int) -> float | None:
    return 0.0


def bad(percent: int, jitter: float, seed: int) -> Fate:
    """Of each hundred packets `percent` are lost, any of them; the others take from 0 to `jitter` seconds, so that they
    also overtake one another."""
    chance = random.Random(seed)
    fates: list[float | None] = []
    for _ in range(20):
        lost = set(chance.sample(range(100), percent))
        fates += [None if number in lost else chance.uniform(0, jitter) for number in range(100)]
    return lambda number: fates[number]


class Relay:
    """Stands between a caller and a server: each takes it for the other. Media of the caller meets its fate here."""

    def __init__(self, fate: Fate) -> None:
        self.sent = self.lost = 0
        self._fate = fate
        self._front, self._back = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
        for end in (self._front, self._back):
            end.bind(("127.0.0.1", 0))
        self._caller = self._server = ("", 0)
        self._stopped, self._stop = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)

    def offer(self, sdp: str) -> str:
        """The caller's offer as the server shall see it. Its address is learnt from its first datagram."""
        return _redirect(sdp, self._back)[0]

    def answer(self, sdp: str) -> str:
        """The server's answer as the caller shall see it; from now on packets go through."""
        sdp, self._server = _redirect(sdp, self._front)
        self._thread.start()
        return sdp

    def close(self) -> None:
        self._stop.close()
        if self._thread.ident is not None:
            self._thread.join()
        for end in (self._front, self._back, self._stopped):
            end.close()

    def _run(self) -> None:
        waiting: list[tuple[float, int, bytes]] = []
        while True:
            wait = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
            ready, _, _ = select.select([self._front, self._back, self._stopped], [], [], wait)
            if self._stopped in ready:
                return
            if self._front in ready:
                data, self._caller = self._front.recvfrom(2048)
                delay = self._meet_fate(data)
                if delay is not None:
                    heapq.heappush(waiting, (time.monotonic() + delay, self.sent, data))
            if self._back in ready:
                data = self._back.recv(2048)
                if self._caller[1]:
                    self._front.sendto(data, self._caller)
            while waiting and waiting[0][0] <= time.monotonic():
                self._back.sendto(heapq.heappop(waiting)[2], self._server)

    def _meet_fate(self, data: bytes) -> float | None:
        # RTP alone: STUN and DTLS begin otherwise (RFC 7983), and RTCP has other types (RFC 5761 section 4).
        if not 128 <= data[0] <= 191 or 64 <= data[1] & 0x7F <= 95:
            return 0.0
        delay = self._fate(self.sent)
        self.sent += 1
        self.lost += delay is None
        return delay


def _redirect(sdp: str, to: socket.socket) -> tuple[str, tuple[str, int]]:
    """`sdp` with its candidate at `to`, and where it was."""
    found = CANDIDATE.search(sdp)
    assert found is not None, sdp
    host, port = to.getsockname()
    return CANDIDATE.sub(rf"\g<1>{host} {port} ", sdp), (found[2], int(found[3]))


@contextmanager
def relay(fate: Fate) -> Iterator[Relay]:
    made = Relay(fate)
    try:
        yield made
    finally:
        made.close()
