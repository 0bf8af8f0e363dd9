"""`ReplyOnPause`: listen until the user pauses, reply, and stop when the user speaks again.

    receive ──→ filters ──→ recording, TurnDetector ──→ events ──→ TurnState ──→ actions     (in the loop's thread)

It is a `ReplyHandler` that listens. The application's code is called in three more places: the detector,
`interrupt_when` and `resume_false_interruption`. An error there is logged, and costs one turn at most.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal

import anyio
import numpy as np
from numpy.typing import NDArray

from ...frames import AudioFormat, ChannelLayout
from ...media.filters import FilterChain, MakesFilter, PlayedAudio
from .arguments import check_algo_options, check_callback, check_vad_options, make_detector
from .detector import ChunkTurns, TurnDetector, VoiceTurns
from .detector_runner import DetectorRunner
from .events import DetectorEvent, StopWordHeard
from .options import AlgoOptions, SileroVadOptions
from .reply import name_of_function
from .reply_handler import ReplyHandler
from .silero import get_silero_model
from .state import Action, AskInterrupt, Audio, JudgeSpeech, ResetDetector, Resume, StopJudging, TurnState, WatchForMute
from .timeline import ReplyFailed, TurnEvent
from .turn_audio import TurnAudio
from .vad import ModelOptions, PauseDetectionModel, StreamingVadModel

MUTE = 0.25
"""Seconds. If the peer sends no audio for this long within a turn, that counts as silence. It is long enough for a
burst of packets to be late, and shorter than any pause. Muted tracks and discontinuous transmission send nothing.
"""


class ReplyOnPause(ReplyHandler):
    """Calls a function with what the user said at each pause, and plays what it yields until the user speaks again.

    Args:
        fn: Called with ``(sample_rate, samples)``: `input_sample_rate` Hz, int16, shape (channels, n). Further
            positional arguments get what the peer sent. A generator or an async generator yields items one at a time.
            An item is what `emit` may return, or `Say` (audio with its words). A function, ``async`` or not, returns
            one such item. A function that is not async runs in a worker thread and may block. `reply_to` calls it with
            a text instead of audio.
        startup_fn: Called once at the beginning, with as many of the peer's arguments as it takes. It yields a
            greeting, which is played.
        algo_options: When a turn begins, ends, and may interrupt.
        model_options: Options of the model; `SileroVadOptions` for the usual one.
        can_interrupt: Whether speech stops a reply. If not, the user is not listened to from the call of the reply
            function until the reply was played.
        expected_layout: ``"mono"`` or ``"stereo"``: what `fn` gets.
        output_sample_rate: Hz; a multiple of 50. Chunks may have any other rate.
        output_frame_size: Deprecated and ignored.
        input_sample_rate: Hz.
        model: Tells speech from noise: a `StreamingVadModel` (the default is Silero VAD, extra ``rtcflow[vad]``). Or a
            `PauseDetectionModel` as in FastRTC, which is called in a worker thread. Connections share it.
        needs_args: Wait for the peer's arguments before each reply, although `fn` takes one argument only.
        detector: Makes a `TurnDetector` for each connection, in place of the usual one.
        interrupt_when: Asked at each frame whether the user interrupts, once the user has begun to speak during a
            reply. It gets the audio since then, as `fn` does, at most the last 10 seconds. It runs in the event loop.
            If it returns False until the user is silent, the sound is ignored: an "mhm". None: speech always
            interrupts.
        resume_false_interruption: At speech, hold the reply instead of cancelling it. It goes on from where it was if
            the speech was a false alarm. With True, speech shorter than 0.6 seconds is one. A function is called with
            the audio in a worker thread, and returns False for a false alarm. The user is heard meanwhile. If the user
            finishes a second turn first, both turns are answered together.
        on_turn_error: ``"continue"``: `fn`, the detector or one of the functions here may raise. The error is logged,
            the peer is told, and the next turn is heard. ``"end"``: the error ends the connection.
        on_event: Called in the event loop with each `TurnEvent`. What it raises harms no turn.
        speculative: Call `fn` at each likely end of the turn (0.1 s of silence), before the pause is over. Its output
            is held back until the turn has ended. If the user goes on, the call is cancelled and nothing of it is heard
            or told. So replies are sooner by up to the pause less 0.1 s, and `fn` is called at each breath.
        filters: What the caller's audio goes through before turn detection, in this order, such as
            ``[rtcflow.speech.denoise.Denoiser]``. Each makes an `AudioFilter` for one call from an `AudioFormat`. `fn`
            gets filtered audio; recordings of the call do not. If a filter raises, the frame is heard unfiltered.

    Raises:
        TypeError: An argument cannot be called, or is not what its name says.
        ValueError: An option is out of range.
        RuntimeError: No model was given and the extra ``rtcflow[vad]`` is not installed.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        startup_fn: Callable[..., Any] | None = None,
        algo_options: AlgoOptions | None = None,
        model_options: ModelOptions = None,
        can_interrupt: bool = True,  # noqa: FBT001, FBT002  the reference's order
        expected_layout: ChannelLayout = "mono",
        output_sample_rate: int = 24000,
        output_frame_size: int | None = None,
        input_sample_rate: int = 48000,
        model: PauseDetectionModel | StreamingVadModel | None = None,
        needs_args: bool = False,  # noqa: FBT001, FBT002
        *,
        detector: Callable[[], TurnDetector] | None = None,
        interrupt_when: Callable[[Audio], bool] | None = None,
        resume_false_interruption: bool | Callable[[Audio], bool] = False,
        on_turn_error: Literal["continue", "end"] = "continue",
        on_event: Callable[[TurnEvent], None] | None = None,
        speculative: bool = False,
        filters: Sequence[MakesFilter] = (),
    ) -> None:
        if model is not None and detector is not None:
            raise TypeError("model would not be asked: detector stands in its place; leave out one of the two")
        if interrupt_when is not None:
            check_callback("interrupt_when", interrupt_when, "def interrupt_when(audio): ... return True")
        if not isinstance(resume_false_interruption, bool):
            check_callback("resume_false_interruption", resume_false_interruption, "True, or: def said(audio): ...")
        self._settings: dict[str, Any] = {
            "fn": fn,
            "startup_fn": startup_fn,
            "algo_options": algo_options,
            "model_options": model_options,
            "can_interrupt": can_interrupt,
            "expected_layout": expected_layout,
            "output_sample_rate": output_sample_rate,
            "input_sample_rate": input_sample_rate,
            "model": model,
            "needs_args": needs_args,
            "detector": detector,
            "interrupt_when": interrupt_when,
            "resume_false_interruption": resume_false_interruption,
            "on_turn_error": on_turn_error,
            "on_event": on_event,
            "speculative": speculative,
            "filters": filters,
        }
        self.algo_options: AlgoOptions = check_algo_options(algo_options)
        self.model_options = model_options
        self.can_interrupt = can_interrupt
        self.speculative = speculative
        self.model = model
        self._interrupt_when = interrupt_when
        self._resume_when = resume_false_interruption
        super().__init__(
            fn,
            startup_fn,
            expected_layout,
            output_sample_rate,
            output_frame_size,
            input_sample_rate,
            needs_args=needs_args,
            on_turn_error=on_turn_error,
            on_event=on_event,
        )
        self._detector = self._make_detector() if detector is None else self._around(make_detector(detector))
        heard = AudioFormat(self.input_sample_rate, self.expected_layout)
        self._filters = FilterChain(filters, heard) if filters else None
        self._played: PlayedAudio | None = None
        self._runner = DetectorRunner(self._detector, self.run_sync)
        self._hearing = anyio.Lock(fast_acquire=True)
        self._waiting_since = 0.0  # from when on no frame has come
        self._judging: anyio.CancelScope | None = None

    def _make_state(self) -> TurnState:
        options = self.model_options
        pad = options.speech_pad_ms / 1000 if isinstance(options, SileroVadOptions) else 0.4
        resume = {True: Resume.IF_SHORT, False: Resume.NEVER}
        when = self._resume_when
        return TurnState(
            TurnAudio(self.input_sample_rate, before=pad + 2 * self.algo_options.audio_chunk_duration),
            pad=pad,
            can_interrupt=self.can_interrupt,
            asks=self._interrupt_when is not None,
            resume=resume[when] if isinstance(when, bool) else Resume.IF_JUDGED,
            speculative=self.speculative,
        )

    def _make_detector(self) -> TurnDetector:
        """The detector of one connection, when none was given."""
        model = self.model
        if isinstance(model, type):
            raise TypeError(f"model must be a model, not its class; write: model={model.__name__}()")
        if model is None:
            model = get_silero_model()
        if isinstance(model, StreamingVadModel):
            vad_options = check_vad_options(self.model_options)
            blocking = bool(getattr(model, "blocking", False))
            eager = self.speculative
            return self._around(
                VoiceTurns(model.stream(), self.algo_options, vad_options, blocking=blocking, eager=eager)
            )
        if callable(getattr(model, "vad", None)):
            return self._around(ChunkTurns(model, self.algo_options, self.model_options))
        raise TypeError(
            f"model must have a method vad(audio, options) or stream(), as PauseDetectionModel or StreamingVadModel, "
            f"not {model!r:.80}"
        )

    def _around(self, detector: TurnDetector) -> TurnDetector:
        """What a subclass puts around the detector."""
        return detector

    def copy(self) -> ReplyOnPause:
        """A fresh handler with the same settings; a subclass with other arguments brings its own."""
        return type(self)(**self._settings)

    def trigger_response(self) -> None:
        """Reply now, to what the user has said in this turn so far (maybe nothing); from any thread."""
        self._soon(self._reply_now)

    def _reply_now(self) -> None:
        self._do(self._state.respond(self.loop.time()))

    # -- hearing

    async def receive(self, frame: Audio) -> None:
        """Listen. A checkpoint only if it waits."""
        rate, samples = frame
        if self._filters is not None:  # also while nobody listens: an echo is learnt while the bot speaks
            samples = self._filter(self._filters, samples)
        if self._state.deaf:
            self._state.forget_user()
            self._runner.reset()
        elif self._runner.is_quick and not self._hearing.locked():  # nobody can come between
            await self._hear(samples, rate)
        else:
            async with self._hearing:
                await self._hear(samples, rate)

    def _filter(self, filters: FilterChain, samples: NDArray[np.int16]) -> NDArray[np.int16]:
        played = None
        if filters.needs_played:
            connection = self._bound("an echo canceller")
            if self._played is None:
                self._played = PlayedAudio(self.input_sample_rate)
                connection.tap_played(self._played)
            played = self._played.take(samples.shape[1], connection.playout_time)
        try:
            return filters.feed(samples, played)
        except Exception as error:  # noqa: BLE001  supervises: a filter may be the user's own
            self._report(error, "an audio filter", filters.names)
            return samples  # no reply fails: the turn goes on without it

    async def _hear(self, samples: NDArray[np.int16], sample_rate: int) -> None:
        late = 0.0 if self._filters is None else self._filters.latency
        self._state.heard(samples, self.loop.time() - late)
        await self._heed(self._runner.feed(samples, sample_rate, bot_speaking=self.bot_speaking))

    async def _heed(self, answer: Awaitable[list[DetectorEvent]]) -> None:
        """Act on what the detector answers; if it fails, the turn under way is given up."""
        try:
            events = await answer
        except Exception as error:  # noqa: BLE001  supervises what a user's own model raises
            self._listening_failed(error, "the turn detection model", type(self.model or self._detector).__qualname__)
        else:
            self._act_on(events)
        # Audio that came meanwhile waits, and is received at once. Audio can only be missing from now on.
        self._waiting_since = self.loop.time()

    def _act_on(self, events: list[DetectorEvent]) -> None:
        if self._state.deaf:
            return
        if not events and (actions := self._state.still_speaking(self.loop.time())):
            self._do(actions)
        for event in events:
            self._do(self._state.detected(event, self.loop.time()))
            if isinstance(event, StopWordHeard):
                self._stop_word_heard(event)

    def _stop_word_heard(self, event: StopWordHeard) -> None:
        """For subclasses."""

    def _listening_failed(self, error: Exception, what: str, name: str) -> None:
        """The user's code that listens has failed: give up the turn under way."""
        turn = self._state.user
        actions = self._state.listening_failed(self.loop.time())
        if self._report(error, what, name):
            self._tell(ReplyFailed(0 if turn is None else turn.number, error))
        self._do(actions)

    async def _watch_for_mute(self, number: int) -> None:
        """Count silence while the peer sends nothing, so that the user's turn ends all the same."""
        try:
            while self._state.in_turn(number):
                await anyio.sleep_until(self._waiting_since + MUTE)
                # Frames may be waiting to be received after a stall of the loop: they come first.
                await anyio.sleep(0.02)
                async with self._hearing:
                    silent = self.loop.time() - self._waiting_since
                    if silent >= MUTE and self._state.in_turn(number):
                        self._state.silence(silent, self.loop.time())
                        await self._heed(self._runner.silence(silent))
        except anyio.get_cancelled_exc_class():
            self._do(self._state.user_left(number, self.loop.time()))
            raise

    # -- doing what was decided

    def _do_one(self, action: Action) -> None:
        match action:
            case ResetDetector():
                self._runner.reset()
            case AskInterrupt(audio):
                self._ask_interrupt(audio)
            case JudgeSpeech():
                self._judging = anyio.CancelScope()
                self.loop.create_task(self._judge(action, self._judging))
            case StopJudging():
                if self._judging is not None:
                    self._judging.cancel()
            case WatchForMute(number):
                self.loop.create_task(self._watch_for_mute(number))
            case _:
                super()._do_one(action)

    def _ask_interrupt(self, audio: Audio) -> None:
        assert self._interrupt_when is not None  # noqa: S101
        try:
            interrupts = bool(self._interrupt_when(audio))
        except Exception as error:  # noqa: BLE001  supervises
            self._listening_failed(error, "interrupt_when", name_of_function(self._interrupt_when))
        else:
            self._do(self._state.interrupt_answered(interrupts, self.loop.time()))

    async def _judge(self, asked: JudgeSpeech, scope: anyio.CancelScope) -> None:
        """Have a function decide whether anything was said, while hearing goes on."""
        was_said = self._resume_when
        assert callable(was_said)  # noqa: S101
        said, error = False, None
        try:
            with scope:
                try:
                    said = bool(await self._threads.run(self.run_sync, was_said, asked.audio))
                except Exception as raised:  # noqa: BLE001  supervises
                    error = raised
        except anyio.get_cancelled_exc_class():
            self._do(self._state.judge_left(asked.turn, self.loop.time()))
            raise
        actions = self._state.speech_judged(asked.turn.number, said, self.loop.time(), failed=error is not None)
        if actions and error is not None:
            name = name_of_function(was_said)
            if self._report(error, "resume_false_interruption", name):
                self._tell(ReplyFailed(asked.turn.number, error))
        self._do(actions)


__all__ = ["ReplyOnPause"]
