"""What a caller on the telephone has heard: as far as the carrier's marks confirm, in virtual time."""

from __future__ import annotations

import anyio
import numpy as np
import pytest
from line_pairs import telephone_pair, websocket_pair
from turn_script import QUICK, Script, turn

from rtcflow.connection.connection import Connection
from rtcflow.frames import AudioFormat, AudioFrame
from rtcflow.handlers.turns import Interrupted, PlayoutFinished, ReplyOnPause, Say
from rtcflow.testing.clocks import virtual_backend

pytestmark = pytest.mark.anyio
WORD = 0.1


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    """Virtual time on both backends."""
    return virtual_backend(request.param)


async def talk(words, script, seconds, carrier="twilio", *, pair=None, mute_marks=False, **options):
    """A caller hears a reply of so many words of 0.1 s: the handler, its events, and when he heard sound."""
    events, loud = [], []

    async def reply(audio):
        for number in range(words):
            yield Say((8000, np.full((1, round(WORD * 8000)), 8000, np.int16)), f"w{number} ")

    handler = ReplyOnPause(
        reply,
        detector=lambda: Script(list(script)),
        on_event=lambda event: events.append((anyio.current_time() - began, event)),
        output_sample_rate=8000,
        input_sample_rate=8000,
        **options,
    )
    async with (pair or telephone_pair(carrier))() as (ours, theirs), anyio.create_task_group() as tasks:
        _, line = theirs.start(AudioFormat(8000), AudioFormat(8000))
        if mute_marks:
            ours._codec.marks = False
        connection = Connection(ours, handler, timeouts=QUICK)
        began = anyio.current_time()

        async def listen():
            while True:
                frame = await theirs.audio_in.take()
                if np.abs(frame.samples).max() > 1000:
                    loud.append(anyio.current_time() - began)

        async def speak():
            while True:
                theirs.audio_out.put(AudioFrame(np.zeros((1, line.sample_rate // 50), np.int16), line.sample_rate, 0))
                await anyio.sleep(0.02)

        tasks.start_soon(connection.run)
        tasks.start_soon(listen)
        tasks.start_soon(speak)
        await anyio.sleep(seconds)
        heard = handler.heard()
        tasks.cancel_scope.cancel()
    return heard, events, loud


@pytest.mark.parametrize("carrier", ["twilio", "telnyx", "plivo", "vonage"])
async def test_heard_is_what_the_carrier_confirmed(carrier):
    """After a barge-in: never more than came out of the carrier's buffer, and at most 0.3 s less."""
    heard, events, loud = await talk(60, turn(0.2, 0.6) + turn(3.0, 4.0), 3.8, carrier)
    (interrupted,) = [event for _, event in events if isinstance(event, Interrupted)]
    really = 0.02 * len(loud)
    assert really - 0.3 <= interrupted.position.seconds <= really + 0.001
    assert heard == interrupted.position
    assert not heard.complete
    words = heard.text.split()
    assert words == [f"w{number}" for number in range(len(words))]
    assert len(words) == pytest.approx(heard.seconds / WORD, abs=1.01)


LINES = {carrier: telephone_pair(carrier) for carrier in ("twilio", "telnyx", "plivo", "vonage")}
LINES |= {f"websocket {codec}": websocket_pair(codec, rate) for codec, rate in (("pcm_s16le", 8000), ("mulaw", 8000))}


@pytest.mark.parametrize("line", LINES)
async def test_a_barge_in_silences_the_line(line):
    """60 ms after the speech was confirmed nothing of the reply sounds, though it had been sent ahead."""
    _, events, loud = await talk(60, turn(0.2, 0.6) + turn(3.0, 4.0), 3.8, pair=LINES[line])
    ((at, _),) = [(at, event) for at, event in events if isinstance(event, Interrupted)]
    assert at == pytest.approx(3.2, abs=0.045)
    assert at - 0.1 < max(loud) <= at + 0.06


async def test_a_reply_has_ended_when_the_caller_has_heard_it():
    """`PlayoutFinished` comes when the carrier has confirmed the last of it, and it is complete."""
    heard, events, loud = await talk(10, turn(0.2, 0.6), 4)
    ((at, finished),) = [(at, event) for at, event in events if isinstance(event, PlayoutFinished)]
    assert max(loud) - 0.021 <= at <= max(loud) + 0.1
    assert finished.heard.complete
    assert heard.seconds == pytest.approx(1.0, abs=0.01)
    assert heard.text == "".join(f"w{number} " for number in range(10))


async def test_a_carrier_that_tells_nothing_is_believed_to_play():
    """Where no mark is answered, what has left counts."""
    heard, events, _ = await talk(10, turn(0.2, 0.6), 4, mute_marks=True)
    assert [event for _, event in events if isinstance(event, PlayoutFinished)]
    assert heard.complete


async def test_no_word_is_lost_over_a_false_interruption():
    """What the carrier had buffered and dropped is said again: nothing is missing, at most 0.4 s are heard twice."""
    heard, events, loud = await talk(30, turn(0.2, 0.6) + turn(2.0, 2.2), 8, resume_false_interruption=True)
    assert heard.complete
    assert heard.seconds == pytest.approx(3.0, abs=0.02)
    assert 3.0 - 0.02 <= 0.02 * len(loud) <= 3.4
