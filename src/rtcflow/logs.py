"""Log records that say which call they belong to.

rtcflow logs with the standard library, and changes nothing of your set-up. Add a `CallFilter` to a handler of yours.
Each record then has `call`, `transport` and `principal`. This is so for records of rtcflow, of your code in tasks and
worker threads, and of the libraries that it calls. The facts travel in a context variable. Tasks and worker threads of
a call inherit it, and a filter on a handler runs in the thread that logs. So the filter sees the right call. A thread
that you start yourself inherits nothing; start it with ``contextvars.copy_context().run``.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from .context import log_facts

__all__ = ["CallFilter", "JsonFormatter", "TextFormatter"]

_STANDARD = frozenset([*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"])
_OF_THE_CALL = ("call", "transport", "principal")


class CallFilter(logging.Filter):
    """Gives each log record the attributes `call`, `transport` and `principal`; None outside of calls.

    `call` is the beginning of the call's id, as in rtcflow's own messages: the whole id is secret. `principal` is what
    the `authorize` hook returned. An attribute that the record has already (``extra={"call": ...}``) stays.

    Add it to a handler (``handler.addFilter(CallFilter())``). A filter of a logger does not see the records of the
    loggers below it. If records go through a queue, add it to the `logging.handlers.QueueHandler`, which runs in the
    thread that logs.

    Args:
        quiet: Loggers whose records below WARNING are dropped, with all loggers below them. ``aioice`` writes dozens of
            lines per call at INFO. A logger that has a level of its own is not affected.
    """

    def __init__(self, *, quiet: Iterable[str] = ("aioice",)) -> None:
        super().__init__()
        self.quiet: tuple[str, ...] = (quiet,) if isinstance(quiet, str) else tuple(quiet)

    def filter(self, record: logging.LogRecord) -> bool:
        """Complete the record; False if it is to be dropped."""
        if record.levelno < logging.WARNING and any(self._silences(name, record.name) for name in self.quiet):
            return False
        facts = log_facts.get()
        for name in _OF_THE_CALL:
            if not hasattr(record, name):
                setattr(record, name, None if facts is None else getattr(facts, name))
        return True

    @staticmethod
    def _silences(quiet: str, name: str) -> bool:
        if name != quiet and not name.startswith(f"{quiet}."):
            return False
        while name != quiet and logging.getLogger(name).level == logging.NOTSET:
            name = name.rpartition(".")[0]
        return logging.getLogger(name).level == logging.NOTSET


class JsonFormatter(logging.Formatter):
    """Makes one line of JSON of a record.

    The keys are ``time`` (ISO 8601, UTC), ``level``, ``logger`` and ``message``. In a call there are also ``call``,
    ``transport`` and ``principal``, with a `CallFilter` on the same handler. The rest is what the record was given as
    ``extra``, ``error`` (the traceback) and ``stack``. Values that JSON does not know are written as their text. A
    record whose arguments do not fit its message is written all the same: a log line never raises.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line, without a line break."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": _message(record),
        }
        for name, value in vars(record).items():
            if name not in _STANDARD and name not in line and not (name in _OF_THE_CALL and value is None):
                line[name] = _plain(value)
        if record.exc_info and record.exc_text is None:
            record.exc_text = self.formatException(record.exc_info)
        if record.exc_text:
            line["error"] = record.exc_text
        if record.stack_info:
            line["stack"] = self.formatStack(record.stack_info)
        # Half of a surrogate pair (JSON of a caller may have one) cannot be written; as an escape it is JSON, too.
        return json.dumps(line, ensure_ascii=False).encode("utf-8", "backslashreplace").decode()


class TextFormatter(logging.Formatter):
    """`logging.Formatter` that names the call behind the message, as in ``slow answer [webrtc Ab3dEf9h…]``.

    Messages that name the call already, such as rtcflow's own, stay as they are. Needs a `CallFilter` on the handler.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  logging's name
        """The line before the traceback."""
        line, call = super().formatMessage(record), getattr(record, "call", None)
        return line if call is None or str(call) in line else f"{line} [{getattr(record, 'transport', '')} {call}]"


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception as error:  # noqa: BLE001  arguments of the application that do not fit, or cannot say what they are
        return f"{record.msg!r} with arguments that do not fit: {type(error).__name__}"


def _plain(value: object) -> Any:
    """`value` if it is one for JSON, otherwise its text."""
    if value is None or isinstance(value, str | bool) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, int) and value.bit_length() <= 1024:  # more than a float holds; Python does not write all
        return value
    try:
        return str(value)
    except Exception as error:  # noqa: BLE001  the application's object
        return f"<{type(value).__name__} whose text is not known, because __str__ raised {type(error).__name__}>"
