"""`ReplyOnPause`: listen until the user pauses, reply, stop when he speaks again.

    receive ──→ TurnDetector ──→ events ──→ a reply is started, interrupted, resumed      (all in the loop's thread)
                                               │ task: fn(audio) → Outbox
    emit    ←── ledger ←── one chunk at a time ┘

A handler as any other: it stands on `AsyncStreamHandler` and what that offers to all. Code of the user's own is called
in five places (the reply function, the detector, `interrupt_when`, `resume_false_interruption`, `on_event`), and each
of them supervises: what is raised there costs one turn at most.
"""

from __future__ import annotations

import contextvars
import json
import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, TypeAlias

import anyio
import numpy as np
from numpy.typing import NDArray

from ...frames import ChannelLayout
from ...outputs import AdditionalOutputs, EmitType, WebRTCData
from ...protocol import messages
from ..base import AsyncStreamHandler
from .arguments import (
    check_algo_options,
    check_callback,
    check_reply_function,
    check_startup_function,
    check_vad_options,
    make_detector,
    name_of_function,
)
from .detector import ChunkTurns, TurnDetector, VoiceTurns
from .ear import Ear
from .events import DetectorEvent, SpeechEnded, SpeechStarted, StopWordHeard, TurnEnded
from .ledger import Heard
from .options import AlgoOptions, SileroVadOptions
from .recording import Recording
from .reply import CLOSING, Chunk, Outbox, Reply, ThreadRoom, run_reply
from .silero import get_silero_model
from .timeline import (
    FirstAudio,
    Interrupted,
    PlayoutFinished,
    ReplyFailed,
    ReplyStarted,
    Resumed,
    TurnEvent,
    TurnTimeline,
    event_message,
)
from .vad import ModelOptions, PauseDetectionModel, StreamingVadModel

logger = logging.getLogger(__name__)
turn_log = logging.getLogger("rtcflow.turns")
"""One record per turn, with its times under ``record.turn``."""

Audio: TypeAlias = tuple[int, NDArray[np.int16]]

TURNS_KEPT = 100
"""Turns whose times are kept (`ReplyOnPause.turns`)."""

MUTE = 0.25
"""Seconds without any audio from the peer, in the midst of a turn, from which on they count as silence: long enough for
a burst of packets to be late, shorter than any pause. Muted tracks and discontinuous transmission send nothing."""

FALSE_INTERRUPTION = 0.6
"""Seconds of speech up to which an interruption was none, with ``resume_false_interruption=True``: a cough, a knock, an
"mhm"; shorter than nearly every sentence."""

JUDGED = 10.0
"""Seconds of audio that `interrupt_when` is given at most, at each frame: what interrupts is said sooner."""

REPLY_THREADS = 3
"""Worker threads of one connection in functions of the user's: the reply's, and those of replies that were interrupted
and have not come to their next `yield`."""

ARGUMENTS_LATE = 10.0
"""Seconds after which it is said that the peer has not answered ``send_input``: a page does so at once."""


@dataclass(frozen=True, eq=False, slots=True)
class _Judged:
    """A turn of which it is being judged whether anything was said.

    Attributes:
        turn: Its times.
        audio: What was heard.
        scope: Calls the judgement off.
    """

    turn: TurnTimeline
    audio: Audio
    scope: anyio.CancelScope


class ReplyOnPause(AsyncStreamHandler):
    """Calls a function with what the user said when he pauses, and plays what it yields until he speaks again.

    Args:
        fn: Called with ``(sample_rate, samples)``: `input_sample_rate` Hz, int16, shape (channels, n); and, if it takes
            more, with the arguments the peer sent. A generator or an async generator that yields what `emit` may
            return, or `Say` (audio with its words), one at a time; or a function, ``async`` or not, that returns one
            such thing. What is not async runs in a worker thread and may block.
        startup_fn: Called once at the beginning, with as many of the peer's arguments as it takes; what it yields is
            played: a greeting.
        algo_options: When a turn begins, ends, and may interrupt.
        model_options: Options of the model; `SileroVadOptions` for the usual one.
        can_interrupt: Whether speech stops a reply. If not, the user is not listened to from the moment it is called
            until it was played.
        expected_layout: ``"mono"`` or ``"stereo"``: what `fn` is given.
        output_sample_rate: Hz; a multiple of 50. Chunks may have any other.
        output_frame_size: Deprecated and ignored.
        input_sample_rate: Hz.
        model: Tells speech from noise: a `StreamingVadModel` (the default is Silero VAD, extra ``rtcflow[vad]``), or a
            `PauseDetectionModel` as in FastRTC, which is called in a worker thread. Connections share it.
        needs_args: Wait for the peer's arguments before each reply although `fn` takes one argument only.
        detector: Makes a `TurnDetector` for each connection, in place of the usual one.
        interrupt_when: Asked at each frame whether the user, who has begun to speak while a reply is under way, shall
            interrupt it: given the audio since he began, as `fn` is, at most the last `JUDGED` seconds of it. Runs in
            the event loop. Where it says no until he is silent again, he has said nothing: an "mhm". None: he always
            shall.
        resume_false_interruption: At speech, hold the reply instead of cancelling it, and go on from where it was if
            nothing was said: if there was less than `FALSE_INTERRUPTION` seconds of speech (True), or if the given
            function, called with the audio in a worker thread, says False. The user is heard meanwhile; when he ends
            another turn before it has answered, both are one, and something was said.
        on_turn_error: ``"continue"``: a turn in which `fn`, the detector or one of the functions here raises is logged,
            the peer is told, and the next turn is heard. ``"end"``: the error ends the connection.
        on_event: Called in the event loop with each `TurnEvent`. What it raises harms no turn.

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
    ) -> None:
        super().__init__(expected_layout, output_sample_rate, output_frame_size, input_sample_rate)
        self._takes = check_reply_function(fn)
        self._takes_args = self._takes > 1 or needs_args
        greeting_needs, self._greeting_takes = (0, 0) if startup_fn is None else check_startup_function(startup_fn)
        self._greeting_takes_args = greeting_needs > 0 or (self._greeting_takes > 0 and self._takes_args)
        if model is not None and detector is not None:
            raise TypeError("model would not be asked: detector stands in its place; leave out one of the two")
        if on_turn_error not in {"continue", "end"}:
            raise ValueError(f'on_turn_error must be "continue" or "end", not {on_turn_error!r}')
        if interrupt_when is not None:
            check_callback("interrupt_when", interrupt_when, "def interrupt_when(audio): ... return True")
        if not isinstance(resume_false_interruption, bool):
            check_callback("resume_false_interruption", resume_false_interruption, "True, or: def said(audio): ...")
        if on_event is not None:
            check_callback("on_event", on_event, "def on_event(event): ...")
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
        }
        self.fn, self.startup_fn = fn, startup_fn
        self.algo_options = check_algo_options(algo_options)
        self.model_options = model_options
        self.can_interrupt = can_interrupt
        self.needs_args = needs_args
        self.model = model
        self.on_turn_error = on_turn_error
        self._interrupt_when = interrupt_when
        self._resume_when = resume_false_interruption
        self._on_event = on_event
        self._detector = self._make_detector() if detector is None else self._around(make_detector(detector))
        self._ear = Ear(self._detector, self.run_sync)
        pad = model_options.speech_pad_ms / 1000 if isinstance(model_options, SileroVadOptions) else 0.4
        self._pad, self._not_before = pad, 0.0
        self._recording = Recording(input_sample_rate, before=pad + 2 * self.algo_options.audio_chunk_duration)
        self._hearing = anyio.Lock(fast_acquire=True)
        self._last_frame = self._waiting_since = 0.0  # when one came; from when on none has come
        self._outbox = Outbox()
        self._threads = ThreadRoom(REPLY_THREADS)
        self._turn: TurnTimeline | None = None  # the user's, while he speaks
        self._reply: Reply | None = None  # the bot's, until it was played or interrupted
        self._last_reply: Reply | None = None
        self._judged: _Judged | None = None  # while a reply is held and a function judges why
        self._context: contextvars.Context | None = None  # in which replies know whose they are
        self._triggered = False
        self._turns: deque[TurnTimeline] = deque(maxlen=TURNS_KEPT)
        self._number = 0
        self._reported: set[tuple[str, type[Exception]]] = set()  # in this turn

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
            return self._around(VoiceTurns(model.stream(), self.algo_options, vad_options, blocking=blocking))
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

    # -- what the application sees

    @property
    def turns(self) -> tuple[TurnTimeline, ...]:
        """The times of the last `TURNS_KEPT` turns, the latest last: each has its entry when it is over.

        Those that were answered, failed, or were under way when the call ended; what was no turn (a false interruption)
        is not among them.
        """
        return tuple(self._turns)

    @property
    def bot_speaking(self) -> bool:
        """A reply can be heard: some of it has been emitted, and it has not been played to its end."""
        return self._reply is not None and not self._reply.paused and self._reply.turn.first_chunk is not None

    def heard(self) -> Heard:
        """What the peer has heard of the latest reply: the one under way, or else the one before."""
        reply = self._reply or self._last_reply
        if reply is None:
            return Heard(0.0, 0.0, "", complete=True)
        if reply.turn.interrupted is None:
            reply.ledger.played(self._heard_to())
        return reply.ledger.heard()

    def _heard_to(self) -> float:
        """How far the peer has heard: as far as was sent, or as the far side confirms."""
        playback = self.playback()
        return playback.played if playback.confirmed is None else playback.confirmed

    def trigger_response(self) -> None:
        """Reply now, to what the user has said in this turn so far (maybe nothing); from any thread."""
        self.loop.call_soon_threadsafe(self._trigger)

    def _trigger(self) -> None:
        if self._context is None:
            self._triggered = True  # before the connection is up: `emit` does it
        else:
            self._context.run(self._reply_now)

    def _reply_now(self) -> None:
        now = self.loop.time()
        turn, self._turn = self._turn or self._new_turn(), None
        audio = self._recording.take()
        self._ear.reset()
        self._start_reply(replace(turn, turn_end=now), audio)

    # -- hearing

    async def receive(self, frame: Audio) -> None:
        """Listen."""
        rate, samples = frame
        if self._is_deaf():
            self._forget_what_was_heard()
            return
        if self._ear.is_quick and not self._hearing.locked():  # nobody can come between
            await self._hear(samples, rate)
        else:
            async with self._hearing:
                await self._hear(samples, rate)

    async def _hear(self, samples: NDArray[np.int16], sample_rate: int) -> None:
        self._last_frame = self.loop.time()
        self._recording.add(samples)
        await self._heed(self._ear.feed(samples, sample_rate, bot_speaking=self.bot_speaking))

    async def _heed(self, answer: Awaitable[list[DetectorEvent]]) -> None:
        """Act on what the ear answers; if it fails, the turn under way is given up."""
        try:
            events = await answer
        except Exception as error:  # noqa: BLE001  supervises what a user's own model raises
            self._detector_failed(error)
        else:
            self._act_on(events)
        # What came meanwhile waits, and is received at once: only from now on can anything be missing.
        self._waiting_since = self.loop.time()

    def _is_deaf(self) -> bool:
        """Nobody may interrupt the reply that is under way; one that waits for its arguments is not yet."""
        return not self.can_interrupt and self._reply is not None and self._reply.turn.reply_called is not None

    def _forget_what_was_heard(self) -> None:
        """Be as at the beginning when hearing goes on."""
        self._turn = None
        self._recording.drop()
        self._not_before = self._recording.now
        self._ear.reset()

    def _detector_failed(self, error: Exception) -> None:
        self._give_up(error, "the turn detection model", type(self.model or self._detector).__qualname__)

    def _act_on(self, events: list[DetectorEvent]) -> None:
        if self._is_deaf():
            return
        for event in events:
            self._tell(event)
            match event:
                case SpeechStarted(at):
                    self._speech_started(at)
                    self._maybe_interrupt()
                case SpeechEnded(at):
                    self._speech_ended(at)
                case StopWordHeard():
                    self._stop_word_heard(event)
                case TurnEnded():
                    self._turn_ended(event)
        if not events:
            self._maybe_interrupt()

    def _give_up(self, error: Exception, what: str, name: str) -> None:
        """Give up the user's turn that is under way: code of his own has failed in it."""
        turn, self._turn = self._turn, None
        self._recording.drop()
        self._ear.reset()
        if turn is not None:
            self._record(replace(turn, failed=self.loop.time()))
        if self._report(error, what, name):
            self._tell(ReplyFailed(0 if turn is None else turn.number, error))
        if self._reply is not None and self._reply.paused and self._judged is None:
            self._resume(self._reply)  # else nobody would

    def _moment(self, at: float) -> float:
        """The loop's time at media time `at`."""
        return self._last_frame - (self._recording.now - at)

    def _speech_started(self, at: float) -> None:
        if self._turn is not None:
            self._speech_ended(None)
            return
        self._turn = replace(self._new_turn(), speech_start=self._moment(at))
        self._recording.begin(max(at - self._pad, self._not_before))
        self._log("started_talking")
        self.loop.create_task(self._watch_for_mute(self._turn.number))

    def _stop_word_heard(self, event: StopWordHeard) -> None:
        self._not_before = event.at

    def _new_turn(self) -> TurnTimeline:
        self._number += 1
        self._reported.clear()
        return TurnTimeline(self._number)

    def _speech_ended(self, at: float | None) -> None:
        if self._turn is not None:
            self._turn = replace(self._turn, speech_end=None if at is None else self._end_of_speech(self._turn, at))

    def _end_of_speech(self, turn: TurnTimeline, at: float) -> float:
        # What comes in a burst, after a stall of the network, is reckoned back from its arrival: too far.
        return max(self._moment(at), turn.speech_start or 0.0)

    def _in_turn(self, number: int) -> bool:
        return self._turn is not None and self._turn.number == number

    async def _watch_for_mute(self, number: int) -> None:
        """Count silence while the peer sends nothing, so that his turn ends all the same."""
        try:
            while self._in_turn(number):
                await anyio.sleep_until(self._waiting_since + MUTE)
                # Frames may be waiting to be received after a stall of the loop: they come first.
                await anyio.sleep(0.02)
                async with self._hearing:
                    silent = self.loop.time() - self._waiting_since
                    if silent >= MUTE and self._in_turn(number):
                        self._last_frame = self.loop.time()
                        self._recording.silence(silent)
                        await self._heed(self._ear.silence(silent))
        except anyio.get_cancelled_exc_class():
            if self._turn is not None and self._in_turn(number):
                self._record(replace(self._turn, call_ended=self.loop.time()))
            raise

    def _maybe_interrupt(self) -> None:
        reply = self._reply
        if self._turn is None or reply is None or reply.paused or not self.can_interrupt:
            return
        if self._interrupt_when is not None:
            try:
                shall = self._interrupt_when(self._recording.so_far(JUDGED))
            except Exception as error:  # noqa: BLE001  supervises
                self._give_up(error, "interrupt_when", name_of_function(self._interrupt_when))
                return
            if not shall:
                return
        if self._resume_when:
            self._hold(reply)
        else:
            self._interrupt()

    def _turn_ended(self, event: TurnEnded) -> None:
        turn, self._turn = self._turn or self._new_turn(), None
        turn = replace(turn, speech_end=self._end_of_speech(turn, event.speech_end), turn_end=self._last_frame)
        audio = self._recording.take()
        reply = self._reply
        if reply is None or not (reply.paused or self.can_interrupt):
            self._start_reply(turn, audio)
        elif not reply.paused:
            pass  # interrupt_when said no to the end: the bot was not interrupted
        elif self._judged is not None:  # who speaks again meanwhile has said something
            first, before = self._judged.turn, self._judged.audio
            self._start_reply(
                replace(first, speech_end=turn.speech_end, turn_end=turn.turn_end),
                (audio[0], np.concatenate([before[1], audio[1]], axis=1)),
            )
        elif callable(self._resume_when):
            self._judged = _Judged(turn, audio, anyio.CancelScope())
            self.loop.create_task(self._judge(self._judged, reply, self._resume_when))
        elif event.speech >= FALSE_INTERRUPTION:
            self._start_reply(turn, audio)
        else:
            self._resume(reply)

    async def _judge(self, judged: _Judged, reply: Reply, was_said: Callable[[Audio], bool]) -> None:
        """Have `was_said` decide what becomes of the held `reply`, while hearing goes on."""
        said, error = False, None
        try:
            with judged.scope:
                try:
                    said = bool(await self._threads.run(self.run_sync, was_said, judged.audio))
                except Exception as raised:  # noqa: BLE001  supervises
                    error = raised
        except anyio.get_cancelled_exc_class():
            self._record(replace(judged.turn, call_ended=self.loop.time()))
            raise
        if self._judged is not judged:
            return  # overtaken
        self._judged = None
        if error is not None:
            self._record(replace(judged.turn, failed=self.loop.time()))
            if self._report(error, "resume_false_interruption", name_of_function(was_said)):
                self._tell(ReplyFailed(judged.turn.number, error))
        if said:
            self._start_reply(judged.turn, judged.audio)
        elif self._turn is None:
            self._resume(reply)
        # Else he speaks again: the end of that decides.

    # -- interrupting

    def _interrupt(self) -> None:
        """Cancel the reply under way, and have nothing more of it heard."""
        reply = self._reply
        if reply is None:
            return
        now = self.loop.time()
        was_held = reply.paused  # and told so
        if self._judged is not None:
            self._judged.scope.cancel()
            self._judged = None
        reply.interrupt(now)
        self._outbox.drop()
        self.clear_queue()
        reply.ledger.played(self._heard_to())
        silent_since = reply.paused_at if was_held and reply.turn.first_chunk is not None else now
        self._finished(replace(reply.turn, interrupted=silent_since))
        if not was_held:
            self._tell(Interrupted(reply.turn.number, reply.ledger.heard()))

    def _hold(self, reply: Reply) -> None:
        """Silence the reply under way, but keep it, and what was not heard of it."""
        reply.pause(self.loop.time())
        self._outbox.pause()
        self.clear_queue()
        reply.ledger.played(self._heard_to())
        self._tell(Interrupted(reply.turn.number, reply.ledger.heard()))

    def _resume(self, reply: Reply) -> None:
        """Go on with what was held."""
        position = reply.ledger.heard()
        rest = [Chunk(reply, (rate, samples), text) for rate, samples, text in reply.ledger.rest()]
        if reply.all_emitted.is_set():  # its end follows once more, after what is played again
            reply.all_emitted = anyio.Event()
            rest.append(Chunk(reply, last=True))
        reply.resume()
        self._outbox.resume(rest)
        self._tell(Resumed(reply.turn.number, position))

    # -- replying

    async def start_up(self) -> None:
        """Play the greeting, if there is one."""
        if self.startup_fn is not None:
            self._start_reply(TurnTimeline(0), None)

    def _start_reply(self, turn: TurnTimeline, audio: Audio | None) -> None:
        """Answer `turn`: `audio` None calls `startup_fn`."""
        self._interrupt()
        self._reply = self._last_reply = Reply(turn)
        self.loop.create_task(self._run(self._reply, audio))

    async def _run(self, reply: Reply, audio: Audio | None) -> None:
        """The task of one reply: until it was played to its end, or interrupted."""
        fn = self.fn if audio is not None or self.startup_fn is None else self.startup_fn
        try:
            with reply.scope:
                try:
                    await self._reply_to(reply, fn, audio)
                except Exception as error:
                    if reply.cancelled:
                        logger.exception(
                            "the reply function %s raised while it was being interrupted", name_of_function(fn)
                        )
                    else:
                        reply.turn = replace(reply.turn, failed=self.loop.time())
                        self._report(error, "the reply function", name_of_function(fn), reply.turn.number)
                        self._tell(ReplyFailed(reply.turn.number, error))
                if not reply.cancelled:
                    await self._play_out(reply)
            if reply.cancelled and reply.scope.deadline < self.loop.time():
                logger.error(
                    "the reply function %s was interrupted, and its finally was cancelled after %g s",
                    name_of_function(fn),
                    CLOSING,
                )
        finally:
            reply.cancelled = True
            self._outbox.let_go()
            if reply is self._reply:
                reply.ledger.played(self._heard_to())
                self._finished(replace(reply.turn, call_ended=self.loop.time()))

    async def _reply_to(self, reply: Reply, fn: Callable[..., Any], audio: Audio | None) -> None:
        args = await self._arguments(reply.turn.number, greeting=audio is None)
        if audio is None:
            args = args[1:]
        elif isinstance(args[0], WebRTCData):
            args[0].audio = audio
        else:
            args[0] = audio
        reply.turn = replace(reply.turn, reply_called=self.loop.time())
        if audio is not None:
            self._log("pause_detected")
        self._tell(ReplyStarted(reply.turn.number))
        await run_reply(reply, fn, args, self._outbox, partial(self._threads.run, self.run_sync))

    async def _play_out(self, reply: Reply) -> None:
        await self._outbox.put(Chunk(reply, last=True))
        while True:
            await reply.all_emitted.wait()
            await self.wait_played(math.inf)
            if reply.all_emitted.is_set() and not reply.paused:
                break
            await reply.resumed.wait()
        if reply.turn.first_chunk is not None:
            await reply.sounded.wait()
        reply.ledger.played(self._heard_to())
        self._finished(replace(reply.turn, playout_end=self.loop.time()))
        self._tell(PlayoutFinished(reply.turn.number, reply.ledger.heard()))

    async def _arguments(self, number: int, *, greeting: bool) -> list[Any]:
        """The reply function's arguments, with room for the audio in front; or those of `startup_fn`, likewise."""
        takes, wanted = self._takes, self._takes_args
        if greeting:
            takes, wanted = 1 + self._greeting_takes, self._greeting_takes_args
            if not wanted:
                return [None]
        if wanted and not self.phone_mode:
            with anyio.move_on_after(ARGUMENTS_LATE):
                await self.wait_for_args()
            if not self.args_set.is_set():
                logger.warning(
                    "turn %d waits for its arguments: the peer was asked for them (send_input) and has not answered "
                    "within %g s. A page answers by posting them; who calls from elsewhere needs an fn that takes the "
                    "audio only, or set_args()",
                    number,
                    ARGUMENTS_LATE,
                )
                await self.args_set.wait()
        elif not isinstance(self.latest_args, list) or not self.phone_mode:
            self.latest_args = [None]
        assert isinstance(self.latest_args, list)
        return self.latest_args[:takes]

    def _finished(self, turn: TurnTimeline) -> None:
        """The reply is over: nothing of it will be heard from now on."""
        assert self._reply is not None
        self._reply.turn = turn
        self._reply = None
        if self._takes_args:
            self.reset()  # each turn asks for its arguments anew
        self._record(turn)

    def _record(self, turn: TurnTimeline) -> None:
        """A turn is over: told once for each."""
        self._turns.append(turn)
        times = turn.as_dict()
        turn_log.info("%s", turn, extra={"turn": times})
        self._send(json.dumps({"type": "turn", "data": times}))

    def _report(self, error: Exception, what: str, name: str, reply: int | None = None) -> bool:
        """Log what code of the user's raised, and tell the peer; False if it is known of this turn already.

        Args:
            error: What was raised.
            what: Which part of the application failed: this the peer may know.
            name: The function's, or the class's.
            reply: The turn whose reply failed, which happens once.
        """
        key = (what, type(error))
        if reply is None and key in self._reported:
            return False
        if reply is None:
            self._reported.add(key)
        logger.error("%s %s failed in turn %d", what, name, self._number if reply is None else reply, exc_info=error)
        self.tell_error(error, f"{what} failed")
        if self.on_turn_error == "end":
            self._outbox.fail(error)
        return True

    # -- speaking

    async def emit(self) -> EmitType:
        """Speak: the next chunk of the reply under way."""
        if self._context is None:
            self._context = contextvars.copy_context()
            if self._triggered:
                self._reply_now()
        while True:
            chunk = await self._outbox.take()
            reply = chunk.reply
            if reply is not self._reply:
                continue
            if chunk.last:
                self._all_emitted(reply)
                continue
            if self.phone_mode and isinstance(chunk.outputs, AdditionalOutputs):
                self.latest_args = [None, *chunk.outputs.args]
            if chunk.audio is not None:
                self._emitting(reply, chunk)
            extra = chunk.close or chunk.outputs
            if chunk.audio is None:
                return extra
            return chunk.audio if extra is None else (chunk.audio, extra)  # type: ignore[return-value]

    def _emitting(self, reply: Reply, chunk: Chunk) -> None:
        assert chunk.audio is not None
        playback = self.playback()
        position = playback.played + playback.waiting
        reply.ledger.played(self._heard_to())
        reply.ledger.begin(position)
        reply.ledger.add(*chunk.audio, chunk.text)
        if reply.turn.first_chunk is None:
            reply.turn = replace(reply.turn, first_chunk=self.loop.time())
            self._log("response_starting")
            self.loop.create_task(self._watch_first_frame(reply, position))

    async def _watch_first_frame(self, reply: Reply, position: float) -> None:
        await self.wait_played(position)
        if self.playback().played > position and reply is self._reply:
            reply.turn = replace(reply.turn, first_frame=self.loop.time())
            self._tell(FirstAudio(reply.turn.number))
        reply.sounded.set()

    def _all_emitted(self, reply: Reply) -> None:
        if reply.turn.first_chunk is None:
            self._log("response_starting")
        reply.ledger.close()
        reply.all_emitted.set()

    # -- telling

    def _tell(self, event: TurnEvent) -> None:
        if (message := event_message(event)) is not None:
            self._send(message)
        if self._on_event is not None:
            try:
                self._on_event(event)
            except Exception as error:  # noqa: BLE001  supervises; no turn depends on it
                self._report(error, "on_event", name_of_function(self._on_event))

    def _log(self, text: str) -> None:
        self._send(messages.encode(messages.Log(text)))

    def _send(self, text: str) -> None:
        """Tell the page, if it listens."""
        if self.channel is not None:
            try:
                self.channel.send(text)
            except (anyio.ClosedResourceError, anyio.WouldBlock):
                return  # there is nobody to tell, or nobody who listens
