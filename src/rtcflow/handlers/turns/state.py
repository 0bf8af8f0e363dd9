"""Whose turn it is, decided without waiting: events and `now` in, actions out.

`TurnState` knows two turns. The *user's* turn lasts from the first speech to the decision that it is over. The *bot's*
turn lasts from the decision to reply until the reply was played or interrupted. Each method is an event. It takes the
moment at which it happened and returns what must be done, in order. The state changes before anything is done, so an
action can never find the state of a moment ago. h11 and similar protocol libraries are built the same way.

    user   silent ──SpeechStarted──→ speaks ──TurnEnded──→ silent
    bot    silent ──StartReply──→ replies ──played──→ silent
                                  replies ──speech──→ held ──it was nothing──→ replies        (only with `resume`)
                                  replies, held ──interruption──→ silent

The alternative was the handler's own attributes, read and written between awaits. There each new way to end a reply had
to be thought through against every other one. Here laws are checked over all orders of events (`test_state.py`).

All times are seconds on one monotonic clock, except the media times in the detector's events.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from .events import DetectorEvent, SpeechEnded, SpeechStarted, StopWordHeard, TurnEnded
from .timeline import FirstAudio, ReplyFailed, ReplyStarted, TurnTimeline
from .turn_audio import TurnAudio

Audio: TypeAlias = tuple[int, NDArray[np.int16]]
"""``(sample_rate, samples)``: int16, shape (channels, n)."""

FALSE_INTERRUPTION = 0.6
"""Seconds. Shorter speech counts as a false alarm with ``resume_false_interruption=True``. A cough, a knock or an "mhm"
is shorter than this, and nearly every sentence is longer.
"""

JUDGED = 10.0
"""Seconds of audio that `interrupt_when` gets at most, so that a long speech costs no more at each frame."""


class Resume(enum.Enum):
    """What happens to a reply when the user begins to speak."""

    NEVER = enum.auto()
    """It is interrupted at once."""
    IF_SHORT = enum.auto()
    """It is held, and goes on if there was less than `FALSE_INTERRUPTION` of speech."""
    IF_JUDGED = enum.auto()
    """It is held until a function has judged the audio."""


class Phase(enum.Enum):
    """Where a reply is."""

    SPECULATIVE = enum.auto()
    """Its function runs, but the user's turn may not be over: nothing of it may be heard, and nothing told."""
    REPLYING = enum.auto()
    HELD = enum.auto()
    """The user speaks: it is silent, and goes on if that turns out to be a false alarm."""


# -- what must be done


@dataclass(frozen=True, slots=True)
class StartReply:
    """Call the reply function.

    Attributes:
        reply: Number of this reply; it names the reply in later events and actions.
        turn: The turn it answers.
        given: What the user said; None for a reply that answers nobody.
        speculative: Hold its output back until `CommitReply`.
    """

    reply: int
    turn: TurnTimeline
    given: Audio | None
    speculative: bool = False


@dataclass(frozen=True, slots=True)
class CommitReply:
    """The turn is over: let the speculative reply be heard."""

    reply: int


@dataclass(frozen=True, slots=True)
class DropReply:
    """Cancel a speculative reply. Nobody has heard or been told of it."""

    reply: int


@dataclass(frozen=True, slots=True)
class StopReply:
    """Cancel a reply, drop all of it that was not played, and record its turn.

    Attributes:
        reply: Which.
        turn: Its times.
        tell: `Interrupted` has not been told yet.
    """

    reply: int
    turn: TurnTimeline
    tell: bool


@dataclass(frozen=True, slots=True)
class HoldReply:
    """Silence a reply, but keep what was not heard of it."""

    reply: int


@dataclass(frozen=True, slots=True)
class ResumeReply:
    """Let a held reply go on from where it was."""

    reply: int


@dataclass(frozen=True, slots=True)
class AskInterrupt:
    """Ask `interrupt_when` whether the user interrupts with this; answer with `TurnState.interrupt_answered`."""

    audio: Audio


@dataclass(frozen=True, slots=True)
class JudgeSpeech:
    """Have a function judge whether anything was said in this turn; answer with `TurnState.speech_judged`."""

    turn: TurnTimeline
    audio: Audio


@dataclass(frozen=True, slots=True)
class StopJudging:
    """The answer is not needed any more."""


@dataclass(frozen=True, slots=True)
class WatchForMute:
    """Call `TurnState.silence` while the peer sends nothing and this turn lasts."""

    turn: int


@dataclass(frozen=True, slots=True)
class ResetDetector:
    """Have the detector forget the turn under way."""


@dataclass(frozen=True, slots=True)
class Record:
    """A turn is over: publish its times. Once for each turn."""

    turn: TurnTimeline


@dataclass(frozen=True, slots=True)
class FinishReply:
    """A reply is over without an interruption: record its turn.

    Attributes:
        reply: Which.
        turn: Its times.
        tell: It was played to its end, so tell `PlayoutFinished`.
    """

    reply: int
    turn: TurnTimeline
    tell: bool


@dataclass(frozen=True, slots=True)
class Tell:
    """Tell the application and the peer."""

    event: DetectorEvent | ReplyStarted | FirstAudio | ReplyFailed


@dataclass(frozen=True, slots=True)
class SendLog:
    """Send the peer a log message, in FastRTC's words."""

    text: str


Action: TypeAlias = (
    StartReply
    | CommitReply
    | DropReply
    | StopReply
    | HoldReply
    | ResumeReply
    | AskInterrupt
    | JudgeSpeech
    | StopJudging
    | WatchForMute
    | ResetDetector
    | Record
    | FinishReply
    | Tell
    | SendLog
)


# -- the state


@dataclass(slots=True)
class Bot:
    """The bot's turn.

    Attributes:
        reply: Number of the reply.
        turn: Times of the turn it answers.
        phase: Where it is.
        interruptible: Speech may interrupt it.
        held_at: When it was held last.
    """

    reply: int
    turn: TurnTimeline
    phase: Phase = Phase.REPLYING
    interruptible: bool = True
    held_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Judged:
    """A turn of the user's about which a function has not answered yet."""

    turn: TurnTimeline
    audio: Audio


@dataclass(slots=True)
class TurnState:
    """Both sides of one conversation.

    Args:
        recording: Keeps the audio of the user's turn.
        pad: Seconds of audio kept from before the first speech.
        can_interrupt: Speech interrupts replies.
        asks: A function decides at each frame whether speech interrupts.
        resume: What happens to a reply when the user speaks.
        speculative: Start the reply at each end of speech, before the pause is over.

    Attributes:
        user: The user's turn, while it lasts.
        bot: The bot's turn, while it lasts.
        judged: The user's turn that is being judged.
        number: Number of the latest turn.
        last_frame: When audio came last.
    """

    recording: TurnAudio
    pad: float = 0.4
    can_interrupt: bool = True
    asks: bool = False
    resume: Resume = Resume.NEVER
    speculative: bool = False
    user: TurnTimeline | None = None
    bot: Bot | None = None
    judged: Judged | None = None
    number: int = 0
    last_frame: float = 0.0
    _replies: int = 0
    _not_before: float = field(default=0.0)

    # -- questions

    @property
    def bot_speaking(self) -> bool:
        """Some of a reply was emitted, and it was neither played to its end nor silenced."""
        return self.bot is not None and self.bot.phase is Phase.REPLYING and self.bot.turn.first_chunk is not None

    @property
    def stage(self) -> str:
        """What happens now, for people: ``"listening"``, ``"thinking"`` or ``"speaking"``."""
        if self.bot is None or self.bot.phase is not Phase.REPLYING:
            return "listening"
        return "speaking" if self.bot_speaking else "thinking"

    @property
    def deaf(self) -> bool:
        """The user is not listened to: a reply plays that speech cannot interrupt.

        A reply that still waits for its arguments does not count. The peer may never answer.
        """
        bot = self.bot
        if bot is None or bot.phase is Phase.SPECULATIVE or (self.can_interrupt and bot.interruptible):
            return False
        return bot.turn.reply_called is not None

    def in_turn(self, number: int) -> bool:
        """Whether this turn of the user's still lasts."""
        return self.user is not None and self.user.number == number

    def is_current(self, reply: int) -> bool:
        """Whether this reply is neither over nor replaced."""
        return self.bot is not None and self.bot.reply == reply

    # -- audio

    def heard(self, samples: NDArray[np.int16], now: float) -> None:
        """A frame came: int16, shape (channels, n)."""
        self.last_frame = now
        self.recording.add(samples)

    def silence(self, seconds: float, now: float) -> None:
        """Nothing came for `seconds`, which counts as silence."""
        self.last_frame = now
        self.recording.silence(seconds)

    def forget_user(self) -> list[Action]:
        """Drop what the user has said in this turn, as if it had not been heard."""
        self.user = None
        self.recording.drop()
        self._not_before = self.recording.now
        return [ResetDetector()]

    def user_left(self, number: int, now: float) -> list[Action]:
        """The call ends while the user speaks."""
        return [Record(replace(self.user, call_ended=now))] if self.user and self.in_turn(number) else []

    def judge_left(self, turn: TurnTimeline, now: float) -> list[Action]:
        """The call ends while a function judges this turn."""
        return [Record(replace(turn, call_ended=now))]

    # -- what the detector says

    def detected(self, event: DetectorEvent, now: float) -> list[Action]:
        """The detector told this of the audio."""
        if self.deaf:
            return []
        actions: list[Action] = [Tell(event)]
        match event:
            case SpeechStarted(at):
                return actions + self._speech_started(at) + self.still_speaking(now)
            case SpeechEnded(at):
                return actions + self._speech_ended(at)
            case StopWordHeard(at):
                self._not_before = at
            case TurnEnded():
                return actions + self._turn_ended(event, now)
        return actions

    def still_speaking(self, now: float) -> list[Action]:
        """Audio was heard that changed nothing: speech that goes on may interrupt now."""
        bot = self.bot
        if self.user is None or bot is None or bot.phase is not Phase.REPLYING:
            return []
        if not (self.can_interrupt and bot.interruptible):
            return []
        if self.asks:
            return [AskInterrupt(self.recording.so_far(JUDGED))]
        return self._yield_to_user(bot, now)

    def interrupt_answered(self, interrupts: bool, now: float) -> list[Action]:  # noqa: FBT001
        """`interrupt_when` has answered `AskInterrupt`."""
        bot = self.bot
        if not interrupts or self.user is None or bot is None or bot.phase is not Phase.REPLYING:
            return []
        return self._yield_to_user(bot, now)

    def _yield_to_user(self, bot: Bot, now: float) -> list[Action]:
        if self.resume is Resume.NEVER:
            return self.interrupt(now)
        bot.phase, bot.held_at = Phase.HELD, now
        return [HoldReply(bot.reply)]

    def _moment(self, at: float) -> float:
        """When the audio of media time `at` came."""
        return self.last_frame - (self.recording.now - at)

    def _end_of_speech(self, turn: TurnTimeline, at: float) -> float:
        # After a stall of the network, audio comes in a burst. Its end then seems to lie too far back.
        return max(self._moment(at), turn.speech_start or 0.0)

    def _speech_started(self, at: float) -> list[Action]:
        actions = self._drop_speculation()
        if self.user is not None:
            self.user = replace(self.user, speech_end=None)
            return actions
        self.user = replace(self._new_turn(), speech_start=self._moment(at))
        self.recording.begin(max(at - self.pad, self._not_before))
        return [*actions, SendLog("started_talking"), WatchForMute(self.user.number)]

    def _speech_ended(self, at: float) -> list[Action]:
        if self.user is None:
            return []
        self.user = replace(self.user, speech_end=self._end_of_speech(self.user, at))
        if not self.speculative or self.bot is not None:
            return []
        return self._start(self.user, self.recording.so_far(), Phase.SPECULATIVE)

    def _turn_ended(self, event: TurnEnded, now: float) -> list[Action]:
        turn, self.user = self.user or self._new_turn(), None
        turn = replace(turn, speech_end=self._end_of_speech(turn, event.speech_end), turn_end=self.last_frame)
        audio = self.recording.take()
        bot, judged = self.bot, self.judged
        if bot is not None and bot.phase is Phase.SPECULATIVE:
            return self._commit(bot, turn)
        if bot is None or not (bot.phase is Phase.HELD or (self.can_interrupt and bot.interruptible)):
            return self._reply(turn, audio, now)
        if bot.phase is Phase.REPLYING:
            return []  # `interrupt_when` said no to the end: the bot was not interrupted
        if judged is not None:  # a second turn before the answer: something was said
            both = np.concatenate([judged.audio[1], audio[1]], axis=1)
            whole = replace(judged.turn, speech_end=turn.speech_end, turn_end=turn.turn_end)
            return self._reply(whole, (audio[0], both), now)
        if self.resume is Resume.IF_JUDGED:
            self.judged = Judged(turn, audio)
            return [JudgeSpeech(turn, audio)]
        if event.speech >= FALSE_INTERRUPTION:
            return self._reply(turn, audio, now)
        return self._go_on(bot)

    def speech_judged(self, turn: int, said: bool, now: float, *, failed: bool = False) -> list[Action]:  # noqa: FBT001
        """A function has answered `JudgeSpeech`.

        Args:
            turn: Number of the turn it was asked about.
            said: Whether anything was said.
            now: The moment.
            failed: The function raised.
        """
        judged, bot = self.judged, self.bot
        if judged is None or judged.turn.number != turn or bot is None:
            return []  # overtaken
        self.judged = None
        actions: list[Action] = [Record(replace(judged.turn, failed=now))] if failed else []
        if said:
            return actions + self._reply(judged.turn, judged.audio, now)
        if self.user is None:
            return actions + self._go_on(bot)
        return actions  # the user speaks again: the end of that turn decides

    def _go_on(self, bot: Bot) -> list[Action]:
        bot.phase = Phase.REPLYING
        return [ResumeReply(bot.reply)]

    def listening_failed(self, now: float) -> list[Action]:
        """Code that listens to the user has raised: give up the user's turn that is under way."""
        turn, self.user = self.user, None
        self.recording.drop()
        actions: list[Action] = [ResetDetector(), *self._drop_speculation()]
        if turn is not None:
            actions.append(Record(replace(turn, failed=now)))
        if self.bot is not None and self.bot.phase is Phase.HELD and self.judged is None:
            actions += self._go_on(self.bot)  # no end of a turn will come that could decide
        return actions

    # -- what the application wants

    def greet(self, now: float) -> list[Action]:
        """Call the start-up function: turn 0."""
        return self._reply(TurnTimeline(0), None, now)

    def respond(self, now: float) -> list[Action]:
        """Reply now, to what the user has said in this turn so far."""
        turn, self.user = self.user or self._new_turn(), None
        audio = self.recording.take()
        return [ResetDetector(), *self._reply(replace(turn, turn_end=now), audio, now)]

    def speak(self, now: float, *, interruptible: bool = True) -> list[Action]:
        """Reply to nobody. A turn of the user's that is under way goes on."""
        return self._reply(self._new_turn(), None, now, interruptible=interruptible)

    def interrupt(self, now: float) -> list[Action]:
        """End the bot's turn, as speech does."""
        bot, self.bot = self.bot, None
        actions: list[Action] = []
        if self.judged is not None:
            self.judged = None
            actions.append(StopJudging())
        if bot is None:
            return actions
        if bot.phase is Phase.SPECULATIVE:
            return [*actions, DropReply(bot.reply)]
        held = bot.phase is Phase.HELD
        silent_since = bot.held_at if held and bot.turn.first_chunk is not None else now
        return [*actions, StopReply(bot.reply, replace(bot.turn, interrupted=silent_since), tell=not held)]

    # -- how the reply goes

    def called(self, reply: int, now: float) -> list[Action]:
        """The reply function is called."""
        if not self.is_current(reply):
            return []
        assert self.bot is not None  # noqa: S101
        self.bot.turn = replace(self.bot.turn, reply_called=now)
        return [] if self.bot.phase is Phase.SPECULATIVE else self._begun(self.bot)

    def _begun(self, bot: Bot) -> list[Action]:
        log: list[Action] = [] if bot.turn.turn_end is None else [SendLog("pause_detected")]
        return [*log, Tell(ReplyStarted(bot.turn.number))]

    def emitted(self, reply: int, now: float) -> list[Action]:
        """A chunk of audio of the reply is handed over to be played."""
        if not self.is_current(reply) or self.bot is None or self.bot.turn.first_chunk is not None:
            return []
        self.bot.turn = replace(self.bot.turn, first_chunk=now)
        return [SendLog("response_starting")]

    def all_emitted(self, reply: int) -> list[Action]:
        """The last of the reply is handed over to be played."""
        silent = self.bot is not None and self.bot.reply == reply and self.bot.turn.first_chunk is None
        return [SendLog("response_starting")] if silent else []

    def left(self, reply: int, now: float) -> list[Action]:
        """The first sound of the reply has left."""
        if not self.is_current(reply):
            return []
        assert self.bot is not None  # noqa: S101
        self.bot.turn = replace(self.bot.turn, first_frame=now)
        return [Tell(FirstAudio(self.bot.turn.number))]

    def raised(self, reply: int, error: Exception, now: float) -> list[Action]:
        """The reply function raised. Audio that it gave before is still played."""
        if not self.is_current(reply):
            return []
        assert self.bot is not None  # noqa: S101
        self.bot.turn = replace(self.bot.turn, failed=now)
        return [Tell(ReplyFailed(self.bot.turn.number, error))]

    def played(self, reply: int, now: float) -> list[Action]:
        """All of the reply was played."""
        return self._over(reply, playout_end=now)

    def call_ended(self, reply: int, now: float) -> list[Action]:
        """The reply ends because the call does."""
        if self.is_current(reply) and self.bot is not None and self.bot.phase is Phase.SPECULATIVE:
            self.bot = None  # the user's turn has a record of its own
        return self._over(reply, call_ended=now)

    def _over(self, reply: int, *, playout_end: float | None = None, call_ended: float | None = None) -> list[Action]:
        if not self.is_current(reply):
            return []
        assert self.bot is not None  # noqa: S101
        turn, self.bot = replace(self.bot.turn, playout_end=playout_end, call_ended=call_ended), None
        return [FinishReply(reply, turn, tell=playout_end is not None)]

    # -- inside

    def _new_turn(self) -> TurnTimeline:
        self.number += 1
        return TurnTimeline(self.number)

    def _reply(
        self, turn: TurnTimeline, given: Audio | None, now: float, *, interruptible: bool = True
    ) -> list[Action]:
        """Answer `turn`, in place of whatever the bot does."""
        actions = self.interrupt(now) + self._start(turn, given, Phase.REPLYING)
        assert self.bot is not None  # noqa: S101
        self.bot.interruptible = interruptible
        return actions

    def _start(self, turn: TurnTimeline, given: Audio | None, phase: Phase) -> list[Action]:
        self._replies += 1
        self.bot = Bot(self._replies, turn, phase)
        return [StartReply(self._replies, turn, given, speculative=phase is Phase.SPECULATIVE)]

    def _commit(self, bot: Bot, turn: TurnTimeline) -> list[Action]:
        early = bot.turn.reply_called
        bot.turn = replace(turn, reply_called=early)
        bot.phase = Phase.REPLYING
        begun = [] if early is None else self._begun(bot)
        return [*begun, CommitReply(bot.reply)]

    def _drop_speculation(self) -> list[Action]:
        if self.bot is None or self.bot.phase is not Phase.SPECULATIVE:
            return []
        bot, self.bot = self.bot, None
        return [DropReply(bot.reply)]
