"""Each promise that `HandlerLifecycle` checks fails when it is broken."""

from __future__ import annotations

import threading
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from rtcflow import AsyncStreamHandler
from rtcflow._core.flow import FlowStatistics
from rtcflow.ends import End, EndCause
from rtcflow.media.playout import PlayoutStatistics
from rtcflow.testing import _promises as promises
from rtcflow.testing._probe import Cause, InjectedError


class Silent(AsyncStreamHandler):
    async def receive(self, frame):
        pass

    async def emit(self):
        return None

    def copy(self):
        return Silent()


FLOW = FlowStatistics(put=10, taken=7, dropped=1, waiting=2, bound=50, most_waiting=5)
PLAYOUT = PlayoutStatistics(queued=100, played=70, dropped=10, shed=0, waiting=20, gaps=0)


def flow(figures: FlowStatistics) -> Any:
    return SimpleNamespace(statistics=lambda: figures)


def a_call(*, end: End | None = None, received: int = 3, emitted: int = 4, **of_the_journal: Any) -> Any:
    """A call that keeps every promise: it is live without `end`."""
    journal = SimpleNamespace(**{
        "broken": [], "began": {"receive": 3, "shutdown": 1}, "running": [], "causes": [], "longest_audio": 1.0,
        "items": {"outputs": 2, "audio": 4}, "has_raised": False, **of_the_journal,
    })  # fmt: skip
    journal.first_causes = lambda: journal.causes
    transport = SimpleNamespace(
        **{name: flow(FLOW) for name in ("audio_in", "video_in", "video_out", "messages_in")},
        audio_out=SimpleNamespace(statistics=lambda: PLAYOUT, queued_seconds=0.5),
    )
    figures = SimpleNamespace(received=received, emitted=emitted)
    connection = SimpleNamespace(transport=transport, statistics=lambda: figures, end=end)
    return SimpleNamespace(
        session=SimpleNamespace(connection=connection, handler=Silent()), journal=journal, end=None, ended_at=None,
        over_at=5.0, heard=[1.0, 4.9], outputs=2, was_cancelled=False,
    )  # fmt: skip


HUNG_UP = End(EndCause.PEER_LEFT, "")
LEFT = Cause(4.0, 3, EndCause.PEER_LEFT, "the caller hung up")


def test_a_call_that_keeps_them_all() -> None:
    call = a_call(end=HUNG_UP, causes=[LEFT])
    promises.are_kept([call.journal])
    promises.figures_add_up(call)
    promises.one_reason_for_the_end(call, ())
    promises.an_end_in_time(call, 4.1)
    promises.nothing_runs_on(call)
    live = a_call(causes=[LEFT])
    promises.one_reason_for_the_end(live, ())
    promises.an_end_in_time(live, 4.1)


def test_the_journals_own_complaints_are_told() -> None:
    with pytest.raises(AssertionError, match="start_up twice"):
        promises.are_kept([a_call().journal, a_call(broken=["start_up twice", "more"]).journal])


@pytest.mark.parametrize("name", ["audio_in", "video_in", "video_out", "messages_in"])
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"most_waiting": 51}, "holds at most 50: 51 waited"),
        ({"waiting": 51, "put": 59}, "holds at most 50: 51 wait"),
        ({"put": 11}, r"put is taken \+ dropped \+ waiting"),
    ],
)
def test_queues_that_lose_or_hold_too_much(name: str, changes: dict[str, int], words: str) -> None:
    call = a_call()
    setattr(call.session.connection.transport, name, flow(replace(FLOW, **changes)))
    with pytest.raises(AssertionError, match=f"{name}:? {words}"):
        promises.figures_add_up(call)


def test_playout_and_received_frames_that_do_not_add_up() -> None:
    call = a_call()
    out = call.session.connection.transport.audio_out
    out.statistics = lambda: replace(PLAYOUT, queued=101)
    with pytest.raises(AssertionError, match=r"queued is played \+ dropped \+ waiting"):
        promises.figures_add_up(call)
    out.statistics = lambda: PLAYOUT
    out.queued_seconds = 99.0
    with pytest.raises(AssertionError, match="99 s wait"):
        promises.figures_add_up(call)
    for received in (2, 5):
        with pytest.raises(AssertionError, match=f"statistics count each receive: {received}, called 3"):
            promises.figures_add_up(a_call(received=received))


def test_an_end_that_changes_or_has_another_reason() -> None:
    call = a_call(end=HUNG_UP, causes=[LEFT])
    promises.one_reason_for_the_end(call, ())
    call.session.connection.end = End(EndCause.PEER_LEFT, "")
    with pytest.raises(AssertionError, match="a connection has one end"):
        promises.one_reason_for_the_end(call, ())
    with pytest.raises(AssertionError, match=r"it ended as PEER_LEFT, but what ended it: nothing did"):
        promises.one_reason_for_the_end(a_call(end=HUNG_UP), ())
    closed = Cause(4.0, 3, EndCause.CLOSED, "close() was called")
    with pytest.raises(AssertionError, match=r"but what ended it: CLOSED \(close\(\) was called\)"):
        promises.one_reason_for_the_end(a_call(end=HUNG_UP, causes=[closed]), ())


def test_what_a_handler_raises_by_itself_is_its_own_fault_unless_it_is_expected() -> None:
    raised = End(EndCause.HANDLER_RAISED, "", KeyError("own"))
    with pytest.raises(AssertionError, match=r"the handler raised by itself: KeyError\('own'\)"):
        promises.one_reason_for_the_end(a_call(end=raised), (ValueError,))
    promises.one_reason_for_the_end(a_call(end=raised), (LookupError,))
    injected = End(EndCause.HANDLER_RAISED, "", InjectedError("ours"))
    with pytest.raises(AssertionError, match="it ended as HANDLER_RAISED"):
        promises.one_reason_for_the_end(a_call(end=injected), ())


def test_a_call_that_goes_on_or_ends_too_slowly() -> None:
    with pytest.raises(AssertionError, match="the caller hung up 1 s ago, and the call goes on"):
        promises.an_end_in_time(a_call(causes=[LEFT]), 5.0)
    call = a_call(end=HUNG_UP, causes=[LEFT])
    promises.an_end_in_time(call, 4.1)
    with pytest.raises(AssertionError, match=r"it has taken 995\.9 s"):
        promises.an_end_in_time(call, 1000.0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"began": {"shutdown": 0}}, "it was called 0 times"),
        ({"began": {"shutdown": 2}}, "it was called 2 times"),
        ({"running": ["emit", "receive"]}, "nothing runs after the end: emit, receive does"),
        ({"items": {"outputs": 3, "audio": 4}}, "3 outputs were emitted, 2 put out"),
        ({"emitted": 5}, "statistics count each emitted item: 5, of 4"),
        ({"end": None}, "a call that is over has a reason"),
        ({"end": End(EndCause.CANCELLED, "")}, "its cancellation was swallowed"),
    ],
)
def test_what_goes_on_after_the_end(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        promises.nothing_runs_on(a_call(**{"end": HUNG_UP, **changes}))


def test_sound_after_the_end_and_a_cancellation_that_came_through() -> None:
    call = a_call(end=End(EndCause.CANCELLED, ""))
    call.was_cancelled = True
    promises.nothing_runs_on(call)
    call.heard.append(5.02)
    with pytest.raises(AssertionError, match="nothing is sent after the end: 1 frames were"):
        promises.nothing_runs_on(call)


@pytest.mark.parametrize(
    ("live", "reserved", "abandoned", "words"),
    [(1, 0, 0, "1 are taken"), (0, 2, 0, "2 are reserved"), (0, 0, 1, "one was abandoned"), (0, 0, 0, None)],
)
def test_what_is_not_given_back(live: int, reserved: int, abandoned: int, words: str | None) -> None:
    class Calls(list):
        threads = SimpleNamespace(statistics=lambda: SimpleNamespace(reserved=reserved, abandoned=abandoned))

    stream: Any = SimpleNamespace(calls=Calls([None] * live))
    if words is None:
        promises.everything_is_given_back(stream)
        return
    with pytest.raises(AssertionError, match=words):
        promises.everything_is_given_back(stream)


def test_a_thread_that_stands_still_was_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(promises, "STILL", 2)
    before, end = promises.threads(), threading.Event()
    promises.no_thread_is_left(before)
    thread = threading.Thread(target=end.wait, name="forgotten")
    thread.start()
    try:
        with pytest.raises(AssertionError, match="no thread is left after shutdown: forgotten"):
            promises.no_thread_is_left(before)
    finally:
        end.set()
        thread.join()
    promises.no_thread_is_left(before)
