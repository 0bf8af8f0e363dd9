"""What readers of the outputs route are shown of a call: its outputs, or what an application's function makes of them.

There is one `Board` for each call that anybody looks at. It makes of each output one event, whatever the number of
readers, and keeps what a reader must know that comes later, or again.
"""

from __future__ import annotations

import inspect
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from .._core.fanout import BOUND, Fanout, Reader
from .._core.hooks import ask
from ..outputs import AdditionalOutputs
from ..protocol.sse import plain

logger = logging.getLogger(__name__)

OUTPUT: Final = "output"
FAILURE: Final = "failure"
"""Not "error": an ``EventSource`` tells of its own troubles by events of that name."""


@dataclass(frozen=True, slots=True)
class Shown:
    """One event.

    Attributes:
        name: `OUTPUT` or `FAILURE`.
        data: As JSON has it: the list of values, or words.
        number: Of an output, from 1; 0 for what none is made of.
    """

    name: str
    data: Any
    number: int = 0


class Board:
    """The events of one call.

    Without a function each output is an event, and the last 256 are kept; with one, what it returned last is kept.

    Args:
        outputs: The call's outputs, in order; `run` takes them.
        function: The stream's ``additional_outputs_handler``, if it has one.
        name: What logs call the call.
    """

    def __init__(
        self, outputs: Reader[AdditionalOutputs], function: Callable[..., Any] | None, name: str = "a call"
    ) -> None:
        self._outputs = outputs
        self._making = None if function is None else Making(function)
        self._name = name
        self._kept = deque[Shown](maxlen=BOUND if function is None else 1)
        self._fanout = Fanout[Shown]()
        self._count = 0

    @property
    def readers(self) -> int:
        """How many are reading."""
        return self._fanout.readers

    def read(self, after: int = 0) -> tuple[list[Shown], Reader[Shown]]:
        """What a reader must know to begin with, and what comes from now on (`Fanout.read`).

        Args:
            after: The number of the last output that it has seen. One that there was never (it is of an earlier call)
                counts as 0.
        """
        reader = self._fanout.read()
        after = after if after <= self._count else 0
        return [shown for shown in self._kept if shown.number > after], reader

    async def run(self) -> None:
        """Make events of the outputs until there are no more; readers then stop. Never raises but when cancelled."""
        try:
            async for output in self._outputs:
                self._fanout.put(await self._make(output))
        finally:
            self._outputs.close()
            self._fanout.end()

    async def _make(self, output: AdditionalOutputs) -> Shown:
        try:
            values = plain(list(output.args) if self._making is None else await self._making.after(output))
        except Exception:
            # Supervises the application's function and its values: readers are told, the call and the next go on.
            logger.exception("an output of %s could not be shown", self._name)
            return Shown(FAILURE, "an output could not be shown")
        self._count += 1
        shown = Shown(OUTPUT, values, self._count)
        self._kept.append(shown)
        return shown


class Making:
    """What `additional_outputs_handler` makes of one output after the other.

    Args:
        function: Called with what it returned before (at first None) and then the values of the output; returns one
            value or a tuple of them. A sync one runs in a worker thread.

    How many of the former it takes is seen from its parameters: as many as those without a default (or, where the
    output's values are more than these, all) exceed the output's values; with ``*values``, all that stand before it.

    Raises:
        TypeError: It cannot be called with positional arguments only.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._values: list[Any] = []
        self._needed, self._positional, self._any_number = _count_parameters(function)

    async def after(self, output: AdditionalOutputs) -> list[Any]:
        """The values to show."""
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
