"""Ending a wait of another thread that would never end, without breaking anything.

A handler's thread may sit in ``queue.get()`` when its caller hangs up. It would sit there for ever. CPython can raise
an exception in another thread (`PyThreadState_SetAsyncExc`), but at an unknown place: the next bytecode of that thread.
That may be the bytecode between taking a lock and the ``try`` behind it. The lock then stays locked for ever, and it
may be the lock of `logging`. So this module never interrupts a running thread, nor one that waits in C code.

One place is safe: the wait without a timeout inside `threading.Condition.wait`. `queue.Queue.get` and `put`,
`threading.Event.wait`, `threading.Semaphore.acquire` and `concurrent.futures.Future.result` stand on it. CPython wrote
it so that an exception may come out of it: its ``finally`` takes the condition's lock again and leaves the list of
waiters. The thread also cannot leave that place while we look. To wake it, others need the condition's lock, and we
hold that lock. `interrupt` does this in order:

1. Take the condition's lock, without waiting for it.
2. See that the thread is at that very instruction, and still in the condition's list of waiters. So nobody has notified
   it, and it cannot move before we release the lock.
3. See that none of its frames is in an ``except`` or ``finally`` block, in ``__exit__`` or in ``__del__``.
4. Take it off the list, as `notify` does. Set the exception. Wake the thread. Release the condition's lock.

The thread wakes at the instruction of step 2 and raises there. No notification is lost, because it had none. No item is
lost, because it had taken none. It holds the lock again when the exception leaves `wait`.

A wait in this package's own `ParkingLot` needs none of this: the waiter is told, and raises by itself.

A wait with a timeout is left alone. Its thread wakes when the timeout is over, without taking any lock, so we cannot
hold it in place.
"""

from __future__ import annotations

import ctypes
import dis
import functools
import gc
import sys
import threading
from types import CodeType, FrameType
from typing import Any

from .bridge import ParkingLot

_looking = threading.Lock()  # or one that is done would enable what another has just disabled


def current_frames() -> dict[int, FrameType]:
    """`sys._current_frames`, which in CPython 3.11 stops the whole process if garbage is collected during it.

    It makes frames while it holds the list of all threads. The garbage collector may then free a `threading.local`,
    which wants that list, too, and waits for ever (python/cpython#106883). From 3.12 on garbage is collected between
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


def interrupt(ident: int, boundary: CodeType, error: type[BaseException]) -> bool:
    """Raise `error` in the thread `ident`, if it is parked in a wait that tolerates it.

    Args:
        ident: The thread.
        boundary: The function by which the thread calls foreign code; it is interrupted inside of it only.
        error: Raised there, without arguments.

    Returns:
        Whether it was parked so, and will raise. If not, nothing has happened; ask again later.
    """
    frame = current_frames().get(ident)
    if frame is None or _cleans_up(frame, boundary):
        return False
    if ParkingLot.interrupt_frame(frame, error):
        return True
    condition = _condition_of(frame)
    set_async_exception = _set_async_exception()
    if condition is None or set_async_exception is None or not condition.acquire(blocking=False):
        return False
    try:
        # From here on the thread moves no more, if it is still where it was; so look again.
        if current_frames().get(ident) is not frame or _condition_of(frame) is not condition:
            return False
        waiter = frame.f_locals["waiter"]
        if waiter not in condition._waiters or _cleans_up(frame, boundary):
            return False
        condition._waiters.remove(waiter)
        try:
            # No call of a Python function until the thread is awake. In CPython 3.11, a function that is traced (by a
            # debugger, coverage or Hypothesis) never gets past its beginning while an exception is due.
            set_async_exception(ctypes.c_ulong(ident), ctypes.py_object(error))
        finally:
            waiter.release()
        return True
    finally:
        condition.release()


def _condition_of(frame: FrameType) -> Any:
    """The condition whose untimed wait `frame` is in, at the instruction that waits; None if it is elsewhere."""
    if frame.f_code is not threading.Condition.wait.__code__ or frame.f_lasti not in _waits():
        return None
    condition = frame.f_locals.get("self")
    plain = type(condition) is threading.Condition and isinstance(vars(condition)["_lock"], _LOCKS)
    return condition if plain else None


_LOCKS = (type(threading.Lock()), type(threading.RLock()))


@functools.cache
def _waits() -> frozenset[int]:
    """Where in `threading.Condition.wait` a thread stands that waits without a timeout.

    That is the call ``waiter.acquire()`` inside the ``try``: the second one without arguments. Empty if this Python's
    `Condition.wait` is not as it is known; then nothing is interrupted.
    """
    found: list[list[int]] = []
    call: list[int] | None = None
    for instruction in dis.get_instructions(threading.Condition.wait):
        if instruction.opname in {"LOAD_METHOD", "LOAD_ATTR"}:
            call = [] if instruction.argval == "acquire" else None
        elif call is not None:
            if instruction.opname not in {"PRECALL", "CALL"}:  # an argument
                call = None
                continue
            call.append(instruction.offset)
            if instruction.opname == "CALL":
                found.append(call)
                call = None
    return frozenset(found[1]) if len(found) == 2 else frozenset()


def _cleans_up(frame: FrameType | None, boundary: CodeType) -> bool:
    """Whether any frame up to the boundary is one that cleans something up; also if there is no boundary."""
    while frame is not None and frame.f_code is not boundary:
        code = frame.f_code
        if code.co_name in {"__exit__", "__aexit__", "__del__"} or _in_cleanup(code, frame.f_lasti):
            return True
        frame = frame.f_back
    return frame is None


@functools.lru_cache(maxsize=1024)
def _in_cleanup(code: CodeType, at: int) -> bool:
    """Whether the instruction at offset `at` of `code` is in an ``except`` or ``finally`` block.

    CPython compiles a ``finally`` block twice: once for the path with an exception, once for the path without. Both
    copies have the same place in the source. The path with an exception begins with `PUSH_EXC_INFO` and ends with
    `POP_EXCEPT` or a raise. So we follow that path, and look for an instruction of the same kind and place.
    """
    instructions = list(dis.get_instructions(code))
    index = {instruction.offset: number for number, instruction in enumerate(instructions)}
    here = max(
        (one for one in instructions if one.offset <= at), key=lambda one: one.offset
    )  # `at` may be in its cache
    todo = [number for number, one in enumerate(instructions) if one.opname == "PUSH_EXC_INFO"]
    seen: set[int] = set()
    while todo:
        number = todo.pop()
        if number in seen or number >= len(instructions):
            continue
        seen.add(number)
        one = instructions[number]
        if (one.opname, one.positions) == (here.opname, here.positions):
            return True
        if one.opname == "POP_EXCEPT":
            continue
        if one.opcode in dis.hasjrel or one.opcode in dis.hasjabs:
            todo.append(index[one.argval])
        if not one.opname.startswith(("JUMP_FORWARD", "JUMP_BACKWARD", "RETURN_", "RERAISE", "RAISE_VARARGS")):
            todo.append(number + 1)
    return False


def _set_async_exception() -> Any:
    """The function of the API; None outside of CPython; then nothing can be interrupted."""
    api = getattr(ctypes, "pythonapi", None)
    return None if api is None else api.PyThreadState_SetAsyncExc
