"""Reading a chat service's stream. `read_chat` takes lines and makes no request; `protocol.chat` has the format."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import aclosing

from ..protocol.chat import ChatReader, ToolCall
from .sentences import closable

__all__ = ["read_chat"]


async def read_chat(lines: AsyncIterable[str]) -> AsyncGenerator[str | ToolCall]:
    """Read a streamed answer of a chat service that speaks the common format (``stream: true``).

    Args:
        lines: Of the response's body, as ``response.aiter_lines()`` gives them.

    Yields:
        Text as it comes; then each `ToolCall`, when its arguments are complete.

    Raises:
        ServiceError: A line is not what the format says, the service reports an error, or it hangs up before the end.
    """
    reader = ChatReader()
    async with aclosing(closable(lines)) as closing:
        async for line in closing:  # to the end of the body, so that its request comes to its end, too
            if text := reader.feed(line):
                yield text
    for call in reader.end():
        yield call
