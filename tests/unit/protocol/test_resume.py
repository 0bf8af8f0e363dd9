"""The proof that a client may come back: right once, and for nobody else."""

from __future__ import annotations

import hashlib
import hmac
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtcflow.protocol.resume import LARGEST_NUMBER, Permit, Proof, Ticket, prove, read_permit, read_request

texts = st.text(max_size=30)
numbers = st.integers(1, LARGEST_NUMBER)


def test_the_proof_is_what_the_page_describes():
    """Another implementation needs HMAC-SHA256 and nothing of ours."""
    words = b"rtcflow-resume\nmy-id\n7\nv=0\r\n"
    assert prove("secret", "my-id", 7, "v=0\r\n").proof == hmac.new(b"secret", words, hashlib.sha256).hexdigest()


@given(texts, numbers, texts)
def test_the_right_proof_is_accepted_once(call_id, number, offer):
    """Whoever sees it on its way cannot use it again, nor one with a smaller number."""
    ticket = Ticket("the secret of this call", "stop")
    proof = prove(ticket.secret, call_id, number, offer)
    assert ticket.accept(proof, call_id, offer)
    assert not ticket.accept(proof, call_id, offer)
    assert not ticket.accept(prove(ticket.secret, call_id, max(1, number - 1), offer), call_id, offer)
    if number < LARGEST_NUMBER:
        assert ticket.accept(prove(ticket.secret, call_id, number + 1, offer), call_id, offer)


@given(texts, numbers, texts, st.sampled_from(["secret", "id", "number", "offer", "proof"]))
def test_a_proof_for_anything_else_is_refused_and_uses_nothing_up(call_id, number, offer, wrong):
    """Another call's secret, another id, number or offer, a changed digit; the right one still counts after it."""
    ticket = Ticket("the secret of this call", "stop")
    right = prove(ticket.secret, call_id, number, offer)
    given = {
        "secret": prove("of another call", call_id, number, offer),
        "id": prove(ticket.secret, call_id + "x", number, offer),
        "number": Proof(number % LARGEST_NUMBER + 1, right.proof),
        "offer": prove(ticket.secret, call_id, number, offer + "x"),
        "proof": Proof(number, right.proof[:-1] + ("0" if right.proof[-1] != "0" else "1")),
    }[wrong]
    assert not ticket.accept(given, call_id, offer)
    assert ticket.accept(right, call_id, offer)


@given(texts, texts)
def test_only_the_token_for_it_ends_a_call(stop, token):
    """Its secret does not, nor any other text."""
    ticket = Ticket(stop + "secret", stop)
    assert ticket.may_stop(stop)
    assert ticket.may_stop(token) == (token == stop)
    assert not ticket.may_stop(ticket.secret)


@given(numbers, texts)
def test_what_is_written_can_be_read(number, secret):
    """Over JSON and back, in both directions."""
    proof = prove(secret, "id", number)
    assert read_request(json.loads(json.dumps(proof.to_json()))) == proof
    for stop in ("", secret):
        permit = Permit(secret or "s", 30.0, stop)
        assert read_permit(json.loads(json.dumps(permit.to_json()))) == permit


@pytest.mark.parametrize(("value", "expected"), [(None, False), (False, False), (True, True)])
def test_a_client_may_only_ask(value, expected):
    """Without the key, it does not want to come back."""
    assert read_request(value) is expected


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["number", "proof", "secret"]), inner),
    max_leaves=5,
)


@pytest.mark.parametrize(
    "seconds", [float("nan"), float("inf"), -1, pytest.param(10**400, id="a number of 400 digits")]
)
def test_odd_seconds_of_a_server_are_refused(seconds):
    """Python reads all of them as JSON."""
    with pytest.raises(ValueError, match=r"resume\.seconds"):
        read_permit({"secret": "abc", "seconds": seconds})


@given(json_values)
def test_any_json_is_read_or_is_a_value_error(value):
    """Nothing else is raised, and the text says what to write."""
    for read in (read_request, read_permit):
        try:
            read(value)
        except ValueError as error:
            assert "resume" in str(error)
