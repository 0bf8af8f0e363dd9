"""Turn-taking: who is speaking, when it is the bot's turn, and what the caller heard of a reply.

`__all__` is the one list of the public names. `rtcflow.turns` offers all of it.

| module | what it decides |
|---|---|
| `vad`, `silero` | how likely speech is in a piece of audio |
| `pauses`, `detector`, `keywords` | when a turn begins and ends, and which stop words were said |
| `state` | what the bot does about it: reply, hold, resume, cancel |
| `..ledger` | how much of a reply the caller has heard |
| `reply` | runs one reply function, and queues its chunks |
| `reply_handler`, `reply_on_pause`, `reply_on_stop_words` | the handlers: they await, and do what `state` says |
| `timeline` | the moments of each turn |
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from ..._core.moved import absent
from ...media.filters import AudioFilter, MakesFilter
from ..ledger import Heard, Say
from .detector import TurnDetector, VoiceTurns
from .events import DetectorEvent, SpeechEnded, SpeechStarted, StopWordHeard, TurnEnd, TurnEnded
from .keywords import KeywordHit, KeywordSpotter, PocketsphinxSpotter, SpeechToText, TranscribingSpotter
from .options import AlgoOptions, SileroVadOptions
from .pauses import PauseTracker
from .reply_handler import ReplyHandler
from .reply_on_pause import ReplyOnPause
from .reply_on_stop_words import ReplyOnStopWords
from .silero import SileroVADModel, get_silero_model
from .smart_turn import EndOfTurn, SmartTurn, SmartTurnModel
from .timeline import (
    FirstAudio,
    Interrupted,
    PlayoutFinished,
    ReplyEvent,
    ReplyFailed,
    ReplyStarted,
    Resumed,
    TurnEvent,
    TurnTimeline,
)
from .vad import AudioChunk, EnergyVad, ModelOptions, PauseDetectionModel, StreamingVadModel, VadStream

__all__ = [
    "AlgoOptions",
    "AudioChunk",
    "AudioFilter",
    "DetectorEvent",
    "EndOfTurn",
    "EnergyVad",
    "FirstAudio",
    "Heard",
    "Interrupted",
    "KeywordHit",
    "KeywordSpotter",
    "MakesFilter",
    "ModelOptions",
    "PauseDetectionModel",
    "PauseTracker",
    "PlayoutFinished",
    "PocketsphinxSpotter",
    "ReplyEvent",
    "ReplyFailed",
    "ReplyHandler",
    "ReplyOnPause",
    "ReplyOnStopWords",
    "ReplyStarted",
    "Resumed",
    "Say",
    "SileroVADModel",
    "SileroVadOptions",
    "SmartTurn",
    "SmartTurnModel",
    "SpeechEnded",
    "SpeechStarted",
    "SpeechToText",
    "StopWordHeard",
    "StreamingVadModel",
    "TranscribingSpotter",
    "TurnDetector",
    "TurnEnd",
    "TurnEnded",
    "TurnEvent",
    "TurnTimeline",
    "VadStream",
    "VoiceTurns",
    "get_silero_model",
]


if not TYPE_CHECKING:

    def __getattr__(name: str) -> NoReturn:
        raise absent(__name__, name)
