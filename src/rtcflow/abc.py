"""What a transport promises. Every sentence here has its check in `rtcflow.testing.check_transport`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ._core.flow import Flow, FlowStatistics, Policy
from ._core.player import Playback, Player, PlayerTap
from .exceptions import LocalProtocolError
from .frames import AudioFormat, AudioFrame
from .media.packets import LatestPackets
from .media.playout import PlayoutFrame, PlayoutStatistics

if TYPE_CHECKING:
    import av

__all__ = [
    "Flow",
    "FlowStatistics",
    "MediaOffer",
    "Playback",
    "Player",
    "PlayerTap",
    "PlayoutFrame",
    "PlayoutStatistics",
    "Policy",
    "Transport",
    "TransportStatistics",
]


@dataclass(frozen=True, slots=True)
class MediaOffer:
    """What the peer offered, seen from our side.

    Attributes:
        receive_audio: The peer may send us audio.
        send_audio: The peer wants our audio.
        receive_video: The peer may send us video.
        send_video: The peer wants our video.
        messages: The peer opened, or will open, a channel for messages.
    """

    receive_audio: bool = True
    send_audio: bool = True
    receive_video: bool = False
    send_video: bool = False
    messages: bool = True


@dataclass(frozen=True, slots=True)
class TransportStatistics:
    """A transport's figures since it was made.

    Attributes:
        audio_in: The queue of received audio frames.
        audio_out: The playout queue, in samples.
        video_in: The queue of received video frames.
        video_out: The queue of video frames to be sent.
        messages_in: The queue of received messages.
        round_trip: Seconds, as last measured by the transport itself, or None.
        packets_lost: Media packets of the peer that never came, if the transport can know.
        packets_concealed: Frames made up in their place.
        details: Further figures of this transport, by name.
    """

    audio_in: FlowStatistics
    audio_out: PlayoutStatistics
    video_in: FlowStatistics
    video_out: FlowStatistics
    messages_in: FlowStatistics
    round_trip: float | None = None
    packets_lost: int = 0
    packets_concealed: int = 0
    details: dict[str, float] = field(default_factory=dict)


class Transport(ABC):
    """One live link to one peer: unreliable media both ways, reliable messages both ways.

    Media crosses through queues that both sides use from any thread, so neither side's loop holds up the other. The
    transport fills `audio_in`, `video_in` and `messages_in`, and ends them all when the link ends. It empties
    `audio_out` and `video_out` in real time. Media is unreliable: frames that are not taken in time are dropped, oldest
    first, and counted. Messages are reliable and in order. A peer that sends more than `messages_in` holds breaks the
    link.

    Life: made by its own opener (`open_…`, `memory_pair`, `WebRTCEngine.answer`); `start` once; `wait_connected`;
    media; `wait_ended` returns or raises when the *peer* is gone. The code that opened it closes it with `aclose`,
    any number of times.

    Attributes:
        kind: ``"memory"``, ``"webrtc"``, ``"websocket"`` or ``"telephone"``.
        offer: What the peer offered. Queues of media that was not offered stay empty.
        audio_in: Frames as they come, in order, `pts` shows gaps; at most 50 (1 s) wait, the oldest is dropped.
        audio_out: Takes audio for the peer, of any length.
        video_in: The latest frame only: 1 waits, an older one is dropped.
        video_out: The latest frame only.
        messages_in: Text messages of the peer, in order; at most 1000 wait.
        phone: True for telephone lines (`StreamHandlerBase.phone_mode`).
        packets: The Opus packets of both directions, for recordings. None if the transport has none to show.
    """

    kind: str
    offer: MediaOffer
    audio_in: Flow[AudioFrame]
    audio_out: Player
    video_in: Flow[av.VideoFrame]
    video_out: Flow[av.VideoFrame]
    messages_in: Flow[str]
    phone: bool = False
    packets: LatestPackets | None = None

    @abstractmethod
    def start(self, receive: AudioFormat, send: AudioFormat) -> tuple[AudioFormat, AudioFormat]:
        """Begin, with the audio formats the handler would like; called once, never blocks.

        Args:
            receive: The format in which the handler wants to hear.
            send: The format in which the handler speaks.

        Returns:
            The formats of `audio_in` and of `audio_out`: the arguments if the transport can do them, otherwise its own
            formats. Channels may still vary frame by frame in both directions.
        """

    @abstractmethod
    async def wait_connected(self) -> None:
        """Wait until media can flow. Safe to cancel. A checkpoint.

        Raises:
            NegotiationTimeout: It took too long; `phase` says which step.
            anyio.BrokenResourceError: It failed or the peer went away first.
            anyio.ClosedResourceError: This side closed the transport.
        """

    @abstractmethod
    async def wait_ended(self) -> None:
        """Wait until the peer is gone. Safe to cancel. A checkpoint.

        Returns normally when the peer said goodbye.

        Raises:
            anyio.BrokenResourceError: The link failed; ``__cause__`` says how.
            anyio.ClosedResourceError: This side closed the transport.
        """

    @abstractmethod
    async def wait_messages_open(self) -> None:
        """Wait until messages can be sent. For ever, if the peer opens no channel. Safe to cancel. A checkpoint."""

    @abstractmethod
    def send_message_nowait(self, message: str) -> None:
        """Queue a text message for the peer, from any thread; messages arrive in this order.

        Raises:
            anyio.WouldBlock: 1 MiB or more of messages already wait, because the peer does not read.
            anyio.ClosedResourceError: Messages are not open, or no longer.
        """

    def clear_audio(self) -> float:
        """Drop what was put into `audio_out` and was not yet played, and have the far side drop what it buffers.

        From any thread. When it returns, nothing put before will leave any more.

        Returns:
            Seconds of audio dropped here.
        """
        return self.audio_out.clear()

    def send_dtmf_nowait(self, digits: str) -> None:
        """Press keys towards the peer, ``0123456789*#ABCD``; from any thread.

        Raises:
            LocalProtocolError: This transport cannot press keys.
            ValueError: A telephone has no such key.
            anyio.ClosedResourceError: The link is over.
            anyio.WouldBlock: The peer does not read.
        """
        raise LocalProtocolError(f"a {self.kind} connection cannot press keys: {digits!r} was not sent")

    @abstractmethod
    async def aclose(self) -> None:
        """Say goodbye and free everything. When it returns, all is freed. Idempotent. A checkpoint.

        When cancelled it still frees everything, without the goodbye.
        """

    def statistics(self) -> TransportStatistics:
        """The figures now; from any thread."""
        return TransportStatistics(
            audio_in=self.audio_in.statistics(),
            audio_out=self.audio_out.statistics(),
            video_in=self.video_in.statistics(),
            video_out=self.video_out.statistics(),
            messages_in=self.messages_in.statistics(),
        )
