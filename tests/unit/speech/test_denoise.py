"""Noise suppression and echo cancellation: what they do to sound, and when they say it comes out."""

from __future__ import annotations

import subprocess
import sys

import anyio
import numpy as np
import pytest

from rtcflow.connection import Connection
from rtcflow.frames import AudioFormat
from rtcflow.handlers.turns import EnergyVad, ReplyOnPause
from rtcflow.media.filters import AudioFilter
from rtcflow.testing import virtual_backend
from rtcflow.transports.memory import memory_pair

pytest.importorskip("pywebrtc_audio", reason="the extra denoise is not here")
denoise = pytest.importorskip("rtcflow.speech.denoise")
Denoiser, EchoCanceller = denoise.Denoiser, denoise.EchoCanceller


def noise(seconds, rate, level=2000, seed=1):
    return np.random.default_rng(seed).normal(0, level, (1, round(seconds * rate))).astype(np.int16)


def filtered(chosen, samples, sizes, played=None):
    """All of it, in frames of these sizes in turn."""
    out, at, turn = [], 0, 0
    while at < samples.shape[1]:
        n = sizes[turn % len(sizes)]
        frame = np.ascontiguousarray(samples[:, at : at + n])
        reference = None
        if chosen.needs_played:
            reference = np.zeros((1, frame.shape[1]), np.int16) if played is None else played[:, at : at + n]
        out.append(chosen.feed(frame, reference))
        assert out[-1].shape == frame.shape
        assert out[-1].dtype == np.int16
        at, turn = at + n, turn + 1
    return np.concatenate(out, axis=1)


def level(samples):
    return 10 * np.log10(np.mean(samples.astype(float) ** 2) + 1)


def delay(before, after, rate):
    """By how many seconds `after` is later."""
    size = 1 << (before.shape[1] - 1).bit_length() + 1
    spectrum = np.fft.rfft(after[0].astype(float), size) * np.conj(np.fft.rfft(before[0].astype(float), size))
    return int(np.argmax(np.abs(np.fft.irfft(spectrum)))) / rate


@pytest.mark.parametrize("rate", [8000, 16000, 24000, 48000])
@pytest.mark.parametrize("kind", [Denoiser, EchoCanceller])
def test_the_latency_is_what_it_says(kind, rate):
    """To the millisecond, at each rate that transports have."""
    chosen = kind(AudioFormat(rate))
    assert isinstance(chosen, AudioFilter)
    before = noise(1.5, rate)
    after = filtered(chosen, before, [rate // 50])
    assert delay(before, after, rate) == pytest.approx(chosen.latency, abs=0.001)


@pytest.mark.parametrize("channels", ["mono", "stereo"])
def test_steady_noise_is_lowered(channels):
    """By about as much as was asked for, once it is known."""
    for reduction in (6, 18):
        format = AudioFormat(16000, channels)
        before = np.repeat(noise(4, 16000), format.channels, axis=0)
        after = filtered(Denoiser(format, reduction=reduction), before, [320])
        lowered = level(before[:, 48000:]) - level(after[:, 48000:])
        assert lowered == pytest.approx(reduction, abs=4)


def test_frames_of_any_length():
    """Odd lengths give as much audio as they were, whole and in order, later by at most 10 ms."""
    before = noise(3, 16000)
    even = filtered(Denoiser(AudioFormat(16000)), before, [320])
    odd = filtered(Denoiser(AudioFormat(16000)), before, [1, 500, 37, 160, 320])
    late = delay(even[:, 16000:], odd[:, 16000:], 16000)
    assert late <= 0.01
    shift = round(late * 16000)
    assert np.array_equal(even[:, 16000 : 40000 - shift], odd[:, 16000 + shift : 40000])


def test_an_echo_is_taken_out():
    """By 15 dB and more after some seconds, wherever within half a second it comes back."""
    for late in (0.06, 0.4):
        bot = noise(8, 16000, 4000)
        back = np.roll(bot, round(late * 16000), axis=1) // 4
        after = filtered(EchoCanceller(AudioFormat(16000)), back, [320], played=bot)
        assert level(back[:, 80000:]) - level(after[:, 80000:]) > 15


def test_wrong_options():
    """The error names what can be asked for."""
    with pytest.raises(ValueError, match="expected 6, 12, 18 or 21"):
        Denoiser(AudioFormat(16000), reduction=10)
    with pytest.raises(ValueError, match="multiple of 100 Hz, not 11025"):
        Denoiser(AudioFormat(11025))


class Spy:
    """A detector that keeps what it hears, and finds no turns."""

    blocking = False

    def __init__(self):
        self.heard = []

    def feed(self, samples, sample_rate, *, bot_speaking):
        self.heard.append(samples.copy())
        return []

    def silence(self, seconds):
        return []

    def reset(self):
        pass


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_bot_does_not_hear_itself(backend):
    """Through a call: the caller's device plays what it gets, and 80 ms later its microphone hears that."""
    spy = Spy()
    voice = noise(7, 16000, 4000)

    async def reply(_):
        yield 16000, voice

    async def main():
        handler = ReplyOnPause(
            reply,
            input_sample_rate=16000,
            output_sample_rate=16000,
            detector=lambda: spy,
            filters=[EchoCanceller],
        )
        async with memory_pair() as (ours, theirs), anyio.create_task_group() as tasks:
            connection = Connection(ours, handler)
            tasks.start_soon(connection.serve)
            theirs.start(AudioFormat(16000), AudioFormat(16000))
            air = [np.zeros((1, 320), np.int16) for _ in range(4)]

            async def device():
                begin = anyio.current_time()
                for n in range(400):
                    await anyio.sleep_until(begin + n * 0.02)
                    try:
                        air.append(theirs.audio_in.take_nowait().samples // 4)
                    except anyio.WouldBlock:
                        air.append(np.zeros((1, 320), np.int16))
                    theirs.audio_out.put(air.pop(0))

            tasks.start_soon(device)
            await anyio.sleep(0.5)
            handler.reply_to("speak")
            await anyio.sleep(7)
            connection.close()
            await connection.wait_ended()
            tasks.cancel_scope.cancel()

    name, options = virtual_backend(backend)
    anyio.run(main, backend=name, backend_options=options)
    heard = np.concatenate(spy.heard, axis=1)
    late = heard[:, 4 * 16000 : 7 * 16000]
    assert level(voice // 4) - level(late) > 15


@pytest.mark.parametrize("fault", ["raises", "shape"])
def test_a_filter_that_fails_costs_no_sound(fault, caplog):
    """The frame is heard unfiltered, and one error says which filter it was."""
    spy = Spy()

    class Broken:
        latency, needs_played = 0.0, False

        def __init__(self, format):
            pass

        def feed(self, samples, played):
            if fault == "raises":
                raise LookupError("no model")
            return samples[:, 1:]

    async def main():
        handler = ReplyOnPause(print, input_sample_rate=16000, detector=lambda: spy, filters=[Broken])
        async with memory_pair() as (ours, theirs), anyio.create_task_group() as tasks:
            connection = Connection(ours, handler)
            tasks.start_soon(connection.serve)
            theirs.start(AudioFormat(16000), AudioFormat(16000))
            for _ in range(10):
                theirs.audio_out.put(np.full((1, 320), 7, np.int16))
                await anyio.sleep(0.02)
            connection.close()
            await connection.wait_ended()
            tasks.cancel_scope.cancel()

    name, options = virtual_backend("asyncio")
    anyio.run(main, backend=name, backend_options=options)
    assert len(spy.heard) >= 9
    assert all((frame == 7).all() for frame in spy.heard)
    assert sum("an audio filter" in record.getMessage() for record in caplog.records) == 1


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_filter_that_fails_costs_no_turn(backend):
    """What is heard unfiltered is answered, though the filter fails at each frame."""
    replied = []

    class Broken:
        latency, needs_played = 0.0, False

        def __init__(self, format):
            pass

        def feed(self, samples, played):
            raise LookupError("no model")

    async def reply(audio):
        replied.append(audio[1].shape[1] / audio[0])

    async def main():
        handler = ReplyOnPause(reply, input_sample_rate=16000, model=EnergyVad(), filters=[Broken])
        async with memory_pair() as (ours, theirs), anyio.create_task_group() as tasks:
            connection = Connection(ours, handler)
            tasks.start_soon(connection.serve)
            theirs.start(AudioFormat(16000), AudioFormat(16000))
            silence, speech = np.zeros((1, 320), np.int16), noise(0.02, 16000, 4000)
            for frame in [silence] * 25 + [speech] * 50 + [silence] * 60:
                theirs.audio_out.put(frame)
                await anyio.sleep(0.02)
            connection.close()
            await connection.wait_ended()
            tasks.cancel_scope.cancel()

    name, options = virtual_backend(backend)
    anyio.run(main, backend=name, backend_options=options)
    assert len(replied) == 1
    assert replied[0] >= 1


def test_without_the_extra_there_is_advice():
    """The error says what to install."""
    code = "import sys; sys.modules['pywebrtc_audio'] = None; import rtcflow.speech.denoise"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=150)
    assert done.stderr.endswith("filters need pywebrtc-audio; install rtcflow[denoise]\n")
