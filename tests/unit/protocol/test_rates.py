"""How often a peer may send, and how often one address may ask."""

from __future__ import annotations

import anyio
import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtcflow.handlers.base import AsyncStreamHandler
from rtcflow.protocol.rates import AddressRate, MessageRate
from rtcflow.serving.session import CallRequest
from rtcflow.stream import Stream
from rtcflow.transports.memory import memory_pair
from rtcflow.transports.webrtc import WebRTCConfig, open_engine

LOCAL = WebRTCConfig(host_addresses=("127.0.0.1",))


class Quiet(AsyncStreamHandler):
    def copy(self):
        return Quiet()

    async def receive(self, frame):
        pass

    async def emit(self):
        await anyio.sleep_forever()


def test_ten_seconds_worth_at_once_and_then_the_rate():
    """Twenty at once with a rate of two; then one each half second."""
    rate = AddressRate(2)
    assert [rate.take("192.0.2.1", 0.0) for _ in range(21)] == [True] * 20 + [False]
    assert [rate.take("192.0.2.1", now) for now in (0.4, 0.5, 0.6, 1.0)] == [False, True, False, True]
    assert AddressRate(0.1).wait == 10
    assert AddressRate(0.01).take("192.0.2.1", 0.0)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
    ],
)
def test_who_counts_together(one, other, same):
    """IPv4 addresses each by itself, IPv6 addresses by their /64."""
    rate = AddressRate(0.1)
    assert rate.take(one, 0.0)
    assert rate.take(other, 0.0) is not same


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", None, ""])
def test_this_machine_is_not_limited(host):
    """Neither is who has no address."""
    rate = AddressRate(0.1)
    assert all(rate.take(host, 0.0) for _ in range(100))
    assert rate.addresses == 0


@given(st.lists(st.tuples(st.ip_addresses(v=4).map(str), st.floats(0, 100))), st.integers(1, 5))
def test_what_is_remembered_is_bounded(asked, bound):
    """Whoever asks, and however many: no more than so many addresses are kept."""
    rate = AddressRate(1, bound)
    for host, now in sorted(asked, key=lambda one: one[1]):
        rate.take(host, now)
        assert rate.addresses <= bound


@pytest.mark.anyio
@pytest.mark.parametrize("address", ["192.0.2.1", "127.0.0.1"])
async def test_offers_of_one_address_are_limited(address):
    """The third is a 429 that says when to come again, before authorize is asked; other addresses are not concerned."""
    asked = []

    def authorize(caller):
        asked.append(caller)
        return "ali"

    stream = Stream(Quiet(), concurrency_limit=None, webrtc=LOCAL, authorize=authorize, offer_rate=0.2)

    def client(host):
        transport = httpx2.ASGITransport(stream.asgi, client=(host, 4711))
        return httpx2.AsyncClient(transport=transport, base_url="http://site")

    async with open_engine(LOCAL) as engine, stream.running(), client(address) as here, client("192.0.2.9") as there:

        async def offer(by, number):
            body = {"type": "offer", "webrtc_id": f"call{number}", "sdp": (await engine.offer()).offer_sdp}
            return await by.post("/webrtc/offer", json=body)

        assert [(await offer(here, number)).status_code for number in range(2)] == [200, 200]
        third, limited = await offer(here, 2), address != "127.0.0.1"
        assert third.status_code == (429 if limited else 200)
        assert (await here.get("/webrtc/configuration")).status_code == (429 if limited else 200)
        sdp = {"Content-Type": "application/sdp"}
        assert (await here.post("/whip", content=b"", headers=sdp)).status_code == (429 if limited else 422)
        if limited:
            assert third.json()["meta"]["error"] == "too_many_requests"
            assert third.headers["retry-after"] == "5"
            assert len(asked) == 2
        assert (await offer(there, 3)).status_code == 200
        candidate = {"type": "ice-candidate", "webrtc_id": "call0", "candidate": None}
        assert (await here.post("/webrtc/offer", json=candidate)).status_code == 200


@pytest.mark.anyio
async def test_wrong_tokens_to_hang_up_are_limited():
    """They cost a line of the log each. The caller itself can hang up all the same."""
    stream = Stream(Quiet(), offer_rate=0.2, resume=30)
    transport = httpx2.ASGITransport(stream.asgi, client=("192.0.2.1", 4711))
    async with stream.running(), httpx2.AsyncClient(transport=transport, base_url="http://site") as client:
        async with stream.calls.admit(CallRequest(), "webrtc", "abc") as session, memory_pair() as (ours, _):
            permit = session.permit_resume()
            stream.calls.start(session, ours)

            async def stop(token, call="abc"):
                body = {"type": "stop", "webrtc_id": call, "token": token}
                return (await client.post("/webrtc/offer", json=body)).status_code

            assert [await stop(token) for token in ("a", "b", "c", "d")] == [403, 403, 429, 429]
            assert await stop("a", "never") == 200
            assert session.end is None
            assert await stop(permit.stop) == 200
            await anyio.wait_all_tasks_blocked()
            assert session.end is not None


@pytest.mark.parametrize(
    ("rate", "error"),
    [
        (0, ValueError),
        (-1, ValueError),
        ("10", TypeError),
        (float("nan"), ValueError),
        (float("inf"), ValueError),
        pytest.param(10**400, ValueError, id="a number of 400 digits"),
        (1e-320, ValueError),
    ],
)
def test_a_rate_is_above_nothing(rate, error):
    """None is no limit; anything else that is no number above 0 is refused."""
    with pytest.raises(error, match="offer_rate"):
        Stream(Quiet(), offer_rate=rate)
    assert Stream(Quiet(), offer_rate=None).calls.count_request(None) is None


def test_the_rate_bound_lets_bursts_through_and_floods_not() -> None:
    """50 messages a second pass for ever, a burst passes once, 10,000 a second do not."""
    rate = MessageRate(100, 200)
    assert all(rate.take(second / 50) for second in range(5000))
    flood = MessageRate(100, 200)
    assert sum(flood.take(number / 10_000) for number in range(10_000)) == pytest.approx(300, abs=2)


def test_a_message_that_counts_for_many_leaves_less_for_the_next() -> None:
    """Ten times the weight, a tenth of the messages; and one that is heavier than the burst passes all the same."""
    rate = MessageRate(100, 200)
    assert sum(rate.take(number / 10_000, 10) for number in range(10_000)) == pytest.approx(30, abs=1)
    small = MessageRate(1, 1)
    assert [small.take(now, 33) for now in (0, 1, 32, 33)] == [True, False, False, True]
