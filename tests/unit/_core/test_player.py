"""The player: put from any thread, played in time, nothing after the end."""

from __future__ import annotations

from types import SimpleNamespace

import anyio
import numpy as np
import pytest

from rtcflow._core.player import Player
from rtcflow.frames import AudioFormat, AudioFrame


def second() -> AudioFrame:
    return AudioFrame(np.ones((1, 48000), np.int16), 48000, 0)


@pytest.fixture
def player():
    player = Player(clock=lambda: 0.0)
    player.open(AudioFormat(48000))
    return player


def test_nothing_is_put_after_the_end(player):
    """What a handler emits after the end is refused, and what was emitted before still plays."""
    player.put(second())
    player.end()
    with pytest.raises(anyio.ClosedResourceError):
        player.put(second())
    with pytest.raises(anyio.ClosedResourceError):
        player.wait_for_room_sync()
    assert player.queued_seconds == 1


def test_closing_drops_what_waits(player):
    """After close nothing waits, nothing is taken, and the figures add up."""
    player.put(second())
    player.close()
    with pytest.raises(anyio.ClosedResourceError):
        player.put(second())
    figures = player.statistics()
    assert (figures.queued, figures.dropped, figures.waiting) == (48000, 48000, 0)


def test_nothing_is_put_before_the_format_is_known():
    """A player that was not opened refuses audio instead of guessing its rate."""
    with pytest.raises(anyio.ClosedResourceError):
        Player().put(second())


def test_the_last_frame_of_a_reply_is_told_before_the_pause():
    """Also if it came late, so that no timer follows: a recording writes that place before the next reply."""
    now, told = 0.0, []

    class Tap:
        def left(self, due, at):
            told.append(at)

        def cleared(self, at, seconds):
            raise NotImplementedError

    class Transport:
        def wake(self):
            pass

    player, waiter = Player(clock=lambda: now), Transport()
    player.open(AudioFormat(48000))
    player.tap(Tap())
    for at in (0.0, 0.0205, 0.041):
        now = at
        player.put(np.ones((1, 960), np.int16))
        player.poll(waiter)
        player.poll(waiter)
    assert told == [0.0, 0.0205, 0.041]


def test_a_frame_is_waited_for_in_the_way_of_the_last_one():
    """After a frame that came in time, the timer of the next slot finds the next. After a late one, its `put` tells."""
    now, woken = 0.0, []

    class Transport:
        def wake(self):
            woken.append(now)

    player, waiter = Player(clock=lambda: now), Transport()
    player.open(AudioFormat(48000))
    frame = np.ones((1, 960), np.int16)

    def put(at):
        nonlocal now
        now = at
        player.put(frame)

    assert player.poll(waiter) is None
    put(0.0)
    assert woken == [0.0]
    assert player.poll(waiter).slot == 0.0
    assert player.poll(waiter) == pytest.approx(0.02)  # a timer
    put(0.019)
    assert woken == [0.0]
    now = 0.02
    assert player.poll(waiter).slot == 0.02
    now = 0.04
    assert player.poll(waiter) is None
    put(0.041)
    assert woken == [0.0, 0.041]
    assert player.poll(waiter).slot == 0.04
    assert player.poll(waiter) is None  # no timer: it would find nothing
    put(0.059)
    assert woken == [0.0, 0.041, 0.059]
    assert player.poll(waiter) == pytest.approx(0.001)  # it came in time after all
    now = 0.06
    assert player.poll(waiter).slot == pytest.approx(0.06)


@pytest.mark.anyio
async def test_the_end_lets_go_who_waits_for_room(player):
    """A handler that is held back when its connection ends is told so."""
    player.put(second())
    with anyio.fail_after(120):
        async with anyio.create_task_group() as tg:

            async def wait():
                with pytest.raises(anyio.ClosedResourceError):
                    await player.wait_for_room()

            tg.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            player.end()


def test_a_timer_that_fires_a_little_early_finds_its_frame():
    """Within the grain of the timers a frame is due, before that it is not; deadlines stay those of the schedule."""
    now = 0.0
    player = Player(clock=lambda: now)
    player.open(AudioFormat(48000))
    player.put(second())
    woken = []
    waiter = SimpleNamespace(wake=lambda: woken.append(now))
    deadlines = [player.poll(waiter, 0.001).deadline]
    for n in range(1, 50):
        now = 0.02 * n - 0.0015
        assert player.poll(waiter, 0.001) == pytest.approx(0.0015)
        now = 0.02 * n - 0.0005
        deadlines.append(player.poll(waiter, 0.001).deadline)
    assert deadlines == pytest.approx([0.02 * n for n in range(50)])


def test_samples_alone_are_put_as_a_frame_is(player):
    """What a frame says beside its samples does not count, so samples alone will do."""
    player.put(np.ones((1, 960), np.int16))
    player.put(AudioFrame(np.ones((1, 960), np.int16), 8000, 12345))
    assert player.queued_seconds == 0.04
