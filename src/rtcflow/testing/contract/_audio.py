"""Samples: frames of any length, real time, clicks, overflows, left and right."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ...ends import EndCause
from ...frames import FRAME_SECONDS, AudioFrame
from ...handlers.base import StreamHandlerBase
from .. import signals
from .._held import AUDIBLE, is_audible, resamplers_of
from .._probe import Journal
from .._room import run_in_room
from .._scenarios import (
    ANSWERED,
    alternates,
    clicks_at_edges,
    clicks_between,
    each_half_of_another,
    hangs_up,
    interleaved,
    lateness,
    listens_to_nobody,
    misread,
    on_the_line,
    seconds_audible,
    swapped_at_edges,
    turned_around,
)
from ..caller import CallRecord, run_call
from ._sentences import CheckInput, call_options, last_journal, run_scenario, sentence


@sentence(
    "it serves a caller whose frames are of any length, read-only or a view, and come in bursts",
    "frames of 1 to 1920 samples, loud and silent, mono and stereo, some read-only, some views, in bursts",
)
def any_length(handler: StreamHandlerBase, given: CheckInput) -> None:
    rate = handler.input_sample_rate

    sizes = (rate // 50, 1, 7, 441, 333, 1023, rate // 50 + 1, 2 * rate // 50, 101)
    speech = signals.speech_like(0.2, rate, activity=1.0)

    async def call(sizes: Sequence[int]) -> tuple[CallRecord, bool]:
        async with on_the_line(handler, given.args) as caller:
            transport: Any = caller.connection.transport

            async def answered() -> bool:
                """Whether it emits something while ten usual frames come."""
                emits = len(last_journal().emits)
                for _ in range(10):
                    if caller.connection.end is None:
                        transport.audio_in.put_nowait(AudioFrame(signals.speech_like(0.02, rate, seed=7), rate, 0))
                    await caller.wait(FRAME_SECONDS)
                return len(last_journal().emits) > emits

            caller.microphone = False
            await caller.wait(0.1)
            alone = bool(last_journal().emits)  # it speaks without being spoken to
            before = await answered() and not alone
            for seed, size in enumerate((*sizes, *sizes)):
                spoken = np.roll(speech, seed, axis=1)[:, :size] * (seed < len(sizes))  # then silence
                for channels in (1, 2):
                    if caller.connection.end is None:
                        samples = np.repeat(spoken, channels, 0)
                        transport.audio_in.put_nowait(AudioFrame(_as_lines_do(samples, seed), rate, 0))
                if seed % 3 == 2:
                    await caller.wait(0.04)
            for _ in range(round(_MANY_ODD * rate / sizes[3])):  # more than a ring of a few seconds holds
                if caller.connection.end is None:
                    transport.audio_in.put_nowait(AudioFrame(signals.silence(sizes[3] / rate, rate), rate, 0))
                await caller.wait(sizes[3] / rate)
            await caller.wait(0.15)
            silent = before and caller.connection.end is None and not await answered()
        return caller.record(), silent

    for backend in given.backends:
        run = partial(run_in_room, backend=backend, handler=handler, patience=given.patience)
        record, silent = run(partial(call, sizes))
        if record.error is not None:
            raise AssertionError(f"under {backend} it raised {record.error!r}") from record.error
        if silent and not run(partial(call, [rate // 50] * len(sizes)))[1]:
            raise AssertionError(
                f"under {backend} it answers usual frames, and after frames of other lengths it does not any more: "
                "does it wait for something that such a frame does not bring?"
            )
    if not _passes_all_on(handler, given):
        _loses_nothing(handler, given)
        _waits_as_long(handler, given)


_MANY_ODD: Final = 2.5
"""Seconds of frames of an odd length."""


def _made_of(
    handler: StreamHandlerBase,
    given: CheckInput,
    spoken: float | NDArray[np.int16],
    length: float = FRAME_SECONDS,
    lasts: float = 0.0,
    *,
    tone: bool = False,
) -> float:
    """Send seconds of speech (or of a tone), or samples, in frames of a length, and nothing else; the seconds that it
    made.
    """
    rate = handler.input_sample_rate
    if isinstance(spoken, np.ndarray):
        samples = spoken
    else:
        samples = signals.tone(spoken, _TONE, rate) if tone else signals.speech_like(spoken, rate, activity=1.0)

    async def call() -> None:
        async with on_the_line(handler, given.args) as caller:
            caller.microphone = False
            transport: Any = caller.connection.transport
            size = round(length * rate)
            for begin in range(0, samples.shape[1], size):
                if caller.connection.end is None:
                    transport.audio_in.put_nowait(AudioFrame(samples[:, begin : begin + size], rate, begin))
                await caller.wait(length)
            await caller.wait(max(0.0, lasts - caller.seconds))

    run_scenario(call, handler, given)
    return sum(seconds for _, seconds in last_journal().emits)


def passes_on(handler: StreamHandlerBase, given: CheckInput) -> bool:
    """Whether it makes a second of audio of each second that it hears, as an echo does, or a filter."""
    more = _made_of(handler, given, 2 * _PASSED, lasts=5.0) - _made_of(handler, given, _PASSED, lasts=5.0)
    return abs(more - _PASSED) < 0.1 * _PASSED


def _loses_nothing(handler: StreamHandlerBase, given: CheckInput) -> None:
    """See that a handler which makes audio of what it hears does not lose a part of it all the time."""
    made = [_made_of(handler, given, n * _PASSED, lasts=5 * _PASSED, tone=True) for n in (1, 3)]
    _counts_no_frames(handler, given)
    if not _SOME < (made[1] - made[0]) / (2 * _PASSED) < _ALL:
        return
    made.append(_made_of(handler, given, 5 * _PASSED, lasts=7 * _PASSED, tone=True))
    kept = [(after - before) / (2 * _PASSED) for before, after in pairwise(made)]
    if all(_SOME < one < _ALL for one in kept) and not _sounds_in_silence(handler, given):
        raise AssertionError(
            f"of a tone that goes on it makes {100 * kept[-1]:.0f} % of its length, all the time: what comes while it "
            "works on a block is lost, or samples are taken for ones of another rate. Empty a buffer when you take "
            "from it, not when the work is done"
        )


def _counts_no_frames(handler: StreamHandlerBase, given: CheckInput) -> None:
    """See that the pieces which it made of a tone in usual frames are as long if frames are longer."""
    if (usual := _longest_piece()) < _MANY_FRAMES * FRAME_SECONDS:
        return
    _made_of(handler, given, 3 * _PASSED, 3 * FRAME_SECONDS, lasts=5 * _PASSED, tone=True)
    if abs((longer := _longest_piece()) - 3 * usual) < 0.1 * usual:
        raise AssertionError(
            f"of frames of 20 ms it makes pieces of {usual:.2f} s, and of frames of 60 ms pieces of {longer:.2f} s: it "
            "counts frames, where it means a time. A frame tells its length: count samples.shape[1]"
        )


def _waits_as_long(handler: StreamHandlerBase, given: CheckInput) -> None:
    """See that the pause after which it answers is as long if frames are longer."""
    rate = handler.input_sample_rate
    sentence = np.concatenate([signals.speech_like(1.0, rate, activity=1.0), signals.silence(2.5, rate)], axis=1)

    def pause(length: float) -> float:
        """From the last word to the answer; 0, if it says something before."""
        _made_of(handler, given, sentence, length)
        moments = [at for at, _ in last_journal().emits]
        return max(0.0, moments[0] - 1.0) if moments else 0.0

    usual = pause(FRAME_SECONDS)
    if usual < _PAUSE:
        return
    longer = pause(3 * FRAME_SECONDS)
    if abs(longer - 3 * usual) < 0.1 * usual + 3 * FRAME_SECONDS:
        raise AssertionError(
            f"in frames of 20 ms it answers {usual:.2f} s after the last word, and in frames of 60 ms after "
            f"{longer:.2f} s: it counts frames, where it means a time. A frame tells its length: "
            "samples.shape[1] / rate"
        )


_PAUSE: Final = 0.2
"""Seconds of a pause that is longer than the work on an answer."""

_MANY_FRAMES: Final = 20
"""Frames in a piece that are not counted by chance."""


def _sounds_in_silence(handler: StreamHandlerBase, given: CheckInput) -> bool:
    """Whether it makes sounds of its own, in place of passing on what it hears."""
    run_call(handler, seconds=3 * _PASSED, backend=given.on("asyncio"), **call_options(given))
    return bool(last_journal().loud)


_SOME, _ALL = 0.5, 0.94
"""Parts of what it hears that are neither an echo nor an answer to it."""


def _passes_all_on(handler: StreamHandlerBase, given: CheckInput) -> bool:
    """See that a handler which passes on what it hears does so for frames of another length, too.

    Returns:
        Whether it passes on what it hears at once, and whole.
    """
    made = _made_of(handler, given, _PASSED)
    at_once = abs(made - _PASSED) < FRAME_SECONDS and _longest_piece() < _MANY_FRAMES * FRAME_SECONDS
    _says_their_rate(handler, given)
    if abs(made - _PASSED) > 0.1 * _PASSED:
        return False
    for seconds in (FRAME_SECONDS / 2, 3 * FRAME_SECONDS, 0.95 * FRAME_SECONDS):
        if abs((heard := _made_of(handler, given, _PASSED, seconds)) - _PASSED) > 0.3 * _PASSED:
            raise AssertionError(
                f"it passes on {_PASSED:g} s of speech in frames of 20 ms whole, and makes {heard:.2f} s of it in "
                f"frames of {1000 * seconds:g} ms: frames are padded, or cut off. A frame tells its length: "
                "samples.shape[1]"
            )
    return at_once


def _longest_piece() -> float:
    return max((seconds for _, seconds in last_journal().emits), default=0.0)


def _says_their_rate(handler: StreamHandlerBase, given: CheckInput) -> None:
    """See that samples of the caller's rate are not handed on as samples of the other one. Follows `_made_of`."""
    rate, other = handler.input_sample_rate, handler.output_sample_rate
    longer = FRAME_SECONDS * rate / other
    lengths = {round(seconds, 6) for _, seconds in last_journal().emits}
    if rate == other or lengths != {round(longer, 6)}:
        return
    made = _made_of(handler, given, _PASSED, lasts=4 * _PASSED)
    if abs(made * other / rate - _PASSED) < 0.2 * _PASSED:
        raise AssertionError(
            f"of {_PASSED:g} s of speech at {rate} Hz it makes {made:.1f} s: it hands on the samples that it got as "
            f"samples of {other} Hz. The rate that comes with a frame is theirs: return (rate, samples)"
        )


_PASSED: Final = 1.2
"""Seconds of speech; a whole number of frames of 10, 20 and 60 ms. No block of 10 ms or more fits into 19 ms."""


def _as_lines_do(samples: NDArray[np.int16], seed: int) -> NDArray[np.int16]:
    """Samples as they may come from the wire: some read-only, some a view of interleaved ones."""
    if seed % 3 == 1:
        samples = np.repeat(samples, 2, axis=1)[:, ::2]
    elif seed % 3 == 2:
        samples.setflags(write=False)
    return samples


@sentence(
    "its audio comes in real time and goes on, loud samples do not wrap around, nothing clicks from frame to frame",
    "a loud tone, 6.5 s of speech, another tone; if it listens to nobody, a call of ten minutes",
)
def steady(handler: StreamHandlerBase, given: CheckInput) -> None:
    loud = np.concatenate(
        [
            signals.tone(1.0, _TONE, peak=0.9),
            signals.speech_like(4.0),
            signals.speech_like(2.5),
            signals.tone(0.5, _IN_PHASE, peak=0.9),
        ],
        axis=1,
    )
    record = run_call(handler, play=loud, seconds=8.0, backend=given.on("asyncio"), **call_options(given))
    journal = last_journal()
    emits = journal.emits
    waited, lost = journal.longest["receive"], record.statistics.transport.audio_in.dropped
    begun = journal.began["receive"] > 1 or journal.emits  # else it may wait for what starts the conversation
    if waited > 2.0 and lost and begun:
        raise AssertionError(
            f"receive did not return for {waited:.1f} s, and {lost} frames of the caller were lost meanwhile: it waits "
            "for what does not come, for example for room in a queue that nobody empties"
        )
    _goes_on(handler, given, record, emits)
    _makes_real_time(journal)
    alone = run_call(handler, seconds=8.0, backend=given.on("asyncio"), **call_options(given))
    keeps_no_tail(handler, alone)
    if clicks_between(list(last_journal().emitted)):
        raise AssertionError(
            "each piece of what it says of itself begins with a click: it does not go on where the one before it "
            "ended. Keep the phase, or count the samples, from one piece to the next"
        )
    _makes_real_time(last_journal())  # what speaks of itself may fall silent for a caller who speaks
    _leaves_no_holes(last_journal())
    if sum(seconds for at, seconds in emits if at < 4) > 0.5 and not any(at > 5 for at, _ in emits):
        alone = run_call(handler, seconds=4.0, backend=given.on("asyncio"), **call_options(given))
        if record.end.cause is not EndCause.HANDLER_CLOSED and not alone.audio_seconds:
            raise AssertionError(
                "it answers a caller in the first seconds, and then falls silent, although the caller goes on: "
                "emit waits for what does not come, or an error was swallowed"
            )
    size = record.sample_rate // 50
    heard = [record.audio[:, at : at + size] for at in range(0, record.audio.shape[1] - size, size)]
    emitted = [one.buffer for one in journal.given["emit"] if isinstance(one.buffer, np.ndarray)]
    if max(sum(map(interleaved, pieces)) for pieces in (heard, emitted)) > _FEW:
        raise AssertionError(
            "the caller spoke with one voice, and what emit returns as stereo holds each sample twice in a row, louder "
            "or softer, and on the right another piece than on the left: L R L R … was reshaped to (2, n). From one "
            "channel write "
            "np.repeat(samples, 2, axis=0), from interleaved ones samples.reshape(-1, 2).T"
        )
    pieces = [piece for piece in heard if is_audible(piece)]
    if sum(map(alternates, pieces)) > max(_FEW, 0.8 * len(pieces)):
        raise AssertionError(
            "every second sample of a channel belongs to another sound: L R L R … was reshaped to (2, n), or taken for "
            "one channel. From interleaved samples write samples.reshape(-1, 2).T"
        )
    last = [one for one in journal.given["emit"] if isinstance(one.buffer, np.ndarray) and one.buffer.ndim == 2]
    if swapped_at_edges([one.buffer for one in last if one.buffer.shape[0] == 2]):
        raise AssertionError(
            "left and right change sides from one piece of its audio to the next: L R L R … was cut after an odd "
            "number of samples. Cut it at an even one, and keep the rest for the next piece"
        )
    found = Counter(misread(one.buffer[0], one.buffer.size / one.seconds, _IN_PHASE) for one in last if one.seconds)
    for way, cure in _MISREAD.items():
        if found[way] > _FEW:
            raise AssertionError(
                f"a tone comes back as noise, and is a tone again with another {way}: samples were taken for others; "
                f"they are signed, with the low byte first: {cure}"
            )
    audio = record.audio.astype(np.int32)
    jumps = int(np.count_nonzero(np.abs(np.diff(audio, axis=1)) > _JUMP))
    if jumps >= _MOST_JUMPS:
        raise AssertionError(
            f"{jumps} times a sample is at the other end of the scale than the one before it, as when int16 overflows; "
            "compute in float32 or int32, and np.clip(…, -32768, 32767) before astype(np.int16)"
        )
    if journal.steps["32768"] >= max(_MOST_JUMPS, 0.9 * journal.steps["much"]) and len(journal.levels) > 2:
        run_call(handler, seconds=2.0, backend=given.on("asyncio"), **call_options(given))
        if not last_journal().steps["32768"]:  # else it is a sound of its own, such as a square wave
            raise AssertionError(
                f"{journal.steps['32768']} samples differ from the one before by 32,768: int16 overflowed where they "
                "were added or scaled, as in (a + b) // 2; compute in float32 or int32, and np.clip(…, -32768, 32767) "
                "before astype(np.int16)"
            )
    if clicks_at_edges(record.audio, record.sample_rate, _TONE):
        raise AssertionError(
            "a steady tone comes back with a click in each frame, or bent: a filter or a resampler begins again there; "
            "keep what it remembers from one frame to the next"
        )


def keeps_no_tail(handler: StreamHandlerBase, record: CallRecord) -> None:
    """See that the end of what it said, a second before the end of this call, is not still in a resampler."""
    over = max((at + seconds for at, seconds in last_journal().emits), default=math.inf)
    if over > record.seconds - 1.0:
        return
    shared = set(map(id, resamplers_of(handler).values()))
    for name, resampler in resamplers_of(record.handler).items():
        if id(resampler) in shared or resampler.rate != handler.output_sample_rate:
            continue
        try:
            left = [frame.to_ndarray() for frame in resampler.resample(None)]
        except (ValueError, EOFError):  # it was flushed already, or has had nothing to do
            continue
        loudest = max((float(np.abs(one / _FULL.get(one.dtype.kind, 1)).max(initial=0.0)) for one in left), default=0.0)
        if loudest * 32768 > AUDIBLE:
            raise AssertionError(
                f".{name} still holds the last {sum(one.size for one in left)} samples of what it said: nobody hears "
                "them, or they come at the beginning of what is said next. Flush a resampler at the end of a clip "
                "(resample(None)), and make a new one for the next"
            )


_FULL: Final = {"i": 32768.0}
"""Full scale of samples that are integers."""


def _makes_real_time(journal: Journal) -> None:
    """See that each piece of audio comes before the one before it is over."""
    emits = journal.emits
    late = lateness(emits)
    enough = len(late) >= (_MANY_LATE if not late or late[0] < 0.1 else _FEW_LATE)
    steadily = enough and float(np.std(late)) < 0.1 * float(np.mean(late))
    little = [gap for gap in late if gap < 0.1]
    # emit is asked for more when little is left. One that then waits for as long as a long piece lasts leaves a gap.
    long = [(took, seconds) for took, (_, seconds) in zip(journal.took, emits, strict=True) if seconds > _LONG]
    paused = [wait for wait, (_, seconds) in zip(journal.paused, emits, strict=True) if seconds > _LONG]
    if long and all(wait > seconds for wait, (_, seconds) in zip(paused, long, strict=True)):
        return  # a wait with a limit that is longer than the audio is a pause that is meant
    told = len(long) >= _FEW_LONG and all(seconds + 0.001 < took < 1.3 * seconds for took, seconds in long)
    sleeps = [one for one, (_, seconds) in zip(journal.slept, emits, strict=True) if seconds > _LONG]
    slow = len(long) >= _FEW_SLEEPS and all(seconds + 0.001 < took < 2.5 * seconds for took, seconds in long)
    if told or (slow and all(sleeps)):
        raise AssertionError(
            f"emit makes less than real time: it took {long[0][0]:.2f} s for {long[0][1]:.2f} s of audio, {len(long)} "
            "times. It need not wait while its audio is played: rtcflow asks for more in time"
        )
    if steadily or (len(little) >= _MOST_LATE and sum(little) >= _LATEST):
        raise AssertionError(
            f"emit makes less than real time: {len(late)} pieces in 8 s came {1000 * float(np.median(late)):.2f} ms "
            "too late. Either its audio is shorter than what it heard, or time for the work comes on top of a sleep: "
            "wait until a deadline that you count up instead"
        )


def _leaves_no_holes(journal: Journal) -> None:
    """See that a handler which makes piece after piece does not begin with one when the one before it is over."""
    over, holes = 0.0, list[float]()
    for (at, seconds), below in zip(journal.emits, journal.slept_below, strict=True):
        holes.append(at - over if below > max(at - over - 0.05, _HOLE) else 0.0)
        over = max(over, at) + seconds
    if len(holes) > _FEW_HOLES and all(_HOLE < one < 1.0 for one in holes[1:]) and min(journal.emits)[1] > _LONG:
        raise AssertionError(
            f"after each piece of its audio comes a hole of {float(np.median(holes[1:])):.2f} s: emit is asked when "
            "the piece before is nearly over, and only then begins to make the next one. Make it meanwhile: in "
            "start_up, with a queue to emit (a pause that is meant belongs into the audio)"
        )


_HOLE, _FEW_HOLES = 0.03, 3
"""Seconds of a hole between two pieces that can be heard; and how many pieces tell enough."""


def _goes_on(
    handler: StreamHandlerBase, given: CheckInput, record: CallRecord, emits: Sequence[tuple[float, float]]
) -> None:
    """See that a handler which nobody can reach speaks on, or hangs up. What listens may wait for its caller."""
    spoken, last = sum(seconds for _, seconds in emits), emits[-1][0] if emits else 0.0
    over = record.end.cause is EndCause.HANDLER_CLOSED or record.texts() or record.outputs
    least = ANSWERED if hangs_up(handler) else 1.0  # one that means to hang up has come to its end
    if over or spoken < least or last > 5.0 or not listens_to_nobody(handler):
        return

    async def wait() -> CallRecord:
        async with on_the_line(handler, given.args) as caller:
            caller.microphone = False
            await caller.wait(_TEN_MINUTES)
        return caller.record()

    record = run_scenario(wait, handler, given)
    emits = last_journal().emits
    over = record.end.cause is not EndCause.PEER_LEFT or record.texts() or record.outputs
    says_so = last_journal().began["emit"] > len(emits) + _RETURNS_NONE  # it is asked, and has nothing to say
    if emits and emits[-1][0] < 10.0 and not over and not says_so:
        raise AssertionError(
            f"it says something for {sum(seconds for _, seconds in emits):.1f} s and then nothing more, nobody can "
            "reach it (receive does nothing), and it does not hang up; return CloseStream() after the last piece"
        )


_TEN_MINUTES: Final = 600.0

_RETURNS_NONE: Final = 100
"""How often `emit` says that it has nothing to say."""

_TONE: Final = 310.0
"""Hz; no whole number of its waves makes a frame, so each frame begins at another place of the wave."""


@sentence(
    "what a stereo handler hears on the left it does not play on the right",
    "500 Hz on the left, 1300 Hz on the right",
)
def sides(handler: StreamHandlerBase, given: CheckInput) -> None:
    if handler.expected_layout != "stereo":
        return
    both = np.concatenate([signals.tone(1.0, 500), signals.tone(1.0, 1300)])
    record = run_call(handler, play=both, backend=given.on("asyncio"), **call_options(given))
    alone = run_call(handler, seconds=record.seconds, backend=given.on("asyncio"), **call_options(given))
    if seconds_audible(alone.heard) > 0.7 * seconds_audible(record.heard):
        return  # most of what it plays is its own
    if turned_around(record.audio, record.sample_rate, 500, 1300):
        raise AssertionError("left and right are exchanged; samples have the shape (channels, n), left first")
    if each_half_of_another(record.audio, record.sample_rate, 500, 1300):
        raise AssertionError(
            "each frame comes back as the left side, twice as high, and then the right side: (2, n) was taken for "
            "L R L R …; left is samples[0], and right is samples[1]"
        )


_FEW_LATE, _MANY_LATE = 8, 150
"""Pieces that come too late by the same time, however short: a sample of each is missing."""

_LONG, _FEW_LONG = 0.3, 4
"""Seconds of a piece that is longer than what waits when `emit` is asked again; and how many of them tell enough."""

_FEW_SLEEPS: Final = 3
"""How many of them tell enough, if `emit` slept for as long as each of them lasts."""

_IN_PHASE: Final = 250.0
"""Hz; five waves in a frame, so it is loudest where frames are added."""

_MISREAD: Final = {
    "byte order": 'write np.frombuffer(data, "<i2")',
    "sign": "write array.astype(np.int16), and subtract 32768 only from unsigned ones",
}

_FEW: Final = 5
"""Pieces of audio that may look interleaved by chance."""

_MOST_LATE, _LATEST, _MOST_JUMPS, _JUMP = 10, 0.04, 20, 40000
