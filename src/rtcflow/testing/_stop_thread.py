"""Stopping a thread that holds up a test, wherever it is: for tests that have failed already, and for nothing else.

`PyThreadState_SetAsyncExc` of the Python/C API has an exception raised in another thread at its next bytecode. That may
leave a lock locked for ever, so rtcflow itself never does it to a running thread (`rtcflow._core.interrupt`). Here a
method of a handler holds up the event loop of a test, and the choice is between this and a test that hangs.

Until it is really raised, every such call (one that takes it back, too) leaves a flag up that all threads look at. They
go slower. In CPython 3.11, a thread may be traced by a debugger, coverage or Hypothesis. If it then enters a Python
function, it does not get past its beginning until the flag is down. So the flag is brought down, by raising something
here if need be. No Python function is entered meanwhile; the loops below are written out for that.
"""

from __future__ import annotations

import ctypes
import sys
import threading
import time
from types import FrameType
from typing import Any

from .._core.interrupt import current_frames

ROUNDS = 100
"""How many milliseconds a traced thread is given to notice."""


class _Quiet(BaseException):
    """Raised and caught here, to bring the flag down."""


def stop_thread(ident: int, error: type[BaseException]) -> None:
    """Raise `error` in the thread `ident` as soon as it runs Python code again; wake it if it waits.

    Call `take_back` when it has not ended in time.
    """
    set_async_exception = _set_async_exception()
    if set_async_exception is None:
        return
    traced = sys.gettrace() is not None or threading.gettrace() is not None
    if traced:  # else after it, which is safer: a thread that is woken too early waits again
        _wake(ident)
    set_async_exception(ctypes.c_ulong(ident), ctypes.py_object(error))
    if traced:
        for _ in range(ROUNDS):
            time.sleep(0.001)
    else:
        _wake(ident)


def take_back(ident: int) -> None:
    """Take back what was to be raised in that thread, if it was not yet."""
    set_async_exception = _set_async_exception()
    if set_async_exception is None:
        return
    own, quiet = ctypes.c_ulong(threading.get_ident()), ctypes.py_object(_Quiet)
    try:
        set_async_exception(ctypes.c_ulong(ident), None)
        set_async_exception(own, quiet)
        for _ in range(1_000_000):  # raised at the first turn
            pass
    except _Quiet:
        return


def _set_async_exception() -> Any:
    api = getattr(ctypes, "pythonapi", None)
    return None if api is None else api.PyThreadState_SetAsyncExc


def _wake(ident: int) -> None:
    """Wake that thread if it waits in `threading.Condition.wait`, as by a spurious `notify`."""
    frame: FrameType | None = current_frames().get(ident)
    if frame is None or frame.f_code is not threading.Condition.wait.__code__:
        return
    waiter = frame.f_locals.get("waiter")
    if waiter is not None:
        try:
            waiter.release()
        except RuntimeError:  # it was notified in this very moment
            return
