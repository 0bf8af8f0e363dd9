"""Which transport carries a call that may be resumed, and how long a call without one waits.

Pure: events and `now` go in, a new `Carriage` comes out. `resuming` asks it, and does the rest.

    live        a transport carries the call
    suspended   no transport does; the call waits until `deadline`
    pending     suspended, and another transport has been offered, which is not connected yet

Two rules. First, transports are numbered, and a report of an earlier one changes nothing. A client may come back before
the server has noticed that its old network died. Second, the time of waiting runs from the moment in which the call
lost its transport. Attempts that fail do not begin it again, so nobody can hold a call for longer than `seconds`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Carriage:
    """The state of one call.

    Attributes:
        seconds: How long the call waits without a transport.
        number: Of the latest transport; the one that the call began with is 0.
        since: When the call lost its transport, in seconds on the clock of `now`. None while it is live.
        pending: Whether transport `number` has been offered and is not connected yet.
    """

    seconds: float
    number: int = 0
    since: float | None = None
    pending: bool = False

    @property
    def is_suspended(self) -> bool:
        """Whether no transport carries the call."""
        return self.since is not None

    @property
    def deadline(self) -> float | None:
        """When the call ends if nobody comes back. None while it is live."""
        return None if self.since is None else self.since + self.seconds

    def is_over(self, now: float) -> bool:
        """Whether the call has waited for long enough. A transport that is being connected gets its time."""
        return self.deadline is not None and not self.pending and now >= self.deadline

    def lost(self, number: int, now: float) -> Carriage:
        """Transport `number` has failed, before or after it was connected."""
        if number != self.number:
            return self
        return replace(self, since=now if self.since is None else self.since, pending=False)

    def offered(self, now: float) -> Carriage:
        """The peer has come back: the next transport will carry the call, in place of any other."""
        since = now if self.since is None else self.since
        return replace(self, number=self.number + 1, since=since, pending=True)

    def connected(self, number: int) -> Carriage:
        """Transport `number`, which was offered, is connected."""
        if number != self.number or not self.pending:
            return self
        return replace(self, since=None, pending=False)
