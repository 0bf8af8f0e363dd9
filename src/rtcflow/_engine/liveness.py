"""Whether the peer is still there. Pure: what was heard goes in, what to do comes out.

A peer that was killed, whose machine lost power or whose tab crashed says no goodbye. RFC 7675 lets a side wait 30 s
for that; a call then holds its slot for half a minute. Here silence is counted in *ticks*, 1/40 of `peer_timeout`:

- Anything authentic counts as a sign of life: an RTP packet that decrypts, a STUN message with the call's password.
- A tick without one has the peer asked, by a STUN Binding request; every live peer answers those. So the last sign of a
  peer that only listens is half a second old at most. It may be stopped for as long as a peer that talks.
- A peer that was stopped answers the old questions when it goes on. Those answers are signs of life, too.
- After the whole time it is gone.
- If meanwhile the network says that nobody listens at its address (ICMP "port unreachable"), it is gone after six
  silent ticks. Anybody can forge ICMP, so ICMP alone ends nothing.

The count is in ticks and not in seconds, because this process may be stopped, too. However long that lasts, it is one
tick. The peer's packets that wait in the socket are read before the next one.
"""

from __future__ import annotations

import enum
from typing import Final

TICKS: Final = 40
"""Ticks in `peer_timeout`."""
_UNREACHABLE: Final = 6
"""Silent ticks after which refusals are believed: 1.5 s of ten, more than a question and its answer take."""


class Verdict(enum.Enum):
    """What a tick has shown."""

    ALIVE = "there was a sign of life, or silence is short"
    ASK = "ask the peer whether it is there"
    SILENT = "it has been silent for too long"
    UNREACHABLE = "nobody listens at its address"


class Liveness:
    """Judges one peer; made when it is connected."""

    def __init__(self) -> None:
        self._heard = self._refused = -1
        self._silent = 0

    def tick(self, heard: int, refused: int) -> Verdict:
        """Judge at the end of a tick.

        Args:
            heard: How many signs of life there were, ever.
            refused: How often the network said that nobody listens, ever.
        """
        if heard != self._heard:
            self._heard, self._refused, self._silent = heard, refused, 0
            return Verdict.ALIVE
        self._silent += 1
        if self._silent >= TICKS - 1:  # the first silent tick began up to a tick after the last sign of life
            return Verdict.SILENT
        if refused > self._refused and self._silent >= _UNREACHABLE:
            return Verdict.UNREACHABLE
        return Verdict.ASK if self._silent % 2 else Verdict.ALIVE
