"""Voice agents: the thin layer between a model and a call, without vendors. `docs/voice-agent.md` is its tutorial.

    sentences       tokens → pieces to be spoken                    pure
    tools           annotated functions → what a model may call     pure
    conversation    what was said and *heard*, for the model        pure
    calling         tools at work, under interruption               tasks of the call
    chat            a chat service's stream → text and calls        pure
    voice_agent     stt → chat → tts under interruption             a `ReplyOnPause`
    realtime        speech-to-speech services                       a handler

Nothing here makes a request but `RealtimeHandler`. Services are functions that you write.
"""

from ..protocol.chat import ServiceError, ToolCall
from ..protocol.realtime import (
    AudioReceived,
    CallsCancelled,
    GeminiLive,
    OpenAIRealtime,
    RealtimeEvent,
    RealtimeProtocol,
    ResponseDone,
    ServiceFailed,
    SessionEnding,
    SessionReady,
    ToolsCalled,
    Transcript,
    UserInterrupted,
    UserStopped,
)
from .calling import run_tools
from .chat import read_chat
from .conversation import Conversation
from .realtime import RealtimeHandler
from .sentences import SentenceSplitter, sentences
from .tools import Policy, Tool, tool
from .voice_agent import VoiceAgent, in_process

__all__ = [
    "AudioReceived",
    "CallsCancelled",
    "Conversation",
    "GeminiLive",
    "OpenAIRealtime",
    "Policy",
    "RealtimeEvent",
    "RealtimeHandler",
    "RealtimeProtocol",
    "ResponseDone",
    "SentenceSplitter",
    "ServiceError",
    "ServiceFailed",
    "SessionEnding",
    "SessionReady",
    "Tool",
    "ToolCall",
    "ToolsCalled",
    "Transcript",
    "UserInterrupted",
    "UserStopped",
    "VoiceAgent",
    "in_process",
    "read_chat",
    "run_tools",
    "sentences",
    "tool",
]
