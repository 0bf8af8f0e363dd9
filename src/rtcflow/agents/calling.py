"""Calling a tool: whatever goes wrong, there is a result, and it is text that a model can read."""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from functools import partial
from typing import Any

import anyio

from .tools import BadArguments, Tool, ToolCall

logger = logging.getLogger(__name__)

CANCELLED = '{"error": "cancelled: the user interrupted"}'

around_tool: ContextVar[Callable[[str], AbstractContextManager[object]]] = ContextVar(
    "rtcflow_around_tool", default=nullcontext
)
"""Called with a tool's name; the tool runs inside what it returns, for traces. Set for one call by `rtcflow.otel`."""


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
    try:
        arguments = made.read_arguments(call.arguments)
        with around_tool.get()(made.name), anyio.fail_after(made.timeout):
            if inspect.iscoroutinefunction(made.function):
                result = await made.function(**arguments)
            else:
                result = await run_sync(partial(made.function, **arguments))
        return result if isinstance(result, str) else json.dumps(result, ensure_ascii=False)
    except BadArguments as error:
        return failure(str(error))
    except TimeoutError:
        logger.error("the tool %s had no result after %g s", made.name, made.timeout)
        return failure(f"no result after {made.timeout:g} s")
    except Exception as error:
        # Supervises: code of the user's, whose failure the model can explain to the caller.
        logger.exception("the tool %s failed", made.name)
        return failure(f"{type(error).__name__}: {error}")
