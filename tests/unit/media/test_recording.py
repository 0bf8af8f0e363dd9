"""The timeline of a recording: both sides stay in place, whatever network and clocks do."""

from __future__ import annotations

import gc
import random
import threading
import time
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtcflow.frames import AudioFrame
from rtcflow.media.packets import LatestPackets
from rtcflow.media.playout import PlayoutFrame
from rtcflow.media.recording import BATCH, DEADBAND, FIELDS, HOLD, MOST, REACH, Intake, PacketTimeline, Timeline

RATE = 8000
SIZE = RATE // 50
FRAME = 0.02
START = 1000.0


def pulse(loud=True, rate=RATE):
    samples = np.zeros((1, rate // 50), np.int16)
    samples[0, 0] = 20000 if loud else 0
    return samples


LOUD, QUIET = pulse(), pulse(loud=False)


class Noted(Intake):
    """An intake whose clock shows what was noted last."""

    def __init__(self):
        self.now, self.woken = START, 0
        super().__init__(lambda: self.now, BATCH, self._count)
        self.shown = LatestPackets()

    def _count(self):
        self.woken += 1

    def note(self, now, method, *args):
        self.now = now
        match method:
            case "heard":
                self.heard(*args)
            case "left":
                self.left(*args, now)
            case "cleared":
                self.cleared(now, *args)

    def show(self, method, pts, packet):
        """A packet of the next frame."""
        self.packets = self.shown
        if method == "heard":
            self.shown.received = packet
        elif packet is not None:
            self.shown.sent, self.shown.sent_pts = packet, pts


def recorded(events, end, rate=RATE, every=50):
    """What a timeline makes of `events`, (now, side, frame...) in any order; blocks are taken at each `every`."""
    intake, timeline = Noted(), Timeline(rate)
    blocks = []
    for count, event in enumerate(sorted(events, key=lambda one: one[0])):
        intake.note(*event)
        if count % every == 0:
            blocks += (block.copy() for block in timeline.place(intake.take()))
    blocks += (block.copy() for block in timeline.finish(intake.take(end)))
    timeline.marks = intake.marks
    return timeline, np.concatenate(blocks, axis=1)


def heard(number, arrival, *, loud=True, pts=None):
    return (START + arrival, "heard", AudioFrame(LOUD if loud else QUIET, RATE, number * SIZE if pts is None else pts))


def left(number, slot, *, first=False, popped=None, loud=True):
    frame = AudioFrame(LOUD if loud else QUIET, RATE, number * SIZE)
    at = START + (slot if popped is None else popped)
    return (at, "left", PlayoutFrame(frame, first, at, START + slot))


def pulses(side):
    return (np.flatnonzero(side > 8000) / RATE).tolist()


def test_both_sides_are_in_place():
    """The caller's first frame is where it came, and what left is at its slot."""
    timeline, both = recorded([heard(0, 1.0), heard(1, 1.02), left(0, 2.0, first=True), left(1, 2.02)], START + 3)
    assert both.shape == (2, 3 * RATE)
    assert pulses(both[0]) == [1.0, 1.02]
    assert pulses(both[1]) == [2.0, 2.02]
    assert timeline.lost == 0


def test_each_talkspurt_begins_at_its_slot():
    """Slots of a later talkspurt may lie 15 ms nearer to its media time: playout counts whole frames of silence."""
    events = [left(n, 1 + n * FRAME, first=n == 0) for n in range(50)]
    events += [left(n, 0.985 + n * FRAME, first=n == 60) for n in range(60, 200)]
    _, both = recorded(events, START + 8)
    assert pulses(both[1]) == pytest.approx([event[2].slot - START for event in events])
    pieces = places(recorded_packets(events, START + 8), 1)
    assert [pieces[event[2].frame.pts // SIZE] for event in events] == pytest.approx(
        [round((event[2].slot - START) * 50) / 50 for event in events]
    )


@given(
    delays=st.lists(st.floats(0, 0.3), min_size=1, max_size=300),
    lost=st.sets(st.integers(0, 299), max_size=18),
    every=st.integers(1, 200),
)
@settings(max_examples=60)
def test_jitter_and_losses_move_nothing(delays, lost, every):
    """Each frame that came is exactly where its media time says, however late it was."""
    came = {n: delay for n, delay in enumerate(delays) if n not in lost}
    came = {n: 0.0 if n % 50 >= 30 or n % 100 < 20 else delay for n, delay in came.items()}
    last, events = 0.0, []
    for n, delay in came.items():  # a jitter buffer gives them in order
        last = max(last, n * FRAME + 0.1 + delay)
        events.append(heard(n, last))
    _, both = recorded(events, START + 20, every=every)
    assert [round((position - 0.1) / FRAME, 6) for position in pulses(both[0])] == list(came)


@given(every=st.integers(1, 400), seed=st.integers(0, 5))
@settings(max_examples=20)
def test_blocks_do_not_matter(every, seed):
    """The same frames give the same recording, however often blocks are taken."""
    dice = random.Random(seed)
    events = [heard(n, n * FRAME + dice.random() * 0.1) for n in range(400)]
    events = sorted(events, key=lambda one: one[0])
    numbered = [(at, kind, frame._replace(pts=n * SIZE)) for n, (at, kind, frame) in enumerate(events)]
    _, one = recorded(numbered, START + 9, every=1)
    _, other = recorded(numbered, START + 9, every=every)
    assert np.array_equal(one, other)


@pytest.mark.parametrize("ppm", [200, -200])
@pytest.mark.parametrize("rate", [RATE, 16000])
def test_an_hour_with_a_drifting_device(ppm, rate):
    """Losses, jitter, stalls and 200 ppm for an hour: the caller is never more than a frame off, nor is the other side.

    Every 20 s something is said on both sides. Frames in between are 1 s long, which is quicker to test.
    """
    dice, events, last = random.Random(ppm), [], 0.0
    expected = [], []
    second = np.zeros((1, RATE), np.int16)
    for n in range(3600):
        samples = second
        if n % 20 == 10:
            samples = second.copy()
            samples[0, :8] = 20000
        made = n * (1 + ppm * 1e-6) + 0.05
        stall = 1.5 if n % 500 == 499 else 0.0
        last = max(last, made + dice.random() * (0.08 if n % 4 else 0.001) + stall)
        if dice.random() < 0.05:
            continue
        events.append((START + last, "heard", AudioFrame(samples, RATE, n * RATE)))
        if n % 20 == 10:
            expected[0].append(made)
        slot = START + n + 0.5
        events.append((slot, "left", PlayoutFrame(AudioFrame(samples, RATE, n * RATE), n % 20 == 0, slot, slot)))
        if n % 20 == 10:
            expected[1].append(n + 0.5)
    timeline, both = recorded(events, START + 3601, rate)
    for side, wanted in zip(both, expected, strict=True):
        at = np.flatnonzero(side > 8000) / rate
        begins = at[np.flatnonzero(np.diff(at, prepend=-1) > 0.5)]
        assert len(begins) == len(wanted)
        assert np.abs(begins - wanted).max() <= FRAME
    assert timeline.lost <= rate  # what was before the beginning, and the overlap of long frames


def test_without_drift_nothing_moves_for_an_hour():
    """The distance of any two pulses is exact to the sample."""
    dice, events, last = random.Random(3), [], 0.0
    second = np.zeros((1, RATE), np.int16)
    second[0, 0] = 20000
    for n in range(3600):
        last = max(last, n + 0.1 + dice.random() * (0.05 if n % 3 else 0.0))
        if n and dice.random() < 0.05:
            continue
        events.append((START + last, "heard", AudioFrame(second, RATE, n * RATE)))
    _, both = recorded(events, START + 3601)
    at = np.flatnonzero(both[0] > 8000)
    assert set((at - at[0]) % RATE) == {0}


def test_a_stall_that_catches_up_moves_nothing():
    """Nothing came for 1.5 s, and then all of it at once."""
    events = [heard(n, max(n * FRAME, 2.5) if 1.0 <= n * FRAME < 2.5 else n * FRAME) for n in range(300)]
    _, both = recorded(events, START + 7)
    assert np.allclose(np.diff(pulses(both[0])), FRAME)


def test_a_pause_that_is_not_counted_is_silence():
    """A line that sends nothing while the caller is silent, and counts on from there."""
    events = [heard(n, n * FRAME + (3.0 if n >= 100 else 0.0)) for n in range(300)]
    _, both = recorded(events, START + 10)
    assert pulses(both[0])[100] == pytest.approx(5.0, abs=DEADBAND)
    assert len(pulses(both[0])) == 300


def test_cleared_audio_is_not_in_it():
    """What waited, and what a carrier got before its time; the moment is marked."""
    events = [left(n, 1 + n * FRAME, first=n == 0, popped=1 + max(0, n * FRAME - 0.2)) for n in range(40)]
    kept = [event for event in events if event[0] <= START + 1.5]
    timeline, both = recorded([*kept, (START + 1.5, "cleared", 0.7)], START + 4)
    assert pulses(both[1])[-1] == pytest.approx(1.5)
    assert timeline.marks == [(pytest.approx(0.5 + 1), 0.7)]


def test_small_frames_find_room():
    """An AudioWorklet brings 375 frames a second. The writer, 1 s late each time, is told before the list is full."""
    intake, timeline, told, small = Noted(), Timeline(RATE), None, np.zeros((1, 128), np.int16)
    size = taken = 0
    for n in range(10 * 375):
        intake.note(START + n / 375, "heard", AudioFrame(small, 48000, n * 128))
        if told is None and intake.woken > taken:
            told = n
        if told is not None and n - told >= 375:
            taken, told = intake.woken, None
            size += sum(block.shape[1] for block in timeline.place(intake.take()))
    assert intake.dropped == 0
    assert size + sum(block.shape[1] for block in timeline.finish(intake.take(START + 10))) == 10 * RATE


def test_memory_is_bounded():
    """What is held covers `REACH`, also if media time leaps."""
    intake, timeline = Noted(), Timeline(RATE)
    size = 0
    for n in range(3000):
        intake.note(START + n * FRAME, "heard", AudioFrame(QUIET, RATE, n * SIZE + (n // 500) * 10**9))
        if n % 50 == 0:
            size += sum(block.shape[1] for block in timeline.place(intake.take()))
            assert sum(len(one.times) for one in timeline._sides[0]._waiting) <= (HOLD + 2) / FRAME
            assert timeline._sides[0].end - size <= (REACH + 3) * RATE
    assert size + sum(block.shape[1] for block in timeline.finish(intake.take(START + 60))) == 60 * RATE


def test_the_writer_is_woken_each_batch():
    """Not for each frame, whichever side brings them."""
    intake = Noted()
    for n in range(round(4 * BATCH / FRAME)):
        intake.note(*(heard if n % 1500 < 700 else left)(n, n * FRAME))
        assert intake.woken == int(n * FRAME / BATCH + 1e-6)
        intake.take()


def test_what_waits_is_bounded():
    """Frames beyond the bound are dropped and counted, and their place stays."""
    intake, timeline = Noted(), Timeline(RATE)
    for n in range(MOST + 100):
        intake.note(*heard(n, n * FRAME))
        intake.note(*left(n, n * FRAME, first=n == 0))
    assert intake.dropped == 200
    assert intake.woken >= 200
    taken = intake.take()
    assert [len(notes) // FIELDS for notes in taken.notes] == [MOST, MOST]
    whole = [block.copy() for block in timeline.place(taken)]
    for n in range(MOST + 100, MOST + 200):
        intake.note(*heard(n, n * FRAME))
    whole += [block.copy() for block in timeline.finish(intake.take())]
    frames = [round(at / FRAME) for at in pulses(np.concatenate(whole, axis=1)[0])]
    assert frames == [*range(MOST), *range(MOST + 100, MOST + 200)]


def test_notes_are_nothing_for_the_garbage_collector():
    """Objects that it follows would cost every call of the process its collections."""
    intake = Noted()
    for n in range(10):
        intake.note(*heard(n, n * FRAME))
        intake.note(*left(n, n * FRAME))
    intake.note(START + 1, "cleared", 0.5)
    assert not any(gc.is_tracked(value) for notes in intake.take().notes for value in notes)


def test_another_thread_takes_whole_notes():
    """Nothing is lost or torn, without a lock."""
    intake, found, frames = Noted(), [], 20_000
    done = threading.Event()

    def take():
        while not done.is_set():
            found.extend(intake.take().notes[0])

    thread = threading.Thread(target=take)
    thread.start()
    for n in range(frames):
        while len(intake._heard) > MOST * FIELDS // 2:
            time.sleep(0)
        intake.note(*heard(n, n * FRAME))
    done.set()
    thread.join()
    found.extend(intake.take().notes[0])
    assert found[2::FIELDS] == [n * SIZE for n in range(frames)]


def test_rates_and_channels_may_change():
    """Stereo and other rates become the recording's; nothing is lost."""
    other = np.repeat(pulse(rate=16000), 2, axis=0)
    events = [heard(0, 1.0), (START + 2.0, "heard", AudioFrame(other, 16000, 16000))]
    _, both = recorded(events, START + 3)
    assert pulses(both[0])[0] == 1.0
    assert np.abs(both[0]).argmax() / RATE == 1.0
    assert np.abs(both[0, int(1.5 * RATE) :]).argmax() / RATE == 0.5


# -- packets


def recorded_packets(events, end, every=200):
    """The pieces that a timeline makes of `events`; a frame's packet is its number, if `bare` does not hold it."""
    intake, timeline, pieces = Noted(), PacketTimeline(), []
    for count, (now, method, *args) in enumerate(sorted(events, key=lambda one: one[0])):
        if method != "cleared":
            frame = args[0] if method == "heard" else args[0].frame
            bare = frame.concealed or frame.samples is BARE
            intake.show(method, frame.pts, None if bare else b"\xf8" + (frame.pts // SIZE).to_bytes(4, "big"))
        intake.note(now, method, *args)
        if count % every == 0:
            pieces += chain(*timeline.place(intake.take()))
    return [*pieces, *chain(*timeline.finish(intake.take(end)))]


BARE = pulse()


def places(pieces, side):
    """Seconds at which each numbered packet is."""
    return {
        int.from_bytes(pair[side][1:], "big"): index * FRAME
        for index, pair in enumerate(pieces)
        if isinstance(pair[side], bytes) and len(pair[side]) == 5
    }


def test_packets_keep_their_distance():
    """Jitter moves no packet. A lost one leaves its place, and one that was made up an empty frame."""
    dice, last, events = random.Random(1), 0.0, []
    for n in range(500):
        last = max(last, n * FRAME + 0.1 + (dice.random() * 0.08 if n % 5 else 0.0))
        if n % 50 == 20:
            continue
        event = heard(n, last)
        if n % 50 == 30:
            event = (*event[:2], event[2]._replace(concealed=True))
        events.append(event)
        events.append(left(n, 0.5 + n * FRAME, first=n == 0))
    pieces = recorded_packets(events, START + 11)
    assert len(pieces) == 11 * 50
    ours, theirs = places(pieces, 0), places(pieces, 1)
    assert [n for n in range(500) if n not in ours] == [n for n in range(500) if n % 50 in {20, 30}]
    assert {round(at - n * FRAME, 6) for n, at in ours.items()} == {0.1}
    assert {round(at - n * FRAME, 6) for n, at in theirs.items()} == {0.5}
    assert [pieces[5 + n][0] for n in (20, 30)] == [None, b"\xf8"]


@pytest.mark.parametrize("ppm", [200, -200])
def test_packets_of_a_drifting_device(ppm):
    """In ten minutes the device is off by 120 ms. No packet is more than 16 ms from where it was heard."""
    dice, events, last = random.Random(ppm), [], 0.0
    made = {n: n * FRAME * (1 + ppm * 1e-6) + 0.107 for n in range(30_000)}
    for n, at in made.items():
        last = max(last, at + dice.random() * (0.06 if n % 4 else 0.001))
        events.append(heard(n, last))
    ours = places(recorded_packets(events, START + 601), 0)
    assert len(made) - len(ours) <= 7  # one is left out for each 20 ms
    assert max(abs(at - made[n]) for n, at in ours.items()) <= 0.016


@pytest.mark.parametrize("ppm", [200, -200])
def test_packets_of_both_sides_stay_within_a_slot_of_each_other(ppm):
    """Wherever the slots of both sides lie, and when a drifting device moves a slot: at any time, also for a moment."""
    dice, events, last = random.Random(ppm), [], 0.0
    made, said, slot = {}, {}, dice.random()
    phase = dice.random() * FRAME
    for n in range(15_000):
        again = n >= 6000  # the caller's line began again: it counts from somewhere else, and is later by 10 ms
        made[n + 900 * again] = at = phase + n * FRAME * (1 + ppm * 1e-6) + 0.01 * again
        last = max(last, at + dice.random() * (0.06 if n % 4 else 0.001))
        events.append(heard(n + 900 * again, last))
        first = n % 700 == 0 and n < 9000  # then a talkspurt of two minutes
        slot += FRAME + first * (0.1 + dice.random())
        said[n] = slot
        events.append(left(n, slot, first=first))
    pieces = recorded_packets(events, START + 320)
    ours = {round(at / FRAME): at - made[n] for n, at in places(pieces, 0).items()}
    theirs = {round(at / FRAME): at - said[n] for n, at in places(pieces, 1).items()}
    both = [(ours[slot], theirs[slot]) for slot in ours.keys() & theirs.keys()]
    assert len(both) > 13_000
    assert max(abs(one - other) for one, other in both) <= 0.016
    assert max(abs(error) for error in ours.values()) <= 0.016


def test_cleared_packets_are_not_in_it():
    """What a carrier got before its time is cut off behind the moment, as with samples."""
    events = [left(n, 1 + n * FRAME, first=n == 0, popped=1 + max(0, n * FRAME - 0.2)) for n in range(40)]
    kept = [event for event in events if event[0] <= START + 1.5]
    pieces = recorded_packets([*kept, (START + 1.5, "cleared", 0.7)], START + 4)
    assert max(places(pieces, 1).values()) == pytest.approx(1.5)


def test_audio_without_a_packet_is_among_them():
    """Other codecs, and what came before the file was chosen: its samples are in the same places, in 20 ms."""
    events = [heard(n, 1 + n * FRAME) for n in range(100)]
    bare = [(*event[:2], event[2]._replace(samples=BARE)) if n < 30 else event for n, event in enumerate(events)]
    pieces = [pair[0] for pair in recorded_packets(bare, START + 4)]
    assert [None if piece is None else type(piece) for piece in pieces] == [
        *[None] * 50, *[AudioFrame] * 30, *[bytes] * 70, *[None] * 50
    ]  # fmt: skip
    assert pieces[50].samples[0, 0] == 20000
    long = [(START + 1 + n * 0.03, "heard", AudioFrame(np.ones((1, 240), np.int16), RATE, 240 * n)) for n in range(7)]
    pieces = [pair[0] for pair in recorded_packets([*long], START + 4)]
    assert [n for n, piece in enumerate(pieces) if piece is not None] == list(range(50, 61))
    assert sum(int(piece.samples.sum()) for piece in pieces if piece is not None) == 7 * 240


def test_no_packet_is_kept():
    """What waits covers `REACH`, however long the call is."""
    intake, timeline = Noted(), PacketTimeline()
    found = []
    for n in range(6000):
        frame = AudioFrame(QUIET, RATE, n * SIZE)
        intake.show("heard", frame.pts, b"\xf8" + n.to_bytes(4, "big"))
        intake.note(START + n * FRAME, "heard", frame)
        if n % 100 == 0:
            found += chain(*timeline.place(intake.take()))
            assert sum(len(pieces) for _, pieces in timeline._rows[0]._runs) <= (REACH + 1) / FRAME
    found += chain(*timeline.finish(intake.take(START + 6000 * FRAME)))
    assert places(found, 0) == {n: n * FRAME for n in range(6000)}
