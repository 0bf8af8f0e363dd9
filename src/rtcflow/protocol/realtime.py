"""The wire formats of two speech-to-speech services, from their public documentation. Pure: text in, events out.

`OpenAIRealtime` speaks the Realtime API's events (platform.openai.com/docs/api-reference/realtime), in their present
names and those of its beta. `GeminiLive` speaks the Live API's messages (ai.google.dev/api/live). Both are `Protocol`:
`RealtimeHandler` knows neither. Messages of a service that nobody needs are ignored. A message that breaks its format
is a `ServiceError`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from .chat import ServiceError, ToolCall
from .json_text import read_json

__all__ = [
    "AudioReceived",
    "CallsCancelled",
    "GeminiLive",
    "OpenAIRealtime",
    "RealtimeEvent",
    "RealtimeProtocol",
    "ResponseDone",
    "ServiceFailed",
    "SessionEnding",
    "SessionReady",
    "ToolsCalled",
    "Transcript",
    "UserInterrupted",
    "UserStopped",
]


@dataclass(frozen=True, slots=True)
class SessionReady:
    """The service takes audio now."""


@dataclass(frozen=True, slots=True, eq=False)
class AudioReceived:
    """Some of what the service says.

    Attributes:
        item: Names the message that it belongs to.
        samples: int16, shape (1, n), at `RealtimeProtocol.output_rate`.
    """

    item: str
    samples: NDArray[np.int16]


@dataclass(frozen=True, slots=True)
class UserInterrupted:
    """The service has heard the user speak: what it said before must fall silent."""


@dataclass(frozen=True, slots=True)
class UserStopped:
    """The service has heard the user fall silent, and thinks about its answer."""


@dataclass(frozen=True, slots=True)
class Transcript:
    """Words, as the service recognizes or writes them.

    Attributes:
        role: ``"user"`` or ``"assistant"``.
        text: More of the message's words.
        item: Names the message that they belong to.
    """

    role: str
    text: str
    item: str = ""


@dataclass(frozen=True, slots=True)
class ToolsCalled:
    """The service wants tools to be called."""

    calls: tuple[ToolCall, ...]


@dataclass(frozen=True, slots=True)
class CallsCancelled:
    """The service does not need the results of these calls any more."""

    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ResponseDone:
    """The service has said all it wants to."""


@dataclass(frozen=True, slots=True)
class SessionEnding:
    """The service will close the session soon: open the next one."""


@dataclass(frozen=True, slots=True)
class ServiceFailed:
    """The service reports an error. The session goes on."""

    text: str


RealtimeEvent: TypeAlias = (
    SessionReady
    | AudioReceived
    | UserInterrupted
    | UserStopped
    | Transcript
    | ToolsCalled
    | CallsCancelled
    | ResponseDone
    | SessionEnding
    | ServiceFailed
)


class RealtimeProtocol(Protocol):
    """What `RealtimeHandler` needs of a service. One instance serves one call.

    Attributes:
        url: Of the WebSocket.
        headers: Sent with its upgrade.
        input_rate: Hz of what the service hears.
        output_rate: Hz of what it says.
    """

    url: str
    headers: dict[str, str]
    input_rate: int
    output_rate: int

    def hello(self, system: str, tools: Iterable[Mapping[str, Any]]) -> list[str]:
        """What is sent first in a session.

        Args:
            system: Instructions for the model.
            tools: Of each its name, description and parameters (JSON Schema), under these names.
        """

    def audio(self, samples: NDArray[np.int16]) -> list[str]:
        """What the user says: int16, shape (1, n), at `input_rate`."""

    def text(self, text: str) -> list[str]:
        """What the user types; it is to be answered."""

    def result(self, call: ToolCall, content: str, *, answer: bool) -> list[str]:
        """A tool's result. `answer`: the service must speak now."""

    def truncated(self, item: str, milliseconds: int) -> list[str]:
        """Only this much of the message was heard."""

    def history(self, messages: Iterable[Mapping[str, Any]]) -> list[str]:
        """What a new session is told of the conversation so far; sent after `hello`.

        Args:
            messages: In the common chat format, those of ``"user"`` and ``"assistant"`` that have text.
        """

    def read(self, message: str | bytes) -> list[RealtimeEvent]:
        """What a message of the service says.

        Raises:
            ServiceError: It is not in the format.
        """


class OpenAIRealtime:
    """The Realtime API's events.

    Args:
        key: The API key; None for a service that wants none.
        model: Its name.
        voice: Its name.
        transcription: The model that writes down what the caller says; None: nobody does. Then the page and the next
            session do not know the caller's words.
        url: Of a compatible service.
    """

    input_rate = output_rate = 24000

    def __init__(
        self,
        key: str | None,
        *,
        model: str = "gpt-realtime",
        voice: str = "marin",
        transcription: str | None = "gpt-4o-mini-transcribe",
        url: str = "wss://api.openai.com/v1/realtime",
    ) -> None:
        self.url: str = f"{url}{'&' if '?' in url else '?'}model={quote(model)}"
        self.headers: dict[str, str] = {} if key is None else {"Authorization": f"Bearer {key}"}
        self._voice, self._transcription = voice, transcription

    def hello(self, system: str, tools: Iterable[Mapping[str, Any]]) -> list[str]:
        """``session.update``."""
        pcm = {"type": "audio/pcm", "rate": self.input_rate}
        heard: dict[str, Any] = {"format": pcm, "turn_detection": {"type": "server_vad"}}
        if self._transcription is not None:
            heard["transcription"] = {"model": self._transcription}
        session = {
            "type": "realtime",
            "instructions": system,
            "output_modalities": ["audio"],
            "audio": {
                "input": heard,
                "output": {"format": pcm, "voice": self._voice},
            },
            "tools": [{"type": "function", **tool} for tool in tools],
        }
        return [json.dumps({"type": "session.update", "session": session})]

    def audio(self, samples: NDArray[np.int16]) -> list[str]:
        """``input_audio_buffer.append``."""
        return [json.dumps({"type": "input_audio_buffer.append", "audio": _encode(samples)})]

    def text(self, text: str) -> list[str]:
        """``conversation.item.create`` and ``response.create``."""
        content = [{"type": "input_text", "text": text}]
        return [self._item({"type": "message", "role": "user", "content": content}), _RESPOND]

    def result(self, call: ToolCall, content: str, *, answer: bool) -> list[str]:
        """``conversation.item.create`` with a ``function_call_output``, and ``response.create``."""
        item = self._item({"type": "function_call_output", "call_id": call.id, "output": content})
        return [item, *([_RESPOND] if answer else [])]

    def truncated(self, item: str, milliseconds: int) -> list[str]:
        """``conversation.item.truncate``."""
        event = {"type": "conversation.item.truncate", "item_id": item, "content_index": 0}
        return [json.dumps(event | {"audio_end_ms": milliseconds})]

    def history(self, messages: Iterable[Mapping[str, Any]]) -> list[str]:
        """``conversation.item.create`` for each message."""
        kinds = {"user": "input_text", "assistant": "output_text"}
        return [
            self._item(
                {
                    "type": "message",
                    "role": message["role"],
                    "content": [{"type": kinds[message["role"]], "text": message["content"]}],
                }
            )
            for message in messages
        ]

    def _item(self, item: dict[str, Any]) -> str:
        return json.dumps({"type": "conversation.item.create", "item": item})

    def read(self, message: str | bytes) -> list[RealtimeEvent]:
        """One server event."""
        return _checked(message, self._read)

    def _read(self, event: dict[str, Any]) -> list[RealtimeEvent]:
        match event["type"]:
            case "session.updated":
                return [SessionReady()]
            case "input_audio_buffer.speech_started":
                return [UserInterrupted()]
            case "input_audio_buffer.speech_stopped":
                return [UserStopped()]
            case "response.output_audio.delta" | "response.audio.delta":
                return [AudioReceived(_text(event["item_id"]), _decode(event["delta"]))]
            case "response.output_audio_transcript.delta" | "response.audio_transcript.delta":
                return [Transcript("assistant", _text(event["delta"]), str(event.get("item_id", "")))]
            case "conversation.item.input_audio_transcription.completed":
                return [Transcript("user", _text(event["transcript"]), str(event.get("item_id", "")))]
            case "response.done":
                response = event["response"]
                output = response.get("output") or []
                calls = tuple(
                    ToolCall(_text(item["call_id"]), _text(item["name"]), _text(item["arguments"]))
                    for item in output
                    if item.get("type") == "function_call" and item.get("status", "completed") == "completed"
                )
                failed: list[RealtimeEvent] = []
                if response.get("status") == "failed":
                    details = response.get("status_details") or {}
                    failed = [ServiceFailed(str((details.get("error") or details).get("message", "no reason"))[:300])]
                return [*([ToolsCalled(calls)] if calls else []), *failed, ResponseDone()]
            case "error":
                error = event["error"]
                return [ServiceFailed(str(error.get("message") or error.get("code") or error)[:300])]
        return []


_RESPOND = json.dumps({"type": "response.create"})


class GeminiLive:
    """The Live API's messages.

    Args:
        key: The API key.
        model: Its name.
        url: Of a compatible service.
    """

    input_rate: int = 16000
    output_rate: int = 24000

    def __init__(
        self,
        key: str,
        *,
        model: str = "gemini-2.0-flash-live-001",
        url: str = "wss://generativelanguage.googleapis.com/ws/"
        "google.ai.generativelanguage.v1beta.GenerativeService.BidiGenerateContent",
    ) -> None:
        self.url: str = url
        self.headers: dict[str, str] = {"x-goog-api-key": key}
        self._model = model if "/" in model else f"models/{model}"
        self._messages = 0
        self._handle: str | None = None

    def hello(self, system: str, tools: Iterable[Mapping[str, Any]]) -> list[str]:
        """``setup``, which resumes the last session if the service has given a handle for it."""
        setup: dict[str, Any] = {
            "model": self._model,
            "generationConfig": {"responseModalities": ["AUDIO"]},
            "inputAudioTranscription": {},
            "outputAudioTranscription": {},
            "sessionResumption": {} if self._handle is None else {"handle": self._handle},
        }
        if system:
            setup["systemInstruction"] = {"parts": [{"text": system}]}
        functions = [
            {"name": tool["name"], "description": tool["description"], "parametersJsonSchema": tool["parameters"]}
            for tool in tools
        ]
        if functions:
            setup["tools"] = [{"functionDeclarations": functions}]
        return [json.dumps({"setup": setup})]

    def audio(self, samples: NDArray[np.int16]) -> list[str]:
        """``realtimeInput``."""
        blob = {"data": _encode(samples), "mimeType": f"audio/pcm;rate={self.input_rate}"}
        return [json.dumps({"realtimeInput": {"audio": blob}})]

    def text(self, text: str) -> list[str]:
        """``clientContent``."""
        turns = [{"role": "user", "parts": [{"text": text}]}]
        return [json.dumps({"clientContent": {"turns": turns, "turnComplete": True}})]

    def result(self, call: ToolCall, content: str, *, answer: bool) -> list[str]:
        """``toolResponse``, with the scheduling that says whether to speak now."""
        response = {"result": content, "scheduling": "WHEN_IDLE" if answer else "SILENT"}
        functions = [{"id": call.id, "name": call.name, "response": response}]
        return [json.dumps({"toolResponse": {"functionResponses": functions}})]

    def truncated(self, item: str, milliseconds: int) -> list[str]:  # noqa: ARG002
        """Nothing: the service truncates by itself, and has no message for it."""
        return []

    def history(self, messages: Iterable[Mapping[str, Any]]) -> list[str]:
        """``clientContent`` that asks for no answer; nothing if the service resumes the session by itself."""
        roles = {"user": "user", "assistant": "model"}
        turns = [{"role": roles[message["role"]], "parts": [{"text": message["content"]}]} for message in messages]
        if self._handle is not None or not turns:
            return []
        return [json.dumps({"clientContent": {"turns": turns, "turnComplete": False}})]

    def read(self, message: str | bytes) -> list[RealtimeEvent]:
        """One server message."""
        return _checked(message, self._read)

    def _read(self, message: dict[str, Any]) -> list[RealtimeEvent]:
        events: list[RealtimeEvent] = []
        if "setupComplete" in message:
            events.append(SessionReady())
        if update := message.get("sessionResumptionUpdate"):
            self._handle = update.get("newHandle") if update.get("resumable") else self._handle
        if content := message.get("serverContent"):
            events += self._content(content)
        if call := message.get("toolCall"):
            functions = call.get("functionCalls") or []
            calls = (ToolCall(_text(f["id"]), _text(f["name"]), json.dumps(f.get("args") or {})) for f in functions)
            events.append(ToolsCalled(tuple(calls)))
        if cancelled := message.get("toolCallCancellation"):
            events.append(CallsCancelled(tuple(map(_text, cancelled["ids"]))))
        if "goAway" in message:
            events.append(SessionEnding())
        return events

    def _content(self, content: dict[str, Any]) -> list[RealtimeEvent]:
        events: list[RealtimeEvent] = []
        for role, name in (("user", "inputTranscription"), ("assistant", "outputTranscription")):
            if transcript := content.get(name):
                events.append(Transcript(role, _text(transcript.get("text", "")), str(self._messages)))
        if content.get("interrupted"):
            self._messages += 1
            events.append(UserInterrupted())
        blobs = [part.get("inlineData") for part in (content.get("modelTurn") or {}).get("parts") or []]
        events += [AudioReceived(str(self._messages), _decode(blob["data"])) for blob in blobs if blob]
        if content.get("turnComplete"):
            self._messages += 1
            events.append(ResponseDone())
        return events


def _encode(samples: NDArray[np.int16]) -> str:
    return base64.b64encode(np.ascontiguousarray(samples[0], "<i2").tobytes()).decode()


def _decode(text: str) -> NDArray[np.int16]:
    return np.frombuffer(base64.b64decode(text, validate=True), "<i2").astype(np.int16)[None]


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} should be text")
    return value


def _checked(message: str | bytes, read: Callable[[dict[str, Any]], list[RealtimeEvent]]) -> list[RealtimeEvent]:
    try:
        return read(read_json(message))
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError) as error:
        raise ServiceError(
            f"the speech service sent what is not in its format ({error!r:.80}): {message[:80]!r}"
        ) from error
