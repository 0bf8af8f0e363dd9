"""Turn-taking: who is speaking, when it is the bot's turn, and what the caller heard of a reply.

`_names` is the one list of the public names. It is imported when the first of them is asked for, because detectors
take a while to import and many handlers have none. `rtcflow.turns` offers all of them.

| module | what it decides |
|---|---|
| `vad`, `silero` | how likely speech is in a piece of audio |
| `pauses`, `detector`, `keywords` | when a turn begins and ends, and which stop words were said |
| `state` | what the bot does about it: reply, hold, resume, cancel |
| `..ledger` | how much of a reply the caller has heard |
| `reply` | runs one reply function, and queues its chunks |
| `reply_handler`, `reply_on_pause`, `reply_on_stop_words` | the handlers: they await, and do what `state` says |
| `timeline` | the moments of each turn |
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from ..._core.moved import absent

if TYPE_CHECKING:
    from ._names import *  # noqa: F403
else:

    def __getattr__(name: str) -> object:
        names = import_module("._names", __name__)
        if name in {"__all__", *names.__all__}:
            return getattr(names, name)
        raise absent(__name__, name)
