"""How often a peer may send, and how often one address may ask: token buckets, `now` in seconds."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from typing import Final

ADDRESSES: Final = 4096
"""The most addresses that are remembered, about 1 MB; the address that asked least recently is forgotten."""

BURST: Final = 10.0
"""Seconds' worth of requests that may come at once."""


class MessageRate:
    """How many messages a peer may send: a token bucket, `now` in seconds.

    Args:
        rate: Messages a second that may go on for ever.
        burst: Messages beyond that at once.
    """

    def __init__(self, rate: float, burst: int) -> None:
        self.rate = rate
        self.burst = burst
        self._tokens = float(burst)
        self._last: float | None = None

    def take(self, now: float, count: int = 1) -> bool:
        """Whether one more message at `now` is within the limit.

        Args:
            now: Seconds.
            count: How many messages it counts for. If more are taken than there are tokens, later messages pay for it:
                otherwise a long message could never pass where the burst is small.
        """
        if self._last is not None:
            self._tokens = min(self.burst, self._tokens + (now - self._last) * self.rate)
        self._last = now
        if self._tokens < 1:
            return False
        self._tokens -= count
        return True


class AddressRate:
    """How many requests each address may send.

    An IPv6 address counts with its /64, all of which one customer has (RFC 6177). This machine's own addresses are not
    limited: there are only tests, load generators and proxies behind them.

    Args:
        rate: Requests a second that may go on for ever; `BURST` times as many may come at once.
        bound: The most addresses that are remembered.
    """

    def __init__(self, rate: float, bound: int = ADDRESSES) -> None:
        self.rate = rate
        self.bound = bound
        self._rates: OrderedDict[str, MessageRate] = OrderedDict()

    def take(self, host: str | None, now: float) -> bool:
        """Whether one more request of `host` at `now` (seconds) is within the limit. A `host` of None is not known."""
        address = _counted(host)
        if address is None:
            return True
        rate = self._rates.get(address)
        if rate is None:
            rate = self._rates[address] = MessageRate(self.rate, max(1, round(self.rate * BURST)))
            if len(self._rates) > self.bound:
                self._rates.popitem(last=False)
        self._rates.move_to_end(address)
        return rate.take(now)

    @property
    def wait(self) -> int:
        """Whole seconds after which one more is within the limit again."""
        return max(1, round(1 / self.rate))

    @property
    def addresses(self) -> int:
        """How many are remembered now."""
        return len(self._rates)


def _counted(host: str | None) -> str | None:
    """The key under which `host` is counted; None if it is not counted."""
    try:
        address = ipaddress.ip_address(host or "")
    except ValueError:  # a UNIX socket, or the name that a test gives itself
        return host or None
    if isinstance(address, ipaddress.IPv6Address):
        address = address.ipv4_mapped or address
    if address.is_loopback:
        return None
    return str(address if address.version == 4 else ipaddress.ip_network((address, 64), strict=False))
