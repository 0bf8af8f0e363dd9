"""Recording a connection: what is in the file, and that nothing about a file disturbs the call."""

from __future__ import annotations

import asyncio
import errno
import logging
import subprocess
import sys
import threading
import time
import wave
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from itertools import count

import anyio
import av
import numpy as np
import pytest
from line_pairs import telephone_pair, websocket_pair
from webrtc_pair import LOCAL, VOICE

from rtcflow.abc import MediaOffer
from rtcflow.client.load import spoken_signal
from rtcflow.connection import Connection, record_files, recorder
from rtcflow.connection.recorder import PICTURES, FileRecorder
from rtcflow.context import Context
from rtcflow.ends import EndCause, Timeouts
from rtcflow.frames import AudioFormat, AudioFrame
from rtcflow.handlers.base import AsyncStreamHandler, StreamHandler
from rtcflow.logs import CallFilter
from rtcflow.media.recording import BATCH, MOST, REACH, Timeline
from rtcflow.serving.session import CallRequest
from rtcflow.stream import Stream
from rtcflow.testing import virtual_backend
from rtcflow.transports.memory import memory_pair
from rtcflow.transports.webrtc import open_engine

RATE = 16000
FORMAT = AudioFormat(RATE)


class Echo(AsyncStreamHandler):
    """Says what it hears at once; cleared waits are up to the test."""

    def __init__(self):
        super().__init__(input_sample_rate=RATE, output_sample_rate=RATE)
        self.frames, self.come = [], anyio.Event()

    async def receive(self, frame):
        self.frames.append(frame)
        self.come.set()

    async def emit(self):
        while not self.frames:
            self.come = anyio.Event()
            await self.come.wait()
        return self.frames.pop(0)

    def copy(self):
        return Echo()


class Quiet(Echo):
    async def emit(self):
        await anyio.sleep_forever()


class SyncQuiet(StreamHandler):
    """Records itself, from a worker thread."""

    def __init__(self, path=None):
        super().__init__(input_sample_rate=RATE, output_sample_rate=RATE)
        self.path, self.recording = path, None

    def receive(self, frame):
        if self.recording is None and self.path is not None:
            self.recording = self.connection.record(self.path)

    def emit(self):
        return None

    def copy(self):
        return SyncQuiet(self.path)


def in_virtual_time(main, backend="asyncio"):
    name, options = virtual_backend(backend)
    return anyio.run(main, backend=name, backend_options=options)


@asynccontextmanager
async def call(handler, **options):
    """A connection and its caller; the caller's end hears and forgets."""
    async with memory_pair() as (ours, theirs), anyio.create_task_group() as tasks:
        connection = Connection(ours, handler, **options)
        tasks.start_soon(connection.serve)
        theirs.start(FORMAT, FORMAT)
        yield connection, theirs
        connection.close()
        await connection.wait_ended()


async def speak(theirs, seconds, *, pulses=(50,), period=100):
    """Say `seconds` of frames in real time, every hundredth with a pulse in it."""
    begin = anyio.current_time()
    for n in range(round(seconds * 50)):
        samples = np.zeros((1, RATE // 50), np.int16)
        if n % period in pulses:
            samples[0, 7] = 20000
        theirs.audio_out.put(samples)
        await anyio.sleep_until(begin + (n + 1) * 0.02)


def read(path):
    with wave.open(str(path)) as file:
        assert (file.getnchannels(), file.getsampwidth()) == (2, 2)
        return np.frombuffer(file.readframes(2**30), np.int16).reshape(-1, 2), file.getframerate()


def errors(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_both_sides_are_in_the_file(backend, tmp_path):
    """An echo without a network: every pulse is in both channels at the same sample, for two minutes."""
    path = tmp_path / "call.wav"

    async def main():
        async with call(Echo()) as (connection, theirs):
            recording = connection.record(path)
            await speak(theirs, 120)
        assert recording.error is None
        assert recording.dropped == 0

    in_virtual_time(main, backend)
    samples, rate = read(path)
    assert rate == RATE
    assert abs(len(samples) - 120 * RATE) <= RATE // 50
    caller, left = (np.flatnonzero(samples[:, side] > 15000) for side in (0, 1))
    assert len(caller) == 60
    assert np.array_equal(caller, left)
    assert set(np.diff(caller)) == {2 * RATE}


def test_what_a_handler_does_to_arrays_later_is_not_in_the_file(tmp_path):
    """It may work in the array that it gets, and emit the same array again and again."""
    path = tmp_path / "call.wav"

    class Reuses(Echo):
        """Emits what it hears in an array of its own, and silences what it has heard."""

        def __init__(self):
            super().__init__()
            self.own = np.zeros((1, RATE // 50), np.int16)

        async def emit(self):
            _, samples = await super().emit()
            self.own[:] = samples
            samples[:] = 0
            return RATE, self.own

    async def main():
        async with call(Reuses()) as (connection, theirs):
            connection.record(path)
            await speak(theirs, 10)

    in_virtual_time(main)
    samples, _ = read(path)
    caller, left = (np.flatnonzero(samples[:, side] > 15000) for side in (0, 1))
    assert len(caller) == len(left) == 5


def test_cleared_audio_is_not_in_the_file(tmp_path):
    """At a barge-in the bot stops in the recording where it stopped for the caller."""
    path = tmp_path / "call.wav"

    async def main():
        async with call(Quiet()) as (connection, theirs):
            recording = connection.record(path)
            await speak(theirs, 1)
            connection.transport.audio_out.put(np.full((1, 5 * RATE), 1000, np.int16))
            await speak(theirs, 2)
            connection.clear_queue()
            await speak(theirs, 2)
        (mark,) = recording.marks
        assert mark.position == pytest.approx(3, abs=0.03)
        assert mark.seconds == pytest.approx(3, abs=0.03)

    in_virtual_time(main)
    samples, _ = read(path)
    loud = np.flatnonzero(samples[:, 1] == 1000) / RATE
    assert loud[0] == pytest.approx(1, abs=0.021)
    assert loud[-1] == pytest.approx(3, abs=0.021)
    assert len(samples) / RATE == pytest.approx(5, abs=0.021)


class TelephoneEcho(Echo):
    def __init__(self):
        super().__init__()
        self.input_sample_rate = self.output_sample_rate = 8000


@pytest.mark.parametrize(
    "pair", [telephone_pair("twilio"), websocket_pair("pcm_s16le", 8000)], ids=["telephone", "websocket"]
)
def test_a_line_is_recorded(pair, tmp_path):
    """Both sides of a telephone call and of a WebSocket, without what a carrier had not played when it was cleared."""
    path = tmp_path / "call.wav"

    async def main():
        async with pair() as (ours, theirs), anyio.create_task_group() as tasks:
            connection = Connection(ours, TelephoneEcho())
            tasks.start_soon(connection.serve)
            theirs.start(AudioFormat(8000), AudioFormat(8000))
            recording = connection.record(path)
            begin = anyio.current_time()
            for n in range(500):
                samples = np.zeros((1, 160), np.int16)
                if n % 50 == 10:
                    samples[0, :80] = 20000
                theirs.audio_out.put(samples)
                if n == 300:
                    ours.audio_out.put(np.full((1, 8000), 3000, np.int16))
                if n == 312:
                    connection.clear_queue()
                await anyio.sleep_until(begin + (n + 1) * 0.02)
            connection.close()
            await connection.wait_ended()
            tasks.cancel_scope.cancel()
        assert recording.error is None
        assert recording.dropped == 0
        assert recording.marks[0].position == pytest.approx(6.24, abs=0.03)

    in_virtual_time(main)
    samples, rate = read(path)
    assert rate == 8000
    assert len(samples) == pytest.approx(10 * rate, abs=rate // 10)
    begins = []
    for side in (0, 1):
        loud = np.flatnonzero(samples[:, side] > 15000)
        begins.append(loud[np.flatnonzero(np.diff(loud, prepend=-1000) > 500)])
    assert len(begins[0]) == 10
    assert set(np.diff(begins[0])) == {rate}
    assert np.abs(begins[1][:5] - begins[0][:5]).max() <= 0.1 * rate
    said = np.flatnonzero(np.abs(samples[:, 1] - 3000) < 200)
    assert 0.15 * rate < len(said) <= 0.3 * rate


@pytest.mark.parametrize("suffix", [".mkv", ".mka"])
def test_pictures_of_both_sides(suffix, tmp_path):
    """A Matroska file with suffix .mkv shows what the caller showed and what was shown to them, when it was."""
    path = tmp_path / f"call{suffix}"
    grey = lambda level: av.VideoFrame.from_ndarray(np.full((120, 160, 3), level, np.uint8), format="bgr24")  # noqa: E731

    async def main():
        offer = MediaOffer(True, True, receive_video=True, send_video=True, messages=True)
        async with memory_pair(offer) as (ours, theirs), anyio.create_task_group() as tasks:
            connection = Connection(ours, Echo())
            tasks.start_soon(connection.serve)
            theirs.start(FORMAT, FORMAT)
            recording = connection.record(path)
            begin = anyio.current_time()
            for n in range(60):
                theirs.audio_out.put(np.zeros((1, 320), np.int16))
                if n % 5 == 0:
                    theirs.video_out.put_nowait(grey(60 if n < 30 else 200))
                    ours.video_out.put_nowait(grey(130))
                await anyio.sleep_until(begin + (n + 1) * 0.02)
            connection.close()
            await connection.wait_ended()
            tasks.cancel_scope.cancel()
        assert recording.error is None

    in_virtual_time(main)
    with av.open(str(path)) as file:
        assert len(file.streams.video) == (2 if suffix == ".mkv" else 0)
        for stream in range(len(file.streams.video)):
            file.seek(0)
            frames = list(file.decode(video=stream))
            levels = [(frame.time, round(frame.to_ndarray(format="gray").mean())) for frame in frames]
            assert (frames[0].width, frames[0].height) == (640, 480)
            assert levels[0][0] <= 0.11  # the first one came before the file was chosen
            assert levels[-1][0] == pytest.approx(1.1, abs=0.05)
            wanted = {0: (60, 200), 1: (130, 130)}[stream]
            assert (levels[0][1], levels[-1][1]) == tuple(pytest.approx(level, abs=12) for level in wanted)


@pytest.mark.parametrize("suffix", [".ogg", ".opus", ".mka", ".mkv"])
def test_the_suffix_chooses_the_format(suffix, tmp_path):
    """Opus in Ogg or Matroska, stereo and as long as the call."""
    path = tmp_path / f"call{suffix}"

    async def main():
        async with call(Echo()) as (connection, theirs):
            connection.record(path)
            await speak(theirs, 12)

    in_virtual_time(main)
    with av.open(str(path)) as file:
        frames = list(file.decode(audio=0))
    assert frames[0].layout.name == "stereo"
    assert sum(frame.samples for frame in frames) / frames[0].sample_rate == pytest.approx(12, abs=0.07)


@pytest.mark.anyio
async def test_packets_of_a_webrtc_call_are_recorded_as_they_are(tmp_path, monkeypatch):
    """Nothing is encoded for Ogg, and both sides are where a WAV file of the same call has them."""
    encoded = []
    real = record_files.PacketFile._encode
    monkeypatch.setattr(
        record_files.PacketFile, "_encode", lambda file, *piece: encoded.append(piece) or real(file, *piece)
    )
    for n in range(10):  # on a busy machine packets come late, and what was played in their place is encoded
        encoded.clear()
        recordings = await recorded_call([tmp_path / f"{n}.wav", tmp_path / f"{n}.ogg"])
        if not encoded:
            break
    assert not encoded
    wav, ogg = (samples_of(recording.path) for recording in recordings)
    for ours, theirs in zip(wav, ogg, strict=True):
        assert abs(lag(ours, theirs)) <= 0.03  # 10 ms to the next slot, 6.5 ms of the caller's encoder, and its jitter


async def recorded_call(paths):
    """A call over WebRTC, of two seconds, recorded in files; the recordings."""
    async with open_engine(LOCAL) as engine:
        caller = await engine.offer()
        callee = await engine.answer(caller.offer_sdp)
        await caller.accept_answer(callee.answer)
        connection = Connection(callee, Echo())
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(connection.serve)
            recordings = [connection.record(path) for path in paths]
            caller.start(VOICE, VOICE)
            for _ in range(10):
                caller.audio_out.put(spoken_signal())
            with anyio.fail_after(60):
                await caller.wait_connected()
                while caller.statistics().audio_in.put < 90:
                    await anyio.sleep(0.02)
            connection.close()
        await caller.aclose()
        await callee.aclose()
    assert [recording.error for recording in recordings] == [None, None]
    return recordings


def samples_of(path):
    """Both sides of a file, at 16 kHz."""
    with av.open(str(path)) as file:
        resampler = av.AudioResampler("s16p", "stereo", 16000)
        return np.concatenate(
            [one.to_ndarray() for frame in file.decode(audio=0) for one in resampler.resample(frame)], 1
        )


def lag(one, other):
    """Seconds by which `other` comes after `one`."""
    size = 2**18
    likeness = np.fft.irfft(np.fft.rfft(other, size) * np.conj(np.fft.rfft(one, size)))
    at = int(likeness.argmax())
    return (at - size if at > size // 2 else at) / 16000


def test_a_wrong_suffix_is_said_at_once(tmp_path):
    """The text names what can be written."""

    async def main():
        async with call(Echo()) as (connection, _):
            with pytest.raises(ValueError, match=r"\.wav, \.ogg, \.opus, \.mka or \.mkv, not 'call.mp3'"):
                connection.record(tmp_path / "call.mp3")

    in_virtual_time(main)


@pytest.mark.parametrize("kind", ["missing directory", "exists already", "full"])
def test_the_call_goes_on_without_a_file(kind, tmp_path, caplog, monkeypatch):
    """One error is logged; the call hears and speaks on."""
    path = tmp_path / ("none" if kind == "missing directory" else "") / "call.wav"
    if kind == "exists already":
        path.write_bytes(b"mine")
    written = []

    def write(self, position, data):
        written.append(len(data))
        if len(data) > 44 and len(written) > 6:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(self, position, data)

    real = record_files.WavFile._write
    if kind == "full":
        monkeypatch.setattr(record_files.WavFile, "_write", write)

    async def main():
        async with call(Echo()) as (connection, theirs):
            recording = connection.record(path)
            await speak(theirs, 30)
            await recording.wait_closed()
            assert isinstance(recording.error, OSError)
            assert connection.end is None
            assert connection.statistics().received == 1500

    in_virtual_time(main)
    (error,) = errors(caplog)
    assert str(path) in error
    if kind == "exists already":
        assert path.read_bytes() == b"mine"
    if kind == "full":
        samples, _ = read(path)
        assert 0 < len(samples) < 22 * RATE
        assert path.stat().st_size == 44 + 4 * len(samples)


def seconds_in(path):
    """How much sound FFmpeg finds in a file."""
    with av.open(str(path)) as file:
        return sum(frame.samples for frame in file.decode(audio=0)) / file.streams.audio[0].rate


@contextmanager
def full_disk(size):
    """The system refuses what would make any file of this process larger, as it does if the disk is full."""
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("suffix", ["wav", "ogg", "mka"])
def test_a_file_that_the_system_cuts_off_can_be_read(suffix, tmp_path, caplog):
    """The system takes a part of a block and then refuses. All blocks before that one can be read."""
    path = tmp_path / f"call.{suffix}"

    async def main():
        async with call(Echo()) as (connection, theirs):
            recording = connection.record(path)
            with full_disk(1_100_000 if suffix == "wav" else 150_000):
                await speak(theirs, 40, pulses=range(100))
                with anyio.fail_after(60):
                    await recording.wait_closed()
            assert isinstance(recording.error, OSError)
            assert connection.statistics().received == 2000

    in_virtual_time(main)
    (error,) = errors(caplog)
    assert f"is not recorded any further ({path})" in error
    assert 5 < seconds_in(path) < 35


def test_packets_up_to_a_full_disk_can_be_read(tmp_path):
    """What is cut off in the middle of a page is taken away again."""
    file = record_files.PacketFile(tmp_path / "call.ogg", RATE)
    block = [(record_files.SILENCE, record_files.SILENCE)] * 50
    with full_disk(1000), pytest.raises(OSError, match="large"):
        for _ in range(10):
            file.write(file.encode(block))
    file.close()
    assert seconds_in(tmp_path / "call.ogg") == pytest.approx(2, abs=0.01)


KILLED = """
import os, signal, sys, time
import anyio, numpy as np
from rtcflow.connection import Connection
from rtcflow.demo import EchoHandler
from rtcflow.frames import AudioFormat
from rtcflow.testing import virtual_backend
from rtcflow.transports.memory import memory_pair

async def main():
    async with memory_pair() as (ours, theirs), anyio.create_task_group() as tasks:
        connection = Connection(ours, EchoHandler())
        tasks.start_soon(connection.serve)
        recordings = [connection.record(path) for path in sys.argv[1:]]
        theirs.start(AudioFormat(16000), AudioFormat(16000))
        for second in range(30):
            theirs.audio_out.put(np.full((1, 16000), second, np.int16))
            await anyio.sleep(1)
        while any(one._items or not one._takers.waiters for one in (each._recorder._due for each in recordings)):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)

name, options = virtual_backend("asyncio")
anyio.run(main, backend=name, backend_options=options)
"""


def test_a_killed_process_leaves_files_that_can_be_read(tmp_path):
    """Nothing is closed. At most the last batch is missing, `REACH`, and the 6 s of a muxer's page."""
    paths = [tmp_path / f"call.{suffix}" for suffix in ("wav", "ogg", "mka", "mkv")]
    subprocess.run([sys.executable, "-c", KILLED, *map(str, paths)], timeout=150)
    for path in paths:
        assert 30 - BATCH - REACH - 7 <= seconds_in(path) < 30, path


@pytest.mark.anyio
async def test_sound_does_not_wait_for_pictures(tmp_path, monkeypatch):
    """Pictures come faster than a busy machine encodes them. There are always some, and the sound is written."""
    path, wrote, picture = tmp_path / "call.mkv", [], av.VideoFrame(16, 16, "yuv420p")
    made = FileRecorder(path, Context(webrtc_id="somebody", transport="memory"))
    async with memory_pair() as (ours, _):

        class Slow(record_files.WavFile):
            shown = 0

            def show(self, side, frame, at):
                """While this one is encoded, 20 ms go by, with a picture of each side."""
                self.shown += 1
                ours.audio_in.put_nowait(AudioFrame(np.zeros((1, 320), np.int16), RATE, 320 * self.shown))
                ours.video_in.put_nowait(picture)
                ours.video_in.put_nowait(picture)
                if self.shown == MOST:
                    made.stop()

            def write(self, data):
                wrote.append(self.shown)
                made.stop()

        monkeypatch.setattr(recorder, "open_record_file", lambda *_, **__: Slow(path, RATE))
        made.attach(ours, RATE)
        clock = count(made._intake.clock(), 1 / 50 / 3)  # it is read for each frame and each picture
        made._intake.clock = lambda: next(clock)
        assert await made.choose_path()
        for _ in range(PICTURES // 4):
            ours.video_in.put_nowait(picture)
        await anyio.to_thread.run_sync(made.write)
    assert made.error is None
    assert made.recording.dropped == 0
    assert 0 < wrote[0] < MOST // 2


@pytest.mark.anyio
async def test_a_slow_disk_costs_only_what_it_is_too_slow_for(tmp_path, caplog):
    """Nothing is written for a while: what waits is bounded, and one error is logged."""
    recorder = FileRecorder(tmp_path / "call.wav", Context(webrtc_id="somebody", transport="memory"))
    async with memory_pair() as (ours, _):
        recorder.attach(ours, RATE)
        for n in range(MOST + 100):
            ours.audio_in.put_nowait(AudioFrame(np.zeros((1, 320), np.int16), RATE, 320 * n))
        assert recorder.recording.dropped == 100
        assert len(errors(caplog)) == 1
        recorder.close()


@pytest.mark.anyio
@pytest.mark.parametrize("when", ["while it is opened", "while it is written", "while it is closed"])
async def test_a_disk_that_hangs_holds_up_nothing(when, tmp_path, caplog, monkeypatch):
    """The caller is heard on, and the end of the call waits for the disk no longer than `Timeouts.shutdown`."""
    released, hung = threading.Event(), threading.Event()

    def hang(self, *_):
        hung.set()
        released.wait(20)

    class Hangs(record_files.WavFile):
        __init__ = lambda self, *_: None  # noqa: E731
        encode = lambda self, block: b""  # noqa: E731
        write = hang if when == "while it is written" else lambda self, samples: None
        close = hang if when == "while it is closed" else lambda self: None

        def timeline(self):
            return Timeline(RATE)

    def open_file(*_, **__):
        if when == "while it is opened":
            hang(None)
        return Hangs()

    monkeypatch.setattr(recorder, "open_record_file", open_file)
    try:
        async with call(Echo(), timeouts=Timeouts(shutdown=0.1)) as (connection, theirs):
            recording = connection.record(tmp_path / "call.wav")
            for _ in range(10):
                theirs.audio_out.put(np.zeros((1, 320), np.int16))
                before = connection.statistics().received
                while connection.statistics().received == before:
                    await anyio.lowlevel.checkpoint()
            recording.stop()
            assert await anyio.to_thread.run_sync(hung.wait, 20)
            assert connection.end is None
            theirs.audio_out.put(np.zeros((1, 320), np.int16))
        (error,) = errors(caplog)
        assert "was not closed within 0.1 s: the disk hangs" in error
    finally:
        released.set()
        while any(thread.name.startswith("recording of") for thread in threading.enumerate()):
            time.sleep(0.001)


@pytest.mark.anyio
async def test_a_call_that_is_not_recorded_has_nothing_of_it():
    """No thread, no crew, and no tap on its queues."""
    async with call(Echo()) as (connection, theirs):
        theirs.audio_out.put(np.zeros((1, 320), np.int16))
        while not connection.statistics().received:
            await anyio.lowlevel.checkpoint()
        assert connection._scribes is None
        assert connection.transport.audio_in._taps == connection.transport.audio_out._taps == ()
        assert not any(thread.name.startswith("recording of") for thread in threading.enumerate())


def test_the_header_is_right_after_each_block(tmp_path):
    """A server that is killed leaves a file that can be read."""
    file = record_files.WavFile(tmp_path / "call.wav", RATE)
    for blocks in range(3):
        samples, rate = read(tmp_path / "call.wav")
        assert (len(samples), rate) == (100 * blocks, RATE)
        file.write(file.encode(np.full((2, 100), blocks, np.int16)))
    file.close()


def test_recordings_begin_and_stop_in_mid_call(tmp_path):
    """Two at once, one from a worker thread; each is as long as it ran."""
    one, other = tmp_path / "one.wav", tmp_path / "other.wav"

    async def main():
        handler = SyncQuiet()
        async with call(handler) as (connection, theirs):
            first = connection.record(one)
            await speak(theirs, 2)
            second = await anyio.to_thread.run_sync(connection.record, other)
            await speak(theirs, 3)
            first.stop()
            await first.wait_closed()
            await speak(theirs, 2)
        assert first.error is second.error is None
        with pytest.raises(RuntimeError, match="has ended"):
            connection.record(tmp_path / "late.wav")

    in_virtual_time(main)
    assert [len(read(path)[0]) / RATE for path in (one, other)] == [pytest.approx(5, abs=0.1)] * 2


async def streamed(stream, name="somebody"):
    async with stream.running(), memory_pair() as (ours, theirs), anyio.create_task_group() as tasks:
        async with stream.calls.admit(CallRequest(), "memory", name) as session:
            stream.calls.start(session, ours)
        theirs.start(FORMAT, FORMAT)
        await speak(theirs, 3)
        session.close()
        end = await session.connection.wait_ended()
        tasks.cancel_scope.cancel()
    return end


def test_a_stream_records_into_a_directory(tmp_path):
    """Each call has its own file, and `on_recorded` is told when it can be read."""
    told = []

    def on_recorded(path, context):
        told.append((len(read(path)[0]), path, context))

    stream = Stream(Echo(), record=tmp_path, on_recorded=on_recorded)
    in_virtual_time(lambda: streamed(stream, "../../etc/passwd-and-more"))
    in_virtual_time(lambda: streamed(stream, "../../etc/passwd-and-more"))
    assert len(told) == 2
    assert {path for _, path, _ in told} == set(tmp_path.iterdir())
    assert told[0][2].webrtc_id == "../../etc/passwd-and-more"
    assert told[0][0] == pytest.approx(3 * RATE, abs=RATE // 20)


@pytest.mark.parametrize("colour", ["sync", "async"])
@pytest.mark.parametrize("answer", ["path", "none", "raises", "exits", "is cancelled", "suffix"])
def test_a_function_chooses_the_file(colour, answer, tmp_path, caplog):
    """It may refuse, and it may fail: the call goes on, with at most one error."""

    def choose(context):
        if answer == "raises":
            raise LookupError(context.webrtc_id)
        if answer == "exits":
            raise SystemExit
        if answer == "is cancelled":  # a future that somebody else had cancelled
            raise asyncio.CancelledError
        return {"path": tmp_path / "call.wav", "none": None, "suffix": tmp_path / "call.mp3"}[answer]

    async def choose_later(context):
        await anyio.sleep(1)
        return choose(context)

    told = []
    stream = Stream(
        Echo(), record=choose if colour == "sync" else choose_later, on_recorded=lambda path, _: told.append(path)
    )
    end = in_virtual_time(lambda: streamed(stream))
    assert end.cause is EndCause.CLOSED
    assert len(errors(caplog)) == (answer not in {"path", "none"})
    assert told == ([tmp_path / "call.wav"] if answer == "path" else [])
    if answer == "path":
        assert len(read(tmp_path / "call.wav")[0]) == pytest.approx(3 * RATE, abs=RATE // 20)


def test_a_call_that_is_closed_before_it_begins(tmp_path, monkeypatch):
    """By another thread, just before its recording begins: it ends, and the server goes on."""
    record = Connection.record

    def closed_before(connection, path):
        connection.close()
        return record(connection, path)

    monkeypatch.setattr(Connection, "record", closed_before)
    stream, ended = Stream(Echo(), record=tmp_path), []

    async def main():
        async with stream.running():
            for name in ("one", "two"):
                async with memory_pair() as (ours, _):
                    async with stream.calls.admit(CallRequest(), "memory", name) as session:
                        stream.calls.start(session, ours)
                    ended.append((await session.connection.wait_ended()).cause)

    in_virtual_time(main)
    assert ended == [EndCause.CLOSED] * 2
    assert not list(tmp_path.iterdir())


def test_a_function_that_never_chooses_a_file(tmp_path, caplog):
    """The call ends in time, and the error names what hangs: not the disk."""
    stream = Stream(Echo(), record=lambda _: anyio.sleep_forever())
    assert in_virtual_time(lambda: streamed(stream)).cause is EndCause.CLOSED
    (error,) = errors(caplog)
    assert error.endswith("was not closed within 5 s: the function that chooses its file has not returned")


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("thread", ["loop", "other"])
def test_what_is_logged_of_a_recording_names_its_call(thread, backend, tmp_path, caplog):
    """Also if code outside of the call has begun it, such as a route for operators."""
    (tmp_path / "call.wav").touch()
    caplog.handler.addFilter(CallFilter())
    stream = Stream(Echo())

    async def main():
        async with stream.running(), memory_pair() as (ours, theirs):
            async with stream.calls.admit(CallRequest(), "memory", "somebody") as session:
                stream.calls.start(session, ours)
            theirs.start(FORMAT, FORMAT)
            await speak(theirs, 1)
            record = partial(session.record, tmp_path / "call.wav")
            recording = record() if thread == "loop" else await anyio.to_thread.run_sync(record)
            await recording.wait_closed()
            session.close()
            await session.connection.wait_ended()

    in_virtual_time(main, backend)
    (error,) = (record for record in caplog.records if record.levelno == logging.ERROR)
    assert error.call == "some…"


def test_two_calls_with_one_file(tmp_path, caplog):
    """The second has one clear error; the first is whole."""
    stream = Stream(Echo(), record=lambda _: tmp_path / "call.wav", concurrency_limit=2)

    async def main():
        async with stream.running(), anyio.create_task_group() as tasks:
            for name in ("one", "two"):
                tasks.start_soon(streamed, stream, name)

    in_virtual_time(main)
    (error,) = errors(caplog)
    assert "exists already" in error
    assert len(read(tmp_path / "call.wav")[0]) == pytest.approx(3 * RATE, abs=RATE // 20)


def test_a_hook_that_raises_disturbs_nobody(tmp_path, caplog):
    """One error, with its traceback."""

    def hook(path, context):
        raise LookupError("no bucket")

    in_virtual_time(lambda: streamed(Stream(Echo(), record=tmp_path, on_recorded=hook)))
    assert errors(caplog) == ["on_recorded raised after memory call some…"]


@pytest.mark.parametrize("option", [{"record": 7}, {"on_recorded": 7}])
def test_wrong_options_are_refused(option):
    """The text shows what to write."""
    with pytest.raises(TypeError, match="expected a"):
        Stream(Echo(), **option)
