"""`ReplyHandler`: speaks replies, which can be interrupted at any moment. The talking half of `ReplyOnPause`.

    emit ←── ledger ←── one chunk at a time ←── ReplyQueue ←── the reply's task: fn(…) or `say`
                 TurnState decides; `_do` does what it decided, in the loop's thread

The state (`state.py`) knows no task and no queue. This module knows no rule about turns: it starts tasks, clears queues
and sends messages because an action says so. The user's own code is called in two places here: the reply function and
`on_event`. An error in it costs one turn at most.
"""

from __future__ import annotations

import contextvars
import json
import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import anyio
import anyio.lowlevel
import numpy as np

from ..._core.guard import failure_in
from ...frames import ChannelLayout
from ...outputs import AdditionalOutputs, EmitType, WebRTCData
from ...protocol import messages
from ..base import AsyncStreamHandler
from ..ledger import Heard
from .arguments import check_callback, check_reply_function, check_startup_function
from .reply import CLOSING, Chunk, ChunkQueue, Reply, ThreadLimit, name_of_function, run_reply
from .state import (
    Action,
    Audio,
    CommitReply,
    DropReply,
    FinishReply,
    HoldReply,
    Record,
    ResumeReply,
    SendLog,
    StartReply,
    StopReply,
    Tell,
    TurnState,
)
from .timeline import Interrupted, PlayoutFinished, Resumed, TurnEvent, TurnTimeline, event_message, transcript_message
from .turn_audio import TurnAudio

logger: logging.Logger = logging.getLogger(__name__)
turn_log: logging.Logger = logging.getLogger("rtcflow.turns")
"""One record per turn, with its times under ``record.turn``."""

TURNS_KEPT = 100
"""Turns whose times are kept (`ReplyHandler.turns`)."""

REPLY_THREADS = 3
"""Worker threads of one connection that may run functions of the user. These are the thread of the reply, and those of
interrupted replies that have not reached their next `yield`.
"""

ARGUMENTS_LATE = 10.0
"""Seconds after which a warning says that the peer has not answered ``send_input``. A page answers at once."""

_replying: contextvars.ContextVar[Reply | None] = contextvars.ContextVar("rtcflow_reply", default=None)
"""The reply whose function runs here: in its task, and in its worker thread."""


around_reply: contextvars.ContextVar[Callable[[TurnTimeline], AbstractContextManager[object]]] = contextvars.ContextVar(
    "rtcflow_around_reply", default=nullcontext
)
"""Called with the turn that a reply answers; the reply runs inside what it returns, for traces. Set for one call by
`rtcflow.otel`."""


class ReplyHandler(AsyncStreamHandler):
    """Base class for handlers that speak replies; you write `receive` and `copy`.

    `reply_to` answers a text, `say` speaks by itself, `interrupt` stops what is being said. All three may be called
    from any thread. `ReplyOnPause` is a `ReplyHandler` that listens.

    Args:
        fn: The reply function. It is called with what is to be answered, and, if it takes more, with the arguments the
            peer sent. See `ReplyOnPause`.
        startup_fn: Called once at the beginning; what it yields is played as a greeting.
        expected_layout: ``"mono"`` or ``"stereo"``: what `receive` gets.
        output_sample_rate: Hz; a multiple of 50. Chunks may have any other rate.
        output_frame_size: Deprecated and ignored.
        input_sample_rate: Hz.
        needs_args: Wait for the peer's arguments before each reply, although `fn` takes one argument only.
        on_turn_error: ``"continue"``: an error of your code costs one turn. ``"end"``: it ends the connection.
        on_event: Called in the event loop with each `TurnEvent`.

    Raises:
        TypeError: An argument cannot be called, or is not what its name says.
        ValueError: An option is out of range.
    """

    latest_args: str | list[Any]

    def __init__(
        self,
        fn: Callable[..., Any],
        startup_fn: Callable[..., Any] | None = None,
        expected_layout: ChannelLayout = "mono",
        output_sample_rate: int = 24000,
        output_frame_size: int | None = None,
        input_sample_rate: int = 48000,
        *,
        needs_args: bool = False,
        on_turn_error: Literal["continue", "end"] = "continue",
        on_event: Callable[[TurnEvent], None] | None = None,
    ) -> None:
        super().__init__(expected_layout, output_sample_rate, output_frame_size, input_sample_rate)
        self._takes = check_reply_function(fn)
        self._takes_args = self._takes > 1 or needs_args
        greeting_needs, self._greeting_takes = (0, 0) if startup_fn is None else check_startup_function(startup_fn)
        self._greeting_takes_args = greeting_needs > 0 or (self._greeting_takes > 0 and self._takes_args)
        if on_turn_error not in {"continue", "end"}:
            raise ValueError(f'on_turn_error must be "continue" or "end", not {on_turn_error!r}')
        if on_event is not None:
            check_callback("on_event", on_event, "def on_event(event): ...")
        self.fn: Callable[..., Any] = fn
        self.startup_fn: Callable[..., Any] | None = startup_fn
        self.needs_args = needs_args
        self.on_turn_error = on_turn_error
        self._on_event = on_event
        self._state = self._make_state()
        self._outbox = ChunkQueue()
        self._threads = ThreadLimit(REPLY_THREADS)
        self._replies: dict[int, Reply] = {}  # whose tasks run
        self._reply: Reply | None = None  # until it was played or interrupted
        self._last_reply: Reply | None = None
        self._context: contextvars.Context | None = None  # in which replies know which handler is theirs
        self._early: list[Callable[[], None]] = []  # wanted before that was known
        self._doing = False
        self._stage = ""  # as the page was told
        self._changed = anyio.Event()
        self._saying = anyio.Lock(fast_acquire=True)
        self._turns: deque[TurnTimeline] = deque(maxlen=TURNS_KEPT)
        self._turn_watchers: list[Callable[[TurnTimeline], object]] = []
        self._reported: set[tuple[int, str, type[Exception]]] = set()

    def _make_state(self) -> TurnState:
        return TurnState(TurnAudio(self.input_sample_rate, before=0.0))

    def _unbind(self) -> None:
        super()._unbind()
        self._changed.set()  # `say` may wait for its turn

    # -- what the application sees

    @property
    def turns(self) -> tuple[TurnTimeline, ...]:
        """The times of the last `TURNS_KEPT` turns, the latest last: each has its entry when it is over.

        Turns that were answered, failed, or were under way when the call ended. A false interruption is not a turn.
        """
        return tuple(self._turns)

    @property
    def bot_speaking(self) -> bool:
        """A reply can be heard: some of it has been emitted, and it has not been played to its end."""
        return self._state.bot_speaking

    @property
    def _current_reply(self) -> Reply | None:
        """The reply whose function runs here, or else the one that is under way."""
        return _replying.get() or self._reply

    def heard(self) -> Heard:
        """What the peer has heard of the latest reply: the one under way, or else the one before.

        Audio that was dropped never counts: neither what an interruption dropped nor your own `clear_queue`.
        """
        reply = self._reply or self._last_reply
        if reply is None:
            return Heard(0.0, 0.0, "", complete=True)
        if not reply.stopped:
            reply.ledger.played(self._heard_to())
        return reply.ledger.heard()

    def _heard_to(self) -> float:
        """How far the peer has heard: as far as was sent, or as the far side confirms."""
        playback = self.playback()
        return playback.played if playback.confirmed is None else playback.confirmed

    # -- what the application wants

    def interrupt(self) -> None:
        """Stop the reply under way, as speech of the user does. From any thread; does nothing while nobody replies.

        The reply function is cancelled, what waits is dropped here and at the far side, and `Interrupted` is told. In
        the loop's thread that has happened on return. From other threads the queue is cleared on return, and the rest
        follows as soon as the loop runs.

        Raises:
            RuntimeError: The handler serves no connection yet.
        """
        super().clear_queue()
        self._interrupt_soon(self._reply)

    def clear_queue(self) -> float:
        """Drop everything emitted and not yet played, and interrupt the reply under way, as `interrupt` does.

        Called by the reply function itself, it only drops: the reply goes on, and `heard` knows what was dropped.

        Returns:
            Seconds of audio dropped on this side.

        Raises:
            RuntimeError: The handler serves no connection yet.
        """
        dropped = super().clear_queue()
        if self._reply is not None and _replying.get() is not self._reply:
            self._interrupt_soon(self._reply)
        return dropped

    def _interrupt_soon(self, reply: Reply | None) -> None:
        if reply is None:
            return
        if self.loop.runs_in_this_thread() and not self._doing:
            self._interrupt_reply(reply)
        else:
            self._soon(self._interrupt_reply, reply)

    def _interrupt_reply(self, reply: Reply) -> None:
        if self._state.is_current(reply.number):
            self._do(self._state.interrupt(self.loop.time()))

    def reply_to(self, text: str) -> None:
        """Answer `text` instead of speech: call the reply function with it. From any thread, at once.

        The reply function gets `text` where it otherwise gets the audio; a `WebRTCData` gets it as its `textbox`. It
        interrupts the reply under way. Speech of the user at that moment is dropped.

        Raises:
            TypeError: `text` is not a string.
            RuntimeError: The handler serves no connection yet.
        """
        if not isinstance(text, str):
            raise TypeError(f"reply_to needs the text to answer, not {text!r:.80}")
        self._bound("reply_to()")
        self._soon(self._reply_to_text, text)

    def _reply_to_text(self, text: str) -> None:
        self._do([*self._state.forget_user(), *self._state.speak(self.loop.time())], given=text)

    async def say(self, item: object, *, interruptible: bool = True) -> Heard:
        """Speak by yourself: wait until neither side has the turn, then play `item` to its end. A checkpoint.

        To speak at once, call `interrupt` first. In another thread, use `say_sync`. Several calls are played in their
        order.

        Args:
            item: `Say`, or audio as `emit` may return it; or a generator (async or not) of such items.
            interruptible: Speech may interrupt it. If not, the user is not listened to meanwhile.

        Returns:
            What was heard of it; not `complete` if it was interrupted. Nothing, if another reply took its place first,
            or the call has ended.

        Raises:
            MediaError: `item` cannot be played.
            RuntimeError: The handler serves no connection yet. Or the reply function itself calls this: it has the turn
                already, and would wait for its own end. There, yield the item.

        Cancelling this interrupts what it says.
        """
        self._bound("say()")
        if (replying := _replying.get()) is not None:
            replying.check_may_wait(anyio.get_current_task())
        if not hasattr(item, "__anext__") and not hasattr(item, "__next__"):
            Reply(TurnTimeline(0)).chunk(item)  # raises here what would cost a turn there

        async def said() -> object:
            return item

        async with self._saying:
            while not self._ended and (self._context is None or self._state.user or self._state.bot):
                await self._changed.wait()
            if self._ended:
                return Heard(0.0, 0.0, "", complete=False)
            self._do(self._state.speak(self.loop.time(), interruptible=interruptible), fn=said)
            reply = self._reply
        assert reply is not None  # noqa: S101
        try:
            await reply.over.wait()
        except anyio.get_cancelled_exc_class():
            self._interrupt_reply(reply)
            raise
        return reply.ledger.heard()

    def say_sync(self, item: object, **options: Any) -> Heard:
        """`say` for worker threads; see there."""
        if (replying := _replying.get()) is not None:
            replying.check_may_wait()
        return super().say_sync(item, **options)

    def hang_up(self, reason: str = "the handler hung up", *, after: Literal["played", "now"] = "played") -> None:
        """End the call. From any thread.

        Args:
            reason: The peer is told, and `End.reason` has it.
            after: ``"played"``: when the reply under way has been made and played to its end. On a telephone line, when
                the carrier has confirmed it. If the user interrupts that reply, the call goes
                on: ask again. ``"now"``: at once; what waits is dropped.

        Raises:
            ValueError: `after` is something else.
            RuntimeError: The handler serves no connection yet.
        """
        if after == "played" and self._current_reply is not None:
            self.loop.create_task(self._hang_up_after(self._current_reply, reason))
        else:
            super().hang_up(reason, after=after)

    async def _hang_up_after(self, reply: Reply, reason: str) -> None:
        await reply.over.wait()
        if not reply.stopped:
            super().hang_up(reason)

    def mark(self, name: str) -> None:
        """Note that the reply has come to a point, such as ``"llm_first_token"``: in `TurnTimeline.marks`.

        From any thread; the last of the same name counts. Outside of a reply it does nothing.
        """
        reply = self._current_reply
        if reply is not None:
            reply.marks[name] = self.loop.time()

    def show_question(self, text: str) -> None:
        """Show on the page what the user has said, as one side of the transcript; from any thread.

        Call it in the reply function, once the words are known. Those of a speculative reply that is dropped are never
        shown. The other side comes by itself, from the words of `Say`. `VoiceAgent` calls this for you.

        Raises:
            RuntimeError: It was called outside of a reply.
        """
        reply = self._current_reply
        if reply is None:
            raise RuntimeError("show_question() needs a reply: call it in the reply function")
        reply.question = text
        if reply.committed.is_set():
            self._show_question(reply)

    def _soon(self, wish: Callable[..., None], *args: Any) -> None:
        """Do what the application asked for, in the loop's thread, as soon as there is a connection."""
        self.loop.call_soon_threadsafe(self._in_context, partial(wish, *args))

    def _in_context(self, wish: Callable[[], None]) -> None:
        if self._context is None:
            self._early.append(wish)  # before the connection is up: `emit` does it
        else:
            self._context.run(wish)

    # -- doing what was decided

    def _do(self, actions: Iterable[Action], *, fn: Callable[..., Any] | None = None, given: Any = None) -> None:
        """Do the state's actions, in order.

        Args:
            actions: What to do.
            fn: What a `StartReply` among them calls, without arguments, instead of the reply function.
            given: What it answers, if that is not audio.
        """
        was_doing, self._doing = self._doing, True
        try:
            for action in actions:
                if isinstance(action, StartReply):
                    self._start_reply(action, fn, given)
                else:
                    self._do_one(action)
        finally:
            self._doing = was_doing
        self._show_stage()
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    def _do_one(self, action: Action) -> None:
        match action:
            case CommitReply(number):
                self._reply = self._last_reply = self._replies[number]
                self._reply.committed.set()
                self._show_question(self._reply)
                self._outbox.resume([])
            case DropReply(number):
                self._replies[number].stopped = True
                self._replies[number].interrupt(self.loop.time())
                self._outbox.drop()
                self._on_reply_over(self._replies[number], None)
            case StopReply():
                self._stop_reply(action)
            case HoldReply():
                self._hold_reply()
            case ResumeReply():
                self._resume_reply()
            case FinishReply():
                self._finish_reply(action)
            case Record(turn):
                self._record(turn)
            case Tell(event):
                self._tell(event)
            case SendLog(text):
                self._send_if_open(messages.encode(messages.Log(text)))

    def _start_reply(self, action: StartReply, fn: Callable[..., Any] | None, given: Any) -> None:
        reply = Reply(action.turn)
        reply.number = action.reply
        self._replies[action.reply] = reply
        if action.speculative:
            self._outbox.pause()
        else:
            reply.committed.set()
            self._reply = self._last_reply = reply
        given = action.given if given is None else given
        call: Callable[[], Awaitable[list[Any]]]
        if fn is None and given is None:
            fn, call = self.startup_fn, partial(self._arguments, reply, greeting=True)
        elif fn is None:
            fn, call = self.fn, partial(self._arguments, reply, given=given)
        else:
            call = self._no_arguments
        assert fn is not None  # noqa: S101
        self.loop.create_task(self._run(reply, fn, call), context=self._own_context())

    def _stop_reply(self, action: StopReply) -> None:
        reply = self._replies[action.reply]
        reply.stopped = True
        reply.interrupt(self.loop.time())
        self._outbox.drop()
        super().clear_queue()
        reply.ledger.played(self._heard_to())
        self._reply_is_over(reply, action.turn)
        if action.tell:
            self._tell(Interrupted(action.turn.number, reply.ledger.heard()))

    def _hold_reply(self) -> None:
        """Silence the reply under way, but keep it, and what was not heard of it."""
        reply = self._reply
        assert reply is not None  # noqa: S101
        reply.pause()
        self._outbox.pause()
        super().clear_queue()
        reply.ledger.played(self._heard_to())
        self._tell(Interrupted(reply.turn.number, reply.ledger.heard()))

    def _resume_reply(self) -> None:
        """Go on with what was held."""
        reply = self._reply
        assert reply is not None  # noqa: S101
        position = reply.ledger.heard()
        rest = [
            Chunk(reply, (rate, samples) if samples.size else None, text, again=True)
            for rate, samples, text in reply.ledger.rest()
        ]
        if reply.all_emitted.is_set():  # its end follows once more, after what is played again
            reply.all_emitted = anyio.Event()
            rest.append(Chunk(reply, last=True))
        reply.resume()
        self._outbox.resume(rest)
        self._tell(Resumed(reply.turn.number, position))

    def _finish_reply(self, action: FinishReply) -> None:
        reply = self._replies[action.reply]
        reply.ledger.played(self._heard_to())
        self._reply_is_over(reply, action.turn)
        if action.tell:
            self._tell(PlayoutFinished(action.turn.number, reply.ledger.heard()))

    def _reply_is_over(self, reply: Reply, turn: TurnTimeline) -> None:
        """Nothing of the reply will be heard from now on."""
        self._reply = None
        reply.over.set()
        heard = reply.ledger.heard()
        self._on_reply_over(reply, heard)
        self._show_words(reply, heard.text)
        if self._takes_args:
            self.reset()  # each turn asks for its arguments again
        self._record(replace(turn, marks=dict(reply.marks)))

    # -- replying

    async def start_up(self) -> None:
        """Play the greeting, if there is one. A checkpoint."""
        if self.startup_fn is not None:
            self._do(self._state.greet(self.loop.time()))
        await anyio.lowlevel.checkpoint()

    async def _run(self, reply: Reply, fn: Callable[..., Any], arguments: Callable[[], Awaitable[list[Any]]]) -> None:
        """The task of one reply: until it was played to its end, or interrupted."""
        _replying.set(reply)
        try:
            with around_reply.get()(reply.turn), reply.scope:
                try:
                    args = await arguments()
                    self._do(self._state.called(reply.number, self.loop.time()))
                    await run_reply(reply, fn, args, self._outbox, partial(self._threads.run, self.run_sync))
                except (Exception, anyio.get_cancelled_exc_class()) as raised:
                    if (error := failure_in(raised)) is None:
                        raise
                    if not reply.cancelled:
                        await reply.committed.wait()
                    if reply.cancelled:
                        logger.exception(
                            "the reply function %s raised while it was being interrupted", name_of_function(fn)
                        )
                    else:
                        self._report(error, "the reply function", name_of_function(fn), reply.turn.number)
                        self._do(self._state.raised(reply.number, error, self.loop.time()))
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
            self._do(self._state.call_ended(reply.number, self.loop.time()))
            del self._replies[reply.number]
            reply.over.set()

    async def _play_out(self, reply: Reply) -> None:
        await self._outbox.put(Chunk(reply, last=True))
        while True:
            await reply.all_emitted.wait()
            await self.wait_played(math.inf)
            if reply.all_emitted.is_set() and not reply.paused:
                break
            await reply.resumed.wait()
        if reply.has_sound:
            await reply.sounded.wait()
        self._do(self._state.played(reply.number, self.loop.time()))

    async def _no_arguments(self) -> list[Any]:
        return []

    async def _arguments(self, reply: Reply, *, given: Audio | str | None = None, greeting: bool = False) -> list[Any]:
        """The reply function's arguments; or those of `startup_fn`, which does not get what was said."""
        takes, wanted = self._takes, self._takes_args
        if greeting:
            takes, wanted = 1 + self._greeting_takes, self._greeting_takes_args
            if not wanted:
                return []
        if wanted and not self.phone_mode:
            with anyio.move_on_after(ARGUMENTS_LATE):
                await self.wait_for_args()
            if not self.args_set.is_set():
                logger.warning(
                    "turn %d waits for its arguments: the peer was asked for them (send_input) and has not answered "
                    "within %g s. A page answers by posting them. A caller from elsewhere needs an fn that takes the "
                    "audio only, or set_args()",
                    reply.turn.number,
                    ARGUMENTS_LATE,
                )
                await self.args_set.wait()
        elif not isinstance(self.latest_args, list) or not self.latest_args or not self.phone_mode:
            self.latest_args = [None]
        assert isinstance(self.latest_args, list)  # noqa: S101
        args = self.latest_args[:takes]
        if greeting:
            return args[1:]
        if isinstance(args[0], WebRTCData) and isinstance(given, str):
            args[0].textbox = given
        elif isinstance(args[0], WebRTCData):
            args[0].audio = given
        else:
            args[0] = given
        return args

    def watch_turns(self, watcher: Callable[[TurnTimeline], object]) -> None:
        """Have `watcher` called in the event loop with each turn that is over, for traces. It must return at once."""
        self._turn_watchers.append(watcher)

    def _record(self, turn: TurnTimeline) -> None:
        """A turn is over: told once for each."""
        self._turns.append(turn)
        times = turn.as_dict()
        turn_log.info("%s", turn, extra={"turn": times})
        self._send_if_open(json.dumps({"type": "turn", "data": times}))
        for watcher in self._turn_watchers:
            watcher(turn)

    def _report(self, error: Exception, what: str, name: str, reply: int | None = None) -> bool:
        """Log what the user's code raised, and tell the peer; False if it was reported in this turn already.

        Args:
            error: What was raised.
            what: Which part of the application failed; the peer may know that.
            name: The name of the function or class.
            reply: The turn whose reply failed, which happens once.
        """
        number = self._state.number
        if reply is None:
            key = (number, what, type(error))
            if key in self._reported:
                return False
            self._reported = {known for known in self._reported if known[0] == number} | {key}
        logger.error("%s %s failed in turn %d", what, name, number if reply is None else reply, exc_info=error)
        self.tell_error(error, f"{what} failed")
        if self.on_turn_error == "end":
            self._outbox.fail(error)
        return True

    # -- speaking

    async def emit(self) -> EmitType:
        """Speak: the next chunk of the reply under way. A checkpoint only if it waits."""
        if self._context is None:
            self._context = contextvars.copy_context()
            wishes, self._early = self._early, []
            for wish in wishes:
                wish()
            self._do([])  # `say` may wait for this
        while True:
            chunk = await self._outbox.take()
            reply = chunk.reply
            if reply is not self._reply:
                continue
            if chunk.last:
                self._do(self._state.all_emitted(reply.number))
                reply.ledger.close()
                reply.all_emitted.set()
                continue
            if self.phone_mode and isinstance(chunk.outputs, AdditionalOutputs):
                self.latest_args = [None, *chunk.outputs.args]
            if chunk.text and not chunk.again:
                reply.words += chunk.text
                self._show_words(reply)
            if chunk.audio is not None:
                self._emitting(reply, chunk)
            elif chunk.text:  # words that end with the sound before them
                reply.ledger.add(self.output_sample_rate, np.empty((1, 0), np.int16), chunk.text)
            extra = chunk.close or chunk.outputs
            if chunk.audio is None:
                if extra is None:
                    continue
                return extra
            return chunk.audio if extra is None else (chunk.audio, extra)  # type: ignore[return-value]

    def _emitting(self, reply: Reply, chunk: Chunk) -> None:
        assert chunk.audio is not None  # noqa: S101
        playback = self.playback()
        position = playback.played + playback.waiting
        reply.ledger.played(self._heard_to())
        reply.ledger.begin(position)
        reply.ledger.add(*chunk.audio, chunk.text)
        if not reply.has_sound:
            reply.has_sound = True
            self._do(self._state.emitted(reply.number, self.loop.time()))
            self.loop.create_task(self._watch_first_frame(reply, position))

    async def _watch_first_frame(self, reply: Reply, position: float) -> None:
        await self.wait_played(position)
        if self.playback().played > position:
            self._do(self._state.left(reply.number, self.loop.time()))
        reply.sounded.set()

    # -- telling

    def _on_reply_over(self, reply: Reply, heard: Heard | None) -> None:
        """A reply is over. For subclasses; called once for each, in the event loop.

        Args:
            reply: Which.
            heard: What was heard of it; None for a speculative reply that was dropped.
        """

    def _on_turn_event(self, event: TurnEvent) -> None:
        """Something happened in a turn. For subclasses; called before `on_event`."""

    def _tell(self, event: TurnEvent) -> None:
        if (message := event_message(event)) is not None:
            self._send_if_open(message)
        self._on_turn_event(event)
        if self._on_event is not None:
            try:
                if (context := self._own_context()) is None:
                    self._on_event(event)
                else:  # the application's own code has interrupted
                    context.run(self._on_event, event)
            except Exception as error:  # noqa: BLE001  supervises; no turn depends on it
                self._report(error, "on_event", name_of_function(self._on_event))

    def _show_stage(self) -> None:
        if self._stage != self._state.stage and self.channel is not None:
            self._stage = self._state.stage
            self._send_if_open(json.dumps({"type": "state", "data": self._stage}))

    def _show_question(self, reply: Reply) -> None:
        if reply.question:
            self._send_if_open(transcript_message("user", reply.question, f"{reply.number}-user"))

    def _show_words(self, reply: Reply, heard: str | None = None) -> None:
        if reply.words:
            self._send_if_open(transcript_message("assistant", reply.words, f"{reply.number}-bot", heard=heard))


__all__ = ["ReplyHandler"]
