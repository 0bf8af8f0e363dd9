"""Who comes in by a WebSocket or a telephone line, in which order, and what is left of who does not: virtual time."""

from __future__ import annotations

import json
import logging
from collections import Counter
from contextlib import asynccontextmanager

import anyio
import httpx2
import numpy as np
import pytest
from far_side import CALLS, START, far_side

import rtcflow
from rtcflow.routes import lines as asgi_lines
from rtcflow.testing.clocks import virtual_backend
from rtcflow.transports.line_socket import LineLimits
from rtcflow.transports.telephone import TelephoneConfig

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module", params=["trio", "asyncio"])
def anyio_backend(request):
    """Both backends, in virtual time."""
    return virtual_backend(request.param)


LINES = {"websocket": [START], **CALLS}
on_every_line = pytest.mark.parametrize("line", list(LINES))
MEDIA = '{"event":"media","media":{"payload":"%s"}}' % (160 * "AAAA")
STOP = '{"event":"stop"}'
SAMPLES = b"\x01\x00" * 160
DENIAL = "websocket.http.response"


class Bot(rtcflow.AsyncStreamHandler):
    """Writes down what is done with its copies; says `say`, or raises it."""

    def __init__(self, log=None, say=None):
        super().__init__(input_sample_rate=8000, output_sample_rate=8000)
        self.log, self.say = [] if log is None else log, say

    def copy(self):
        self.log.append("copy")
        return Bot(self.log, self.say)

    async def receive(self, frame):
        self.log.append("receive")

    async def emit(self):
        if isinstance(self.say, Exception):
            raise self.say
        if self.say is None:
            await anyio.sleep_forever()
        return self.say

    async def shutdown(self):
        self.log.append("shutdown")


def make(handler=None, **options):
    options.setdefault("telephone", TelephoneConfig(unsigned_is_fine=True))
    timeouts = rtcflow.Timeouts(shutdown=1, grace=0.1, goodbye=0.5)
    options.setdefault("concurrency_limit", 1)
    return rtcflow.Stream(handler or Bot(), timeouts=timeouts, **options)


@asynccontextmanager
async def line_to(stream, line, extensions=(), headers=(), ends=True, path=None):
    """A far side that is being served; afterwards the call was ended, and the slot is free."""
    async with stream.running(), far_side(extensions=extensions, headers=headers) as far:
        if line != "websocket" and path != "unnamed":
            far.websocket.scope["path_params"] = {"carrier": line}
        async with anyio.create_task_group() as tasks:
            if line == "websocket":
                tasks.start_soon(asgi_lines.websocket_offer, stream.calls, far.websocket)
            else:
                tasks.start_soon(asgi_lines.telephone_handler, stream.calls, far.websocket)
            yield far
        assert len(stream.calls) == 0
        assert not stream.calls


STORIES = {
    "leaves": (lambda far, line: far.leave(1006), "left"),
    "stops": (lambda far, line: far.say('{"event":"websocket:hangup"}' if line == "vonage" else STOP), "left"),
    "says nothing": (lambda far, line: None, "negotiation_timeout"),
    "says nonsense": (lambda far, line: far.say("nonsense"), "protocol_error"),
    "begins with media": (lambda far, line: far.say(SAMPLES if line == "vonage" else MEDIA), "protocol_error"),
    "starts twice": (lambda far, line: [far.say(LINES[line][-1]) for _ in range(2)], "protocol_error"),
}
CODES = {"stops": 1000, "says nothing": 1008, "says nonsense": 1007, "begins with media": 1002, "starts twice": 1002}


@on_every_line
@pytest.mark.parametrize("story", list(STORIES))
async def test_a_call_that_comes_to_nothing_is_shut_down_once(line, story):
    """Left before the start, stopped, silent, nonsense, media first, two starts: the slot is free, all is counted."""
    stream = make()
    act, why = STORIES[story]
    async with line_to(stream, line) as far:
        act(far, line)
    assert Counter(stream.handler.log) == {"copy": 1, "shutdown": 1}
    assert stream.refused == {why: 1}
    assert far.accepted
    assert (far.closed or (None,))[0] == CODES.get(story)


@on_every_line
async def test_an_unauthorized_caller_costs_neither_a_slot_nor_a_handler(line):
    """The hook is asked before all else; the socket is not accepted."""

    async def authorize(caller):
        stream.handler.log.append("authorize")
        assert len(stream.calls) == 0
        raise rtcflow.NotAuthorized("no", status=401)

    for extensions, denied, closed in (((DENIAL,), 401, None), ((), None, (1008, ""))):
        stream = make(authorize=authorize)
        async with line_to(stream, line, extensions) as far:
            pass
        assert (far.accepted, far.denied, far.closed) == (False, denied, closed)
        assert stream.handler.log == ["authorize"]
        assert stream.refused == {"not_authorized": 1}


@on_every_line
async def test_the_order_is_authorize_slot_handler_transport(line):
    """The socket is accepted last, when there is a slot and a handler for it."""

    class Watched(Bot):
        def copy(self):
            assert not far.accepted
            self.log.append("copy")
            return Bot(self.log)

    async def authorize(caller):
        stream.handler.log.append("authorize")
        return "somebody"

    stream = make(Watched(), authorize=authorize)
    async with line_to(stream, line) as far:
        await anyio.sleep(1)
        assert far.accepted
        assert (len(stream.calls), stream.handler.log) == (1, ["authorize", "copy"])
        far.leave(1000)


async def test_a_full_server_tells_a_client_as_fastrtc_does_and_a_carrier_by_http():
    """JSON and 1013 for the one, 503 for the other; neither of them waits for a start."""
    stream = make()
    async with line_to(stream, "websocket") as first:
        first.say(START)
        await anyio.sleep(0.1)
        async with far_side() as far:
            await asgi_lines.websocket_offer(stream.calls, far.websocket)
            assert far.messages[0]["meta"]["error"] == "concurrency_limit_reached"
            assert far.closed[0] == 1013
        async with far_side(extensions=(DENIAL,)) as far:
            await asgi_lines.telephone_handler(stream.calls, far.websocket)
            assert (far.accepted, far.denied) == (False, 503)
        first.leave(1000)
    assert stream.refused == {"concurrency_limit_reached": 2}
    assert Counter(stream.handler.log) == {"copy": 1, "shutdown": 1}


async def test_an_id_in_use_is_refused_at_the_start_and_its_handler_shut_down():
    """The id is known only then; the call that has it goes on."""
    stream = make(concurrency_limit=2)
    async with line_to(stream, "websocket") as first:
        first.say(START)
        await anyio.sleep(0.1)
        (session,) = stream.calls.values()
        async with far_side() as far:
            far.say(START)
            await asgi_lines.websocket_offer(stream.calls, far.websocket)
            assert (far.closed[0], far.messages[-1]["meta"]["error"]) == (1008, "connection_already_exists")
        assert Counter(stream.handler.log) == {"copy": 2, "shutdown": 1}
        assert (session.end, len(stream.calls)) == (None, 1)
        first.leave(1000)
    assert stream.refused == {"connection_already_exists": 1}


async def test_failures_of_the_application_and_of_nobodys_stream_have_their_codes():
    """A copy() that raises closes with 1011; a stream that does not run with 1013."""

    class Broken(Bot):
        def copy(self):
            raise ZeroDivisionError

    stream = make(Broken())
    async with line_to(stream, "websocket") as far:
        pass
    assert (far.closed[0], far.messages[0]["meta"]["error"]) == (1011, "application_failed")
    async with line_to(stream, "twilio", (DENIAL,)) as far:
        pass
    assert far.denied == 500
    async with far_side() as far:
        await asgi_lines.websocket_offer(make().calls, far.websocket)
        assert (far.closed[0], far.messages[0]["meta"]["error"]) == (1013, "not_serving")


@on_every_line
async def test_a_network_that_died_without_a_word_frees_the_slot(line):
    """The call was started, and then nothing more came, not even a close: shut down, and the next may call."""
    stream = make()
    async with line_to(stream, line) as far:
        for message in LINES[line]:
            far.say(message)
        began = anyio.current_time()
        with anyio.fail_after(1000):
            while far.closed is None:
                await anyio.sleep(1)
    assert anyio.current_time() - began <= (300 if line == "websocket" else 60) + 2
    assert Counter(stream.handler.log) == {"copy": 1, "shutdown": 1}
    assert far.closed[0] == 1008


@on_every_line
async def test_a_handler_that_raises_closes_with_1011(line):
    """The caller is told that it was not its fault, and no more."""
    stream = make(Bot(say=RuntimeError("secret")))
    async with line_to(stream, line) as far:
        for message in LINES[line]:
            far.say(message)
    assert far.closed == (1011, "the handler failed")
    assert stream.refused == {}


@on_every_line
async def test_a_stream_of_video_takes_no_calls_by_lines(line):
    """There is nothing that such a call could carry: refused with the reason, before a handler is made for it."""
    stream = rtcflow.Stream(lambda frame: frame, modality="video", telephone=TelephoneConfig(unsigned_is_fine=True))
    async with line_to(stream, line, (DENIAL,)) as far:
        pass
    assert stream.refused == {"unsupported_media": 1}
    if line == "websocket":
        assert far.closed[0] == 1003
        assert "video only" in far.messages[0]["meta"]["message"]
    else:
        assert (far.accepted, far.denied) == (False, 422)


@on_every_line
@pytest.mark.parametrize("mode", ["send-receive", "send", "receive"])
async def test_the_mode_counts_on_lines(line, mode):
    """As over WebRTC: in "send" the caller hears nothing, in "receive" it is not heard."""
    stream = make(Bot(say=(8000, np.ones(160, np.int16))), mode=mode)
    async with line_to(stream, line) as far:
        for message in LINES[line]:
            far.say(message)
        for _ in range(5):
            far.say(SAMPLES if line == "vonage" else MEDIA)
            await anyio.sleep(0.02)
        assert bool(far.audio) == (mode != "send")
        assert ("receive" in stream.handler.log) == (mode != "receive")
        far.leave(1000)


async def test_a_client_that_only_listens_need_not_say_anything():
    """In mode "receive" silence is what is expected."""
    stream = make(mode="receive")
    async with line_to(stream, "websocket") as far:
        far.say(START)
        await anyio.sleep(10_000)
        assert stream.calls
        far.leave(1000)


async def test_what_clients_may_do_can_be_set():
    """`Stream(websocket=...)`: here for how long they may be silent, and how much they may say."""
    stream = make(websocket=LineLimits(idle=5, max_message=100))
    async with line_to(stream, "websocket") as far:
        far.say(START)
        began = anyio.current_time()
    assert anyio.current_time() - began < 8
    assert far.closed == (1008, "the peer said nothing for 5 s")
    async with line_to(stream, "websocket") as far:
        far.say(START)
        far.say(MEDIA)
    assert far.closed[0] == 1009


@pytest.mark.parametrize("carrier", list(CALLS))
async def test_a_query_that_is_not_ascii_is_a_wrong_signature(carrier):
    """Uvicorn lets such bytes through. No carrier has signed them, so the answer is 403, not a failure."""
    stream, answers = make(telephone=TelephoneConfig(secrets=SECRETS, telnyx_public_key=43 * "A" + "=")), []

    async def receive():
        return {"type": "http.request", "body": b"From=1", "more_body": False}

    async def send(message):
        answers.append(message)

    scope = {"type": "http", "method": "POST", "path": f"/telephone/incoming/{carrier}", "query_string": b"a=\xff\xfe"}
    form = (b"content-type", b"application/x-www-form-urlencoded")
    signed = (b"x-plivo-signature-v3", b"abc"), (b"x-plivo-signature-v3-nonce", b"1"), (b"x-twilio-signature", b"abc")
    async with stream.running():
        await stream.asgi({**scope, "headers": [form, *signed]}, receive, send)
    assert answers[0]["status"] == 403


FORGED = "x\n2026-01-01 ERROR forged\x1b[2J"


@pytest.mark.parametrize("where", ["path", "path of a webhook", "format", "content type"])
async def test_callers_cannot_forge_lines_of_the_log(where, caplog):
    """What a stranger sent is logged with its line breaks and control characters escaped."""
    caplog.set_level(logging.INFO)
    stream = make()
    if where == "path":
        async with line_to(stream, "websocket") as far:
            far.say(START)
            far.leave()
        async with stream.running(), far_side() as far:
            far.websocket.scope |= {"path": f"/telephone/handler/{FORGED}", "path_params": {"carrier": FORGED}}
            await asgi_lines.telephone_handler(stream.calls, far.websocket)
    elif where == "format":
        in_json = json.dumps(FORGED)[1:-1]
        for carrier in ("twilio", "telnyx", "plivo"):
            async with line_to(stream, carrier) as far:
                for message in CALLS[carrier]:
                    far.say(message.replace("audio/x-mulaw", in_json).replace("PCMU", in_json))
    else:
        transport = httpx2.ASGITransport(stream.asgi, client=("192.0.2.1", 1))
        async with stream.running(), httpx2.AsyncClient(transport=transport, base_url="http://site") as client:
            if where == "path of a webhook":
                await client.post("/telephone/incoming/x%0a2026-01-01%20ERROR%20forged%1b[2J")
            else:
                await client.post("/whip", content="", headers=[(b"content-type", b"x\x1b[2J")])
    told = [record.getMessage() for record in caplog.records if record.name.startswith("rtcflow")]
    assert told
    assert all(line.isprintable() for line in told), told


SECRETS = {"twilio": "1", "telnyx": "2", "plivo": "3", "vonage": "4"}


@pytest.mark.parametrize("carrier", list(CALLS))
async def test_a_wrong_signature_is_refused_before_the_handshake(carrier):
    """Where the headers tell, nothing is made for who did not sign; Telnyx may tell its token later."""
    stream = make(telephone=TelephoneConfig(secrets=SECRETS, telnyx_public_key=43 * "A" + "="))
    wrong = {"x-telnyx-streaming-auth-token": "wrong"} if carrier == "telnyx" else {}
    async with line_to(stream, carrier, (DENIAL,), wrong) as far:
        pass
    assert (far.accepted, far.denied) == (False, 403)
    assert stream.handler.log == []
    assert stream.refused == {"wrong_signature": 1}


async def test_telnyx_may_tell_its_token_in_its_first_message():
    """Without the header the message decides: the right token is served, a wrong one is closed and shut down."""
    for token, served in (("2", True), ("x", False)):
        stream = make(telephone=TelephoneConfig(secrets=SECRETS, telnyx_public_key=43 * "A" + "="))
        async with line_to(stream, "telnyx") as far:
            far.say('{"event":"connected","version":"1.0.0","x-telnyx-streaming-auth-token":"' + token + '"}')
            far.say(CALLS["telnyx"][1])
            await anyio.sleep(1)
            assert bool(stream.calls) == served
            assert (far.closed is None) == served
            far.leave(1000)
        assert Counter(stream.handler.log) == {"copy": 1, "shutdown": 1}


async def test_without_the_carriers_name_one_of_the_served_must_have_signed():
    """The headers of a stranger fit none of them: it is not accepted."""
    stream = make(telephone=TelephoneConfig(secrets={"twilio": "1", "plivo": "3"}))
    async with line_to(stream, "twilio", (DENIAL,), path="unnamed") as far:
        pass
    assert (far.accepted, far.denied) == (False, 403)
    assert stream.handler.log == []


async def test_a_carrier_that_is_not_served_is_not_accepted():
    """By its name in the path; and it is counted."""
    stream = make(telephone=TelephoneConfig(secrets={"twilio": "1"}))
    async with line_to(stream, "plivo", (DENIAL,)) as far:
        pass
    assert (far.accepted, far.denied) == (False, 404)
    assert stream.refused == {"carrier_not_served": 1}


@pytest.mark.parametrize("host", ["[x", "[::1", "a b", "[1::2::3]", "h:99999999", "h/p"])
@on_every_line
async def test_an_invalid_host_is_refused(line, host):
    """Nothing is looked for in it, and nothing raised: 400."""
    stream = make(telephone=TelephoneConfig(unsigned_is_fine=True, secrets={line: "x"} if line in CALLS else {}))
    async with line_to(stream, line, (DENIAL,), {"host": host}) as far:
        pass
    assert (far.accepted, far.denied) == (False, 400)
    if line != "websocket":
        config = TelephoneConfig(secrets={line: "x"}, trust_forwarded=True)
        async with line_to(make(telephone=config), line, (DENIAL,), {"x-forwarded-host": host}) as far:
            pass
        assert (far.accepted, far.denied) == (False, 400)
