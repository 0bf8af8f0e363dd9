"""A cluster of real processes, a real NATS, and what goes wrong: deaths, stops, cuts, restarts, drains, crowds.

Minutes of real time, so these tests run in a session of their own: ``nox -s cluster``.
"""

from __future__ import annotations

import signal
import sys
import time
from contextlib import AsyncExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path

import anyio
import httpx2
import pytest
from cluster_fleet import (
    HYPERCORN,
    RTCFLOW,
    SDP,
    UVICORN,
    Link,
    Process,
    answers,
    caller,
    fleet,
    free,
    live_call,
    some_of_each_kind,
    tell,
    tell_when_back,
    until,
    wait_until,
    websocket_call,
)
from nats_process import NatsProcess

from rtcflow.client.lines import call_by_telephone, call_by_websocket

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(sys.platform != "linux", reason="stops and kills processes"),
    pytest.mark.parametrize("backend", ["asyncio", "trio"]),
]


def run(function, *arguments):
    return anyio.run(function, *arguments)


async def owner_of(site, client, calls=1):
    """The node with so many calls, and the others."""
    counts = [(await node.count(client), node) for node in site.nodes if node.process.poll() is None]
    (owner,) = [node for count, node in counts if count == calls]
    return owner, [node for count, node in counts if node is not owner]


async def post_whip(client, url, call):
    return await client.post(f"{url}/whip", content=call.offer_sdp, headers=SDP)


def test_a_killed_owner(backend, tmp_path, record_property):
    """The next request about its call gets 410, for both kinds of ids, at its successor as well; other calls go on."""

    async def calls(site):
        *others, owner = site.nodes
        async with caller() as (client, engine), AsyncExitStack() as stack:
            for number, node in enumerate(others):  # one call each, where it arrives: then they are full
                door = node.url.replace("http", "ws")
                await stack.enter_async_context(call_by_websocket(door, websocket_id=f"stays{number}"))
                while (await tell(client, node.url, f"stays{number}", 0)).status_code == 404:
                    await anyio.sleep(0.01)  # its start message is on its way
            await stack.enter_async_context(live_call(others[0].url, engine, "lost"))
            offer = await engine.offer(receive=False, messages=False)
            stack.push_async_callback(offer.aclose)
            session = (await post_whip(client, others[0].url, offer)).headers["location"]
            assert await owner.count(client) == 2
            owner.process.kill()
            owner.wait()
            killed = anyio.current_time()
            for number, node in enumerate(others):
                asked = await tell(client, node.url, "lost", 1)
                record_property("seconds until 410", anyio.current_time() - killed)
                assert (asked.status_code, asked.json()["meta"]["error"]) == (410, "call_lost")
                assert (await client.delete(f"{node.url}{session}")).status_code == 410
                assert (await tell(client, node.url, f"stays{number}", 1)).status_code == 200
            return session

    async def asked_again(node, session):
        async with httpx2.AsyncClient(timeout=60) as client:
            assert (await client.delete(f"{node.url}{session}")).status_code == 410
            assert (await tell(client, node.url, "lost", 1)).status_code == 410

    full = {"LIMIT": "1"}
    with fleet(tmp_path, 3, backend, each=[full, full], CONNECT="60") as site:
        session = run(calls, site)
        again = Process(tmp_path, "--backend", backend, port=site.nodes[-1].port, NATS=site.nats.url)
        try:
            again.wait_ready()
            run(asked_again, again, session)
        finally:
            again.close()


def test_a_stopped_owner(backend, tmp_path):
    """Its callers get 503 with Retry-After; new calls go elsewhere, also those that it was asked to take."""

    async def calls(site):
        async with caller() as (client, engine), live_call(site.nodes[0].url, engine, "held"):
            owner, (other,) = await owner_of(site, client)
            owner.send(signal.SIGSTOP)
            asked = await tell(client, other.url, "held", 1)
            assert asked.status_code == 503, asked.text
            assert "retry-after" in asked.headers
            for number in range(4):
                async with live_call(other.url, engine, f"new{number}"):
                    assert await other.count(client) == 1
                while await other.count(client):
                    await anyio.sleep(0.05)
            owner.send(signal.SIGCONT)
            await tell_when_back(client, other.url, "held", 2)

    with fleet(tmp_path, 2, backend) as site:
        run(calls, site)


async def call_at_first(nodes, client, engine, stack):
    """The id of a call of the first node. Others may come before it, while that node is busy with its start."""
    for number in count():
        await stack.enter_async_context(live_call(nodes[0].url, engine, f"call{number}"))
        if await nodes[0].count(client) == 1:
            break
    return f"call{number}"


@contextmanager
def two_nodes(tmp_path, backend, **environment):
    """Two nodes, and the way of the first one to NATS."""
    nats = NatsProcess()
    link = Link(nats.port)
    nodes = []
    try:
        for url in (f"nats://127.0.0.1:{link.port}", nats.url):
            nodes.append(Process(tmp_path, "--backend", backend, NATS=url, **environment))
            nodes[-1].wait_ready()
        yield nodes, link
    finally:
        link.mend()
        for node in nodes:
            node.close()
        link.close()
        nats.kill()


def test_a_node_that_is_cut_off(backend, tmp_path):
    """Its call goes on, and it answers its own callers. At other nodes they get 503, and never 404."""

    async def calls(nodes, link):
        async with caller() as (client, engine), AsyncExitStack() as stack:
            webrtc_id = await call_at_first(nodes, client, engine, stack)
            link.cut()
            asked = await tell(client, nodes[1].url, webrtc_id, 1)
            assert asked.status_code == 503, asked.text
            assert (await tell(client, nodes[0].url, webrtc_id, 2)).status_code == 200
            async with live_call(nodes[0].url, engine, "meanwhile"):
                assert (await tell(client, nodes[0].url, "meanwhile", 1)).status_code == 200
            link.mend()
            await tell_when_back(client, nodes[1].url, webrtc_id, 3)

    with two_nodes(tmp_path, backend) as (nodes, link):
        run(calls, nodes, link)


def test_a_connection_to_nats_that_breaks(backend, tmp_path):
    """The node makes another one at once. Its callers may get 503 for a moment, and never 404 or 410."""

    async def calls(nodes, link):
        async with caller() as (client, engine), AsyncExitStack() as stack:
            webrtc_id = await call_at_first(nodes, client, engine, stack)
            for turn in range(6):
                link.reset()
                await tell_when_back(client, nodes[1].url, webrtc_id, turn)

    with two_nodes(tmp_path, backend, RECONNECT="3") as (nodes, link):
        run(calls, nodes, link)


def test_nats_is_started_anew(backend, tmp_path):
    """No call is disturbed. Requests at other nodes get 503 meanwhile, and 200 afterwards; never 404."""

    async def calls(site):
        async with caller() as (client, engine), live_call(site.nodes[0].url, engine, "live") as call:
            owner, (other,) = await owner_of(site, client)
            site.nats.kill()
            while (asked := await tell(client, other.url, "live", 1)).status_code == 200:
                pass
            assert asked.status_code == 503, asked.text
            assert (await tell(client, owner.url, "live", 1)).status_code == 200
            async with live_call(other.url, engine, "meanwhile"):
                assert await other.count(client) == 1
            await anyio.to_thread.run_sync(site.nats.start)
            await tell_when_back(client, other.url, "live", 2)
            assert call.route is not None
            assert await owner.count(client) == 1

    with fleet(tmp_path, 2, backend) as site:
        run(calls, site)


def test_without_nats_nobody_can_count(backend, tmp_path):
    """A cluster with a limit takes no new calls then: 503 with Retry-After. Those that there are go on."""

    async def calls(site):
        async with caller() as (client, engine), live_call(site.nodes[0].url, engine, "live"):
            owner, _ = await owner_of(site, client)
            call = await engine.offer(receive=False, messages=False)
            site.nats.kill()
            for node in site.nodes:
                refused = await post_whip(client, node.url, call)
                assert refused.status_code == 503, refused.text
                assert "retry-after" in refused.headers
            assert (await tell(client, owner.url, "live", 1)).status_code == 200
            await anyio.to_thread.run_sync(site.nats.start)
            for node in site.nodes:
                while (answer := await post_whip(client, node.url, call)).status_code == 503:
                    await anyio.sleep(0.1)
                assert answer.status_code == 201, answer.text
            await call.aclose()

    with fleet(tmp_path, 2, backend, CLUSTER_LIMIT="4") as site:
        run(calls, site)


def test_a_new_release_takes_the_new_calls(backend, tmp_path):
    """Wherever they arrive. What the old one has stays there."""

    async def calls(site):
        async with caller() as (client, engine):
            call = await engine.offer(receive=False, messages=False)
            for number in range(12):
                assert (await post_whip(client, site.nodes[number % 3].url, call)).status_code == 201
            counts = [await node.count(client) for node in site.nodes]
            assert counts[0] == 0
            assert sum(counts) == 12
            await call.aclose()

    old = {"RELEASE": "2026-11-29.9"}
    with fleet(tmp_path, 3, backend, each=[old], RELEASE="2026-11-29.10", CONNECT="60") as site:
        run(calls, site)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_node_dies_or_drains_with_an_offer_in_its_hands(backend, tmp_path, end):
    """Another node takes the call, and the caller does not notice."""
    taken = tmp_path / "taken"

    async def calls(site):
        hanging, _, front = site.nodes
        async with caller() as (client, engine), AsyncExitStack() as stack:
            statuses = []

            async def offer(number):
                call = await engine.offer(receive=False, messages=False)
                stack.push_async_callback(call.aclose)
                statuses.append((await post_whip(client, front.url, call)).status_code)

            async with anyio.create_task_group() as tasks:
                offers = 0
                while not taken.exists():  # that node may be busy with its start
                    tasks.start_soon(offer, offers)
                    offers += 1
                    await anyio.sleep(0.1)
                hanging.send(end)
            assert statuses == [201] * offers

    with fleet(tmp_path, 3, backend, each=[{"HANG": str(taken)}], CONNECT="60", DRAIN="6") as site:
        run(calls, site)


def test_a_hundred_offers_for_fifty_places(backend, tmp_path):
    """At one instant, at four nodes: 50 answers, and 50 times 503 with Retry-After. Then the places are free again."""

    async def calls(site):
        async with caller() as (client, engine):
            call = await engine.offer(receive=False, messages=False)
            for _ in range(2):
                answered = []

                async def offer(number, answered=answered):
                    answered.append(await post_whip(client, site.nodes[number % 4].url, call))

                async with anyio.create_task_group() as tasks:
                    for number in range(100):
                        tasks.start_soon(offer, number)
                assert sorted(answer.status_code for answer in answered) == [201] * 50 + [503] * 50
                refused = [answer for answer in answered if answer.status_code == 503]
                assert all("retry-after" in answer.headers for answer in refused)
                assert sum([await node.count(client) for node in site.nodes]) == 50
                for answer in answered:
                    if answer.status_code == 201:
                        ended = await client.delete(f"{site.any()}{answer.headers['location']}")
                        assert ended.status_code == 200, ended.text
                await until(free, site, client)
            await call.aclose()

    with fleet(tmp_path, 4, backend, CLUSTER_LIMIT="50", CONNECT="60") as site:
        run(calls, site)


def test_the_places_of_a_dead_node_and_of_calls_that_never_connect_are_free_again(backend, tmp_path):
    async def calls(site):
        async with caller() as (client, engine):
            call = await engine.offer(receive=False, messages=False)

            async def fill(nodes):
                answers = [await post_whip(client, node.url, call) for node in nodes for _ in range(4)]
                return [answer.status_code for answer in answers]

            assert sorted(await fill(site.nodes)) == [201] * 4 + [503] * 8
            await until(free, site, client)  # none of them has connected
            assert sorted(await fill(site.nodes)) == [201] * 4 + [503] * 8
            site.nodes[0].process.kill()
            site.nodes[0].wait()
            left = site.nodes[1:]
            await until(free, site, client)
            assert sorted(await fill(left)) == [201] * 4 + [503] * 4
            await call.aclose()

    # Long enough for a busy machine to send all offers before the first call's limit.
    with fleet(tmp_path, 3, backend, CLUSTER_LIMIT="4", CONNECT="10") as site:
        run(calls, site)


def test_one_id_at_all_nodes_at_once(backend, tmp_path):
    """One of four offers makes the call; candidates that are faster than the offer find it."""

    async def calls(site):
        async with caller() as (client, engine):
            offers = [await engine.offer(receive=False, messages=False) for _ in range(4)]
            for number in range(5):
                webrtc_id, statuses, early = f"same{number}", [], []

                async def trickle(node, webrtc_id=webrtc_id, early=early):
                    end = {"type": "ice-candidate", "webrtc_id": webrtc_id, "candidate": None}
                    while (await client.post(f"{node.url}/webrtc/offer", json=end)).status_code == 404:
                        pass  # a busy machine may not begin with the offer within the second that a candidate waits
                    early.append(node)

                async def offer(node, call, webrtc_id=webrtc_id, statuses=statuses):
                    body = {"sdp": call.offer_sdp, "type": "offer", "webrtc_id": webrtc_id}
                    statuses.append((await client.post(f"{node.url}/webrtc/offer", json=body)).status_code)

                async with anyio.create_task_group() as tasks:
                    for node, call in zip(site.nodes, offers, strict=True):
                        tasks.start_soon(trickle, node)
                        tasks.start_soon(offer, node, call)
                assert statuses.count(200) >= 1
                assert set(statuses) <= {200, 409}
                assert sum([await node.count(client) for node in site.nodes]) == number + 1
                assert len(early) == 4
            for call in offers:
                await call.aclose()

    with fleet(tmp_path, 4, backend, CONNECT="60") as site:
        run(calls, site)


def test_a_drain(backend, tmp_path):
    """New calls go to the other node, live ones are answered for, and their peers are told at the deadline."""

    async def calls(site):
        async with caller() as (client, engine), live_call(site.nodes[0].url, engine, "late") as call:
            owner, (other,) = await owner_of(site, client)
            async with client.stream("GET", f"{other.url}/webrtc/outputs", params={"webrtc_id": "late"}) as outputs:
                owner.send(signal.SIGTERM)
                while (await client.get(f"{owner.url}/readyz")).status_code != 503:
                    await anyio.sleep(0.02)
                for number in range(4):
                    async with live_call(site.nodes[number % 2].url, engine, f"new{number}"):
                        assert await owner.count(client) == 1
                assert (await tell(client, other.url, "late", 1)).status_code == 200
                while "the server is shutting down" not in await call.messages_in.take():
                    pass
                async for _ in outputs.aiter_lines():
                    pass  # it ends
            assert await anyio.to_thread.run_sync(owner.wait) == 0
            assert (await tell(client, other.url, "late", 1)).status_code in {404, 410}

    with fleet(tmp_path, 2, backend, DRAIN="6") as site:
        run(calls, site)


def test_a_rolling_restart_under_load(backend, tmp_path):
    """All four workers are replaced while calls begin and end: none is lost that ends within the deadline."""
    server = Process(tmp_path, "--workers", "4", "--backend", backend, "--drain", "30")

    async def calls():
        over = anyio.Event()
        done = 0

        async def talk(client, engine, number):
            nonlocal done
            turn = 0
            while not over.is_set():
                webrtc_id = f"call{number}.{turn}"
                turn += 1
                async with live_call(server.url, engine, webrtc_id) as call:
                    for word in range(5):
                        said = await tell(client, server.url, webrtc_id, word)
                        assert said.status_code == 200, said.text
                        with anyio.move_on_after(0.3):
                            message = await call.messages_in.take()
                            assert "shutting down" not in message
                done += 1

        # A worker that goes may close a connection on which the next request is under way: so each has one of its own.
        limits = httpx2.Limits(max_keepalive_connections=0)
        async with caller(limits=limits) as (client, engine), anyio.create_task_group() as tasks:
            for number in range(6):
                tasks.start_soon(talk, client, engine, number)
            server.send(signal.SIGHUP)
            while "all workers were replaced" not in server.text():
                await anyio.sleep(0.1)
            over.set()
        return done

    try:
        wait_until(lambda: "with 4 workers" in server.text() or server.process.poll() is not None, server.text)
        assert run(calls) > 6
        assert "Traceback" not in server.text()
    finally:
        server.close()


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"OTHER": "1"}, "serves another stream"),
        ({"SKEW": "3600"}, "the clock"),
        ({"SKEW": "-3600"}, "the clock"),
        ({"PROTOCOL": "1"}, "install the same version of rtcflow"),
        ({"NATS": "nats://127.0.0.1:9"}, "NATS"),
    ],
)
def test_a_node_that_does_not_fit_does_not_start(backend, tmp_path, environment, words):
    """Another stream with the same prefix, a clock that is an hour off, another version, no NATS: one line says so."""
    with fleet(tmp_path, 1, backend) as site:
        node = Process(tmp_path, "--backend", backend, **{"NATS": site.nats.url} | environment)
        try:
            assert node.wait(120) == 1
        finally:
            node.close()
        assert words in node.text()
        assert "Traceback" not in node.text()
        assert answers(site.nodes[0].url)
        if "NATS" not in environment:  # the operator finds it in both logs
            assert words in site.nodes[0].text()


def test_a_slow_node_gets_fewer_calls(backend, tmp_path):
    """Its event loop stands still for half of the time; it still answers for its calls."""

    async def calls(site):
        async with caller() as (client, engine):
            await anyio.sleep(3)  # its reports tell of it
            call = await engine.offer(receive=False, messages=False)
            for number in range(30):
                body = {"sdp": call.offer_sdp, "type": "offer", "webrtc_id": f"call{number}"}
                answer = await client.post(f"{site.nodes[2].url}/webrtc/offer", json=body)
                assert answer.status_code == 200, answer.text
                assert (await tell(client, site.any(), f"call{number}", 1)).status_code == 200
            counts = [await node.count(client) for node in site.nodes]
            assert counts[0] < min(counts[1:]), counts
            await call.aclose()

    with fleet(tmp_path, 3, backend, each=[{"SLOW": "1"}], CONNECT="60") as site:
        run(calls, site)


def test_a_websocket_and_a_telephone_call_are_carried_to_a_node_with_room(backend, tmp_path):
    """The node where they arrive is full. Follow-up requests find them, and their end is noticed at both nodes."""

    async def calls(site):
        front, other = site.nodes
        door = front.url.replace("http", "ws")
        async with caller() as (client, engine):
            async with call_by_websocket(door, websocket_id="here"):
                while await front.count(client) < 1:
                    await anyio.sleep(0.02)
                assert await websocket_call(site, client, "there") == other.pid
                await until(lambda: zero(other))
                async with call_by_telephone(f"{door}/telephone/handler/twilio", "twilio"):
                    while await other.count(client) < 1:
                        await anyio.sleep(0.02)
                    async with call_by_websocket(door, websocket_id="nowhere") as refused:
                        with suppress(anyio.BrokenResourceError):
                            await refused.wait_ended()
                    assert [await node.count(client) for node in site.nodes] == [1, 1]
                await until(lambda: zero(other))
            await until(free, site, client)

            async with call_by_websocket(door, websocket_id="here"):
                while await front.count(client) < 1:
                    await anyio.sleep(0.02)
                async with call_by_websocket(door, websocket_id="lost") as call:
                    while await other.count(client) < 1:
                        await anyio.sleep(0.02)
                    other.process.kill()
                    with pytest.raises(anyio.BrokenResourceError):
                        await call.wait_ended()
                assert (await tell(client, front.url, "here", 1)).status_code == 200

    async def zero(node):
        async with httpx2.AsyncClient() as client:
            return not await node.count(client)

    with fleet(tmp_path, 2, backend, LIMIT="1") as site:
        run(calls, site)


@pytest.mark.parametrize("server", [UVICORN, HYPERCORN, RTCFLOW], ids=["uvicorn", "hypercorn", "rtcflow"])
def test_many_workers_behind_one_port(backend, tmp_path, server):
    """Each request of each call comes to a worker that the system chooses: no answer is 404."""
    if server is UVICORN and backend == "trio":
        pytest.skip("Uvicorn runs on asyncio")
    nats = NatsProcess()
    options = {"uvicorn": [], "hypercorn": ["--worker-class", backend], "rtcflow": ["--backend", backend]}[server[0]]
    node = Process(tmp_path, "--workers", "4", *options, server=server, NATS=nats.url)

    class Site:
        nodes = ()
        front = node.url

        @staticmethod
        def any():
            return node.url

    try:
        wait_until(lambda: answers(node.url), node.text)
        run(anyio.sleep, 4)  # the others
        run(some_of_each_kind, Site, 40)
    finally:
        node.close()
        nats.kill()


def test_all_processes_end_with_their_supervisor(backend, tmp_path):
    """It is killed, and can tell nobody: its workers and its NATS server end."""
    server = Process(tmp_path, "--workers", "2", "--backend", backend)

    def command(pid):
        try:
            return Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return b""

    try:
        wait_until(lambda: "with 2 workers" in server.text() or server.process.poll() is not None, server.text)
        children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
        assert len(children) == 3
        assert [b"nats-server" in command(pid) for pid in children].count(True) == 1
        server.process.kill()
        server.wait()
        wait_until(lambda: not any(command(pid) for pid in children), server.text)
    finally:
        server.close()


@pytest.mark.parametrize("after", [0.0, 0.3, 0.6, 0.9, 1.2, 1.5])
def test_a_signal_while_workers_start(backend, tmp_path, after):
    """Whatever has begun ends, and nothing prints a traceback."""
    server = Process(tmp_path, "--workers", "2", "--backend", backend)
    try:
        wait_until(lambda: Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text(), server.text)
        children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
        time.sleep(after)
        children += Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
        server.send(signal.SIGTERM)
        server.wait()
        assert "Traceback" not in server.text()
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), server.text)
    finally:
        server.close()


@pytest.mark.parametrize("server", [UVICORN, HYPERCORN], ids=["uvicorn", "hypercorn"])
def test_the_lifespan_of_another_server_drains(backend, tmp_path, server):
    """SIGTERM: the live call goes on until the deadline, and its peer is told why it ends."""
    if server is UVICORN and backend == "trio":
        pytest.skip("Uvicorn runs on asyncio")
    nats = NatsProcess()
    options = [] if server is UVICORN else ["--worker-class", backend, "--graceful-timeout", "1"]
    nodes = [Process(tmp_path, *options, server=server, NATS=nats.url, DRAIN="4") for _ in range(2)]

    async def calls():
        async with caller() as (client, engine), live_call(nodes[0].url, engine, "late") as call:
            counts = [await node.count(client) for node in nodes]
            owner, other = (nodes[0], nodes[1]) if counts[0] else (nodes[1], nodes[0])
            owner.send(signal.SIGTERM)
            began = anyio.current_time()
            answered = 0
            while anyio.current_time() - began < 3:
                answered += (await tell(client, other.url, "late", 1)).status_code == 200
                await anyio.sleep(0.1)
            assert answered > 5
            while "the server is shutting down" not in await call.messages_in.take():
                pass
            assert anyio.current_time() - began >= 3.5

    try:
        for node in nodes:
            wait_until(lambda node=node: answers(node.url), node.text)
        run(anyio.sleep, 1)
        run(calls)
    finally:
        for node in nodes:
            node.close()
        nats.kill()
