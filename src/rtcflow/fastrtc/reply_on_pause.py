"""FastRTC's module of this name. Its imports are absolute, so that it also works under the name `fastrtc`."""

from rtcflow.fastrtc._options import (
    AlgoOptions,
)
from rtcflow.fastrtc._reply import (
    AppState,
    ReplyOnPause,
)
from rtcflow.fastrtc._types import (
    ReplyFnGenerator,
)
from rtcflow.handlers.turns import (
    ModelOptions,
    PauseDetectionModel,
    get_silero_model,
)

__all__ = [
    "AlgoOptions",
    "AppState",
    "ModelOptions",
    "PauseDetectionModel",
    "ReplyFnGenerator",
    "ReplyOnPause",
    "get_silero_model",
]
