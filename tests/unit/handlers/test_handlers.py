"""The handler API: construction, binding, copying, arguments, messages."""

from __future__ import annotations

import asyncio
import inspect
import json
import queue
import threading
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial, wraps
from typing import Any

import anyio
import anyio.to_thread
import av
import handlers_from_fastrtc as brought
import numpy as np
import pytest

from rtcflow.connection import run_connection
from rtcflow.connection.handler_loop import HandlerLoop, Task
from rtcflow.context import Context
from rtcflow.exceptions import HandlerError
from rtcflow.handlers.base import (
    AsyncAudioVideoStreamHandler,
    AsyncStreamHandler,
    AudioVideoStreamHandler,
    StreamHandler,
    StreamHandlerBase,
)
from rtcflow.handlers.checking import check_handler, copy_handler, has_own_method, has_video
from rtcflow.outputs import WebRTCData
from rtcflow.transports.memory import memory_pair


class Sync(StreamHandler):
    def receive(self, frame):
        pass

    def emit(self):
        return None

    def copy(self):
        return type(self)()


class Async(AsyncStreamHandler):
    async def receive(self, frame):
        pass

    async def emit(self):
        return None

    def copy(self):
        return type(self)()


class SyncVideo(Sync, AudioVideoStreamHandler):
    def video_receive(self, frame):
        pass

    def video_emit(self):
        return None


class AsyncVideo(Async, AsyncAudioVideoStreamHandler):
    async def video_receive(self, frame):
        pass

    async def video_emit(self):
        return None


ALL = [Sync, Async, SyncVideo, AsyncVideo]


class Channel:
    def __init__(self) -> None:
        self.sent: list[str] = []

    def send(self, message: str) -> None:
        self.sent.append(message)


class FakeConnection:
    """A binding by hand."""

    def __init__(self, loop: HandlerLoop, *, phone_mode: bool = False) -> None:
        self.loop = loop
        self.phone_mode = phone_mode
        self.context = Context("abc")
        self.debug = False
        self.cleared = 0
        self.sent: list[str] = []

    def clear_queue(self) -> float:
        self.cleared += 1
        return 0.25

    def hang_up(self, reason: str, *, now: bool) -> None:
        self.sent.append(f"hung up: {reason}, {now}")

    def playback(self) -> str:
        return "so far"

    async def wait_played(self, seconds: float) -> None:
        self.sent.append(f"waited {seconds}")

    async def run_sync(self, name: str, function: Callable[[], Any]) -> Any:
        return name, await anyio.to_thread.run_sync(function)

    async def send_message(self, message: str) -> None:
        await anyio.lowlevel.checkpoint()
        self.sent.append(message)

    def send_message_sync(self, message: str) -> None:
        self.sent.append(message)


@asynccontextmanager
async def bound(handler: StreamHandlerBase, *, phone_mode: bool = False) -> AsyncIterator[FakeConnection]:
    async with anyio.create_task_group() as tg:
        connection = FakeConnection(HandlerLoop(tg), phone_mode=phone_mode)
        handler._bind(connection)
        yield connection
        tg.cancel_scope.cancel()
    handler._unbind()
    connection.loop.close()


every_class = pytest.mark.parametrize("cls", ALL)


# -- construction


@every_class
def test_the_constructor_has_the_references_arguments_and_defaults(cls: type[StreamHandlerBase]) -> None:
    """(expected_layout="mono", output_sample_rate=24000, output_frame_size=None, input_sample_rate=48000), in order."""
    parameters = list(inspect.signature(cls).parameters.values())
    assert [(p.name, p.default) for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD] == [
        ("expected_layout", "mono"),
        ("output_sample_rate", 24000),
        ("output_frame_size", None),
        ("input_sample_rate", 48000),
    ]
    handler = cls()
    assert (handler.expected_layout, handler.output_sample_rate, handler.output_frame_size) == ("mono", 24000, 480)
    assert (handler.input_sample_rate, handler.fps, handler.phone_mode) == (48000, 30, False)
    assert (handler.latest_args, handler.channel) == ("not_set", None)
    assert not handler.args_set.is_set()
    assert not handler.channel_set.is_set()


@every_class
def test_a_handler_may_have_attributes_of_its_own_with_our_names(cls: type[StreamHandlerBase]) -> None:
    """`context` is what many call the history of a chat. FastRTC's handlers have none of the three."""
    handler: Any = cls()
    for name in ("context", "ended", "running"):
        setattr(handler, name, [name])
        assert getattr(handler, name) == [name]


def test_the_defaults_of_video_are_the_references() -> None:
    """Sync handlers are given av.VideoFrame, async ones float32 arrays, and another format on request."""
    assert [cls().video_format for cls in ALL] == ["frame", "float32", "frame", "float32"]
    assert SyncVideo(video_format="rgb24", fps=15).video_format == "rgb24"
    assert AsyncVideo(fps=12.5).fps == 12.5


@every_class
def test_constructing_works_in_a_thread_without_a_loop(cls: type[StreamHandlerBase]) -> None:
    """A handler can be made where no event loop is, in any thread."""
    made: list[StreamHandlerBase] = []
    thread = threading.Thread(target=lambda: made.append(cls("stereo", 16000, None, 8000)))
    thread.start()
    thread.join()
    assert made[0].output_frame_size == 320


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"output_sample_rate": 22049}, "output_sample_rate must be a multiple of 50"),
        ({"output_sample_rate": 0}, "between 1000 and 384000, not 0"),
        ({"output_sample_rate": -24000}, "output_sample_rate must be a whole number of Hz"),
        ({"output_sample_rate": "24000"}, "not '24000'"),
        ({"output_sample_rate": True}, "not True"),
        ({"input_sample_rate": 0}, "input_sample_rate must be a whole number of Hz"),
        ({"input_sample_rate": 16000.0}, "not 16000.0"),
        ({"expected_layout": "5.1"}, "'mono' or 'stereo', not '5.1'"),
        ({"expected_layout": ["mono"]}, "'mono' or 'stereo'"),
        ({"video_format": "yuv420p"}, "video_format must be one of"),
        ({"fps": 0}, "fps must be frames a second"),
        ({"fps": float("nan")}, "fps must be"),
        ({"fps": "30"}, "fps must be"),
    ],
)
def test_arguments_that_make_no_sense_are_value_errors(arguments: dict[str, Any], words: str) -> None:
    """A wrong rate, layout, format or fps is refused at once, in words that say what would be right."""
    with pytest.raises(ValueError, match=words):
        Sync(**arguments)


def test_numpy_integers_are_sample_rates() -> None:
    """A rate that came out of NumPy is as good as an int, and becomes one."""
    rate = Sync(output_sample_rate=np.int64(16000)).output_sample_rate  # type: ignore[arg-type]
    assert (rate, type(rate)) == (16000, int)


def test_output_frame_size_warns_only_when_it_differs_and_is_ignored() -> None:
    """The derived frame size passes silently; another one is a DeprecationWarning at the caller's line, no more."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Sync("mono", 24000, 480).output_frame_size == 480

    class Old(Sync):
        def __init__(self) -> None:
            super().__init__("mono", 24000, 960)

    with pytest.warns(DeprecationWarning, match="output_frame_size=960 is ignored") as caught:
        assert Old().output_frame_size == 480
    assert caught[0].filename == __file__


def test_abstract_methods_that_are_missing_are_the_usual_type_error() -> None:
    """Python's own error for abstract classes is left alone."""
    with pytest.raises(TypeError, match="abstract"):
        StreamHandler()  # type: ignore[abstract]

    class NoVideoEmit(Sync, AudioVideoStreamHandler):
        def video_receive(self, frame):
            pass

    with pytest.raises(TypeError, match="video_emit"):
        NoVideoEmit()


# -- what can be run


@every_class
def test_a_sound_handler_passes(cls: type[StreamHandlerBase]) -> None:
    """The check finds nothing wrong with each of the four classes, nor with handlers from FastRTC."""
    check_handler(cls())
    check_handler(brought.SyncEcho())
    check_handler(brought.SyncMirror())


async def _served(handler: Any) -> None:
    async with memory_pair() as (ours, _):
        await run_connection(ours, handler)


def test_a_forgotten_super_init_is_a_clear_error() -> None:
    """The usual slip of subclassing is named, with the line to write."""

    class Forgetful(Sync):
        def __init__(self) -> None:
            self.queue: queue.Queue[Any] = queue.Queue()

    for use in (check_handler, copy_handler, partial(anyio.run, _served)):
        with pytest.raises(HandlerError, match=r"Forgetful.*super\(\).__init__\(\)"):
            use(Forgetful())
    with pytest.raises(RuntimeError, match="serves none"):
        Forgetful().clear_queue()


def _plain(self):
    return None


async def _coroutine(self, *args):
    return None


def _generator(self):
    yield None


async def _async_generator(self):
    yield None


@pytest.mark.parametrize(
    ("base", "name", "method", "right"),
    [
        (Async, "emit", _plain, r"write: async def emit\(self\): \.\.\."),
        (Async, "receive", _plain, r"write: async def receive\(self, frame\)"),
        (Async, "start_up", _plain, r"write: async def start_up\(self\)"),
        (AsyncVideo, "video_emit", _plain, r"write: async def video_emit\(self\)"),
        (AsyncVideo, "video_receive", _plain, r"write: async def video_receive\(self, frame\)"),
        (Sync, "emit", _coroutine, r"write: def emit\(self\): \.\.\."),
        (Sync, "receive", _coroutine, r"write: def receive\(self, frame\)"),
        (Sync, "start_up", _coroutine, r"write: def start_up\(self\)"),
        (SyncVideo, "video_emit", _coroutine, r"write: def video_emit\(self\)"),
        (SyncVideo, "video_receive", _coroutine, r"write: def video_receive\(self, frame\)"),
        (Sync, "emit", _generator, "return instead of yield"),
        (Async, "emit", _async_generator, "return instead of yield"),
    ],
)
def test_methods_of_the_wrong_colour_are_refused(base: Any, name: str, method: Any, right: str) -> None:
    """def where async def is needed, the reverse, and generators: the error shows the line to write."""
    handler = type("Mine", (base,), {name: method})()
    with pytest.raises(HandlerError, match=rf"Mine\.{name} .*{right}"):
        check_handler(handler)


def test_decorated_and_partial_methods_are_taken_for_what_they_wrap() -> None:
    """A decorator with functools.wraps around a coroutine, a partial, a callable object: they pass."""

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def wrapper(*args: Any) -> Any:
            return function(*args)

        return wrapper

    class Decorated(Async):
        @timed
        async def emit(self):
            return None

        async def _work(self, frame, n):
            pass

        def __init__(self) -> None:
            super().__init__()
            self.receive = partial(self._work, n=1)

    check_handler(Decorated())


@pytest.mark.parametrize(
    ("junk", "words"),
    [
        (Sync, "is a class, not a handler; write: Sync()"),
        (len, "is not a handler"),
        (None, "NoneType is not a handler"),
    ],
)
def test_what_is_no_handler_is_refused(junk: Any, words: str) -> None:
    """A class instead of an instance, a function, None."""
    with pytest.raises(HandlerError, match=words.replace("(", r"\(").replace(")", r"\)")):
        check_handler(junk)


def test_attributes_changed_after_construction_are_checked_again() -> None:
    """What __init__ would have refused is refused when the handler is to run."""
    handler = Sync()
    handler.output_sample_rate = 11025
    with pytest.raises(HandlerError, match="Sync: output_sample_rate must be a multiple of 50"):
        check_handler(handler)


def test_own_methods_are_told_from_the_empty_ones() -> None:
    """The base classes' empty start_up and shutdown need no task and no thread."""

    class Mine(Sync):
        def shutdown(self) -> None:
            pass

    assert not has_own_method(Sync(), "start_up")
    assert not has_own_method(Async(), "start_up")
    assert not has_own_method(Async(), "shutdown")
    assert has_own_method(Mine(), "shutdown")
    assert not has_own_method(Mine(), "on_message")
    assert [has_video(cls()) for cls in ALL] == [False, False, True, True]


# -- copying


@every_class
def test_a_copy_is_fresh(cls: type[StreamHandlerBase]) -> None:
    """copy_handler gives what copy() made."""
    handler = cls()
    copied = copy_handler(handler)
    assert type(copied) is cls
    assert copied is not handler


def test_copies_that_cannot_serve_are_refused() -> None:
    """The same object, one in use, None, another type, a coroutine, one without video: each is named."""
    served = Sync()
    served._binding = object()  # type: ignore[assignment]

    async def coroutine() -> Sync:
        return Sync()

    cases: list[tuple[type[Any], Callable[[Any], Any], str]] = [
        (Sync, lambda self: self, r"copy\(\) returned the handler itself"),
        (Sync, lambda self: served, "already serves a connection"),
        (Sync, lambda self: None, r"returned None; write: return Bad\(...\)"),
        (Sync, lambda self: "handler", "returned 'handler', which is not a handler"),
        (Sync, lambda self: coroutine(), r"write: def copy\(self\)"),
        (SyncVideo, lambda self: Sync(), "returned Sync, which has no video"),
    ]
    for base, copy, words in cases:
        handler = type("Bad", (base,), {"copy": copy})()
        with pytest.raises(HandlerError, match=words):
            copy_handler(handler)


def test_what_copy_raises_is_left_as_it_is() -> None:
    """The application's own exception reaches whoever copies."""

    class Broken(Sync):
        def copy(self):
            raise ZeroDivisionError("model missing")

    with pytest.raises(ZeroDivisionError, match="model missing"):
        copy_handler(Broken())


# -- without a connection, with one, and after it


def test_without_a_connection_what_needs_one_says_so() -> None:
    """loop, context, clear_queue and the messages name what is missing and where to use them."""
    handler = Sync()
    uses: list[tuple[str, Callable[[], Any]]] = [
        ("loop", lambda: handler.loop),
        ("context", lambda: handler.context),
        (r"clear_queue\(\)", handler.clear_queue),
        (r"send_message\(\)", lambda: handler.send_message("x").send(None)),
        (r"send_message_sync\(\)", lambda: handler.send_message_sync("x")),
    ]
    for name, use in uses:
        with pytest.raises(RuntimeError, match=rf"Sync\.{name} needs a connection.*not in __init__ or copy"):
            use()


@pytest.mark.anyio
async def test_a_bound_handler_stands_on_its_connection() -> None:
    """loop, context, phone_mode, clear_queue and the messages are the connection's."""
    handler = Async()
    async with bound(handler, phone_mode=True) as connection:
        assert handler.loop is connection.loop
        assert handler.context is connection.context
        assert handler.phone_mode is True
        assert handler.clear_queue() == 0.25
        await handler.send_message("one")
        handler.send_message_sync("two")
        assert connection.sent == ["one", "two"]


@pytest.mark.anyio
async def test_playing_threads_and_errors_are_the_connections() -> None:
    """playback, wait_played and run_sync are the connection's; tell_error shows the text in debug only."""
    handler, channel = Async(), Channel()
    handler.tell_error(ValueError("unseen"), "nobody")  # no connection: told to nobody
    async with bound(handler) as connection:
        assert handler.playback() == "so far"
        await handler.wait_played(1.5)
        assert connection.sent == ["waited 1.5"]
        assert await handler.run_sync(pow, 2, 5) == ("pow", 32)
        handler.tell_error(ValueError("secret"), "too early")
        handler.set_channel(channel)
        handler.tell_error(ValueError("secret"), "the model failed")
        connection.debug = True
        handler.tell_error(ValueError("secret"), "the model failed")
    texts = [json.loads(message)["message"] for message in channel.sent]
    assert texts == ["the model failed", "ValueError: secret"]


@pytest.mark.anyio
async def test_a_handler_serves_one_connection_only() -> None:
    """Binding it a second time, during or after the first, is refused with the way out."""
    handler = Async()
    async with bound(handler) as connection:
        with pytest.raises(HandlerError, match=r"handler.copy\(\)"):
            handler._bind(connection)
    with pytest.raises(HandlerError, match="every connection needs a handler of its own"):
        handler._bind(connection)


@pytest.mark.anyio
async def test_after_the_end_messages_fail_and_nobody_waits() -> None:
    """send_message raises ClosedResourceError, waiting for events ends with it, clear_queue has nothing to drop."""
    handler = Async()
    failed: list[str] = []

    async def wait(name: str, what: Callable[[], Any]) -> None:
        with pytest.raises(anyio.ClosedResourceError):
            await what()
        failed.append(name)

    async with anyio.create_task_group() as tg:
        async with bound(handler):
            tg.start_soon(wait, "task", handler.wait_for_args)
            tg.start_soon(wait, "channel", handler.channel_set.wait)
            tg.start_soon(wait, "thread", partial(anyio.to_thread.run_sync, handler.wait_for_args_sync))
            await anyio.wait_all_tasks_blocked()
    assert sorted(failed) == ["channel", "task", "thread"]
    with pytest.raises(anyio.ClosedResourceError):
        await handler.send_message("late")
    with pytest.raises(anyio.ClosedResourceError):
        handler.send_message_sync("late")
    assert handler.clear_queue() == 0.0


# -- arguments


def test_set_args_keeps_the_first_place_free() -> None:
    """latest_args is ["__webrtc_value__", *args]; a WebRTCData takes that place itself; args_set is raised."""
    handler = Sync()
    given = ["en", 3]
    handler.set_args(given)
    assert handler.latest_args == ["__webrtc_value__", "en", 3]
    assert handler.args_set.is_set()
    assert given == ["en", 3]
    data = WebRTCData("abc", textbox="hello")
    handler.set_args([data, 5])
    assert handler.latest_args == [data, 5]


def test_set_args_refuses_what_is_no_list_of_arguments() -> None:
    """A tuple or a string is a TypeError, an empty list a ValueError; nothing changes."""
    handler = Sync()
    for junk in ((1,), "args", None):
        with pytest.raises(TypeError, match="args must be a list"):
            handler.set_args(junk)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="cannot be empty"):
        handler.set_args([])
    assert handler.latest_args == "not_set"
    assert not handler.args_set.is_set()


@pytest.mark.anyio
async def test_wait_for_args_asks_the_peer_and_waits() -> None:
    """One send_input goes out; the wait ends when arguments have come, set from any thread."""
    handler, channel = Async(), Channel()
    async with bound(handler), anyio.create_task_group() as tg:
        handler.set_channel(channel)
        done = anyio.Event()

        async def wait() -> None:
            await handler.wait_for_args()
            done.set()

        tg.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        assert [json.loads(m) for m in channel.sent] == [{"type": "send_input", "data": []}]
        assert not done.is_set()
        await anyio.to_thread.run_sync(handler.set_args, ["hi"])
        await done.wait()
    assert handler.latest_args == ["__webrtc_value__", "hi"]


@pytest.mark.anyio
async def test_arguments_are_asked_for_when_the_channel_opens() -> None:
    """Asking before the channel is open is remembered, and asked once it is."""
    handler, channel = Async(), Channel()
    async with bound(handler):
        await handler.fetch_args()
        await handler.fetch_args()
        assert handler.channel is None
        handler.set_channel(channel)
        assert handler.channel is channel
        assert handler.channel_set.is_set()
        assert len(channel.sent) == 1


@pytest.mark.anyio
async def test_arguments_that_come_without_being_asked_end_the_wait() -> None:
    """A peer whose channel never opens may still get its arguments from the server."""
    handler = Async()
    async with bound(handler):
        handler.set_args([1])
        with anyio.fail_after(30):
            await handler.wait_for_args()


@pytest.mark.anyio
async def test_wait_for_args_sync_blocks_a_worker_thread() -> None:
    """It returns once arguments are there, and refuses the loop's thread, showing the right call."""
    handler, channel = Sync(), Channel()
    async with bound(handler), anyio.create_task_group() as tg:
        with pytest.raises(RuntimeError, match=r"write: await self.wait_for_args\(\)"):
            handler.wait_for_args_sync()
        tg.start_soon(anyio.to_thread.run_sync, handler.wait_for_args_sync)
        await anyio.wait_all_tasks_blocked()
        handler.set_channel(channel)
        handler.set_args(["x"])
    assert handler.latest_args == ["__webrtc_value__", "x"]


@pytest.mark.anyio
async def test_telephone_callers_are_not_asked_for_arguments() -> None:
    """wait_for_args returns at once, with args_set raised and nothing sent."""
    for phone in (Async(), Async()):
        channel = Channel()
        async with bound(phone, phone_mode=True):
            phone.set_channel(channel)
            await phone.wait_for_args()
        assert phone.args_set.is_set()
        assert channel.sent == []
    handler = Sync()
    async with bound(handler, phone_mode=True):
        await anyio.to_thread.run_sync(handler.wait_for_args_sync)


@pytest.mark.anyio
async def test_reset_waits_for_new_arguments() -> None:
    """After reset the next wait is for arguments that come later."""
    handler = Async()
    async with bound(handler):
        handler.set_args([1])
        handler.reset()
        with anyio.move_on_after(0.01) as scope:
            await handler.wait_for_args()
        assert scope.cancelled_caught


@pytest.mark.anyio
async def test_every_kind_of_waiter_wakes_on_the_channel() -> None:
    """Tasks on any backend, worker threads and threads of nobody's all see channel_set."""
    handler = Sync()
    woken: list[str] = []

    async def in_task() -> None:
        await handler.channel_set.wait()
        woken.append("task")

    def in_thread(name: str) -> None:
        handler.channel_set.wait_sync()
        woken.append(name)

    foreign = threading.Thread(target=in_thread, args=("foreign",))
    foreign.start()
    async with bound(handler), anyio.create_task_group() as tg:
        tg.start_soon(in_task)
        tg.start_soon(anyio.to_thread.run_sync, in_thread, "worker")
        await anyio.wait_all_tasks_blocked()
        handler.set_channel(Channel())
        await anyio.to_thread.run_sync(foreign.join)
    assert sorted(woken) == ["foreign", "task", "worker"]


# -- the rest


@pytest.mark.parametrize("layout", ["mono", "stereo"])
def test_resample_gives_the_handlers_own_format(layout: Any) -> None:
    """A foreign frame comes out as int16 of shape (channels, n) at input_sample_rate, a second of it as a second."""
    handler = Sync(layout, 24000, None, 16000)
    n = 0
    for i in range(50):
        frame = av.AudioFrame.from_ndarray(np.full((1, 1920), 1000, np.int16), format="s16", layout="stereo")
        frame.sample_rate, frame.pts = 48000, i * 960
        for out in handler.resample(frame):
            samples = out.to_ndarray()
            assert (out.sample_rate, samples.dtype, samples.shape[0]) == (16000, np.int16, handler_channels(handler))
            n += samples.shape[1]
    assert abs(n - 16000) <= 64


def handler_channels(handler: StreamHandlerBase) -> int:
    return {"mono": 1, "stereo": 2}[handler.expected_layout]


@pytest.mark.anyio
async def test_handlers_run_coroutines_from_worker_threads() -> None:
    """asyncio.run_coroutine_threadsafe(coro, handler.loop).result() works in a worker thread on every backend."""
    handler = Sync()

    async def double(x: int) -> int:
        await anyio.sleep(0)
        return 2 * x

    async with bound(handler):
        result = await anyio.to_thread.run_sync(
            lambda: asyncio.run_coroutine_threadsafe(double(21), handler.loop).result(30)
        )
    assert result == 42


@pytest.mark.anyio
async def test_say_sync_raises_in_its_thread_what_say_raises_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop may be faster than the thread that asks for the result: the call goes on all the same."""
    result = Task.result

    def late(task: Task[Any], timeout: float | None = None) -> Any:
        """`result`, once the loop has finished with the task."""
        finished = threading.Event()
        task.add_done_callback(lambda _: task.get_loop().call_soon(finished.set))
        assert finished.wait(30)
        return result(task, timeout)

    class Broken(Sync):
        async def say(self, item: object) -> Any:
            raise ValueError(f"cannot say {item}")

    monkeypatch.setattr(Task, "result", late)
    handler = Broken()
    async with bound(handler) as connection:
        with pytest.raises(ValueError, match="cannot say 7"):
            await anyio.to_thread.run_sync(handler.say_sync, 7)
        assert connection.loop.is_running()


def test_every_name_of_the_reference_is_there() -> None:
    """Each attribute and method that the reference lists exists, with the reference's arguments."""
    methods = {
        "clear_queue": [],
        "send_message": ["msg"],
        "send_message_sync": ["msg"],
        "reset": [],
        "shutdown": [],
        "receive": ["frame"],
        "emit": [],
        "copy": [],
        "start_up": [],
        "set_args": ["args"],
        "set_channel": ["channel"],
        "wait_for_args": [],
        "wait_for_args_sync": [],
        "fetch_args": [],
        "resample": ["frame"],
    }
    for cls in ALL:
        own = methods | ({"video_receive": ["frame"], "video_emit": []} if "Video" in cls.__name__ else {})
        for name, arguments in own.items():
            assert list(inspect.signature(getattr(cls(), name)).parameters) == arguments, name
        colour = {"receive", "emit", "start_up", "video_receive", "video_emit"} & own.keys()
        for name in colour:
            assert inspect.iscoroutinefunction(getattr(cls, name)) is cls.__name__.startswith("Async"), name
        for name in ("send_message", "wait_for_args", "fetch_args"):
            assert inspect.iscoroutinefunction(getattr(cls, name)), name


@pytest.mark.anyio
@pytest.mark.parametrize("name", ["shutdown", "on_message", "on_dtmf"])
@pytest.mark.parametrize("base", [AsyncStreamHandler, StreamHandler])
async def test_an_empty_method_of_the_base_class_may_be_awaited_or_not(base, name):
    """A subclass need not know which it is: ``super().shutdown()`` and ``await super().shutdown()`` are both right."""
    method, args = getattr(base, name), () if name == "shutdown" else ("1",)
    handler = object()
    assert await method(handler, *args) is None
    method(handler, *args)
