"""The public names of turn-taking, with the modules that they come from. `rtcflow.turns` offers all of them."""

from __future__ import annotations

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
