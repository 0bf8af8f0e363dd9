"""Calling tools: whatever goes wrong or is interrupted, each call has exactly one result, in text for a model.

A tool runs in a task of the *call*, not of the reply that wants it. So an interruption ends the wait for it, and the
tool's policy decides the rest. The alternative, a task of the reply, cannot finish work that must not stop halfway.
"""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel

from .._core.guard import failure_in
from ..handlers.base import StreamHandlerBase, get_current_handler
from ..protocol.chat import ToolCall
from ..protocol.json_schema import BadArguments
from .conversation import Conversation
from .tools import Tool

__all__ = ["run_tools"]

logger: logging.Logger = logging.getLogger(__name__)

CANCELLED = '{"error": "cancelled: the user interrupted"}'

around_tool: ContextVar[Callable[[str], AbstractContextManager[object]]] = ContextVar(
    "rtcflow_around_tool", default=nullcontext
)
"""Called with a tool's name; the tool runs inside what it returns, for traces. Set for one call by `rtcflow.otel`."""


async def run_tools(
    conversation: Conversation,
    calls: Iterable[ToolCall],
    *,
    reply: int = 0,
    speak: Callable[[ToolCall], Awaitable[object]] | None = None,
) -> None:
    """Run the tools that a model has called, side by side, until each has its result in the conversation. A checkpoint.

    For reply functions of your own; `VoiceAgent` calls it for you. Each tool runs in a task of the call. If this is
    cancelled, as it is when the user interrupts, each tool that still runs is treated as its `Policy` says.

    Args:
        conversation: Knows the tools; gets the calls and their results.
        calls: What the model wants; several may have one id.
        reply: Number of the reply that they belong to, for `Conversation.cut` and `Conversation.take_back`.
        speak: Awaited in a tool's task when a ``"finish_and_speak"`` tool has finished after its reply was
            interrupted. Without it such a result is only remembered.

    Raises:
        RuntimeError: No handler's code is running: tools need a call to live in.
    """
    handler = get_current_handler()
    if handler is None:
        raise RuntimeError("run_tools needs a call: use it in a reply function or another method of a handler")
    await anyio.lowlevel.checkpoint()
    running = []
    for call in conversation.add_calls(calls, reply):
        made = conversation.tools.get(call.name)
        if made is None:
            known = ", ".join(conversation.tools) or "none"
            conversation.add_result(call.id, failure(f"there is no tool {call.name!r}; there are: {known}"))
            continue
        run = _Run(conversation, made, call, handler, speak)
        handler.loop.create_task(run.work(), name=made.name)
        running.append(run)
    try:
        for run in running:
            await run.done.wait()
    finally:  # the user has interrupted, or all are done
        for run in running:
            run.leave()


class _Run:
    """One tool at work."""

    def __init__(
        self,
        conversation: Conversation,
        made: Tool,
        call: ToolCall,
        handler: StreamHandlerBase,
        speak: Callable[[ToolCall], Awaitable[object]] | None,
    ) -> None:
        self._conversation, self._tool, self._call = conversation, made, call
        self._handler, self._speak = handler, speak
        self._scope, self.done, self._left = anyio.CancelScope(), anyio.Event(), False

    async def work(self) -> None:
        """The task: its result is in the context when it ends, however it ends."""
        content = CANCELLED
        try:
            with self._scope:
                content = await call_tool(self._tool, self._call, self._handler.run_sync)
        finally:
            counts = self._conversation.add_result(self._call.id, content)
            self.done.set()
        if counts and self._left and self._tool.policy == "finish_and_speak" and self._speak is not None:
            await self._speak(self._call)

    def leave(self) -> None:
        """Nobody waits for it any more."""
        self._left = not self.done.is_set()
        if self._left and self._tool.policy == "cancel":
            self._conversation.add_result(self._call.id, CANCELLED)
            self._scope.cancel()


def failure(text: str) -> str:
    """A result that says what went wrong."""
    return json.dumps({"error": text}, ensure_ascii=False)


async def call_tool(made: Tool, call: ToolCall, run_sync: Callable[..., Awaitable[Any]]) -> str:
    """Call a tool; what goes wrong is told to the model, and logged.

    Args:
        made: The tool.
        call: What the model wrote.
        run_sync: Runs a function that is not async in a worker thread.
    """
    limit = anyio.CancelScope()
    try:
        arguments = made.read_arguments(call.arguments)
        with around_tool.get()(made.name), anyio.fail_after(made.timeout) as limit:
            work = partial(made.function, **arguments)
            result = work() if inspect.iscoroutinefunction(made.function) else await run_sync(work)
            if inspect.isawaitable(result):  # of an async function, or of a plain one around it
                result = await result
        return result if isinstance(result, str) else json.dumps(result, ensure_ascii=False)
    except BadArguments as error:
        return failure(str(error))
    except (Exception, anyio.get_cancelled_exc_class()) as raised:
        # Supervises: code of the user's, whose failure the model can explain to the caller.
        if (problem := failure_in(raised)) is None:
            raise
        if limit.cancelled_caught:
            logger.error("the tool %s had no result after %g s", made.name, made.timeout)
            return failure(f"no result after {made.timeout:g} s")
        logger.error("the tool %s failed", made.name, exc_info=problem)
        return failure(f"{type(problem).__name__}: {problem}")
