"""What `check_handler` plays and measures: calls with audio in groups, and the arithmetic of what came back."""

from __future__ import annotations

import inspect
import math
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Final

import anyio.lowlevel
import numpy as np
from numpy.typing import NDArray

from ..ends import EndCause
from ..frames import FRAME_SECONDS, AudioFrame
from ..handlers.base import AsyncStreamHandler, StreamHandlerBase
from ..protocol import messages
from . import signals
from ._held import AUDIBLE, arrays_in, is_audible, queues_of, slots_of
from ._limits import HandlerLimits, Limit
from ._queued_arrays import checksum
from ._sharing import own_functions
from ._tracing import Switches
from .caller import Caller, CallRecord, HeardFrame, open_caller

__all__ = [
    "ANSWERED",
    "COUGH",
    "LISTENS",
    "Answered",
    "Asked",
    "AtRest",
    "Interruption",
    "Pressed",
    "Waited",
    "alternates",
    "answered_texts",
    "asked_after_a_cough",
    "asked_again",
    "asked_often",
    "begins_with_another",
    "clicks_at_edges",
    "clicks_between",
    "each_half_of_another",
    "greeted",
    "hangs_up",
    "in_groups",
    "interleaved",
    "interrupted",
    "kept_for_the_next",
    "lateness",
    "left_unsaid",
    "listens_to_nobody",
    "misread",
    "moments_audible",
    "moments_of_acts",
    "names_in",
    "never_silent",
    "numbers_in",
    "on_the_line",
    "pressed",
    "seconds_audible",
    "seconds_between",
    "swapped_at_edges",
    "taken_back",
    "talked_to",
    "turned_around",
    "waited",
]

SLOW_CAMERA: Final = 10
"""Pictures a second of a caller in whose call it is not about them: each costs as much as several frames of audio."""


def on_the_line(
    handler: StreamHandlerBase, args: Sequence[Any] | None, **options: Any
) -> AbstractAsyncContextManager[Caller]:
    """A call as `open_caller` makes it, in which an error of the handler is kept in the record.

    Args:
        handler: The handler.
        args: What it gets when it asks for arguments; None, if nobody answers.
        options: Others of `open_caller`.
    """
    options.setdefault("fps", SLOW_CAMERA)
    return open_caller(handler, args=None if args is None else list(args), catch=True, **options)


PAUSE: Final = 0.3
"""Seconds after a group of frames in which a handler has answered the last one."""


@dataclass(frozen=True)
class Asked:
    """The calls of `emit` so far: how many, how many pieces of audio they gave, and whether one runs."""

    calls: int
    emits: int
    runs: bool


@dataclass(frozen=True)
class AtRest:
    """What a handler still has when it has come to rest after a group of frames.

    Attributes:
        arrays: How many arrays it holds.
        forgotten: The attributes with one array that came with this group, and was not emitted.
        asked: Whether `emit` waits for something. If it does not, enough waits to be played, and what is left is next.
        line: Before which a thread was held up in this group, in words; empty for several or none.
    """

    arrays: int
    forgotten: tuple[str, ...]
    asked: bool
    line: str = ""


async def in_groups(
    handler: StreamHandlerBase,
    args: Sequence[Any],
    tracer: Switches | None = None,
    *,
    emitted: Callable[[], Collection[int]],
    asked: Callable[[], Asked],
    usual: Sequence[int] = (),
    spaced: bool = False,
    pause: float = PAUSE,
) -> tuple[list[AtRest], BaseException | None]:
    """Send audio in groups; return what the handler still has after each, and what it raised.

    Three frames for an async handler come at one moment, so that only the order of its tasks decides. Three frames for
    a sync handler come every 10 ms, and a fourth one while `tracer` holds up one of its threads, or 50 ms later.

    Args:
        handler: The handler.
        args: What it gets when it asks for arguments.
        tracer: Holds up its threads.
        emitted: Gives the checksums of the arrays that it has emitted.
        asked: Tells of the calls of its `emit`.
        usual: How many arrays it has after each group in the usual order.
        spaced: Send a frame every 20 ms, as usual, in place of groups.
        pause: Seconds after a group in which the last frame of it is answered.
    """
    held: list[AtRest] = []
    is_async = isinstance(handler, AsyncStreamHandler)
    rate, groups, frames = handler.input_sample_rate, *((5, 3) if is_async else (6, 4))
    samples = signals.speech_like(0.02, rate, seed=3)
    async with on_the_line(handler, args) as caller:
        caller.microphone = False
        await caller.wait(0.02)
        transport: Any = caller.connection.transport
        for group in range(groups):
            before = {name: id(array) for name, array in slots_of(caller.handler).items()}
            if tracer is not None:
                tracer.begin_group()
            for n in range(frames):
                if caller.connection.end is None:
                    frame = np.roll(samples, 5 * (group * frames + n), axis=1)  # another one each time
                    transport.audio_in.put_nowait(AudioFrame(frame, rate, 0))
                if spaced:
                    await caller.wait(FRAME_SECONDS)
                elif is_async:
                    await anyio.lowlevel.checkpoint()
                elif n < frames - 2:
                    await caller.wait(0.01)
                else:
                    for _ in range(5):
                        await caller.wait(0.01)
                        if n < frames - 1 and tracer is not None and tracer.holds:
                            break
            if tracer is not None:
                tracer.active = False
            await caller.wait(pause)
            if tracer is not None:
                tracer.wait_free()
                await caller.wait(pause)
                for _ in range(OWN_PAUSES):
                    if group >= len(usual) or len(arrays_in(caller.handler)) <= usual[group] or not tracer.own_threads:
                        break
                    tracer.let_run()
                    await caller.wait(FRAME_SECONDS)
            said = emitted()
            new = [(name, array) for name, array in slots_of(caller.handler).items() if before.get(name) != id(array)]
            forgotten = tuple(name for name, array in new if checksum(array) not in said)
            line = str(tracer.line) if tracer and tracer.line else ""
            one = asked()
            await caller.wait(0.1)
            other = asked()
            waits = other.emits == one.emits and (other.runs or other.calls > one.calls)
            held.append(AtRest(len(arrays_in(caller.handler)), forgotten, waits, line))
    return held, caller.record().error


OWN_PAUSES: Final = 25
"""How often threads of the handler's own are given time, for which virtual time does not wait."""


@dataclass(frozen=True)
class Interruption:
    """What the caller heard of a handler in `interrupted`.

    Attributes:
        began: When the caller began to speak, in seconds of call time: after a greeting.
        asked: When they had said the first sentence.
        again: When they began the second one.
        heard: When something could be heard, frame by frame.
        cleared: Whether the handler itself cleared its queue while the caller said the second sentence.
        error: What the handler raised.
    """

    began: float
    asked: float
    again: float
    heard: tuple[float, ...]
    cleared: bool
    error: BaseException | None

    def seconds(self, begin: float, end: float) -> float:
        """Seconds that could be heard between two moments."""
        return seconds_between(self.heard, begin, end)

    @property
    def answer(self) -> list[float]:
        """When something could be heard after the first sentence."""
        return [at for at in self.heard if at > self.asked]

    @property
    def over_the_caller(self) -> float:
        """Seconds that could be heard while the caller said the second sentence; `NOTICES` seconds after its beginning
        nothing should be.
        """
        return self.seconds(self.again + NOTICES, self.again + SECOND)


NOTICES: Final = 0.6
"""Seconds in which a detector of speech notices an interruption."""

FIRST, SECOND = 1.0, 1.5
"""Seconds of the two sentences."""


async def greeted(caller: Caller) -> bool:
    """Wait until nothing was said for half a second; at most `GREETING` seconds, and that once: see `never_silent`.

    Returns:
        Whether it is silent now.
    """
    begins = caller.seconds < FRAME_SECONDS
    await caller.wait(1.0)  # one that is still being made
    before = never_silent.get()
    for _ in range(1 if before else round(2 * GREETING)):
        if not seconds_audible(caller.heard, caller.seconds - 0.5):
            return True
        await caller.wait(0.5)
    if before is not None and begins:
        before.append(caller.handler)
    return False


never_silent: ContextVar[list[StreamHandlerBase] | None] = ContextVar("rtcflow_never_silent", default=None)
"""The copies of the handler that is looked at, which never came to an end of what they said."""


GREETING: Final = 12.0
"""The longest greeting that is waited for."""

ANSWERED: Final = 0.3
"""Seconds of sound that are an answer."""

QUESTION: Final = 1.06
"""Seconds: 53 frames, so blocks of two frames or more are not all full at its end."""


FADE: Final = 0.04
"""Seconds in which it begins, and ends."""


async def interrupted(
    handler: StreamHandlerBase, args: Sequence[Any], pause: float | None, *, greeting: bool = False
) -> Interruption:
    """Say a sentence, and `pause` seconds later another one; or (None) wait for the answer.

    Args:
        handler: The handler.
        args: What it gets when it asks for arguments.
        pause: See above.
        greeting: Say the second one alone, `pause` seconds after the call has begun.
    """
    async with on_the_line(handler, args) as caller:
        began = asked = 0.0
        if not greeting:
            await greeted(caller)
            began = caller.seconds
            await caller.play(signals.speech_like(FIRST, seed=1, activity=1.0))
            asked = caller.seconds
        await caller.wait(4.0 if pause is None else pause)
        again, player = caller.seconds, caller.connection.transport.audio_out
        before = player.clears
        if pause is not None:
            await caller.play(signals.speech_like(SECOND, seed=2, activity=1.0))
        cleared = player.clears > before
    record = caller.record()
    heard = moments_audible(record.heard)
    return Interruption(began, asked, again, heard, cleared, record.error)


@dataclass(frozen=True)
class Pressed:
    """The result of a key that the caller pressed.

    Attributes:
        seconds: For how long they listened.
        heard: When something could be heard, frame by frame, in seconds of call time.
        did: Whether the handler wrote something or hung up.
        samples: What could be heard at these moments.
    """

    seconds: float
    heard: tuple[float, ...]
    did: bool
    samples: tuple[bytes, ...]

    def audible(self, begin: float, end: float) -> float:
        """Seconds that could be heard between two moments."""
        return seconds_between(self.heard, begin, end)

    def says_otherwise(self, other: Pressed, begin: float, end: float) -> float:
        """Seconds between two moments that could be heard, and were not the same in the other call."""
        same = {round(at, 3): samples for at, samples in zip(other.heard, other.samples, strict=True)}
        mine = zip(self.heard, self.samples, strict=True)
        return seconds_between([at for at, samples in mine if same.get(round(at, 3)) != samples], begin, end)

    @property
    def first_words(self) -> tuple[float, float] | None:
        """When the first words began, and when they ended, with a pause of half a second."""
        if not self.heard:
            return None
        ends = (one for one, other in pairwise((*self.heard, math.inf)) if other - one > 0.5)
        return self.heard[0], next(ends) + FRAME_SECONDS


async def pressed(handler: StreamHandlerBase, args: Sequence[Any], digit: str, at: float) -> Pressed:
    """Say nothing, and press a key at a moment; none, if `digit` is empty."""
    async with on_the_line(handler, args) as caller:
        await caller.wait(at)
        if digit and caller.connection.end is None:
            caller.transport.press(digit)
        await caller.wait(LISTENS - at)
        ended = caller.connection.end is not None
    record = caller.record()
    heard = moments_audible(record.heard)
    samples = tuple(one.frame.samples.tobytes() for one in record.heard if is_audible(one.frame.samples))
    return Pressed(LISTENS, heard, ended or bool(record.texts() or record.outputs), samples)


async def taken_back(handler: StreamHandlerBase, args: Sequence[Any], text: str, spoken: float) -> tuple[bool, float]:
    """Say something, and then send a text or a key.

    Args:
        handler: The handler.
        args: What it gets when it asks for arguments.
        text: As it goes over the data channel.
        spoken: Seconds of speech; 0 to say nothing.

    Returns:
        Whether the handler cleared its queue then, and the seconds that could be heard in the two seconds after it, if
        they began at once.
    """
    async with on_the_line(handler, args) as caller:
        player = caller.connection.transport.audio_out
        if spoken:
            await caller.play(signals.speech_like(spoken, seed=1, activity=1.0))
        else:
            await caller.wait(1.0)
        if caller.connection.end is not None:
            return False, 0.0
        before = player.clears
        caller.send_message(text)
        await caller.wait(0.1)
        cleared, since = player.clears > before, caller.seconds
        await caller.wait(UNDER_WAY - 0.1)
        if not seconds_audible(caller.heard, since):  # what comes later answers the pause
            return cleared, 0.0
        await caller.wait(1.5)
        return cleared, seconds_audible(caller.heard, since)


async def asked_again(
    handler: StreamHandlerBase, args: Sequence[Any], text: str, pause: float | None
) -> tuple[bool, float]:
    """Send a text or a key, and again `pause` seconds later; not, if it is None.

    Returns:
        Whether the handler cleared its queue at the last one, and the seconds that could be heard after it.
    """
    async with on_the_line(handler, args) as caller:
        player = caller.connection.transport.audio_out
        await greeted(caller)
        before = player.clears
        for wait in (pause, 8.0):
            since = caller.seconds
            if wait is not None and caller.connection.end is None:
                before = player.clears
                caller.send_message(text)
                await caller.wait(wait)
        return player.clears > before, seconds_audible(caller.heard, since)


UNDER_WAY: Final = 0.45
"""Seconds in which what was being made is said; detectors wait for half a second of silence before a new answer."""


LISTENS: Final = 15.0
"""Seconds for which the caller listens."""


@dataclass(frozen=True)
class Waited:
    """What a handler did whose caller is silent, at least for long.

    Attributes:
        limits: The limits that ran out, on the clock of the call.
        heard: When something could be heard, frame by frame, in seconds of call time.
        acts: When it wrote something, put something out, or hung up.
        closed: When it hung up; inf if it did not.
    """

    limits: tuple[Limit, ...]
    heard: tuple[float, ...]
    acts: tuple[float, ...]
    closed: float

    def heard_until(self, begin: float) -> float:
        """When there is silence for 0.3 s, after what is said at this moment, or is about to be."""
        until = begin
        for at in self.heard:
            if until - FRAME_SECONDS <= at < until + 0.3:
                until = at + FRAME_SECONDS
        return until

    def does(self, at: float) -> bool:
        """Whether it says or does something at this moment."""
        return any(at - 0.05 < one < at + 0.6 for one in (*self.heard, *self.acts))


async def waited(
    handler: StreamHandlerBase,
    args: Sequence[Any],
    limits: HandlerLimits,
    *,
    asks: bool,
    act: Callable[[Caller], Awaitable[None]] | None = None,
    at: float = 0.0,
) -> Waited:
    """Be silent for `LISTENS` seconds.

    Args:
        handler: The handler.
        args: What it gets when it asks for arguments.
        limits: Notes those that run out.
        asks: Say one sentence first.
        act: What the caller does then; None for nothing.
        at: When.
    """
    async with on_the_line(handler, args) as caller:
        began = limits.now() - caller.seconds
        limits.found.clear()
        if asks:
            await caller.play(signals.speech_like(FIRST, seed=1, activity=1.0))
        if act is not None:
            await caller.wait(at - caller.seconds)
            await act(caller)
        await caller.wait(LISTENS - caller.seconds)
        found = tuple(replace(one, begun=one.begun - began) for one in limits.found)
    record = caller.record()
    heard = moments_audible(record.heard)
    closed = record.seconds if record.end.cause is EndCause.HANDLER_CLOSED else math.inf
    return Waited(found, heard, (*moments_of_acts(record), closed), closed)


@dataclass(frozen=True)
class Answered:
    """What the caller heard from the beginning of a question to the next one.

    Attributes:
        seconds: For how long something could be heard after the question.
        samples: All of it, in one channel, without the silence before and after.
        ended: Whether there was silence for half a second after it.
    """

    seconds: float
    samples: NDArray[np.int16]
    ended: bool


async def asked_often(handler: StreamHandlerBase, args: Sequence[Any]) -> list[Answered]:
    """Ask the same question four times: at the beginning of the call, after 4 s, 14 s and 31 s.

    Fewer, if the call ends before, or the first two are not answered.
    """
    answers: list[Answered] = []
    rate = handler.output_sample_rate
    question = signals.speech_like(QUESTION, rate, seed=1, activity=1.0)
    fade = np.minimum(1.0, np.arange(question.shape[1]) / (FADE * rate)) ** 2
    question = (question * fade * fade[::-1]).astype(np.int16)  # so that what breaks off is something else
    async with on_the_line(handler, args, sample_rate=rate) as caller:
        for at in (0.2, 4.2, 14.2, 31.2):
            await caller.wait(at - caller.seconds)
            began = caller.seconds
            await caller.play(question)
            asked = caller.seconds
            await caller.wait(2.8)
            if caller.connection.end is not None:
                break
            heard = [one.frame.samples[0] for one in caller.heard if one.at > began]
            samples = np.concatenate(heard) if heard else np.empty(0, np.int16)
            at_all = np.flatnonzero(samples)
            samples = samples[at_all[0] : at_all[-1] + 1] if at_all.size else samples[:0]
            ended = not seconds_audible(caller.heard, caller.seconds - 0.5)
            answers.append(Answered(seconds_audible(caller.heard, asked), samples, ended))
            if len(answers) == 2 and not any(one.seconds > ANSWERED for one in answers):
                break
    return answers


async def answered_texts(
    handler: StreamHandlerBase, args: Sequence[Any], texts: Sequence[str]
) -> list[NDArray[np.int16]]:
    """Write one text after the other; the samples of what could be heard after each, without silence around.

    Fewer, if the call ends before.
    """
    answers: list[NDArray[np.int16]] = []
    async with on_the_line(handler, args) as caller:
        await greeted(caller)
        for text in texts:
            asked = caller.seconds
            caller.send_message(text)
            await caller.wait(2.0)
            await greeted(caller)
            if caller.connection.end is not None:
                break
            heard = [one.frame.samples[0] for one in caller.heard if one.at >= asked]
            samples = np.concatenate([np.empty(0, np.int16), *heard])
            at_all = np.flatnonzero(samples)
            answers.append(samples[at_all[0] : at_all[-1] + 1] if at_all.size else samples[:0])
    return answers


def begins_with_another(one: NDArray[np.int16], other: NDArray[np.int16], rate: int) -> float:
    """Seconds of sound before what two answers have in common, if they have all but their beginnings in common.

    Args:
        one: An answer.
        other: To the same question, after another answer.
        rate: Hz.
    """
    probe, most = rate // 4, rate // 5
    if min(one.size, other.size) < 2 * probe:
        return 0.0
    for shift in sorted(range(-most, most + 1), key=abs):
        both = min(one.size, other.size - shift) - probe
        if both < probe or not _alike(one[probe : probe + 64], other[probe + shift : probe + shift + 64]):
            continue
        # The ends may have been cut off in two ways.
        body = max(probe, both - most)
        if not _alike(one[probe : probe + body], other[probe + shift : probe + shift + body]):
            continue
        first = max(0, -shift)
        different = np.flatnonzero(
            np.abs(np.subtract(one[first:probe], other[first + shift : probe + shift], dtype=np.int32)) > _ROUNDED_TWICE
        )
        begins = first + (int(different[-1]) + 1 if different.size else 0)
        before = max(one[:begins], other[: begins + shift], key=len)
        return before.size / rate if rate // 100 < before.size <= most and is_audible(before) else 0.0
    return 0.0


async def asked_after_a_cough(handler: StreamHandlerBase, args: Sequence[Any]) -> float | None:
    """Make a sound too short for a word, then ask a question twice; the seconds that could be heard after them.

    None if the sound itself was answered, or the call ended.
    """
    question = signals.speech_like(QUESTION, seed=1, activity=1.0)
    async with on_the_line(handler, args) as caller:
        await greeted(caller)
        await caller.play(signals.speech_like(COUGH, seed=1, activity=1.0))
        since = caller.seconds
        await caller.wait(2.0)
        if seconds_audible(caller.heard, since):
            return None
        since = caller.seconds
        for _ in range(2):
            await caller.play(question)
            await caller.wait(2.8)
        return seconds_audible(caller.heard, since) if caller.connection.end is None else None


COUGH: Final = 0.2
"""Seconds of a sound without words."""


def kept_for_the_next(answers: Sequence[Answered], rate: int) -> float:
    """Seconds of each answer that come at the beginning of the next one only; 0 if each is said to its end.

    The first answer then breaks off. The second one begins in the middle of a sound, goes on as the first one did, and
    so does the third. The sound before that ends alike in both: it is the end of the answer.

    Args:
        answers: To the same question.
        rate: Hz.
    """
    if len(answers) < 3 or not all(one.ended for one in answers):
        return 0.0
    first, second, third = (one.samples for one in answers[:3])
    edge = rate // 200
    ends = [one[:begin] for one in (second, third) if (begin := _begins_again(one, first, rate)) is not None]
    if len(ends) < 2 or not is_audible(first[-edge:]):
        return 0.0
    both = min(end.size for end in ends)
    if both < edge or not all(is_audible(end[:edge]) for end in ends):
        return 0.0
    return ends[0].size / rate if _alike(ends[0][-both:], ends[1][-both:]) else 0.0


def _begins_again(answer: NDArray[np.int16], first: NDArray[np.int16], rate: int) -> int | None:
    """Where in its first half second `answer` begins to be what `first` is, to the end of one of them."""
    edge, loud = rate // 200, np.flatnonzero(np.abs(first, dtype=np.int32) > AUDIBLE)
    if first.size < rate // 5 or not loud.size or answer.size < loud[0] + rate // 2 + edge:
        return None
    places = np.lib.stride_tricks.sliding_window_view(answer[loud[0] : loud[0] + rate // 2], edge)
    off = np.abs(np.subtract(places, first[loud[0] : loud[0] + edge], dtype=np.int32)).max(axis=1)
    for place in np.flatnonzero(off <= _ROUNDED_TWICE).tolist():
        both = min(first.size, answer.size - place)
        if both >= first.size // 2 and _alike(answer[place : place + both], first[:both]):
            return int(place)
    return None


def _alike(one: NDArray[np.int16], other: NDArray[np.int16]) -> bool:
    return bool(np.abs(np.subtract(one, other, dtype=np.int32)).max(initial=0) <= _ROUNDED_TWICE)


_ROUNDED_TWICE: Final = 4
"""By how much a sample may be off that went through a resampler."""


def moments_audible(heard: Sequence[HeardFrame]) -> tuple[float, ...]:
    """When something could be heard, frame by frame."""
    return tuple(one.at for one in heard if is_audible(one.frame.samples))


def moments_of_acts(record: CallRecord) -> tuple[float, ...]:
    """When a handler wrote something to its application's page, or put something out."""
    texts = (at for at, text in record.messages if isinstance(messages.decode(text), messages.AppMessage))
    return *texts, *(at for at, _ in record.outputs)


def seconds_between(moments: Sequence[float], begin: float, end: float) -> float:
    """Seconds that could be heard between two moments."""
    return FRAME_SECONDS * sum(begin <= at < end for at in moments)


def seconds_audible(heard: Sequence[HeardFrame], since: float = 0.0) -> float:
    """Seconds of what was heard since then, as far as it can be heard."""
    return sum(one.frame.duration for one in heard if one.at > since and is_audible(one.frame.samples))


async def left_unsaid(
    handler: StreamHandlerBase, args: Sequence[Any], emitted: Callable[[], Collection[int]]
) -> tuple[str, float] | None:
    """Say a sentence, and be silent for 40 s. If the handler hangs up meanwhile: what it still had to say.

    Args:
        handler: The handler.
        args: What it gets when it asks for arguments.
        emitted: Gives the checksums of the arrays that it has emitted in the last second.

    Returns:
        The attribute from which it has emitted before, and the seconds of audio that are left in it.
    """
    seen: dict[str, set[int]] = {}
    said: set[int] = set()
    async with on_the_line(handler, args) as caller:
        await caller.wait(0.2)
        await caller.play(signals.speech_like(FIRST, seed=1, activity=1.0))
        for _ in range(80):
            await caller.wait(0.5)
            said.update(emitted())
            if caller.connection.end is not None:
                break
            for name, arrays in queues_of(caller.handler).items():
                seen.setdefault(name, set()).update(map(checksum, arrays))
    if caller.record().end.cause is not EndCause.HANDLER_CLOSED:
        return None
    for name, arrays in queues_of(caller.handler).items():
        left = [array for array in arrays if checksum(array) not in said]
        if left and seen.get(name, set()) & said - set(map(checksum, arrays)):  # what is said goes out of it
            return name, sum(array.shape[-1] for array in left) / handler.output_sample_rate
    return None


async def talked_to(handler: StreamHandlerBase, args: Sequence[Any], seconds: float, *, pauses: bool) -> float | None:
    """Talk to a handler for `seconds`, with a pause after each sentence or with none; when it hung up meanwhile."""
    sentence = signals.speech_like(2.0, seed=1, peak=0.8, activity=1.0)
    if pauses:
        sentence = np.concatenate([sentence[:, : 3 * sentence.shape[1] // 4], 0 * sentence[:, :20000]], axis=1)
    async with on_the_line(handler, args) as caller:
        await caller.wait(0.2)
        caller.play_nowait(np.tile(sentence, math.ceil(24000 * seconds / sentence.shape[1])))
        while caller.seconds < seconds and caller.connection.end is None:
            await caller.wait(0.5)
    record = caller.record()
    return record.seconds if record.end.cause is EndCause.HANDLER_CLOSED else None


def interleaved(samples: NDArray[np.int16]) -> bool:
    """Whether left and right are the two halves of L R L R …, of one voice on both sides, each as loud as it may be.

    Then every second sample is the one before it times a number, which is the same in both halves.
    """
    if samples.shape[0] != 2 or samples.shape[1] < 100 or not is_audible(samples):
        return False
    even = samples[:, : samples.shape[1] // 2 * 2].astype(np.float64)
    first, second = even[:, ::2].reshape(-1), even[:, 1::2].reshape(-1)
    if (first**2).sum() < (second**2).sum():
        first, second = second, first
    if np.abs(second - first * (first @ second) / (first @ first)).max() > _ROUNDED:
        return False
    left, right = even
    return bool(np.abs(right * (left @ left) - left * (left @ right)).max() > _ROUNDED * (left @ left))


def alternates(samples: NDArray[np.int16]) -> bool:
    """Whether the samples of a channel come from two sounds in turn: those next to each other differ by much more than
    those that are two apart. A single sound is like this above 0.46 of its sample rate only.
    """
    line = samples.astype(np.int32)
    if line.shape[1] < 100:
        return False
    next_to, apart = (np.abs(line[:, n:] - line[:, :-n]).mean(axis=1) for n in (1, 2))
    return bool((next_to > 4 * np.maximum(apart, 1.0)).all())


_ROUNDED: Final = 2.0
"""By how much a sample may be off that was scaled and rounded."""


def listens_to_nobody(handler: StreamHandlerBase) -> bool:
    """Whether nothing reaches a handler once its call has begun: neither its caller nor its application.

    Its `receive` is empty, and it does not ask for arguments. It has no methods for messages, keys or pictures. All its
    other methods are called by itself only.
    """
    kind: Any = type(handler)
    used, offered = _names_of(kind)
    receive = inspect.unwrap(kind.receive).__code__
    if receive.co_names or receive.co_freevars or used & _ASKS:
        return False
    return offered - used <= set(dir(AsyncStreamHandler)) - _REACHED


def hangs_up(handler: StreamHandlerBase) -> bool:
    """Whether its methods name `CloseStream` or `hang_up`."""
    return bool({"CloseStream", "hang_up"} & names_in(type(handler)))


def names_in(kind: type) -> set[str]:
    """The names that a handler's own methods use."""
    return _names_of(kind)[0]


def numbers_in(handler: StreamHandlerBase) -> set[float]:
    """The numbers that are written in a handler's code, in its module, or in its own attributes."""
    values: list[Any] = [*vars(handler).values()]
    for function in own_functions(type(handler)):
        values += [*function.__globals__.values(), *function.__code__.co_consts, *(function.__defaults__ or ())]
        values += (function.__kwdefaults__ or {}).values()
    for cls in type(handler).__mro__:
        values += vars(cls).values()
    return {float(value) for value in values if isinstance(value, int | float)}


def _names_of(kind: type) -> tuple[set[str], set[str]]:
    """The names that a handler's own methods use, and those of what it offers to others."""
    used: set[str] = set()
    offered: set[str] = set()
    for cls in kind.__mro__:
        if cls.__module__.partition(".")[0] in {"builtins", "abc", "rtcflow", "typing"}:
            break
        for name, member in vars(cls).items():
            if isinstance(member, property):
                offered.add(name)
            function: Any = getattr(member, "fget", getattr(member, "__func__", member))
            code = getattr(inspect.unwrap(function), "__code__", None)
            if code is None:
                continue
            used.update(code.co_names)
            if not name.startswith("_"):
                offered.add(name)
    return used, offered


_ASKS: Final = {"wait_for_args", "wait_for_args_sync", "latest_args", "args_set"}
_REACHED: Final = {"on_message", "on_dtmf", "set_args", "video_receive", "video_emit"}


def lateness(emits: Sequence[tuple[float, float]]) -> list[float]:
    """By how many seconds each piece came too late to follow the one before it; longer pauses are made on purpose.

    A handler that waits for a deadline catches up, so the sum of its lateness has a bound. A handler that sleeps for
    the length of its audio, and then works, is later with every piece.

    Args:
        emits: When each piece was emitted, and its length in seconds.
    """
    late: list[float] = []
    played_until, spoken, last = -1.0, 0.0, 0.0
    for at, seconds in emits:
        gap = at - played_until
        if gap >= max(0.1, 0.8 * last):
            spoken = 0.0
        elif 1e-5 < gap < spoken:
            late.append(gap)
        played_until, spoken, last = max(played_until, at) + seconds, spoken + seconds, seconds
    return late


def misread(samples: NDArray[np.int16], rate: float, frequency: float) -> str | None:
    """How samples of a tone were taken for others, so that noise came out; None if they are the tone, or no such noise.

    Args:
        samples: One channel.
        rate: Hz.
        frequency: Hz.
    """
    at = np.arange(samples.size) * (2 * np.pi * frequency / rate)
    waves = np.stack([np.sin(at), np.cos(at), np.ones(samples.size)], axis=1)

    def noise(piece: NDArray[np.int16]) -> float:
        floats = piece.astype(np.float64)
        rest = floats - waves @ np.linalg.lstsq(waves, floats, rcond=None)[0]
        return float((rest**2).sum() / max(1.0, (floats**2).sum()))

    if samples.size < 200 or not is_audible(samples) or noise(samples) < 0.2:
        return None
    ways = {"byte order": samples.byteswap(), "sign": samples ^ np.int16(-32768)}
    return next((way for way, piece in ways.items() if noise(piece) < 0.01), None)


def turned_around(heard: NDArray[np.int16], rate: int, left: float, right: float) -> bool:
    """Whether a tone that was on the left is on the right, and the other way round: always, or for some pieces.

    Pieces are exchanged at once. What turns slowly, as an effect does, is on both sides meanwhile.

    Args:
        heard: What came back.
        rate: Hz.
        left: Hz of the tone on the left; a multiple of 100, as the other.
        right: Hz of the tone on the right.
    """
    size = rate // 100
    if heard.shape[0] != 2 or heard.shape[1] < rate // 10:
        return False
    pieces = heard[:, : heard.shape[1] // size * size].reshape(2, -1, size)

    def level(channel: int, frequency: float) -> NDArray[np.float64]:
        turn = np.exp(-2j * np.pi * frequency / rate * np.arange(size))
        found: NDArray[np.float64] = np.abs(pieces[channel] @ turn) / size
        return found

    here = np.minimum(level(0, left), level(1, right))
    there = np.minimum(level(0, right), level(1, left))
    side = 1 * (here > 10 * np.maximum(there, 1.0)) - 1 * (there > 10 * np.maximum(here, 1.0))
    at = np.flatnonzero(side)  # the others are silent, or a mixture
    flips = np.count_nonzero((np.diff(at) <= 2) & (np.diff(side[at]) != 0))
    return bool(np.count_nonzero(side < 0) > np.count_nonzero(side > 0) or flips >= _FLIPS)


def swapped_at_edges(pieces: Sequence[NDArray[np.int16]]) -> bool:
    """Whether two channels go on in one another, and not in themselves, from each piece to the next.

    So it sounds if L R L R … is cut after an odd number of samples.

    Args:
        pieces: Of two channels, one after the other.
    """
    straight, crossed = list[float](), list[float]()
    for one, other in pairwise(pieces):
        if one.size and other.size:
            ends, begins = one[:, -1].astype(np.int64), other[:, 0].astype(np.int64)
            straight.append(float(np.abs(ends - begins).sum()))
            crossed.append(float(np.abs(ends - begins[::-1]).sum()))
    if len(pieces) <= _MANY_EDGES:
        return False
    if sum(straight) > 3 * sum(crossed) and sum(straight) > _APART * len(pieces):
        return True
    # Some pieces may be whole. What two channels do at an edge by chance is seldom this clear.
    clear = sum(one > max(5 * other, 2 * _APART) for one, other in zip(straight, crossed, strict=True))
    return clear > 0.25 * len(straight) or _pitches_change_sides(pieces)


def _pitches_change_sides(pieces: Sequence[NDArray[np.int16]]) -> bool:
    """Whether the higher one of two sounds, which both go on, is often on another side than in the piece before."""
    higher: list[bool] = []
    for piece in pieces:
        samples = piece.astype(np.float64)
        power = (samples**2).mean(axis=1) if samples.shape[1] > _SHORTEST_PIECE else np.zeros(2)
        if power.min() < AUDIBLE**2:  # a side that is silent says nothing
            return False
        left, right = (np.diff(samples, axis=1) ** 2).mean(axis=1) / power
        if max(left, right) < 4 * min(left, right):
            return False
        higher.append(bool(left > right))
    return sum(one != other for one, other in pairwise(higher)) > 0.25 * len(higher)


_SHORTEST_PIECE: Final = 100
"""Samples of a piece that has a pitch."""


_MANY_EDGES, _APART = 20, 200
"""So many edges tell, and by so much the two channels must be apart there, on average."""


def each_half_of_another(heard: NDArray[np.int16], rate: int, left: float, right: float) -> bool:
    """Whether both tones are on one side, both an octave higher, and hardly at their own height.

    So it sounds if every second sample is taken of what is not interleaved: half of a frame is left, and half right.
    The arguments are those of `turned_around`.
    """
    if heard.shape[0] != 2 or heard.shape[1] < rate // 10:
        return False

    def level(frequency: float) -> float:
        turn = np.exp(-2j * np.pi * frequency / rate * np.arange(heard.shape[1]))
        found: float = np.abs(heard[0] @ turn) / heard.shape[1]
        return found

    octave_up, own = (level(2 * left), level(2 * right)), (level(left), level(right))
    return min(octave_up) > 4 * max(*own, 1.0)


_FLIPS: Final = 5
"""Times that two voices change sides at once; fewer may be where something begins or is dropped."""


def clicks_at_edges(heard: NDArray[np.int16], rate: int, frequency: float) -> bool:
    """Whether a steady tone comes back with a click at one place of each frame, or bent in the same way in each frame:
    something begins again there.

    What is left of the audio without the tone is summed up over 30 frames. Noise and clipping are found at all places
    of a frame, a click at one. What is bent lags behind the tone, or is ahead of it, at the same places of each frame.
    Audio that is another sound than the tone is not judged. Clicks below -40 dB and bends below -50 dB are neither.
    """
    size = rate // 50
    piece = heard[0, rate // 5 : rate // 5 + 30 * size].astype(np.float64)
    if piece.size < 30 * size:
        return False
    at = np.arange(piece.size) * (2 * np.pi * frequency / rate)
    waves = np.stack([np.sin(at), np.cos(at)], axis=1)
    kept = np.arange(30)
    for _ in range(2):  # an effect that begins with the tone bends the first fit, and with it each frame's rest
        ours = np.isin(np.arange(piece.size) // size, kept)
        rest = piece - waves @ np.linalg.lstsq(waves[ours], piece[ours], rcond=None)[0]
        # Without the loudest three: what happens now and then is not what happens in each frame.
        power = (rest**2).reshape(30, size)
        kept = np.sort(np.argsort(power.sum(axis=1))[:-3])
    places = power[kept].sum(axis=0)
    left = places.sum() / max(1.0, (piece**2).sum())
    if not _BENT < left < 0.2:
        return False
    near = np.convolve(np.concatenate([places, places[:16]]), np.ones(17), "valid")
    if left > _CLICK and near.max() > 0.8 * places.sum():
        return True
    # The rest, turned back by the tone and without its mirror: by how much the tone is off, at each moment.
    turned = np.convolve(rest * np.exp(-1j * at), np.ones(size // 6), "same").reshape(30, size)
    turned = turned[kept[(kept > 0) & (kept < 29)]]
    always = (np.abs(turned.mean(axis=0)) ** 2).sum() * len(turned)
    return bool(always > 0.8 * (np.abs(turned) ** 2).sum())


def clicks_between(pieces: Sequence[NDArray[Any]]) -> bool:
    """Whether short pieces of one length are cut off, and do not go on where the one before ended: the step between
    them is far larger than any within them. A piece that fades has ended by itself.
    """
    sizes = {piece.shape[-1] for piece in pieces}
    if len(pieces) < _MANY_PIECES or len(sizes) != 1 or max(sizes) < 100:
        return False
    lines = [np.atleast_2d(piece)[0].astype(np.float64) for piece in pieces]
    inside = max(float(np.abs(np.diff(line)).max()) for line in lines)
    cut_off = [
        abs(before[-1]) > inside and abs(after[0] - before[-1]) > 1.8 * inside for before, after in pairwise(lines)
    ]
    return inside > 0 and sum(cut_off) > 0.7 * len(cut_off)


_MANY_PIECES: Final = 12
"""Pieces in a row that do not click by chance."""

_CLICK, _BENT = 1e-4, 1e-5
"""Shares of the power of a tone."""
