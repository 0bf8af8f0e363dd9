"""The gate: which datagrams reach a call. Runs in the engine's thread.

Anybody may send to a call's UDP port. aiortc and aioice read every datagram as if the peer had sent it. One empty
datagram, one broken STUN attribute or one packet that is too long ends the call. So each socket has a gate, which lets
through only what can be the peer's, and stops every error that those libraries raise:

    first byte (RFC 7983)   let through
    0 to 3      STUN        if it is sound and carries the call's user name and password (RFC 8445 section 7.3)
    20 to 63    DTLS        from addresses that belong to the peer: its candidates, and those its checks came from
    128 to 191  RTP, RTCP   the same; from any address once ICE is done, because SRTP authenticates each packet and a
                            NAT may give the peer a new port at any time
    others                  never

Only authentic datagrams are answered, so a call's port cannot be made to send anything to strangers.

A peer whose NAT gives it another port does not know of it, so it nominates no pair. Media then goes to the address
that the peer's checks come from, once it has answered there and has asked from nowhere else `FOLLOW` times.

The other way round, an offer's candidates may point to strangers, and ICE would send each of them seven checks from
each of our addresses. So there is a budget, as RFC 8445 section 19.5.1 asks. Until an address has answered, it gets no
more than its share of `CHECKS`. Each check that comes from an address earns it two of ours, or a peer that is slow to
get through would be given up.

The gate also knows what only the socket sees: that something authentic came from the peer (`Contact.heard`), and that
the peer's port answers "unreachable" (`Contact.refused`). `liveness.py` decides what follows.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
import sys
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from aioice import ice as stock
from aioice import stun

_log = logging.getLogger("rtcflow.engine")

LONGEST: Final = 2000
"""Bytes of the longest datagram that is read. Peers keep below the MTU, 1,500 at most; pylibsrtp raises at 2,049."""
WAITING: Final = 500
"""Datagrams that may wait for aiortc to read them: two seconds of video."""
REMOTE_CANDIDATES: Final = 200
"""Remote candidates of one call, those included that its checks came from. A NAT that changes ports adds to them; the
oldest are forgotten."""

FOLLOW: Final = 2
"""Checks in a row from another address than the one in use, after which the peer is there. A browser that keeps a
second way in reserve checks the first one more often."""

QUESTIONS: Final = 100
"""Our latest STUN requests whose answers are signs of life. A peer that was stopped answers late, when aioice has
forgotten the request."""
CHECKS: Final = 100
"""Connectivity checks that one call may send to addresses that have not answered any."""
CHECKS_TO_HOST: Final = 30
"""Of these, how many may go to one IP address."""

_IP_RECVERR: Final = 11  # linux/in.h; Python has no name for it
_IPV6_RECVERR: Final = 25
_MSG_ERRQUEUE: Final = 0x2000


@dataclass
class Contact:
    """What the sockets of one peer know of it.

    Attributes:
        heard: How many STUN messages came that only the peer can have sent.
        refused: How often the network said that nobody listens at the address in use.
        dropped: How many datagrams were not the peer's.
        private: Whether the peer may have addresses that are not of the public internet.
    """

    heard: int = 0
    refused: int = 0
    dropped: int = 0
    private: bool = True
    _answered: set[tuple[str, int]] = field(default_factory=set)
    _open: deque[bytes] = field(default_factory=lambda: deque(maxlen=QUESTIONS))
    _earned: Counter[tuple[str, int]] = field(default_factory=Counter)
    _checked: Counter[str] = field(default_factory=Counter)
    _warned: set[str] = field(default_factory=set)
    _elsewhere: tuple[tuple[str, int], int] | None = None

    def answered(self, address: tuple[str, int]) -> None:
        """Our check was answered from this address, so the address is the peer's."""
        self.heard += 1
        if self._elsewhere is not None and self._elsewhere[0] != address:
            self._elsewhere = None
        self._answered.add(address)

    def asked(self, address: tuple[str, int]) -> None:
        """The peer's own check came from this address."""
        self.heard += 1
        if address not in self._answered and len(self._earned) < REMOTE_CANDIDATES:
            self._earned[address] = min(self._earned[address] + 2, 10)

    def questioned(self, identity: bytes) -> None:
        """We send a request; `answers` knows it until it is answered."""
        if identity not in self._open:  # aioice sends the same one again
            self._open.append(identity)

    def answers(self, identity: bytes) -> bool:
        """Whether that is the first answer to one of our latest requests."""
        if identity not in self._open:
            return False
        self._open.remove(identity)
        return True

    def may_check(self, address: tuple[str, int]) -> bool:
        """Whether one more check may be sent there; if so, it counts."""
        if address in self._answered:
            return True
        host = ipaddress.ip_address(address[0])
        if host.is_multicast or host.is_unspecified or not (self.private or host.is_global):
            return False
        if self._earned[address]:
            self._earned[address] -= 1
            return True
        if self._checked.total() >= CHECKS or self._checked[address[0]] >= CHECKS_TO_HOST:
            self.warn_once(f"checks of {address[0]}, which does not answer: the budget of this call is used up")
            return False
        self._checked[address[0]] += 1
        return True

    def moved(self, address: tuple[str, int], in_use: tuple[str, int]) -> bool:
        """The peer has asked from `address`: whether it has left `in_use` for it."""
        if address == in_use:
            self._elsewhere = None
            return False
        last, times = self._elsewhere or (address, 0)
        self._elsewhere = address, times + 1 if last == address else 1
        return self._elsewhere[1] >= FOLLOW

    def warn_once(self, what: str) -> None:
        """Log a fault that bytes from outside have caused, the first time only."""
        if what not in self._warned and len(self._warned) < 10:
            self._warned.add(what)
            _log.warning("dropped: %s", what)


class Gate(stock.StunProtocol):
    """One socket of a call.

    Relies on: aioice's sockets are `StunProtocol`, whose `datagram_received` hands STUN requests to
    ``receiver.request_received(message, addr, protocol)``, responses to ``transactions[id].response_received``, and all
    else to ``receiver.data_received(data, component)``; ``receiver._queue`` is where such data waits;
    ``receiver._remote_candidates`` have `_network_host` and `port`; ``receiver._nominated`` is empty until ICE is done;
    ``receiver._check_list`` holds pairs; a pair that has answered is ``SUCCEEDED``, and ``receiver._nominated`` has the
    pair in use for each component; ``receiver.ice_controlling``; ``receiver._valid_username``.

    Args:
        receiver: The `aioice.Connection` that it belongs to.
        contact: Is told what comes.
    """

    def __init__(self, receiver: Any, contact: Contact) -> None:
        super().__init__(receiver)
        self.contact = contact
        self._socket: socket.socket | None = None
        self._errors = 0

    def datagram_received(self, data: bytes | str, addr: tuple[Any, ...]) -> None:
        """Decide on one datagram. Raises nothing."""
        host, port = addr[:2]
        first = data[0] if data else 255
        if not (isinstance(data, bytes) and isinstance(first, int)) or len(data) > LONGEST or not port:
            self.contact.dropped += 1
        elif first < 4:
            try:
                self._stun(data, (host, port))
            except Exception as error:  # noqa: BLE001 - aioice reads what strangers wrote, and fails in many ways
                self.contact.warn_once(f"aioice raised {type(error).__name__} on a STUN message")
        elif self._may_pass(first, (host, port)) and self.receiver._queue.qsize() < WAITING:
            self.receiver.data_received(data, self.local_candidate.component)
        else:
            self.contact.dropped += 1

    def _may_pass(self, first: int, address: tuple[str, int]) -> bool:
        if 128 <= first <= 191:
            return bool(self.receiver._nominated) or self._is_peer(address)
        return 20 <= first <= 63 and self._is_peer(address)

    def _is_peer(self, address: tuple[str, int]) -> bool:
        return any((known._network_host, known.port) == address for known in self.receiver._remote_candidates)

    def _stun(self, data: bytes, address: tuple[str, int]) -> None:
        try:
            message = stun.parse_message(data)
        except Exception:  # noqa: BLE001 - it fails in many ways (ValueError, struct.error, …), all of which mean this
            self.contact.dropped += 1
            return
        ice = self.receiver
        if message.message_class in {stun.Class.RESPONSE, stun.Class.ERROR}:
            transaction = self.transactions.get(message.transaction_id)
            if transaction is not None:
                transaction.response_received(message, address)
            password: str = ice.remote_password or ""
            sealed = bool(password) and message.check_message_integrity(password.encode())
            first = sealed and self.contact.answers(message.transaction_id)
            if sealed and transaction is not None:
                self.authentic(address, answered=True)
            elif first:  # a peer that was stopped for a while: it lives, and aioice no longer waits for this answer
                self.contact.heard += 1
            elif transaction is None:
                self.contact.dropped += 1
        elif message.message_class == stun.Class.REQUEST and self._is_authentic(message):
            self.authentic(address, answered=False)
            if self._is_peer(address) or self._make_room():
                ice.request_received(message, address, self)
                self._follow(address)
        else:
            self.contact.dropped += 1

    def authentic(self, address: tuple[str, int], *, answered: bool) -> None:
        """A STUN message came that only the peer can have sent: an answer to our check, or a check of its own."""
        if answered:
            self.contact.answered(address)
        else:
            self.contact.asked(address)

    def _follow(self, address: tuple[str, int]) -> None:
        """Send to `address` from now on, if the peer asks from there alone and has answered there."""
        ice = self.receiver
        if ice.ice_controlling or not ice._nominated:
            return
        component = self.local_candidate.component
        in_use = ice._nominated.get(component)
        if in_use is None or not self.contact.moved(address, in_use.remote_addr):
            return
        for pair in ice._check_list:
            answered = pair.state is stock.CandidatePair.State.SUCCEEDED
            if answered and pair.protocol is self and pair.remote_addr == address:
                pair.nominated = True
                ice._nominated[component] = pair
                _log.info("the peer is at another address now: %s port %d", *address)

    def renamed(self) -> None:
        """The connection has new credentials of its own (an ICE restart)."""

    def _is_authentic(self, message: stun.Message) -> bool:
        ice, given = self.receiver, message.attributes
        return bool(
            message.message_method == stun.Method.BINDING
            and ice._valid_username(given.get("USERNAME", ""))
            and "MESSAGE-INTEGRITY" in given
            and "PRIORITY" in given
            and message.check_message_integrity(ice.local_password.encode())
        )

    def _make_room(self) -> bool:
        """Whether one more address of the peer can be remembered; the oldest that is not in use is forgotten."""
        ice = self.receiver
        if len(ice._remote_candidates) < REMOTE_CANDIDATES:
            return True
        in_use = [pair.remote_candidate for pair in (*ice._nominated.values(), *ice._check_list) if _busy(pair, ice)]
        for candidate in ice._remote_candidates:
            if candidate not in in_use:
                ice._remote_candidates.remove(candidate)
                ice._check_list[:] = [pair for pair in ice._check_list if pair.remote_candidate is not candidate]
                return True
        return False

    # -- what the network says

    def listen_for_errors(self, opened: socket.socket) -> None:
        """Have the system tell this socket when a peer's port is unreachable.

        Args:
            opened: The socket below the transport; it is read here, and closed by the transport.
        """
        if listen_for_errors(opened):
            self._socket = opened

    def error_received(self, exc: Exception) -> None:  # noqa: ARG002 - the queue of errors says more
        """The system has an error for this socket: the queue of errors is emptied, or it would be told for ever."""
        self._errors += 1
        if self._socket is not None:
            for address in unreachable(self._socket):
                self.refuse(address)

    def refuse(self, address: tuple[str, int]) -> None:
        """The network says that nobody listens at `address`."""
        if any(pair.remote_addr == address for pair in self.receiver._nominated.values()):
            self.contact.refused += 1

    def send(self, data: bytes, address: tuple[str, int]) -> None:
        """Send a datagram.

        The system reports an unreachable address at the next datagram to any other, which it does not send then.
        """
        before = self._errors
        self.transport.sendto(data, address)
        if self._errors != before:
            self.transport.sendto(data, address)

    def send_stun(self, message: stun.Message, addr: tuple[str, int]) -> None:
        """As aioice calls it for STUN: connectivity checks, which carry a user name, have a budget."""
        is_check = message.message_class == stun.Class.REQUEST and "USERNAME" in message.attributes
        if not is_check or self.contact.may_check(addr):
            if message.message_class == stun.Class.REQUEST:
                self.contact.questioned(message.transaction_id)
            self.send(bytes(message), addr)

    async def send_data(self, data: bytes, addr: tuple[str, int]) -> None:
        """As aioice calls it for all else."""
        self.send(data, addr)

    def connection_lost(self, exc: Exception | None) -> None:
        """The transport is closed."""
        self._socket = None
        super().connection_lost(exc)


def listen_for_errors(opened: socket.socket) -> bool:
    """Have the system tell a socket when a peer's port is unreachable (ICMP; on Linux alone, see ip(7))."""
    if sys.platform != "linux":
        return False
    if opened.family == socket.AF_INET6:
        opened.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
    else:
        opened.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
    return True


def unreachable(opened: socket.socket) -> Iterator[tuple[str, int]]:
    """Empty the socket's queue of errors: the addresses that could not be reached."""
    while sys.platform == "linux":
        try:
            _, _, _, address = opened.recvmsg(0, 0, _MSG_ERRQUEUE)
        except OSError:
            return
        yield address[0], address[1]


def _busy(pair: Any, ice: Any) -> bool:
    """Whether a pair is being checked or in use.

    Relies on: ``CandidatePair.task`` is the check under way, or None; ``Connection._nominated`` holds the pairs in use.
    """
    return pair.task is not None or pair in ice._nominated.values()
