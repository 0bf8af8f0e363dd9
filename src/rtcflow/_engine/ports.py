"""What a peer in the engine's thread shares with its transport outside. Everything here may be touched from any
thread.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from .._core.bridge import Event
from .._core.link import LinkEnd
from .._core.player import Player
from ..frames import AudioFormat
from ..media.packets import LatestPackets
from ..media.playout import Latency


@dataclass(frozen=True, slots=True)
class Route:
    """The candidate pair that carries a connection.

    Attributes:
        local_type: ``"host"``, ``"srflx"``, ``"prflx"`` or ``"relay"`` (RFC 8445 section 5.1.1).
        local_address: ``(host, port)``.
        remote_type: Like `local_type`.
        remote_address: ``(host, port)``.
    """

    local_type: str
    local_address: tuple[str, int]
    remote_type: str
    remote_address: tuple[str, int]

    def __str__(self) -> str:
        return (
            f"{self.local_type} {self.local_address[0]}:{self.local_address[1]} - "
            f"{self.remote_type} {self.remote_address[0]}:{self.remote_address[1]}"
        )


class ServerTrouble(enum.Enum):
    """Why a STUN or TURN server did not help."""

    NO_ANSWER = "no answer"
    UNKNOWN_HOST = "no such host"
    UNREACHABLE = "cannot be reached"
    WRONG_CREDENTIALS = "refuses the credentials"
    REFUSED = "refuses"
    TLS = "no TLS"
    UNSUPPORTED = "cannot be asked from here"


@dataclass(frozen=True, slots=True)
class ServerReport:
    """The result of asking a STUN or TURN server.

    Attributes:
        url: Its URL.
        seconds: How long its answer took, or the attempt.
        address: What it gave: our address as it sees it (STUN), or the relay's (TURN): ``(host, port)``; None if there
            was trouble.
        trouble: What was wrong, if something was.
        words: The trouble's particulars.
    """

    url: str
    seconds: float
    address: tuple[str, int] | None = None
    trouble: ServerTrouble | None = None
    words: str = ""

    def __str__(self) -> str:
        if self.trouble is not None:
            return f"{self.url} {self.trouble.value}{self.words and f' ({self.words})'}"
        return f"{self.url} gave {':'.join(map(str, self.address or ()))} after {1000 * self.seconds:.0f} ms"


@dataclass(slots=True)
class AudioFigures:
    """Counts of the receiving side; written in the engine's thread only."""

    received: int = 0
    lost: int = 0
    concealed: int = 0
    undecodable: int = 0


@dataclass(slots=True)
class MessageFigures:
    """Counts of the message channel; written in the engine's thread only."""

    binary_ignored: int = 0
    other_channels: int = 0


class Ports(LinkEnd):
    """The end of one WebRTC link.

    Attributes:
        receive: The audio format that `audio_in` gets, once the transport was started.
        messages_open: Set once messages can be sent; never closed.
        route: The candidate pair, once connected.
        packets: The Opus packets of the latest frames, for recordings.
        asked: The STUN and TURN servers that were asked for candidates, by URL.
    """

    def __init__(self, latency: Latency) -> None:
        super().__init__(Player(latency=latency), connected=False)
        self.receive: AudioFormat | None = None
        self.messages_open: Event = Event()
        self.packets: LatestPackets = LatestPackets()
        self.route: Route | None = None
        self.asked: dict[str, ServerReport] = {}
        self.audio_figures: AudioFigures = AudioFigures()
        self.message_figures: MessageFigures = MessageFigures()
