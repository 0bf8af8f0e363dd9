"""A measured call: what was played is found in what came back."""

from __future__ import annotations

import wave
from dataclasses import replace

import anyio
import numpy as np
import pytest

from rtcflow.client.measured_call import LONGEST_GAP, RATE, _Recorder, find_echo, hold_call, read_audio, write_wav
from rtcflow.connection.connection import Connection
from rtcflow.demo import EchoHandler
from rtcflow.frames import AudioFrame
from rtcflow.handlers.base import AsyncStreamHandler
from rtcflow.outputs import CloseStream
from rtcflow.protocol import messages
from rtcflow.transports.memory import memory_pair


def noise(seconds: float) -> np.ndarray:
    return (3000 * np.random.default_rng(1).standard_normal((1, int(seconds * RATE)))).astype(np.int16)


@pytest.mark.parametrize("delay", [0, 1, 960, 50_000])
def test_an_echo_is_found_to_the_sample(delay):
    """A delayed, quieter copy has exactly that delay and a correlation of 1."""
    played = noise(1)[0]
    recorded = np.concatenate([np.zeros(delay, np.int16), played // 2, np.zeros(1000, np.int16)])
    echo = find_echo(played, recorded)
    assert echo.delay == delay
    assert echo.correlation > 0.999


def test_silence_and_strangers_are_no_echo():
    """Silence has no echo at all; another sound correlates hardly."""
    played = noise(1)[0]
    assert find_echo(played, np.zeros(48_000, np.int16)) is None
    assert find_echo(np.zeros(10, np.int16), played) is None
    other = np.random.default_rng(2).standard_normal(48_000) * 3000
    assert find_echo(played, other.astype(np.int16)).correlation < 0.1


def test_recordings_are_written_and_read(tmp_path):
    """A recording comes back from its file as it was; other rates and layouts become 48 kHz mono."""
    samples = noise(0.5)
    write_wav(tmp_path / "a.wav", samples)
    np.testing.assert_array_equal(read_audio(tmp_path / "a.wav"), samples)
    with wave.open(str(tmp_path / "b.wav"), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(4 * 8000))
    assert read_audio(tmp_path / "b.wav").shape == (1, 48000)


def test_what_is_no_sound_says_so(tmp_path):
    """A missing file is an OSError, a file without sound a ValueError that names it."""
    with pytest.raises(OSError, match="No such file"):
        read_audio(tmp_path / "missing.wav")
    (tmp_path / "text.wav").write_text("hello")
    with pytest.raises(ValueError, match=r"text\.wav is not a sound file"):
        read_audio(tmp_path / "text.wav")


def test_a_delay_that_changes_on_the_way_is_followed():
    """A line whose delay jumps by 20 ms still carries the same sound; one that loses half of it does not."""
    played = noise(4)[0]
    jumped = np.concatenate([played[:96_000], np.zeros(960, np.int16), played[96_000:]])
    assert find_echo(played, jumped).correlation > 0.98
    halved = played.copy()
    halved[::48_000] = 0
    for start in range(0, len(halved), 9600):
        halved[start : start + 4800] = 0
    assert find_echo(played, halved).correlation < 0.8


class Brief(AsyncStreamHandler):
    def copy(self):
        return Brief()

    async def receive(self, frame):
        pass

    async def emit(self):
        await anyio.sleep(0.05)
        return CloseStream("that was all")


@pytest.fixture
def anyio_backend(virtual_backend):
    """Calls over a memory pair take no real time, and their figures do not depend on how busy the machine is."""
    return virtual_backend


@pytest.mark.anyio
async def test_a_call_to_an_echo_is_measured():
    """Over a perfect line the echo is the same, comes at once, and the frames add up."""
    async with memory_pair() as (ours, theirs), anyio.create_task_group() as tg:
        tg.start_soon(Connection(ours, EchoHandler()).run)
        with anyio.fail_after(120):
            report = await hold_call(theirs, noise(0.5), 1.3)
        await theirs.aclose()
    assert report.correlation > 0.99
    assert 0 <= report.round_trip < 0.5
    assert 60 <= report.frames_sent <= 70
    assert abs(report.frames_received - report.frames_sent) <= 5
    assert (report.ended, report.failed) == ("hung up after the time was over", False)


@pytest.mark.anyio
async def test_a_call_says_how_it_was_ended():
    """When the server ends the call, the report has its words."""
    async with memory_pair() as (ours, theirs), anyio.create_task_group() as tg:
        tg.start_soon(Connection(ours, Brief()).run)
        with anyio.fail_after(120):
            report = await hold_call(theirs, None, 5.0)
    assert report.ended == "the server ended it: that was all"
    assert not report.failed


@pytest.mark.anyio
async def test_a_call_can_be_interrupted():
    """`until` ends it early."""
    async with memory_pair() as (_, theirs):
        with anyio.fail_after(120):
            report = await hold_call(theirs, None, 60.0, until=lambda: anyio.sleep(0.05))
    assert report.ended == "interrupted"


@pytest.mark.anyio
@pytest.mark.parametrize("cause", [None, OSError("the cable is cut")])
async def test_a_line_that_breaks_is_a_failure(cause):
    async with memory_pair() as (_, theirs), anyio.create_task_group() as tg:

        async def cut():
            await anyio.sleep(0.2)
            theirs.break_link(cause)

        if cause is None:
            theirs.wait_ended = broken_without_a_cause
        else:
            tg.start_soon(cut)
        report = await hold_call(theirs, None, 60.0)
    assert report.failed
    assert report.ended == ("the line broke: the cable is cut" if cause else "the line broke")


async def broken_without_a_cause():
    raise anyio.BrokenResourceError


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("said", "ended", "failed"),
    [
        (messages.Error("no model"), "the server reported an error: no model", True),
        (messages.EndStream("good night"), "the server ended it: good night", False),
        (messages.EndStream(), "the server ended it", False),
        (messages.AppMessage("hi"), "the server ended it", False),
    ],
    ids=str,
)
async def test_what_the_server_said_last_is_in_the_report(said, ended, failed):
    async with memory_pair() as (ours, theirs), anyio.create_task_group() as tg:

        async def server():
            ours.send_message_nowait(messages.encode(said))
            await anyio.sleep(0.2)
            await ours.aclose()

        tg.start_soon(server)
        report = await hold_call(theirs, None, 60.0)
    assert (report.ended, report.failed) == (ended, failed)


class Counting:
    """A memory transport that counts datagrams, as the one over WebRTC does, until it falls silent."""

    def __init__(self, inner, silent_after):
        self._inner, self._begin, self._silent_after = inner, anyio.current_time(), silent_after

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def statistics(self):
        passed = min(anyio.current_time() - self._begin, self._silent_after)
        return replace(self._inner.statistics(), details={"datagrams_received": 50 * passed})


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("silent_after", "seconds", "ended"),
    [
        (2.0, 60.0, "the server has gone silent: nothing came for 3 s"),  # while it goes on
        (2.0, 4.5, "the server has gone silent: nothing came for 2 s"),  # found at the end
        (99.0, 4.5, "hung up after the time was over"),
    ],
)
async def test_a_server_that_was_killed_is_found_by_its_silence(silent_after, seconds, ended):
    async with memory_pair() as (_, theirs):
        report = await hold_call(Counting(theirs, silent_after), None, seconds)
    assert report.ended == ended
    assert report.failed == ("silent" in ended)
    assert report.duration < 6


def test_a_gap_in_the_media_is_silence_in_the_recording():
    recorder = _Recorder()
    loud = np.full((1, 480), 9000, np.int16)
    recorder.feed(AudioFrame(loud, 24000, 0), 1.0)
    recorder.feed(AudioFrame(loud, 24000, 480 + 12000), 2.0)  # half a second is missing
    recorder.feed(AudioFrame(loud, 24000, 960 + 12000 + 24000 * 3600), 3.0)  # an hour: cut, or memory would go
    recording = recorder.recording()[0]
    assert recorder.began == 1.0
    assert recording.shape[0] == pytest.approx(3 * 960 + 24000 + LONGEST_GAP, abs=200)
    assert np.abs(recording[2000:24000]).max() == 0
