"""`rtcflow top`: what keys do, what is drawn, and what the server is asked."""

from __future__ import annotations

import io
import sys
from types import SimpleNamespace

import anyio
import pytest

from rtcflow.exceptions import NegotiationError, RemoteProtocolError, UnknownConnection
from rtcflow.serving.live_calls import LiveCall, as_json
from rtcflow.testing import virtual_backend

rich_console = pytest.importorskip("rich.console", reason="the extra cli is not here")
top = pytest.importorskip("rtcflow.client.top")
Action, View, Watching, calls_url, draw = top.Action, top.View, top.Watching, top.calls_url, top.draw
footer, press, read_keys, summary = top.footer, top.press, top.read_keys, top.summary


def body(*numbers, limit=20, ready=True):
    calls = [
        LiveCall(
            number=number, call=f"call{number}…", transport="webrtc", caller="ann", state="live", age=65.0, loss=0.2
        )
        for number in numbers
    ]
    return as_json(calls, limit=limit, ready=ready)


def view(*numbers, **options):
    return View("http://me:SECRET@host").take(body(*numbers, **options))


def type_in(seen, typed):
    actions = []
    for key in read_keys(typed):
        seen, action = press(seen, key)
        actions.append(action)
    return seen, actions


@pytest.mark.parametrize(
    ("typed", "keys"),
    [
        ("\x1b[A\x1b[B", ["up", "down"]),
        ("jk", ["down", "up"]),
        ("ey", ["end", "yes"]),
        ("q", ["quit"]),
        ("\x1bx", ["no"] * 2),
    ],
)
def test_what_keys_mean(typed, keys):
    """Several may come at once; unknown ones are "no"."""
    assert read_keys(typed) == keys


def test_choosing_a_call():
    """The first at the beginning; up and down stop at the ends."""
    seen = view(3, 5, 9)
    assert seen.selected == 3
    assert type_in(seen, "j")[0].selected == 5
    assert type_in(seen, "jjjj")[0].selected == 9
    assert type_in(seen, "jkkk")[0].selected == 3
    assert type_in(view(), "jjke")[0] == view()


def test_a_call_ends_only_after_yes():
    """The question names the call, and every other key means no."""
    seen, actions = type_in(view(3, 5), "je")
    assert seen.asking
    assert footer(seen, keys=True) == "End call 5? y ends it, any other key does not."
    assert actions[-1] == Action()
    assert type_in(seen, "y")[1] == [Action(end=5)]
    for other in "neq\x1b":
        calm, actions = type_in(seen, other)
        assert not calm.asking
        assert actions == [Action()]
    assert type_in(view(3), "y")[1] == [Action()]
    assert type_in(view(3), "q")[1] == [Action(leave=True)]


def test_new_figures():
    """The chosen call stays chosen. If it has ended, its neighbour is, and the question is taken back."""
    seen, _ = type_in(view(3, 5, 9), "je")
    again = seen.take(body(3, 5, 9, 12))
    assert (again.selected, again.asking) == (5, True)
    gone = seen.take(body(3, 9))
    assert (gone.selected, gone.asking) == (9, False)
    assert seen.take(body(3)).selected == 3
    assert seen.take(body()).selected is None


@pytest.mark.parametrize("wrong", [{}, {"calls": 7}, {"calls": [{}]}, body(1) | {"columns": {"nothing": "?"}}])
def test_what_does_not_tell_of_calls(wrong):
    """Another server's JSON is an error of one line."""
    with pytest.raises(RemoteProtocolError, match="does not tell of live calls"):
        View("http://host").take(wrong)


def drawn(seen, width=100, **options):
    console = rich_console.Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file:
        console.print(draw(seen, **options))
        return console.export_text()


def test_what_is_drawn():
    """The server, the count, each call; without keys nothing is chosen."""
    text = drawn(view(3, 5))
    assert "http://host  2 of 20 live" in text
    assert "3  call3…" in text
    assert "20.0 %" in text
    assert "↑ ↓ choose a call" in text
    assert "↑" not in drawn(view(3, 5), keys=False)
    assert summary(view(limit=None, ready=False)) == "0 live, no new calls are taken"


def test_what_a_caller_calls_itself_is_no_command_to_the_terminal():
    """Names come from callers. Escape sequences would set the clipboard or the title; line breaks break the table."""
    caller = "eve\x1b]52;c;cm0=\x07\nann"
    call = LiveCall(number=1, call="call1…", transport="webrtc", caller=caller, state="live", age=1.0)
    console = rich_console.Console(width=200, force_terminal=True, color_system=None, file=io.StringIO())
    console.print(draw(View("http://host").take(as_json([call], limit=None, ready=True))))
    assert r"eve\x1b]52;c;cm0=\x07\nann" in console.file.getvalue()
    assert "\x1b" not in console.file.getvalue()


def test_a_small_terminal_shows_the_calls_around_the_chosen_one():
    """So the list never runs out of the screen."""
    seen = view(*range(1, 101))
    for _ in range(49):
        seen, _ = press(seen, "down")
    text = drawn(seen, height=15)
    assert len(text.splitlines()) <= 15
    assert "50  call50…" in text
    assert "1  call1…" not in text.replace("51  call51…", "")
    narrow = drawn(seen, width=60, height=15)
    assert all(len(line) <= 60 for line in narrow.splitlines())


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("http://host", "http://host/calls"),
        ("https://host/talk/", "https://host/talk/calls"),
        ("http://host/calls", "http://host/calls"),
    ],
)
def test_urls(given, url):
    """With the path where the stream is mounted, or that of the page."""
    assert calls_url(given) == url


def test_what_is_no_url():
    """The text shows one."""
    with pytest.raises(ValueError, match="write for example http://"):
        calls_url("host:8000")


@pytest.mark.anyio
async def test_watching(monkeypatch):
    """A server that is gone for a while leaves the old figures, and says so; what it refuses is told."""
    answers, ended, shown = [body(1, 2), ConnectionError("nobody answers"), body(2)], [], []

    async def get_calls(url, headers):
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def end_call(url, headers, number, call):
        assert call == f"call{number}…"
        ended.append(number)
        if number == 2:
            raise UnknownConnection("no call with the number 2 is live")

    monkeypatch.setattr(top, "get_calls", get_calls)
    monkeypatch.setattr(top, "end_call", end_call)
    watching = Watching("http://host", {}, shown.append)
    await watching.look()
    await watching.look()
    assert "These figures are old: nobody answers" in drawn(shown[-1])
    assert len(shown[-1].calls) == 2
    for key in ("end", "yes"):
        assert await watching.press(key)
    assert shown[-1].told == "Call 1 is ending."
    await watching.look()
    assert not shown[-1].trouble
    for key in ("end", "yes"):
        assert await watching.press(key)
    assert shown[-1].told == "Call 2 was not ended: no call with the number 2 is live"
    assert ended == [1, 2]
    assert not await watching.press("quit")
    answers.append(ConnectionError("nobody answers"))
    with pytest.raises(ConnectionError):
        await Watching("http://host", {}, shown.append).look()


@pytest.mark.anyio
async def test_keys_that_are_pressed_while_the_server_is_asked_count(monkeypatch):
    """The answer is of a moment before, and what the user has chosen meanwhile stays chosen."""
    asked, answered = anyio.Event(), anyio.Event()
    first = [body(1, 2, 3)]

    async def get_calls(_url, _headers):
        if first:
            return first.pop()
        asked.set()
        await answered.wait()
        return body(1, 2, 3)

    monkeypatch.setattr(top, "get_calls", get_calls)
    watching = Watching("http://host", {}, lambda _: None)
    await watching.look()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watching.look)
        await asked.wait()
        await watching.press("down")
        await watching.press("end")
        answered.set()
    assert (watching.view.selected, watching.view.asking) == (2, True)


@pytest.mark.parametrize(("status", "content", "error"), [
    (404, b"", NegotiationError), (403, b'{"status": "failed", "meta": {"error": "not_authorized"}}', NegotiationError),
    (200, b"hello", RemoteProtocolError),
])  # fmt: skip
@pytest.mark.anyio
async def test_what_a_server_answers(monkeypatch, status, content, error):
    asked = []

    async def request(*arguments):
        asked.append(arguments)
        return SimpleNamespace(status_code=status, content=content)

    monkeypatch.setattr(top, "request", request)
    with pytest.raises(error):
        await top.get_calls("http://host/talk", {"authorization": "x"})
    assert asked[0][:2] == ("GET", "http://host/talk/calls/live")


@pytest.mark.anyio
async def test_the_request_that_ends_a_call_names_its_id_if_it_is_known(monkeypatch):
    """The number alone could be another call's after a restart of the server."""
    asked = []

    async def request(method, url, _headers, _timeout, body):
        asked.append((method, url, body))
        return SimpleNamespace(status_code=200, content=b'{"status": "success"}')

    monkeypatch.setattr(top, "request", request)
    await top.end_call("http://host", {}, 3)
    await top.end_call("http://host", {}, 3, "abc")
    assert asked == [
        ("POST", "http://host/calls/end", {"number": 3}),
        ("POST", "http://host/calls/end", {"number": 3, "call": "abc"}),
    ]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_it_asks_each_second_until_its_user_leaves(backend, monkeypatch):
    asked, shown = [], []

    async def get_calls(_url, _headers):
        asked.append(anyio.current_time())
        return body(1)

    async def keys():
        await anyio.sleep(3.5)
        for key in ("down", "quit", "down"):
            yield key

    monkeypatch.setattr(top, "get_calls", get_calls)

    async def watch():
        begin, typed = anyio.current_time(), keys()
        await Watching("http://host", {}, shown.append).run(typed)
        await typed.aclose()
        assert [at - begin for at in asked] == pytest.approx([0, 1, 2, 3], abs=0.01)
        asked.clear()
        with anyio.move_on_after(2.5):
            await Watching("http://host", {}, shown.append).run(None)  # without a terminal, until Ctrl-C
        assert len(asked) == 3

    name, options = virtual_backend(backend)
    anyio.run(watch, backend=name, backend_options=options)
    assert len(shown) == 4 + 2 + 3


@pytest.mark.skipif(sys.platform == "win32", reason="there only sockets can be waited for")
@pytest.mark.anyio
async def test_the_keys_of_a_terminal_come_at_once_and_it_is_left_as_it_was(monkeypatch):
    import pty
    import termios

    ours, theirs = pty.openpty()
    with open(ours, "wb", buffering=0) as typist, open(theirs, "rb") as terminal:
        before = termios.tcgetattr(terminal)
        monkeypatch.setattr(sys, "stdin", terminal)
        with anyio.fail_after(120):
            async with top.terminal_keys() as keys:
                assert not termios.tcgetattr(terminal)[3] & termios.ICANON, "no line is waited for"
                typist.write(b"\x1b[Be")
                assert [await anext(keys), await anext(keys)] == ["down", "end"]
                await keys.aclose()
        assert termios.tcgetattr(terminal) == before


@pytest.mark.anyio
async def test_without_a_terminal_there_are_no_keys(monkeypatch, tmp_path):
    (tmp_path / "input").touch()
    with open(tmp_path / "input") as file:
        monkeypatch.setattr(sys, "stdin", file)
        async with top.terminal_keys() as keys:
            assert keys is None
