"""Plain functions and generators as handlers: each becomes one of the classes of `base`, so there is one runtime.

Four handler classes (audio or video, sync or async) play what a source gives them. A source is a function of the peer's
frames or a generator, again sync or async. No handler knows which of the two it has.

A function of video takes a frame and returns one (uint8, shape (height, width, 3), BGR). A generator makes audio or
video for callers who only receive. Both may be ``def`` or ``async def``; plain ones run in worker threads. Arguments
after the frame, and all arguments of generators, are those that the peer or the application set (`set_args`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import anyio
import numpy as np
from numpy.typing import NDArray

from .._core.flow import Flow, Policy
from ..exceptions import HandlerError
from ..outputs import CloseStream, EmitType, VideoEmitType, WebRTCData
from .base import (
    AsyncAudioVideoStreamHandler,
    AsyncStreamHandler,
    AudioVideoStreamHandler,
    StreamHandler,
    StreamHandlerBase,
)
from .checking import check_handler

__all__ = ["VideoStreamHandler", "handler_from", "is_video_function"]

_OVER = "the stream has ended"


@dataclass(frozen=True)
class VideoStreamHandler:
    """A function of video, with how it is to be run.

    Args:
        callable: Takes a frame (uint8, shape (height, width, 3), BGR) and further arguments; returns what `video_emit`
            may return. Or, for callers who only receive, a generator of such.
        fps: Frames a second at most.
        skip_frames: Whether it always gets the newest frame. Otherwise up to two frames wait for it, so that a function
            that is late now and then skips none. A slow function never falls behind in either case.

    Raises:
        HandlerError: `callable` is not a function, or `fps` is not a number above 0.
    """

    callable: Callable[..., Any]
    fps: float = 30
    skip_frames: bool = False

    def __post_init__(self) -> None:
        what = self.callable
        if isinstance(what, StreamHandlerBase) or inspect.isclass(what) or not callable(what):
            name = what.__name__ if inspect.isclass(what) else type(what).__name__
            raise HandlerError(
                f"VideoStreamHandler takes a function of a frame, not {name}; give a handler to the stream itself"
            )
        if isinstance(self.fps, bool) or not isinstance(self.fps, int | float) or not self.fps > 0:
            raise HandlerError(f"VideoStreamHandler(fps={self.fps!r}); expected frames a second, more than 0")


class _Function:
    """A user's function, and which of the arguments that were set it takes after its own `own` ones."""

    def __init__(self, function: Callable[..., Any], own: int) -> None:
        self.function = function
        self.name = getattr(function, "__qualname__", type(function).__qualname__)
        self.needs_args = self._takes_args = False
        self._least = 0
        self._most: int | None = None
        try:
            parameters = inspect.signature(function).parameters.values()
        except (TypeError, ValueError):  # some built-in functions do not tell
            return
        positional = [p for p in parameters if p.kind in {p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD}]
        any_number = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        if len(positional) < own and not any_number:
            raise HandlerError(f"{self.name} must take the frame as its argument; write: def {self.name}(frame): ...")
        if missing := [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]:
            raise HandlerError(f"{self.name} is called with positional arguments only, but needs {', '.join(missing)}=")
        self.needs_args = any(p.default is p.empty for p in positional[own:])
        self._takes_args = any_number or len(positional) > own
        self._least = sum(p.default is p.empty for p in positional[own:])
        self._most = None if any_number else len(positional) - own

    def check(self, count: int) -> None:
        """Check that it can be called with this many arguments after its own.

        Raises:
            ValueError: It cannot.
        """
        if count < self._least or (self._most is not None and count > self._most):
            least, most = self._least, self._most
            bounds = f"at least {least}" if most is None else f"{least}" if least == most else f"{least} to {most}"
            raise ValueError(f"{self.name} takes {bounds} arguments of the caller's, but {count} were given")

    def args(self, handler: StreamHandlerBase) -> list[Any] | None:
        """The arguments now, or None as long as some are needed and none were set."""
        if isinstance(handler.latest_args, list) and self._takes_args:
            return handler.latest_args[1:]
        return None if self.needs_args else []


# -- where frames come from: a function of the peer's frames, or a generator


class _Filter:
    """Frames of the peer through a plain function."""

    def __init__(self, function: _Function, skip_frames: bool) -> None:  # noqa: FBT001
        self.function = function
        self._frames = Flow[NDArray[np.uint8]](1 if skip_frames else 2, Policy.DROP_OLDEST)

    def put(self, frame: NDArray[np.uint8]) -> None:
        self._frames.put_nowait(frame)

    def next(self, handler: StreamHandlerBase) -> Any:
        try:
            frame = self._frames.take_sync()
        except anyio.ClosedResourceError:
            return None
        args = self._args(handler)
        return frame if args is None else self.function.function(frame, *args)

    def _args(self, handler: StreamHandlerBase) -> list[Any] | None:
        args = self.function.args(handler)
        if args is None:
            handler._ask_for_args(once=True)  # until they come, frames pass as they are
        return args

    def close(self) -> None:
        self._frames.close()


class _AsyncFilter(_Filter):
    """Frames of the peer through a coroutine function."""

    async def anext(self, handler: StreamHandlerBase) -> Any:
        frame = await self._frames.take()
        args = self._args(handler)
        return frame if args is None else await self.function.function(frame, *args)

    async def aclose(self) -> None:
        self.close()


class _Generator:
    """What a generator makes for one connection; begun at the first `next`."""

    def __init__(self, function: _Function) -> None:
        self.function = function
        self._iterator: Any = None

    def put(self, frame: NDArray[np.uint8]) -> None:
        """A generator is for callers who only receive."""

    def next(self, handler: StreamHandlerBase) -> Any:
        if self._iterator is None:
            if self.function.needs_args:
                handler.wait_for_args_sync()
            self._iterator = _checked(self.function, self.function.function(*(self.function.args(handler) or [])))
        return next(self._iterator, CloseStream(_OVER))

    def close(self) -> None:
        close_iterator(self._iterator)  # emit may be in it, and will be stopped there


class _AsyncGenerator(_Generator):
    """The same for an async generator."""

    async def anext(self, handler: StreamHandlerBase) -> Any:
        if self._iterator is None:
            if self.function.needs_args:
                await handler.wait_for_args()
            self._iterator = self.function.function(*(self.function.args(handler) or []))
        return await anext(self._iterator, CloseStream(_OVER))

    async def aclose(self) -> None:
        close = getattr(self._iterator, "aclose", None)
        if close is not None:
            await close()


def close_iterator(iterator: Any) -> None:
    """Close a generator, unless another thread runs it now; other iterators need no end."""
    close = getattr(iterator, "close", None)
    if close is not None:
        try:
            close()
        except ValueError as error:
            if "already executing" not in str(error):
                raise


def _checked(function: _Function, iterator: Any) -> Iterator[Any]:
    if not isinstance(iterator, Iterator):
        raise HandlerError(
            f"{function.name} returned {type(iterator).__name__}, but callers who only receive need a generator; "
            f"write: def {function.name}(): yield ..."
        )
    return iterator


# -- the handlers around them: of audio or video, sync or async


class _Audio(StreamHandler):
    """Audio out of a generator."""

    def __init__(self, make: Callable[[], _Generator], _fps: float = 0) -> None:
        super().__init__()
        self._make, self._source = make, make()

    def receive(self, frame: tuple[int, NDArray[np.int16]]) -> None:
        pass

    def emit(self) -> EmitType:
        item: EmitType = self._source.next(self)
        return item

    def copy(self) -> _Audio:
        return _Audio(self._make)

    def shutdown(self) -> None:
        self._source.close()


class _AsyncAudio(AsyncStreamHandler):
    """Audio out of an async generator."""

    def __init__(self, make: Callable[[], _AsyncGenerator], _fps: float = 0) -> None:
        super().__init__()
        self._make, self._source = make, make()

    async def receive(self, frame: tuple[int, NDArray[np.int16]]) -> None:
        pass

    async def emit(self) -> EmitType:
        item: EmitType = await self._source.anext(self)
        return item

    def copy(self) -> _AsyncAudio:
        return _AsyncAudio(self._make)

    async def shutdown(self) -> None:
        await self._source.aclose()


class _Video(AudioVideoStreamHandler):
    """Video out of a function or generator, in a worker thread."""

    def __init__(self, make: Callable[[], _Filter | _Generator], fps: float) -> None:
        super().__init__(video_format="bgr24", fps=fps)
        self._make, self._source = make, make()

    def receive(self, frame: tuple[int, NDArray[np.int16]]) -> None:
        pass

    def emit(self) -> EmitType:
        return None

    def video_receive(self, frame: NDArray[np.uint8]) -> None:
        self._source.put(frame)

    def video_emit(self) -> VideoEmitType:
        item: VideoEmitType = self._source.next(self)
        return item

    def copy(self) -> _Video:
        return _Video(self._make, self.fps)

    def shutdown(self) -> None:
        self._source.close()


class _AsyncVideo(AsyncAudioVideoStreamHandler):
    """Video out of a coroutine function or async generator."""

    def __init__(self, make: Callable[[], _AsyncFilter | _AsyncGenerator], fps: float) -> None:
        super().__init__(video_format="bgr24", fps=fps)
        self._make, self._source = make, make()

    async def receive(self, frame: tuple[int, NDArray[np.int16]]) -> None:
        pass

    async def emit(self) -> EmitType:
        await anyio.sleep_forever()
        return None

    async def video_receive(self, frame: NDArray[np.uint8]) -> None:
        self._source.put(frame)

    async def video_emit(self) -> VideoEmitType:
        item: VideoEmitType = await self._source.anext(self)
        return item

    def copy(self) -> _AsyncVideo:
        return _AsyncVideo(self._make, self.fps)

    async def shutdown(self) -> None:
        await self._source.aclose()


def check_args(handler: StreamHandlerBase, args: Sequence[Any]) -> None:
    """Check that the function in `handler`, if there is one, takes this many arguments.

    Raises:
        ValueError: It takes more or fewer.
    """
    count = len(args) - (bool(args) and isinstance(args[0], WebRTCData))
    if isinstance(handler, _Audio | _AsyncAudio | _Video | _AsyncVideo):
        handler._source.function.check(count)


def is_video_function(handler: object) -> bool:
    """Whether `handler` was made by `handler_from` of a function of video: the only kind with nothing to hear."""
    return isinstance(handler, _Video | _AsyncVideo)


def handler_from(
    handler: StreamHandlerBase | VideoStreamHandler | Callable[..., Any],
    *,
    modality: Literal["audio", "video", "audio-video"] = "audio",
    mode: Literal["send-receive", "send", "receive"] = "send-receive",
) -> StreamHandler | AsyncStreamHandler:
    """Make a handler of whatever a `Stream` is given.

    Args:
        handler: A handler, which is returned as it is; or a function or generator function, which fits video in all
            modes, and audio with ``mode="receive"``.
        modality: Which media it is for.
        mode: What callers may do.

    Raises:
        HandlerError: It cannot serve that; the text says what to use.
    """
    if isinstance(handler, StreamHandlerBase) or inspect.isclass(handler):
        check_handler(handler)
        assert isinstance(handler, StreamHandler | AsyncStreamHandler)  # noqa: S101
        return handler
    how = handler if isinstance(handler, VideoStreamHandler) else None
    function: Any = handler if how is None else how.callable
    if not callable(function):
        check_handler(function)
    name = getattr(function, "__qualname__", type(function).__qualname__)
    if modality == "audio-video" or (how is not None and modality != "video"):
        raise HandlerError(f"{name} is a function; for modality={modality!r}, subclass AudioVideoStreamHandler")
    if modality == "audio" and mode != "receive":
        raise HandlerError(
            f"{name} is a function, which makes audio for mode='receive' only; for {mode!r}, use ReplyOnPause({name}) "
            "or subclass StreamHandler"
        )
    fps = 30 if how is None else how.fps
    called = function if inspect.isroutine(function) else getattr(function, "__call__", function)  # noqa: B004
    generates = inspect.isgeneratorfunction(function) or inspect.isgeneratorfunction(called)
    generates_async = inspect.isasyncgenfunction(function) or inspect.isasyncgenfunction(called)
    coroutine = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(called)
    if mode == "receive":
        if coroutine:
            raise HandlerError(f"{name} is a coroutine function; for mode='receive', let it yield what is to be sent")
        shape = _Function(function, own=0)
        if generates_async:
            return (_AsyncAudio if modality == "audio" else _AsyncVideo)(partial(_AsyncGenerator, shape), fps)
        return (_Audio if modality == "audio" else _Video)(partial(_Generator, shape), fps)
    if generates or generates_async:
        raise HandlerError(f"{name} is a generator, which fits mode='receive'; for {mode!r}, return one frame for each")
    shape, skip_frames = _Function(function, own=1), how is not None and how.skip_frames
    if coroutine:
        return _AsyncVideo(partial(_AsyncFilter, shape, skip_frames), fps)
    return _Video(partial(_Filter, shape, skip_frames), fps)
