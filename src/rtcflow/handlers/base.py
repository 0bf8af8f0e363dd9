"""The five classes that applications subclass, and what a connection promises them.

A handler is a plain object: making one needs no event loop and works in any thread. It begins to work when a connection
*binds* it. From then on it uses a `Binding`, which is all that handlers know of connections.
"""

from __future__ import annotations

import contextvars
import inspect
import operator
import threading
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, Protocol, TypeAlias, TypeVar, cast, get_args, overload

import anyio
import anyio.lowlevel
import numpy as np
from numpy.typing import NDArray

from .._core.bridge import Event
from .._core.player import Playback, PlayerTap
from ..context import Context
from ..ends import describe_error
from ..exceptions import HandlerError
from ..frames import ChannelLayout
from ..outputs import DataChannel, EmitType, VideoEmitType, WebRTCData
from ..protocol import messages
from .ledger import Heard

if TYPE_CHECKING:
    import av

__all__ = [
    "AsyncAudioVideoStreamHandler",
    "AsyncStreamHandler",
    "AudioVideoStreamHandler",
    "Binding",
    "StreamHandler",
    "StreamHandlerBase",
    "VideoFormat",
    "get_current_handler",
]

T = TypeVar("T")


class _Nothing:
    """What the empty methods of the base classes return. Subclasses may await it, and need not."""

    def __await__(self) -> Generator[Any, Any, None]:
        return anyio.lowlevel.checkpoint().__await__()


_NOTHING: Final = _Nothing()

VideoFormat: TypeAlias = Literal["frame", "float32", "bgr24", "rgb24"]
"""What `video_receive` is given: an `av.VideoFrame`, or an array of shape (height, width, 3): float32 BGR 0-255, uint8
BGR or uint8 RGB. Arrays that `video_emit` returns have their channels in the same order."""


class Binding(Protocol):
    """What a connection offers the handler it serves. Everything may be called from any thread."""

    @property
    def loop(self) -> Any:
        """The connection's `rtcflow.connection.handler_loop.HandlerLoop`."""

    @property
    def phone_mode(self) -> bool:
        """Whether the peer is on a telephone line."""

    @property
    def context(self) -> Context:
        """The caller and the call."""

    @property
    def debug(self) -> bool:
        """Whether the peer may be told the text of exceptions."""

    def clear_queue(self) -> float:
        """Drop what was emitted and has not left; returns the seconds dropped here."""

    async def say(self, item: object) -> Heard:
        """Play `item` between what the handler emits; returns what was heard of it. A checkpoint."""

    def hang_up(self, reason: str, *, now: bool) -> None:
        """End the connection: when what was emitted has been played, or at once."""

    def playback(self) -> Playback:
        """How far playing has come."""

    async def wait_played(self, seconds: float) -> None:
        """Wait until more than `seconds` of audio were played, or nothing waits to be played. A checkpoint."""

    def tap_played(self, tap: PlayerTap) -> None:
        """Tell `tap` what leaves for the peer from now on, until the end of the connection."""

    @property
    def playout_time(self) -> float:
        """The time on the clock that `tap_played` and the playout use."""

    async def run_sync(self, name: str, function: Callable[[], Any]) -> Any:
        """Run `function` in a worker thread of the connection; to be awaited in its loop. A checkpoint."""

    def send_dtmf(self, digits: str) -> None:
        """Press keys towards the peer."""

    async def send_message(self, message: str) -> None:
        """Send `message` once the peer's channel is open. Dropped if there is no channel or the peer has closed it.
        A checkpoint.

        Raises:
            anyio.ClosedResourceError: The connection has ended. The handler need not catch it.
        """

    def send_message_sync(self, message: str) -> None:
        """`send_message` for worker threads; refuses to run in the loop's thread."""


_current: contextvars.ContextVar[StreamHandlerBase | None] = contextvars.ContextVar("rtcflow_handler", default=None)


def get_current_handler() -> StreamHandlerBase | None:
    """The handler one of whose methods is running, or None; in its tasks and worker threads alike."""
    return _current.get()


class _Ended:
    """`StreamHandlerBase.ended`. Not a property, so that handlers with an attribute of that name keep theirs."""

    @overload
    def __get__(self, handler: None, owner: type) -> _Ended: ...
    @overload
    def __get__(self, handler: StreamHandlerBase, owner: type) -> Event: ...
    def __get__(self, handler: StreamHandlerBase | None, owner: type) -> Event | _Ended:
        return self if handler is None else handler._end_begun


class _Running:
    """`StreamHandlerBase.running`. Not a property, for the same reason."""

    @overload
    def __get__(self, handler: None, owner: type) -> _Running: ...
    @overload
    def __get__(self, handler: StreamHandlerBase, owner: type) -> bool: ...
    def __get__(self, handler: StreamHandlerBase | None, owner: type) -> bool | _Running:
        return self if handler is None else handler._binding is not None and not handler._end_begun.is_set()


class _ContextOf:
    """`StreamHandlerBase.context`. Not a property, for the same reason."""

    @overload
    def __get__(self, handler: None, owner: type) -> _ContextOf: ...
    @overload
    def __get__(self, handler: StreamHandlerBase, owner: type) -> Context: ...
    def __get__(self, handler: StreamHandlerBase | None, owner: type) -> Context | _ContextOf:
        return self if handler is None else handler._bound("context").context


class StreamHandlerBase(ABC):  # noqa: B024  the abstract methods are async or not, so they are in its subclasses
    """What all handlers have: formats, arguments, messages.

    Args:
        expected_layout: How many channels `receive` is given: ``"mono"`` or ``"stereo"``.
        output_sample_rate: Hz, a multiple of 50; the rate at which audio leaves for the peer. `emit` may return any
            other rate, which is then resampled.
        output_frame_size: Deprecated and ignored; it always is ``output_sample_rate // 50`` (20 ms).
        input_sample_rate: Hz; the rate at which `receive` is given audio.
        video_format: What `video_receive` is given and `video_emit` returns, see `VideoFormat`. By default
            ``"frame"`` for sync handlers and ``"float32"`` for async ones.
        fps: Frames a second at which `video_emit` is called at most.

    Raises:
        ValueError: An argument is out of range; the text says what to write.

    Attributes:
        latest_args: ``"not_set"``, and after `set_args` the latest arguments.
        args_set: An `rtcflow.Event`, set when arguments have come.
        channel_set: An `rtcflow.Event`, set when the peer's message channel is open.
        phone_mode: Whether the peer is on a telephone line: no channel, no arguments.
        ended: An `rtcflow.Event`, set when the connection has begun to end. A sync method that waits or computes for
            long should look at it (``self.ended.is_set()``) or wait for it (``self.ended.wait_sync(timeout)``), and
            then return.
        running: Whether the connection is live: False before it begins, and from the moment in which `ended` is set.
        context: The caller and the call; the same as `rtcflow.get_current_context()`. A RuntimeError as long as the
            handler serves no connection.

    A subclass may have attributes of its own called `ended`, `running` and `context`.
    """

    ended: _Ended = _Ended()
    running: _Running = _Running()
    context: _ContextOf = _ContextOf()

    _default_video_format: ClassVar[VideoFormat] = "frame"
    # On the class: a subclass that forgot super().__init__() then gets a clear error, not an AttributeError.
    _binding: Binding | None = None

    def __init__(
        self,
        expected_layout: ChannelLayout = "mono",
        output_sample_rate: int = 24000,
        output_frame_size: int | None = None,
        input_sample_rate: int = 48000,
        *,
        video_format: VideoFormat | None = None,
        fps: float = 30,
    ) -> None:
        self.expected_layout: ChannelLayout = expected_layout
        self.output_sample_rate = output_sample_rate
        self.input_sample_rate = input_sample_rate
        self.video_format: VideoFormat = video_format or self._default_video_format
        self.fps = fps
        check_formats(self)
        self.output_frame_size: int = output_sample_rate // 50
        if output_frame_size is not None and output_frame_size != self.output_frame_size:
            warnings.warn(
                f"output_frame_size={output_frame_size} is ignored: a frame always is 20 ms, which is "
                f"{self.output_frame_size} samples at {output_sample_rate} Hz; leave it out",
                DeprecationWarning,
                stacklevel=2,
            )
        self.latest_args: str | list[Any] = "not_set"
        self.phone_mode: bool = False
        self.args_set: Event = Event()
        self.channel_set: Event = Event()
        self._end_begun = Event()
        self._channel: DataChannel | None = None
        self._channel_lock = threading.Lock()
        self._args_wanted = self._args_asked = False
        self._ended = False
        self._reply_task: Any = None  # the task of `reply`
        self._call_context: contextvars.Context | None = None
        self._resampler: av.AudioResampler | None = None

    # -- the connection

    def _bind(self, binding: Binding) -> None:
        """Begin to serve `binding`'s connection; called once, before any other method.

        Raises:
            HandlerError: This handler has served another connection.
        """
        if self._binding is not None:
            raise HandlerError(
                f"this {name_of(self)} already serves a connection, or did; "
                "every connection needs a handler of its own: give it handler.copy()"
            )
        self._binding = binding
        self.phone_mode = binding.phone_mode
        _current.set(self)  # the connection's tasks and threads, which start after this, inherit it
        self._call_context = contextvars.copy_context()

    def _tell_end(self) -> None:
        """The connection has begun to end; from any thread. Idempotent."""
        self._end_begun.set()

    def _unbind(self) -> None:
        """The connection has ended: wake all that wait. Idempotent."""
        self._ended = True
        self._call_context = None
        if _current.get() is self:
            _current.set(None)
        self.args_set.close()
        self.channel_set.close()

    def _own_context(self) -> contextvars.Context | None:
        """The context for code of this handler that the running code wants to run: None if its own does for that.

        Code of the application, or of another call, may call `reply_to` or `say`, for example.
        """
        return None if self._call_context is None or _current.get() is self else self._call_context.copy()

    def _bound(self, what: str) -> Binding:
        if self._binding is None:
            raise RuntimeError(
                f"{name_of(self)}.{what} needs a connection, and this handler serves none (yet): "
                "use it in receive, emit or start_up, not in __init__ or copy"
            )
        return self._binding

    @property
    def loop(self) -> Any:
        """The event loop that serves this connection, under asyncio or trio: an `rtcflow.HandlerLoop`.

        It has the part of `asyncio.AbstractEventLoop` that handlers use. So
        ``asyncio.run_coroutine_threadsafe(coroutine, self.loop)`` works on both. It is typed Any, so that type checkers
        accept this.

        Raises:
            RuntimeError: The handler serves no connection yet.
        """
        return self._bound("loop").loop

    def clear_queue(self) -> float:
        """Drop everything emitted and not yet played: what waits here, and what the far side buffers.

        From any thread. When this returns, nothing emitted before will leave any more. What `say` says ends with it.

        Returns:
            Seconds of audio dropped on this side.

        Raises:
            RuntimeError: The handler serves no connection yet.
        """
        binding = self._bound("clear_queue()")
        return 0.0 if self._ended else binding.clear_queue()

    # -- speaking beside `emit`

    def interrupt(self) -> None:
        """Fall silent, as when the user interrupts. From any thread.

        Drops what was emitted, ends what `say` says, and cancels `reply` if that is under way.

        Raises:
            RuntimeError: The handler serves no connection yet.
        """
        self.clear_queue()
        if self._reply_task is not None:
            self._reply_task.cancel()

    async def say(self, item: object) -> Heard:
        """Play `item` to its end, after what `emit` has given so far. Items that `emit` gives meanwhile wait. A
        checkpoint.

        To speak at once, call `interrupt` first. Several calls are played one after the other. In a worker thread, use
        `say_sync`.

        Args:
            item: Audio as `emit` may return it, or `Say` (audio with its words); or a generator of such items. A
                generator that is not async runs in a worker thread. It is closed when this is interrupted.

        Returns:
            What was heard of it; not `complete` if `clear_queue` or `interrupt` was called, or the call has ended.
            Nothing, if the peer does not listen to audio.

        Raises:
            MediaError: `item` cannot be played.
            Exception: What a generator raises.
            RuntimeError: The handler serves no connection yet. Or a generator that is being said calls this: it would
                wait for its own end. There, yield the item.

        Cancelling this interrupts what it says.
        """
        return await self._bound("say()").say(item)

    def say_sync(self, item: object, **options: Any) -> Heard:
        """`say` for worker threads, with the same arguments. It blocks until `item` was played or interrupted.

        Raises:
            RuntimeError: It was called in the event loop's thread, which it would block.
            Exception: What `say` raises.
        """
        loop = self._bound("say_sync()").loop
        if loop.runs_in_this_thread():
            raise RuntimeError("say_sync would block the event loop; here, write: await self.say(item)")
        heard: Heard = loop.run_coroutine_threadsafe(self.say(item, **options)).result()
        return heard

    def reply(self, text: str, /) -> Any:
        """Override this to answer a text: `reply_to` calls it. It may be of any kind, as a reply function may.

        A generator, async or not, yields what `say` can play. A function returns it, or None if it has handed its
        answer to `emit` by itself. Code that is not async runs in a worker thread.

        Args:
            text: What the user typed, or what your application wants to be answered.
        """
        raise NotImplementedError

    def reply_to(self, text: str) -> None:
        """Fall silent, and answer `text` with what `reply` makes of it. From any thread, at once.

        Raises:
            TypeError: `text` is not a string.
            HandlerError: The handler has no method `reply`.
            RuntimeError: The handler serves no connection yet.
        """
        if not isinstance(text, str):
            raise TypeError(f"reply_to needs the text to answer, not {text!r:.80}")
        loop = self._bound("reply_to()").loop
        if type(self).reply is StreamHandlerBase.reply:
            raise HandlerError(
                f"{name_of(self)} does not say how it answers a text; write: "
                "async def reply(self, text): ... yield 24000, samples"
            )
        self.interrupt()
        loop.call_soon_threadsafe(self._begin_reply, text)

    def _begin_reply(self, text: str) -> None:
        if self._reply_task is not None:  # of another thread, in the same moment
            self._reply_task.cancel()
        self._reply_task = self.loop.create_task(self._speak_reply(text), context=self._own_context())

    async def _speak_reply(self, text: str) -> None:
        reply = self.reply
        if _returns_at_once(reply):
            answer = reply(text)
            if inspect.isawaitable(answer):
                answer = await answer
        else:
            answer = await self.run_sync(reply, text)
        if answer is not None:
            await self.say(answer)

    def playback(self) -> Playback:
        """How far playing has come, in seconds of audio: what has left, what waits. From any thread.

        Raises:
            RuntimeError: The handler serves no connection yet.
        """
        return self._bound("playback()").playback()

    def hang_up(self, reason: str = "the handler hung up", *, after: Literal["played", "now"] = "played") -> None:
        """End the call. From any thread, at once; nothing more is received or emitted.

        Args:
            reason: The peer is told this, and `End.reason` has it.
            after: With ``"played"``, what was emitted is played first; on a telephone line the carrier confirms it. The
                call ends with `EndCause.HANDLER_CLOSED`. With ``"now"``, it is dropped, and the call ends with
                `EndCause.CLOSED`.

        Raises:
            ValueError: `after` is something else.
            RuntimeError: The handler serves no connection yet.
        """
        if after not in {"played", "now"}:
            raise ValueError(f'after must be "played" or "now", not {after!r}')
        binding = self._bound("hang_up()")
        binding.hang_up(reason, now=after == "now")

    async def wait_played(self, seconds: float) -> None:
        """Wait until more than `seconds` of audio have left since the beginning, or nothing waits to leave.
        A checkpoint.

        So ``await self.wait_played(math.inf)`` waits until everything emitted was played or dropped. Safe to cancel.

        Raises:
            RuntimeError: The handler serves no connection yet.
        """
        await self._bound("wait_played()").wait_played(seconds)

    async def run_sync(self, function: Callable[..., T], *args: Any) -> T | None:
        """Run a blocking function in a worker thread, and return what it returns. A checkpoint.

        The thread belongs to the connection. Cancelling this returns at once and leaves the thread running. When the
        connection ends, the thread is waited for, then interrupted, like `receive` of a sync handler.

        Returns:
            What `function` returns; None if the connection ended meanwhile.

        Raises:
            BaseException: What `function` raises, as it is.
            RuntimeError: The handler serves no connection yet.
        """
        name = getattr(function, "__qualname__", type(function).__qualname__)
        return cast("T | None", await self._bound("run_sync()").run_sync(name, partial(function, *args)))

    async def run_process(self, function: Callable[..., T], *args: Any) -> T:
        """Run a function in a process of its own, and return what it returns. A checkpoint.

        Use this for code that computes for long without letting other Python code run. Many models written in C hold
        the interpreter's lock all the time. In a thread they stop every call of this process. The processes are kept
        for the next call, and what a function has loaded stays loaded in its process.

        Args:
            function: A function of a module, by its name; not a lambda or a nested function. It runs in another
                process, so it sees no variables of this one.
            *args: The arguments. `pickle` must be able to send them, and the result.

        Raises:
            Exception: What `function` raises.
            anyio.BrokenWorkerProcess: The process died.
            RuntimeError: The handler serves no connection yet.

        Cancelling this kills the process, and so does the end of the connection.
        """
        self._bound("run_process()")
        import anyio.to_process  # takes a while

        return await anyio.to_process.run_sync(function, *args, cancellable=True)

    # -- messages

    @property
    def channel(self) -> DataChannel | None:
        """The peer's message channel, or None before it is open (`channel_set`)."""
        return self._channel

    def set_channel(self, channel: DataChannel) -> None:
        """The peer's channel is open; called by the connection."""
        with self._channel_lock:
            self._channel = channel
            wanted, self._args_wanted = self._args_wanted, False
        self.channel_set.set()
        if wanted:
            with suppress(anyio.ClosedResourceError):  # opened and closed again; waiting for arguments raises the same
                channel.send(messages.encode(messages.SendInput()))

    def send_dtmf(self, digits: str) -> None:
        """Press keys towards the caller, ``0123456789*#ABCD``; from any thread.

        Among the carriers' media streams, only Plivo's has a message for that.

        Raises:
            LocalProtocolError: The carrier cannot do it over its media stream, or this is not a telephone call.
            ValueError: A telephone has no such key.
            anyio.ClosedResourceError: The call is over.
            RuntimeError: The handler serves no connection yet.
        """
        binding = self._bound("send_dtmf()")
        if self._ended:
            raise anyio.ClosedResourceError
        binding.send_dtmf(digits)

    async def send_message(self, msg: str) -> None:
        """Send `msg` to the peer as it is, waiting for its channel to open. Messages keep their order. A checkpoint.

        To a peer that has no channel, or has closed it, messages are dropped, with one warning. Cancelling this is
        safe: `msg` was sent or it was not.

        Raises:
            anyio.ClosedResourceError: The connection has ended. The handler need not catch it: after the end, this
                error does not count.
            anyio.WouldBlock: 1 MiB of messages already wait, because the peer does not read.
            RuntimeError: The handler serves no connection yet.
        """
        binding = self._bound("send_message()")
        if self._ended:
            raise anyio.ClosedResourceError
        await binding.send_message(msg)

    def send_message_sync(self, msg: str) -> None:
        """`send_message` for worker threads. It blocks, until the connection ends at the latest.

        Raises:
            RuntimeError: It was called in the event loop's thread, which it would block.
            Exception: What `send_message` raises.
        """
        binding = self._bound("send_message_sync()")
        if self._ended:
            raise anyio.ClosedResourceError
        binding.send_message_sync(msg)

    def tell_error(self, error: BaseException, what: str) -> None:
        """Tell the peer that something failed, without ending the connection; from any thread, at once.

        The peer gets `what`. It gets the exception's own text only with ``Stream(debug=True)``. A peer without an open
        channel gets nothing, and neither does one that the exception itself has told (`rtcflow.fastrtc.WebRTCError`).
        """
        if self._channel is not None and self._binding is not None and not getattr(error, "told_peer", False):
            text = describe_error(error) if self._binding.debug else what
            self._send_if_open(messages.encode(messages.Error(text)))

    def _send_if_open(self, text: str) -> None:
        """Send `text` at once; dropped without a channel, or if the peer has gone or does not read."""
        if self._channel is not None:
            with suppress(anyio.ClosedResourceError, anyio.WouldBlock):
                self._channel.send(text)

    # -- arguments

    def set_args(self, args: list[Any]) -> None:
        """Keep new arguments as `latest_args` and set `args_set`; from any thread.

        `latest_args` then is ``["__webrtc_value__", *args]``. The first place is for a value of the handler (a frame),
        so the arguments proper are ``latest_args[1:]``. If the first of `args` is a `WebRTCData`, it takes that place.

        Raises:
            TypeError: `args` is not a list.
            ValueError: `args` is empty.
        """
        if not isinstance(args, list):
            raise TypeError(f"args must be a list, not {args!r}")
        if not args:
            raise ValueError("args cannot be empty: give at least one argument")
        self.latest_args = list(args) if isinstance(args[0], WebRTCData) else ["__webrtc_value__", *args]
        self.args_set.set()

    async def fetch_args(self) -> None:
        """Ask the peer for its arguments (message ``send_input``), as soon as its channel is open. A checkpoint."""
        self._ask_for_args()
        await anyio.lowlevel.checkpoint()

    async def wait_for_args(self) -> None:
        """Ask the peer for its arguments and wait until they have come. On the telephone, return at once. A checkpoint.

        Safe to cancel.

        Raises:
            anyio.ClosedResourceError: The connection ended first.
        """
        if self.phone_mode:
            self.args_set.set()
        else:
            self._ask_for_args()
        await self.args_set.wait()

    def wait_for_args_sync(self) -> None:
        """`wait_for_args` for worker threads.

        Raises:
            anyio.ClosedResourceError: The connection ended first.
            RuntimeError: It was called in the event loop's thread, which it would block.
        """
        if self._binding is not None and self._binding.loop.runs_in_this_thread():
            raise RuntimeError("wait_for_args_sync would block the event loop; here, write: await self.wait_for_args()")
        if self.phone_mode:
            self.args_set.set()
        else:
            self._ask_for_args()
        self.args_set.wait_sync()

    def _ask_for_args(self, *, once: bool = False) -> None:
        with self._channel_lock:
            channel, asked = self._channel, self._args_asked
            self._args_asked = True
            if channel is None:
                self._args_wanted = True
        if channel is not None and not (once and asked):
            channel.send(messages.encode(messages.SendInput()))

    def reset(self) -> None:
        """Lower `args_set`, so that the next `wait_for_args` waits for new arguments."""
        self.args_set.clear()

    # -- what the peer says beside the media

    def on_message(self, message: str, /) -> Any:  # noqa: ARG002
        """Override this to take the peer's messages. It may be ``async def``; a plain one runs in a worker thread.

        Called beside the other methods, for one message at a time, in order, on every transport but the telephone.
        At most 1000 messages wait. A peer that sends more is disconnected, because messages are never dropped.

        Args:
            message: Text as it came, at most 64 KiB of UTF-8; JSON is not parsed. Messages for rtcflow itself
                (``handshake``, ``dtmf``) do not come here.
        """
        return _NOTHING

    def on_dtmf(self, digit: str, /) -> Any:  # noqa: ARG002
        """Override this to take the keys that a caller presses, one at a time. Called like `on_message`.

        Args:
            digit: One of ``0123456789*#ABCD``.
        """
        return _NOTHING

    # -- the link to the peer

    def on_suspended(self) -> Any:
        """Override this to hear that the link to the peer has broken, and that the call waits for it to come back.

        Only with `Stream(resume=...)`. It may be ``async def``; a plain one runs in a worker thread. `receive`, `emit`
        and the other media methods have ended when this is called. `start_up`, and what you started through `loop`, go
        on. Return soon: the call is not resumed before. Then either `on_resumed` is called, or the call ends
        (`shutdown`).
        """
        return _NOTHING

    def on_resumed(self) -> Any:
        """Override this to hear that the peer is back. Called after each `on_suspended`, before any other method.

        It may be ``async def``; a plain one runs in a worker thread. Return soon: media flows only then.
        """
        return _NOTHING

    # -- the rest

    def shutdown(self) -> Any:
        """Override this to free what the handler holds. It may be ``async def``.

        Called exactly once for every handler that was copied for a connection, however that ended, and also if it never
        began. A plain one runs in a worker thread, where it may also release what other methods block on. This one does
        nothing: ``super().shutdown()`` and ``await super().shutdown()`` are both right.
        """
        return _NOTHING

    def resample(self, frame: av.AudioFrame) -> Iterator[av.AudioFrame]:
        """Convert `frame` to `expected_layout` and `input_sample_rate`, format ``s16p``: shape (channels, n), int16.

        Use it for audio from elsewhere; the frames of `receive` are already converted. The filter keeps its state from
        call to call, so feed it one stream only.
        """
        if self._resampler is None:
            import av

            self._resampler = av.AudioResampler(format="s16p", layout=self.expected_layout, rate=self.input_sample_rate)
        yield from self._resampler.resample(frame)


class StreamHandler(StreamHandlerBase):
    """A sync handler for audio: subclass it, and write `receive`, `emit` and `copy` with plain ``def``.

    `receive` and `emit` run in a worker thread each, beside each other. They may block. Data that both use needs a
    `queue.Queue` or a lock.

    >>> import queue
    >>> class Echo(StreamHandler):
    ...     def __init__(self):
    ...         super().__init__(input_sample_rate=24000)
    ...         self.queue = queue.Queue()
    ...
    ...     def receive(self, frame):
    ...         self.queue.put(frame)
    ...
    ...     def emit(self):
    ...         return self.queue.get()
    ...
    ...     def copy(self):
    ...         return Echo()
    >>> Echo().output_frame_size
    480
    """

    @abstractmethod
    def receive(self, frame: tuple[int, NDArray[np.int16]]) -> None:
        """Take one frame of the peer's audio; called for one frame at a time, in order.

        Args:
            frame: ``(sample_rate, samples)``: `input_sample_rate` Hz; int16, shape (channels, n), (1, n) mono and
                (2, n) stereo as `expected_layout` says. The handler may keep the array.
        """

    @abstractmethod
    def emit(self) -> EmitType:
        """Return what to send next; called again and again.

        Returns:
            Audio ``(sample_rate, samples)`` or ``(sample_rate, samples, layout)`` of any rate. The samples are int16,
            or float32 in [-1, 1], of shape (n,), (1, n) or (2, n). n may be any number: the audio is cut into frames
            and paced. `AdditionalOutputs`, or ``(audio, AdditionalOutputs)``. `CloseStream` ends the connection after
            what is queued was played. None means nothing now; returning `None` again and again is cheap.
        """

    @abstractmethod
    def copy(self) -> StreamHandler:
        """Return a fresh handler, for one connection: ``return MyHandler(...)``."""

    def start_up(self) -> None:
        """Override this for work beside `receive` and `emit`. It may run for the whole call, or return early."""


class AsyncStreamHandler(StreamHandlerBase):
    """An async handler for audio: subclass it, and write `receive` and `emit` with ``async def``.

    Every method runs in the event loop, under asyncio or trio; `receive` and `emit` are tasks beside each other.
    """

    _default_video_format: ClassVar[VideoFormat] = "float32"

    @abstractmethod
    async def receive(self, frame: tuple[int, NDArray[np.int16]]) -> None:
        """Take one frame of the peer's audio, as `StreamHandler.receive`; cancelled when the connection ends."""

    @abstractmethod
    async def emit(self) -> EmitType:
        """Return what to send next, as `StreamHandler.emit`; cancelled when the connection ends."""

    @abstractmethod
    def copy(self) -> AsyncStreamHandler:
        """Return a fresh handler, for one connection: ``return MyHandler(...)``."""

    async def start_up(self) -> None:
        """Override this for work beside `receive` and `emit`, from the beginning. A checkpoint.

        It may run for the whole call: many handlers keep a session open in it (``async with model.session(): …``). It
        is cancelled when the connection ends. Returning does not end the connection; raising does. It has begun before
        `on_message` or `on_dtmf` is called. This one does nothing; you may call ``await super().start_up()``, and need
        not.
        """
        await anyio.lowlevel.checkpoint()


class AudioVideoStreamHandler(StreamHandler):
    """A sync handler for audio and video; `video_receive` and `video_emit` have a worker thread each, too."""

    @abstractmethod
    def video_receive(self, frame: Any) -> None:
        """Take the peer's latest video frame. Frames that came during the last call are skipped.

        Args:
            frame: An `av.VideoFrame`, unless `video_format` says otherwise (which is why it is typed Any).
        """

    @abstractmethod
    def video_emit(self) -> VideoEmitType:
        """Return the next frame for the peer; called at most `fps` times a second.

        Returns:
            An array of shape (h, w, 3), channels in the order of `video_format` (BGR by default), or (h, w): grey.
            uint8 (0-255), uint16 (0-65,535) or float32 (0-255). Or an `av.VideoFrame`; or `AdditionalOutputs`,
            ``(frame, AdditionalOutputs)``, `CloseStream` or None as in `emit`.
        """

    @abstractmethod
    def copy(self) -> AudioVideoStreamHandler:
        """Return a fresh handler, for one connection: ``return MyHandler(...)``."""


class AsyncAudioVideoStreamHandler(AsyncStreamHandler):
    """An async handler for audio and video."""

    @abstractmethod
    async def video_receive(self, frame: Any) -> None:
        """Take the peer's latest video frame, as `AudioVideoStreamHandler.video_receive`.

        Args:
            frame: float32, shape (height, width, 3), BGR, 0-255, unless `video_format` says otherwise (which is why it
                is typed Any). The handler may keep the array.
        """

    @abstractmethod
    async def video_emit(self) -> VideoEmitType:
        """Return the next frame for the peer, as `AudioVideoStreamHandler.video_emit`."""

    @abstractmethod
    def copy(self) -> AsyncAudioVideoStreamHandler:
        """Return a fresh handler, for one connection: ``return MyHandler(...)``."""


def _returns_at_once(function: Callable[..., Any]) -> bool:
    """Whether a call returns at once: a coroutine or a generator, which runs later."""
    kinds = (inspect.iscoroutinefunction, inspect.isasyncgenfunction, inspect.isgeneratorfunction)
    return any(kind(function) for kind in kinds)


def check_formats(handler: StreamHandlerBase) -> None:
    if handler.expected_layout not in get_args(ChannelLayout):
        raise ValueError(f"expected_layout must be 'mono' or 'stereo', not {handler.expected_layout!r}")
    handler.output_sample_rate = _sample_rate("output_sample_rate", handler.output_sample_rate)
    handler.input_sample_rate = _sample_rate("input_sample_rate", handler.input_sample_rate)
    if handler.output_sample_rate % 50:
        raise ValueError(
            f"output_sample_rate must be a multiple of 50 (audio leaves in frames of 20 ms), "
            f"not {handler.output_sample_rate}"
        )
    if handler.video_format not in get_args(VideoFormat):
        raise ValueError(f"video_format must be one of {get_args(VideoFormat)}, not {handler.video_format!r}")
    if not (isinstance(handler.fps, int | float | np.number) and 0 < handler.fps <= 1000):
        raise ValueError(f"fps must be frames a second, greater than 0 and at most 1000, not {handler.fps!r}")


def _sample_rate(name: str, value: Any) -> int:
    # 384 kHz is the highest rate audio hardware has; beyond it, and below 1 kHz, something else was meant.
    try:
        rate = operator.index(value)
    except TypeError:
        rate = 0
    if isinstance(value, bool) or not 1000 <= rate <= 384_000:
        raise ValueError(f"{name} must be a whole number of Hz between 1000 and 384000, not {value!r}")
    return rate


def name_of(handler: object) -> str:
    return type(handler).__qualname__
