"""The caller's end of a line, in virtual time: what a server does wrong ends the call with a clear reason."""

from __future__ import annotations

import anyio
import numpy as np
import pytest
from line_pairs import Pipe, linked

from rtcflow.client.lines import DEFAULT_FORMATS, FORMATS, call_by_telephone, join_line
from rtcflow.exceptions import RemoteProtocolError
from rtcflow.frames import AudioFormat, AudioFrame
from rtcflow.protocol.lines import CallStarted, MediaFormat
from rtcflow.protocol.telephone import carrier_codec
from rtcflow.protocol.websocket import WebSocketCodec, Wish
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
    wish = Wish("pcm_s16le", 16000, binary=True, named=True)
    carried = MediaFormat("pcm_s16le", 16000)
    async with join_line(pipe, WebSocketCodec(wish), CallStarted("a", "a", format=None), carried) as call:
        call.start(AudioFormat(16000), AudioFormat(16000))
        for message in messages:
            await pipe.websocket._send({"type": "websocket.send", **message})
        with pytest.raises(anyio.BrokenResourceError) as caught:
            await call.wait_ended()
        assert isinstance(caught.value.__cause__, RemoteProtocolError)
        assert hint in str(caught.value.__cause__)
    pipe.free()


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
            WebSocketCodec(Wish("pcm_s16le", 16000, binary=True, named=True)),
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
