"""Several nodes of one cluster, over a real NATS: ids, slots, and requests about calls of other nodes."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count

import anyio
import httpx2
import pytest
from far_side import FarSide
from nats_process import NatsProcess

from rtcflow.cluster import Cluster, members, routing
from rtcflow.cluster.ids import make_id, new_key, new_name, read_id
from rtcflow.ends import Timeouts
from rtcflow.exceptions import ClusterError
from rtcflow.frames import AudioFormat
from rtcflow.handlers.base import AsyncStreamHandler
from rtcflow.protocol.resume import prove
from rtcflow.serving.session import CallRequest
from rtcflow.stream import Stream
from rtcflow.transports.webrtc import WebRTCConfig, open_engine

QUICK = Timeouts(connect=5, shutdown=0.5, grace=0.1, goodbye=0.5)
LOCAL = WebRTCConfig(host_addresses=("127.0.0.1",))
SDP = {"Content-Type": "application/sdp"}
FRAGMENT = {"Content-Type": "application/trickle-ice-sdpfrag"}
PREFIXES = count()


@pytest.fixture(scope="module")
def nats():
    server = NatsProcess()
    yield server
    server.kill()


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """A busy machine makes no node silent."""
    monkeypatch.setattr(members, "SILENCE", 60.0)


class Echo(AsyncStreamHandler):
    def copy(self):
        return Echo()

    async def receive(self, frame):
        pass

    async def emit(self):
        await anyio.sleep_forever()


class Site:
    """Some nodes, and a client for each."""

    def __init__(self):
        self.streams = []
        self.clients = []

    def __getitem__(self, number):
        return self.clients[number % len(self.clients)]

    @property
    def calls(self):
        return [len(stream.calls) for stream in self.streams]

    def busy(self):
        """The numbers of the nodes that have a call."""
        return [number for number, calls in enumerate(self.calls) if calls]


@asynccontextmanager
async def nodes(nats, number, *, cluster=None, handler=Echo, **options):
    site = Site()
    prefix = f"test{next(PREFIXES)}"
    with anyio.fail_after(120):
        async with AsyncExitStack() as stack:
            for _ in range(number):
                stream = Stream(
                    handler(),
                    timeouts=QUICK,
                    webrtc=LOCAL,
                    cluster=Cluster(nats.url, prefix=prefix, **(cluster or {})),
                    **options,
                )
                await stack.enter_async_context(stream.running())
                client = httpx2.AsyncClient(transport=httpx2.ASGITransport(stream.asgi), base_url="http://site")
                site.clients.append(await stack.enter_async_context(client))
                site.streams.append(stream)
            for stream in site.streams:  # each has heard of the others
                with anyio.fail_after(120):
                    while len(stream.calls.router._peers.members) < number - 1:
                        await stream.calls.router._peers.wait_news()
            yield site
    assert not any(site.calls)


@asynccontextmanager
async def offering():
    """A WebRTC client: yields its end of a call."""
    async with open_engine(LOCAL) as engine:
        yield await engine.offer(receive=False, messages=False)


@pytest.mark.anyio
async def test_any_node_answers_about_a_whip_session(nats):
    """POST at one node; PATCH and DELETE at another one reach the node that has the call, wherever it is."""
    async with nodes(nats, 3, concurrency_limit=2) as site, offering() as call:
        created = await site[0].post("/whip", content=call.offer_sdp, headers=SDP)
        assert created.status_code == 201, created.text
        (owner,) = site.busy()
        session = created.headers["location"]
        other = site[owner + 1]
        wrong = await other.patch(session, content="", headers=FRAGMENT)
        assert wrong.status_code == 428  # what the owner says to a request without If-Match
        assert (await other.delete(session)).status_code == 200
        assert (await other.delete(session)).status_code == 404
        for stream, client in zip(site.streams, site.clients, strict=True):  # as its own call that is over
            assert (await client.delete(f"/whip/{stream.calls.router.new_id()}")).status_code == 404


@pytest.mark.anyio
async def test_a_call_of_a_node_that_was_not_heard_yet(nats):
    """Nodes that start at the same time hear of one another within a second. Calls may come sooner."""
    async with nodes(nats, 2, concurrency_limit=2) as site, offering() as call:
        created = await site[0].post("/whip", content=call.offer_sdp, headers=SDP)
        (owner,) = site.busy()
        peers = site.streams[1 - owner].calls.router._peers
        peers.members, peers.heard = members.Members(), lambda _: None
        session = created.headers["location"]
        assert (await site[owner + 1].patch(session, content="", headers=FRAGMENT)).status_code == 428
        assert (await site[owner + 1].delete(f"/whip/{make_id(new_name(), new_key())}")).status_code == 404
        assert (await site[owner + 1].delete(session)).status_code == 200


async def offer_json(client, call, webrtc_id):
    body = {"sdp": call.offer_sdp, "type": "offer", "webrtc_id": webrtc_id}
    return await client.post("/webrtc/offer", json=body)


@pytest.mark.anyio
async def test_any_node_answers_about_an_id_that_the_caller_chose(nats):
    """Candidates, arguments and a second offer reach the node of the call; the end is known everywhere."""
    async with nodes(nats, 3, concurrency_limit=2) as site, offering() as call:
        assert (await offer_json(site[0], call, "mine")).status_code == 200
        (owner,) = site.busy()
        end = {"type": "ice-candidate", "webrtc_id": "mine", "candidate": None}
        for client in site.clients:
            assert (await client.post("/webrtc/offer", json=end)).json() == {"status": "success"}
            said = await client.post("/webrtc/input", json={"webrtc_id": "mine", "args": ["hello"]})
            assert said.status_code == 200, said.text
        assert site.streams[owner].calls["mine"].handler.latest_args[-1] == "hello"
        again = await offer_json(site[owner + 1], call, "mine")
        assert again.status_code in {200, 409}, again.text  # the owner's answer, whatever it is to this offer
        assert site.calls.count(0) == 2, "a second call was made of it"
        site.streams[owner].close("mine")
        while site.busy():
            await anyio.sleep(0.01)
        late = await site[owner + 1].post("/webrtc/input", json={"webrtc_id": "mine", "args": [1]})
        assert late.status_code == 404


@pytest.mark.anyio
async def test_a_reader_of_outputs_at_another_node_that_leaves_is_forgotten(nats, caplog):
    """The owner of the call notices at once, and nothing has failed."""
    async with nodes(nats, 2) as site, offering() as call:
        assert (await offer_json(site[0], call, "mine")).status_code == 200
        (owner,) = site.busy()
        calls = site.streams[owner].calls
        events = calls.events(calls["mine"])
        begun, left = anyio.Event(), anyio.Event()
        requests = [{"type": "http.request", "body": b"", "more_body": False}]

        async def receive():
            if requests:
                return requests.pop()
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(event):
            if event.get("body"):
                begun.set()

        scope = {
            "type": "http", "method": "GET", "path": "/webrtc/outputs", "query_string": b"webrtc_id=mine",
            "headers": [], "asgi": {"spec_version": "2.3"}, "root_path": "", "scheme": "http", "server": ("site", 80),
        }  # fmt: skip
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(site.streams[1 - owner].asgi, scope, receive, send)
            await begun.wait()
            assert events.readers == 1
            left.set()
        with anyio.fail_after(10):  # the next keep-alive comes after 15 s
            while events.readers:
                await anyio.sleep(0.01)
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.slow
@pytest.mark.anyio
async def test_an_early_candidate_waits_for_its_offer(nats, monkeypatch):
    """A candidate that is faster than its offer finds the call; one without an offer gets 404 in the end."""
    monkeypatch.setattr(routing, "EARLY", 30.0)  # a busy machine may need more than a second for the offer
    async with nodes(nats, 2, concurrency_limit=2) as site, offering() as call:
        end = {"type": "ice-candidate", "webrtc_id": "early", "candidate": None}
        found = []

        async def trickle(client):
            found.append((await client.post("/webrtc/offer", json=end)).status_code)

        async with anyio.create_task_group() as tasks:
            for client in site.clients:
                tasks.start_soon(trickle, client)
            await anyio.wait_all_tasks_blocked()
            assert (await offer_json(site[0], call, "early")).status_code == 200
        assert found == [200, 200]
        monkeypatch.setattr(routing, "EARLY", 0.1)
        never = await site[0].post("/webrtc/offer", json=end | {"webrtc_id": "never"})
        assert never.status_code == 404


@pytest.mark.anyio
async def test_an_early_candidate_at_the_only_node_waits_for_nothing_else(nats, monkeypatch):
    """No other node's report wakes it."""
    monkeypatch.setattr(routing, "EARLY", 1000.0)
    async with nodes(nats, 1, concurrency_limit=2) as site, offering() as call, anyio.create_task_group() as tasks:
        end = {"type": "ice-candidate", "webrtc_id": "early", "candidate": None}
        waits = anyio.Event()
        announced = site.streams[0].calls.router._routing._announced

        async def noted(name):
            waits.set()
            return await announced(name)

        site.streams[0].calls.router._routing._announced = noted

        async def offer():
            await waits.wait()
            assert (await offer_json(site[0], call, "early")).status_code == 200

        tasks.start_soon(offer)
        assert (await site[0].post("/webrtc/offer", json=end)).status_code == 200


@pytest.mark.anyio
@pytest.mark.parametrize("front", range(2))
async def test_a_candidate_while_the_cluster_is_asked_for_the_id(nats, front):
    """Requests about the id come to the node from the moment in which it asks for it."""
    async with nodes(nats, 2, concurrency_limit=2) as site, offering() as call:
        calls = site.streams[0].calls
        asked, arrived, go_on = anyio.Event(), anyio.Event(), anyio.Event()
        claim, endpoint = calls.router.claim, calls.endpoints["/webrtc/offer"]

        async def slow(webrtc_id):
            await claim(webrtc_id)
            asked.set()
            await go_on.wait()

        async def noted(*request):
            if asked.is_set():
                arrived.set()
            await endpoint(*request)

        calls.router.claim = slow
        calls.endpoints["/webrtc/offer"] = noted
        answers = []

        async def trickle():
            end = {"type": "ice-candidate", "webrtc_id": "early", "candidate": None}
            answers.append((await site[front].post("/webrtc/offer", json=end)).status_code)

        async def offer():
            answers.append((await offer_json(site[0], call, "early")).status_code)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(offer)
            await asked.wait()
            tasks.start_soon(trickle)
            if front:
                await arrived.wait()
            await anyio.wait_all_tasks_blocked()
            go_on.set()
        assert answers == [200, 200]


@pytest.mark.anyio
async def test_a_node_that_is_stopped_while_it_joins_leaves(nats):
    """Others have heard of it: it would be missed, and told as silent."""
    async with nodes(nats, 1) as site:
        router = site.streams[0].calls.router

        def no_answer():
            raise ValueError

        router._holdings.known_ids = no_answer
        joining = Stream(Echo(), webrtc=LOCAL, cluster=Cluster(nats.url, prefix=router._prefix))

        async def join():
            async with joining.running():
                raise AssertionError("nobody has answered")

        with anyio.fail_after(120):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(join)
                while not len(router._peers.members):
                    await router._peers.wait_news()
                tasks.cancel_scope.cancel()
            while len(router._peers.members):
                await router._peers.wait_news()


@pytest.mark.anyio
async def test_forged_ids_are_not_routed(nats):
    """An id with the name of another node, but not signed by it, is not sent to that node."""
    async with nodes(nats, 2) as site:
        one, two = (stream.calls.router for stream in site.streams)
        true_id = one.new_id()
        routed, forward = [], two._carrier.forward

        async def noted(subject, node, request):
            routed.append(node)
            return await forward(subject, node, request)

        two._carrier.forward = noted
        assert (await site[1].delete(f"/whip/{true_id}")).status_code == 404  # signed, but no such call
        assert routed == [one.name]
        for forged in (make_id(one.name, new_key()), true_id[:-1] + ("A" if true_id[-1] != "A" else "B")):
            assert read_id(forged).node == one.name
            assert (await site[1].delete(f"/whip/{forged}")).status_code == 404
        assert len(routed) == 1


async def _hold(site, number, webrtc_ids, outcomes):
    """Admit calls at nodes in turn, all at once, hold them until all have an outcome, and count the outcomes."""
    done = anyio.Event()
    waiting = number

    async def one(stream, webrtc_id):
        nonlocal waiting
        try:
            async with stream.calls.admit(CallRequest(), "memory", webrtc_id):
                outcomes.append("admitted")
                waiting -= 1
                if not waiting:
                    done.set()
                await done.wait()
        except Exception as error:
            outcomes.append(type(error).__name__)
            waiting -= 1
            if not waiting:
                done.set()

    async with anyio.create_task_group() as tasks:
        for k in range(number):
            tasks.start_soon(one, site.streams[k % len(site.streams)], webrtc_ids(k))


@pytest.mark.anyio
async def test_the_limit_of_the_cluster_is_exact(nats):
    """30 calls at one moment for 10 places: 10 are taken, 20 are refused; the places are free again afterwards."""
    async with nodes(nats, 3, cluster={"concurrency_limit": 10}, concurrency_limit=None) as site:
        for _ in range(2):
            outcomes = []
            await _hold(site, 30, lambda k: f"call{k}", outcomes)
            assert sorted(outcomes) == ["TooManyConnections"] * 20 + ["admitted"] * 10


@pytest.mark.anyio
async def test_one_id_at_several_nodes_in_the_same_moment(nats):
    """Exactly one call has it."""
    async with nodes(nats, 4, concurrency_limit=None) as site:
        for _ in range(3):
            outcomes = []
            await _hold(site, 8, lambda _: "same", outcomes)
            assert sorted(outcomes) == ["ConnectionExists"] * 7 + ["admitted"]


@pytest.mark.anyio
async def test_offers_go_where_there_is_room(nats):
    """Six places on three nodes, eight offers at one node: six calls, and two times 503 with Retry-After."""
    async with nodes(nats, 3, concurrency_limit=2) as site, open_engine(LOCAL) as engine:
        calls = [await engine.offer(receive=False, messages=False) for _ in range(8)]
        answers = []

        async def offer(call):
            answers.append(await site[0].post("/whip", content=call.offer_sdp, headers=SDP))

        async with anyio.create_task_group() as tasks:
            for call in calls:
                tasks.start_soon(offer, call)
        assert sorted(answer.status_code for answer in answers) == [201] * 6 + [503] * 2
        assert site.calls == [2, 2, 2]
        assert all("retry-after" in answer.headers for answer in answers if answer.status_code == 503)


@pytest.mark.anyio
async def test_a_dead_owner_is_told_as_gone(nats):
    """Requests about a call of a node that has died get 410 at once, for both kinds of ids."""
    async with nodes(nats, 2, concurrency_limit=2) as site:
        stream, router = site.streams[0], site.streams[0].calls.router
        async with stream.calls.admit(CallRequest(), "memory", "chosen"):
            own = router.new_id()
            while not site.streams[1].calls.router._holdings._hints:  # word that the id was taken is on its way
                await site.streams[1].calls.router._peers.wait_news()
            await router._link._thread.complete(router._link._disconnect)  # as a killed process would
            said = await site[1].post("/webrtc/input", json={"webrtc_id": "chosen", "args": [1]})
            assert (said.status_code, said.json()["meta"]["error"]) == (410, "call_lost")
            asked = await site[1].options("/webrtc/outputs?webrtc_id=chosen")
            assert (asked.status_code, asked.headers["allow"]) == (200, "GET, OPTIONS")
            with anyio.fail_after(120):
                while True:
                    gone = await site[1].delete(f"/whip/{own}")
                    assert gone.status_code == 410, gone.text
                    if router.name not in site.streams[1].calls.router._peers.members:
                        break  # it gets no new calls. Its last report may have come only now, and made it one again


@pytest.mark.anyio
async def test_a_call_that_has_ended_is_not_told_as_lost(nats):
    """Its id was chosen by the caller, and its node left in peace: 404 as without a cluster."""
    async with nodes(nats, 2, concurrency_limit=2) as site:
        router = site.streams[0].calls.router
        known = site.streams[1].calls.router._holdings
        with anyio.fail_after(120):
            async with site.streams[0].calls.admit(CallRequest(), "memory", "chosen"):
                while not known._hints:  # otherwise both messages may come later, and the second is lost below
                    await anyio.sleep(0.01)
            while known._hints:
                await anyio.sleep(0.01)
        await router._link._thread.complete(router._link._disconnect)
        said = await site[1].post("/webrtc/input", json={"webrtc_id": "chosen", "args": [1]})
        assert said.status_code == 404


@pytest.mark.anyio
async def test_a_new_node_knows_of_those_that_died_before(nats):
    """A caller of a process that has died asks its successor: 410, not 404, for both kinds of ids."""
    prefix = f"test{next(PREFIXES)}"
    cluster = Cluster(nats.url, prefix=prefix)
    survivor = Stream(Echo(), webrtc=LOCAL, timeouts=QUICK, cluster=cluster)
    async with survivor.running():
        dead = Stream(Echo(), webrtc=LOCAL, timeouts=QUICK, cluster=cluster)
        async with dead.running(), dead.calls.admit(CallRequest(), "memory", "chosen"):
            lost, link = dead.calls.router.new_id(), dead.calls.router._link
            while not survivor.calls.router._holdings._hints:
                await survivor.calls.router._peers.wait_news()
            await link._thread.complete(link._disconnect)  # as a killed process would
        successor = Stream(Echo(), webrtc=LOCAL, timeouts=QUICK, cluster=cluster)
        async with (
            successor.running(),
            httpx2.AsyncClient(transport=httpx2.ASGITransport(successor.asgi), base_url="http://site") as client,
        ):
            assert (await client.delete(f"/whip/{lost}")).status_code == 410
            said = await client.post("/webrtc/input", json={"webrtc_id": "chosen", "args": [1]})
            assert (said.status_code, said.json()["meta"]["error"]) == (410, "call_lost")


@pytest.mark.anyio
async def test_a_restart_of_nats_disturbs_no_call(nats):
    """A live call stays; while NATS is away new ones are served where they come; afterwards all is as before."""
    async with nodes(nats, 2, concurrency_limit=3) as site:
        one, two = (stream.calls for stream in site.streams)
        async with one.admit(CallRequest(), "memory", "live"):
            while not site.streams[1].calls.router._holdings._hints:
                await site.streams[1].calls.router._peers.wait_news()
            nats.kill()
            while two.router._link.is_up or one.router._link.is_up:
                await anyio.sleep(0.01)
            asked = await site[1].post("/webrtc/input", json={"webrtc_id": "live", "args": [1]})
            assert asked.status_code == 503
            assert "retry-after" in asked.headers
            assert (await site[0].post("/webrtc/input", json={"webrtc_id": "live", "args": [1]})).status_code == 200
            async with two.admit(CallRequest(), "memory", "meanwhile"):
                pass
            async with offering() as call:
                assert (await offer_json(site[1], call, "new")).status_code == 200, "a new call with an id of its own"
                assert (await offer_json(site[1], call, "live")).status_code == 503, "it lives elsewhere"
            site.streams[1].close("new")
            nats.start()
            await two.router._link.wait_up()
            again = await site[1].post("/webrtc/input", json={"webrtc_id": "live", "args": [2]})
            assert again.status_code == 200, again.text
            assert one["live"].handler.latest_args[-1] == 2


# -- what is refused at the start


async def _fails_to_start(expected, cluster, handler=Echo, **options):
    stream = Stream(handler(), cluster=cluster, **options)
    with pytest.raises(ClusterError, match=expected):
        async with stream.running():
            pytest.fail("it started")
    assert not stream.is_running


@pytest.mark.anyio
async def test_without_nats_the_stream_does_not_start():
    """The error names the server and the reason, and not the password."""
    cluster = Cluster("nats://me:SECRET@127.0.0.1:9", connect_timeout=0.3)
    await _fails_to_start(r"no connection to NATS at nats://127\.0\.0\.1:9 .*Connect", cluster)
    with pytest.raises(ValueError, match="'http://host' is not the URL of a NATS server"):
        Cluster("http://SECRET@host")


@pytest.mark.slow
@pytest.mark.anyio
async def test_wrong_credentials_are_named():
    server = NatsProcess("--auth", "right")
    try:
        wrong = Cluster(server.url, token="wrong", connect_timeout=1)
        await _fails_to_start("(?i)authorization", wrong)
        async with Stream(Echo(), cluster=Cluster(server.url, token="right")).running():
            pass
    finally:
        server.kill()


class Other(Echo):
    def copy(self):
        return Other()


@pytest.mark.anyio
async def test_another_stream_with_the_same_prefix_is_refused(nats):
    cluster = Cluster(nats.url, prefix="shared")
    async with Stream(Echo(), cluster=cluster).running():
        await _fails_to_start("another stream.*prefix", cluster, Other)
        await _fails_to_start("another stream.*prefix", cluster, Echo, mode="send")


@pytest.mark.anyio
async def test_clocks_that_differ_by_an_hour_are_refused(nats, monkeypatch):
    """A node whose clock is wrong would refuse carriers' signatures."""
    cluster = Cluster(nats.url, prefix="clocks")
    async with Stream(Echo(), cluster=cluster).running():
        from rtcflow.cluster import node

        monkeypatch.setitem(node.Node.__init__.__kwdefaults__, "clock", lambda: 1e9)
        await _fails_to_start("clock", cluster)


ONCE = pytest.mark.parametrize("anyio_backend", [pytest.param(("asyncio", {}), id="asyncio")])


@pytest.mark.anyio
@ONCE
async def test_a_call_is_resumed_through_any_node_by_webrtc(nats):
    """The id leads to the node that has the call; a wrong proof is refused there, and an unknown call is gone.

    The caller hangs up through any node, too.
    """
    async with nodes(nats, 2, concurrency_limit=2, resume=20) as site, open_engine(LOCAL) as engine:
        call, again = [await engine.offer(messages=False) for _ in range(2)]
        body = {"type": "offer", "webrtc_id": "abc"}
        begun = (await site[0].post("/webrtc/offer", json={**body, "sdp": call.offer_sdp, "resume": True})).json()
        await call.accept_answer(begun["sdp"])
        call.start(AudioFormat(48000), AudioFormat(48000))
        await call.wait_connected()
        (home,) = site.busy()
        session = site.streams[home].session("abc")
        await session.connection.transport.wait_connected()
        while session.connection.statistics().setup is None:
            await anyio.sleep(0.01)
        secret, sdp = begun["resume"]["secret"], again.offer_sdp
        for number, key, status in ((1, "guessed", 403), (2, secret, 200)):
            proof = prove(key, "abc", number, sdp).to_json()
            answer = await site[home + 1].post("/webrtc/offer", json={**body, "sdp": sdp, "resume": proof})
            assert answer.status_code == status, answer.text
        await again.accept_answer(answer.json()["sdp"])
        again.start(AudioFormat(48000), AudioFormat(48000))
        await again.wait_connected()
        while session.statistics().resumed == 0:
            await anyio.sleep(0.01)
        assert site.busy() == [home]
        unknown = {"type": "offer", "webrtc_id": "never", "sdp": sdp}
        proof = prove(secret, "never", 3, sdp).to_json()
        assert (await site[0].post("/webrtc/offer", json={**unknown, "resume": proof})).status_code == 410
        stop = {"type": "stop", "webrtc_id": "abc"}
        for token, status in ((secret, 403), (begun["resume"]["stop"], 200)):
            answer = await site[home + 1].post("/webrtc/offer", json={**stop, "token": token})
            assert answer.status_code == status, answer.text
        while any(site.calls):
            await anyio.sleep(0.01)
        for one in (call, again):
            await one.aclose()


@pytest.mark.anyio
@ONCE
async def test_a_call_is_resumed_through_any_node_by_websocket(nats):
    """The id in the URL leads to the node that has the call, also if that node drains and is full."""
    async with nodes(nats, 2, concurrency_limit=1, resume=20) as site, anyio.create_task_group() as tasks:

        def connect(number, query=b""):
            far = FarSide()
            scope = {**far.websocket.scope, "path": "/websocket/offer", "raw_path": b"/websocket/offer"}
            scope |= {
                "query_string": query,
                "scheme": "ws",
                "server": ("site", 80),
                "root_path": "",
                "subprotocols": [],
            }
            scope["headers"] = [(b"host", b"site")]
            tasks.start_soon(site.streams[number % 2].asgi, scope, far._said.receive, far._take)
            return far

        start = {"event": "start", "websocket_id": "abc", "codec": "pcm_s16le", "sample_rate": 8000}
        far = connect(0)
        far.say(json.dumps({**start, "resume": True}))
        await far.until(lambda: far.messages)
        secret = far.messages[0]["resume"]["secret"]
        (home,) = site.busy()
        session = site.streams[home].session("abc")
        far.leave(1006)
        tasks.start_soon(site.streams[home].drain, 30)
        await anyio.sleep(0.2)
        again = connect(home + 1, b"resume=abc")
        again.say(json.dumps({**start, "resume": prove(secret, "abc", 1).to_json()}))
        await again.until(lambda: again.messages)
        assert again.messages[0]["event"] == "started"
        while session.statistics().resumed == 0:
            await anyio.sleep(0.01)
        assert site.busy() == [home]
        again.say('{"event":"stop"}')
        while any(site.calls):
            await anyio.sleep(0.01)
        await again.until(lambda: again.closed)
        tasks.cancel_scope.cancel()
    far.close()
    again.close()
