"""Callers of all kinds: usual ones, silent ones, on a telephone, on a bad network, with a slow camera."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..._core.guard import is_asyncio_under_trio
from ...exceptions import MediaError
from ...handlers.base import StreamHandlerBase
from ...handlers.checking import has_video
from ...handlers.functions import is_video_function
from .. import signals
from .._leaks import descriptors
from .._scenarios import ANSWERED, names_in, on_the_line, seconds_audible
from ..caller import CallRecord, open_caller, run_call
from ._audio import keeps_no_tail
from ._ends import no_pool_at_work, no_thread_left
from ._sentences import CheckInput, Everywhere, call_options, last_journal, run_scenario, sentence, whole_call


@sentence(
    "it serves a call on trio and on asyncio, and what emit returns is an EmitType",
    "a call of 6 s, 4 s of speech in it, on both backends",
)
def serves(handler: StreamHandlerBase, given: CheckInput) -> None:
    opened: list[Counter[str]] = []
    said: list[float] = []
    for backend in (*given.backends, *given.backends)[:2]:  # two calls: see what each leaves open
        before, files = set(threading.enumerate()), descriptors()
        record = whole_call(handler, given, backend)
        if isinstance(record.error, MediaError):
            raise AssertionError(str(record.error)) from record.error
        if record.error is not None:
            if is_asyncio_under_trio(record.error):
                raise Everywhere(
                    f"under trio it raised {record.error!r}: it uses asyncio itself. Write it with anyio, which works "
                    "on both (anyio.create_memory_object_stream in place of asyncio.Queue); or, if your server runs "
                    'on asyncio, check_handler(..., backends=["asyncio"])'
                ) from record.error
            raise AssertionError(f"under {backend} it raised {record.error!r}") from record.error
        if record.stuck:
            raise Everywhere(f"under {backend} {record.stuck[0]}")
        keeps_no_tail(handler, record)
        no_thread_left(before, record)
        no_pool_at_work(set(threading.enumerate()) - before, given.patience)
        said.append(seconds_audible(record.heard))
        opened.append(Counter({_folder(one): n for one, n in (descriptors() - files).items()}))
    # A client that all calls share may open what it keeps in the first call; what each call opens is lost.
    if lost := opened[0] & opened[1]:
        raise AssertionError(f"each call leaves open: {', '.join(sorted(lost))}; close it in shutdown()")
    again = given.on("trio")
    if said[0] > ANSWERED and not said[1] and not seconds_audible(whole_call(handler, given, again).heard):
        raise AssertionError(
            f"in the first call it says {said[0]:.1f} s, and nothing in the next two, which are the same: what the "
            "first one leaves (a cache, an attribute of the class) makes later ones faster, or ends them. Does "
            "something wait for an event that was set before, and cleared?"
        )


def _folder(descriptor: str) -> str:
    """A socket or a pipe as it is; a file without its name, which may be another one in each call."""
    return descriptor.rpartition("/")[0] + "/…" if descriptor.startswith("/") else descriptor


@sentence(
    "it serves a caller who says nothing, whose network is bad, or who has no data channel",
    "calls in silence, over a bad network, from a telephone, from a microphone at 8 kHz; with a camera that is turned, "
    "or slow, if it sees pictures",
)
def serves_badly(handler: StreamHandlerBase, given: CheckInput) -> None:
    from ..links import Bursts, LossyLink

    bad = LossyLink(1, Bursts(0.05, 4), 0.1, 0.03, 0.02, duplicate=0.02)
    calls: dict[str, dict[str, Any]] = {
        "without a word": {},
        "on a bad network": {"play": signals.speech_like(2.0), "link": bad},
        "on a telephone": {"play": signals.speech_like(1.0), "phone": True},
        "with a microphone at 8 kHz": {"play": signals.speech_like(0.5, 8000), "sample_rate": 8000},
    }
    if has_video(handler):
        calls["whose camera is turned"] = {"play": signals.speech_like(1.0), "camera": _turned}
    for name, call in calls.items():
        record = run_call(handler, seconds=3.0, backend=given.on("trio"), **call_options(given), **call)
        if record.error is not None:
            raise AssertionError(f"for a caller {name} it raised {record.error!r}") from record.error
        if "phone" in call and not seconds_audible(record.heard):
            page = run_call(handler, play=call["play"], seconds=3.0, backend=given.on("trio"), **call_options(given))
            if seconds_audible(page.heard) > 0.5:
                raise AssertionError(
                    "it speaks to a page, and says nothing on a telephone: does it wait for the data channel, or for a "
                    "message? A telephone has neither; look at self.phone_mode first"
                )
    if has_video(handler):
        _shows_what_it_sees(handler, given)
        _films_in_time(handler, given)
    if has_video(handler) and not is_video_function(handler):
        _keeps_its_pace(handler, given)
    used = names_in(type(handler))
    if "args_set" in used and not used & ASKS:
        _needs_no_arguments(handler, given)
    if used & ASKS and given.args is CheckInput.args:
        _asks_in_vain(handler, given)


ASKS: Final = {"wait_for_args", "wait_for_args_sync"}
"""The methods that ask a page for arguments."""


def _asks_in_vain(handler: StreamHandlerBase, given: CheckInput) -> None:
    """See that a handler does something for a caller whose page posts no arguments, if these may be any."""

    async def call(*, posts: bool) -> bool:
        async with on_the_line(handler, given.args if posts else None) as caller:
            await caller.wait(_PATIENT)
            await caller.play(signals.speech_like(2.0))
            await caller.wait(3.0)
        record = caller.record()
        return seconds_audible(record.heard) > ANSWERED or bool(record.texts() or record.outputs)

    if run_scenario(partial(call, posts=True), handler, given) and not run_scenario(
        partial(call, posts=False), handler, given
    ):
        raise AssertionError(
            f"it asks for arguments, and says and does nothing for {_PATIENT:g} s if none come: a page of your own, or "
            "a program, may post none. Wait with a limit: with anyio.move_on_after(2): await self.wait_for_args(). If "
            "it cannot do without, say what its page posts: check_handler(…, args=[…])"
        )


_PATIENT: Final = 40.0
"""Seconds, which are longer than any limit for which a caller would wait."""


def _needs_no_arguments(handler: StreamHandlerBase, given: CheckInput) -> None:
    """See that a handler which does not ask for arguments does not wait for them for ever."""

    async def call(*, posts: bool) -> float:
        async with open_caller(handler, catch=True) as caller:
            if posts:
                caller.set_args(list(given.args))
            await caller.play(signals.speech_like(2.0))
            await caller.wait(3.0)
            return seconds_audible(caller.heard)

    if run_scenario(partial(call, posts=True), handler, given) > ANSWERED and not run_scenario(
        partial(call, posts=False), handler, given
    ):
        raise AssertionError(
            "it says nothing before arguments are posted, and does not ask for them: a telephone has none, and a page "
            "posts them when it is asked. Write await self.wait_for_args(), with a time limit"
        )


def _turned(at: float) -> NDArray[np.uint8]:
    """What a camera sends at this moment: upright, then lying, then smaller, as on a bad network.

    No row of the last ones is a multiple of 16 bytes: FFmpeg puts something between them.
    """
    return _waves(at, *((64, 48), (48, 66), (24, 34))[min(int(2 * at), 2)])


def _waves(at: float, height: int = 64, width: int = 256) -> NDArray[np.uint8]:
    """A smooth picture, from black to white and back, again and again; it moves, so that no two are the same."""
    row = np.abs((np.arange(width) + int(30 * at)) % 32 - 16) * 255 // 16
    return np.repeat(np.broadcast_to(row.astype(np.uint8)[:, np.newaxis], (height, width, 1)), 3, axis=2)


def _wraps_around(picture: NDArray[np.uint8]) -> bool:
    """Whether many rows of a picture go from white to black, and on as before: as where uint8 overflows."""
    levels = picture.astype(np.int16)
    steps = levels[:, 1:] - levels[:, :-1]
    before, over, after = steps[:, :-2], steps[:, 1:-1], steps[:, 2:]
    goes_on = (before * after > 0) & (np.abs(before) < _SLOPE) & (np.abs(after) < _SLOPE)
    wraps = goes_on & (np.abs(over) > _WRAPPED) & (before * over < 0)
    return bool(wraps.any(axis=(1, 2)).mean() > 0.5)


_SLOPE, _WRAPPED = 60, 100
"""Levels from one pixel to the next that are smooth, and that are half the scale, or all of it."""


def _shows_what_it_sees(handler: StreamHandlerBase, given: CheckInput) -> None:
    """See that pictures go on when the caller's camera is turned, and that none overflows."""

    def seen(camera: Callable[[float], NDArray[np.uint8]]) -> list[tuple[float, NDArray[np.uint8]]]:
        options: dict[str, Any] = {"seconds": 2.0, "backend": given.on("asyncio"), **call_options(given)}
        record = run_call(handler, play=signals.speech_like(1.0), camera=camera, **options)
        return [(at, frame.to_ndarray(format="bgr24").astype(np.uint8)) for at, frame in record.seen]

    def different(pictures: list[tuple[float, NDArray[np.uint8]]]) -> int:
        return len({picture.tobytes() for at, picture in pictures if at > 1.5})

    upright, turned = seen(_waves), seen(_turned)
    if different(turned) <= 1 and different(upright) >= _MOVES:
        raise AssertionError(
            "when the caller's camera is turned, or sends smaller pictures, its own stand still: does something keep "
            "the size of the first picture, and is the error swallowed? Begin again when picture.shape changes"
        )
    if sum(_wraps_around(picture) for _, picture in upright) > len(upright) / 2:
        raise AssertionError(
            "what is bright in the caller's picture comes back dark, as when uint8 overflows; compute in int16 or "
            "float32, and np.clip(…, 0, 255) before astype(np.uint8)"
        )


_MOVES: Final = 4
"""Pictures in half a second that are all different."""


def _films_in_time(handler: StreamHandlerBase, given: CheckInput) -> None:
    """See that the pictures of a handler that sleeps between them are as many as it says."""
    pictures = run_call(handler, seconds=_FILM, backend=given.on("asyncio"), **call_options(given)).seen
    due = _FILM * handler.fps
    if 0.5 * due < len(pictures) < 0.97 * due and last_journal().paced >= len(pictures) - 1:
        raise AssertionError(
            f"it shows {len(pictures) / _FILM:.1f} pictures a second, and is meant to show fps={handler.fps:g}: it "
            "sleeps between two pictures, and the time that it takes to make one comes on top. It need not wait: "
            "rtcflow asks for a picture when one is due"
        )


_FILM: Final = 4.0
"""Seconds in which pictures are counted."""


def _keeps_its_pace(handler: StreamHandlerBase, given: CheckInput) -> None:
    """See that a handler whose audio goes on without a pause does so for a slow camera, too."""

    async def call(fps: float) -> CallRecord:
        async with on_the_line(handler, given.args, fps=fps) as caller:
            await caller.play(signals.speech_like(2.0))
        return caller.record()

    often, seldom = (run_scenario(partial(call, fps), handler, given).audio_seconds for fps in (30, 10))
    if often > 1.5 and seldom < 0.6 * often:
        raise AssertionError(
            f"its audio comes at the pace of the caller's pictures: in 2 s it makes {often:.1f} s of audio if 30 "
            f"pictures come in a second, and {seldom:.1f} s if 10 do; make as much as emit is asked for"
        )
