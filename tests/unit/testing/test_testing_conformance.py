"""`check_transport` and `check_handler`: whatever breaks a sentence of the contract is told with that sentence."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections import Counter, defaultdict
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import anyio
import av
import numpy as np
import pytest

import rtcflow
from rtcflow import HandlerError, memory_pair
from rtcflow._core.flow import Flow, Policy
from rtcflow.abc import MediaOffer
from rtcflow.frames import AudioFormat
from rtcflow.testing import HANDLER_CHECKS, TRANSPORT_CHECKS, check_handler, check_transport, contract, virtual_backend

AUDIO = (24000, np.zeros((1, 480), np.int16))
EVERYTHING = MediaOffer(receive_video=True, send_video=True)


# -- transports, each broken in one place


def odd_rate(ours, theirs):
    start = ours.start
    ours.start = lambda receive, send: (start(receive, send), (AudioFormat(22051), AudioFormat(22051)))[1]


def out_of_order(ours, theirs):
    put, kept = theirs.audio_in.put_nowait, []

    def swap(frame):
        kept.append(frame)
        if len(kept) == 10:
            for late in reversed(kept):
                put(late)
            kept.clear()

    theirs.audio_in.put_nowait = swap


def pts_stands_still(ours, theirs):
    put = theirs.audio_in.put_nowait
    theirs.audio_in.put_nowait = lambda frame: put(frame._replace(pts=0))


def not_played(ours, theirs):
    statistics = ours.audio_out.statistics
    ours.audio_out.statistics = lambda: replace(statistics(), played=0)


def uncounted(ours, theirs):
    statistics = ours.audio_out.statistics
    ours.audio_out.statistics = lambda: replace(statistics(), dropped=7)


def clears_nothing(ours, theirs):
    ours.clear_audio = lambda: 1.7


def holds_more(ours, theirs):
    theirs.audio_in = Flow(5000, Policy.DROP_OLDEST)


def pictures_unasked(ours, theirs):
    ours.video_in.put_nowait(av.VideoFrame(16, 16, "rgb24"))


def newest_first(ours, theirs):
    put, kept = theirs.messages_in.put_nowait, []

    def swap(text):
        kept.append(text)
        if len(kept) == 2:
            put(kept.pop())
            put(kept.pop())

    theirs.messages_in.put_nowait = swap


def miscounted(ours, theirs):
    statistics = theirs.audio_in.statistics
    theirs.audio_in.statistics = lambda: replace(statistics(), taken=100)


def takes_anybody(ours, theirs):
    ours.audio_in.take = anyio.sleep_forever


def loses_when_cancelled(ours, theirs):
    take = theirs.audio_in.take

    async def slow():
        frame = await take()
        await anyio.sleep(0.004)
        return frame

    theirs.audio_in.take = slow


def leaves_without_goodbye(ours, theirs):
    async def aclose():
        ours.break_link(OSError("gone"))

    theirs.aclose = aclose


def stays_open(ours, theirs):
    async def aclose():
        pass

    ours.aclose = aclose


def closes_once(ours, theirs):
    aclose, closed = ours.aclose, []

    async def once():
        if closed:
            raise anyio.ClosedResourceError
        closed.append(True)
        await aclose()

    ours.aclose = once


def closes_once_begun(ours, theirs):
    start, aclose, begun = ours.start, ours.aclose, []

    def begin(receive, send):
        begun.append(True)
        return start(receive, send)

    async def close():
        assert begun, "it has not begun"
        await aclose()

    ours.start, ours.aclose = begin, close


def closes_slowly(ours, theirs):
    aclose = ours.aclose

    async def slow():
        await anyio.sleep(0.1)
        await aclose()

    ours.aclose = slow


def swallows_messages(ours, theirs):
    ours.send_message_nowait = lambda text: None


def one_more_picture(ours, theirs):
    ours.video_in = Flow(2, Policy.DROP_OLDEST)


def blind(ours, theirs):
    ours.video_in.put_nowait = lambda picture: None


def forgets_messages(ours, theirs):
    ours.messages_in = ours._link.messages_in = Flow(1000, Policy.DROP_OLDEST)


def pretends_a_channel(ours, theirs):
    async def wait():
        pass

    ours.wait_messages_open = wait


def keeps_the_oldest(ours, theirs):
    put = ours.video_in.put_nowait
    ours.video_in.put_nowait = lambda picture: None if len(ours.video_in) else put(picture)


def spelled_badly(ours, theirs):
    ours.kind = "my transport"


def leaves_a_thread(ours, theirs):
    start = ours.start

    def begin(receive, send):
        threading.Thread(target=OVER.wait, name="forgotten", daemon=True).start()
        return start(receive, send)

    ours.start = begin


def frozen(ours, theirs):
    statistics = theirs.statistics()
    theirs.statistics = lambda: statistics


def back_in_time(ours, theirs):
    statistics = ours.statistics
    ours.statistics = lambda: replace(statistics(), round_trip=-0.1)


def talks_to_nobody(ours, theirs):
    ours.send_message_nowait = lambda text: None


def far_side_goes_on(ours, theirs):
    theirs.audio_in.put_nowait = lambda frame: [Flow.put_nowait(theirs.audio_in, frame) for _ in range(4)]


def at_the_other_end(how):
    """The same fault in what comes from the peer."""
    return lambda ours, theirs: how(theirs, ours)


AUDIO_ONLY = MediaOffer()
ALSO_BROKEN = [
    ("statistics may be asked for", frozen),
    ("statistics may be asked for", back_in_time),
    ("wait_ended returns normally", talks_to_nobody),
    ("when clear_audio returns", far_side_goes_on),
    ("audio put into audio_out arrives", at_the_other_end(out_of_order)),
    ("frames hold int16", at_the_other_end(pts_stands_still)),
    ("messages arrive in the order", at_the_other_end(newest_first)),
]
BROKEN = {
    "start returns formats": (odd_rate, EVERYTHING),
    "audio put into audio_out arrives": (out_of_order, EVERYTHING),
    "frames hold int16": (pts_stands_still, EVERYTHING),
    "audio leaves in real time": (not_played, EVERYTHING),
    "queued is played": (uncounted, EVERYTHING),
    "when clear_audio returns": (clears_nothing, EVERYTHING),
    "what nobody takes in time": (holds_more, EVERYTHING),
    "queues of media that was not offered": (pictures_unasked, AUDIO_ONLY),
    "messages arrive in the order": (newest_first, EVERYTHING),
    "statistics may be asked for": (miscounted, EVERYTHING),
    "audio_in has one taker": (takes_anybody, EVERYTHING),
    "cancelling a wait loses nothing": (loses_when_cancelled, EVERYTHING),
    "wait_ended returns normally": (leaves_without_goodbye, EVERYTHING),
    "after aclose": (stays_open, EVERYTHING),
    "waiters are woken": (stays_open, EVERYTHING),
    "aclose may be called": (closes_once, EVERYTHING),
    "a transport that was never started": (closes_once_begun, EVERYTHING),
    "aclose that is cancelled": (closes_slowly, EVERYTHING),
    "sending to a peer that does not read": (swallows_messages, EVERYTHING),
    "audio_in holds 50": (one_more_picture, EVERYTHING),
    "a picture put into": (blind, EVERYTHING),
    "video_in holds the latest": (keeps_the_oldest, EVERYTHING),
    "kind is a name": (spelled_badly, EVERYTHING),
    "aclose leaves no thread": (leaves_a_thread, EVERYTHING),
    "a peer that sends more messages": (forgets_messages, EVERYTHING),
    "without a channel": (pretends_a_channel, MediaOffer(messages=False)),
}


def broken_pair(how, offer):
    @asynccontextmanager
    async def opened():
        async with memory_pair(offer) as (ours, theirs):
            sound = ours.aclose, theirs.aclose
            how(ours, theirs)
            try:
                yield ours, theirs
            finally:
                ours.aclose, theirs.aclose = sound

    return opened


def in_virtual_time(function, *args, backend="trio"):
    name, options = virtual_backend(backend)
    return anyio.run(function, *args, backend=name, backend_options=options)


@pytest.mark.parametrize(("start", "how"), ALSO_BROKEN)
def test_a_sentence_may_be_broken_in_several_ways(start, how):
    """Each of them is noticed."""
    (check,) = [check for sentence, check in TRANSPORT_CHECKS.items() if sentence.startswith(start)]
    with pytest.raises((AssertionError, ValueError)):
        in_virtual_time(check, broken_pair(how, EVERYTHING))


@pytest.mark.parametrize("sentence", TRANSPORT_CHECKS)
def test_a_broken_sentence_is_noticed(sentence, nothing_forgotten):
    """For each sentence there is a transport that breaks it, and its check fails."""
    (broken,) = [how for start, how in BROKEN.items() if sentence.startswith(start)]
    with pytest.raises(
        (AssertionError, TimeoutError, ValueError, anyio.BrokenResourceError, anyio.ClosedResourceError)
    ):
        in_virtual_time(TRANSPORT_CHECKS[sentence], broken_pair(*broken))


def test_the_report_names_what_is_broken():
    """All checks are run, and the failure lists the broken sentences with what was seen."""
    with pytest.raises(AssertionError) as caught:
        in_virtual_time(check_transport, broken_pair(clears_nothing, EVERYTHING))
    lines = str(caught.value).splitlines()
    assert lines[0] == f"1 of {len(TRANSPORT_CHECKS)} sentences are broken:"
    assert "when clear_audio returns, nothing put before will leave any more" in lines[1]
    assert "audio left afterwards" in lines[2]


def test_a_pair_is_no_function_that_opens_one():
    """The error says to leave out the brackets."""
    with pytest.raises(TypeError, match=r"check_transport\(memory_pair\)"):
        in_virtual_time(check_transport, memory_pair())


@pytest.mark.parametrize("offer", [MediaOffer(), EVERYTHING, MediaOffer(messages=False)], ids=["audio", "all", "phone"])
def test_a_sound_transport_passes(offer):
    """The memory pair keeps every sentence, whatever was offered."""
    in_virtual_time(check_transport, lambda: memory_pair(offer), backend="asyncio")


# -- handlers, each with one thing wrong


class Sound(rtcflow.AsyncStreamHandler):
    """Nothing wrong."""

    async def receive(self, frame):
        pass

    async def emit(self):
        await anyio.sleep(0.02)
        return AUDIO

    def copy(self):
        return type(self)()


class Rooted(Sound):
    """Can only be copied in the main thread."""

    def copy(self):
        assert threading.current_thread() is threading.main_thread(), "not here"
        return Rooted()


class Careless(Sound):
    """Shuts down what was never begun."""

    async def start_up(self):
        self.session = object()

    def shutdown(self):
        del self.session


class TrioOnly(Sound):
    """Knows one backend."""

    async def emit(self):
        import trio

        await trio.sleep(0.02)
        return AUDIO


class Sloppy(Sound):
    """Returns the rate last."""

    async def emit(self):
        await anyio.sleep(0.02)
        return AUDIO[::-1]


class Hopeful(Sound):
    """Believes that somebody speaks."""

    n = 0

    async def receive(self, frame):
        self.n += 1
        assert self.n < 100 or np.any(frame[1]), "silence"


class Trusting(Sound):
    """Takes every message for JSON."""

    async def on_message(self, text):
        json.loads(text)


class Forgetful(rtcflow.StreamHandler):
    """Leaves a thread behind."""

    def start_up(self):
        threading.Thread(target=OVER.wait, name="forgotten", daemon=True).start()

    def receive(self, frame):
        pass

    def emit(self):
        return None

    def copy(self):
        return Forgetful()


class Slow(Sound):
    """Takes its time to say goodbye."""

    async def start_up(self):
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(60)


class Timid(Sound):
    """Cannot be interrupted."""

    def clear_queue(self):
        raise RuntimeError("not now")


class Deaf(Sound):
    """Knows no letters on a telephone."""

    async def on_dtmf(self, digit):
        int(digit)


class Endless(Sound):
    """Waits in shutdown for what does not come."""

    async def shutdown(self):
        await anyio.sleep_forever()


class Stubborn(Sound):
    """Gets stuck in shutdown once it has served."""

    served = False

    async def receive(self, frame):
        self.served = True

    async def shutdown(self):
        await anyio.sleep(30 if self.served else 0)


class Unending(Sound):
    """Swallows everything, its cancellation included."""

    async def emit(self):
        while True:
            with suppress(BaseException):
                await anyio.sleep(0.02)


class KeepingSlot(Sound):
    """Gives its slot back only if start_up has ended."""

    slots = threading.Semaphore(100)
    started = False

    async def start_up(self):
        self.slots.acquire(blocking=False)
        await anyio.sleep(0.1)
        self.started = True

    async def shutdown(self):
        if self.started:
            self.slots.release()


class GivingTwice(Sound):
    """Gives a slot back that it has not taken."""

    free = 10

    async def start_up(self):
        GivingTwice.free -= 1

    async def shutdown(self):
        GivingTwice.free += 1


class Notes:
    """Kept by a handler."""

    def __init__(self):
        self.lines = []


class SharingNotes(Sound):
    """Writes into an object that all copies share."""

    notes = Notes()

    async def receive(self, frame):
        self.notes.lines.append(frame)


class SharingNested(Sound):
    """Writes to a list in a dict that all copies share."""

    notes = {"lines": []}

    async def receive(self, frame):
        self.notes["lines"].append(frame)


class SharingCounter(Sound):
    """Counts in a Counter of its class."""

    counts = Counter()

    async def receive(self, frame):
        self.counts["frames"] += 1


class SharingFunction(Sound):
    """Holds a function whose memory all copies share."""

    def __init__(self, louder=None):
        super().__init__()
        peaks = []
        self.louder = louder or (lambda samples: peaks.append(int(samples.max())))

    async def receive(self, frame):
        self.louder(frame[1])
        await super().receive(frame)

    def copy(self):
        return type(self)(self.louder)


class SharingShallow(Sound):
    """Copies its settings, and not what is in them."""

    def __init__(self, config=None):
        super().__init__()
        self.config = config or {"state": {"turns": 0}}

    async def receive(self, frame):
        self.config["state"]["turns"] += 1

    def copy(self):
        return type(self)(dict(self.config))


class GoesOnTalking(Sound):
    """A task makes its reply, and goes on with it after an interruption."""

    loud = 0

    async def start_up(self):
        self.made = []

    async def receive(self, frame):
        if np.abs(frame[1]).max() > 500:
            self.loud += 1
        elif self.loud > 5:
            self.loud = 0
            self.loop.create_task(self.speak())

    async def speak(self):
        for _ in range(100):
            self.made.append((24000, np.full((1, 480), 8000, np.int16)))
            await anyio.sleep(0.01)

    def clear_queue(self):
        self.made.clear()
        return super().clear_queue()

    async def emit(self):
        await anyio.sleep(0.01)
        return self.made.pop(0) if self.made else None


class Clicking(Sound):
    """Its filter forgets the last sample of each frame."""

    async def start_up(self):
        self.send, self.take = anyio.create_memory_object_stream(100)

    async def receive(self, frame):
        filtered = np.diff(frame[1].astype(np.int32) * 2, axis=1, prepend=0)
        self.send.send_nowait((frame[0], (frame[1] - filtered // 2).astype(np.int16)))

    async def emit(self):
        return await self.take.receive()

    async def shutdown(self):
        self.send.close()
        self.take.close()


class SharingDefault(Sound):
    """Writes to a defaultdict of its class."""

    lines = defaultdict(list)

    async def receive(self, frame):
        self.lines["heard"].append(frame)


class Counting(Sound):
    """Counts in its class."""

    total = 0

    async def receive(self, frame):
        type(self).total += 1


class Sharing(Sound):
    """Writes to a list that all copies share."""

    heard = []

    async def receive(self, frame):
        self.heard.append(frame)


OVER = threading.Event()


@pytest.fixture
def nothing_forgotten(nothing_left_behind):
    """Threads that a handler forgets end with the test."""
    OVER.clear()
    yield
    OVER.set()


@pytest.mark.parametrize(
    ("handler", "sentence", "told"),
    [
        (Rooted, "copy needs no event loop and works in any thread", "not here"),
        (Careless, "shutdown may be called on a copy that never served anybody", "session"),
        (TrioOnly, "it serves a call on trio and on asyncio, and what emit returns is an EmitType", "under asyncio"),
        (Sloppy, "it serves a call on trio and on asyncio, and what emit returns is an EmitType", "expected"),
        (Hopeful, "it serves a caller who says nothing", "for a caller without a word it raised"),
        (Trusting, "it serves a caller who sends any text", "when it got ''"),
        (Deaf, "it serves a caller who sends any text", "dtmf"),
        (Timid, "its queue may be cleared at any moment", "not now"),
        (Endless, "shutdown may be called on a copy that never served", "takes 60 s"),
        (Stubborn, "its call ends in time, and its threads", "closing took 30."),
        (Stubborn, "its call ends in time when the whole stream", "closing took 30."),
        (SharingNotes, "one call leaves no trace in another", "changed .notes"),
        (SharingNested, "one call leaves no trace in another", "changed .notes"),
        (SharingCounter, "one call leaves no trace in another", "changed .counts"),
        (SharingFunction, "one call leaves no trace in another", "changed .louder"),
        (SharingShallow, "one call leaves no trace in another", "changed .config['state']"),
        (GoesOnTalking, "after clear_queue the caller hears nothing", "of a reply were emitted"),
        (Clicking, "its audio comes in real time", "a click in each frame"),
        (SharingDefault, "one call leaves no trace in another", "changed .lines"),
        (Counting, "one call leaves no trace in another", "set .total of the class Counting"),
        (KeepingSlot, "one call leaves no trace in another", "ends early (cancelled after 0.05 s)"),
        (GivingTwice, "one call leaves no trace in another", "a caller who is refused leaves a trace"),
        (Slow, "its call ends in time, and", "closing took"),
        (Sharing, "one call leaves no trace in another", "make it in __init__"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_broken_handler_is_noticed(handler, sentence, told):
    """What is wrong is told under the sentence it breaks."""
    (check,) = [check for text, check in HANDLER_CHECKS.items() if text.startswith(sentence)]
    with pytest.raises(Exception) as caught:
        check(handler())
    assert told in str(caught.value)


def test_all_that_is_broken_is_listed():
    """check_handler tells each broken sentence with what was seen."""
    with pytest.raises(AssertionError) as caught:
        check_handler(Sloppy())
    text = str(caught.value)
    sentence = "it serves a call on trio and on asyncio, and what emit returns is an EmitType"
    assert sentence in text
    assert "expected" in text[text.index(sentence) :]


def test_a_handler_that_swallows_its_cancellation_is_named():
    """It is given up, so that its call ends at once, and the checks that would meet the same are left out."""
    with pytest.raises(AssertionError, match=r"breaks 1 of \d+ .*\n.*\n.*\n.*emit does not swallow its cancellation"):
        check_handler(Unending())


def test_a_check_that_ends_early_says_so(monkeypatch):
    """A handler that was not looked at in every way does not pass in silence."""
    monkeypatch.setattr(contract, "LONGEST", 0.0)
    with pytest.warns(UserWarning, match="ended early: it looked at [01] of"):
        check_handler(Sound())


def test_a_forgotten_thread_is_noticed(nothing_forgotten):
    """A thread that outlives shutdown is told by its name."""
    sentence = next(sentence for sentence in HANDLER_CHECKS if sentence.startswith("it serves a call on"))
    with pytest.raises(AssertionError, match=r"left threads running: .*forgotten"):
        HANDLER_CHECKS[sentence](Forgetful())


def test_a_sound_handler_passes():
    """Nothing is said of a handler with nothing wrong."""
    check_handler(Sound())


def test_what_is_shared_on_purpose_passes():
    """A list that all copies may write to."""
    check_handler(Sharing(), shared={"heard"})


def test_a_handler_gets_the_arguments_it_needs():
    """Without arguments of its own kind a handler fails, with them it does not."""

    class Particular(Sound):
        async def emit(self):
            if not self.phone_mode:
                await self.wait_for_args()
            await anyio.sleep(0.02 if self.phone_mode else self.latest_args[1] / 50)
            return AUDIO

    check_handler(Particular(), args=[1.0])
    with pytest.raises(AssertionError, match="TypeError"):
        check_handler(Particular())


class NoCopy(Sound):
    """Cannot be copied."""

    def copy(self):
        return self


class Cell(Sound):
    """Hands its event on to its copies."""

    def __init__(self, over=None):
        super().__init__()
        self.over = over or threading.Event()

    def copy(self):
        return Cell(self.over)


@pytest.mark.parametrize(
    ("handler", "cure"),
    [
        (Sound, r"write: Sound\(\)"),
        ("bot", "subclass StreamHandler"),
        (NoCopy(), r"write: return NoCopy\(\.\.\.\)"),
        (Cell(), r"in Cell\.__init__ write: self\.over = threading\.Event\(\)"),
    ],
    ids=["class", "text", "same", "shared"],
)
def test_what_cannot_be_checked_is_refused(handler, cure):
    """No handler, a copy that is none, shared state: the error says what to write."""
    with pytest.raises(HandlerError, match=cure):
        check_handler(handler)


def test_what_is_broken_is_noticed_without_asserts():
    """`python -O` removes asserts. The checks raise, so the tests above that expect a failure pass there, too."""
    command = [
        sys.executable, "-O", "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider",
        "-W", "ignore::pytest.PytestConfigWarning", "-k", "(broken or noticed) and not asserts", __file__,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:]
