"""One UDP port for all calls of an engine (`WebRTCConfig.port`). Runs in the engine's thread.

There is one socket for each local address, and each call has a `PortGate` at each socket. A datagram finds its call by
the first of these that fits; a stranger's costs a look into a dictionary:

    STUN request     by the call's own name at the beginning of USERNAME (RFC 8445 section 7.2.2)
    STUN response    by the transaction that it answers, or, if it is late, by the address that it comes from
    DTLS, RTP, RTCP  by the address that it comes from
    RTP              by its SSRC, if the address is new: a NAT has given the peer another port

After that the call's gate judges it, as at a socket of its own.

An address belongs to one call. It is proven if it has answered a check of that call. To forge such an answer, one must
see the check. A caller who only claims to be at another caller's address does not get its datagrams. A claim never
displaces a proof. Another proof does so only if the first is older than `PROOF`.

All calls between two engines that both use one port would have the same two addresses. So such engines can have one
call between them at a time. Only the server should use one.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Final

from aioice import stun
from aioice.utils import random_string

from .gate import REMOTE_CANDIDATES, Contact, Gate, listen_for_errors, unreachable

_log = logging.getLogger("rtcflow.engine")

PROOF: Final = 10.0
"""Seconds for which an address that has answered a check stays with its call. It is asked at least every 6 s."""
SOURCES: Final = 8
"""SSRCs that are remembered of one call."""
BUFFER: Final = 4 * 2**20
"""Bytes of each socket's buffers that are asked for; Linux gives `net.core.rmem_max` and `wmem_max` at most."""
_NAME: Final = 8
"""Letters of a call's name: enough that no two of a million calls have the same."""


def stun_name(data: bytes) -> str | None:
    """The receiver's own part of USERNAME in a STUN request (RFC 8489 section 14.3); None if it is not there."""
    at = 20
    while at + 4 <= len(data):
        kind, length = int.from_bytes(data[at : at + 2], "big"), int.from_bytes(data[at + 2 : at + 4], "big")
        if kind == 0x0006:
            return data[at + 4 : at + 4 + length].partition(b":")[0].decode("latin-1")
        at += 4 + (length + 3 & ~3)
    return None


@dataclass(slots=True)
class _Holder:
    """The call that an address belongs to, and when the address last proved it."""

    gate: PortGate
    proven: float = float("-inf")


class OnePort:
    """The sockets of one port, one for each local address; see `open_port`.

    Attributes:
        port: Its number.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self._sockets: dict[str, SharedSocket] = {}

    async def open(self, address: str) -> None:
        """Listen on one more local address; nothing happens if that is so.

        Raises:
            OSError: The port is in use there, or the system has no such address.
        """
        if address in self._sockets:
            return
        opened = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
        try:
            opened.setblocking(False)
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
            opened.bind((address, self.port))
        except OSError as error:
            opened.close()
            raise OSError(
                error.errno,
                f"UDP port {self.port} of {address} cannot be opened ({error.strerror}); WebRTCConfig(port=...) needs "
                "a port of its own for each engine, and each process is an engine: choose another, or end what has it",
            ) from error
        loop = asyncio.get_running_loop()
        _, self._sockets[address] = await loop.create_datagram_endpoint(lambda: SharedSocket(opened), sock=opened)

    async def gate(self, address: str, receiver: Any, contact: Contact) -> Gate | None:
        """A gate for one call at the socket of `address`; None if that cannot be opened."""
        try:
            await self.open(address)  # addresses may come up while the engine runs
        except OSError as error:
            _log.warning("no host candidate: %s", error)
            return None
        gate = PortGate(receiver, contact, self._sockets[address])
        gate.connection_made(_Share(gate))
        return gate

    async def aclose(self) -> None:
        """Close the sockets."""
        for shared in self._sockets.values():
            await shared.aclose()


async def open_port(port: int, addresses: Sequence[str], shared: AsyncExitStack) -> OnePort:
    """Open `port` on each address.

    Args:
        port: The number.
        addresses: Local IP addresses.
        shared: Closes it.

    Raises:
        OSError: The port is in use on one of them.
    """
    opened = OnePort(port)
    shared.push_async_callback(opened.aclose)
    for address in addresses:
        await opened.open(address)
    return opened


def give_name(receiver: Any) -> None:
    """Give an `aioice.Connection` a name that no other call has. Relies on: ``_local_username``."""
    receiver._local_username = random_string(_NAME)


class SharedSocket(asyncio.DatagramProtocol):
    """One socket with many calls.

    Attributes:
        names: The gate of each call, by its name.
        asking: The gate of each STUN transaction under way.
        dropped: How many datagrams belonged to no call.
    """

    def __init__(self, opened: socket.socket) -> None:
        self.names: dict[str, PortGate] = {}
        self.asking: dict[bytes, PortGate] = {}
        self.dropped = 0
        self._socket = opened
        self._holders: dict[tuple[str, int], _Holder] = {}
        self._sources: dict[bytes, PortGate] = {}
        self._transport: Any = None
        self._errors = 0
        self._loop = asyncio.get_running_loop()
        self._closed: asyncio.Future[None] = self._loop.create_future()
        listen_for_errors(opened)

    def connection_made(self, transport: Any) -> None:
        """The loop reads it from now on."""
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """It is closed."""
        if not self._closed.done():
            self._closed.set_result(None)

    async def aclose(self) -> None:
        """Close it."""
        if self._transport is not None:
            self._transport.close()
            await self._closed

    @property
    def address(self) -> Any:
        """Where it listens, as sockets say it."""
        return self._socket.getsockname()

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        """Hand a datagram to its call. Raises nothing."""
        address, first = (addr[0], addr[1]), data[0] if data else 255
        gate: PortGate | None = None
        if first < 4:
            if data[1:2] == b"\x01" and first == 0:
                gate = self.names.get(stun_name(data) or "")
            else:
                gate = self.asking.get(data[8:20])
                if gate is None and (late := self._holders.get(address)) is not None:
                    gate = late.gate  # it knows what it has asked
        elif (holder := self._holders.get(address)) is not None:
            gate = holder.gate
        elif 128 <= first <= 191:
            gate = self._sources.get(data[8:12])
        if gate is None:
            self.dropped += 1
        else:
            gate.datagram_received(data, address)

    def claim(self, address: tuple[str, int], gate: PortGate, *, proven: bool) -> None:
        """An address has shown that it knows a call's password, by a check of its own, or (proven) by an answer."""
        now, holder = self._loop.time(), self._holders.get(address)
        if holder is None or (holder.gate is not gate and proven and now > holder.proven + PROOF):
            if holder is not None:
                holder.gate.addresses.pop(address, None)
            if len(gate.addresses) >= REMOTE_CANDIDATES:
                del self._holders[oldest := next(iter(gate.addresses))], gate.addresses[oldest]
            holder = self._holders[address] = _Holder(gate)
            gate.addresses[address] = None
        if proven and holder.gate is gate:
            holder.proven = now

    def know_source(self, source: bytes, gate: PortGate) -> None:
        """RTP with this SSRC came from an address of the call."""
        if len(gate.sources) < SOURCES and source not in self._sources:
            self._sources[source] = gate
            gate.sources.append(source)

    def forget(self, gate: PortGate) -> None:
        """The call has ended."""
        for name in [name for name, other in self.names.items() if other is gate]:
            del self.names[name]
        for address in gate.addresses:
            del self._holders[address]
        for source in gate.sources:
            del self._sources[source]
        gate.addresses.clear()
        gate.sources.clear()

    def error_received(self, exc: Exception) -> None:  # noqa: ARG002 - the queue of errors says more
        """The system has an error for this socket, which it tells at the next datagram to anybody."""
        self._errors += 1
        for address in unreachable(self._socket):
            if (holder := self._holders.get(address)) is not None:
                holder.gate.refuse(address)

    def send(self, data: bytes, address: tuple[str, int]) -> None:
        """Send a datagram, as `Gate.send` does."""
        before = self._errors
        self._transport.sendto(data, address)
        if self._errors != before:
            self._transport.sendto(data, address)


class PortGate(Gate):
    """The gate of one call at a socket that it shares.

    Relies on: besides what `Gate` does, ``StunProtocol.request(request, addr, …)`` lasts as long as the transaction
    with ``request.transaction_id``, and ``StunProtocol.close`` calls ``transport.close()`` and waits for
    ``connection_lost``.

    Attributes:
        addresses: Those that belong to the call here, the oldest first.
        sources: The SSRCs that are known of it.
    """

    def __init__(self, receiver: Any, contact: Contact, shared: SharedSocket) -> None:
        super().__init__(receiver, contact)
        self.addresses: dict[tuple[str, int], None] = {}
        self.sources: list[bytes] = []
        self.shared = shared
        self.renamed()

    def renamed(self) -> None:
        """The call has another name (an ICE restart); checks with the old one are not authentic any more."""
        for name in [name for name, other in self.shared.names.items() if other is self]:
            del self.shared.names[name]
        self.shared.names[self.receiver.local_username] = self

    def datagram_received(self, data: bytes | str, addr: tuple[Any, ...]) -> None:
        """Judge a datagram that is this call's."""
        if isinstance(data, bytes) and len(data) >= 12 and 128 <= data[0] <= 191 and not 192 <= data[1] <= 223:
            self.shared.know_source(data[8:12], self)
        super().datagram_received(data, addr)

    def authentic(self, address: tuple[str, int], *, answered: bool) -> None:
        """The peer has shown that it is there."""
        super().authentic(address, answered=answered)
        self.shared.claim(address, self, proven=answered)

    async def request(self, request: stun.Message, *args: Any, **options: Any) -> Any:
        """As aioice calls it for a STUN transaction."""
        self.shared.asking[request.transaction_id] = self
        try:
            return await super().request(request, *args, **options)
        finally:
            self.shared.asking.pop(request.transaction_id, None)

    def send(self, data: bytes, address: tuple[str, int]) -> None:
        """Send a datagram."""
        self.shared.send(data, address)

    def connection_lost(self, exc: Exception | None) -> None:
        """The call has ended."""
        self.shared.forget(self)
        super().connection_lost(exc)


class _Share(asyncio.DatagramTransport):
    """What a call has for a transport: closing it closes nothing of the others."""

    def __init__(self, gate: PortGate) -> None:
        super().__init__({"sockname": gate.shared.address})
        self._gate, self._closing = gate, False

    def sendto(self, data: Any, addr: Any = None) -> None:
        self._gate.send(data, addr)

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            asyncio.get_running_loop().call_soon(self._gate.connection_lost, None)

    def abort(self) -> None:
        self.close()
