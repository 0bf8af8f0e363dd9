"""`HandlerLifecycle` finds what is wrong with handlers, and tells it as a short story."""

from __future__ import annotations

import json
import math
import queue
import re
import secrets
import socket
import sqlite3
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import anyio
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant
from mutations.bugs import MUTANTS

import rtcflow
from rtcflow import HandlerError
from rtcflow.testing import HandlerLifecycle, _literals, _memory, run_call

AUDIO = (24000, np.zeros((1, 480), np.int16))


class Sound(rtcflow.AsyncStreamHandler):
    """A handler with nothing wrong."""

    async def receive(self, frame):
        pass

    async def emit(self):
        await anyio.sleep(0.02)
        return AUDIO

    def copy(self):
        return type(self)()


class SyncSound(rtcflow.StreamHandler):
    """The same, in threads."""

    def __init__(self):
        super().__init__()
        self.frames = queue.Queue()

    def receive(self, frame):
        self.frames.put(frame)

    def emit(self):
        return self.frames.get()

    def copy(self):
        return type(self)()


class Pictures(rtcflow.AsyncAudioVideoStreamHandler):
    """The same with video."""

    def __init__(self):
        super().__init__(video_format="bgr24")
        self.picture = None

    async def receive(self, frame):
        pass

    async def emit(self):
        await anyio.sleep(0.02)
        return AUDIO

    async def video_receive(self, picture):
        self.picture = picture

    async def video_emit(self):
        await anyio.sleep(0.1)
        return self.picture

    def copy(self):
        return type(self)()


class SyncPictures(rtcflow.AudioVideoStreamHandler):
    """In threads, with video."""

    def __init__(self):
        super().__init__(video_format="bgr24")
        self.pictures = queue.Queue()

    def receive(self, frame):
        pass

    def emit(self):
        return None

    def video_receive(self, picture):
        self.pictures.put(picture)

    def video_emit(self):
        return self.pictures.get()

    def copy(self):
        return type(self)()


def life(handler, **attributes):
    """The machine over `handler`, which does the same in each run of the tests, and leaves no files."""
    cls = type("Life", (HandlerLifecycle,), {"make_handler": lambda self: handler(), "seconds": math.inf, **attributes})
    cls.TestCase.settings = settings(
        cls.TestCase.settings,
        max_examples=100,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    return cls


def find(handler, *, shrink=True, **attributes):
    """What the machine finds: the error, and the lines of its story.

    Fifty examples were enough for each bug below, with each of eight seeds. What one version of Hypothesis draws is
    always the same; another version may need a few more.
    """
    case = life(handler, **attributes).TestCase
    if not shrink:
        case.settings = settings(case.settings, phases=[Phase.generate])
    with pytest.raises(BaseException) as caught:
        case().runTest()
    notes = "\n".join(getattr(caught.value, "__notes__", []))
    story = notes[notes.index("state = ") :] if "state = " in notes else ""
    return caught.value, story.partition("\nExplanation")[0]


# -- handlers with nothing wrong


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
@pytest.mark.parametrize("handler", [Sound, SyncSound, Pictures, SyncPictures])
def test_a_sound_handler_passes(handler, backend):
    """A handler with nothing wrong lives through everything, sync or async, with video or without."""
    case = life(handler, backend=backend).TestCase
    case.settings = settings(case.settings, max_examples=4)
    case().runTest()


def test_the_settings_are_hypothesis_own():
    """A profile's number of examples holds; the steps are fewer, and a story is its own explanation."""
    cls = type("Life", (HandlerLifecycle,), {})
    assert cls.TestCase.settings.max_examples == settings().max_examples
    assert cls.TestCase.settings.stateful_step_count == 20
    assert Phase.explain not in cls.TestCase.settings.phases
    assert Phase.shrink in cls.TestCase.settings.phases


SESSIONS = []


def session(name):
    """Begin a thread that runs until the event is set, or the test is over."""
    over = threading.Event()
    SESSIONS.append(over)
    threading.Thread(target=over.wait, name=name, daemon=True).start()
    return over


@pytest.fixture(autouse=True)
def no_session_is_left(nothing_left_behind):
    """What planted bugs leave behind ends with the test."""
    yield
    for over in SESSIONS:
        over.set()
    SESSIONS.clear()


# -- planted bugs: what the handler does, and what the machine says of it


class Trusting(Sound):
    """Takes every message for JSON."""

    async def on_message(self, text):
        json.loads(text)


class HalfTrusting(Sound):
    """Knows that not everything is JSON, and takes what is for an object."""

    async def on_message(self, text):
        try:
            message = json.loads(text)
        except ValueError:
            return
        message.get("type")


class CutShort(Sound):
    """Awaits in a `finally` that runs because it was cancelled: what comes after the await never happens."""

    async def start_up(self):
        over = session("session")
        try:
            await anyio.sleep_forever()
        finally:
            await anyio.sleep(0)
            over.set()


class HeldUp(Sound):
    """Awaits in a `finally` that cannot be cancelled, for longer than anybody waits."""

    async def start_up(self):
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(60)


class Sharing(Sound):
    """Hands its own list on to its copies."""

    def __init__(self, history=None):
        super().__init__()
        self.history = [] if history is None else history

    async def receive(self, frame):
        self.history.append(len(frame))

    def copy(self):
        return Sharing(self.history)


class SharingByClass(Sound):
    """Has a list on its class."""

    history = []

    async def receive(self, frame):
        self.history.append(len(frame))


class Sloppy(Sound):
    """Returns the rate last, once it has arguments."""

    async def emit(self):
        await anyio.sleep(0.02)
        return AUDIO[::-1] if self.args_set.is_set() else AUDIO


class Wide(Sound):
    """Makes float64 of int16, once it has heard something."""

    gain = None

    async def receive(self, frame):
        self.gain = 0.5

    async def emit(self):
        await anyio.sleep(0.02)
        return AUDIO if self.gain is None else (24000, AUDIO[1] * self.gain)


class Early(Sound):
    """Believes that start_up is done before the first frame comes."""

    async def start_up(self):
        await anyio.sleep(0.3)
        self.session = []

    async def receive(self, frame):
        self.session.append(frame)


class Late(Sound):
    """Believes that start_up was done when the call ends."""

    async def start_up(self):
        await anyio.sleep(0.5)
        self.session = object()

    def shutdown(self):
        del self.session


class Particular(Sound):
    """Believes that the page always posts three arguments."""

    async def emit(self):
        await self.wait_for_args()
        await anyio.sleep(0.02 if self.latest_args[2] else 0.04)
        return AUDIO


class Gapless(Sound):
    """Believes that no frame is ever dropped."""

    last = None

    async def receive(self, frame):
        number = int(frame[1][0, 0])
        assert self.last is None or number == self.last + 1, "a frame is missing"
        self.last = number


class OneAtATime(Sound):
    """Believes that nobody speaks while it is busy with a message."""

    busy = False

    async def on_message(self, text):
        self.busy = True
        await anyio.sleep(0.5)
        self.busy = False

    async def receive(self, frame):
        assert not self.busy, "busy"


class Polite(Sound):
    """Believes that it is interrupted only once."""

    def __init__(self):
        super().__init__()
        self.answers = ["a long story"]

    def clear_queue(self):
        self.answers.pop()
        return super().clear_queue()


class Threads(SyncSound):
    """Starts a thread, and forgets it."""

    def start_up(self):
        session("forgotten")


class Flat(Pictures):
    """Believes that a picture has come before one is asked for."""

    async def video_emit(self):
        await anyio.sleep(0.1)
        return self.picture[:, ::-1]


class SyncFlat(SyncPictures):
    """Returns a flag instead of a picture, now and then."""

    n = 0

    def video_emit(self):
        self.n += 1
        return self.pictures.get() if self.n % 2 else True


class Swallowing(Sound):
    """Takes its cancellation for an error."""

    async def emit(self):
        try:
            return await super().emit()
        except BaseException:
            return None


class WaitsForStartUp(Sound):
    """Its shutdown waits for what start_up sets, if it comes so far."""

    def __init__(self):
        super().__init__()
        self.opened = anyio.Event()

    async def start_up(self):
        await anyio.sleep(0.05)
        self.opened.set()

    async def shutdown(self):
        await self.opened.wait()


class Announces(Sound):
    """Says more than may wait otherwise."""

    async def start_up(self):
        await self.say((24000, np.full((1, 72000), 1000, np.int16)))


class HangsUp(Sound):
    """Ends its call when a key is pressed."""

    async def on_dtmf(self, digit):
        self.hang_up("as you wish")


class HasALine(Sound):
    """Takes one of the lines that all copies share, and gives it back."""

    def __init__(self, lines=None):
        super().__init__()
        self.lines = lines or {1, 2, 3}

    def copy(self):
        return HasALine(self.lines)

    async def start_up(self):
        self.line = self.lines.pop()

    async def shutdown(self):
        if hasattr(self, "line"):
            self.lines.add(self.line)


class UsesAPoolOfAll(SyncSound):
    """Has its work done by the threads of all calls, which outlive them."""

    pool: ThreadPoolExecutor

    def on_message(self, text):
        self.pool.submit(len, text)


class Endless(Sound):
    """Always has another second of music."""

    async def emit(self):
        return 24000, np.ones((1, 24000), np.int16)


class OwnWords(Sound):
    """Has methods whose names the base class has, too. They do something else."""

    def say(self, item):
        return f"said {item}"

    def hang_up(self):
        return "not yet"

    async def on_message(self, text):
        assert (self.say(text), self.hang_up()) == (f"said {text}", "not yet")


class KnowsItsCaller(Sound):
    """Is on a telephone, and looks up who calls, and in which language."""

    async def start_up(self):
        call = rtcflow.get_current_context().custom
        self.known = call["carrier"], call["call_id"], call["caller"], call["callee"], call["language"]


SOUND_STORIES = {
    OwnWords: lambda life: life.caller_writes(texts=["a"]),
    KnowsItsCaller: lambda life: life.caller_presses(digits="1"),
    Announces: lambda life: life.time_passes(seconds=1.0),
    HangsUp: lambda life: life.caller_presses(digits="5"),
    HasALine: lambda life: life.handler_raises(method="shutdown"),
    UsesAPoolOfAll: lambda life: life.caller_writes(texts=["a", "b"]),
    Endless: lambda life: [life.link_is_replaced(seconds=seconds) for seconds in (0.0, 0.1, 0.0)],
}


@pytest.mark.parametrize("handler", SOUND_STORIES, ids=lambda handler: handler.__name__)
def test_a_sound_handler_is_not_blamed(handler):
    """For what it says, for hanging up, for a shutdown that was told to fail, for a pool of all calls."""
    with ThreadPoolExecutor(2, thread_name_prefix="work of all calls") as UsesAPoolOfAll.pool:
        state = life(handler, custom={"language": "de"})()
        try:
            state.the_first_call_begins(resumes=handler is Endless)
            SOUND_STORIES[handler](state)
        finally:
            state.teardown()


BUGS = {
    WaitsForStartUp: r"promised: shutdown returns in time\nhappened: after 5 s it still waited",
    Swallowing: r"promised: emit does not swallow its cancellation\nhappened: write except Exception",
    Trusting: r"by itself\nhappened: JSONDecodeError",
    HalfTrusting: r"by itself\nhappened: AttributeError",
    CutShort: r"no thread is left after shutdown\nhappened: session",
    HeldUp: "an end is over within",
    Sharing: r"a call changed \.history, which all copies share; make it in __init__",
    SharingByClass: r"a call changed \.history, which all copies share",
    Sloppy: r"by itself\nhappened: MediaError",
    Wide: r"by itself\nhappened: MediaError.*float64",
    Early: r"by itself\nhappened: AttributeError.*session",
    Late: r"shutdown raises nothing by itself\nhappened: AttributeError",
    Particular: r"by itself\nhappened: IndexError",
    Gapless: r"by itself\nhappened: AssertionError.*a frame is missing",
    OneAtATime: r"by itself\nhappened: AssertionError.*busy",
    Polite: "pop from empty list",
    Threads: r"no thread is left after shutdown\nhappened: forgotten",
    Flat: r"by itself\nhappened: TypeError",
    SyncFlat: r"by itself\nhappened: MediaError",
}


@pytest.mark.parametrize("handler", BUGS, ids=lambda handler: handler.__name__)
def test_ordinary_bugs_are_found(handler):
    """With the default settings; the failure says what was wrong."""
    texts = {"texts": st.sampled_from(("hello", "{}", "[]"))} if handler is HalfTrusting else {}
    error, _ = find(handler, shrink=False, **texts)
    assert re.search(BUGS[handler], str(error)), error


@pytest.mark.parametrize("handler", [Trusting, CutShort, Sloppy, Early], ids=lambda handler: handler.__name__)
def test_they_are_found_on_asyncio(handler):
    """The machine does the same on the other backend."""
    error, _ = find(handler, shrink=False, backend="asyncio")
    assert re.search(BUGS[handler], str(error)), error


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("receive-overlapping", "one call at a time|in order"),
        ("last-cause-wins", "it ended as .*, but what ended it"),
        ("shutdown-twice", "shutdown is called exactly once"),
    ],
)
def test_bugs_of_connections_are_found(name, told):
    """Not only handlers: a connection that breaks its promises is found with a handler that has nothing wrong."""
    (planted,) = [mutant for mutant in MUTANTS if mutant.name == name]
    with planted.plant():
        error, _ = find(Sound, shrink=False)
    assert re.search(told, str(error)), error


class Blocking(Sound):
    """Holds up the loop, where no exception reaches it."""

    async def emit(self):
        over = session("beside it")
        waiter = queue.SimpleQueue()
        while not over.is_set():
            with suppress(queue.Empty):
                waiter.get(timeout=1)


# The exception may strike in a callback of the collector, where it is told and lost; the next one is not.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_a_handler_that_holds_up_the_loop_is_named(backend):
    """The machine does not hang with it: the method is named."""
    error, _ = find(Blocking, shrink=False, backend=backend, _hang=1.5)
    assert re.search(r"Blocking\.emit \(.*\) has held up the event loop", str(error))


def test_a_handler_that_holds_up_the_loop_is_called_once_before_the_stories(monkeypatch):
    """Whether one call leaves something for the next one is not asked of it: each call would be waited for."""
    calls = []

    def counted(*args, **options):
        calls.append(args)
        return run_call(*args, **options)

    monkeypatch.setattr(_memory, "run_call", counted)
    assert _memory.remembered(Blocking, "trio", 5.0, 0.3) is None
    assert len(calls) == 1


# -- stories


def test_a_story_is_short_and_can_be_pasted():
    """A frame that comes before start_up is done; the printed lines fail in the same way, and leave nothing behind."""
    error, story = find(Early)
    assert story.splitlines() == [
        "state = Life()",
        "state.the_first_call_begins(time_limit=None, messages=True, phone=False, start_up='works', already=None, "
        "over='memory', resumes=False)",
        "state.audio_arrives(n=1)",
        "state.teardown()",
    ]
    with pytest.raises(type(error)) as again:
        exec(story, {"Life": life(Early)})
    assert str(again.value).partition(": ")[2] in str(error)


def test_steps_begin_the_call_they_need():
    """A story in a test of one's own, in any order: a step that needs a call begins one."""
    state = life(Sound)()
    state.audio_arrives(n=3)
    first = state.handler
    state.call_ends(how="link breaks")
    state.caller_writes(texts=["hello"])
    assert state.handler is not first
    state.time_passes(seconds=1.0)
    state.call_ends(how="server shutdown")
    state.a_call_begins(time_limit=0.5, copy_fails_first=True)
    state.caller_is_silent(seconds=2.0)
    assert state.call is None or state.connection.end is not None
    state.call_ends(how="closed")
    state.a_call_begins(over="telephone")
    assert state.handler.phone_mode
    state.caller_presses(digits="12")
    state.audio_is_lost(n=5)
    state.audio_arrives(n=1)
    state.call_ends(how="link breaks")
    state.a_call_begins(over="websocket")
    assert not state.handler.phone_mode
    state.teardown()


class DeafToKeys(Sound):
    """Cannot take keys."""

    async def on_dtmf(self, digit):
        raise ValueError("no such key")


@pytest.mark.parametrize("over", ["memory", "websocket", "telephone"])
def test_keys_arrive_over_every_transport(over):
    """What the handler raises at a key is what is told, whatever carries the key: a page's WebSocket, too."""
    state = life(DeafToKeys)()
    state.the_first_call_begins(over=over)
    with pytest.raises(AssertionError, match="the handler raised by itself: ValueError"):
        state.caller_presses(digits="12")


class Told(Sound):
    """Notes that its call has no link, and has one again."""

    events = ()

    async def on_suspended(self):
        self.events = (*self.events, "suspended")

    def on_resumed(self):
        self.events = (*self.events, "resumed")


@pytest.mark.parametrize("over", ["memory", "websocket"])
@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_a_caller_comes_back_over_another_link(backend, over):
    """The call goes on with the same copy; without its caller it ends in time; a call of another kind ends at once."""
    state = life(Told, backend=backend)()
    state.the_first_call_begins(over=over, resumes=True)
    first = state.handler
    state.link_is_replaced(seconds=1.0)
    state.audio_arrives(n=3)
    state.link_is_replaced(seconds=0.0)
    assert state.handler is first
    assert first.events == 2 * ("suspended", "resumed")
    assert state.connection.statistics().resumed == 2
    state.call_ends(how="link breaks")
    assert first.events[-1] == "suspended"
    state.link_is_replaced()  # begins a call
    assert state.handler.events == ("suspended", "resumed")
    state.call_ends(how="peer leaves")
    state.a_call_begins(over="telephone", resumes=True)
    state.link_is_replaced()
    assert state.handler.events == ()
    state.call_ends(how="link breaks")
    state.teardown()


class Lost(Told):
    """Cannot go on."""

    def on_resumed(self):
        raise LookupError("the session is gone")


def test_what_goes_wrong_when_the_caller_is_back_is_found():
    """The error is told as that of any other method."""
    state = life(Lost)()
    with pytest.raises(AssertionError, match="raised by itself: LookupError"):
        state.link_is_replaced()


def test_rules_and_invariants_of_ones_own():
    """A subclass adds what its handler can do and what holds of it; `handler` is the copy that serves."""

    class Counting(Sound):
        n = 0

        async def receive(self, frame):
            self.n += 1

    class CountingLife(HandlerLifecycle):
        def make_handler(self):
            return Counting()

        @invariant()
        def few(self):
            assert self.call is None or self.handler.n < 5, "more than few"

    CountingLife.TestCase.settings = settings(CountingLife.TestCase.settings, database=None, derandomize=True)
    with pytest.raises(AssertionError, match="more than few"):
        CountingLife.TestCase().runTest()


# -- what a handler may do, if its test says so


def test_expected_errors_pass():
    """What the handler may raise is no failure."""
    case = life(Trusting, expected_errors=(ValueError,)).TestCase
    case.settings = settings(case.settings, max_examples=10)
    case().runTest()


class Careless(Sound):
    """Raises in a task of its own."""

    async def receive(self, frame):
        self.loop.create_task(self.fail())

    async def fail(self):
        raise LookupError("in a task")


def test_expected_errors_of_tasks_pass():
    """So is what its tasks raise; without a word on it, it is a failure."""
    case = life(Careless, expected_errors=(LookupError,)).TestCase
    case.settings = settings(case.settings, max_examples=10)
    case().runTest()
    error, _ = find(Careless, shrink=False)
    assert "happened: LookupError" in str(error)


def test_what_is_shared_on_purpose_passes():
    """A list that all calls write to, if the test says that they may."""
    case = life(SharingByClass, shared=("history",)).TestCase
    case.settings = settings(case.settings, max_examples=10)
    case().runTest()


class Database(sqlite3.Connection):
    """Closed with the last handler that uses it: Python 3.13 warns of one that is not."""

    def __del__(self):
        self.close()


class TakesNotes(Sound):
    """Answers with how many texts its database has; its copies share the database."""

    def __init__(self, notes=None):
        super().__init__()
        self.notes = notes or sqlite3.connect(":memory:", check_same_thread=False, factory=Database)
        if notes is None:
            self.notes.execute("create table notes (text)")

    async def on_message(self, message):
        self.notes.execute("insert into notes values (?)", (message,))
        await self.send_message(self.answer())

    def answer(self):
        return f"{self.notes.execute('select count(*) from notes').fetchone()[0]} notes"

    def copy(self):
        return type(self)(self.notes)


class TakesItsOwnNotes(TakesNotes):
    def copy(self):
        return type(self)()


class AnswersByChance(TakesItsOwnNotes):
    """Gives one of very many answers."""

    def answer(self):
        return secrets.token_hex()


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_what_a_call_leaves_in_a_database_is_found(backend):
    """Nobody can look into it, but the next caller is answered otherwise."""
    with pytest.raises(AssertionError) as caught:
        life(TakesNotes, backend=backend).TestCase().runTest()
    story = str(caught.value)
    assert "answered ['1 notes', '2 notes'], and the next one ['3 notes', '4 notes']" in story
    assert "one call leaves no trace in another" in story
    assert len(story.splitlines()) <= 15


@pytest.mark.parametrize(
    ("handler", "shared"),
    [(TakesItsOwnNotes, ()), (AnswersByChance, ()), (TakesNotes, ("notes",))],
    ids=["its own", "by chance", "on purpose"],
)
def test_answers_that_differ_are_not_blamed(handler, shared):
    """A database of each copy, answers of chance, and what is shared on purpose are all fine."""
    assert shared or _memory.remembered(handler, "trio", 5.0, 30.0) is None
    brief = life(handler, shared=shared)
    brief.TestCase.settings = settings(brief.TestCase.settings, max_examples=5)
    brief.TestCase().runTest()


class KnowsAWord(Sound):
    """Fails at a word that nobody guesses, and at a key."""

    async def on_message(self, message):
        if message == "open sesame":
            raise ZeroDivisionError

    async def on_dtmf(self, digit):
        pass


class KnowsAKind(Sound):
    """Fails at an object of the application's own protocol."""

    async def on_message(self, message):
        with suppress(ValueError, AttributeError):
            if json.loads(message).get("action") == "transfer":
                raise ZeroDivisionError


@pytest.mark.parametrize("handler", [KnowsAWord, KnowsAKind])
def test_a_caller_knows_the_words_of_the_handler(handler):
    """What stands in the handler's methods is written to it."""
    with pytest.raises(AssertionError, match="happened: ZeroDivisionError"):
        life(handler).TestCase().runTest()


def test_the_words_of_a_handler():
    """Its strings without its docstrings, keys, and JSON of two words."""

    class Menu(Sound):
        async def on_message(self, message):
            """Not a word."""
            if message in {"stop", "go on"} or message.startswith("say "):
                raise ValueError("a long sentence of what is wrong, which no caller says")

        async def on_dtmf(self, digit):
            if digit == "#":
                await self.on_message("stop")

    texts = _literals.texts_of(Menu())
    assert {"stop", "go on", "say ", "#"} <= set(texts)
    assert not any("Not a word" in text or "wrong" in text for text in texts)
    assert _literals.keys_of(Menu()) == "#"
    assert json.dumps({"action": "transfer"}) in _literals.texts_of(KnowsAKind())


class FailsOnce(Sound):
    """What one run leaves in its class lets the next one pass."""

    ready = False

    async def emit(self):
        if not FailsOnce.ready:
            FailsOnce.ready = True
            raise ZeroDivisionError
        return await super().emit()


def test_a_real_socket_is_told():
    """Its answers come too late for virtual time, which may be why a story fails."""

    class AsksAServer(Sound):
        async def start_up(self):
            host, port = server.getsockname()
            async with await anyio.create_connected_udp_socket(host, port) as stream:
                with anyio.fail_after(5):
                    await stream.receive()

    with socket.socket(type=socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        error, _ = find(AsksAServer)
    assert re.search(r"\nnoticed:  .* of virtual time passed while it waited for a real socket, to 127", str(error))


def test_what_does_not_fail_again_is_told_in_words():
    """Hypothesis calls it flaky. The first failure is told, and what makes the runs differ."""
    with pytest.raises(AssertionError) as caught:
        life(FailsOnce, shared=["ready"]).TestCase().runTest()
    story = str(caught.value)
    assert "and the same steps did not show it again" in story
    assert "happened: ZeroDivisionError" in story
    assert "Flaky" not in story


# -- bad input


class NoCopy(Sound):
    """Whose `copy` makes something else."""

    def copy(self):
        return self


class Queues(Sound):
    """Has a queue on its class."""

    frames = queue.Queue()


def shared_queue(_):
    handler = Sound()
    handler.frames = FRAMES
    return handler


FRAMES = deque()
ONE = Sound()


@pytest.mark.parametrize(
    ("attributes", "cure"),
    [
        ({}, "def make_handler"),
        ({"make_handler": lambda self: ONE}, r"write: return Sound\(\.\.\.\)"),
        ({"make_handler": shared_queue}, r"self\.frames = deque\(\)"),
        ({"make_handler": lambda self: Queues()}, r"self\.frames = queue\.Queue\(\)"),
        ({"make_handler": lambda self: Sound}, r"Sound\(\)"),
        ({"make_handler": lambda self: NoCopy()}, r"write: return NoCopy\(\.\.\.\)"),
        ({"make_handler": lambda self: "bot"}, "subclass StreamHandler"),
        ({"make_handler": lambda self: Sound(), "backend": "uvloop"}, "uvloop keeps its own clock"),
    ],
    ids=["none", "the same", "a shared queue", "a queue on the class", "a class", "no copy", "no handler", "uvloop"],
)
def test_bad_input_is_refused(attributes, cure):
    """Whatever is wrong with what is under test is told before anything runs, with what to write instead."""
    with pytest.raises((HandlerError, NotImplementedError, ValueError), match=cure):
        type("Life", (HandlerLifecycle,), attributes)()


def test_a_run_ends_in_its_time(capsys):
    """A machine without faults to find ends after `seconds`, and a bug is told although its story is cut short."""
    case = life(Sound, seconds=0.5).TestCase
    case.settings = settings(case.settings, max_examples=100_000)
    began = time.monotonic()
    with pytest.warns(UserWarning, match=r"ended early: \d+ of 100000 examples in 0.5 s, all good"):
        case().runTest()
    assert time.monotonic() - began < 100, "it had 0.5 s"
    assert "reproduce" not in capsys.readouterr().out, "nothing has failed"
    hasty = life(Sloppy, seconds=0.0)
    hasty._budget.found = lambda seconds: setattr(hasty._budget, "until", 0.0) or setattr(hasty._budget, "failed", True)
    hasty.TestCase.settings = settings(hasty.TestCase.settings, derandomize=False)
    hasty.seconds = math.inf  # however busy the machine is: what is found ends it
    with pytest.raises(BaseException, match=r"MediaError|junk"):
        hasty.TestCase().runTest()
