"""Raising an exception in a thread that would block for ever: CPython's means, and what they ask of who uses them.

`PyThreadState_SetAsyncExc` of the Python/C API has an exception raised in another thread at its next bytecode. A thread
that waits in `threading.Condition.wait` (which is where `queue.Queue.get`, `threading.Event.wait` and
`concurrent.futures.Future.result` wait), or in this package's own `ParkingLot`, gets to that bytecode by being woken.
C code that does not return is beyond reach.

Until it is really raised, every such call (one that takes it back, too) leaves a flag up that all threads look at:
they go slower, and in CPython 3.11 a thread that is traced (by a debugger, coverage or Hypothesis) and enters a Python
function goes round and round there until the flag is down. So the flag is brought down, by raising something here if
need be, and no Python function is entered meanwhile: the loops below are written out for that.
"""

from __future__ import annotations

import ctypes
import gc
import sys
import threading
import time
from collections.abc import Sequence
from types import FrameType
from typing import Any, Final, Protocol

from .bridge import ParkingLot

ROUNDS = 100
"""How many milliseconds traced threads are given to notice."""


_looking = threading.Lock()  # or one that is done would enable what another has just disabled


def current_frames() -> dict[int, FrameType]:
    """`sys._current_frames`, which in CPython 3.11 stops the whole process if garbage is collected during it.

    It makes frames while it holds the list of all threads; what is collected then may be a `threading.local`, which
    wants that list, too, and waits for ever (python/cpython#106883). From 3.12 on garbage is collected between
    bytecodes only.
    """
    if sys.version_info >= (3, 12):
        return sys._current_frames()
    with _looking:
        if not gc.isenabled():
            return sys._current_frames()
        try:
            gc.disable()
            return sys._current_frames()
        finally:
            gc.enable()


class Interruptible(Protocol):
    """A thread that may be in a call which may be interrupted."""

    ident: int
    calling: str | None  # None when it is not in such a call


class _Quiet(BaseException):
    """Raised and caught here, to bring the flag down."""


_unnoticed: Final[set[int]] = set()
"""Threads that were interrupted and have not noticed yet. One set for all, as the interpreter has one flag for all.
Only single operations are done on it, which the GIL makes atomic."""


def interrupt(
    threads: Sequence[Interruptible], error: type[BaseException], lock: threading.Lock, *, traced: bool = False
) -> None:
    """Raise `error` in each of the threads, as soon as they run Python code again; wake those that wait.

    A thread that is woken a moment before its exception is due may go back to waiting: ask again after a while. Whoever
    was interrupted calls `take_back` when its call is over.

    Args:
        threads: Those that are in a call are interrupted.
        error: Raised without arguments.
        lock: Held where `calling` changes: what is raised cannot hit a thread whose call is over, and which may serve
            somebody else by now.
        traced: They are traced, whatever `sys.gettrace` and `threading.gettrace` tell here.
    """
    set_async_exception = _set_async_exception()
    if set_async_exception is None:
        return
    traced = traced or sys.gettrace() is not None or threading.gettrace() is not None
    raised, own, quiet = ctypes.py_object(error), ctypes.c_ulong(threading.get_ident()), ctypes.py_object(_Quiet)
    with lock:
        threads = [thread for thread in threads if thread.calling is not None]
        idents = [ctypes.c_ulong(thread.ident) for thread in threads]
        _unnoticed.update(thread.ident for thread in threads)
        if traced:  # else after it, which is safer: who is woken too early waits again
            for thread in threads:
                _wake(thread.ident)
        for ident in idents:
            set_async_exception(ident, raised)
    if not traced:
        for thread in threads:
            _wake(thread.ident)
        return
    pending = True
    for _ in range(ROUNDS):
        time.sleep(0.001)
        pending = False
        for thread in threads:
            if thread.calling is not None:
                pending = True
                break
        if not pending:
            break
    if pending:  # those that cannot be interrupted
        try:
            set_async_exception(own, quiet)
            for _ in range(1_000_000):  # raised at the first turn
                pass
        except _Quiet:
            return


def take_back(*idents: int) -> None:
    """Take back what was to be raised in those threads, if it was not yet."""
    set_async_exception = _set_async_exception()
    if set_async_exception is None:
        return
    own, quiet = ctypes.c_ulong(threading.get_ident()), ctypes.py_object(_Quiet)
    threads = [ctypes.c_ulong(ident) for ident in idents]
    _unnoticed.difference_update(idents)
    try:
        for thread in threads:
            set_async_exception(thread, None)
        if not _unnoticed:  # else others still have to see the flag
            set_async_exception(own, quiet)
            for _ in range(1_000_000):
                pass
    except _Quiet:
        return


def _set_async_exception() -> Any:
    """The function of the API; None where there is no such thing (not CPython), and nothing can be interrupted."""
    api = getattr(ctypes, "pythonapi", None)
    return None if api is None else api.PyThreadState_SetAsyncExc


def _wake(ident: int) -> None:
    """Wake that thread if it waits in `threading.Condition.wait`, as by a spurious `notify`, or in a `ParkingLot`."""
    frame: FrameType | None = current_frames().get(ident)
    if frame is None or ParkingLot.wake_frame(frame) or frame.f_code is not threading.Condition.wait.__code__:
        return
    waiter = frame.f_locals.get("waiter")
    if waiter is not None:
        try:
            waiter.release()
        except RuntimeError:  # it was notified in this very moment
            return
