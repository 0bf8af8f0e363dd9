"""What readers of the outputs route are sent of a call: its outputs, or what an application's function makes of them.

Each call that has a reader has one `OutputEvents`. It makes one event of each output, however many readers there are.
It also keeps what a reader needs that comes later, or comes back.
"""

from __future__ import annotations

import inspect
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from .._core.fanout import BOUND, Fanout, Reader
from .._core.guard import is_for_the_process
from .._core.hooks import ask
from ..outputs import AdditionalOutputs
from ..protocol.sse import plain

logger: logging.Logger = logging.getLogger(__name__)

OUTPUT: Final = "output"
FAILURE: Final = "failure"
"""Not "error": an ``EventSource`` reports its own troubles by events of that name."""


@dataclass(frozen=True, slots=True)
class OutputEvent:
    """One event.

    Attributes:
        name: `OUTPUT` or `FAILURE`.
        data: As JSON has it: the list of values, or words.
        number: The number of the output, from 1; 0 for a failure.
    """

    name: str
    data: Any
    number: int = 0


class OutputEvents:
    """The events of one call.

    Without a function each output is an event, and the last 256 are kept. With a function only its last result is kept.

    Args:
        outputs: The call's outputs, in order; `run` takes them.
        function: The stream's ``additional_outputs_handler``, if it has one.
        name: What logs call the call.
    """

    def __init__(
        self, outputs: Reader[AdditionalOutputs], function: Callable[..., Any] | None, name: str = "a call"
    ) -> None:
        self._outputs = outputs
        self._function = None if function is None else OutputFunction(function)
        self._name = name
        self._kept = deque[OutputEvent](maxlen=BOUND if function is None else 1)
        self._fanout = Fanout[OutputEvent]()
        self._count = 0

    @property
    def readers(self) -> int:
        """How many are reading."""
        return self._fanout.readers

    def read(self, after: int = 0) -> tuple[list[OutputEvent], Reader[OutputEvent]]:
        """The kept events that a reader has not seen, and a reader of those that come from now on (`Fanout.read`).

        Args:
            after: The number of the last output that the reader has seen. A number that this call has not reached
                belongs to an earlier call, and counts as 0.
        """
        reader = self._fanout.read()
        after = after if after <= self._count else 0
        return [event for event in self._kept if event.number > after], reader

    async def run(self) -> None:
        """Make events of the outputs until the call has ended; then the readers stop. Raises only if cancelled."""
        try:
            async for output in self._outputs:
                self._fanout.put(await self._make(output))
        finally:
            self._outputs.close()
            self._fanout.end()

    async def _make(self, output: AdditionalOutputs) -> OutputEvent:
        try:
            values = plain(list(output.args) if self._function is None else await self._function.after(output))
        except BaseException as error:
            if is_for_the_process(error):
                raise
            # Supervises the application's function and its values, which may raise anything, also SystemExit. This
            # task is the stream's own: an error that leaves it would end every call.
            logger.exception("an output of %s could not be shown", self._name)
            return OutputEvent(FAILURE, "an output could not be shown")
        self._count += 1
        event = OutputEvent(OUTPUT, values, self._count)
        self._kept.append(event)
        return event


class OutputFunction:
    """The application's ``additional_outputs_handler``, with what it returned for the output before.

    Args:
        function: Called with what it returned before (at first None) and then the values of the output. It returns one
            value or a tuple of them. A sync one runs in a worker thread.

    The function's parameters say how many former values it takes. If those without a default are at least as many as
    the output's values, the rest of them are former values; otherwise all parameters count. With ``*values``, all
    parameters before it take former values.

    Raises:
        TypeError: It cannot be called with positional arguments only.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._values: list[Any] = []
        self._needed, self._positional, self._any_number = _count_parameters(function)

    async def after(self, output: AdditionalOutputs) -> list[Any]:
        """The values to show after `output`."""
        before = self._count_before(len(output.args))
        values = [*self._values, *[None] * before][:before]
        result = await ask(self._function, *values, *output.args)
        self._values = list(result) if isinstance(result, tuple) else [result]
        return self._values

    def _count_before(self, new: int) -> int:
        if self._any_number:
            return self._positional
        return self._needed - new if self._needed >= new else max(0, self._positional - new)


def _count_parameters(function: Callable[..., Any]) -> tuple[int, int, bool]:
    """How many positional parameters have no default, how many there are, and whether there is ``*values``."""
    name = getattr(function, "__qualname__", type(function).__qualname__)
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some built-in functions do not tell: they get the new values
        return 0, 0, True
    if missing := [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]:
        raise TypeError(f"{name} is called with positional arguments only, but needs {', '.join(missing)}=")
    positional = [p for p in parameters if p.kind in {p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD}]
    needed = sum(p.default is p.empty for p in positional)
    return needed, len(positional), any(p.kind is p.VAR_POSITIONAL for p in parameters)
