"""What operators see of the live calls: a row for each, on the page at ``{path}/calls`` and in ``rtcflow top``.

`look` reads a session. Everything else is pure: figures in, words and tones out. The page and the terminal show the
same words, so this module makes them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal

from ..abc import TransportStatistics
from ..connection.connection import Connection
from ..handlers.turns.reply_handler import ReplyHandler
from ..handlers.turns.timeline import TurnTimeline
from .session import Session

State = Literal["connecting", "live", "suspended", "ending"]
Tone = Literal["", "fair", "bad"]

COLUMNS: Final = {
    "call": "Call",
    "transport": "Transport",
    "state": "State",
    "age": "Age",
    "latency": "Latency",
    "loss": "Loss",
    "waiting": "To play",
    "turn": "Last turn",
    "caller": "Caller",
}
"""The columns in order, and what stands above them."""

LATENCY: Final = (0.3, 0.5)
"""Seconds from which latency is fair, and bad. ITU-T G.114 allows 150 ms one way, and 400 ms at most."""

LOSS: Final = (0.01, 0.05)
"""Shares of packets from which loss is heard in a word now and then, and in most sentences."""

RESPONSE: Final = (1.5, 3.0)
"""Seconds from which a reply feels slow, and from which callers ask whether somebody is there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LastTurn:
    """The turn of a call that ended last.

    Attributes:
        number: Turns count from 1; 0 is the greeting.
        outcome: ``"played"``, ``"interrupted"``, ``"failed"`` or ``"cut_off"``.
        response_time: Seconds from the end of the caller's speech to the first sound of the reply, or None.
    """

    number: int
    outcome: str
    response_time: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveCall:
    """One live call.

    Attributes:
        number: Names the call to `end`; no other call of this process has it.
        call: The beginning of its id, as in logs. The whole id is secret.
        transport: ``"webrtc"``, ``"websocket"``, ``"telephone"`` or ``"memory"``.
        caller: What `authorize` returned for it (60 characters at most), or the address.
        state: ``"connecting"`` until media can flow, then ``"live"``. ``"suspended"`` while its link is broken and it
            waits for its caller (`Stream(resume=...)`). ``"ending"`` once its end is decided.
        age: Seconds since it began.
        latency: Seconds of delay that the server can see: the round trip, and the jitter buffer. None if nothing is
            known.
        waiting: Seconds of audio that wait to be played. A bot that speaks has some; an echo should have next to none.
        loss: The share of the caller's media packets that never came; None before the first one.
        recorded: Whether it is recorded now.
        turn: The last turn, if the handler takes turns.
    """

    number: int
    call: str
    transport: str
    caller: str
    state: State
    age: float
    latency: float | None = None
    waiting: float = 0.0
    loss: float | None = None
    recorded: bool = False
    turn: LastTurn | None = None


@dataclass(frozen=True, slots=True)
class Cell:
    """One figure of a call in words, and how good it is."""

    text: str
    tone: Tone = ""


def look(session: Session, now: float) -> LiveCall:
    """What is known of a session at `now`, on its loop's clock."""
    connection, handler = session.connection, session.handler
    turns = handler.turns if isinstance(handler, ReplyHandler) else ()
    call = LiveCall(
        number=session.number,
        call=session.name,
        transport=session.kind,
        caller=str(session.caller) if session.principal is None else str(session.principal)[:60],
        state="connecting",
        age=0.0 if session.began is None else now - session.began,
        turn=last_turn(turns[-1]) if turns else None,
    )
    if connection is None:
        return call
    figures = connection.statistics()
    transport, details = figures.transport, figures.transport.details
    known = [transport.round_trip, details.get("jitter_patience")]
    heard = [seconds for seconds in known if seconds is not None]
    return replace(
        call,
        state=_state(connection, figures.setup),
        latency=sum(heard) if heard else None,
        waiting=connection.playback().waiting,
        loss=_share_lost(transport),
        recorded=any(recording.is_open for recording in connection.recordings),
    )


def _share_lost(transport: TransportStatistics) -> float | None:
    """The share of the caller's audio packets that never came. Those of video are not counted by any transport."""
    came = max(0, transport.audio_in.put - transport.packets_concealed)  # the others were made up
    sent = came + transport.packets_lost
    return transport.packets_lost / sent if sent else None


def _state(connection: Connection, setup: float | None) -> State:
    if connection.end is not None:
        return "ending"
    if connection.is_suspended:
        return "suspended"
    return "connecting" if setup is None else "live"


def last_turn(turn: TurnTimeline) -> LastTurn:
    """What operators see of a turn."""
    return LastTurn(number=turn.number, outcome=turn.outcome, response_time=turn.response_time)


def cells(call: LiveCall) -> dict[str, Cell]:
    """The words for each of `COLUMNS`."""
    return {
        "call": Cell(f"{call.number}  {call.call}"),
        "transport": Cell(call.transport),
        "state": Cell(
            "recorded" if call.recorded and call.state == "live" else call.state, "" if call.state == "live" else "fair"
        ),
        "age": Cell(duration(call.age)),
        "latency": _toned(call.latency, LATENCY, lambda seconds: f"{1000 * seconds:.0f} ms"),
        "loss": _toned(call.loss, LOSS, lambda share: f"{100 * share:.1f} %"),
        "waiting": Cell(f"{call.waiting:.1f} s"),
        "turn": _turn(call.turn),
        "caller": Cell(call.caller),
    }


def duration(seconds: float) -> str:
    """``"0:07"``, ``"12:34"``, ``"1:02:03"``."""
    whole = max(0, int(seconds))
    minutes = f"{whole // 60 % 60}:{whole % 60:02}"
    return minutes if whole < 3600 else f"{whole // 3600}:{minutes:0>5}"


def _toned(value: float | None, limits: tuple[float, float], words: Callable[[float], str]) -> Cell:
    if value is None:
        return Cell("–")
    fair, bad = limits
    return Cell(words(value), "bad" if value >= bad else "fair" if value >= fair else "")


def _turn(turn: LastTurn | None) -> Cell:
    if turn is None:
        return Cell("–")
    words = f"{turn.number} {turn.outcome.replace('_', ' ')}"
    if turn.response_time is None:
        return Cell(words, "bad" if turn.outcome == "failed" else "")
    cell = _toned(turn.response_time, RESPONSE, lambda seconds: f"{words}, {seconds:.2f} s")
    return Cell(cell.text, "bad" if turn.outcome == "failed" else cell.tone)


def as_json(calls: list[LiveCall], *, limit: int | None, ready: bool) -> dict[str, Any]:
    """What ``GET {path}/calls/live`` answers: the figures of each call, and the words for them."""
    return {
        "ready": ready,
        "limit": limit,
        "columns": COLUMNS,
        "calls": [
            {**asdict(call), "cells": {name: asdict(cell) for name, cell in cells(call).items()}} for call in calls
        ],
    }
