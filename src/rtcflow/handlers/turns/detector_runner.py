"""A turn detector, asked one thing after the other, in the thread where it may take its time."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from .detector import TurnDetector
from .events import DetectorEvent

logger: logging.Logger = logging.getLogger(__name__)

MEASURED = 5.0
"""Seconds of audio over which a detector's time in the event loop is measured: many batches of any model."""

SLOW = 0.5
"""Share of the audio's own duration above which a detector that runs in the event loop is said to be slow there."""


class RunsInThread(Protocol):
    """`StreamHandlerBase.run_sync`."""

    def __call__(self, function: Callable[[], Any], /) -> Awaitable[Any]: ...


class DetectorRunner:
    """Asks a `TurnDetector`: `feed`, `silence` and `reset` of one that is `blocking` run in a worker thread.

    The caller asks one thing at a time; only `reset` may come at any moment.

    Args:
        detector: Of this one connection.
        run_sync: Runs a function in a worker thread; gives None if the connection ended meanwhile.
    """

    def __init__(self, detector: TurnDetector, run_sync: RunsInThread) -> None:
        self._detector, self._run_sync = detector, run_sync
        self._forget = False
        self._computing = self._heard = 0.0
        self._warned = False

    @property
    def is_quick(self) -> bool:
        """Whether it answers at once: `feed` and `silence` wait for nothing, and no other task runs meanwhile."""
        return not self._detector.blocking

    async def feed(self, samples: NDArray[np.int16], sample_rate: int, *, bot_speaking: bool) -> list[DetectorEvent]:
        """Hear some more; see `TurnDetector`.

        Raises:
            Exception: What the detector raises, or `TypeError` for what it returns.
        """
        self._heard += samples.shape[1] / sample_rate
        if self._detector.blocking:
            return await self._in_thread(partial(self._detector.feed, samples, sample_rate, bot_speaking=bot_speaking))
        began = time.perf_counter()
        self._forget_if_told()
        events = self._detector.feed(samples, sample_rate, bot_speaking=bot_speaking)
        self._computing += time.perf_counter() - began
        if self._heard >= MEASURED:
            self._measure()
        return _checked(events)

    async def silence(self, seconds: float) -> list[DetectorEvent]:
        """Nothing came for `seconds`; see `TurnDetector`. Raises as `feed`."""
        if self._detector.blocking:
            return await self._in_thread(partial(self._detector.silence, seconds))
        self._forget_if_told()
        return _checked(self._detector.silence(seconds))

    def reset(self) -> None:
        """Forget the turn under way: the detector does it before it hears more, and what it judges now is void."""
        self._forget = True

    async def _in_thread(self, question: Callable[[], Any]) -> list[DetectorEvent]:
        forget, self._forget = self._forget, False

        def ask() -> Any:
            if forget:
                self._detector.reset()
            return question()

        events = await self._run_sync(ask)
        if events is None or self._forget:  # the connection has ended; it was told to forget meanwhile
            return []
        return _checked(events)

    def _forget_if_told(self) -> None:
        if self._forget:
            self._forget = False
            self._detector.reset()

    def _measure(self) -> None:
        """Warn once if it holds up the event loop."""
        if self._computing > SLOW * self._heard and not self._warned:
            self._warned = True
            logger.warning(
                "turn detection (%s) took %.1f s for %.1f s of audio, and holds up the event loop for everything else; "
                "have it run in a worker thread, with blocking=True",
                type(self._detector).__qualname__,
                self._computing,
                self._heard,
            )
        self._computing = self._heard = 0.0


_EVENTS = get_args(DetectorEvent)


def _checked(events: Any) -> list[DetectorEvent]:
    """What a detector returned, if it may.

    Raises:
        TypeError: It may not.
    """
    if not isinstance(events, list) or not all(isinstance(event, _EVENTS) for event in events):
        raise TypeError(
            f"a turn detector must return a list of SpeechStarted, SpeechEnded, TurnEnded, not {events!r:.80}; "
            "write: return []"
        )
    return events
