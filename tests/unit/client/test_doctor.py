"""`rtcflow doctor`: a call as a browser would place it, and what is wrong with it in plain words."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import anyio
import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route as HttpRoute
from stun_server import refusing, server, silent
from typer.testing import CliRunner

from rtcflow import NotAuthorized, Stream, WebRTCConfig, open_engine
from rtcflow.client.doctor import DoctorReport, examine, explain
from rtcflow.demo import EchoHandler
from rtcflow.protocol.signalling import IceCandidate
from rtcflow.transports.webrtc import Route, ServerReport, ServerTrouble

LOCAL = WebRTCConfig(host_addresses=("127.0.0.1",))


@contextmanager
def reached(application: Any) -> Iterator[None]:
    """Every HTTP request of the block goes to this application."""
    with pytest.MonkeyPatch.context() as patch:
        real, transport = httpx2.AsyncClient, httpx2.ASGITransport(application)
        patch.setattr(httpx2, "AsyncClient", lambda **options: real(**{**options, "transport": transport}))
        yield


async def visit(stream: Stream, **options: Any) -> DoctorReport:
    with anyio.fail_after(120), reached(stream.asgi):
        async with stream.running():
            return await examine("http://site.example", **options)


def echo(**options: Any) -> Stream:
    return Stream(EchoHandler(), webrtc=LOCAL, **options)


def turn(port: int) -> dict[str, Any]:
    return {"iceServers": [{"urls": f"turn:127.0.0.1:{port}", "username": "u", "credential": "p"}]}


# -- a visit


@pytest.mark.anyio
async def test_a_server_that_works_has_no_problem() -> None:
    """Both sides' candidates, the pair in use and the time are found, and the call's slot is given back."""
    stream = echo()
    report = await visit(stream)
    assert report.connected
    assert report.problems == []
    assert {found.type for found in report.theirs} == {"host"}
    assert [found.ip for found in report.theirs] == ["127.0.0.1"]
    assert report.ours
    assert report.route.remote_address == ("127.0.0.1", report.theirs[0].port)
    assert 0 < report.setup < 5
    assert any("no TURN server" in note for note in report.notes)
    assert len(stream.calls) == 0


@pytest.mark.anyio
async def test_streams_of_video_are_offered_video() -> None:
    """What is offered is what the server says it serves."""
    assert (await visit(Stream(lambda frame: frame, modality="video", webrtc=LOCAL))).connected


@pytest.mark.slow
@pytest.mark.anyio
async def test_a_dead_turn_server_is_a_problem_though_the_call_works() -> None:
    """Here the call does without it, elsewhere it could not: it is named, with the time it was waited for."""
    with server(silent) as port:
        report = await visit(echo(rtc_configuration=turn(port)), timeout=1.5)
    assert report.connected
    (problem,) = report.problems
    assert f"TURN server turn:127.0.0.1:{port} did not answer within 1.5 s" in problem
    assert "transport=tcp" in problem


@pytest.mark.anyio
async def test_wrong_credentials_are_told_from_silence() -> None:
    """The server's own words are there, and what to compare."""
    with server(refusing(401)) as port:
        report = await visit(echo(rtc_configuration=turn(port)))
    (problem,) = report.problems
    assert "refused the credentials (401 No)" in problem
    assert "clocks" in problem


@pytest.mark.anyio
async def test_with_relays_only_a_dead_turn_server_is_the_end() -> None:
    """There is nothing to offer then, and both are said: the server and its consequence."""
    with server(silent) as port:
        report = await visit(echo(rtc_configuration=turn(port)), relay_only=True, timeout=0.5)
    assert not report.connected
    assert report.ours == []
    dead, consequence = report.problems
    assert "did not answer" in dead
    assert "no TURN server gave one" in consequence


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["relay", "all"])
@pytest.mark.anyio
async def test_the_servers_policy_counts_as_for_a_browser(policy: str) -> None:
    """Told to use relays only, it offers nothing else, and a dead TURN server is why there is no call."""
    with server(silent) as port:
        told = turn(port) | {"iceTransportPolicy": policy}
        report = await visit(echo(rtc_configuration=told), timeout=1.5)
    assert report.connected is (policy == "all")
    assert (report.policy, report.relay_only) == (policy == "relay", policy == "relay")
    assert report.as_dict()["policy"] == policy
    assert ("no TURN server gave one" in report.problems[-1]) is (policy == "relay")


@pytest.mark.parametrize(
    ("options", "examining", "words"),
    [
        ({}, {"relay_only": True}, "no relay to try"),
        ({"rtc_configuration": {"iceTransportPolicy": "relay"}}, {}, "told to use relays only (iceTransportPolicy)"),
        (
            {"rtc_configuration": {"iceServers": [{"urls": "http://x"}]}},
            {},
            "'http://x' is not the URL of a STUN or TURN",
        ),
        ({"authorize": lambda _: None}, {}, "give them with --header"),
    ],
)
@pytest.mark.anyio
async def test_a_refusal_is_told(options: Any, examining: Any, words: str) -> None:
    """What kept the call from being placed is the problem, and nothing is left of it."""
    stream = echo(**options)
    report = await visit(stream, **examining)
    assert not report.connected
    (problem,) = report.problems
    assert words in problem
    assert problem.endswith(".")
    assert len(stream.calls) == 0


@pytest.mark.anyio
async def test_headers_reach_authorize() -> None:
    """With the right one, both requests pass."""

    def authorize(caller: Any) -> str:
        if caller.headers.get("authorization") != "Bearer sesame":
            raise NotAuthorized("say the word")
        return "ali"

    assert (await visit(echo(authorize=authorize), headers={"Authorization": "Bearer sesame"})).connected


@pytest.mark.slow
@pytest.mark.anyio
async def test_a_server_that_cannot_be_reached_by_udp_is_found() -> None:
    """Its offer is answered, and nothing it offers answers: the addresses and what to do are named."""
    async with open_engine(LOCAL) as engine:

        async def configuration(_: Request) -> JSONResponse:
            return JSONResponse({"rtcConfiguration": {}})

        async def offer(request: Request) -> JSONResponse:
            callee = await engine.answer((await request.json())["sdp"])
            await callee.aclose()
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf:
                deaf.bind(("127.0.0.1", 0))
                port = str(deaf.getsockname()[1])
            sdp = re.sub(r"(127\.0\.0\.1) \d+ typ host", rf"\1 {port} typ host", callee.answer)
            return JSONResponse({"type": "answer", "sdp": sdp})

        routes = [
            HttpRoute("/webrtc/configuration", configuration),
            HttpRoute("/webrtc/offer", offer, methods=["POST"]),
        ]
        with anyio.fail_after(120), reached(Starlette(routes=routes)):
            here = await examine("http://localhost", timeout=0.5)
            away = await examine("http://site.example", timeout=0.5)
    assert (here.connected, here.phase) == (False, "ice")
    assert "No answer came by UDP" in here.problems[0]
    assert f"127.0.0.1:{here.theirs[0].port}" in here.problems[0]
    assert "port_range" in here.problems[0]
    assert "public_address" in away.problems[0]


# -- the words


def candidate(ip: str, kind: str = "host") -> IceCandidate:
    return IceCandidate("1", 1, "udp", 1, ip, 5000, kind)


FAILED = DoctorReport(
    "https://talk.example.org", phase="ice", ours=[candidate("192.0.2.9")], theirs=[candidate("10.0.0.5")]
)
RELAY = ServerReport("turn:t.example", 0.1, ("198.51.100.4", 50000))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, r"addresses of its own network only \(10.0.0.5\).*public_address"),
        ({"url": "http://10.0.0.5:8000"}, r"No answer came by UDP.*10.0.0.5:5000.*port_range.*TURN"),
        ({"theirs": [candidate("8.8.8.8")]}, r"No answer came by UDP.*8.8.8.8:5000"),
        ({"theirs": [candidate("8.8.8.8")], "ice_servers": (RELAY,)}, "and from the TURN relay, too"),
        ({"theirs": []}, "The server offered no candidate"),
        ({"ours": []}, "no network address but 127.0.0.1"),
        ({"ours": [], "relay_only": True}, "no TURN server gave one"),
        ({"theirs": [candidate("2001:4860::8")]}, "no kind of address in common"),
        ({"theirs": [candidate("x.local")]}, "The server offered no candidate"),
        ({"phase": "dtls"}, "DTLS"),
        ({"refused": "nobody answers"}, r"Nobody answers\."),
    ],
)
def test_each_failure_has_its_words(changed: dict[str, Any], words: str) -> None:
    """One sentence or two, which fit what was found."""
    problems, _ = explain(replace(FAILED, **changed))
    assert len(problems) == 1
    assert re.search(words, problems[0])


@pytest.mark.parametrize("trouble", ServerTrouble)
@pytest.mark.parametrize("url", ["stun:s.example", "turn:t.example?transport=tcp", "turns:t.example", "turn:t.example"])
def test_each_trouble_of_a_server_has_its_words(trouble: ServerTrouble, url: str) -> None:
    """The server is named by its URL, and a connected call does not hide it."""
    server = ServerReport(url, 1.0, None, trouble, "particulars")
    problems, _ = explain(DoctorReport("http://x.example", ice_servers=(server,), setup=0.1))
    assert url in problems[0]
    assert problems[0].endswith(".")
    if trouble is not ServerTrouble.NO_ANSWER:
        assert "(particulars)" in problems[0]


def test_a_relay_in_use_is_noted() -> None:
    """So that nobody takes a relayed call for a direct one."""
    route = Route("relay", ("198.51.100.4", 50000), "host", ("8.8.8.8", 5000))
    _, notes = explain(DoctorReport("http://x.example", ice_servers=(RELAY,), route=route, setup=0.1))
    assert notes == ["Media goes over a TURN relay."]


def test_a_report_is_json() -> None:
    """All of it, troubles by name."""
    trouble = ServerReport("turn:t.example", 0.1, None, ServerTrouble.NO_ANSWER)
    told = json.loads(json.dumps(replace(FAILED, ice_servers=(trouble, RELAY)).as_dict()))
    assert told["connected"] is False
    assert [server["trouble"] for server in told["ice_servers"]] == ["no_answer", None]
    assert told["theirs"] == [{"type": "host", "address": "10.0.0.5", "port": 5000}]


# -- the command


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize(("route", "code"), [("/webrtc/configuration", 0), ("/elsewhere", 1)])
def test_the_command_prints_and_exits(route: str, code: int, as_json: bool) -> None:
    """0 if all is well, 1 if anything is wrong; with --json what is printed is one object, and nothing else."""
    from rtcflow.cli import app

    stream = echo()

    async def main(function: Any) -> Any:
        async with stream.running():
            return await function()

    with pytest.MonkeyPatch.context() as patch, reached(stream.asgi):
        patch.setattr("rtcflow.cli._run", lambda _, function: anyio.run(main, function))
        patch.setattr("rtcflow.client.webrtc.CONFIGURATION_ROUTE", route)
        done = CliRunner().invoke(app, ["doctor", "http://site.example", *(["--json"] if as_json else [])])
    assert done.exit_code == code, done.output
    if as_json:
        assert json.loads(done.stdout)["connected"] is (code == 0)
    else:
        assert ("Calls work" in done.stdout) is (code == 0)
        assert ("no stream is mounted" in done.stdout) is (code == 1)
        assert bool(re.search(r"\b404\b", done.stdout)) is (code == 1)  # a word: ports have these digits, too


def test_the_command_names_what_is_no_url() -> None:
    """One line, exit code 1."""
    from rtcflow.cli import app

    done = CliRunner().invoke(app, ["doctor", "nonsense"])
    assert done.exit_code == 1
    assert "'nonsense' is not the URL of a server" in done.stderr
