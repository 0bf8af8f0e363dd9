"""Where names and modules of earlier releases are now.

`rtcflow.__getattr__` uses `NAMES`. `OldModules` is the last of Python's import finders, so it is asked only for modules
that do not exist. For an old module it raises an ImportError that says the new place. The modules that earlier
documentation told users to import still work: `_Alias` loads an empty module that takes its names from the new one.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Final

NAMES: Final[Mapping[str, str]] = {
    "Caller": "CallRequest, in rtcflow",
    **dict.fromkeys(
        (
            *("EnergyVad", "Heard", "Interrupted", "KeywordSpotter", "PauseDetectionModel", "PlayoutFinished"),
            *("ReplyOnStopWords", "Say", "SileroVADModel", "SileroVadOptions", "SpeechEnded", "SpeechStarted"),
            *("StreamingVadModel", "TurnDetector", "TurnEnd", "TurnEnded", "TurnEvent", "TurnTimeline", "VoiceTurns"),
            "get_silero_model",
        ),
        "rtcflow.turns",
    ),
    **dict.fromkeys(
        (
            *("aggregate_bytes_to_16bit", "async_aggregate_bytes_to_16bit", "audio_to_bytes", "audio_to_file"),
            *("audio_to_float32", "audio_to_int16", "wait_for_item"),
        ),
        "rtcflow.audio",
    ),
    **dict.fromkeys(
        (
            *("ApplicationFailed", "ConnectionExists", "InvalidOffer", "LocalProtocolError", "NegotiationTimeout"),
            *("NotServing", "ProtocolError", "RemoteProtocolError", "TooManyConnections", "UnsupportedMedia"),
        ),
        "rtcflow.exceptions",
    ),
    **dict.fromkeys(("ConnectionStatistics", "WorkerThreads"), "rtcflow.connection"),
    **dict.fromkeys(("Flow", "FlowStatistics", "MediaOffer", "Policy", "TransportStatistics"), "rtcflow.abc"),
    **dict.fromkeys(("WebRTCEngine", "WebRTCTransport"), "rtcflow.transports"),
}
"""Names that `rtcflow` had at the top, and the public module that has them now."""

MODULES: Final[Mapping[str, str]] = {
    "asgi": "rtcflow.routes.app",
    "asgi_data": "rtcflow.routes.data",
    "asgi_guard": "rtcflow.routes.origin_guard",
    "asgi_lines": "rtcflow.routes.lines",
    "asgi_page": "rtcflow.routes.page",
    "asgi_whip": "rtcflow.routes.whip",
    "call": "rtcflow.client.measured_call",
    "fanout": "rtcflow.stream (Reader)",
    "flow": "rtcflow.abc (Flow, FlowStatistics, Policy)",
    "form": "rtcflow.serving.form",
    "hooks": "rtcflow._core.hooks",
    "load": "rtcflow.client.load",
    "nurseries": "rtcflow.connection.media_loops",
    "player": "rtcflow.abc (Player, Playback)",
    "session": "rtcflow (Session, CallRequest)",
    "shown": "rtcflow.serving.output_events",
    "stream_room": "rtcflow.serving.engine",
    "threads": "rtcflow.connection (WorkerThreads, ThreadStatistics)",
    "transports.websocket_line": "rtcflow.transports.line",
    "protocol.events": "rtcflow.protocol.sse",
}
"""Old modules, without ``rtcflow.``, and where their contents are now."""

ALIASES: Final[Mapping[str, str]] = {"carrier": "rtcflow.client.lines", "doctor": "rtcflow.client.doctor"}
"""Old modules that earlier documentation told users to import. They still work."""


class OldModules(MetaPathFinder):
    """Answers imports of modules that have moved."""

    @classmethod
    def install(cls) -> None:
        """Make it the last finder, once."""
        if not any(isinstance(finder, cls) for finder in sys.meta_path):
            sys.meta_path.append(cls())

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,  # noqa: ARG002
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        """The spec of a module that still works under its old name, or None for names that are not ours.

        Raises:
            ModuleNotFoundError: The module has moved; the text says where.
        """
        package, _, name = fullname.partition(".")
        if package != __package__:
            return None
        if name in ALIASES:
            return ModuleSpec(fullname, _Alias(ALIASES[name]))
        if name in MODULES:
            raise ModuleNotFoundError(f"{fullname} has moved; its contents are in {MODULES[name]}", name=fullname)
        return None


class _Alias(Loader):
    """Loads a module whose names are those of another one."""

    def __init__(self, new: str) -> None:
        self._new = new

    def create_module(self, spec: ModuleSpec) -> None:
        """Let Python make an empty module."""

    def exec_module(self, module: ModuleType) -> None:
        """Give it the names of the new module."""
        new = import_module(self._new)
        module.__doc__ = f"The old name of `{self._new}`."
        module.__dict__.update({name: value for name, value in vars(new).items() if not name.startswith("__")})
