"""The common chat format, as language model services stream it: server-sent events, to text and calls of tools.

Every way in which a service can fail has one error, `ServiceError`, whose text says what happened.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .json_text import read_json

__all__ = ["ChatReader", "ServiceError", "ToolCall"]

LONGEST_LINE = 1_000_000
"""Characters of one line of a stream: a thousand times what services send."""


class ServiceError(Exception):
    """A service (language model, speech to text, voice) does not do what it should."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A model wants a tool to be called.

    Attributes:
        id: Names the call; unique within a conversation.
        name: Of the tool.
        arguments: JSON text, as the model wrote it.
    """

    id: str
    name: str
    arguments: str = "{}"


class ChatReader:
    """Reads one streamed answer, line by line.

    Attributes:
        done: The answer is complete; what else comes does not matter.
    """

    def __init__(self) -> None:
        self._calls: dict[int, dict[str, str]] = {}
        self.done: bool = False
        self._finished = False

    def feed(self, line: str) -> str:
        """Take a line of the response's body; returns the text in it.

        Raises:
            ServiceError: It is not what the format says, or the service reports an error.
        """
        if self.done or not line.startswith("data:"):
            return ""  # comments, and names of events
        data = line[5:].strip()
        if data == "[DONE]":
            self.done = self._finished = True
            return ""
        text, ended = _read(data, self._calls)
        self._finished = self._finished or ended
        return text

    def end(self) -> list[ToolCall]:
        """Nothing more comes: returns the calls of tools, whose arguments are complete now.

        Raises:
            ServiceError: The service hung up in the middle of the answer.
        """
        if not self._finished:
            raise ServiceError("the chat service hung up in the middle of its answer")
        return [ToolCall(call["id"], call["name"], call["arguments"]) for _, call in sorted(self._calls.items())]


def _read(data: str, calls: dict[int, dict[str, str]]) -> tuple[str, bool]:
    """Read one event: the text in it, and whether the answer is complete. Parts of calls are put into `calls`."""
    try:
        if len(data) > LONGEST_LINE:
            raise ValueError("it is too long")
        event = read_json(data)
        if error := event.get("error"):
            message = error.get("message") if isinstance(error, dict) else error
            raise ServiceError(f"the chat service reports an error: {message!s:.200}")
        choices = event.get("choices") or []
        if not choices:
            return "", False  # usage, at the end
        choice: dict[str, Any] = choices[0]
        delta = choice.get("delta") or {}
        for part in delta.get("tool_calls") or []:
            call = calls.setdefault(int(part.get("index", 0)), {"id": "", "name": "", "arguments": ""})
            function = part.get("function") or {}
            call["id"] += part.get("id") or ""
            call["name"] += function.get("name") or ""
            call["arguments"] += function.get("arguments") or ""
        text = delta.get("content") or ""
        if not isinstance(text, str):
            raise TypeError("its content is not text")
        return text, choice.get("finish_reason") is not None
    except (ValueError, TypeError, AttributeError, KeyError, IndexError, OverflowError) as error:
        raise ServiceError(f"the chat service sent what is not in the format ({error}): {data:.80}") from error
