"""How many connectivity checks an offer may make a call send to addresses that do not answer."""

from __future__ import annotations

import socket
from types import SimpleNamespace

import anyio
import pytest
from aioice import stun

from rtcflow._engine.seam.gate import CHECKS, CHECKS_TO_HOST, QUESTIONS, Contact, Gate
from rtcflow.transports.webrtc import WebRTCConfig, open_engine


def test_one_address_gets_its_share_and_all_together_no_more_than_the_budget() -> None:
    """Whatever ports the candidates have; an address that answers, or checks us, is not held up by that."""
    contact = Contact()
    assert sum(contact.may_check(("198.51.100.1", port)) for port in range(1, 200)) == CHECKS_TO_HOST
    others = sum(contact.may_check((f"198.51.100.{number}", 9)) for number in range(2, 250))
    assert others == CHECKS - CHECKS_TO_HOST
    late = "203.0.113.5", 7
    assert not contact.may_check(late)
    contact.asked(late)
    assert [contact.may_check(late) for _ in range(3)] == [True, True, False]
    contact.answered(late)
    assert all(contact.may_check(late) for _ in range(1000))


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "10.0.0.1", "192.168.1.9", "169.254.169.254", "100.64.0.1", "::1", "fd00::1"]
)
def test_private_addresses_can_be_switched_off(host: str) -> None:
    """They are checked by default, and not at all without `private_candidates`; multicast never is."""
    assert Contact().may_check((host, 9))
    assert not Contact(private=False).may_check((host, 9))
    assert Contact(private=False).may_check(("8.8.8.8", 9))
    assert not Contact().may_check(("239.1.2.3", 9))
    assert not Contact().may_check(("0.0.0.0", 9))


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", [pytest.param(("asyncio", {}), id="asyncio")])
@pytest.mark.parametrize("password, asked, heard", [("theirs", True, 1), ("a guess", True, 0), ("theirs", False, 0)])
async def test_a_late_answer_is_a_sign_of_life(password: str, asked: bool, heard: int) -> None:
    """A peer that was stopped answers after aioice has forgotten the question; nobody else can, and nobody twice."""
    contact = Contact()
    gate = Gate(SimpleNamespace(remote_password="theirs"), contact)
    gate.connection_made(SimpleNamespace(sendto=lambda *_: None))
    question = stun.Message(message_method=stun.Method.BINDING, message_class=stun.Class.REQUEST)
    if asked:
        gate.send_stun(question, ("127.0.0.1", 9))
    answer = stun.Message(stun.Method.BINDING, stun.Class.RESPONSE, transaction_id=question.transaction_id)
    answer.add_message_integrity(password.encode())
    for _ in range(3):  # a recorded answer may be sent again by anybody
        gate.datagram_received(bytes(answer), ("127.0.0.1", 9))
    assert contact.heard == heard


def test_only_the_latest_questions_are_remembered() -> None:
    """However long a peer is silent; and a question that is sent again is the same one."""
    contact = Contact()
    for number in range(QUESTIONS + 1):
        contact.questioned(number.to_bytes(12, "big"))
        contact.questioned(number.to_bytes(12, "big"))
    answered = [contact.answers(number.to_bytes(12, "big")) for number in range(QUESTIONS + 1)]
    assert answered == [False] + [True] * QUESTIONS


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", [pytest.param(("asyncio", {}), id="asyncio")])
@pytest.mark.parametrize("private", [True, False])
async def test_an_offer_that_points_to_strangers_sends_them_little(private: bool) -> None:
    """95 candidates that are ports of a bystander: it gets its share of checks, or none where it is private."""
    bystanders = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(95)]
    try:
        for bystander in bystanders:
            bystander.bind(("127.0.0.1", 0))
            bystander.setblocking(False)
        config = WebRTCConfig(host_addresses=("127.0.0.1",), private_candidates=private)
        async with open_engine(config) as engine:
            caller = await engine.offer()
            lines = [
                f"a=candidate:{port} 1 udp {port} 127.0.0.1 {port} typ host"
                for port in (bystander.getsockname()[1] for bystander in bystanders)
            ]
            offer = caller.offer_sdp.replace("a=rtcp-mux\r\n", "a=rtcp-mux\r\n" + "\r\n".join(lines) + "\r\n", 1)
            callee = await engine.answer(offer)
            with anyio.move_on_after(5):
                while callee._peer._contact._checked.total() < CHECKS_TO_HOST:
                    await anyio.sleep(0.1)
            await anyio.sleep(1)
            got = 0
            for bystander in bystanders:
                try:
                    while bystander.recv(2000):
                        got += 1
                except BlockingIOError:
                    pass
            assert 20 <= got <= CHECKS_TO_HOST if private else got == 0
            await callee.aclose()
            await caller.aclose()
    finally:
        for bystander in bystanders:
            bystander.close()


def test_a_peer_that_asks_from_elsewhere_alone_has_moved() -> None:
    """Two checks in a row, with nothing from the address in use between them."""
    old, new, other = ("198.51.100.1", 7), ("198.51.100.1", 8), ("203.0.113.1", 9)
    contact = Contact()
    assert not contact.moved(new, old)
    assert contact.moved(new, old)
    contact = Contact()
    for _ in range(5):
        assert not contact.moved(new, old)
        assert not contact.moved(old, old)
        assert not contact.moved(new, old)
        contact.answered(old)
        assert not contact.moved(new, old)
        assert not contact.moved(other, old)
    contact.answered(new)
    contact = Contact()
    contact.moved(new, old)
    contact.answered(new)  # our own check of the new address
    assert contact.moved(new, old)
