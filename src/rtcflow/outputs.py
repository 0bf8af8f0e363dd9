"""What a handler may return, and what it may be told. Of rtcflow it imports `frames` only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, Union, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from .frames import ChannelLayout

if TYPE_CHECKING:
    import av


class AdditionalOutputs:
    """Values that go to the application beside the media.

    Args:
        *args: Any values; they are handed on as they are, in this order.

    >>> AdditionalOutputs("transcript", 0.9).args
    ('transcript', 0.9)
    """

    __slots__ = ("args",)

    def __init__(self, *args: Any) -> None:
        self.args: tuple[Any, ...] = args

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AdditionalOutputs) and self.args == other.args

    def __hash__(self) -> int:
        return hash(self.args)

    def __repr__(self) -> str:
        return f"AdditionalOutputs({', '.join(map(repr, self.args))})"


@dataclass(frozen=True)
class CloseStream:
    """Returned by `emit` or `video_emit`: play what is queued, say goodbye, end the connection.

    Args:
        msg: What the peer is told (``end_stream`` on its data channel).
    """

    msg: str = "Stream closed"


@dataclass
class WebRTCData:
    """What a page with a text box sends as its first argument (`StreamHandlerBase.set_args`).

    Attributes:
        webrtc_id: The connection's id.
        textbox: The text that was typed.
        audio: Room for what the handler heard: ``(sample_rate, samples)``.
    """

    webrtc_id: str
    textbox: str = ""
    audio: Any = None


AudioArray: TypeAlias = NDArray[np.int16] | NDArray[np.float32]
AudioEmitType: TypeAlias = tuple[int, AudioArray] | tuple[int, AudioArray, ChannelLayout]
"""``(sample_rate, samples)`` or ``(sample_rate, samples, layout)``; samples of shape (n,) or (channels, n), int16 or
float32 in [-1, 1]."""

EmitType: TypeAlias = AudioEmitType | AdditionalOutputs | tuple[AudioEmitType, AdditionalOutputs] | CloseStream | None
Picture: TypeAlias = Union[NDArray[Any], "av.VideoFrame"]  # in quotes: `import rtcflow` does not load FFmpeg
VideoEmitType: TypeAlias = Picture | AdditionalOutputs | tuple[Picture, AdditionalOutputs] | CloseStream | None


@runtime_checkable
class DataChannel(Protocol):
    """The message side of a connection, as handlers see it in `StreamHandlerBase.channel`."""

    def send(self, message: str) -> None:
        """Queue `message` for the peer; returns at once, from any thread.

        Raises:
            anyio.ClosedResourceError: The connection has ended.
        """
