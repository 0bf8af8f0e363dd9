"""Turn-taking: who is speaking, when it is the bot's turn, and what the caller heard of a reply.

`ReplyOnPause` and `ReplyOnStopWords` answer a caller. The other names are for their options, their events, and for
detectors and voice activity models of your own.
"""

from __future__ import annotations

from .handlers.turns import _names
from .handlers.turns._names import *  # noqa: F403 - the list is there, once

__all__: list[str] = []
__all__ += _names.__all__  # in this form, type checkers can follow it
