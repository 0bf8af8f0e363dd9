"""`stream.ui` without a call: which port it takes, what it does not support, and a server that fails."""

from __future__ import annotations

import importlib.util
import socket
import sys
import threading
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from rtcflow.exceptions import ClusterError, InvalidOffer
from rtcflow.fastrtc import ReplyOnPause, Stream, _body, _ui


def answer(audio: Any) -> Any:
    yield audio


@pytest.fixture
def stream() -> Stream:
    return Stream(ReplyOnPause(answer), modality="audio", mode="send-receive")


def test_the_first_free_port_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GRADIO_SERVER_PORT", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as first, socket.create_server(("127.0.0.1", 0)) as second:
        taken, free = first.getsockname()[1], second.getsockname()[1]
        second.close()
        monkeypatch.setattr(_ui, "PORTS", [taken, free])
        with _ui._listen("127.0.0.1", None) as listener:
            assert listener.getsockname()[1] == free
        monkeypatch.setattr(_ui, "PORTS", range(taken, taken + 1))
        with pytest.raises(OSError, match=f"no port from {taken} to {taken} is free; give server_port="):
            _ui._listen("127.0.0.1", None)
        monkeypatch.setenv("GRADIO_SERVER_PORT", str(free))
        with _ui._listen("127.0.0.1", None) as listener:
            assert listener.getsockname()[1] == free


def test_a_server_that_fails_says_why_where_it_is_started_or_waited_for(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise MemoryError("no loop")

    monkeypatch.setattr(_ui.anyio, "run", fail)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = _ui.Server(stream.ui.app, stream.calls, listener)
        with pytest.raises(MemoryError, match="no loop"):
            server.start()
        with pytest.raises(MemoryError, match="no loop"):
            server.wait()
        server.close()


def test_without_hypercorn_launch_says_what_to_install(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(RuntimeError, match=r"install rtcflow\[server\]"):
        stream.ui.launch()


@pytest.mark.parametrize("name", ["auth", "auth_dependency", "ssl_keyfile", "ssl_certfile"])
def test_launch_refuses_what_would_protect_gradios_page(stream: Stream, name: str) -> None:
    """A page that is open to everybody, although its program asks for a password, would be a silent difference."""
    with pytest.raises(ValueError, match=rf"launch\({name}=...\) protects Gradio's page"):
        stream.ui.launch(server_port=0, **{name: "something"})
    stream.ui.close()


def test_launch_says_that_it_shares_nothing(stream: Stream) -> None:
    with pytest.warns(UserWarning, match="makes no public link"), socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(OSError, match="in use"):
            stream.ui.launch(server_port=taken.getsockname()[1], share=True)


def test_launch_can_be_tried_again_if_the_server_did_not_start(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise MemoryError("no loop")

    monkeypatch.setattr(_ui.anyio, "run", fail)
    monkeypatch.setattr(_ui.sys, "setswitchinterval", lambda _: None)
    for _ in range(2):
        with pytest.raises(MemoryError, match="no loop"):
            stream.ui.launch(server_name="127.0.0.1", server_port=0)


def test_a_stream_that_cannot_run_is_no_endless_wait(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as one whose cluster cannot be joined: each offer says why."""

    @asynccontextmanager
    async def running(_calls: Any) -> AsyncIterator[None]:
        raise ClusterError("no connection to NATS")
        yield

    monkeypatch.setattr(type(stream.calls), "running", running)
    raised: list[BaseException] = []

    def ask() -> None:
        try:
            stream._on_demand._call(None)  # type: ignore[arg-type]
        except ClusterError as error:
            raised.append(error)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in (1, 2):
            asking = threading.Thread(target=ask, daemon=True)
            asking.start()
            asking.join(60)
            assert not asking.is_alive()
            assert len(raised) == number


def test_components_of_gradio_need_gradio(stream: Stream) -> None:
    page = _ui.UI(stream)
    with pytest.raises(RuntimeError, match="import gradio first"), page:
        pass
    with pytest.raises(RuntimeError, match="import gradio first"):
        page.render()
    assert page.queue(max_size=3) is page
    page.close()
    assert "serve it with Stream.ui.launch()" in _ui.link(page)


@pytest.mark.parametrize("pydantic", [True, False])
def test_the_body_of_an_offer(pydantic: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the same with pydantic and without."""
    body = _body
    if not pydantic:
        monkeypatch.setitem(sys.modules, "pydantic", None)
        spec = importlib.util.spec_from_file_location("rtcflow.fastrtc._body_alone", Path(str(_body.__file__)))
        assert spec is not None
        assert spec.loader is not None
        body = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, body)
        spec.loader.exec_module(body)
    read = body.Body.read(b'{"type": "offer", "webrtc_id": "a", "sdp": "v=0", "more": 1}')
    assert read.model_dump() == {"type": "offer", "webrtc_id": "a", "sdp": "v=0", "candidate": None}
    for wrong in (b"{", b"[]", b"3", b'{"webrtc_id": "a"}'):
        with pytest.raises(InvalidOffer, match="the body is not an offer") as refused:
            body.Body.read(wrong)
        assert refused.value.status == 422
