"""Prove handlers and transports: calls in virtual time, made-up lives, lossy links, contracts as suites.

    pip install "rtcflow[testing]"

| to | use |
|---|---|
| call a handler and look at what it did | `run_call`, `open_caller` |
| have Hypothesis live through anything that may happen to it | `HandlerLifecycle` |
| hold it, or a transport, to its contract | `check_handler`, `check_transport` |
| run an async scenario under many orders of its tasks | `explore` |
| make audio and measure what came back | `signals` |
| make a bad network | `links` |
| make up values for tests of your own | `strategies` |
| run any anyio code in virtual time | `virtual_backend`, `virtual_time`, `advance` |

Everything works with anyio's pytest plugin, with pytest-trio, with unittest and without any of them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .._core import moved as _moved
from . import links, signals
from ._schedules import explore
from .caller import Blocked, Caller, CallRecord, HandlerHung, HeardFrame, open_caller, run_call
from .clocks import Stuck, VirtualTime, advance, virtual_backend, virtual_time
from .conformance import TRANSPORT_CHECKS, check_transport
from .contract import HANDLER_CHECKS, check_handler
from .links import Blackout, Bursts, Chain, LossyLink
from .signals import Gap, chirp, find_gaps, latency, level, silence, snr, speech_like, sweep, tone

if TYPE_CHECKING:
    from . import strategies
    from .lifecycle import HandlerLifecycle, InjectedError

__all__ = [
    "HANDLER_CHECKS",
    "TRANSPORT_CHECKS",
    "Blackout",
    "Blocked",
    "Bursts",
    "CallRecord",
    "Caller",
    "Chain",
    "Gap",
    "HandlerHung",
    "HandlerLifecycle",
    "HeardFrame",
    "InjectedError",
    "LossyLink",
    "Stuck",
    "VirtualTime",
    "advance",
    "check_handler",
    "check_transport",
    "chirp",
    "explore",
    "find_gaps",
    "latency",
    "level",
    "links",
    "open_caller",
    "run_call",
    "signals",
    "silence",
    "snr",
    "speech_like",
    "strategies",
    "sweep",
    "tone",
    "virtual_backend",
    "virtual_time",
]


def __getattr__(name: str) -> Any:
    # Names that need Hypothesis are imported when they are asked for.
    module = {"HandlerLifecycle": "lifecycle", "InjectedError": "lifecycle", "strategies": "strategies"}.get(name)
    if module is None:
        raise _moved.absent(__name__, name)
    try:
        found = importlib.import_module(f".{module}", __name__)
    except ModuleNotFoundError as error:
        raise ImportError(f'{__name__}.{name} needs {error.name}: pip install "rtcflow[testing]"') from error
    return found if name == module else getattr(found, name)
