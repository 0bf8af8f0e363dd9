"""What happened in a turn, and when: events for the application, and the turn's times."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias

from ..ledger import Heard
from .events import DetectorEvent


@dataclass(frozen=True, slots=True)
class TurnTimeline:
    """The times of one turn, in seconds on the event loop's clock (monotonic). None if something has not happened.

    Attributes:
        number: Turns count from 1; 0 is the greeting of `startup_fn`.
        speech_start: The user began to speak. It is the moment of the sound, not of the decision, which comes later.
        speech_end: The user stopped.
        turn_end: The decision that the user has finished.
        reply_called: The reply function was called (after its arguments had come).
        first_chunk: The reply function yielded its first audio.
        first_frame: The first frame of that audio left for the peer.
        playout_end: The last frame left. If the far side confirms what it plays, the moment at which it was played.
        interrupted: The reply was interrupted. If it was held first, the moment at which it was held.
        failed: The reply function or turn detection raised, and the turn was given up.
        call_ended: The call ended before the turn.
        marks: Moments within the reply that the application has named (`ReplyHandler.mark`).
    """

    number: int
    speech_start: float | None = None
    speech_end: float | None = None
    turn_end: float | None = None
    reply_called: float | None = None
    first_chunk: float | None = None
    first_frame: float | None = None
    playout_end: float | None = None
    interrupted: float | None = None
    failed: float | None = None
    call_ended: float | None = None
    marks: Mapping[str, float] = field(default_factory=dict)

    @property
    def response_time(self) -> float | None:
        """Seconds from the end of the user's speech to the first sound of the answer, or None."""
        if self.speech_end is None or self.first_frame is None:
            return None
        return self.first_frame - self.speech_end

    @property
    def outcome(self) -> Literal["played", "interrupted", "failed", "cut_off"]:
        """How the turn ended; ``"cut_off"`` by the end of the call."""
        if self.interrupted is not None:
            return "interrupted"
        if self.failed is not None:
            return "failed"
        return "played" if self.call_ended is None else "cut_off"

    def __str__(self) -> str:
        ends = {
            "interrupted": self.interrupted,
            "failed": self.failed,
            "cut off by the end of the call": self.call_ended,
        }
        how = next((how for how, at in ends.items() if at is not None), "played")
        response = self.response_time
        late = "" if response is None else f", first sound {response:.3f} s after the user"
        return f"turn {self.number}: {how}{late}"

    def as_dict(self) -> dict[str, Any]:
        """The same as a dict, for logs and messages."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class ReplyStarted:
    """The reply function is called.

    Attributes:
        turn: Number of the turn it answers.
    """

    turn: int


@dataclass(frozen=True, slots=True)
class FirstAudio:
    """The first sound of the reply left for the peer."""

    turn: int


@dataclass(frozen=True, slots=True)
class PlayoutFinished:
    """The reply was played to its end.

    Attributes:
        turn: Number of the turn it answers.
        heard: What the peer heard: everything.
    """

    turn: int
    heard: Heard


@dataclass(frozen=True, slots=True)
class Interrupted:
    """The reply was interrupted, and what waited of it was dropped.

    Attributes:
        turn: Number of the turn it answers.
        position: What the peer had heard by then.
    """

    turn: int
    position: Heard


@dataclass(frozen=True, slots=True)
class Resumed:
    """An interruption was a false alarm. The reply goes on where it was held.

    Attributes:
        turn: Number of the turn it answers.
        position: What the peer had heard by then.
    """

    turn: int
    position: Heard


@dataclass(frozen=True, slots=True)
class ReplyFailed:
    """The reply function raised, or yielded something that is not audio, or other code of yours raised in this turn.

    Attributes:
        turn: Number of the turn it should have answered; 0 if none was under way.
        error: What was raised, or the `MediaError`.
    """

    turn: int
    error: Exception


ReplyEvent: TypeAlias = ReplyStarted | FirstAudio | PlayoutFinished | Interrupted | Resumed | ReplyFailed
TurnEvent: TypeAlias = DetectorEvent | ReplyEvent

_NAMES: dict[type[TurnEvent], str] = {
    ReplyStarted: "reply_started",
    FirstAudio: "first_audio",
    PlayoutFinished: "playout_finished",
    Interrupted: "interrupted",
    Resumed: "resumed",
}


def event_message(event: TurnEvent) -> str | None:
    """The message to the peer about `event`, as JSON. None if there is another message for it, or no message."""
    name = _NAMES.get(type(event))
    if name is None:
        return None
    told = asdict(event)
    heard = told.pop("heard", None) or told.pop("position", None)
    data = {"event": name, **told} if heard is None else {"event": name, **told, "heard": heard}
    return json.dumps({"type": "reply", "data": data})


def transcript_message(role: str, text: str, id_: str, *, heard: str | None = None) -> str:
    """The message that shows words on the page; the next one with this id replaces it.

    Args:
        role: ``"user"`` or ``"assistant"``.
        text: All the words so far.
        id_: Of the message.
        heard: The beginning of `text` that was heard; what follows it was not. None: that is not known yet.
    """
    data = {"role": role, "text": text, "id": id_}
    return json.dumps({"type": "transcript", "data": data if heard is None else {**data, "heard": heard}})
