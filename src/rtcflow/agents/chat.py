"""Reading a chat service's stream: server-sent events in the common format, to text and calls of tools.

`read_chat` takes lines and makes no request. Every way in which a service can fail has one error, `ServiceError`, whose
text says what happened.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import aclosing
from typing import Any

from .sentences import closable
from .tools import ToolCall

__all__ = ["ServiceError", "read_chat"]

LONGEST_LINE = 1_000_000
"""Characters of one line of a stream: a thousand times what services send."""


class ServiceError(Exception):
    """A service (language model, speech to text, voice) does not do what it should."""


async def read_chat(lines: AsyncIterable[str]) -> AsyncGenerator[str | ToolCall]:
    """Read a streamed answer of a chat service that speaks the common format (``stream: true``).

    Args:
        lines: Of the response's body, as ``response.aiter_lines()`` gives them.

    Yields:
        Text as it comes; then each `ToolCall`, when its arguments are complete.

    Raises:
        ServiceError: A line is not what the format says, the service reports an error, or it hangs up in the middle of
            the answer.
    """
    calls: dict[int, dict[str, str]] = {}
    done = finished = False
    async with aclosing(closable(lines)) as closing:
        async for line in closing:
            if done or not line.startswith("data:"):
                continue  # comments, and names of events; the body is read to its end, so that its request is, too
            data = line[5:].strip()
            if data == "[DONE]":
                done = finished = True
                continue
            text, ended = _read(data, calls)
            finished = finished or ended
            if text:
                yield text
    if not finished:
        raise ServiceError("the chat service hung up in the middle of its answer")
    for _, call in sorted(calls.items()):
        yield ToolCall(call["id"], call["name"], call["arguments"])


def _read(data: str, calls: dict[int, dict[str, str]]) -> tuple[str, bool]:
    """Read one event: the text in it, and whether the answer is complete. Parts of calls are put into `calls`."""
    try:
        if len(data) > LONGEST_LINE:
            raise ValueError("it is too long")
        event = json.loads(data)
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
    except (ValueError, TypeError, AttributeError, KeyError, IndexError) as error:
        raise ServiceError(f"the chat service sent what is not in the format ({error}): {data:.80}") from error
