"""The rows that operators see: which words, and which tone, for which figures."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from rtcflow.handlers.turns.timeline import TurnTimeline
from rtcflow.serving.live_calls import (
    COLUMNS,
    LastTurn,
    LiveCall,
    _share_lost,
    as_json,
    cells,
    duration,
    last_turn,
)

CALL = LiveCall(number=7, call="q3V9xw0A…", transport="webrtc", caller="ann", state="live", age=754.0)


@pytest.mark.parametrize(
    ("facts", "column", "text", "tone"),
    [
        ({}, "call", "7  q3V9xw0A…", ""),
        ({}, "age", "12:34", ""),
        ({}, "latency", "–", ""),
        ({}, "loss", "–", ""),
        ({}, "turn", "–", ""),
        ({"latency": 0.1124}, "latency", "112 ms", ""),
        ({"latency": 0.3}, "latency", "300 ms", "fair"),
        ({"latency": 0.71}, "latency", "710 ms", "bad"),
        ({"loss": 0.004}, "loss", "0.4 %", ""),
        ({"loss": 0.02}, "loss", "2.0 %", "fair"),
        ({"loss": 0.2}, "loss", "20.0 %", "bad"),
        ({"waiting": 1.24}, "waiting", "1.2 s", ""),
        ({}, "state", "live", ""),
        ({"recorded": True}, "state", "recorded", ""),
        ({"recorded": True, "state": "ending"}, "state", "ending", "fair"),
        ({"state": "connecting"}, "state", "connecting", "fair"),
        ({"state": "suspended", "recorded": True}, "state", "suspended", "fair"),
        ({"turn": LastTurn(number=3, outcome="played", response_time=0.61)}, "turn", "3 played, 0.61 s", ""),
        ({"turn": LastTurn(number=3, outcome="played", response_time=1.7)}, "turn", "3 played, 1.70 s", "fair"),
        ({"turn": LastTurn(number=4, outcome="failed")}, "turn", "4 failed", "bad"),
        ({"turn": LastTurn(number=4, outcome="cut_off")}, "turn", "4 cut off", ""),
    ],
)
def test_the_words_of_a_cell(facts, column, text, tone):
    """The same words on the page and in the terminal."""
    from dataclasses import replace

    cell = cells(replace(CALL, **facts))[column]
    assert (cell.text, cell.tone) == (text, tone)


def test_each_column_has_a_cell():
    """And the other way round."""
    assert list(cells(CALL)) == list(COLUMNS)


@pytest.mark.parametrize(("seconds", "words"), [(0, "0:00"), (59.9, "0:59"), (3599, "59:59"), (3661, "1:01:01")])
def test_durations(seconds, words):
    """Hours appear when there are some."""
    assert duration(seconds) == words


def test_the_last_turn():
    """Its outcome and response time are those of the timeline."""
    turn = TurnTimeline(number=2, speech_end=3.0, first_frame=3.5, interrupted=4.0)
    assert last_turn(turn) == LastTurn(number=2, outcome="interrupted", response_time=0.5)


@pytest.mark.parametrize(
    ("put", "made_up", "lost", "share"),
    [(0, 0, 0, None), (95, 0, 5, 0.05), (100, 5, 5, 0.05), (0, 0, 5, 1.0), (3, 5, 0, None)],
)
def test_the_share_of_lost_packets(put, made_up, lost, share):
    """Frames that were made up did not come, and pictures say nothing about audio."""
    audio, pictures = SimpleNamespace(put=put), SimpleNamespace(put=1000)
    figures = SimpleNamespace(audio_in=audio, video_in=pictures, packets_concealed=made_up, packets_lost=lost)
    assert _share_lost(figures) == share


def test_all_of_it_is_json():
    """Figures and words; a program needs no words, a page no figures."""
    body = json.loads(json.dumps(as_json([CALL], limit=None, ready=True)))
    assert (body["limit"], body["ready"]) == (None, True)
    (call,) = body["calls"]
    assert call["age"] == 754.0
    assert call["cells"]["age"] == {"text": "12:34", "tone": ""}
