"""FastRTC's `ReplyOnPause` and `ReplyOnStopWords`: one class each, and two ways to run it.

The classes themselves are run by `rtcflow.ReplyOnPause`: `copy` makes one for each call. It finds pauses sooner, and
interrupts within a frame.

A subclass is run as FastRTC runs it, because the methods that it overrides belong to that way. Frames are collected
into chunks, `determine_pause` judges each chunk, and `emit` takes the reply's items one by one. `receive` and `emit`
run in two worker threads. All of FastRTC's methods and attributes are here for subclasses.
"""

from __future__ import annotations

import copy
import functools
import importlib.util
import inspect
import threading
import types
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .._core.bridge import Event
from ..frames import ChannelLayout
from ..handlers import turns
from ..handlers.turns.arguments import check_reply_function, check_startup_function
from ..handlers.turns.keywords import TranscribingSpotter, check_phrases, find_phrase
from ..media.convert import to_channels
from ..outputs import AdditionalOutputs, WebRTCData
from ..protocol import messages
from ..speech import PocketsphinxSTT, STTModel, get_stt_model, stt_for_chunks
from ..speech.options import mono_float32
from . import _options
from ._handlers import StreamHandler
from ._overrides import require_plain

Audio = tuple[int, NDArray[np.int16]]
LAST = 2.0
"""Seconds of audio in which stop words are looked for, as in FastRTC."""


@dataclass
class AppState:
    """The audio heard in one turn so far, and its state, in a subclass of `ReplyOnPause`.

    Attributes:
        stream: The turn so far: int16, shape (n,).
        sampling_rate: Hz; 0 before the first frame.
        pause_detected: Whether the last chunk ended the turn.
        started_talking: Whether the user has begun to talk.
        responding: Whether a reply is under way.
        stopped: For the subclass; not used here.
        buffer: The chunk that is being collected: int16, shape (n,).
        responded_audio: Whether the reply has given any audio.
        interrupted: For the subclass; not used here.
    """

    stream: NDArray[Any] | None = None
    sampling_rate: int = 0
    pause_detected: bool = False
    started_talking: bool = False
    responding: bool = False
    stopped: bool = False
    buffer: NDArray[Any] | None = None
    responded_audio: bool = False
    interrupted: Event = field(default_factory=Event)

    def new(self) -> AppState:
        """A fresh one."""
        return type(self)()


@dataclass
class ReplyOnStopWordsState(AppState):
    """What has been heard of one turn, in a subclass of `ReplyOnStopWords`.

    Attributes:
        stop_word_detected: Whether a stop word was said.
        post_stop_word_buffer: The last two seconds: float32, shape (n,), 16 kHz.
        started_talking_pre_stop_word: For the subclass; not used here.
    """

    stop_word_detected: bool = False
    post_stop_word_buffer: NDArray[np.float32] | None = None
    started_talking_pre_stop_word: bool = False


class ReplyOnPause(StreamHandler):
    """Calls a function with what the user said when they pause, and plays what it yields.

    `rtcflow.ReplyOnPause` describes the arguments. A subclass may override every method here, and use every attribute;
    it then hears pauses chunk by chunk, as FastRTC does.

    Args:
        fn: The reply function.
        startup_fn: Called at the beginning; what it yields is played.
        algo_options: When a turn begins and ends. May be changed until the call begins.
        model_options: Options of the model.
        can_interrupt: Whether speech stops a reply.
        expected_layout: ``"mono"`` or ``"stereo"``.
        output_sample_rate: Hz.
        output_frame_size: Deprecated and ignored.
        input_sample_rate: Hz.
        model: Tells speech from noise.
        needs_args: Whether `fn` waits for the peer's arguments although it takes one only.
        **options: The keyword arguments of `rtcflow.ReplyOnPause` that FastRTC does not have. Not for subclasses.

    Raises:
        TypeError: An argument is not what its name says; or (when the class is made) a method is ``async def``.
        ValueError: An option is out of range.
        RuntimeError: No model was given and the extra ``rtcflow[vad]`` is not installed.

    Attributes:
        state: The turn under way (`AppState`).
        event: Set when a reply is due or under way.
        generator: The reply under way, or None.
    """

    latest_args: str | list[Any]

    _state_class: ClassVar[type[AppState]] = AppState
    _names: ClassVar[tuple[str, ...]] = (
        *("receive", "emit", "start_up", "determine_pause", "process_audio", "reset", "trigger_response", "copy"),
        "_close_generator",
    )

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        require_plain(cls, cls._names)

    def __init__(
        self,
        fn: Callable[..., Any],
        startup_fn: Callable[..., Any] | None = None,
        algo_options: _options.AlgoOptions | turns.AlgoOptions | None = None,
        model_options: Any = None,
        can_interrupt: bool = True,  # noqa: FBT001, FBT002  FastRTC's order
        expected_layout: ChannelLayout = "mono",
        output_sample_rate: int = 24000,
        output_frame_size: int | None = None,
        input_sample_rate: int = 48000,
        model: Any = None,
        needs_args: bool = False,  # noqa: FBT001, FBT002
        **options: Any,
    ) -> None:
        super().__init__(expected_layout, output_sample_rate, output_frame_size, input_sample_rate)
        self.fn: Callable[..., Any] = fn
        self.startup_fn: Callable[..., Any] | None = startup_fn
        self.algo_options: Any = _options.AlgoOptions() if algo_options is None else algo_options
        self.model_options = model_options
        self.can_interrupt = can_interrupt
        self.needs_args = needs_args
        self.model: Any = model
        self.is_async: bool = inspect.isasyncgenfunction(fn)
        self._options = options
        self._takes = 1
        self._begin()
        if self._is_plain():
            self._listener()  # its errors are raised now and not at the first call
        else:
            self._check()

    def _begin(self) -> None:
        self.event: threading.Event = threading.Event()
        self.state: Any = self._state_class()
        self.generator: Any = None
        self._step: Any = None  # the task in the loop that an async reply's next item comes from

    def _is_plain(self) -> bool:
        """Whether the class runs as `rtcflow.ReplyOnPause` does, and not in FastRTC's way."""
        return type(self) in {ReplyOnPause, ReplyOnStopWords} and not set(self._names) & vars(self).keys()

    def _check(self) -> None:
        if self._options:
            name = next(iter(self._options))
            raise TypeError(
                f"{type(self).__qualname__}({name}=...): subclasses of rtcflow.fastrtc.ReplyOnPause hear pauses as "
                f"FastRTC does, without {name}; to have both, subclass rtcflow.ReplyOnPause"
            )
        self._takes = check_reply_function(self.fn)
        if self.startup_fn is not None:
            check_startup_function(self.startup_fn)
        if self.model is None:
            self.model = turns.get_silero_model()
        if not callable(getattr(self.model, "vad", None)):
            raise TypeError(
                f"model must have a method vad(audio, options), as PauseDetectionModel, not {self.model!r:.80}"
            )

    def _arguments(self) -> dict[str, Any]:
        """What this was made with, as it is now."""
        return {
            "fn": self.fn,
            "startup_fn": self.startup_fn,
            "algo_options": self.algo_options,
            "model_options": self.model_options,
            "can_interrupt": self.can_interrupt,
            "expected_layout": self.expected_layout,
            "output_sample_rate": self.output_sample_rate,
            "input_sample_rate": self.input_sample_rate,
            "model": self.model,
            "needs_args": self.needs_args,
            **self._options,
        }

    def _listener(self) -> turns.ReplyOnPause:
        arguments = self._arguments()
        arguments["algo_options"] = _options.algo_options(self.algo_options)
        arguments["model_options"] = _options.model_options(self.model_options)
        listener = self._make_listener(arguments)
        listener.latest_args = []  # before arguments come, as in FastRTC
        return listener

    def _make_listener(self, arguments: dict[str, Any]) -> turns.ReplyOnPause:
        return turns.ReplyOnPause(**arguments)

    def copy(self) -> Any:
        """The handler of one call. A subclass without `copy` of its own gets a copy with all its attributes.

        The attributes' values are shared between the copies. Override this to give each call its own.
        """
        if self._is_plain():
            return self._listener()
        made = copy.copy(self)
        base: Any = ReplyOnStopWords if isinstance(self, ReplyOnStopWords) else ReplyOnPause
        base.__init__(made, **self._arguments())
        for name in ("fn", "startup_fn"):
            function = getattr(made, name)
            if isinstance(function, types.MethodType) and function.__self__ is self:
                setattr(made, name, types.MethodType(function.__func__, made))
        return made

    # -- hearing, in one worker thread

    @property
    def _needs_additional_inputs(self) -> bool:
        return self._takes > 1 or self.needs_args

    def receive(self, frame: Audio) -> None:
        """Hear a frame, and interrupt the reply under way if it ends a turn."""
        if self.state.responding and not self.can_interrupt:
            return
        state = self.state
        self.process_audio(frame, state)
        if not state.pause_detected:
            return
        if self.can_interrupt and self.state.responding:
            self._close_generator()
        if self.can_interrupt:
            self.clear_queue()
        self.event.set()

    def process_audio(self, audio: Audio, state: Any) -> None:
        """Add a frame to the chunk that is being collected, and have `determine_pause` judge it."""
        rate, samples = audio
        state.sampling_rate = state.sampling_rate or rate
        mono = to_channels(np.atleast_2d(samples), 1)[0]
        state.buffer = mono if state.buffer is None else np.concatenate([state.buffer, mono])
        state.pause_detected = self.determine_pause(state.buffer, state.sampling_rate, state)

    def determine_pause(self, audio: NDArray[Any], sampling_rate: int, state: Any) -> bool:
        """Whether `audio`, the chunk so far, ends a turn. Override it to decide in another way.

        Args:
            audio: int16, shape (n,). Set ``state.buffer = None`` to begin the next chunk.
            sampling_rate: Hz.
            state: The `AppState`; what belongs to the turn is to be added to ``state.stream``.
        """
        options = self.algo_options
        if len(audio) < options.audio_chunk_duration * sampling_rate:
            return False
        speech, _ = self.model.vad((sampling_rate, audio), _options.model_options(self.model_options))
        state.buffer = None
        return self._judge(audio, sampling_rate, speech, state)

    def _judge(self, audio: NDArray[Any], rate: int, speech: float, state: Any) -> bool:
        """Whether a full chunk with this many seconds of speech ends the turn."""
        options = self.algo_options
        if not state.started_talking and speech > options.started_talking_threshold:
            state.started_talking = True
            self._log("started_talking")
        if not state.started_talking:
            return False
        state.stream = audio if state.stream is None else np.concatenate([state.stream, audio])
        too_long = len(state.stream) >= options.max_continuous_speech_s * rate
        return bool(too_long or speech < options.speech_threshold)

    # -- replying, in another worker thread

    def start_up(self) -> None:
        """Play the greeting, if there is one."""
        if self.startup_fn is not None:
            args: list[Any] = []
            if self._needs_additional_inputs and not self.phone_mode:
                self.wait_for_args_sync()
                args = list(self.latest_args[1:])
            self.generator = _items(self.startup_fn(*args))
            self.event.set()

    def trigger_response(self) -> None:
        """Reply now, to what the user has said in this turn so far (maybe nothing)."""
        if self.state.stream is None:
            self.state.stream = np.empty(0, np.int16)
        self.event.set()

    def emit(self) -> Any:
        """The next item of the reply, or None if none is due."""
        if not self.event.is_set():
            return None
        generator = self.generator
        if generator is None:
            generator = self.generator = self._call()
        self.state.responding = True
        try:
            item = self._next(generator)
        except (StopIteration, StopAsyncIteration):
            if self.generator is generator:
                self._finished()
            return None
        except BaseException:
            if self.generator is not generator:
                return None  # it was interrupted
            self.reset()
            raise
        if self.generator is not generator:
            self._close(generator)
            return None
        return self._emitted(item)

    def _call(self) -> Any:
        """Call the reply function with the turn that has ended."""
        self._log("pause_detected")
        if self._needs_additional_inputs and not self.phone_mode:
            self.wait_for_args_sync()
        elif not self.phone_mode or not self.latest_args:
            self.latest_args = [None]
        args: list[Any] = list(self.latest_args)
        state = self.state
        heard = np.empty(0, np.int16) if state.stream is None else state.stream
        audio = (state.sampling_rate or self.input_sample_rate, heard.reshape(1, -1))
        if isinstance(args[0], WebRTCData):
            args[0].audio = audio
        else:
            args[0] = audio
        self.state = state.new()
        return _items(self.fn(*args[: self._takes]))

    def _next(self, generator: Any) -> Any:
        if not hasattr(generator, "__anext__"):
            return next(generator)
        self._step = self.loop.run_coroutine_threadsafe(self.async_iterate(generator))
        return self._step.result()

    async def async_iterate(self, generator: Any) -> Any:
        """The next item of an async generator."""
        return await anext(generator)

    def _emitted(self, item: Any) -> Any:
        extra = item[-1] if isinstance(item, tuple) else item
        if isinstance(item, tuple) and not self.state.responded_audio:
            self.state.responded_audio = True
            self._log("response_starting")
        if self.phone_mode and isinstance(extra, AdditionalOutputs):
            self.latest_args = [None, *extra.args]
        return item

    def _finished(self) -> None:
        if not self.state.responded_audio:
            self._log("response_starting")
        self.reset()

    def _close_generator(self) -> None:
        """Stop the reply under way. A sync one stops at its next `yield`."""
        generator, self.generator = self.generator, None
        self.event.clear()
        self._close(generator)

    def _close(self, generator: Any) -> None:
        if hasattr(generator, "aclose"):
            if self._step is not None:
                self._step.cancel()
            self.loop.create_task(_aclose(generator))
        elif isinstance(generator, types.GeneratorType) and not generator.gi_running:
            generator.close()

    def reset(self) -> None:
        """Forget the turn and the reply, and wait for new arguments before the next."""
        super().reset()
        self.generator = None
        self.event.clear()
        self.state = self._state_class()

    def _log(self, text: str) -> None:
        self._send_if_open(messages.encode(messages.Log(text)))


def _items(result: Any) -> Any:
    """What a reply function gave, as an iterator or an async one: it may also return one item, or a coroutine of it."""
    if inspect.iscoroutine(result):
        return _one_item(result)
    return result if hasattr(result, "__anext__") or isinstance(result, Iterator) else iter([result])


async def _one_item(coroutine: Coroutine[Any, Any, Any]) -> AsyncIterator[Any]:
    yield await coroutine


async def _aclose(generator: Any) -> None:
    try:
        await generator.aclose()
    except RuntimeError:
        return  # it runs: its task is being cancelled, which closes it


class ReplyOnStopWords(ReplyOnPause):
    """Waits for one of the given phrases; what is said after it, up to a pause, is replied to.

    Args:
        fn: As for `ReplyOnPause`; given what was said after the phrase.
        stop_words: Words or phrases. Case and punctuation do not matter.
        startup_fn: As for `ReplyOnPause`, and so are the next arguments.
        stt_model: Finds the words in its transcript of the last two seconds, as in FastRTC. None: Moonshine, if it is
            installed; otherwise the offline keyword spotter of `rtcflow.turns.ReplyOnStopWords`.

    Raises:
        ValueError: There is no stop word, or the keyword spotter does not know it.
    """

    _state_class: ClassVar[type[AppState]] = ReplyOnStopWordsState
    _names: ClassVar[tuple[str, ...]] = (*ReplyOnPause._names, "stop_word_detected", "send_stopword")

    def __init__(
        self,
        fn: Callable[..., Any],
        stop_words: Sequence[str],
        startup_fn: Callable[..., Any] | None = None,
        *args: Any,
        stt_model: STTModel | None = None,
        **options: Any,
    ) -> None:
        self.stop_words: list[str] = check_phrases(stop_words)
        if stt_model is None and importlib.util.find_spec("moonshine_onnx") is not None:
            found = get_stt_model()
            stt_model = None if isinstance(found, PocketsphinxSTT) else found
        self.stt_model: Any = stt_model
        super().__init__(fn, startup_fn, *args, **options)

    def _check(self) -> None:
        super()._check()
        if self.stt_model is None:
            self.stt_model = get_stt_model()

    def _arguments(self) -> dict[str, Any]:
        return {**super()._arguments(), "stop_words": self.stop_words, "stt_model": self.stt_model}

    def _make_listener(self, arguments: dict[str, Any]) -> turns.ReplyOnPause:
        model = arguments.pop("stt_model")
        if model is not None:
            arguments.setdefault("spotter", functools.partial(TranscribingSpotter, self.stop_words, model))
        return turns.ReplyOnStopWords(**arguments)

    def stop_word_detected(self, text: str) -> bool:
        """Whether a transcript has one of the stop words. Override it to decide in another way."""
        return find_phrase(text, self.stop_words) is not None

    def send_stopword(self) -> None:
        """Tell the page that a stop word was heard."""
        self._send_if_open(messages.encode(messages.StopWord("")))

    def determine_pause(self, audio: NDArray[Any], sampling_rate: int, state: Any) -> bool:
        """Look for a stop word in the chunk; after one, as `ReplyOnPause.determine_pause`."""
        if state.stop_word_detected:
            return super().determine_pause(audio, sampling_rate, state)
        if len(audio) < self.algo_options.audio_chunk_duration * sampling_rate:
            return False
        chunk = mono_float32((sampling_rate, audio), 16_000)
        before = state.post_stop_word_buffer
        heard = chunk if before is None else np.concatenate([before, chunk])[-round(LAST * 16_000) :]
        state.buffer, state.post_stop_word_buffer = None, heard
        _, speech = self.model.vad((16_000, heard), _options.model_options(self.model_options))
        state.stop_word_detected = self.stop_word_detected(stt_for_chunks(self.stt_model, (16_000, heard), speech))
        if state.stop_word_detected:
            self.send_stopword()
        return False


# `isinstance` takes the handlers that run the plain classes for instances of them.
ReplyOnPause.register(turns.ReplyOnPause)
ReplyOnStopWords.register(turns.ReplyOnStopWords)
