"""Turn-taking: who is speaking, when it is the bot's turn, and what the peer heard of it."""

from .detector import ChunkTurns, TurnDetector, VoiceTurns
from .events import DetectorEvent, SpeechEnded, SpeechStarted, StopWordHeard, TurnEnd, TurnEnded
from .keywords import KeywordHit, KeywordSpotter, PocketsphinxSpotter, SpeechToText, TranscribingSpotter
from .ledger import Heard, PlayoutLedger, Say
from .options import AlgoOptions, SileroVadOptions
from .pauses import PauseTracker
from .reply import Chunk, Outbox, Reply, run_reply
from .reply_handler import ReplyHandler
from .reply_on_pause import ReplyOnPause
from .reply_on_stop_words import ReplyOnStopWords, StopWordTurns
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
    "Chunk",
    "ChunkTurns",
    "DetectorEvent",
    "EndOfTurn",
    "EnergyVad",
    "FirstAudio",
    "Heard",
    "Interrupted",
    "KeywordHit",
    "KeywordSpotter",
    "ModelOptions",
    "Outbox",
    "PauseDetectionModel",
    "PauseTracker",
    "PlayoutFinished",
    "PlayoutLedger",
    "PocketsphinxSpotter",
    "Reply",
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
    "StopWordTurns",
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
    "run_reply",
]
