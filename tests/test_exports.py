"""The public names: declared, documented, annotated, and light to import."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions, version
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from for_all import for_all

import rtcflow
from rtcflow._core import moved as _moved
from rtcflow.abc import Player
from rtcflow.client.lines import call_by_websocket
from rtcflow.connection import WorkerThreads
from rtcflow.media.playout import Playout
from rtcflow.serving.session import ConnectionSettings
from rtcflow.transports import WebRTCTransport

PUBLIC_MODULES = [
    "rtcflow",
    "rtcflow.abc",
    "rtcflow.agents",
    "rtcflow.audio",
    "rtcflow.client",
    "rtcflow.cluster",
    "rtcflow.connection",
    "rtcflow.exceptions",
    "rtcflow.logs",
    "rtcflow.stream",
    "rtcflow.testing",
    "rtcflow.transports",
    "rtcflow.turns",
    *(["rtcflow.speech.denoise"] if importlib.util.find_spec("pywebrtc_audio") else []),
    *(["rtcflow.otel"] if importlib.util.find_spec("opentelemetry") else []),
    *(["rtcflow.prometheus"] if importlib.util.find_spec("prometheus_client") else []),
]
NOT_AT_IMPORT = {
    "trio",
    "typer",
    "rich",
    "hypothesis",
    "fastapi",
    "pydantic",
    "hypercorn",
    "uvicorn",
    "pytest",
    "prometheus_client",
    "opentelemetry",
    "pywebrtc_audio",
    "nats",
}


def _names() -> Iterator[tuple[str, str]]:
    for module in PUBLIC_MODULES:
        for name in importlib.import_module(module).__all__:
            yield module, name


every_name = for_all(_names(), name=".".join)


def test_the_front_door_lists_what_it_offers() -> None:
    """`rtcflow.__all__` has no doubles, and `dir()` shows all of it."""
    assert len(rtcflow.__all__) == len(set(rtcflow.__all__))
    assert set(rtcflow.__all__) <= set(dir(rtcflow))


@every_name
def test_public_names_are_documented(case: tuple[str, str]) -> None:
    """Every class and function that users import says what it does for them, and so do its public methods."""
    module, name = case
    value = getattr(importlib.import_module(module), name)
    if not (inspect.isclass(value) or inspect.isfunction(value)):
        return
    assert inspect.getdoc(value), f"{name} has no docstring"
    if inspect.isclass(value) and value.__module__.startswith("rtcflow"):
        for method, function in vars(value).items():
            if inspect.isfunction(function) and not method.startswith("_"):
                assert inspect.getdoc(getattr(value, method)), f"{name}.{method} has no docstring"


@every_name
def test_public_functions_are_annotated(case: tuple[str, str]) -> None:
    """Type checkers see every argument and result of what users call."""
    module, name = case
    value = getattr(importlib.import_module(module), name)
    functions = [value] if inspect.isfunction(value) else []
    if inspect.isclass(value) and value.__module__.startswith("rtcflow"):
        functions += [f for key, f in vars(value).items() if inspect.isfunction(f) and not key.startswith("_")]
    for function in functions:
        signature = inspect.signature(function)
        bare = [
            p.name for p in signature.parameters.values() if p.annotation is p.empty and p.name not in {"self", "cls"}
        ]
        assert not bare, f"{function.__qualname__}: {bare}"
        assert signature.return_annotation is not signature.empty, f"{function.__qualname__} has no return type"


@cache
def _pages() -> str:
    return "".join(page.read_text() for page in (Path(__file__).parents[1] / "docs").rglob("*.md"))


@every_name
def test_public_names_have_their_place_in_the_docs(case: tuple[str, str]) -> None:
    """docs/api.md, or another page, has the reference of every public name."""
    module, name = case
    value = getattr(importlib.import_module(module), name)
    if name.startswith("__") or inspect.ismodule(value):
        return
    whole = rf"^\.\. automodule:: {re.escape(getattr(value, '__module__', 'no module'))}$"
    alone = rf"^\.\. auto\w+:: (rtcflow(\.\w+)*\.)?{name}\b"
    assert re.search(f"{alone}|{whole}", _pages(), re.MULTILINE), "no page has it"


def test_the_front_door_is_small() -> None:
    """What most programs need is at the top; the rest is in the module of its subject."""
    assert len(rtcflow.__all__) <= 50


@pytest.mark.parametrize("name", sorted(_moved.NAMES))
def test_names_that_have_moved_say_where(name: str) -> None:
    """Both ways of asking say the new place, and the new place has the name."""
    place = _moved.NAMES[name]
    with pytest.raises(ImportError, match=f"rtcflow.{name} has moved; take it from {place}"):
        exec(f"from rtcflow import {name}")
    with pytest.raises(ImportError, match="has moved"):
        getattr(rtcflow, name)
    module = importlib.import_module(place)
    assert name in module.__all__
    assert getattr(module, name)


@pytest.mark.parametrize(("module", "name"), [(m, n) for m, names in _moved.RENAMED.items() for n in names])
def test_renamed_names_say_the_new_one(module: str, name: str) -> None:
    """The error names what it is called now, and that can be imported."""
    place = _moved.RENAMED[module][name]
    with pytest.raises(ImportError, match=f"{module}.{name} was renamed; it is {place}"):
        exec(f"from {module} import {name}")
    owner, _, new = place.rpartition(".")
    assert hasattr(importlib.import_module(owner), new)


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("lines.Dtmf", "rtcflow.protocol.lines.KeyPressed"),
        ("lines.Failed", "rtcflow.protocol.lines.CarrierFailed"),
        ("lines.Heard", "rtcflow.protocol.lines.MarkTracker"),
        ("lines.MessageRate", "rtcflow.protocol.rates.MessageRate"),
        ("signalling.check_reply", "rtcflow.protocol.signalling.parse_reply"),
        ("websocket.Wish", "rtcflow.transports.StartOptions"),
        ("websocket.read_wish", "rtcflow.protocol.websocket.read_start_options"),
    ],
)
def test_renamed_names_of_the_protocols_say_the_new_one(name: str, place: str) -> None:
    """They stand in their own modules, which lie below the table of the others."""
    owner, _, old = f"rtcflow.protocol.{name}".rpartition(".")
    module = importlib.import_module(owner)
    with pytest.raises(ImportError, match=f"{owner}.{old} was renamed; it is {place}"):
        exec(f"from {owner} import {old}")
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        getattr(module, "nonsense")  # noqa: B009
    now, _, new = place.rpartition(".")
    assert hasattr(importlib.import_module(now), new)


@pytest.mark.parametrize(("module", "name"), [(m, n) for m, names in _moved.PRIVATE.items() for n in names])
def test_names_that_became_private_say_what_to_use(module: str, name: str) -> None:
    """The error says what a program does in their place; each public name in it exists."""
    with pytest.raises(ImportError, match=f"{module}.{name} is private now: ") as caught:
        exec(f"from {module} import {name}")
    for owner, new in re.findall(r"(rtcflow\.\w+)\.(\w+)", str(caught.value).partition(": ")[2]):
        assert new in importlib.import_module(owner).__all__
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        getattr(importlib.import_module(module), "nonsense")  # noqa: B009


def test_attributes_that_have_moved_say_where() -> None:
    """An attribute that a class had, and a keyword that has another name now. Others get Python's own words."""
    caller = rtcflow.CallRequest()
    settings = ConnectionSettings(None, rtcflow.Timeouts(), debug=False, workers=WorkerThreads())
    session = rtcflow.Session("id", "webrtc", caller, None, rtcflow.AsyncStreamHandler, settings)  # type: ignore[arg-type]
    for name, problem in (
        ("board", "Session has no board any more: it is called events"),
        ("fetch_output", r"Session has no fetch_output any more: read with .*outputs.read\(\)"),
        ("nonsense", "'Session' object has no attribute 'nonsense'"),
    ):
        with pytest.raises(AttributeError, match=problem):
            getattr(session, name)
    with pytest.raises(TypeError, match="the argument 'room' of Player is called 'most_waiting' now"):
        Player(room=0.1)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="the argument 'wish' of WebRTCTransport is called 'local' now"):
        WebRTCTransport(None, None, None, wish=None)  # type: ignore[arg-type,call-arg]
    with pytest.raises(TypeError, match="the argument 'wish' of call_by_websocket is called 'options' now"):
        call_by_websocket("ws://127.0.0.1", wish=None)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="the argument 'lead' of Playout is called 'ahead' now"):
        Playout(48000, lead=0.1)  # type: ignore[call-arg]
    player = Player()
    player.open(rtcflow.AudioFormat(48000))
    assert player.put(frame=rtcflow.AudioFrame(np.zeros((1, 960), np.int16), 48000, 0))
    assert "most_waiting" in inspect.signature(Player).parameters


@pytest.mark.parametrize("name", sorted(_moved.MODULES))
def test_modules_that_have_moved_say_where(name: str) -> None:
    """The error names the new module, which can be imported; a module that there never was is not found as usual."""
    place = _moved.MODULES[name]
    with pytest.raises(ModuleNotFoundError) as caught:
        importlib.import_module(f"rtcflow.{name}")
    assert place in str(caught.value)
    importlib.import_module(place.partition(" ")[0])
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'rtcflow\.nonsense'"):
        importlib.import_module("rtcflow.nonsense")


@pytest.mark.parametrize("name", sorted(_moved.ALIASES))
def test_documented_modules_still_work_under_their_old_names(name: str) -> None:
    """`from rtcflow.carrier import call_by_websocket` gives the very same function."""
    old, new = importlib.import_module(f"rtcflow.{name}"), importlib.import_module(_moved.ALIASES[name])
    public = [key for key, value in vars(new).items() if getattr(value, "__module__", "") == new.__name__]
    assert public
    assert all(getattr(old, key) is getattr(new, key) for key in public)


def test_the_changelog_lists_every_move() -> None:
    """Each name and module that has another place now stands in the changelog, or in a fragment of it."""
    root = Path(__file__).parents[1]
    text = "".join(path.read_text() for path in [root / "CHANGELOG.md", *sorted((root / "changelog.d").glob("*.md"))])
    renamed = {f"{module}.{name}" for module, names in _moved.RENAMED.items() for name in names}
    private = {name for names in _moved.PRIVATE.values() for name in names}
    modules = {f"rtcflow.{name}" for name in (*_moved.MODULES, *_moved.ALIASES)}
    assert not {name for name in {*_moved.NAMES, *renamed, *private, *modules} if f"`{name}`" not in text}


NOT_FOR_USERS = {
    *(
        "Calls.events",
        "Calls.join",
        "Cluster.joined",
        "HandlerLoop.move_to",
        "IceServer.parsed_urls",
        "VirtualTime.decide",
    ),
    *("ResumingCall.__init__", "ResumingCall.run", "Session.check_resume", "Session.permit_resume"),
    *("Player.more", "Player.next_frame", "Player.poll"),
    *("Chain.__init__", "HandlerLoop.__init__", "Options.__init__", "Session.__init__", "WebRTCTransport.__init__"),
}
"""Methods that rtcflow's own modules call, and constructors of what only rtcflow makes."""


def test_every_name_in_a_public_signature_is_public() -> None:
    """Whatever a signature or an attribute of the public face names can be imported from a public module."""
    public = {name for _, name in _names()} | {"Any"}
    private = set()
    for module, name in _names():
        value = getattr(importlib.import_module(module), name)
        if not getattr(value, "__module__", "").startswith("rtcflow"):
            continue
        for owner, function in _callables(value):
            if owner in NOT_FOR_USERS:
                continue
            for annotation in function.__annotations__.values():
                for word in set(re.findall(r"[A-Za-z_][\w.]*", str(annotation))):
                    if word.rpartition(".")[2] not in public and _is_ours(word, function.__module__):
                        private.add(f"{module}.{owner}: {word}")
    assert not private


def _callables(value: object) -> Iterator[tuple[str, Any]]:
    if inspect.isfunction(value):
        yield value.__name__, value
    if inspect.isclass(value):
        for key, member in vars(value).items():
            found = getattr(member, "fget", None) or getattr(member, "__func__", member)
            if inspect.isfunction(found) and (key == "__init__" or not key.startswith("_")):
                yield f"{value.__name__}.{key}", found


def _is_ours(word: str, module: str) -> bool:
    """Whether a name of an annotation in `module` is a class of rtcflow's own, also one imported for typing only."""
    source = sys.modules[module]
    if inspect.isclass(getattr(source, word, None)):
        return str(getattr(source, word).__module__).startswith("rtcflow")
    lines = inspect.getsource(source)
    return re.search(rf"^    from \.+[\w.]* import .*\b{re.escape(word)}\b", lines, re.MULTILINE) is not None


def _loaded_by(statement: str) -> set[str]:
    """The installed packages that a new interpreter has loaded after `statement`."""
    return (packages_distributions().keys() | {"rtcflow"}) & {name.partition(".")[0] for name in _modules(statement)}


def _modules(statement: str) -> set[str]:
    """The modules that a new interpreter has loaded after `statement`."""
    code = f"{statement}; import sys; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split())


def test_importing_is_light() -> None:
    """`import rtcflow` and its most used names load what handlers are made of: no WebRTC, no FFmpeg, no server, no
    cryptography.

    How many seconds that takes is the machine's affair; `nox -s bench` measures them beside FastRTC's.
    """
    loaded = _loaded_by("import rtcflow; rtcflow.StreamHandler, rtcflow.AsyncStreamHandler, rtcflow.Stream")
    assert "rtcflow" in loaded
    assert loaded - _loaded_by("pass") <= {"rtcflow", "anyio", "numpy", "sniffio"}


def test_what_many_programs_do_without_is_imported_later() -> None:
    """Each of these takes longer than most modules, and has brothers that it imports."""
    later = {"asyncio", "email", "importlib.metadata", "importlib.resources", "anyio.from_thread", "anyio.to_process"}
    ours = {
        "connection.recorder",
        "handlers.turns.detector",
        "handlers.turns.reply",
        "protocol.lines",
        "protocol.signalling",
        "routes.app",
    }
    loaded = _modules("import rtcflow; rtcflow.StreamHandler, rtcflow.Stream")
    assert not (later | {f"rtcflow.{name}" for name in ours}) & loaded - _modules("import anyio.lowlevel, numpy")


def test_importing_pulls_in_no_extra() -> None:
    """What only an extra needs is imported where it is used, not by `import rtcflow` or by its names."""
    assert not NOT_AT_IMPORT & _loaded_by("import rtcflow; [getattr(rtcflow, name) for name in rtcflow.__all__]")


def test_the_version_is_written_once() -> None:
    """The installed distribution and the module agree on the version."""
    assert isinstance(rtcflow, ModuleType)
    assert version("rtcflow") == rtcflow.__version__
