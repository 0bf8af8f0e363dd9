"""Does a transport keep its promises? A suite that anyone can run on a transport of their own.

    async def test_my_transport():
        await check_transport(open_my_pair)          # an async context manager that yields (ours, theirs)

Each check is named after the sentence it holds against `rtcflow.abc` or `rtcflow.flow`; what breaks is reported with
that sentence. `TRANSPORT_CHECKS` is for a test of its own per sentence.

PYTEST_DONT_REWRITE: the sentences in here are the messages, and need no explanation by pytest.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, TypeAlias

import anyio
import anyio.to_thread
import av
import numpy as np
from numpy.typing import NDArray

from .._core.flow import FlowStatistics
from ..abc import Transport
from ..ends import errors_in
from ..frames import AudioFormat, AudioFrame
from . import signals

__all__ = ["TRANSPORT_CHECKS", "check_transport"]

MakePair: TypeAlias = Callable[[], AbstractAsyncContextManager[tuple[Transport, Transport]]]
"""Opens two transports that are linked to each other and not started; closes both."""

RATE: Final = 48000
LONG_ENOUGH: Final = 15.0
"""Seconds that one check may take on a real network stack of one machine: WebRTC needs about one to connect."""

MESSAGES_WAIT: Final = 2**20
"""Bytes of messages that may wait for a peer that does not read."""

SETTLED: Final = 0.5
"""Seconds in which what was sent has arrived on one machine, or will not."""


async def check_transport(make_pair: MakePair) -> None:
    """Hold a transport to every sentence of `rtcflow.abc.Transport` that can be seen from outside. A checkpoint.

    Args:
        make_pair: Opens two linked transports, both not started; each check opens a pair of its own.

    Raises:
        AssertionError: Some sentences are broken; the text lists them.
    """
    if isinstance(make_pair, AbstractAsyncContextManager) or not callable(make_pair):
        raise TypeError(
            f"check_transport opens many pairs: give it the function that opens one, check_transport(memory_pair), "
            f"not the pair that it made: {make_pair!r}"
        )
    broken: list[str] = []
    for sentence, check in TRANSPORT_CHECKS.items():
        try:
            await check(make_pair)
        except AssertionError as error:
            broken.append(f"{sentence}\n      {error}")
        except Exception as error:  # supervises: a check that fails in another way is a broken sentence, too
            broken.append(f"{sentence}\n      {type(error).__name__}: {error}")
    if broken:
        lines = "\n  - ".join(broken)
        raise AssertionError(f"{len(broken)} of {len(TRANSPORT_CHECKS)} sentences are broken:\n  - {lines}")


TRANSPORT_CHECKS: dict[str, Callable[[MakePair], Awaitable[None]]] = {}
"""The single checks of `check_transport`, by their sentence."""


def _sentence(text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def register(check: Callable[[Transport, Transport], Awaitable[None]]) -> Callable[..., Any]:
        async def opened(make_pair: MakePair) -> None:
            try:
                with anyio.fail_after(LONG_ENOUGH):
                    async with make_pair() as (ours, theirs):
                        await check(ours, theirs)
            except BaseExceptionGroup as group:  # of a check's own tasks
                errors = errors_in(group)
                raise (errors[0] if len(errors) == 1 else group) from None

        TRANSPORT_CHECKS[text] = opened
        return check

    return register


async def _up(ours: Transport, theirs: Transport) -> tuple[AudioFormat, AudioFormat]:
    """Start both ends and wait until they are connected; returns the formats that `ours` hears and speaks."""
    return (await _up_both(ours, theirs))[0]


async def _up_both(
    ours: Transport, theirs: Transport
) -> tuple[tuple[AudioFormat, AudioFormat], tuple[AudioFormat, AudioFormat]]:
    """The same; returns the formats of both ends."""
    wanted = AudioFormat(RATE)
    formats = ours.start(wanted, wanted), theirs.start(wanted, wanted)
    await ours.wait_connected()
    await theirs.wait_connected()
    return formats


async def _exchange(
    ours: Transport, theirs: Transport, make: Callable[[AudioFormat], NDArray[np.int16]], seconds: float
) -> dict[str, list[AudioFrame]]:
    """Both ends send what `make` gives, at once; what each hears within `seconds`, by the direction."""
    (_, spoken), (_, answered) = await _up_both(ours, theirs)
    heard: dict[str, list[AudioFrame]] = {}

    async def listen(direction: str, end: Transport) -> None:
        heard[direction] = [frame for _, frame in await _heard(end, seconds)]

    async with anyio.create_task_group() as tasks:
        ours.audio_out.put(make(spoken))
        tasks.start_soon(listen, "to the peer", theirs)
        if ours.offer.receive_audio:
            theirs.audio_out.put(make(answered))
            tasks.start_soon(listen, "from the peer", ours)
    for direction, frames in heard.items():
        if not frames:
            raise AssertionError(f"{direction} nothing arrived")
    return heard


def _spoken(ours: Transport, format: AudioFormat, seconds: float, frequency: float = 1000.0) -> None:
    samples = signals.tone(seconds, frequency, format.sample_rate, channels=format.channels)
    ours.audio_out.put(samples)


async def _heard(theirs: Transport, seconds: float) -> list[tuple[float, AudioFrame]]:
    """What arrives within `seconds`, with its moments."""
    frames: list[tuple[float, AudioFrame]] = []
    with anyio.move_on_after(seconds):
        while True:
            frame = await theirs.audio_in.take()
            frames.append((anyio.current_time(), frame))
    return frames


def _adds_up(name: str, figures: FlowStatistics) -> None:
    if figures.put != figures.taken + figures.dropped + figures.waiting:
        raise AssertionError(f"{name}: {figures}")
    if not max(figures.waiting, figures.most_waiting) <= figures.bound:
        raise AssertionError(f"{name}: {figures}")


@_sentence("start returns formats that frames of 20 ms can be cut from")
async def _formats(ours: Transport, theirs: Transport) -> None:
    for agreed in await _up(ours, theirs):
        if not agreed.sample_rate > 0:
            raise AssertionError(agreed)
        if agreed.sample_rate % 50 != 0:
            raise AssertionError(agreed)
        if agreed.channels not in {1, 2}:
            raise AssertionError(agreed)


@_sentence("audio put into audio_out arrives at the other end, in order, and sounds the same")
async def _audio_arrives(ours: Transport, theirs: Transport) -> None:
    def sent(format: AudioFormat) -> NDArray[np.int16]:
        return signals.sweep(1.0, 300, 3000, format.sample_rate, channels=format.channels)

    for direction, frames in (await _exchange(ours, theirs, sent, 1.0 + SETTLED)).items():
        rate = frames[0].sample_rate
        heard = np.concatenate([frame.samples[:1] for frame in frames], axis=1)
        late = signals.latency(heard, signals.sweep(1.0, 300, 3000, rate), rate)
        if not -0.05 < late < SETTLED + 0.2:
            raise AssertionError(f"{direction} it is {late:.3f} s off")


@_sentence("frames hold int16 of shape (1 or 2, n), and pts grows with what was sent")
async def _frames(ours: Transport, theirs: Transport) -> None:
    def sent(format: AudioFormat) -> NDArray[np.int16]:
        return signals.tone(0.5, 1000, format.sample_rate, channels=format.channels)

    for direction, frames in (await _exchange(ours, theirs, sent, 0.5 + SETTLED)).items():
        last = None
        for frame in frames:
            if frame.samples.dtype != np.int16:
                raise AssertionError(f"{direction} {frame.samples.dtype}")
            if frame.samples.ndim != 2 or frame.samples.shape[0] not in {1, 2}:
                raise AssertionError(f"{direction} {frame.samples.shape}")
            if last is not None and not frame.pts >= last.pts + last.samples.shape[1]:
                raise AssertionError(f"{direction} pts {frame.pts} after {last.pts}")
            last = frame


@_sentence("audio leaves in real time, however much is put at once")
async def _paced(ours: Transport, theirs: Transport) -> None:
    _, spoken = await _up(ours, theirs)
    for _ in range(4):  # what holds a second up, on a busy machine, does not hold each one up
        _spoken(ours, spoken, 2.0)
        before, began = ours.audio_out.statistics().played, anyio.current_time()
        await anyio.sleep(1.0)
        played = (ours.audio_out.statistics().played - before) / spoken.sample_rate
        passed = anyio.current_time() - began
        told = f"{played:.2f} s were played within {passed:.2f} s"
        if not played <= passed + 0.35:
            raise AssertionError(told)
        if played >= passed - 0.3:
            return
    raise AssertionError(told)


@_sentence("queued is played + dropped + waiting, at every moment")
async def _playout_adds_up(ours: Transport, theirs: Transport) -> None:
    _, spoken = await _up(ours, theirs)
    _spoken(ours, spoken, 0.3)
    for _ in range(5):
        out = ours.audio_out.statistics()
        if out.queued != out.played + out.dropped + out.waiting:
            raise AssertionError(str(out))
        await anyio.sleep(0.05)


@_sentence("when clear_audio returns, nothing put before will leave any more")
async def _clear(ours: Transport, theirs: Transport) -> None:
    _, spoken = await _up(ours, theirs)
    _spoken(ours, spoken, 2.0)
    await anyio.sleep(0.3)
    dropped = await anyio.to_thread.run_sync(ours.clear_audio)
    if not 1.0 < dropped <= 2.0:
        raise AssertionError(f"it says {dropped:.2f} s were dropped")
    played = ours.audio_out.statistics().played
    await anyio.sleep(0.2)
    if ours.audio_out.statistics().played != played:
        raise AssertionError("audio left afterwards")
    if ours.audio_out.queued_seconds != 0:
        raise AssertionError("audio waits")
    heard = sum(frame.duration for _, frame in await _heard(theirs, SETTLED))
    if not heard < 1.0:
        raise AssertionError(f"the far side was not told: {heard:.2f} s of 2 s were heard")


@_sentence("what nobody takes in time is dropped, oldest first, and counted")
async def _dropped(ours: Transport, theirs: Transport) -> None:
    _, spoken = await _up(ours, theirs)
    _spoken(ours, spoken, 2.0)
    await anyio.sleep(2.0 + SETTLED)
    figures = theirs.audio_in.statistics()
    _adds_up("audio_in", figures)
    if figures.bound != 50:
        raise AssertionError(f"audio_in holds {figures.bound} frames")
    if not figures.dropped > 0:
        raise AssertionError(f"nothing was dropped: {figures}")
    first = await theirs.audio_in.take()
    if not first.pts > 0:
        raise AssertionError("the oldest frame is still there")


@_sentence("queues of media that was not offered stay empty")
async def _not_offered(ours: Transport, theirs: Transport) -> None:
    await _up(ours, theirs)
    await anyio.sleep(0.2)
    if not ours.offer.receive_video and len(ours.video_in):
        raise AssertionError("video_in is not empty")
    if not ours.offer.receive_audio and len(ours.audio_in):
        raise AssertionError("audio_in is not empty")


@_sentence("messages arrive in the order in which they were sent, from any thread")
async def _messages(ours: Transport, theirs: Transport) -> None:
    await _up(ours, theirs)
    if not ours.offer.messages:
        return
    await ours.wait_messages_open()
    await theirs.wait_messages_open()
    texts = [f"{i} ä\n\x00 {'x' * (i * 37 % 3000)}" for i in range(100)]
    for direction, sender, reader in (("to the peer", ours, theirs), ("from the peer", theirs, ours)):
        for i, text in enumerate(texts):
            if i % 2:
                sender.send_message_nowait(text)
            else:
                await anyio.to_thread.run_sync(sender.send_message_nowait, text)
        for text in texts:
            if await reader.messages_in.take() != text:
                raise AssertionError(f"{direction} another one came")


@_sentence("statistics may be asked for from any thread, and add up")
async def _statistics(ours: Transport, theirs: Transport) -> None:
    _, spoken = await _up(ours, theirs)
    _spoken(ours, spoken, 0.2)
    await anyio.sleep(0.3)
    for end in (ours, theirs):
        figures = await anyio.to_thread.run_sync(end.statistics)
        for name in ("audio_in", "video_in", "video_out", "messages_in"):
            _adds_up(name, getattr(figures, name))
        if not (figures.round_trip is None or figures.round_trip >= 0):
            raise AssertionError(f"a round trip of {figures.round_trip} s")
        if not min(figures.packets_lost, figures.packets_concealed) >= 0:
            raise AssertionError(str(figures))
    said, heard = ours.statistics().audio_out, theirs.statistics().audio_in
    if not said.queued > 0:
        raise AssertionError(f"nothing was queued, it says: {said}")
    if not heard.put > 0:
        raise AssertionError(f"nothing was heard, it says: {heard}")


@_sentence("audio_in has one taker: a second one is refused with BusyResourceError")
async def _one_taker(ours: Transport, theirs: Transport) -> None:
    await _up(ours, theirs)
    refused = False

    async def take() -> None:
        nonlocal refused
        try:
            await _take_quietly(ours)
        except anyio.BusyResourceError:
            refused = True
            tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        for _ in range(2):  # one of them is, whichever comes second
            tasks.start_soon(take)
        await anyio.sleep(1.0)
        tasks.cancel_scope.cancel()
    if not refused:
        raise AssertionError("two were allowed")


async def _take_quietly(transport: Transport) -> None:
    while True:
        await transport.audio_in.take()


@_sentence("cancelling a wait loses nothing: not wait_connected, take, wait_messages_open or wait_ended")
async def _cancel(ours: Transport, theirs: Transport) -> None:
    wanted = AudioFormat(RATE)
    _, spoken = ours.start(wanted, wanted)
    theirs.start(wanted, wanted)
    for wait in (ours.wait_connected, ours.wait_messages_open, ours.wait_ended, ours.audio_in.take):
        with anyio.CancelScope() as scope:
            scope.cancel()
            await wait()
    await ours.wait_connected()
    await theirs.wait_connected()
    _spoken(ours, spoken, 0.3)
    got = 0
    with anyio.move_on_after(0.3 + SETTLED):
        while True:
            with anyio.move_on_after(0.005):
                await theirs.audio_in.take()
                got += 1
    figures = theirs.audio_in.statistics()
    _adds_up("audio_in", figures)
    if not got == figures.taken > 0:
        raise AssertionError(f"{got} were got of {figures.taken} taken")


@_sentence("wait_ended returns normally when the peer said goodbye, and every queue ends")
async def _goodbye(ours: Transport, theirs: Transport) -> None:
    _, spoken = await _up(ours, theirs)
    await anyio.sleep(0.2)
    await theirs.aclose()
    await ours.wait_ended()
    for name in ("audio_in", "video_in", "messages_in"):
        flow: Any = getattr(ours, name)
        try:
            while True:
                await flow.take()
        except anyio.EndOfStream:
            pass
        except anyio.BrokenResourceError as error:
            raise AssertionError(f"{name} broke instead: {error.__cause__!r}") from error
    try:
        _spoken(ours, spoken, 0.1)
    except anyio.ClosedResourceError:
        pass
    else:
        raise AssertionError("audio_out takes audio for a peer that is gone")
    try:
        ours.send_message_nowait("are you there?")
    except anyio.ClosedResourceError:
        return
    raise AssertionError("a message to a peer that is gone was sent")


@_sentence("after aclose this side's waits and queues fail with ClosedResourceError")
async def _closed(ours: Transport, theirs: Transport) -> None:
    _, spoken = await _up(ours, theirs)
    await ours.aclose()

    async def put() -> None:
        _spoken(ours, spoken, 0.1)

    async def send() -> None:
        ours.send_message_nowait("too late")

    waits = {
        "wait_ended": ours.wait_ended,
        "audio_in.take": ours.audio_in.take,
        "messages_in.take": ours.messages_in.take,
        "video_in.take": ours.video_in.take,
        "audio_out.put": put,
        "send_message_nowait": send,
    }
    for name, wait in waits.items():
        try:
            with anyio.move_on_after(LONG_ENOUGH / 3):
                await wait()
        except anyio.ClosedResourceError:
            continue
        raise AssertionError(f"{name} did not")


@_sentence("waiters are woken when this side closes")
async def _woken(ours: Transport, theirs: Transport) -> None:
    await _up(ours, theirs)
    woken: list[str] = []

    async def wait(name: str, what: Callable[[], Awaitable[object]]) -> None:
        try:
            while True:
                await what()
        except anyio.ClosedResourceError:
            woken.append(name)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait, "audio_in", ours.audio_in.take)
        tasks.start_soon(wait, "messages_in", ours.messages_in.take)
        tasks.start_soon(wait, "video_in", ours.video_in.take)
        tasks.start_soon(wait, "wait_ended", ours.wait_ended)
        await anyio.sleep(0.05)
        await ours.aclose()
    if sorted(woken) != ["audio_in", "messages_in", "video_in", "wait_ended"]:
        raise AssertionError(f"only {woken} were")


@_sentence("aclose may be called any number of times, also at once, and before start")
async def _close_twice(ours: Transport, theirs: Transport) -> None:
    await _up(ours, theirs)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ours.aclose)
        tasks.start_soon(ours.aclose)
        tasks.start_soon(theirs.aclose)
    await ours.aclose()


@_sentence("a transport that was never started can be closed")
async def _close_unstarted(ours: Transport, theirs: Transport) -> None:
    await ours.aclose()
    await theirs.aclose()


@_sentence("aclose that is cancelled still frees everything: the peer is gone for the other end")
async def _close_cancelled(ours: Transport, theirs: Transport) -> None:
    await _up(ours, theirs)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await ours.aclose()
    try:
        await ours.audio_in.take()
    except anyio.ClosedResourceError:
        pass
    else:
        raise AssertionError("this side goes on")
    await ours.aclose()


@_sentence("sending to a peer that does not read ends in WouldBlock after 1 MiB, not in unbounded memory, nor before")
async def _flood(ours: Transport, theirs: Transport) -> None:
    await _up(ours, theirs)
    if not ours.offer.messages:
        return
    await ours.wait_messages_open()
    for _ in range(2000):  # as they are, or in the transport's own envelope, far less than 1 MiB
        ours.send_message_nowait("x")
    sent, text = 0, "x" * 60_000
    try:
        for _ in range(2000):  # 120 MB, sent without giving the other side a chance to read
            ours.send_message_nowait(text)
            sent += len(text)
    except (anyio.WouldBlock, anyio.ClosedResourceError):
        if not sent >= MESSAGES_WAIT // 2:
            raise AssertionError(f"it was refused after {sent} bytes") from None
        return
    raise AssertionError("120 MB were queued")


@_sentence("audio_in holds 50 frames, video_in and video_out one picture, messages_in 1000 messages")
async def _bounds(ours: Transport, theirs: Transport) -> None:
    await _up(ours, theirs)
    for name, bound in {"audio_in": 50, "video_in": 1, "video_out": 1, "messages_in": 1000}.items():
        held = getattr(ours, name).bound
        if held != bound:
            raise AssertionError(f"{name} holds {held}")


@_sentence("a picture put into video_out arrives at the other end")
async def _picture(ours: Transport, theirs: Transport) -> None:
    await _up(ours, theirs)
    if not ours.offer.receive_video:
        return
    picture = av.VideoFrame.from_ndarray(np.full((240, 320, 3), 200, np.uint8), format="bgr24")
    seen: list[av.VideoFrame] = []
    for _ in range(100):  # the first ones may be lost; a real encoder may want several
        theirs.video_out.put_nowait(picture)
        with anyio.move_on_after(0.05):
            seen.append(await ours.video_in.take())
            break
    if not seen:
        raise AssertionError("nothing arrived")
    level = seen[0].to_ndarray(format="bgr24").mean()
    if not abs(level - 200) < 20:
        raise AssertionError(f"it looks different: {level:.0f} instead of 200")


@_sentence("video_in holds the latest picture, not one that nobody took in time")
async def _latest_picture(ours: Transport, theirs: Transport) -> None:
    await _up(ours, theirs)
    if not ours.offer.receive_video:
        return
    for shade in (50, 200):
        picture = av.VideoFrame.from_ndarray(np.full((240, 320, 3), shade, np.uint8), format="bgr24")
        for _ in range(20):
            theirs.video_out.put_nowait(picture)
            await anyio.sleep(0.04)
    await anyio.sleep(SETTLED)
    level = (await ours.video_in.take()).to_ndarray(format="bgr24").mean()
    if not abs(level - 200) < 20:
        raise AssertionError(f"the one that waits is of level {level:.0f}, the latest of 200")


@_sentence("kind is a name: letters, digits and underscores")
async def _kind(ours: Transport, theirs: Transport) -> None:
    for end in (ours, theirs):
        if not isinstance(end.kind, str):
            raise AssertionError(repr(end.kind))
        if not end.kind.isidentifier():
            raise AssertionError(repr(end.kind))
    await ours.aclose()


@_sentence("aclose leaves no thread of the transport's behind")
async def _no_thread(ours: Transport, theirs: Transport) -> None:
    before = set(threading.enumerate())
    await _up(ours, theirs)
    await theirs.aclose()
    await ours.aclose()
    left: list[str] = []
    for _ in range(40):
        pools = ("Trio thread", "AnyIO worker", "asyncio_", "uvloop_", "ThreadPoolExecutor")
        left = [one.name for one in set(threading.enumerate()) - before if not one.name.startswith(pools)]
        if not left:
            return
        await anyio.to_thread.run_sync(time.sleep, 0.05)
    raise AssertionError(f"threads that run on: {sorted(left)}")


@_sentence("a peer that sends more messages than messages_in holds breaks the link, and is not waited for")
async def _too_many_messages(ours: Transport, theirs: Transport) -> None:
    await _up(ours, theirs)
    if not ours.offer.messages:
        return
    await theirs.wait_messages_open()
    try:
        for _ in range(1100):
            theirs.send_message_nowait("more")
            await anyio.sleep(0.001)
    except (anyio.WouldBlock, anyio.ClosedResourceError):
        pass
    for wait in (ours.wait_ended, ours.audio_in.take):
        cause: BaseException | None = None
        try:
            await wait()
        except anyio.BrokenResourceError as error:
            cause = error.__cause__
        if cause is None:
            raise AssertionError("it goes on, or its end has no __cause__")


@_sentence("without a channel wait_messages_open waits, and sending fails with ClosedResourceError")
async def _no_channel(ours: Transport, theirs: Transport) -> None:
    await _up(ours, theirs)
    if ours.offer.messages:
        return
    with anyio.move_on_after(0.2):
        await ours.wait_messages_open()
        raise AssertionError("it did not wait")
    try:
        ours.send_message_nowait("hello")
    except anyio.ClosedResourceError:
        return
    raise AssertionError("it was sent")
