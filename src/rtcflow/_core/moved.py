"""Where names and modules of earlier releases are now.

The `__getattr__` of a module ends with `raise absent(...)`. It knows names that have moved (`NAMES`), that are called
something else now (`RENAMED`), and that users have no use for any more (`PRIVATE`). `absent_attribute` does the same
for a class. Modules below this one use `exceptions.absent_name`, and keywords have `exceptions.renamed`.

`OldModules` is the last of Python's import finders, so it is asked only for modules that do not exist. For an old
module it raises an ImportError that says the new place. The modules that earlier documentation told users to import
still work: `_Alias` loads an empty module that takes its names from the new one.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Final

from ..exceptions import absent_name

if TYPE_CHECKING:
    from importlib.abc import Loader, MetaPathFinder
else:  # the import system asks for the methods only, and `importlib.abc` takes as long to import as ten of our modules
    Loader = MetaPathFinder = object

PACKAGE: Final = "rtcflow"

NAMES: Final[Mapping[str, str]] = {
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

RENAMED: Final[Mapping[str, Mapping[str, str]]] = {
    "rtcflow": {"Caller": "rtcflow.CallRequest"},
    "rtcflow.cli": {"Carrier": "rtcflow.cli.SimulatedCarrier"},
    "rtcflow.client": {
        name: f"rtcflow.client.webrtc.{name}" for name in ("import_httpx2", "plain_text", "read_headers")
    },
    "rtcflow.client.load": {"Limits": "rtcflow.client.load.LoadLimits", "Trace": "rtcflow.client.load.CallTrace"},
    "rtcflow.handlers.turns.arguments": {"name_of_function": "rtcflow.handlers.turns.reply.name_of_function"},
    "rtcflow.testing": {"Heard": "rtcflow.testing.HeardFrame"},
    "rtcflow.testing.caller": {"Heard": "rtcflow.testing.HeardFrame"},
    "rtcflow.testing.clocks": {"Decision": "rtcflow.testing._virtual_time.Decision"},
    "rtcflow.transports": {"Wish": "rtcflow.transports.StartOptions"},
}
"""By module: names of an earlier release, and what they are called now."""

PRIVATE: Final[Mapping[str, Mapping[str, str]]] = {
    "rtcflow.connection": {"shut_down": "a connection calls shutdown() of its handler itself"},
    "rtcflow.handlers.turns": {
        **dict.fromkeys(("ChunkTurns", "StopWordTurns"), "write a detector as a rtcflow.turns.TurnDetector"),
        **dict.fromkeys(
            ("Chunk", "Outbox", "PlayoutLedger", "Reply", "run_reply"),
            "make a handler with rtcflow.turns.ReplyOnPause or rtcflow.turns.ReplyHandler",
        ),
    },
    "rtcflow.handlers.turns.reply": dict.fromkeys(
        ("Outbox", "ThreadRoom"), "make a handler with rtcflow.turns.ReplyOnPause or rtcflow.turns.ReplyHandler"
    ),
}
"""By module: names of an earlier release that are private now, and what to do in their place."""

MODULES: Final[Mapping[str, str]] = {
    "_bridge": "rtcflow._core.bridge",
    "_engine.gathering": "rtcflow._engine.seam.gathering",
    "_engine.room": "rtcflow._engine.loop_thread",
    "_engine.wire": "rtcflow._engine.seam.wire",
    "_guard": "rtcflow._core.guard",
    "_interrupt": "rtcflow._core.interrupt",
    "_loop": "rtcflow.connection.handler_loop",
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
    "handlers.turns.ear": "rtcflow.handlers.turns.detector_runner",
    "handlers.turns.ledger": "rtcflow.turns (Say, Heard)",
    "handlers.turns.recording": "rtcflow.handlers.turns.turn_audio",
    "hooks": "rtcflow._core.hooks",
    "load": "rtcflow.client.load",
    "media.framing": "rtcflow.media.playout (Playout), which cuts frames",
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


def absent(module: str, name: str) -> ImportError | AttributeError:
    """The error for a name that `module` does not have. If an earlier release had it, it says what to write.

    It is an ImportError then, because ``from ... import`` loses the text of an AttributeError.
    """
    if module == PACKAGE and name in NAMES:
        return ImportError(f"{module}.{name} has moved; take it from {NAMES[name]}", name=module)
    if name in PRIVATE.get(module, {}):
        return ImportError(f"{module}.{name} is private now: {PRIVATE[module][name]}", name=module)
    return absent_name(module, name, RENAMED.get(module, {}))


def absent_attribute(owner: object, name: str, now: Mapping[str, str]) -> AttributeError:
    """The error for an attribute that `owner` does not have. `now` says of earlier ones what to use in their place."""
    kind = type(owner).__name__
    if name in now:
        return AttributeError(f"{kind} has no {name} any more: {now[name]}")
    return AttributeError(f"{kind!r} object has no attribute {name!r}")


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
        if package != PACKAGE:
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
