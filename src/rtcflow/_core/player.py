"""Audio on its way to the peer: put from any thread, played by the transport's own task.

The handler puts audio in here and goes on. The transport's task takes each 20 ms frame at its deadline. So queued audio
keeps playing while the handler's loop or thread is busy. `media.playout.Playout`, which is pure, decides when a frame
is due and what happens to a backlog. A `Player` only adds the lock, the waiting and the clock.

The invariant: `clear` takes effect when it returns. A frame that the transport has taken before and not sent yet is
`stale`, and must not leave.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import anyio
import anyio.lowlevel
import numpy as np
from numpy.typing import NDArray

from ..exceptions import renamed
from ..frames import AudioFormat, AudioFrame
from ..media.playout import Latency, Playout, PlayoutFrame, PlayoutStatistics
from .bridge import ParkingLot, Waiter

MOST_WAITING = 0.2
"""Seconds of audio that may wait before the handler is held back. It bridges a stall of the handler's loop of that
length, and `clear_queue` rarely has much to drop."""

MOST_WAITING_LIVE = 10.0
"""The same with `Latency.LIVE`. A handler that passes on what it hears may have gathered a backlog in queues of its
own. It can hand all of it over without being held back. So the backlog shows as a standing queue behind which audio is
made in real time, and is shed. Speech that is made faster than real time comes in bursts with pauses, and is played
whole. So is audio that still has to wait in the handler."""

CONFIRMATION = 1.0
"""Seconds that a far side has to confirm the last audio that it was sent. It is several times as long as a carrier's
buffer and the round trip.
"""


@dataclass(frozen=True, slots=True)
class Playback:
    """How far playing has come, in seconds of audio since the connection began.

    Attributes:
        played: What has left for the peer, or was shed on the way (`Latency.LIVE`).
        waiting: What was emitted, and waits to leave.
        confirmed: How much of `played` the far side confirms to have played (a carrier's marks). None if it does not
            confirm. Audio that it dropped at `clear_queue` counts with the next confirmation.
    """

    played: float
    waiting: float
    confirmed: float | None = None


class PlayerTap(Protocol):
    """Sees what leaves a `Player`. Called in any thread, with the player's lock held: it must return at once."""

    def left(self, due: PlayoutFrame, now: float) -> None:
        """A frame has left for the peer at `now`. It is told when the next frame is taken, or at the end.

        Other taps keep its samples: they must not be changed.
        """

    def cleared(self, now: float, seconds: float) -> None:
        """This many seconds of waiting audio were dropped."""


class Player:
    """Audio on its way out: a bounded queue of samples, played in real time.

    The bound is soft on purpose. One `put` is taken whole, whatever its length, because a synthesised sentence arrives
    as one array. `wait_for_room` holds the next one back until less than `most_waiting` seconds wait.

    Args:
        latency: Whether a standing backlog is shed (see `Latency`).
        most_waiting: Seconds of audio that may wait before `wait_for_room` waits. By default `MOST_WAITING` or, live,
            `MOST_WAITING_LIVE`.
        ahead: Seconds by which frames leave before their time, for far sides that buffer by themselves.
        clock: The clock that deadlines are on, in seconds; that of the loop in which `next_frame` is awaited. By
            default `time.monotonic`; virtual time brings its own.

    Attributes:
        clears: How often `clear` was called.
    """

    @renamed(room="most_waiting")
    def __init__(
        self,
        *,
        latency: Latency = Latency.BUFFERED,
        most_waiting: float | None = None,
        ahead: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lock = threading.Lock()
        self._player = ParkingLot(self._lock)
        self._putters = ParkingLot(self._lock)
        self._clock = clock
        if most_waiting is None:
            most_waiting = MOST_WAITING_LIVE if latency is Latency.LIVE else MOST_WAITING
        self._latency, self._most_waiting, self._ahead = latency, most_waiting, ahead
        self._playout: Playout | None = None
        self._ended = False
        self._closed = False
        self._keeps = False  # what waits when the transport ends
        self.clears: int = 0
        self._clears_at_pop = 0
        self._taps: tuple[PlayerTap, ...] = ()
        self._leaving: list[tuple[PlayoutFrame, float]] = []  # taken, and not sent for certain; only for taps
        self._confirmed: float | None = None
        self._unconfirmed_from = 0.0  # played by then: confirmed, or dropped by the far side

    def open(self, format: AudioFormat) -> None:
        """Fix the format of what is put. Called once, before the first `put`."""
        with self._lock:
            self._playout = Playout(format.sample_rate, latency=self._latency, ahead=self._ahead)
            self._player.wake_all()

    # -- the side that emits, from any thread

    def put(self, frame: AudioFrame | NDArray[np.int16], *, since: int | None = None) -> bool:
        """Queue audio of any length; returns at once. From any thread.

        Args:
            frame: The samples: int16, shape (1 or 2, n), at the sample rate that `open` was given. Do not change them
                later. Or an `AudioFrame` that holds such samples; its `pts` is ignored.
            since: The value of `clears` when the audio was made. If `clear` was called since then, it is dropped.

        Returns:
            Whether it was queued.

        Raises:
            anyio.ClosedResourceError: `end` or `close` was called; the audio is dropped.
        """
        samples = frame.samples if isinstance(frame, AudioFrame) else frame
        with self._lock:
            if self._ended or self._playout is None:
                raise anyio.ClosedResourceError
            if since is not None and since != self.clears:
                return False
            self._playout.push(samples, self._clock())
            if self._player.waiters:
                self._player.wake_all()
            if self._closed and self._latency is Latency.LIVE:
                self._playout.clear()
            return True

    async def wait_for_room(self) -> None:
        """Wait until less than `most_waiting` seconds of audio are queued. Always a checkpoint. Safe to cancel.

        Raises:
            anyio.ClosedResourceError: `end` or `close` was called.
        """
        await anyio.lowlevel.checkpoint()
        await self.wait_for_room_in_a_row()

    async def wait_for_room_in_a_row(self) -> None:
        """`wait_for_room` for loops that let others run by themselves: a checkpoint only if it waits."""
        with self._lock:
            while not self._has_room():
                await self._putters.park()

    def wait_for_room_sync(self) -> None:
        """`wait_for_room` for a worker thread."""
        with self._lock:
            while not self._has_room():
                self._putters.park_sync()

    def _has_room(self) -> bool:
        if self._ended or self._playout is None:
            raise anyio.ClosedResourceError
        if self._playout.queued_seconds < self._most_waiting:
            return True
        self._playout.held_back()
        return False

    def clear(self) -> float:
        """Drop everything not yet played, at once; returns the seconds dropped. From any thread."""
        with self._lock:
            if self._playout is None:
                return 0.0
            self.clears += 1
            dropped = self._playout.clear()
            self._unconfirmed_from = self._playback().played
            self._putters.wake_all()
            seconds = dropped / self._playout.sample_rate
            for tap in self._taps:
                tap.cleared(self._clock(), seconds)
            return seconds

    def end(self) -> None:
        """Take nothing more; `wait_for_room` fails, and what is queued plays on. From any thread; idempotent."""
        with self._lock:
            self._ended = True
            self._putters.wake_all()

    @property
    def queued_seconds(self) -> float:
        """Seconds of audio waiting."""
        with self._lock:
            return 0.0 if self._playout is None else self._playout.queued_seconds

    async def drained(self) -> None:
        """Wait until everything queued has been played (or cleared, or the transport has ended).

        Always a checkpoint. Safe to cancel.
        """
        await anyio.lowlevel.checkpoint()
        with self._lock:
            while not self._closed and self._playout is not None and self._playout.queued_seconds > 0:
                await self._putters.park()

    def playback(self) -> Playback:
        """How far playing has come; from any thread."""
        with self._lock:
            return self._playback()

    def _playback(self) -> Playback:
        if self._playout is None:
            return Playback(0.0, 0.0)
        played = self._playout.position / self._playout.sample_rate
        return Playback(played, self._playout.queued_seconds, self._confirmed)

    def confirm(self, seconds: float) -> None:
        """The far side has played up to here, on the scale of `Playback.played`. From any thread."""
        with self._lock:
            self._confirmed = max(seconds, self._confirmed or 0.0)
            self._unconfirmed_from = max(seconds, self._unconfirmed_from)
            self._putters.wake_all()

    async def wait_played(self, seconds: float) -> None:
        """Wait until more than `seconds` of audio were played since the beginning, or nothing waits to be played.

        If nothing waits, and the far side confirms what it plays, wait for that as well, for at most `CONFIRMATION`
        seconds. Always a checkpoint. Safe to cancel.
        """
        await anyio.lowlevel.checkpoint()
        while True:
            with self._lock:
                while (playback := self._playback()).waiting and playback.played <= seconds and not self._is_over:
                    await self._putters.park()
                if playback.played > seconds or self._is_over or not self._is_unconfirmed():
                    return
            with anyio.move_on_after(CONFIRMATION) as waiting, self._lock:
                while self._is_unconfirmed() and not self._playback().waiting:
                    await self._putters.park()
            if waiting.cancelled_caught:
                return

    @property
    def _is_over(self) -> bool:
        """Whether nothing that waits will ever be played."""
        return self._closed and not self._keeps

    def _is_unconfirmed(self) -> bool:
        return self._confirmed is not None and not self._closed and self._unconfirmed_from < self._playback().played

    # -- the transport's side: one task

    async def next_frame(self) -> PlayoutFrame:
        """Wait for the next frame, until it is due. Cancelling this is safe: no frame is lost.

        It is a checkpoint only if it waits: frames that are late come at once, and there are few of them.

        Raises:
            anyio.EndOfStream: `close` was called.
        """
        while True:
            with self._lock:
                while (due := self._take_due()) is None:
                    await self._player.park()
                partial = self._playout is not None and self._playout.is_partial
            if isinstance(due, PlayoutFrame):
                return due
            if partial:
                with anyio.move_on_after(due), self._lock:
                    await self._player.park()  # what completes the frame wakes us
            else:
                await anyio.sleep(due)

    def more(self, within: float) -> PlayoutFrame | None:
        """The frame after the last one, if it is whole and due within `seconds`; never waits.

        For transports whose messages may hold more than one frame.
        """
        with self._lock:
            if self._closed or self._playout is None or self._playout.is_partial or self.stale:
                return None
            frame = self._playout.pop(self._clock() + within)
            if frame is not None:
                self._putters.wake_all()
                if self._taps:
                    self._leaving.append((frame, self._clock()))
            return frame

    def poll(self, waiter: Waiter, grain: float = 0.0) -> PlayoutFrame | float | None:
        """`next_frame` for a transport that waits by itself, in a loop of its own: never waits.

        Args:
            waiter: Its `wake` is called once, from any thread, when another call may give another result.
            grain: Seconds by which its timers may fire too early. A frame that is due within them counts as due.

        Returns:
            The frame that is due. Otherwise, seconds until the next slot; a frame that comes before it wakes nobody,
            because the timer of the slot finds it. None if `waiter` will be woken instead: there is no next slot, or
            nothing is queued for it and the last frame came after its own, so that a timer would find nothing.

        Raises:
            anyio.EndOfStream: `close` was called.
        """
        with self._lock:
            playout = self._playout
            if playout is not None and not self._closed and (left := playout.next_slot - self._clock()) > grain:
                if not playout.is_late or playout.queued_seconds:
                    return left
                if self._leaving:  # the last frame of a reply: the next one may be minutes away
                    self._tell_left()
                self._player.add(waiter)
                return None
            due = self._take_due(grain)
            if due is None or (isinstance(due, float) and playout is not None and playout.is_partial):
                self._player.add(waiter)
            return due

    def _take_due(self, grain: float = 0.0) -> PlayoutFrame | float | None:
        if self._closed:
            raise anyio.EndOfStream
        if self._leaving:
            self._tell_left()
        if self._playout is None:
            return None
        now = self._clock()
        frame = self._playout.pop(now, grain)
        if frame is None:
            deadline = self._playout.next_deadline(now)
            return None if deadline is None else deadline - now
        self._clears_at_pop = self.clears
        if self._putters.waiters:
            self._putters.wake_all()
        if self._taps:
            self._leaving.append((frame, now))
        return frame

    def _tell_left(self) -> None:
        for due, at in self._leaving:
            for tap in self._taps:
                tap.left(due, at)
        self._leaving.clear()

    def drop_stale(self) -> bool:
        """Whether what the transport took with the last `next_frame` (and `more`) is `stale`: then it must not leave.

        Ask before each sending. Stale frames do not count as left.
        """
        if self._clears_at_pop == self.clears:
            return False
        with self._lock:
            self._leaving = []
        return True

    def tap(self, tap: PlayerTap) -> None:
        """Tell `tap` what leaves from now on."""
        with self._lock:
            self._taps = (*self._taps, tap)

    def untap(self, tap: PlayerTap) -> None:
        """Tell `tap` what has left, and no more. Does nothing if `tap` is not there."""
        with self._lock:
            self._tell_left()
            self._taps = tuple(one for one in self._taps if one is not tap)

    @property
    def clock(self) -> Callable[[], float]:
        """The clock that deadlines and slots are on, in seconds; from any thread."""
        return self._clock

    @property
    def now(self) -> float:
        """The time on the player's clock."""
        return self._clock()

    @property
    def stale(self) -> bool:
        """Whether `clear` was called since the last frame of `next_frame`. Then that frame must not leave."""
        return self._clears_at_pop != self.clears

    def close(self) -> None:
        """The transport has ended: all audio that waits is dropped, every wait fails. From any thread; idempotent.

        After `keep_rest`, only the transport's side fails.
        """
        with self._lock:
            self._closed = True
            self._ended = self._ended or not self._keeps
            self._tell_left()
            if self._playout is not None and not (self._keeps and self._latency is Latency.BUFFERED):
                self._playout.clear()
            self._player.wake_all()
            self._putters.wake_all()

    def keep_rest(self) -> None:
        """Let what waits outlive the transport, for another one: until `take_rest`, `close` drops none of it.

        The side that emits may go on meanwhile, also if the transport has ended already. Called right after `open`.
        With `Latency.LIVE`, what waits is dropped all the same.
        """
        with self._lock:
            self._keeps, self._ended = True, False

    def take_rest(self) -> list[NDArray[np.int16]]:
        """End this player, and return what waits in it: int16, each of shape (channels, n). From any thread."""
        with self._lock:
            rest = [] if self._playout is None else self._playout.waiting()
            if self._playout is not None:
                self._playout.clear()
            self._ended = self._closed = True
            self._keeps = False
            self._tell_left()
            self._player.wake_all()
            self._putters.wake_all()
            return rest

    def statistics(self) -> PlayoutStatistics:
        """The figures now, in samples per channel."""
        with self._lock:
            return PlayoutStatistics(0, 0, 0, 0, 0, 0) if self._playout is None else self._playout.statistics()
