"""The limits that a handler sets: for how long it waits, and from which moment on.

While a check runs, names such as `monotonic` and `move_on_after` in the handler's modules stand for those of this
module (`_handler_time` puts them there). What they give is what they always give, and a limit that has run out is noted
beside it. For `move_on_after`, `fail_after`, `asyncio.wait_for` and `queue.Queue.get` that is plain. For a clock it is
seen by what is done with its moments. ``now - since > limit`` begins at ``since``, and so does ``now > since + limit``.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Final, Self

import anyio

__all__ = ["HandlerLimits", "Limit", "Moment", "place_of"]

SHORTEST: Final = 1.0
"""Seconds of a limit that is noted. Nobody answers in less."""

_MOST: Final = 1000

_around: ContextVar[tuple[list[float], ...]] = ContextVar("rtcflow_limits_around", default=())
"""The limits in which a task is: for how long each of them was spent in `say`."""


@dataclass(frozen=True)
class Limit:
    """A limit that has run out.

    Attributes:
        begun: When it began, in seconds on the loop's clock.
        seconds: How long it was.
        place: Where, in words.
        said: For how many seconds of it the handler waited in `say`, if it ran out with a TimeoutError.
    """

    begun: float
    seconds: float
    place: str
    said: float = 0.0

    def begins_with(self, others: Iterable[Limit]) -> bool:
        """Whether one of the others is the same limit, and has begun at the same moment."""
        same = [one for one in others if one.place == self.place or one.seconds == self.seconds]
        return any(abs(one.begun - self.begun) < 0.1 for one in same)


def place_of(frame: FrameType) -> str:
    """Where a frame is, in words."""
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} (in {frame.f_code.co_name})"


class HandlerLimits:
    """Notes the limits of a handler that have run out.

    Args:
        now: The loop's clock.

    Attributes:
        found: The limits, each once; at most 1000.
        renewed: How often limits have begun again before they ran out, by their seconds.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self.found: list[Limit] = []
        self.renewed: Counter[float] = Counter()
        self._begun: dict[float, float] = {}

    def goes_on(self, begun: float, seconds: float) -> None:
        """It was compared with a clock, and has not run out."""
        if len(self._begun) < _MOST and self._begun.setdefault(seconds, begun) != begun:
            self._begun[seconds] = begun
            self.renewed[seconds] += 1

    def ran_out(self, begun: float, seconds: float, frame: FrameType, *, said: float = 0.0) -> None:
        """Note it, once for each beginning. What was left of a limit is that limit."""
        if isinstance(seconds, _Left):
            begun, seconds = seconds.limit
        if seconds < SHORTEST or len(self.found) >= _MOST:
            return
        one = Limit(begun, seconds, place_of(frame), said)
        if one not in self.found:
            self.found.append(one)

    def over(self, begun: float, seconds: float) -> bool:
        """Whether so much time has passed."""
        return self.now() - begun >= seconds - 1e-6

    # -- what stands for functions of anyio

    def current_time(self) -> float:
        return Moment(anyio.current_time(), self)

    def move_on_after(self, delay: float | None, shield: bool = False) -> Any:  # noqa: FBT001, FBT002
        scope = anyio.move_on_after(delay, shield)
        return scope if delay is None else _Scope(scope, delay, self, sys._getframe(1))

    @contextmanager
    def fail_after(self, delay: float | None, shield: bool = False) -> Iterator[anyio.CancelScope]:  # noqa: FBT001, FBT002
        begun, frame = self.now(), sys._getframe(2)
        spoken, around = [0.0], _around.get()
        _around.set((*around, spoken))
        try:
            with anyio.fail_after(delay, shield) as scope:
                yield scope
        except TimeoutError:
            if delay is not None and self.over(begun, delay):
                self.ran_out(begun, delay, frame, said=spoken[0])
            raise
        finally:
            _around.set(around)

    @contextmanager
    def saying(self) -> Iterator[None]:
        """Inside the block, a handler waits until something was said."""
        began = self.now()
        try:
            yield
        finally:
            for spoken in _around.get():
                spoken[0] += self.now() - began


class _Scope:
    """A scope of `anyio.move_on_after`."""

    __slots__ = ("_begun", "_delay", "_frame", "_limits", "_scope")

    def __init__(self, scope: anyio.CancelScope, delay: float, limits: HandlerLimits, frame: FrameType) -> None:
        for name, value in zip(self.__slots__, (limits.now(), delay, frame, limits, scope), strict=True):
            object.__setattr__(self, name, value)

    def __enter__(self) -> Any:
        return self._scope.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Any:
        took = self._scope.__exit__(kind, error, trace)
        if self._scope.cancelled_caught and self._limits.over(self._begun, self._delay):
            self._limits.ran_out(self._begun, self._delay, self._frame)
        return took

    def __getattr__(self, name: str) -> Any:
        return getattr(self._scope, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._scope, name, value)


class _Noted(float):
    """Seconds that know which limit they belong to."""

    __slots__ = ()

    def __reduce__(self) -> Any:  # a copy of it is a number
        return float, (float(self),)


class Moment(_Noted):
    """A moment on a clock, which knows when it was read."""

    __slots__ = ("at", "limits")
    at: float
    limits: HandlerLimits

    def __new__(cls, value: float, limits: HandlerLimits) -> Self:
        moment = super().__new__(cls, value)
        moment.at, moment.limits = limits.now(), limits
        return moment

    def __sub__(self, other: float) -> float:
        passed = float.__sub__(self, other)
        return _Passed(passed, other) if isinstance(other, Moment) else passed

    def __add__(self, other: float) -> float:
        due = float.__add__(self, other)
        return _Due(due, self, other) if type(other) in {int, float} else due

    __radd__ = __add__

    def __gt__(self, other: float) -> bool:
        return other.noted(float.__gt__(self, other)) if isinstance(other, _Due) else float.__gt__(self, other)

    def __ge__(self, other: float) -> bool:
        return other.noted(float.__ge__(self, other)) if isinstance(other, _Due) else float.__ge__(self, other)

    def __lt__(self, other: float) -> bool:
        less = float.__lt__(self, other)
        if isinstance(other, _Due):  # ``while now() < due``
            other.noted(less is False)
        return less

    def __le__(self, other: float) -> bool:
        less = float.__le__(self, other)
        if isinstance(other, _Due):
            other.noted(less is False)
        return less


class _Passed(_Noted):
    """Seconds since a moment."""

    __slots__ = ("_since",)
    _since: Moment

    def __new__(cls, value: float, since: Moment) -> Self:
        passed = super().__new__(cls, value)
        passed._since = since
        return passed

    def _noted(self, limit: float, *, over: bool) -> bool:
        if over is True:  # or NotImplemented: what it is compared with will say
            self._since.limits.ran_out(self._since.at, float(limit), sys._getframe(2))
        elif over is False:
            self._since.limits.goes_on(self._since.at, float(limit))
        return over

    def _not_over(self, limit: float, *, less: bool) -> bool:
        if less is True:
            self._since.limits.goes_on(self._since.at, float(limit))
        return less

    def __lt__(self, other: float) -> bool:
        return self._not_over(other, less=float.__lt__(self, other))

    def __le__(self, other: float) -> bool:
        return self._not_over(other, less=float.__le__(self, other))

    def __gt__(self, other: float) -> bool:
        return self._noted(other, over=float.__gt__(self, other))

    def __ge__(self, other: float) -> bool:
        return self._noted(other, over=float.__ge__(self, other))


class _Left(_Noted):
    """Seconds that are left until a moment."""

    __slots__ = ("_due",)
    _due: _Due

    def __new__(cls, value: float, due: _Due) -> Self:
        left = super().__new__(cls, value)
        left._due = due
        return left

    @property
    def limit(self) -> tuple[float, float]:
        """When it began, and its seconds."""
        return self._due.limit

    def _noted(self, result: bool) -> bool:  # noqa: FBT001
        if float.__le__(self, 0.0):  # whatever it is compared with: ``while left > 0``, ``max(0, left)``
            self._due.limit_ran_out(sys._getframe(2))
        return result

    def __gt__(self, other: float) -> bool:
        return self._noted(float.__gt__(self, other))

    def __ge__(self, other: float) -> bool:
        return self._noted(float.__ge__(self, other))

    def __lt__(self, other: float) -> bool:
        return self._noted(float.__lt__(self, other))

    def __le__(self, other: float) -> bool:
        return self._noted(float.__le__(self, other))


class _Due(_Noted):
    """So many seconds after a moment."""

    __slots__ = ("_seconds", "_since")
    _since: Moment
    _seconds: float

    def __new__(cls, value: float, since: Moment, seconds: float) -> Self:
        due = super().__new__(cls, value)
        due._since, due._seconds = since, seconds
        return due

    def noted(self, over: bool) -> bool:  # noqa: FBT001
        if over is True:  # or NotImplemented: what it is compared with will say
            self.limit_ran_out(sys._getframe(2))
        return over

    @property
    def limit(self) -> tuple[float, float]:
        """When it began, and its seconds."""
        return self._since.at, self._seconds

    def limit_ran_out(self, frame: FrameType) -> None:
        self._since.limits.ran_out(*self.limit, frame)

    def __sub__(self, other: float) -> float:
        left = float.__sub__(self, other)
        return _Left(left, self) if isinstance(other, Moment) else left

    def __lt__(self, other: float) -> bool:
        return self.noted(float.__lt__(self, other))

    def __le__(self, other: float) -> bool:
        return self.noted(float.__le__(self, other))
