"""The caller's end of a line, in virtual time: what a server does wrong ends the call with a clear reason."""

from __future__ import annotations

from contextlib import suppress

import anyio
import numpy as np
import pytest
from line_pairs import Pipe, linked

from rtcflow.client.lines import DEFAULT_FORMATS, FORMATS, call_by_telephone, join_line
from rtcflow.connection.connection import run_connection
from rtcflow.exceptions import LocalProtocolError, RemoteProtocolError
from rtcflow.frames import AudioFormat, AudioFrame
from rtcflow.handlers.base import AsyncStreamHandler
from rtcflow.outputs import CloseStream
from rtcflow.protocol.lines import CallStarted, MediaFormat
from rtcflow.protocol.telephone import carrier_codec
from rtcflow.protocol.websocket import StartOptions, WebSocketCodec
from rtcflow.transports.memory import memory_pair
from rtcflow.transports.telephone import open_telephone_transport
from rtcflow.transports.websocket import open_websocket_transport

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend(virtual_backend):
    """Both backends, in virtual time."""
    return virtual_backend


CALLS = {
    "unread messages": (1001 * [{"text": '{"type":"log","data":"x"}'}], 1008, "more than 1000 messages"),
    "half a sample": ([{"bytes": b"\x00"}], 1007, "the server's audio"),
    "nonsense": ([{"text": "nonsense"}], 1002, "not JSON"),
}


@pytest.mark.parametrize("what", list(CALLS))
async def test_what_a_server_does_wrong_breaks_the_link(what):
    """The cause says what it was; nothing comes out of the block by itself."""
    messages, _, hint = CALLS[what]
    pipe = Pipe()
    options = StartOptions("pcm_s16le", 16000, binary=True, named=True)
    carried = MediaFormat("pcm_s16le", 16000)
    async with join_line(pipe, WebSocketCodec(options), CallStarted("a", "a", format=None), carried) as call:
        call.start(AudioFormat(16000), AudioFormat(16000))
        for message in messages:
            await pipe.websocket._send({"type": "websocket.send", **message})
        with pytest.raises(anyio.BrokenResourceError) as caught:
            await call.wait_ended()
        assert isinstance(caught.value.__cause__, RemoteProtocolError)
        assert hint in str(caught.value.__cause__)
    pipe.free()


async def test_a_ping_into_a_broken_link_ends_nothing_by_itself():
    """A caller that wanted to come back, at a server that does not wait for callers: nothing comes out of the block."""

    class Broken:
        sent = 0

        async def send(self, message):
            await anyio.lowlevel.checkpoint()
            self.sent += 1
            if self.sent > 1:  # after the beginning of the call
                raise ConnectionError("the server has gone")

        async def receive(self):
            await broken.wait()
            raise ConnectionError("the network failed")

        async def close(self):
            await anyio.lowlevel.checkpoint()

    async def redial():
        raise AssertionError("the server has not said that it waits")

    broken, socket, carried = anyio.Event(), Broken(), MediaFormat("pcm_s16le", 16000)
    codec = WebSocketCodec(StartOptions("pcm_s16le", 16000, binary=True, named=True, resume=True))
    async with join_line(socket, codec, CallStarted("a", "a", format=None), carried, redial) as call:
        call.start(AudioFormat(16000), AudioFormat(16000))
        await anyio.sleep(2)
        assert socket.sent > 1
        broken.set()
        with pytest.raises(anyio.BrokenResourceError) as caught:
            await call.wait_ended()
    assert str(caught.value.__cause__) == "the network failed"


async def test_what_a_carrier_does_not_carry_is_refused():
    """Before anybody is called; the message says what it has."""
    with pytest.raises(ValueError, match="telnyx does not carry pcm_s16le at 16000 Hz; it has mulaw at 8000 Hz, alaw"):
        async with call_by_telephone("ws://127.0.0.1:1", "telnyx", carried=MediaFormat("pcm_s16le", 16000)):
            pass
    assert list(FORMATS) == list(DEFAULT_FORMATS)
    for carrier, formats in FORMATS.items():
        for carried in formats:
            ours, theirs = carrier_codec(carrier), carrier_codec(carrier)
            assert ours.receive(theirs.send_event(CallStarted("1", "1", format=carried))).format == carried


@pytest.mark.parametrize("line", ["websocket", "twilio"])
async def test_a_caller_with_nothing_to_say_shows_that_it_is_there(line):
    """A ping, or a frame of silence as carriers send it, every 3 s; the server takes nobody for dead."""
    if line == "websocket":
        codec, carried = (
            WebSocketCodec(StartOptions("pcm_s16le", 16000, binary=True, named=True)),
            MediaFormat("pcm_s16le", 16000),
        )
    else:
        codec, carried = carrier_codec(line), DEFAULT_FORMATS[line]
    opener = open_websocket_transport if line == "websocket" else open_telephone_transport
    call = CallStarted("a", "a", format=None if line == "websocket" else carried)
    async with linked(opener, codec, call, carried) as (ours, theirs):
        for end in (ours, theirs):
            end.start(carried.audio, carried.audio)
        theirs.audio_out.put(AudioFrame(np.ones((1, 2 * carried.sample_rate), np.int16), carried.sample_rate, 0))
        await anyio.sleep(100)
        figures = ours.statistics()
        assert not ours._link.ended.is_set()
        assert figures.details["media_received"] == pytest.approx(100 if line == "websocket" else 100 + 32, abs=2)
        assert figures.details["messages_received"] == pytest.approx(100 + 32, abs=2)


def pair(carrier):
    call = CallStarted("CA1", "CA1" if carrier == "vonage" else "MZ1", "+1", "+2", {"k": "v"}, DEFAULT_FORMATS[carrier])
    return linked(open_telephone_transport, carrier_codec(carrier), call, DEFAULT_FORMATS[carrier])


@pytest.mark.parametrize("carrier", ["exotel", "genesys"])
async def test_a_call_of_exotel_or_genesys_has_sound_keys_and_an_end(carrier):
    """Both ways; what is cleared is not played; the digits come; who hangs up is told apart from a broken link."""
    async with pair(carrier) as (ours, theirs):
        heard, spoken = ours.start(AudioFormat(24000), AudioFormat(24000))
        theirs.start(heard, spoken)
        assert ours.custom == {
            "k": "v",
            "carrier": carrier,
            "call_id": "CA1",
            "stream_id": "MZ1",
            "caller": "+1",
            "callee": "+2",
        }
        loud = np.full((1, spoken.sample_rate), 1000, np.int16)
        theirs.audio_out.put(AudioFrame(loud, spoken.sample_rate, 0))
        assert abs(int((await ours.audio_in.take()).samples[0, 80]) - 1000) < 40
        ours.audio_out.put(AudioFrame(loud, spoken.sample_rate, 0))
        with anyio.fail_after(120):
            while not (await theirs.audio_in.take()).samples.any():
                pass
        ours.clear_audio()
        theirs.press("12")
        assert [await ours.messages_in.take() for _ in range(2)] == [
            f'{{"type":"dtmf","data":"{key}"}}' for key in "12"
        ]
        assert theirs.clears == 1
        await ours.aclose()
        with anyio.fail_after(120):
            await theirs.wait_ended()
    async with pair(carrier) as (ours, theirs):
        for end in (ours, theirs):
            end.start(heard, spoken)
        await theirs.aclose()
        with anyio.fail_after(120):
            await ours.wait_ended()


class Goodbye(AsyncStreamHandler):
    """Says goodbye for a second, and hangs up."""

    said = False

    async def receive(self, frame): ...

    async def emit(self):
        if self.said:
            return CloseStream()
        self.said = True
        return 8000, np.full((1, 8000), 9000, np.int16)

    def copy(self):
        return Goodbye()


@pytest.mark.parametrize("carrier", list(FORMATS))
async def test_the_last_word_is_heard_before_the_line_is_closed(carrier):
    """Also by a carrier without marks, which does not tell what it has played: audio leaves ahead of its time."""
    agreed = DEFAULT_FORMATS[carrier]
    loud = []
    async with pair(carrier) as (ours, theirs), anyio.create_task_group() as tasks:
        theirs.start(agreed.audio, agreed.audio)
        tasks.start_soon(run_connection, ours, Goodbye())
        loud.append(await theirs.audio_in.take())
        began = anyio.current_time()
        with suppress(anyio.EndOfStream):
            while True:
                loud.append(await theirs.audio_in.take())
        assert anyio.current_time() - began > 0.96
    assert sum(np.count_nonzero(frame.samples > 4000) for frame in loud) / agreed.sample_rate == pytest.approx(
        1, abs=0.01
    )


async def test_a_comma_among_the_keys_is_a_pause_of_a_second():
    """As on a telephone's own keypad; an unknown key is refused before anything is pressed."""
    async with pair("twilio") as (ours, theirs):
        for end in (ours, theirs):
            end.start(AudioFormat(8000), AudioFormat(8000))
        with pytest.raises(ValueError, match="no key 'x'; it has"):
            theirs.press("1x")
        began = anyio.current_time()
        theirs.press(",,1,,2")
        times = []
        for _ in range(2):
            await ours.messages_in.take()
            times.append(anyio.current_time() - began)
        assert times == pytest.approx([2, 4.25], abs=0.05)
        assert not len(ours.messages_in)


class Presser(AsyncStreamHandler):
    """Presses keys as soon as it can."""

    async def start_up(self):
        self.send_dtmf("1#")
        self.pressed.set()

    async def receive(self, frame): ...

    async def emit(self):
        await anyio.sleep_forever()

    def copy(self):
        return Presser()


async def test_a_handler_presses_keys_where_the_carrier_can():
    """Plivo's caller gets them; another carrier's handler is told what to use in place of it, and memory as well."""
    handler = Presser()
    handler.pressed = anyio.Event()
    async with pair("plivo") as (ours, theirs), anyio.create_task_group() as tasks:
        theirs.start(AudioFormat(8000), AudioFormat(8000))
        tasks.start_soon(run_connection, ours, handler)
        await handler.pressed.wait()
        await anyio.sleep(0.1)
        assert theirs.pressed == "1#"
        with pytest.raises(ValueError, match="no key"):
            handler.send_dtmf("x")
        await theirs.aclose()
    for carrier in ("twilio", "telnyx", "vonage", "exotel", "genesys"):
        async with pair(carrier) as (ours, _):
            ours.start(AudioFormat(8000), AudioFormat(8000))
            with pytest.raises(LocalProtocolError, match="use the carrier's own API, with the call id CA1"):
                ours.send_dtmf_nowait("1")
    async with memory_pair() as (ours, _):
        with pytest.raises(LocalProtocolError, match="cannot press keys"):
            ours.send_dtmf_nowait("1")
