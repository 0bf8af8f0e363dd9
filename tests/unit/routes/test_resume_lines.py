"""Coming back by WebSocket: what the server says and refuses, and a client whose network goes away."""

from __future__ import annotations

import json
import math
from contextlib import asynccontextmanager

import anyio
import anyio.abc
import numpy as np
import pytest
from far_side import FarSide
from served import served

from rtcflow import Stream
from rtcflow.client.lines import CallerTransport, call_by_websocket, join_line
from rtcflow.ends import EndCause, Timeouts
from rtcflow.exceptions import InvalidOffer, NotAuthorized, NotServing
from rtcflow.frames import AudioFormat
from rtcflow.handlers.base import AsyncStreamHandler
from rtcflow.protocol.lines import CallStarted, MediaFormat
from rtcflow.protocol.resume import prove
from rtcflow.protocol.websocket import StartOptions, WebSocketCodec
from rtcflow.routes.lines import websocket_offer
from rtcflow.testing import virtual_backend

BACKENDS = pytest.mark.parametrize("backend", ["asyncio", "trio"])
QUICK = Timeouts(connect=5, shutdown=0.5, grace=0.1, goodbye=0.5)
START = {"event": "start", "websocket_id": "abc", "codec": "pcm_s16le", "sample_rate": 8000, "binary": True}


class Talker(AsyncStreamHandler):
    """Counts up as it speaks, and notes what it is told. `made` has each copy."""

    made: list[Talker] = []

    def __init__(self):
        super().__init__(output_sample_rate=8000, input_sample_rate=8000)
        self.events = []
        self.heard = 0
        self.count = 0

    def copy(self):
        other = Talker()
        self.made.append(other)
        return other

    async def receive(self, frame):
        self.heard += 1

    async def emit(self):
        self.count += 1
        return 8000, np.full((1, 160), self.count, np.int16)

    async def on_suspended(self):
        self.events.append("suspended")

    async def on_resumed(self):
        self.events.append("resumed")

    async def on_message(self, message):
        self.events.append(message)

    def shutdown(self):
        self.events.append("shutdown")


def run(backend, main, *args):
    name, options = virtual_backend(backend)

    async def limited():
        with anyio.fail_after(200):
            return await main(*args)

    return anyio.run(limited, backend=name, backend_options=options)


@asynccontextmanager
async def running(**options):
    """A stream, and a function that opens a WebSocket to it, with a query."""
    Talker.made.clear()
    stream = Stream(Talker(), timeouts=QUICK, **{"concurrency_limit": 2, "resume": 20, **options})
    sides = []
    async with stream.running(), anyio.create_task_group() as tasks:

        def connect(query=""):
            side = FarSide()
            sides.append(side)
            side.websocket.scope["query_string"] = query.encode()
            side.websocket.scope["path"] = "/websocket/offer"
            tasks.start_soon(websocket_offer, stream.calls, side.websocket)
            return side

        yield stream, connect
        await anyio.sleep(2)  # refusals are on their way
        tasks.cancel_scope.cancel()
    for side in sides:
        side.close()
    assert len(stream.calls) == 0


async def begin(connect):
    """A call that may be resumed: its far side, and the secret."""
    far = connect()
    far.say(json.dumps({**START, "resume": True}))
    await far.until(lambda: far.messages)
    (started,) = far.messages
    assert started["resume"]["seconds"] == 20
    assert len(started["resume"]["secret"]) == 43, "256 bits"
    return far, started["resume"]["secret"]


def come_back(connect, secret, number, call_id="abc"):
    """The far side of a new line, which asks for the call with its `number`th proof."""
    far = connect(f"resume={call_id}")
    far.say(json.dumps({**START, "resume": prove(secret, call_id, number).to_json()}))
    return far


def numbers(far):
    """What was heard: the count in each frame."""
    heard = b"".join(payload for _, payload in far.audio)
    return np.frombuffer(heard, np.int16)[::160].tolist()


@BACKENDS
def test_a_client_comes_back_with_its_proof(backend):
    """The same handler goes on, and speaks on without a gap in what is heard by the two sockets together."""

    async def main():
        async with running() as (stream, connect):
            far, secret = await begin(connect)
            await far.until(lambda: len(far.audio) > 20)
            far.leave(1006)
            (talker,) = Talker.made
            while talker.events != ["suspended"]:
                await anyio.sleep(0.1)
            count = talker.count
            await anyio.sleep(10)
            assert talker.count == count
            again = come_back(connect, secret, 1)
            await again.until(lambda: len(again.audio) > 20)
            (started,) = again.messages
            assert (started["event"], started["websocket_id"]) == ("started", "abc")
            assert "resume" not in started, "the secret is told once"
            again.say(b"\0" * 320)
            again.say('{"type":"x"}')
            await anyio.sleep(1)
            assert talker.events == ["suspended", "resumed", '{"type":"x"}']
            assert talker.heard == 1
            heard = numbers(far) + numbers(again)
            assert heard == list(range(1, len(heard) + 1))
            assert stream.session("abc").statistics().resumed == 1
            again.say('{"event":"stop"}')
            await again.until(lambda: again.closed)
        assert talker.events[-1] == "shutdown"

    run(backend, main)


@BACKENDS
def test_wrong_proofs_are_limited(backend):
    """They count as offers do, and the caller comes back all the same."""

    async def main():
        async with running(offer_rate=0.2) as (stream, connect):
            far, secret = await begin(connect)
            for number in range(1, 5):
                thief = come_back(connect, "guessed", number)
                await thief.until(lambda thief=thief: thief.closed)
            await anyio.sleep(0.1)  # the last one is being counted
            assert stream.refused == {"not_authorized": 2, "too_many_requests": 2}
            far.leave(1006)
            again = come_back(connect, secret, 1)
            await again.until(lambda: again.audio)
            again.say('{"event":"stop"}')
            await again.until(lambda: again.closed)

    run(backend, main)


@BACKENDS
def test_the_id_alone_gives_nothing(backend):
    """A wrong, used or missing proof, and an `authorize` that refuses: 1008 or the like; the call waits on."""

    async def main():
        allowed = True

        def authorize(caller):
            if not allowed:
                raise NotAuthorized("not you")
            return "somebody"

        async with running(authorize=authorize) as (_, connect):
            far, secret = await begin(connect)
            right = prove(secret, "abc", 5)
            for resume, said in (
                (prove("another call's secret", "abc", 1).to_json(), "not_authorized"),
                (prove(secret, "abcd", 1).to_json(), "not_authorized"),
                (prove(secret, "abc", 1, "v=0").to_json(), "not_authorized"),
                (True, "invalid_offer"),
                (None, "invalid_offer"),
            ):
                stranger = connect("resume=abc")
                stranger.say(json.dumps({**START, **({} if resume is None else {"resume": resume})}))
                await stranger.until(lambda: stranger.closed)  # noqa: B023
                assert stranger.messages[0]["meta"]["error"] == said
                assert stranger.closed[0] == 1008
            stranger = connect("resume=abc")
            stranger.say(json.dumps({**START, "resume": {"number": 1, "proof": "no"}}))
            await stranger.until(lambda: stranger.closed)
            assert stranger.closed[0] == 1007
            allowed = False
            stranger = connect("resume=abc")
            await stranger.until(lambda: stranger.denied or stranger.closed)
            allowed = True
            (talker,) = Talker.made
            assert talker.events == [], "the call did not notice"
            again = connect("resume=abc")
            again.say(json.dumps({**START, "resume": right.to_json()}))
            await again.until(lambda: again.messages)
            await far.until(lambda: far.closed)
            thief = connect("resume=abc")
            thief.say(json.dumps({**START, "resume": right.to_json()}))
            await thief.until(lambda: thief.closed)
            assert thief.messages[0]["meta"]["error"] == "not_authorized", "a proof counts once"
            assert talker.events == ["suspended", "resumed"]

    run(backend, main)


@BACKENDS
def test_a_call_that_is_over_is_gone(backend):
    """After `resume` seconds, after a goodbye, or with an id that never was: call_lost."""

    async def main():
        async with running() as (stream, connect):
            far, secret = await begin(connect)
            far.leave(1006)
            await anyio.sleep(19)
            assert len(stream.calls) == 1
            await anyio.sleep(3)
            assert len(stream.calls) == 0
            for call_id in ("abc", "never"):
                again = come_back(connect, secret, 1, call_id)
                await again.until(lambda: again.closed)  # noqa: B023
                assert again.messages[0]["meta"]["error"] == "call_lost"
            far, secret = await begin(connect)
            far.leave(1000)
            await anyio.sleep(1)
            assert len(stream.calls) == 0, "a goodbye is one"

    run(backend, main)


@BACKENDS
def test_of_two_that_come_back_at_once_the_last_goes_on(backend):
    """Both know the secret: a client that tries again. The call has one link afterwards, and one handler."""

    async def main():
        async with running() as (stream, connect):
            far, secret = await begin(connect)
            far.leave(1006)
            await anyio.sleep(1)
            sides = [connect("resume=abc") for _ in range(3)]
            for number, side in enumerate(sides, 1):
                side.say(json.dumps({**START, "resume": prove(secret, "abc", number).to_json()}))
            await anyio.sleep(3)
            open_ones = [side for side in sides if not side.closed]
            (again,) = open_ones
            heard = len(again.audio)
            await again.until(lambda: len(again.audio) > heard + 20)
            assert len(Talker.made) == len(stream.calls) == 1
            assert Talker.made[0].events[:2] == ["suspended", "resumed"]
            assert Talker.made[0].events[-1] == "resumed"
            again.say('{"event":"stop"}')
            await again.until(lambda: again.closed)

    run(backend, main)


@BACKENDS
def test_a_suspended_call_keeps_its_slot(backend):
    """A newcomer is refused meanwhile, and its caller is not, although all slots are taken."""

    async def main():
        async with running(concurrency_limit=1) as (stream, connect):
            far, secret = await begin(connect)
            far.leave(1006)
            await anyio.sleep(1)
            newcomer = connect()
            newcomer.say(json.dumps({**START, "websocket_id": "new"}))
            await newcomer.until(lambda: newcomer.closed or newcomer.denied)
            again = come_back(connect, secret, 1)
            await again.until(lambda: len(again.audio) > 20)
            again.say('{"event":"stop"}')
            await again.until(lambda: again.closed)
            while len(stream.calls):
                await anyio.sleep(0.1)
            newcomer = connect()
            newcomer.say(json.dumps({**START, "websocket_id": "new"}))
            await newcomer.until(lambda: len(newcomer.audio) > 20)

    run(backend, main)


@BACKENDS
def test_a_call_may_be_resumed_while_the_server_drains(backend):
    """It is live, so it goes on until the deadline. Then it ends, with or without its caller."""

    async def main():
        async with running() as (stream, connect), anyio.create_task_group() as tasks:
            far, secret = await begin(connect)
            tasks.start_soon(stream.drain, 10)
            await anyio.sleep(1)
            far.leave(1006)
            await anyio.sleep(1)
            newcomer = connect()
            newcomer.say(json.dumps({**START, "websocket_id": "new"}))
            await newcomer.until(lambda: newcomer.closed or newcomer.denied)
            again = come_back(connect, secret, 1)
            await again.until(lambda: len(again.audio) > 20)
            await anyio.sleep(5)
            assert not again.closed
            await again.until(lambda: again.closed)
            late = come_back(connect, secret, 2)
            await late.until(lambda: late.closed)
            assert late.messages[0]["meta"]["error"] == "call_lost"
            assert Talker.made[0].events == ["suspended", "resumed", "shutdown"]

    run(backend, main)


@BACKENDS
def test_a_call_is_resumed_by_the_kind_of_transport_that_it_began_by(backend):
    """Another kind is refused, and the call waits on."""

    async def main():
        async with running() as (stream, connect):
            far, secret = await begin(connect)
            far.leave(1006)
            await anyio.sleep(1)
            with pytest.raises(InvalidOffer, match="began by websocket"):
                stream.session("abc").check_resume("webrtc", prove(secret, "abc", 1, "v=0"), "v=0")
            again = come_back(connect, secret, 2)
            await again.until(lambda: len(again.audio) > 20)

    run(backend, main)


@BACKENDS
@pytest.mark.parametrize("asks", [False, True])
def test_only_who_asks_is_waited_for_and_only_with_the_option(backend, asks):
    """FastRTC's clients, and streams without `resume`: nothing is told, and the call ends with its WebSocket."""

    async def main():
        async with running(resume=None if asks else 20) as (stream, connect):
            far = connect()
            far.say(json.dumps({**START, **({"resume": True} if asks else {})}))
            await far.until(lambda: far.messages)
            assert "resume" not in far.messages[0]
            session = stream.session("abc")
            far.leave(1006)
            await anyio.sleep(1)
            assert len(stream.calls) == 0
            assert session.end.cause is EndCause.LINK_BROKE
            (talker,) = Talker.made
            assert talker.events == ["shutdown"]
            far = connect()
            far.say(json.dumps({**START, "resume": prove("x", "abc", 1).to_json()}))
            await far.until(lambda: far.closed)
            assert "?resume=ID" in far.messages[0]["meta"]["message"]

    run(backend, main)


@pytest.mark.parametrize("resume", ["30", True, 0, -1, math.inf, math.nan])
def test_bad_values_are_refused_at_construction(resume):
    """Each says what was given, and what to write."""
    with pytest.raises((TypeError, ValueError), match=r"resume=.*; expected"):
        Stream(Talker(), resume=resume)


@BACKENDS
def test_a_caller_can_hang_up_while_the_call_waits(backend):
    """With the token that it was told, and with nothing else; the call ends as by a goodbye, and its slot is free."""

    async def main():
        async with running() as (stream, connect):
            far, secret = await begin(connect)
            stop = far.messages[0]["resume"]["stop"]
            far.leave(1006)
            (talker,) = Talker.made
            while talker.events != ["suspended"]:
                await anyio.sleep(0.1)
            session = stream.session("abc")
            for token in ("", "abc", secret, stop[:-1], stop + "x", "\udc80"):
                with pytest.raises(NotAuthorized, match="nobody but its caller may end a call"):
                    session.hang_up(token)
            assert session.end is None
            session.hang_up(stop)
            assert session.end.cause is EndCause.PEER_LEFT
            await anyio.sleep(1)
            assert len(stream.calls) == 0
            assert talker.events == ["suspended", "shutdown"]

    run(backend, main)


# -- the client


class Cable:
    """A socket of the client's to a FarSide that runs in the same loop; it can be cut, or fall silent."""

    def __init__(self, far):
        self.far, self.taken, self.state = far, 0, "up"
        self.closed = False

    async def send(self, message):
        if self.state == "cut":
            raise ConnectionError("cut")
        if self.state == "up":
            self.far.say(message)

    async def receive(self):
        while True:
            self.check()
            if self.state == "up" and len(self.far.heard) > self.taken:
                self.taken += 1
                return self.far.heard[self.taken - 1][1]
            self.far._news = anyio.Event()
            await self.far._news.wait()

    def check(self):
        if self.state == "cut" or (self.far.closed and len(self.far.heard) == self.taken):
            raise ConnectionError(f"cut {self.far.closed}")

    def change(self, state):
        self.state = state
        self.far._news.set()

    async def close(self):
        self.closed = True


@asynccontextmanager
async def caller(connect, stop=None):
    """A client's call that may come back, and the sockets that it has opened."""
    cables = [Cable(connect())]
    nobody = False

    async def redial():
        if nobody:
            raise ConnectionError("nobody answers")
        cables.append(Cable(connect("resume=abc")))
        return cables[-1]

    def unreachable(value):
        nonlocal nobody
        nobody = value

    codec = WebSocketCodec(
        StartOptions("pcm_s16le", 8000, binary=True, clear=True, marks=True, named=True, resume=True)
    )
    call, carried = CallStarted("abc", "abc", format=None), MediaFormat("pcm_s16le", 8000)
    async with join_line(cables[0], codec, call, carried, redial, stop) as transport:
        transport.start(AudioFormat(8000), AudioFormat(8000))
        yield transport, cables, unreachable


async def listen(transport: CallerTransport, seconds):
    """The counts heard in so many seconds, and the longest silence between two frames."""
    heard, longest, last = [], 0.0, anyio.current_time()
    with anyio.move_on_after(seconds):
        while True:
            frame = await transport.audio_in.take()
            now = anyio.current_time()
            longest, last = max(longest, now - last), now
            heard += frame.samples[0, ::160].tolist()
    return heard, max(longest, anyio.current_time() - last)


@BACKENDS
@pytest.mark.parametrize("how", ["cut", "silent"])
def test_a_client_comes_back_by_itself(backend, how):
    """Its socket fails, or its network swallows everything: within 2 s it goes on over another, messages included."""

    async def main():
        async with running() as (_, connect), caller(connect) as (transport, cables, _):
            transport.audio_out.put(np.full((1, 8000 * 20), 500, np.int16))
            before, _ = await listen(transport, 3)
            (talker,) = Talker.made
            cables[0].change(how)
            transport.send_message_nowait('{"type":"late"}')
            after, silence = await listen(transport, 6)
            assert silence < 2
            assert transport.resumed == 1
            assert talker.events == ["suspended", "resumed", *['{"type":"late"}'] * (how == "cut")]
            assert before[0] == 1
            assert sorted(set(before + after)) == before + after, "nothing is heard twice, and all in order"
            assert len(after) > 200
            heard = talker.heard
            await anyio.sleep(1)
            assert talker.heard >= heard + 45, "the caller is heard, too"

    run(backend, main)


@BACKENDS
def test_a_client_tries_again_until_the_server_has_given_up(backend):
    """Nobody can be reached for 8 s: it comes back then. The next time for 30 s: its transport ends with an error."""

    async def main():
        async with running() as (stream, connect), caller(connect) as (transport, cables, unreachable):
            await listen(transport, 1)
            unreachable(True)
            cables[-1].change("cut")
            cables[0].far.leave(1006)
            await anyio.sleep(8)
            unreachable(False)
            await listen(transport, 4)
            assert transport.resumed == 1
            unreachable(True)
            cables[-1].change("cut")
            cables[-1].far.leave(1006)
            with pytest.raises(anyio.BrokenResourceError):
                await transport.wait_ended()
            await anyio.sleep(3)
            assert len(stream.calls) == 0

    run(backend, main)


@BACKENDS
def test_a_client_that_is_closed_while_it_comes_back_says_so_and_tries_no_more(backend):
    """Nobody answers when it closes its call: it tells the server beside the line, and leaves no attempt behind."""

    async def main():
        told = []

        async def stop(permit):
            told.append(permit.stop)
            stream.session("abc").hang_up(permit.stop)

        async with running() as (stream, connect):
            async with caller(connect, stop) as (transport, cables, unreachable):
                await listen(transport, 1)
                unreachable(True)
                cables[0].change("cut")
                cables[0].far.leave(1006)
                await anyio.sleep(3)
                await transport.aclose()
                assert len(told) == 1
                unreachable(False)
                await anyio.sleep(5)
                assert len(cables) == 1
                assert len(stream.calls) == 0
            assert len(told) == 1

    run(backend, main)


@BACKENDS
def test_a_call_that_has_ended_meanwhile_says_so(backend):
    """The server has closed the call while the client was away: its transport ends, and says why."""

    async def main():
        async with running() as (stream, connect), caller(connect) as (transport, cables, unreachable):
            await listen(transport, 1)
            unreachable(True)
            cables[0].change("cut")
            cables[0].far.leave(1006)
            await anyio.sleep(1)
            stream.close("abc")
            unreachable(False)
            with pytest.raises(anyio.BrokenResourceError) as broken:
                await transport.wait_ended()
            assert "could not be resumed: this call is over" in str(broken.value.__cause__)

    run(backend, main)


@BACKENDS
def test_a_server_that_is_not_ready_is_asked_again(backend, monkeypatch):
    """A cluster whose servers cannot reach one another, for example: that may be over in a moment."""

    async def main():
        asked, real = [], CallerTransport._begin_again

        async def begin_again(transport, *arguments):
            asked.append(anyio.current_time())
            if len(asked) < 3:
                raise NotServing("try again")
            await real(transport, *arguments)

        async with running() as (_, connect), caller(connect) as (transport, cables, _):
            await listen(transport, 1)
            monkeypatch.setattr(CallerTransport, "_begin_again", begin_again)
            cables[0].change("cut")
            cables[0].far.leave(1006)
            while not transport.resumed:
                await anyio.sleep(0.05)
            assert len(asked) == 3

    run(backend, main)


# -- over real sockets


class Relay:
    """A TCP relay before the server, whose connections can be cut or stalled: a network that goes away."""

    def __init__(self, port):
        self.port, self.links, self.stuck = port, [], set()

    async def serve(self, *, task_status):
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
        async with listener:
            task_status.started(listener.extra(anyio.abc.SocketAttribute.local_port))
            await listener.serve(self.carry)

    async def carry(self, client):
        scope = anyio.CancelScope()
        self.links.append(scope)
        with scope:
            async with client, await anyio.connect_tcp("127.0.0.1", self.port) as server:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self.pump, client, server, scope)
                    tasks.start_soon(self.pump, server, client, scope)

    async def pump(self, source, target, scope):
        try:
            while True:
                data = await source.receive()
                if scope in self.stuck:
                    await anyio.sleep_forever()
                await target.send(data)
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            scope.cancel()


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("anyio_backend", "how"), [(("asyncio", {}), "stuck"), (("trio", {}), "cut")], ids=["uvicorn", "hypercorn"]
)
async def test_over_real_sockets(how, anyio_backend_name):
    """`call_by_websocket(resume=True)` on a real server: the connection is cut, or nothing passes any more.

    When the client hangs up while its line is dead, the server hears it beside the line.
    """
    Talker.made.clear()
    stream = Stream(Talker(), timeouts=QUICK, resume=20)
    async with served(stream, anyio_backend_name) as server, anyio.create_task_group() as tasks:
        relay = Relay(server)
        port = await tasks.start(relay.serve)
        with anyio.fail_after(120):
            async with call_by_websocket(
                f"ws://127.0.0.1:{port}", StartOptions("pcm_s16le", 8000), resume=True
            ) as transport:
                transport.start(AudioFormat(8000), AudioFormat(8000))
                before, _ = await listen(transport, 0.5)
                relay.links[0].cancel() if how == "cut" else relay.stuck.add(relay.links[0])
                while transport.resumed == 0:
                    await transport.audio_in.take()
                after, _ = await listen(transport, 0.5)
                (talker,) = Talker.made
                assert talker.events == ["suspended", "resumed"]
                assert before
                assert after
                relay.stuck.update(relay.links)  # nothing of the goodbye gets through, and neither side has noticed
            while len(stream.calls):
                await anyio.sleep(0.01)
            assert talker.events == ["suspended", "resumed", "shutdown"]
        tasks.cancel_scope.cancel()
