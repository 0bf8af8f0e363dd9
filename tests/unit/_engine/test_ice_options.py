"""Where a server's candidates come from: ports, interfaces, public address, STUN and TURN servers, and how long."""

from __future__ import annotations

import os
import re
import socket
import threading
import time
from typing import Any

import anyio
import httpx2
import pytest
from aioice import stun
from hypothesis import given
from hypothesis import strategies as st
from stun_server import Reply, mapped, refusing, server, silent
from webrtc_pair import meet

from rtcflow import IceServer, Stream, WebRTCConfig
from rtcflow.demo import EchoHandler
from rtcflow.exceptions import TooManyConnections
from rtcflow.protocol.ice import parse_ice_url
from rtcflow.transports.webrtc import ServerTrouble, WebRTCTransport, open_engine, read_ice_servers

CANDIDATE = re.compile(r"a=candidate:\S+ \d udp \d+ (\S+) (\d+) typ (\w+)(?: raddr (\S+) rport (\d+))?")
Found = list[tuple[str, int, str, str, str]]


def candidates(sdp: str) -> Found:
    """``(address, port, type, related address, related port)`` of each in the text: bundled sections repeat them."""
    return [(host, int(port), kind, *rest) for host, port, kind, *rest in dict.fromkeys(CANDIDATE.findall(sdp))]


def free_ports(count: int) -> tuple[int, int]:
    """The first and last of so many neighbouring UDP ports that are free on 127.0.0.1 now.

    Below the system's own range (from 32768), out of which every other socket on this machine gets its port.
    """
    for low in range(20000 + os.getpid() % 1000 * 8, 32000, count):
        try:
            for port in range(low, low + count):
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as trial:
                    trial.bind(("127.0.0.1", port))
        except OSError:
            continue
        return low, low + count - 1
    raise AssertionError("no free ports")


# -- addresses and ports


@pytest.mark.anyio
async def test_calls_keep_to_the_range_of_ports() -> None:
    """Every candidate has a port of the range, and the call runs over it; when all are taken, a call is refused."""
    low, high = free_ports(4)
    config = WebRTCConfig(host_addresses=("127.0.0.1",), port_range=(low, high))
    async with open_engine(config) as engine:
        pairs = []
        for _ in range(2):
            caller = await engine.offer()
            callee = await engine.answer(caller.offer_sdp)
            await meet(caller, callee)
            pairs += [caller, callee]
        ports = [port for side in pairs for _, port, *_ in candidates(side.offer_sdp or side.answer)]
        assert sorted(ports) == list(range(low, high + 1))
        assert pairs[0].route.local_address[1] in ports
        with pytest.raises(TooManyConnections, match=f"no UDP port from {low} to {high} is free"):
            await engine.offer()
        await pairs[0].aclose()
        assert candidates((await engine.offer()).offer_sdp)


@pytest.mark.anyio
async def test_a_refused_call_leaves_no_port_taken() -> None:
    """With two addresses and one port free for the second, the first is given back with the refusal."""
    low, _ = free_ports(1)
    config = WebRTCConfig(host_addresses=("127.0.0.1", "127.0.0.2"), port_range=(low, low))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.2", low))
        async with open_engine(config) as engine:
            with pytest.raises(TooManyConnections):
                await engine.offer()
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
                again.bind(("127.0.0.1", low))


@pytest.mark.anyio
async def test_a_stream_without_a_free_port_is_full() -> None:
    """The caller gets a 503 that names the range, and its slot is given back."""
    low, high = free_ports(1)
    stream = Stream(EchoHandler(), webrtc=WebRTCConfig(host_addresses=("127.0.0.1",), port_range=(low, high)))
    transport = httpx2.ASGITransport(stream.asgi)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", low))
        async with (
            stream.running(),
            open_engine(WebRTCConfig(host_addresses=("127.0.0.1",))) as engine,
            httpx2.AsyncClient(transport=transport, base_url="http://site") as client,
        ):
            offer = {"type": "offer", "webrtc_id": "abc", "sdp": (await engine.offer()).offer_sdp}
            response = await client.post("/webrtc/offer", json=offer)
            assert response.status_code == 503
            assert f"{low} to {high}" in response.json()["meta"]["message"]
            assert response.headers["retry-after"]
            assert len(stream.calls) == 0


@pytest.mark.anyio
async def test_the_public_address_is_offered_with_the_same_port() -> None:
    """Beside the host candidate there is one of the public address, with its port; the call is not disturbed by it."""
    config = WebRTCConfig(host_addresses=("127.0.0.1", "127.0.0.2"), public_address="203.0.113.7")
    async with open_engine(config) as engine:
        caller = await engine.offer()
        callee = await engine.answer(caller.offer_sdp)
        first, second, public = candidates(callee.answer)
        assert (first[0], first[2], second[0], second[2]) == ("127.0.0.1", "host", "127.0.0.2", "host")
        assert public == ("203.0.113.7", first[1], "srflx", "127.0.0.1", str(first[1]))
        await meet(caller, callee)


@pytest.mark.parametrize(("public", "hosts"), [("2001:db8::7", ("127.0.0.1",)), ("127.0.0.1", ("127.0.0.1",))])
@pytest.mark.anyio
async def test_a_public_address_of_no_use_is_not_offered(public: str, hosts: tuple[str, ...]) -> None:
    """One of another IP version, or that is the machine's own, adds nothing."""
    async with open_engine(WebRTCConfig(host_addresses=hosts, public_address=public)) as engine:
        assert [kind for _, _, kind, *_ in candidates((await engine.offer()).offer_sdp)] == ["host"]


@pytest.mark.anyio
async def test_interfaces_are_chosen_by_name() -> None:
    """Only addresses of interfaces with such a name are offered, the loopback's too, and a call runs over them."""
    async with open_engine(WebRTCConfig(interfaces=("l?",))) as engine:
        caller = await engine.offer()
        callee = await engine.answer(caller.offer_sdp)
        assert {host for host, *_ in candidates(callee.answer)} <= {"127.0.0.1", "::1"}
        await meet(caller, callee)
    names = [name for _, name in socket.if_nameindex() if name != "lo"]
    async with open_engine(WebRTCConfig(interfaces=names)) as engine:
        assert "127.0.0.1" not in {host for host, *_ in candidates((await engine.offer()).offer_sdp)}


@pytest.mark.anyio
async def test_an_interface_that_is_not_there_is_said_at_once() -> None:
    """Opening the engine fails, and names the interfaces that are there."""
    with pytest.raises(ValueError, match=r"no network interface is called 'moon0'; there are .*lo"):
        async with open_engine(WebRTCConfig(interfaces=("moon0",))):
            raise AssertionError


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"port_range": (0, 10)}, r"port_range\[0\]=0"),
        ({"port_range": (20, 10)}, r"port_range\[1\]=10; expected 20 to 65535"),
        ({"port_range": 5000}, "port_range=5000; expected two ports, as in"),
        ({"port_range": (5000,)}, "expected two ports, as in"),
        ({"port": 5000.0}, r"port=5000.0; expected a whole number, 1 to 65535"),
        ({"port": "5000"}, "port='5000'; expected a whole number"),
        ({"port": True}, "port=True; expected a whole number"),
        ({"peer_timeout": "10"}, "peer_timeout='10'; expected 1 to 30 seconds"),
        ({"connect_timeout": -1}, "connect_timeout=-1; expected more than 0 seconds"),
        ({"close_timeout": None}, "close_timeout=None; expected 0 seconds or more"),
        ({"switch_interval": 0}, "switch_interval=0; expected more than 0 seconds"),
        ({"public_address": "example.org"}, "public_address has 'example.org'; expected an IPv4 or IPv6 address"),
        ({"host_addresses": ("eth0",)}, "host_addresses has 'eth0'; expected an IPv4 or IPv6 address"),
        ({"host_addresses": 5}, "host_addresses=5; expected a list or a tuple"),
        ({"host_addresses": "127.0.0.1"}, r"write \('127.0.0.1',\)"),
        ({"interfaces": "eth0"}, r"write \('eth0',\)"),
        ({"interfaces": ("eth0",), "host_addresses": ("127.0.0.1",)}, "exclude each other"),
        ({"relay_only": True}, "needs a TURN server"),
        ({"gather_timeout": 0}, "more than 0 seconds"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], words: str) -> None:
    """An error says what was wrong before anything is opened."""
    with pytest.raises((ValueError, TypeError), match=words):
        WebRTCConfig(**options)


# -- servers


async def ask(url: str | list[str], *hosts: str, timeout: float = 2.0, **options: Any) -> WebRTCTransport:
    config = WebRTCConfig(
        host_addresses=hosts or ("127.0.0.1",),
        ice_servers=[IceServer(url, "u", "p")],
        gather_timeout=timeout,
        **options,
    )
    async with open_engine(config) as engine:
        with anyio.fail_after(timeout + 20):  # a dead server is otherwise asked for half a minute
            return await engine.offer()


@pytest.mark.anyio
async def test_a_stun_server_gives_a_candidate() -> None:
    """Its answer is a candidate, and its report has the address and the time."""
    with server(mapped) as port:
        offer = await ask(f"stun:127.0.0.1:{port}")
        (report,) = offer.ice_servers
        assert (report.address, report.trouble) == (("203.0.113.9", 5000), None)
        assert 0 <= report.seconds < 1.9  # a loop's clock may not have moved; `gather_timeout` is 2 s
        assert [(host, kind) for host, _, kind, *_ in candidates(offer.offer_sdp)] == [
            ("127.0.0.1", "host"),
            ("203.0.113.9", "srflx"),
        ]


@pytest.mark.anyio
async def test_an_address_without_a_way_out_holds_nothing_up() -> None:
    """Once a server has answered one address, those from which it cannot be reached are waited for a moment only."""

    def reply(request: stun.Message, sender: tuple[str, int]) -> stun.Message | None:
        return mapped(request, sender) if sender[0] == "127.0.0.2" else None

    with server(reply) as port:
        offer = await ask(f"stun:127.0.0.1:{port}", "127.0.0.1", "127.0.0.2", timeout=10)
    (report,) = offer.ice_servers
    assert report.trouble is None
    assert report.seconds < 9, "the other address is asked for 10 s"


@pytest.mark.parametrize("scheme", ["stun", "turn"])
@pytest.mark.anyio
async def test_a_dead_server_costs_its_time_and_nothing_else(scheme: str) -> None:
    """The offer comes when `gather_timeout` is over, with the candidates there are, and the report says so."""
    with server(silent) as port:
        offer = await ask(f"{scheme}:127.0.0.1:{port}", timeout=0.3)
    (report,) = offer.ice_servers
    assert report.trouble is ServerTrouble.NO_ANSWER
    assert 0.29 < report.seconds < 10, "a dead server is otherwise asked for half a minute"
    assert [kind for _, _, kind, *_ in candidates(offer.offer_sdp)] == ["host"]


@pytest.mark.parametrize(
    ("url", "trouble"),
    [
        ("turn:nowhere.invalid", ServerTrouble.UNKNOWN_HOST),
        ("stun:nowhere.invalid", ServerTrouble.UNKNOWN_HOST),
        ("turn:127.0.0.1:{closed}?transport=tcp", ServerTrouble.UNREACHABLE),
        ("turns:127.0.0.1:{closed}", ServerTrouble.UNREACHABLE),
        ("turns:127.0.0.1?transport=udp", ServerTrouble.UNSUPPORTED),
        ("stuns:127.0.0.1", ServerTrouble.UNSUPPORTED),
    ],
)
@pytest.mark.anyio
async def test_why_a_server_is_of_no_use_is_told(url: str, trouble: ServerTrouble) -> None:
    """Each trouble has its name, and its words have the URL."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = url.format(closed=closed.getsockname()[1])
        (report,) = (await ask(url)).ice_servers
    assert (report.trouble, report.address) == (trouble, None)
    assert str(report).startswith(f"{url} {trouble.value}")


@pytest.mark.parametrize(
    ("code", "trouble"),
    [(401, ServerTrouble.WRONG_CREDENTIALS), (403, ServerTrouble.WRONG_CREDENTIALS), (486, ServerTrouble.REFUSED)],
)
@pytest.mark.anyio
async def test_a_turn_server_may_refuse(code: int, trouble: ServerTrouble) -> None:
    """Wrong credentials are told from other refusals, and its own words are kept."""
    with server(refusing(code)) as port:
        (report,) = (await ask(f"turn:127.0.0.1:{port}")).ice_servers
    assert report.trouble is trouble
    assert f"{code} No" in str(report)


@pytest.mark.slow
@pytest.mark.anyio
async def test_all_servers_are_asked_at_once() -> None:
    """No server waits for another one's time to be over, and each has its report."""
    asked: dict[str, float] = {}

    def noting(name: str, reply: Reply) -> Reply:
        def note(request: stun.Message, sender: tuple[str, int]) -> stun.Message | None:
            asked.setdefault(name, time.monotonic())
            return reply(request, sender)

        return note

    with (
        server(noting("one", silent)) as one,
        server(noting("two", silent)) as two,
        server(noting("three", mapped)) as three,
    ):
        urls = [f"stun:127.0.0.1:{one}", f"turn:127.0.0.1:{two}", f"stun:127.0.0.1:{three}"]
        config = WebRTCConfig(host_addresses=("127.0.0.1",), ice_servers=[IceServer(urls, "u", "p")], gather_timeout=1)
        async with open_engine(config) as engine:
            offer = await engine.offer()
    assert max(asked.values()) - min(asked.values()) < config.gather_timeout
    assert [report.url for report in offer.ice_servers] == urls
    assert [report.trouble is None for report in offer.ice_servers] == [False, False, True]


# -- servers that are asked for


@pytest.mark.parametrize("kind", ["sync", "async", "servers", "object"])
@pytest.mark.anyio
async def test_servers_may_be_asked_for_at_each_connection(kind: str) -> None:
    """A function, sync or async, gives each connection credentials of its own; a sync one runs in a worker thread."""
    threads: list[threading.Thread] = []
    with server(refusing(401)) as port:

        def fetch() -> Any:
            threads.append(threading.current_thread())
            url = f"turn:127.0.0.1:{port}?transport=udp"
            if kind == "servers":
                return [IceServer(url, f"u{len(threads)}", "p")]
            return {"iceServers": [{"urls": url, "username": f"u{len(threads)}", "credential": "p"}]}

        async def fetch_async() -> Any:
            return fetch()

        class Fetching:
            async def __call__(self) -> Any:
                return fetch()

        given = {"async": fetch_async, "object": Fetching()}.get(kind, fetch)
        config = WebRTCConfig(host_addresses=("127.0.0.1",), ice_servers=given, relay_only=kind == "sync")
        async with open_engine(config) as engine:
            assert threads == []
            offer = await engine.offer()
            assert [report.trouble for report in offer.ice_servers] == [ServerTrouble.WRONG_CREDENTIALS]
            if kind != "sync":
                answer = await engine.answer(offer.offer_sdp)
                assert len(answer.ice_servers) == 1
                assert len(threads) == 2
    ours = threading.current_thread()
    assert all((thread is ours) is (kind in {"async", "object"}) for thread in threads)


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        (lambda: 1 / 0, ZeroDivisionError, "division"),
        (lambda: 5, TypeError, r"what ice_servers\(\) returned is a int; expected a dict"),
        (lambda: ["turn:t.example"], TypeError, "ice_servers holds a str"),
        (lambda: {"iceServers": [{"urls": "http://x"}]}, ValueError, "'http://x' is not the URL"),
        (dict, ValueError, "relay_only needs a TURN server"),
    ],
)
@pytest.mark.anyio
async def test_servers_that_cannot_be_asked_for_refuse_the_call(
    caplog: pytest.LogCaptureFixture, given: Any, error: type[Exception], words: str
) -> None:
    """Who made the engine gets the error itself; a stream's caller a 500 without it, and the slot is given back."""
    async with open_engine(WebRTCConfig(host_addresses=("127.0.0.1",))) as engine:
        offer = (await engine.offer()).offer_sdp
    config = WebRTCConfig(ice_servers=given, relay_only=True)
    async with open_engine(config) as engine:
        with pytest.raises(error, match=words):
            await engine.offer()
        with pytest.raises(error, match=words):
            await engine.answer(offer)
    stream = Stream(EchoHandler(), webrtc=config)
    async with (
        stream.running(),
        httpx2.AsyncClient(transport=httpx2.ASGITransport(stream.asgi), base_url="http://site") as client,
    ):
        response = await client.post("/webrtc/offer", json={"type": "offer", "webrtc_id": "abc", "sdp": offer})
        assert (response.status_code, len(stream.calls)) == (500, 0)
        assert response.json()["meta"]["message"] == "the server could not get its own ICE servers"
    assert "WebRTCConfig.ice_servers raised" in caplog.text


def test_what_are_no_servers_are_refused() -> None:
    """A browser's dict in their place is told from them."""
    with pytest.raises(TypeError, match=r"ice_servers holds a str; expected IceServer\(...\), or read_ice_servers"):
        WebRTCConfig(ice_servers={"iceServers": []})  # type: ignore[arg-type]


# -- URLs


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("stun:example.org", ("stun", "example.org", 3478, "udp")),
        ("turn:10.0.0.1:80?transport=tcp", ("turn", "10.0.0.1", 80, "tcp")),
        ("turns:t.example", ("turns", "t.example", 5349, "tcp")),
        ("turn:[2001:db8::1]:3478", ("turn", "2001:db8::1", 3478, "udp")),
        ("turns:[::1]?transport=tcp", ("turns", "::1", 5349, "tcp")),
        ("stun:[::ffff:192.0.2.1]", ("stun", "::ffff:192.0.2.1", 3478, "udp")),
    ],
)
def test_urls_of_servers_are_read(url: str, expected: tuple[str, str, int, str]) -> None:
    """Scheme, host, port and transport, each with the defaults of the RFCs."""
    assert tuple(parse_ice_url(url)) == expected


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.org",
        "http://example.org",
        "stun:",
        "stun:x:0",
        "turn:x:99999",
        "stun:x?transport=udp",
        7,
        "turn:2001:db8::1",
        "turn:[::1",
        "turn:[x]",
        "turn:[1:2]",
        "turn:[]",
        "turn:[::1]x",
        "turn:[fe80::1%eth0]",
    ],
)
def test_what_is_no_url_of_a_server_is_refused(url: Any) -> None:
    """When the server is named, not when it is asked."""
    with pytest.raises(ValueError, match=re.escape(repr(url))):
        IceServer((url,))


@given(st.text() | st.from_regex(r"(stun|turn)s?:[^ ]{0,20}"))
def test_any_text_is_a_url_or_a_value_error(text: str) -> None:
    """No other error comes out of foreign text."""
    try:
        assert 1 <= parse_ice_url(text).port <= 65535
    except ValueError as error:
        assert repr(text) in str(error)


def test_a_browsers_configuration_is_read() -> None:
    """The same dict serves both sides; what is none says so."""
    found = read_ice_servers({"iceServers": [{"urls": ["stun:a", "turn:b"], "username": "u", "credential": "p"}]})
    assert found == (IceServer(["stun:a", "turn:b"], "u", "p"),)
    assert "p'" not in repr(found)
    assert read_ice_servers({}) == ()
    assert read_ice_servers({"iceServers": {"urls": "stun:a"}}) == (IceServer("stun:a"),)
    with pytest.raises(TypeError, match="iceServers holds a str; expected dicts"):
        read_ice_servers({"iceServers": ["stun:a"]})


@pytest.mark.anyio
async def test_servers_at_ipv6_addresses_are_asked() -> None:
    """A TURN server there is spoken to; STUN to it is not possible, and said so."""
    with server(refusing(401), "::1") as port:
        turn, stun = f"turn:[::1]:{port}", f"stun:[::1]:{port}"
        reports = {report.url: report for report in (await ask([turn, stun])).ice_servers}
    assert reports[turn].trouble is ServerTrouble.WRONG_CREDENTIALS
    assert reports[stun].trouble is ServerTrouble.UNSUPPORTED
    assert "STUN over IPv6" in reports[stun].words
