"""One measured call: play a recording into a transport, record what comes back, and report on the line."""

from __future__ import annotations

import wave
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import anyio
import anyio.lowlevel
import av
import av.error
import numpy as np
from numpy.typing import NDArray

from ..abc import Transport
from ..exceptions import RemoteProtocolError
from ..frames import AudioFormat, AudioFrame
from ..media.correlate import correlate
from ..media.resample import Converter
from ..protocol import messages

__all__ = ["CallReport", "Echo", "find_echo", "hold_call", "read_audio", "write_wav"]

RATE: Final = 48_000
"""Hz, of what is played and recorded; Opus' own rate (RFC 7587 section 4.1)."""

CHUNK: Final = RATE // 50

LONGEST_GAP: Final = 10 * RATE
"""Samples of silence that a jump of media time puts into a recording at most."""

SETTLING: Final = 0.3
"""Seconds of silence before anything is played. People do not speak at once either, and jitter buffers still look for
their depth."""

COMPARED: Final = 60 * RATE
"""Samples that are searched for the echo. A minute is enough, and its transform takes a second."""

WINDOW: Final = RATE // 2
DRIFT: Final = RATE // 5
"""The echo is compared in windows of half a second. Each is moved by at most 0.2 s more or less than the whole. Jitter
buffers change the delay of a line during a call.
"""


SILENT: Final = 3.0
"""Seconds without a packet after which a WebRTC server counts as gone. A live server sends a report (RTCP) at least
every 1.5 s, even if it is silent."""

SILENT_AT_END: Final = 2.0
"""The same when the time of the call is over."""

LOOK: Final = 0.5
"""Seconds between two looks at whether packets came."""


@dataclass(frozen=True, slots=True)
class Echo:
    """How well the recording matches what was played.

    Attributes:
        delay: Samples by which the recording lags behind what was played.
        correlation: Of the two with the delay removed (see `find_echo`). 1 if they are the same, 0 if unrelated.
    """

    delay: int
    correlation: float


@dataclass(slots=True)
class CallReport:
    """What is known of a call; times in seconds.

    Attributes:
        setup: From the call of `hold_call` until media could flow.
        duration: From then until the end.
        frames_sent: Audio frames of 20 ms that left.
        frames_received: Audio frames that came.
        packets_lost: Packets that never came, as far as the transport knows.
        round_trip: From playing a sound until hearing it again, or None if it did not come back.
        correlation: Likeness of what was played and what came back, delay removed (see `Echo`).
        network_round_trip: As measured by the transport itself.
        ended: How it ended, in words.
        failed: Whether it ended by itself in a way it should not have.
        messages: What the server said on the data channel, the last 100.
        recording: int16, shape (1, n), at 48 kHz.
    """

    setup: float = 0.0
    duration: float = 0.0
    frames_sent: int = 0
    frames_received: int = 0
    packets_lost: int = 0
    round_trip: float | None = None
    correlation: float | None = None
    network_round_trip: float | None = None
    ended: str = ""
    failed: bool = False
    messages: list[messages.Message] = field(default_factory=list)
    recording: NDArray[np.int16] = field(default_factory=lambda: np.zeros((1, 0), np.int16), repr=False)


async def hold_call(
    transport: Transport,
    play: NDArray[np.int16] | None,
    seconds: float,
    until: Callable[[], Awaitable[object]] = anyio.sleep_forever,
) -> CallReport:
    """Start `transport`, play into it, and listen for `seconds`, or until the other side hangs up. A checkpoint.

    Args:
        transport: Opened, not started; the caller closes it.
        play: int16, shape (1, n), at 48 kHz; followed by silence. None is silence from the beginning.
        seconds: Counted from connected.
        until: The call also ends when this returns.

    Raises:
        NegotiationTimeout: It was not connected in time.
        anyio.BrokenResourceError: It could not be connected.
    """
    began = anyio.current_time()
    _, spoken = transport.start(AudioFormat(RATE), AudioFormat(RATE))
    await transport.wait_connected()
    connected = anyio.current_time()
    report = CallReport(setup=connected - began, ended="hung up after the time was over")
    recorder, silence = _Recorder(), _Silence(transport)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_play, transport, play, spoken)
        tasks.start_soon(_record, transport, recorder)
        tasks.start_soon(_read, transport, report)
        with anyio.move_on_after(seconds) as call:
            async with anyio.create_task_group() as ends:
                ends.start_soon(_wait_until, until, report, call)
                ends.start_soon(_watch_silence, silence, report, call)
                await _wait_ended(transport, report)
                ends.cancel_scope.cancel()
        if call.cancelled_caught and not report.failed:
            _judge_silence(silence, SILENT_AT_END, report)
        tasks.cancel_scope.cancel()
    report.duration = anyio.current_time() - connected
    figures = transport.statistics()
    report.frames_sent = figures.audio_out.played // spoken.frame_size
    report.frames_received = figures.audio_in.put
    report.packets_lost = figures.packets_lost
    report.network_round_trip = figures.round_trip
    report.recording = recorder.recording()
    echo = None if play is None else find_echo(play[0], report.recording[0])
    if echo is not None:
        report.correlation = echo.correlation
        if recorder.began is not None:
            report.round_trip = recorder.began - connected - SETTLING + echo.delay / RATE
    return report


async def _wait_until(until: Callable[[], Awaitable[object]], report: CallReport, call: anyio.CancelScope) -> None:
    await until()
    report.ended = "interrupted"
    call.cancel()


class _Silence:
    """For how long a WebRTC server has sent nothing. A server that was killed cannot say goodbye."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._arrived = 0.0
        self._since = anyio.current_time()

    def seconds(self) -> float:
        """To the precision of the time between two calls; 0 on lines that themselves notice a dead peer."""
        arrived, now = self._transport.statistics().details.get("datagrams_received"), anyio.current_time()
        if arrived is None or arrived != self._arrived:
            self._arrived, self._since = arrived or 0.0, now
        return now - self._since


def _judge_silence(silence: _Silence, longest: float, report: CallReport) -> bool:
    """Whether the server has been silent for too long; then the report says so."""
    seconds = silence.seconds()
    if seconds < longest:
        return False
    report.ended, report.failed = f"the server has gone silent: nothing came for {seconds:.0f} s", True
    return True


async def _watch_silence(silence: _Silence, report: CallReport, call: anyio.CancelScope) -> None:
    while True:
        await anyio.sleep(LOOK)
        if _judge_silence(silence, SILENT, report):
            call.cancel()
            return


async def _wait_ended(transport: Transport, report: CallReport) -> None:
    try:
        await transport.wait_ended()
    except anyio.BrokenResourceError as error:
        report.failed = True
        report.ended = f"the line broke: {error.__cause__}" if error.__cause__ else "the line broke"
        return
    report.ended = "the server ended it"
    for message in report.messages:
        match message:
            case messages.EndStream(reason) if reason:
                report.ended = f"the server ended it: {reason}"
            case messages.Error(text):
                report.ended, report.failed = f"the server reported an error: {text}", True
            case _:
                pass


async def _play(transport: Transport, play: NDArray[np.int16] | None, wanted: AudioFormat) -> None:
    """Play `play`, then silence, as a microphone would: frame by frame, without a pause."""
    converter = Converter(wanted)
    silence = np.zeros((1, CHUNK), np.int16)
    position = -round(SETTLING * RATE)
    try:
        while True:
            chunk = silence
            if play is not None and 0 <= position < play.shape[1]:
                chunk = play[:, position : position + CHUNK]
            position += CHUNK
            transport.audio_out.put(converter.feed(chunk, RATE))
            await transport.audio_out.wait_for_room()
            await anyio.lowlevel.checkpoint()
    except anyio.ClosedResourceError:
        return  # the call has ended


class _Recorder:
    """Puts frames where their media time says, with silence in the gaps."""

    def __init__(self) -> None:
        self.began: float | None = None
        self._converter = Converter(AudioFormat(RATE))
        self._chunks: list[NDArray[np.int16]] = []
        self._next: int | None = None

    def feed(self, frame: AudioFrame, now: float) -> None:
        if self.began is None:
            self.began = now
        if self._next is not None and frame.pts > self._next:
            gap = (frame.pts - self._next) * RATE // frame.sample_rate
            self._chunks.append(np.zeros((1, min(gap, LONGEST_GAP)), np.int16))
        self._next = frame.pts + frame.samples.shape[1]
        self._chunks.append(self._converter.feed(frame.samples, frame.sample_rate))

    def recording(self) -> NDArray[np.int16]:
        return np.concatenate(self._chunks, axis=1) if self._chunks else np.zeros((1, 0), np.int16)


async def _record(transport: Transport, recorder: _Recorder) -> None:
    try:
        while True:
            recorder.feed(await transport.audio_in.take(), anyio.current_time())
    except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
        return


async def _read(transport: Transport, report: CallReport) -> None:
    try:
        while True:
            message = messages.decode(await transport.messages_in.take())
            report.messages = [*report.messages[-99:], message]
    except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, RemoteProtocolError):
        return


def find_echo(played: NDArray[np.int16], recorded: NDArray[np.int16]) -> Echo | None:
    """Find what was played in what was recorded; None if one of them is silent.

    The delay is the largest peak of the cross-correlation over the first minute. Then windows of half a second are each
    aligned around it (see `DRIFT`). Their correlation is taken over all of them.

    Args:
        played: int16, shape (n,).
        recorded: int16, shape (m,), at the same sample rate.
    """
    source, copy = played[:COMPARED].astype(np.float64), recorded[:COMPARED].astype(np.float64)
    if not source.any() or not copy.any():
        return None
    delay = int(np.argmax(correlate(source, copy)))
    likeness = ours = theirs = 0.0
    for start in range(0, len(source), WINDOW):
        window = source[start : start + WINDOW]
        first = max(0, start + delay - DRIFT)
        found = copy[first : start + delay + len(window) + DRIFT]
        ours += float(window @ window)
        if len(found) >= len(window) and window.any():
            products = correlate(window, found)[: len(found) - len(window) + 1]
            at = int(np.argmax(products))
            likeness += max(0.0, float(products[at]))
            found = found[at : at + len(window)]
            theirs += float(found @ found)
    energy = float(np.sqrt(ours * theirs))
    return Echo(delay, likeness / energy if energy else 0.0)


def read_audio(path: Path) -> NDArray[np.int16]:
    """The sound of a file of any kind FFmpeg reads: int16, shape (1, n), at 48 kHz.

    Raises:
        OSError: The file does not exist, or cannot be read.
        ValueError: The file has no sound in it.
    """
    resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE)
    try:
        with av.open(str(path)) as container:
            if not container.streams.audio:
                raise ValueError(f"there is no sound in {path}")
            frames = [out for frame in container.decode(audio=0) for out in resampler.resample(frame)]
    except av.error.FFmpegError as error:
        if isinstance(error, OSError):
            raise
        raise ValueError(f"{path} is not a sound file: {error.strerror}") from None
    frames += resampler.resample(None)
    if not frames:
        raise ValueError(f"there is no sound in {path}")
    return np.concatenate([frame.to_ndarray() for frame in frames], axis=1)


def write_wav(path: Path, samples: NDArray[np.int16]) -> None:
    """Write int16 samples of shape (channels, n) at 48 kHz as a WAV file."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(samples.shape[0])
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(np.ascontiguousarray(samples.T).astype("<i2").tobytes())
