"""WebSocket and telephone transports, in virtual time, against a far side that speaks in literal messages."""

from __future__ import annotations

import base64
import contextlib
import json
import threading
from contextlib import asynccontextmanager
from functools import partial

import anyio
import numpy as np
import pytest
from far_side import CALLS, DIGITS, START, STOPS, far_side
from line_pairs import telephone_pair

from rtcflow.connection.connection import Connection, EndCause
from rtcflow.exceptions import NegotiationTimeout, RemoteProtocolError
from rtcflow.frames import AudioFormat, AudioFrame
from rtcflow.handlers.base import AsyncStreamHandler, StreamHandler
from rtcflow.media import g711
from rtcflow.outputs import CloseStream
from rtcflow.transports.line_socket import LineLimits
from rtcflow.transports.telephone import TelephoneConfig, open_telephone_transport
from rtcflow.transports.websocket import open_websocket_transport

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend(virtual_backend):
    """Both backends, in virtual time."""
    return virtual_backend


every_carrier = pytest.mark.parametrize("carrier", list(CALLS))


@asynccontextmanager
async def websocket_line(start=START, **options):
    async with far_side() as far:
        far.say(start)
        async with open_websocket_transport(far.websocket, **options) as transport:
            yield far, transport


@asynccontextmanager
async def telephone_line(carrier, **options):
    async with far_side() as far:
        for message in CALLS[carrier]:
            far.say(message)
        async with open_telephone_transport(far.websocket, **options) as transport:
            yield far, transport


def tone(n, rate=8000, peak=8000):
    return (peak * np.sin(2 * np.pi * 1000 / rate * np.arange(n))).astype(np.int16).reshape(1, -1)


def settle():
    return anyio.sleep(0.001)


# -- formats


async def test_fastrtcs_client_gets_mulaw_at_the_handlers_rates():
    """A start that asks for nothing: mu-law, text, the handler's rates; nothing is answered that it does not know."""
    async with websocket_line() as (far, transport):
        assert transport.start(AudioFormat(48000), AudioFormat(24000)) == (AudioFormat(48000), AudioFormat(24000))
        await transport.wait_connected()
        far.say_audio(bytes([0x80, 0xFF]))
        frame = await transport.audio_in.take()
        assert (frame.sample_rate, frame.samples.tolist()) == (48000, [[32124, 0]])
        transport.audio_out.put(AudioFrame(tone(480, 24000), 24000, 0))
        await far.until(lambda: far.audio)
        assert far.audio[0][1] == g711.encode_mulaw(tone(480, 24000))
        assert far.messages == []


async def test_a_client_that_asks_gets_samples_in_binary_and_is_told_so():
    """Linear samples, 16 kHz, stereo: interleaved little-endian both ways, mono doubled, stereo kept."""
    start = (
        '{"event":"start","websocket_id":"abc","codec":"pcm_s16le","sample_rate":16000,"layout":"stereo","binary":true}'
    )
    async with websocket_line(start) as (far, transport):
        assert transport.start(AudioFormat(48000), AudioFormat(24000)) == (
            AudioFormat(16000, "stereo"),
            AudioFormat(16000, "stereo"),
        )
        far.say(np.array([1, -1, 2, -2], "<i2").tobytes())
        assert (await transport.audio_in.take()).samples.tolist() == [[1, 2], [-1, -2]]
        transport.audio_out.put(AudioFrame(np.full((1, 320), 7, np.int16), 16000, 0))
        await far.until(lambda: far.audio)
        assert far.audio[0][1] == np.full(640, 7, "<i2").tobytes()
        agreed = {"codec": "pcm_s16le", "sample_rate": 16000, "layout": "stereo"}
        assert far.messages == [
            {"event": "started", "websocket_id": "abc", "receive": agreed, "send": agreed, "binary": True}
        ]


async def test_stereo_for_a_mono_client_is_mixed():
    """What a handler says in stereo reaches a mono line as the mean of both channels."""
    async with websocket_line('{"event":"start","codec":"pcm_s16le","sample_rate":8000,"binary":true}') as (
        far,
        transport,
    ):
        transport.start(AudioFormat(8000), AudioFormat(8000))
        transport.audio_out.put(AudioFrame(np.array([160 * [100], 160 * [300]], np.int16), 8000, 0))
        await far.until(lambda: far.audio)
        assert far.audio[0][1] == np.full(160, 200, "<i2").tobytes()


async def test_opus_goes_both_ways():
    """A client's own Opus packets come back as the tone they were, at 48 kHz; garbage closes with 1007."""
    from rtcflow.media.codecs import OpusCoder

    async with websocket_line('{"event":"start","codec":"opus","sample_rate":24000,"binary":true}') as (far, transport):
        assert transport.start(AudioFormat(16000), AudioFormat(16000)) == (AudioFormat(48000), AudioFormat(24000))
        theirs = OpusCoder("mono", 48000)
        for start in range(0, 9600, 960):
            far.say(theirs.encode(tone(9600, 48000)[:, start : start + 960]))
        heard = [(await transport.audio_in.take()).samples for _ in range(10)]
        assert _tone_share(np.concatenate(heard, axis=1)[0, 4800:], 48000) > 0.99
        transport.audio_out.put(AudioFrame(tone(4800, 24000), 24000, 0))
        await far.until(lambda: len(far.audio) == 10)
        back = np.concatenate([theirs.decode(payload) for _, payload in far.audio], axis=1)
        assert _tone_share(back[0, 4800:], 48000) > 0.99
        far.say(b"\xff\xff\xff")
        with pytest.raises(anyio.BrokenResourceError) as caught:
            await transport.wait_ended()
        assert caught.value.__cause__.close_code == 1007


def _tone_share(samples, rate, frequency=1000):
    """The share of the energy that is a tone of `frequency`."""
    return 1 - _residue(samples, rate, frequency)


def _residue(samples, rate, frequency=1000):
    wave = samples.astype(float)
    time = 2 * np.pi * frequency / rate * np.arange(len(wave))
    basis = np.stack([np.sin(time), np.cos(time), np.ones(len(wave))], axis=1)
    fit, *_ = np.linalg.lstsq(basis, wave, rcond=None)
    return float(((wave - basis @ fit) ** 2).sum() / (wave**2).sum())


@every_carrier
async def test_every_carrier_is_recognised_and_its_call_known(carrier):
    """From the first message on: whose call it is, ids, numbers, parameters; audio as the carrier codes it."""
    async with telephone_line(carrier) as (far, transport):
        assert transport.carrier == carrier
        assert transport.phone
        assert {"call_id": "CA1", "caller": "+1415", "k": "v", "carrier": carrier}.items() <= transport.custom.items()
        assert transport.start(AudioFormat(48000), AudioFormat(24000)) == (AudioFormat(8000), AudioFormat(8000))
        payload = g711.encode_mulaw(tone(160))
        if carrier == "vonage":
            far.say(tone(160).astype("<i2").tobytes())
            expected = tone(160)
        else:
            far.say_audio(payload, track="inbound", chunk="1", timestamp="20")
            expected = g711.decode_mulaw(payload).reshape(1, -1)
        assert np.array_equal((await transport.audio_in.take()).samples, expected)
        transport.audio_out.put(AudioFrame(tone(160), 8000, 0))
        await far.until(lambda: far.audio)
        assert far.audio[0][1] == (tone(160).astype("<i2").tobytes() if carrier == "vonage" else payload)


# -- time


async def test_a_client_that_cannot_be_cleared_gets_audio_in_real_time():
    """Frames leave one frame ahead, to the moment, and with each goes the next where it is there already."""
    async with websocket_line() as (far, transport):
        transport.start(AudioFormat(8000), AudioFormat(8000))
        began = anyio.current_time()
        transport.audio_out.put(AudioFrame(tone(1600), 8000, 0))
        await far.until(lambda: far.bytes_heard == 1600)
        assert [len(payload) for _, payload in far.audio] == [480, 320, 320, 320, 160]
        assert [when - began for when, _ in far.audio] == pytest.approx([0, 0.04, 0.08, 0.12, 0.16], abs=1e-6)


async def test_a_handler_in_real_time_has_each_frame_sent_at_once():
    """What is emitted frame by frame waits for nothing: one message each, as it is put."""
    async with websocket_line() as (far, transport):
        transport.start(AudioFormat(8000), AudioFormat(8000))
        began = anyio.current_time()
        for _ in range(20):
            transport.audio_out.put(AudioFrame(tone(160), 8000, 0))
            await anyio.sleep(0.02)
        assert [len(payload) for _, payload in far.audio] == 20 * [160]
        expected = [0.02 * n for n in range(20)]
        assert [when - began for when, _ in far.audio] == pytest.approx(expected, abs=1e-6)


async def test_opus_and_vonage_have_one_frame_in_a_message():
    """A message is one Opus packet, and Vonage takes 20 ms each: nothing is joined there."""
    async with telephone_line("vonage") as (far, transport):
        transport.start(AudioFormat(8000), AudioFormat(8000))
        transport.audio_out.put(AudioFrame(tone(1600), 8000, 0))
        await far.until(lambda: far.bytes_heard == 3200)
        assert {len(payload) for _, payload in far.audio} == {320}
    async with websocket_line('{"event":"start","codec":"opus","sample_rate":48000}') as (far, transport):
        _, sent = transport.start(AudioFormat(48000), AudioFormat(48000))
        transport.audio_out.put(AudioFrame(tone(9600, 48000), sent.sample_rate, 0))
        await far.until(lambda: len(far.audio) == 10)


async def test_a_carrier_gets_audio_ahead_by_a_bounded_lead():
    """The lead leaves at once, the rest in real time: no frame begins more than `ahead` and a frame after it left."""
    async with telephone_line("twilio", ahead=0.1) as (far, transport):
        transport.start(AudioFormat(8000), AudioFormat(8000))
        began = anyio.current_time()
        transport.audio_out.put(AudioFrame(tone(8000), 8000, 0))
        await far.until(lambda: far.bytes_heard == 8000)
        expected, sent = 0.0, 0
        for when, payload in far.audio:
            assert when - began == pytest.approx(expected, abs=1e-6)
            sent += len(payload)
            expected = sent / 8000 - 0.1
            assert expected <= when - began + 0.04 + 1e-6


async def test_telnyx_audio_is_put_in_order():
    """Frames that overtook each other are heard in the order of their chunks."""
    async with telephone_line("telnyx") as (far, transport):
        transport.start(AudioFormat(8000), AudioFormat(8000))
        for chunk in (1, 3, 2, 4):
            far.say_audio(bytes([chunk]), chunk=str(chunk), timestamp=str(chunk * 20))
        heard = [await transport.audio_in.take() for _ in range(4)]
        assert [frame.samples[0, 0] for frame in heard] == g711.decode_mulaw(bytes([1, 2, 3, 4])).tolist()


async def test_a_gap_in_a_carriers_timestamps_is_a_gap_in_media_time():
    """What the carrier lost is missing in `pts`, and not made up."""
    async with telephone_line("twilio") as (far, transport):
        transport.start(AudioFormat(8000), AudioFormat(8000))
        for timestamp in (20, 40, 100):
            far.say_audio(bytes(160), chunk="1", timestamp=str(timestamp))
        assert [(await transport.audio_in.take()).pts for _ in range(3)] == [0, 160, 640]


# -- clear and marks


async def test_clear_tells_the_carrier_and_comes_before_what_is_said_next():
    """A clear drops what waits here, has the carrier drop what it buffered, and new audio follows it."""
    async with telephone_line("twilio") as (far, transport):
        transport.start(AudioFormat(8000), AudioFormat(8000))
        transport.audio_out.put(AudioFrame(np.full((1, 8000), 1000, np.int16), 8000, 0))
        await anyio.sleep(0.21)
        before = len(far.audio)
        assert transport.clear_audio() == pytest.approx(1 - far.bytes_heard / 8000)
        transport.audio_out.put(AudioFrame(np.full((1, 160), -1000, np.int16), 8000, 0))
        await far.until(lambda: len(far.audio) > before)
        later = [json.loads(message) for _, message in far.heard][-2:]
        assert later[0] == {"event": "clear", "streamSid": "MZ1"}
        assert base64.b64decode(later[1]["media"]["payload"]) == g711.encode_mulaw(np.full(160, -1000, np.int16))
        assert len(far.audio) == before + 1


async def test_a_frame_on_its_way_to_a_slow_socket_does_not_leave_after_a_clear():
    """What was put before a clear, and waited for the socket, is dropped; the clear is sent before what follows."""
    start = '{"event":"start","codec":"pcm_s16le","sample_rate":8000,"binary":true,"clear":true}'
    async with websocket_line(start) as (far, transport):
        transport.start(AudioFormat(8000), AudioFormat(8000))
        await far.until(lambda: far.messages)
        far.gate = anyio.Event()
        transport.send_message_nowait('{"type":"log","data":"slow"}')  # holds the socket
        await settle()
        transport.audio_out.put(AudioFrame(np.full((1, 320), 1, np.int16), 8000, 0))
        await anyio.sleep(0.01)  # the first frame was taken from the queue, and waits for the socket
        transport.clear_audio()
        transport.audio_out.put(AudioFrame(np.full((1, 160), 2, np.int16), 8000, 0))
        far.gate.set()
        await far.until(lambda: far.audio)
        await anyio.sleep(1)
        assert [payload for _, payload in far.audio] == [np.full(160, 2, "<i2").tobytes()]
        assert [message.get("event", message.get("type")) for message in far.messages] == ["started", "log", "clear"]
        assert isinstance(far.heard[-1][1], bytes)


async def test_marks_tell_how_much_was_heard():
    """Marks follow the audio they mark; what comes back is heard, what a clear cut off is not, though it comes back."""
    async with telephone_line("twilio") as (far, transport):
        transport.start(AudioFormat(8000), AudioFormat(8000))
        transport.audio_out.put(AudioFrame(tone(4000), 8000, 0))
        await anyio.sleep(1)
        marks = [message["mark"]["name"] for message in far.messages if message["event"] == "mark"]
        events = [json.loads(message)["event"] for _, message in far.heard]
        assert events == ["media"] * 3 + ["mark"] + ["media"] * 5 + ["mark"] + ["media"] * 2 + ["mark"]
        far.say(json.dumps({"event": "mark", "streamSid": "MZ1", "mark": {"name": marks[0]}}))
        await settle()
        details = transport.statistics().details
        assert (details["sent_seconds"], details["heard_seconds"], details["marks_pending"]) == (0.5, 0.22, 2)
        transport.clear_audio()
        for name in marks[1:]:
            far.say(json.dumps({"event": "mark", "streamSid": "MZ1", "mark": {"name": name}}))
        await settle()
        details = transport.statistics().details
        assert details["heard_seconds"] == 0.22
        assert details["cut_seconds"] == pytest.approx(0.28)


# -- messages


async def test_messages_go_both_ways_and_a_ping_is_answered():
    """Data messages as on a data channel, in order; FastRTC's ping has its pong."""
    async with websocket_line() as (far, transport):
        transport.start(AudioFormat(8000), AudioFormat(8000))
        await transport.wait_messages_open()
        far.say('{"type":"input","data":1}')
        far.say('{"event":"ping"}')
        far.say('{"type":"input","data":2}')
        assert [await transport.messages_in.take() for _ in range(2)] == [
            '{"type":"input","data":1}',
            '{"type":"input","data":2}',
        ]
        transport.send_message_nowait('{"type":"log","data":"a"}')
        transport.send_message_nowait('{"type":"log","data":"b"}')
        await far.until(lambda: len(far.messages) == 3)
        assert far.messages == [{"event": "pong"}, {"type": "log", "data": "a"}, {"type": "log", "data": "b"}]


async def test_a_peer_that_does_not_read_is_told_nothing_more():
    """Beyond 1 MiB of waiting messages the sender is told, and memory stays bounded."""
    async with websocket_line() as (far, transport):
        transport.start(AudioFormat(8000), AudioFormat(8000))
        far.gate = anyio.Event()
        with pytest.raises(anyio.WouldBlock):
            for _ in range(40):
                transport.send_message_nowait(json.dumps({"type": "log", "data": 60_000 * "x"}))
        far.gate.set()


async def test_a_peer_that_takes_nothing_more_is_a_broken_link():
    """A peer that is there and does not read: broken after 10 s, the end takes no longer than a goodbye."""
    async with websocket_line() as (far, transport):
        transport.start(AudioFormat(8000), AudioFormat(8000))
        far.gate = anyio.Event()
        began = anyio.current_time()
        transport.audio_out.put(AudioFrame(tone(800), 8000, 0))
        with pytest.raises(anyio.BrokenResourceError) as caught:
            await transport.wait_ended()
        assert anyio.current_time() - began == pytest.approx(10)
        assert "took no data for 10 s" in str(caught.value.__cause__)
    for limit in (10.0, 100.0):
        async with websocket_line(limits=LineLimits(stall=limit)) as (far, transport):
            transport.start(AudioFormat(8000), AudioFormat(8000))
            far.gate = anyio.Event()
            transport.audio_out.put(AudioFrame(tone(800), 8000, 0))
            await settle()
            began = anyio.current_time()
        assert anyio.current_time() - began <= 1.01


async def test_a_peer_that_says_nothing_more_is_a_broken_link():
    """A network that died without a word: a minute for carriers, five for clients, who may ping; None is for ever."""
    for opening, limit in ((partial(telephone_line, "twilio"), 60), (websocket_line, 300)):
        async with opening() as (far, transport):
            transport.start(AudioFormat(8000), AudioFormat(8000))
            await anyio.sleep(limit - 1)
            far.say('{"event":"ping"}' if limit == 300 else DIGITS["twilio"])
            began = anyio.current_time()
            with pytest.raises(anyio.BrokenResourceError) as caught, anyio.fail_after(1000):
                await transport.wait_ended()
            assert anyio.current_time() - began == pytest.approx(limit)
            assert str(caught.value.__cause__) == f"the peer said nothing for {limit} s"
            assert far.closed == (1008, f"the peer said nothing for {limit} s")
    async with websocket_line(limits=LineLimits(idle=None)) as (_, transport):
        transport.start(AudioFormat(8000), AudioFormat(8000))
        with anyio.move_on_after(100_000) as waiting:
            await transport.wait_ended()
        assert waiting.cancelled_caught


VOICE = {
    "telephone": '{"event":"media","media":{"payload":"' + base64.b64encode(160 * b"\x55").decode() + '"}}',
    "websocket": '{"event":"media","media":{"payload":"' + base64.b64encode(480 * b"\x55").decode() + '"}}',
}
OPENINGS = {"telephone": partial(telephone_line, "twilio"), "websocket": websocket_line}


async def talk(far, kind, seconds):
    for _ in range(round(seconds / 0.02)):
        far.say(VOICE[kind])
        await anyio.sleep(0.02)


@pytest.mark.parametrize("kind", OPENINGS)
async def test_a_peer_that_talked_all_the_time_is_dead_when_it_stops(kind):
    """However it died: noticed after 10 s; frozen for 8 s it is kept, again and again."""
    async with OPENINGS[kind]() as (far, transport):
        transport.start(AudioFormat(8000), AudioFormat(8000))
        for _ in range(3):
            await talk(far, kind, 2)
            with anyio.move_on_after(8) as frozen:
                await transport.wait_ended()
            assert frozen.cancelled_caught
        await talk(far, kind, 2)
        began = anyio.current_time()
        with pytest.raises(anyio.BrokenResourceError) as caught, anyio.fail_after(1000):
            await transport.wait_ended()
        assert 9.9 <= anyio.current_time() - began <= 10.1
        assert str(caught.value.__cause__) == "the peer said nothing for 10 s"


@pytest.mark.parametrize(
    ("limits", "seconds", "most"),
    [
        (LineLimits(peer_timeout=None, idle=50), 2, 50),
        (LineLimits(peer_timeout=3), 2, 3),
        (LineLimits(idle=5), 2, 5),
        (LineLimits(idle=None), 2, None),
        (LineLimits(), 0.4, 300),
        (LineLimits(stall=1000), 2, 10),
    ],
    ids=["switched off", "shorter", "idle is shorter", "no limit at all", "one word only", "a long stall"],
)
async def test_how_long_a_peer_may_be_silent_is_a_limit(limits, seconds, most):
    """A device that says a word now and then has `idle`; so has everybody where peer_timeout is None."""
    async with websocket_line(limits=limits) as (far, transport):
        transport.start(AudioFormat(8000), AudioFormat(8000))
        await talk(far, "websocket", seconds)
        began = anyio.current_time()
        with anyio.move_on_after(10_000) as waiting, contextlib.suppress(anyio.BrokenResourceError):
            await transport.wait_ended()
        assert waiting.cancelled_caught == (most is None)
        assert most is None or anyio.current_time() - began == pytest.approx(most, abs=0.1)


async def test_a_telephone_has_no_channel_for_messages():
    """There is nobody who could read them."""
    async with telephone_line("twilio") as (_, transport):
        transport.start(AudioFormat(8000), AudioFormat(8000))
        with pytest.raises(anyio.ClosedResourceError):
            transport.send_message_nowait("hello")
        with anyio.move_on_after(5) as waiting:
            await transport.wait_messages_open()
        assert waiting.cancelled_caught


# -- beginnings and ends


async def open_and_expect(messages, error, opener=open_websocket_transport, **options):
    async with far_side() as far:
        for message in messages:
            far.leave(message) if isinstance(message, int) else far.say(message)
        with pytest.raises(error) as caught:
            async with opener(far.websocket, **options):
                pytest.fail("it was opened")
        return far, caught.value


async def test_a_client_that_says_nothing_is_closed_at_the_setup_deadline():
    """10 s of silence, or of pings: closed with 1008 and the reason."""
    began = anyio.current_time()
    far, error = await open_and_expect(['{"event":"ping"}'], NegotiationTimeout)
    assert anyio.current_time() - began == pytest.approx(10)
    assert error.phase == "start"
    assert far.closed == (1008, "the call was not started within 10 s")


@pytest.mark.parametrize("opener", [open_websocket_transport, open_telephone_transport])
async def test_a_peer_that_leaves_before_the_start_leaves_nothing(opener):
    """A goodbye is the end of the stream, a broken link is a broken resource."""
    await open_and_expect([1001], anyio.EndOfStream, opener)
    await open_and_expect([1006], anyio.BrokenResourceError, opener)


@pytest.mark.parametrize(
    ("opener", "message", "code"),
    [
        (open_websocket_transport, '{"event":"media","media":{"payload":"AAAA"}}', 1002),
        (open_websocket_transport, "hello", 1007),
        (open_websocket_transport, b"\x00\x00", 1002),
        (open_websocket_transport, '{"event":"start","codec":"mp3"}', 1003),
        (open_telephone_transport, b"\x00\x00", 1003),
        (open_telephone_transport, START, 1007),
        (open_telephone_transport, '{"event":"media","media":{"payload":"AAAA"}}', 1002),
    ],
)
async def test_what_is_no_start_is_closed_with_the_right_code(opener, message, code):
    """Media before the start, garbage, formats that cannot be served: code and reason fit."""
    far, error = await open_and_expect([message], RemoteProtocolError, opener)
    assert error.close_code == code
    assert far.closed == (code, str(error)[:123])


BAD = [
    (START, 1002, "started twice"),
    ("nonsense", 1007, "not JSON"),
    ('{"event":"media","media":{"payload":"%%%"}}', 1007, "base64"),
    ('{"event":"weather"}', 1002, "unknown event"),
    (b"\x00", 1003, "binary"),
    ("x" * 300_000, 1009, "300000 bytes"),
    (json.dumps({"type": "input", "data": "x" * 70_000}), 1009, "65536 bytes"),
]


@pytest.mark.parametrize(("message", "code", "hint"), BAD, ids=[hint for *_, hint in BAD])
async def test_bad_messages_end_the_call_with_code_and_reason(message, code, hint):
    """The link counts as broken, the cause says why, the peer is told, and it is counted."""
    async with websocket_line() as (far, transport):
        transport.start(AudioFormat(8000), AudioFormat(8000))
        far.say(message)
        with pytest.raises(anyio.BrokenResourceError) as caught:
            await transport.wait_ended()
        assert caught.value.__cause__.close_code == code
        await far.until(lambda: far.closed)
        assert far.closed[0] == code
        assert hint in far.closed[1]
        assert transport.statistics().details["protocol_errors"] == 1
        with pytest.raises(anyio.BrokenResourceError):
            await transport.audio_in.take()


async def test_a_flood_is_closed_with_1008():
    """10,000 messages at once are more than a burst; audio after a stall of 10 s is not."""
    async with websocket_line() as (far, transport):
        transport.start(AudioFormat(8000), AudioFormat(8000))
        for _ in range(500):
            far.say_audio(bytes(160))
        with anyio.fail_after(60):
            while transport.statistics().audio_in.put < 500:
                await settle()
        assert transport.statistics().audio_in.put == 500
        for _ in range(10_000):
            far.say('{"event":"ping"}')
        with pytest.raises(anyio.BrokenResourceError):
            await transport.wait_ended()
        await far.until(lambda: far.closed)
        assert far.closed == (1008, "too many messages; 500 a second are taken, or as many times 8 KiB")


async def test_a_message_for_each_quantum_of_an_audio_worklet_is_no_flood():
    """128 samples at 48 kHz, 375 messages a second, for a minute."""
    async with websocket_line('{"event":"start","codec":"pcm_s16le","sample_rate":48000,"binary":true}') as (far, line):
        line.start(AudioFormat(48000), AudioFormat(48000))
        for _ in range(6000):
            for _ in range(4):
                far.say(bytes(256))
            await anyio.sleep(4 * 128 / 48000)
        assert line.statistics().details["media_received"] == 24_000
        assert far.closed is None


async def test_a_carriers_new_events_are_counted_and_no_more():
    """A real call goes on; what is no event still ends it."""
    async with telephone_line("twilio") as (far, transport):
        transport.start(AudioFormat(8000), AudioFormat(8000))
        for _ in range(3):
            far.say('{"event":"weather","streamSid":"MZ1"}')
        far.say_audio(bytes(160))
        await transport.audio_in.take()
        assert transport.statistics().details["unknown_events"] == 3
        far.say('{"streamSid":"MZ1"}')
        await far.until(lambda: far.closed)
        assert far.closed[0] == 1002


@pytest.mark.parametrize("end", ["stop", "close"])
async def test_telnyx_audio_that_waits_at_the_end_is_heard(end):
    """The first frame may be the one that comes last; and what waits for a lost one is not lost with it."""
    async with telephone_line("telnyx") as (far, transport):
        transport.start(AudioFormat(8000), AudioFormat(8000))
        for chunk in (2, 1, 4, 5):
            far.say_audio(bytes([chunk]), chunk=str(chunk), timestamp=str(chunk * 20))
        far.say(STOPS["telnyx"]) if end == "stop" else far.leave(1000)
        heard = [(await transport.audio_in.take()).samples[0, 0] for _ in range(4)]
        assert heard == g711.decode_mulaw(bytes([1, 2, 4, 5])).tolist()


async def test_messages_that_nobody_reads_are_bounded():
    """More than 1000 unread messages break the link."""
    limits = LineLimits(burst=5000)
    async with websocket_line(limits=limits) as (far, transport):
        transport.start(AudioFormat(8000), AudioFormat(8000))
        for _ in range(1001):
            far.say('{"type":"x"}')
        await far.until(lambda: far.closed)
        assert far.closed[0] == 1008


HALF = "half \ud83d, whole \U0001f600"


@pytest.mark.parametrize("start", [START, '{"event":"start","websocket_id":"abc","codec":"mulaw"}'])
async def test_half_a_surrogate_pair_is_no_reason_to_hang_up(start):
    """A page that cuts an emoji in two sends a half of it. It becomes U+FFFD on both ways, as browsers send it."""
    async with websocket_line(start) as (far, transport):
        transport.start(AudioFormat(8000), AudioFormat(8000))
        far.say(json.dumps({"event": "message", "data": HALF}))
        text = await transport.messages_in.take()
        assert text == "half \ufffd, whole \U0001f600"
        transport.send_message_nowait(HALF)
        await far.until(lambda: far.heard and "half" in far.heard[-1][1])
        told = far.heard[-1][1]
        assert told in {text, json.dumps({"event": "message", "data": text}, separators=(",", ":"))}
        assert transport.statistics().details["protocol_errors"] == 0


@pytest.mark.parametrize(
    ("make", "odd", "words"),
    [
        (LineLimits, {"rate": 0}, "rate=0"),
        (LineLimits, {"rate": float("nan")}, "rate=nan"),
        (LineLimits, {"setup": None}, "setup=None"),
        (LineLimits, {"stall": "10"}, "stall='10'"),
        (LineLimits, {"idle": -1}, "idle=-1"),
        (LineLimits, {"peer_timeout": True}, "peer_timeout=True"),
        (LineLimits, {"max_message": 1e6}, "max_message=1000000.0; expected a whole number"),
        (LineLimits, {"burst": 0}, "burst=0; expected 1 or more"),
        (TelephoneConfig, {"carriers": "twilio"}, r"write carriers=\('twilio',\)"),
        (TelephoneConfig, {"carriers": (5,)}, "unknown carrier '5'"),
        (TelephoneConfig, {"secrets": "twilio"}, "secrets must be a dict"),
        (TelephoneConfig, {"secrets": {"twilio": b"hush"}}, "secret of twilio is a bytes; expected a text$"),
        (TelephoneConfig, {"ahead": -1}, "ahead=-1"),
        (TelephoneConfig, {"ahead": float("nan")}, "ahead=nan"),
        (TelephoneConfig, {"ahead": "0.1"}, "ahead='0.1'"),
        (TelephoneConfig, {"limits": None}, "limits=None"),
        (TelephoneConfig, {"public_url": 5}, "public_url=5"),
    ],
)
def test_odd_limits_are_refused_at_once(make, odd, words):
    """Otherwise each call would fail, and each in another place."""
    with pytest.raises((TypeError, ValueError), match=words):
        make(**odd)


async def test_a_carrier_cannot_fill_the_log(caplog):
    """Its errors are logged in one line each, cut, and the first ten of a call; all are counted."""
    async with telephone_line("telnyx") as (far, transport):
        transport.start(AudioFormat(8000), AudioFormat(8000))
        for _ in range(100):
            far.say(json.dumps({"event": "error", "payload": {"title": "bad\n2026-01-01 ERROR forged" + 10_000 * "x"}}))
        await settle()
        assert transport.statistics().details["carrier_errors"] == 100
    told = [record.getMessage() for record in caplog.records if "reports an error" in record.getMessage()]
    assert len(told) == 10
    assert all(line.isprintable() and len(line) < 400 for line in told)


async def test_long_messages_leave_other_calls_their_time():
    """A message of 256 KiB takes milliseconds to read. If many wait, other tasks run between any two of them."""
    long = '{"event":"ping","x":[%s0]}' % ("{}," * 80_000)
    async with websocket_line() as (far, transport):
        far.never_waits()  # while messages wait; so do Hypercorn and Uvicorn on asyncio
        transport.start(AudioFormat(8000), AudioFormat(8000))
        for _ in range(10):
            far.say(long)
        seen = []
        while len(seen) < 1000 and transport.statistics().details["messages_received"] < 10:
            seen.append(transport.statistics().details["messages_received"])
            await anyio.lowlevel.checkpoint()
        assert {*range(1, 10)} <= {*seen}


async def test_long_messages_count_for_many():
    """500 messages a second are taken for long; of 256 KiB only 15. The longest audio of real time is far below."""
    for size, interval, is_taken in ((250_000, 0.2, True), (250_000, 0.02, False), (5_000, 0.01, True)):
        async with websocket_line() as (far, transport):
            transport.start(AudioFormat(8000), AudioFormat(8000))
            for _ in range(200):
                far.say('{"event":"ping","x":"%s"}' % (size * "x"))
                await anyio.sleep(interval)
            assert (far.closed is None) is is_taken
            assert is_taken or far.closed[0] == 1008


async def test_goodbyes_and_broken_links_are_told_apart():
    """A stop and a normal close are goodbyes, 1006 is a broken link; a carrier that has no stop hangs up by closing."""
    for leave in (lambda far: far.say('{"event":"stop"}'), lambda far: far.leave(1000), lambda far: far.leave(1005)):
        async with websocket_line() as (far, transport):
            transport.start(AudioFormat(8000), AudioFormat(8000))
            leave(far)
            await transport.wait_ended()
            with pytest.raises(anyio.EndOfStream):
                await transport.audio_in.take()
    for carrier, is_goodbye in {"twilio": False, "telnyx": False, "plivo": True, "vonage": True}.items():
        async with telephone_line(carrier) as (far, transport):
            transport.start(AudioFormat(8000), AudioFormat(8000))
            far.leave(1006)
            if is_goodbye:
                await transport.wait_ended()
            else:
                with pytest.raises(anyio.BrokenResourceError):
                    await transport.wait_ended()


async def test_closing_says_goodbye_once_and_frees_everything():
    """Close frame 1000, queues closed, whoever waits is let go; a second time does nothing."""
    async with websocket_line() as (far, transport):
        transport.start(AudioFormat(8000), AudioFormat(8000))
        transport.send_message_nowait('{"type":"end_stream","data":"bye"}')
        await transport.aclose()
        await transport.aclose()
        assert far.messages == [{"type": "end_stream", "data": "bye"}]
        assert far.closed == (1000, "")
        for call in (
            transport.wait_ended,
            transport.wait_connected,
            transport.audio_in.take,
            transport.messages_in.take,
        ):
            with pytest.raises(anyio.ClosedResourceError):
                await call()
        with pytest.raises(anyio.ClosedResourceError):
            transport.send_message_nowait("x")
        with pytest.raises(anyio.ClosedResourceError):
            transport.audio_out.put(AudioFrame(tone(160), 8000, 0))


async def test_messages_that_are_counted_leave_as_counted():
    """Genesys ends a call at a wrong number. A thread may clear the queue while the loop answers a ping."""
    async with telephone_pair("genesys")() as (transport, _):
        transport.start(AudioFormat(8000), AudioFormat(8000))
        send, other = transport._codec.send, threading.Thread(target=transport.clear_audio)

        def slowly(command):
            message = send(command)
            if other.ident is None:
                other.start()
                other.join(0.1)  # it cannot end before this message is queued
            return message

        transport._codec.send = slowly
        transport.clear_audio()
        other.join()
        waiting = []
        while (message := transport._outbox.take()) is not None:
            waiting.append(json.loads(message)["seq"])
        assert waiting == [1, 2, 3]


async def test_closing_waits_until_the_carrier_has_played_all():
    """The socket is closed when the last mark came back; a carrier that never answers is waited for half a second."""
    for answers in (True, False):
        async with telephone_line("twilio") as (far, transport):
            transport.start(AudioFormat(8000), AudioFormat(8000))
            transport.audio_out.put(AudioFrame(tone(480), 8000, 0))
            await transport.audio_out.drained()
            began = anyio.current_time()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(transport.aclose)
                await far.until(lambda far=far: any(message["event"] == "mark" for message in far.messages))
                assert far.closed is None
                if answers:
                    await anyio.sleep(0.06)
                    for message in far.messages:
                        far.say(json.dumps(message))
            assert far.closed == (1000, "")
            assert anyio.current_time() - began == pytest.approx(0.06 if answers else 0.5, abs=0.05)


# -- with a handler


class Recorded(AsyncStreamHandler):
    """Says what it is told to, and keeps what happened."""

    def __init__(self, say=()):
        super().__init__(input_sample_rate=8000, output_sample_rate=8000)
        self.say = list(say)
        self.events = []

    def copy(self):
        return Recorded(self.say)

    async def start_up(self):
        self.events.append("start_up")

    async def receive(self, frame):
        self.events.append(frame[1].shape)

    async def emit(self):
        if not self.say:
            await anyio.sleep_forever()
        item = self.say.pop(0)
        if isinstance(item, Exception):
            raise item
        return item

    async def on_dtmf(self, digit):
        self.events.append(digit)

    async def shutdown(self):
        self.events.append("shutdown")


class Threaded(StreamHandler):
    """The same in threads."""

    def __init__(self):
        super().__init__(input_sample_rate=8000, output_sample_rate=8000)
        self.events = []

    def copy(self):
        return Threaded()

    def receive(self, frame):
        self.events.append(frame[1].shape)

    def emit(self):
        return None

    def on_dtmf(self, digit):
        self.events.append(digit)

    def shutdown(self):
        self.events.append("shutdown")


@every_carrier
@pytest.mark.parametrize("kind", [Recorded, Threaded])
async def test_digits_reach_the_handler(carrier, kind):
    """`on_dtmf` is called with the digit, sync and async; the handler knows that this is a telephone."""
    handler = kind()
    async with telephone_line(carrier) as (far, transport):
        connection = Connection(transport, handler)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(connection.run)
            far.say(DIGITS[carrier])
            with anyio.fail_after(10):
                while "5" not in handler.events:
                    await anyio.sleep(0.01)
            assert handler.phone_mode
            connection.close("enough")
    assert handler.events.count("shutdown") == 1


ENDS = {
    "stop": EndCause.PEER_LEFT,
    "hang up": EndCause.PEER_LEFT,
    "broken": EndCause.LINK_BROKE,
    "started twice": EndCause.LINK_BROKE,
    "bad base64": EndCause.LINK_BROKE,
    "handler closes": EndCause.HANDLER_CLOSED,
    "handler raises": EndCause.HANDLER_RAISED,
    "time limit": EndCause.TIME_LIMIT,
    "server closes": EndCause.CLOSED,
}


@pytest.mark.parametrize("end", list(ENDS))
@pytest.mark.parametrize("line", ["websocket", "twilio", "telnyx"])
async def test_every_end_has_one_reason_and_one_shutdown(line, end):
    """However a call ends, on either transport: shutdown once, the right cause, the socket closed."""
    say = {"handler closes": [CloseStream("bye")], "handler raises": [RuntimeError("no")]}.get(end, [])
    handler = Recorded(say)
    async with websocket_line() if line == "websocket" else telephone_line(line) as (far, transport):
        connection = Connection(transport, handler, time_limit=3 if end == "time limit" else None)
        async with anyio.create_task_group() as tasks:

            async def run():
                try:
                    await connection.run()
                except RuntimeError as error:
                    assert (end, str(error)) == ("handler raises", "no")

            tasks.start_soon(run)
            await anyio.sleep(0.1)
            match end:
                case "stop":
                    far.say(STOPS.get(line, '{"event":"stop"}'))
                case "hang up":
                    far.leave(1000)
                case "broken":
                    far.leave(1006)
                case "started twice":
                    far.say(START if line == "websocket" else CALLS[line][1])
                case "bad base64":
                    far.say('{"event":"media","media":{"payload":"%"}}')
                case "server closes":
                    connection.close("maintenance")
    assert connection.end.cause is ENDS[end]
    assert handler.events.count("shutdown") == 1
    if end not in {"hang up", "broken"}:
        assert far.closed is not None
        assert far.closed[0] == {"started twice": 1002, "bad base64": 1007}.get(end, 1000)
    if line == "websocket" and end in {"handler closes", "server closes"}:
        assert far.messages[-1]["type"] == "end_stream"


class Echo(AsyncStreamHandler):
    """Says what it hears, and keeps it; at `rate` both ways."""

    def __init__(self, rate):
        super().__init__(input_sample_rate=rate, output_sample_rate=rate)
        self.heard, self._frames, self._has = [], [], anyio.Event()

    def copy(self):
        return Echo(self.input_sample_rate)

    async def receive(self, frame):
        self.heard.append(frame[1][0])
        self._frames.append(frame)
        self._has.set()

    async def emit(self):
        while not self._frames:
            self._has = anyio.Event()
            await self._has.wait()
        return self._frames.pop(0)


# A carrier's call with audio of one kind: what it says to begin, its rate, its codec.
KINDS = {
    "twilio": (CALLS["twilio"], 8000, g711.encode_mulaw, g711.decode_mulaw),
    "telnyx-alaw": (
        [message.replace("PCMU", "PCMA") for message in CALLS["telnyx"]],
        8000,
        g711.encode_alaw,
        g711.decode_alaw,
    ),
    "plivo-l16": (
        [message.replace("x-mulaw", "x-l16").replace("8000", "16000") for message in CALLS["plivo"]],
        16000,
        lambda samples: samples.astype("<i2").tobytes(),
        lambda coded: np.frombuffer(coded, "<i2"),
    ),
    "vonage": (
        CALLS["vonage"],
        8000,
        lambda samples: samples.astype("<i2").tobytes(),
        lambda coded: np.frombuffer(coded, "<i2"),
    ),
}


async def echo_of(kind, sent, handler, chunks=None):
    """What the carrier is sent when `sent` was said: int16, and what its codec makes of `sent` by itself."""
    opening, rate, encode, decode = KINDS[kind]
    sizes = iter(chunks or ())
    async with far_side() as far:
        for message in opening:
            far.say(message)
        async with open_telephone_transport(far.websocket) as transport:
            connection = Connection(transport, handler)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(connection.run)
                at = number = 0
                while at < sent.shape[1]:
                    chunk = sent[:, at : at + next(sizes, rate // 50)]
                    number += 1
                    if kind == "vonage":
                        far.say(encode(chunk))
                    else:
                        far.say_audio(encode(chunk), chunk=str(number), timestamp=str(at * 1000 // rate))
                    at += chunk.shape[1]
                    await anyio.sleep(chunk.shape[1] / rate)
                await anyio.sleep(0.3)
                connection.close()
    return decode(b"".join(payload for _, payload in far.audio))


@pytest.mark.parametrize("kind", ["twilio", "telnyx-alaw"])
async def test_a_tone_through_the_telephone_and_back_is_as_good_as_the_codec(kind):
    """1 kHz, 8 kHz G.711 both ways, a handler at 24 kHz between: SNR within 1 dB of two codings alone."""
    _, rate, encode, decode = KINDS[kind]
    sent = tone(16000, peak=10000)
    heard = (await echo_of(kind, sent, Echo(24000)))[2000:14000]
    # The codec's own noise: two codings of a tone that do not fall on the same samples, as any delay between brings
    # about; on the same samples the second coding would add nothing.
    first = decode(encode(sent))[2000:14000] - sent[0, 2000:14000].astype(float)
    other = (10000 * np.sin(2 * np.pi * np.arange(16000) / 8 + 0.4)).astype(np.int16)
    second = decode(encode(other))[2000:14000] - other[2000:14000].astype(float)
    codec = 10 * np.log10((sent[0, 2000:14000].astype(float) ** 2).mean() / ((first**2).mean() + (second**2).mean()))
    assert -10 * np.log10(_residue(heard, rate)) > codec - 1


@pytest.mark.parametrize("kind", ["plivo-l16", "vonage"])
async def test_linear_samples_come_back_as_good_as_sixteen_bits_are(kind):
    """To the bit at the line's own rate; through a handler at another, no more than roundings are heard."""
    _, rate, *_ = KINDS[kind]
    sent = tone(2 * rate, rate, peak=10000)
    assert np.array_equal(await echo_of(kind, sent, Echo(rate)), sent[0])
    heard = (await echo_of(kind, sent, Echo(24000)))[2000:14000]
    assert -10 * np.log10(_residue(heard, rate)) > 80


@pytest.mark.parametrize("kind", list(KINDS))
async def test_a_carriers_chunks_cannot_be_heard(kind):
    """The same audio in frames of 20 ms, in single samples and in half seconds is the same to the handler."""
    _, rate, *_ = KINDS[kind]
    sent = tone(rate, rate, peak=10000)
    heard = []
    for chunks in ([], [1, 7, 80, 81, 3, 159, 1000] * 20, [rate // 2] * 2):
        handler = Echo(48000)
        await echo_of(kind, sent, handler, chunks)
        heard.append(np.concatenate(handler.heard))
    for other in heard[1:]:
        n = min(len(heard[0]), len(other))
        assert n > 0.95 * 48000
        assert np.array_equal(heard[0][:n], other[:n])


def test_configurations_that_cannot_be_meant_are_refused():
    """Unknown carriers, empty secrets and URLs without a scheme say what to write instead."""
    for wrong in (
        {"secrets": {"acme": "x"}},
        {"carriers": ("acme",)},
        {"secrets": {"twilio": ""}},
        {"public_url": "h"},
        {"public_url": "https://[x"},
        {"sample_rate": 44100},
        {"parameters": {"k": 350 * "v"}},
        {"parameters": {"k": 450 * "v"}, "carriers": ("plivo",)},
        {"parameters": {"event": "v"}},
    ):
        with pytest.raises(ValueError, match=r"known are|leave it out|write scheme|Vonage has|parameters: .* leave"):
            TelephoneConfig(**wrong)
    with pytest.raises(TypeError, match="write '7'"):
        TelephoneConfig(parameters={"k": 7})
    TelephoneConfig(parameters={"k": 350 * "v"}, carriers=("twilio", "telnyx"))
    assert TelephoneConfig().served == ("twilio", "telnyx", "plivo", "vonage")
    assert TelephoneConfig(secrets={"twilio": "x"}).served == ("twilio",)
    assert TelephoneConfig(carriers=()).served == ()


async def test_an_unknown_carrier_is_the_callers_mistake():
    """A name that is no carrier's is refused before anything is accepted."""
    async with far_side() as far:
        with pytest.raises(ValueError, match="known are twilio"):
            async with open_telephone_transport(far.websocket, "acme"):
                pass


async def test_what_the_block_raises_comes_out_as_it_was():
    """The transport's own task group does not wrap it."""
    for opening in (websocket_line, partial(telephone_line, "twilio")):
        with pytest.raises(KeyError, match="mine"):
            async with opening():
                raise KeyError("mine")
