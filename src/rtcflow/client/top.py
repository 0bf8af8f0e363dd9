"""The live calls of a server in a terminal: ``rtcflow top URL``.

Deciding is pure: `View.take` has new figures, `press` has a key, and both return another view. `draw` makes a table of
it. `watch` asks the server, reads the keys and draws, and decides nothing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final

import anyio
from rich.console import Group
from rich.table import Table
from rich.text import Text

from .._core.shown import shown
from .._core.urls import shown_url
from ..exceptions import NegotiationError, RemoteProtocolError
from ..protocol import signalling
from .webrtc import check_url, read_headers, request

INTERVAL: Final = 1.0
"""Seconds between two questions for the calls."""

TIMEOUT: Final = 5.0
"""Seconds in which the server must answer."""

ROUTE: Final = "/calls"

KEYS: Final = {
    "\x1b[A": "up",
    "\x1bOA": "up",
    "k": "up",
    "\x1b[B": "down",
    "\x1bOB": "down",
    "j": "down",
    "e": "end",
    "y": "yes",
    "q": "quit",
    "\x04": "quit",
}
"""What a terminal sends for a key, and what the key means. Every other key is "no"."""

_TONES: Final = {"": "", "fair": "yellow", "bad": "bold red"}
_RIGHT: Final = {"age", "latency", "loss", "waiting"}
_CUT: Final = {"caller", "turn"}
"""Columns that a narrow terminal cuts off."""


@dataclass(frozen=True, slots=True)
class Action:
    """What a key asks for.

    Attributes:
        end: The number of the call to end, or None.
        leave: Whether to stop watching.
    """

    end: int | None = None
    leave: bool = False


NOTHING: Final = Action()


@dataclass(frozen=True, slots=True)
class View:
    """What is on the screen.

    Attributes:
        url: The server.
        columns: What stands above the columns, by name.
        calls: The calls, as ``GET {path}/calls/live`` tells them.
        limit: The most calls at once, or None.
        ready: Whether the server takes new calls.
        selected: The number of the chosen call, or None if there is no call.
        asking: Whether the user was asked if that call is to end.
        told: The answer to the last request to end a call.
        trouble: Why the figures are old; "" if they are not.
    """

    url: str
    columns: Mapping[str, str] = field(default_factory=dict)
    calls: tuple[Mapping[str, Any], ...] = ()
    limit: int | None = None
    ready: bool = True
    selected: int | None = None
    asking: bool = False
    told: str = ""
    trouble: str = "asking the server"

    def take(self, body: Mapping[str, Any]) -> View:
        """The view with new figures. The chosen call stays chosen; if it has ended, the one in its place is.

        Raises:
            RemoteProtocolError: The answer does not tell of live calls.
        """
        try:
            calls = tuple(sorted(body["calls"], key=lambda call: int(call["number"])))
            columns = {str(name): str(words) for name, words in body["columns"].items()}
            for call in calls:
                _ = [(str(call["cells"][name]["text"]), _TONES[call["cells"][name]["tone"]]) for name in columns]
            limit, ready = body["limit"], bool(body["ready"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RemoteProtocolError("what answers there does not tell of live calls") from error
        numbers = [int(call["number"]) for call in calls]
        kept = self.selected in numbers
        place = min(self._place(), len(numbers) - 1)
        selected = self.selected if kept else numbers[place] if numbers else None
        return replace(
            self,
            columns=columns,
            calls=calls,
            limit=limit,
            ready=ready,
            selected=selected,
            asking=self.asking and kept,
            trouble="",
        )

    def _place(self) -> int:
        return next((place for place, call in enumerate(self.calls) if call["number"] == self.selected), 0)


def press(view: View, key: str) -> tuple[View, Action]:
    """What a key (a value of `KEYS`, or "no") does to the view, and what it asks for."""
    if view.asking:  # whatever is pressed, the question is answered
        calm = replace(view, asking=False)
        return calm, Action(end=view.selected) if key == "yes" else NOTHING
    match key:
        case "quit":
            return view, Action(leave=True)
        case "up" | "down" if view.calls:
            place = view._place() + (1 if key == "down" else -1)
            chosen = view.calls[max(0, min(place, len(view.calls) - 1))]
            return replace(view, selected=chosen["number"], told=""), NOTHING
        case "end" if view.selected is not None:
            return replace(view, asking=True, told=""), NOTHING
        case _:
            return view, NOTHING


def read_keys(typed: str) -> list[str]:
    """The meanings of what a terminal has sent."""
    keys = []
    while typed:
        sequence = next((known for known in KEYS if typed.startswith(known)), typed[0])
        keys.append(KEYS.get(sequence, "no"))
        typed = typed[len(sequence) :]
    return keys


def summary(view: View) -> str:
    """How many calls are live, in words."""
    most = "" if view.limit is None else f" of {view.limit}"
    return f"{len(view.calls)}{most} live" + ("" if view.ready else ", no new calls are taken")


def footer(view: View, *, keys: bool) -> str:
    """The last line: a question, the answer to the last request, or the keys."""
    if view.asking:
        return f"End call {view.selected}? y ends it, any other key does not."
    if view.told:
        return view.told
    return "↑ ↓ choose a call, e ends it, q leaves." if keys else ""


def draw(view: View, *, keys: bool = True, height: int | None = None) -> Group:
    """The view for a terminal.

    Args:
        view: What to draw.
        keys: Whether keys can be pressed: then the chosen call is marked.
        height: Lines of the terminal. If there are more calls, those around the chosen one are shown.
    """
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name, words in view.columns.items():
        widths = [len(words), *(len(shown(str(call["cells"][name]["text"]))) for call in view.calls)]
        least = None if name in _CUT else max(widths)
        table.add_column(words, justify="right" if name in _RIGHT else "left", no_wrap=True, min_width=least)
    room = len(view.calls) if height is None else max(1, height - 5)
    first = max(0, min(view._place() - room // 2, len(view.calls) - room))
    for call in view.calls[first : first + room]:
        cells = [call["cells"][name] for name in view.columns]
        chosen = keys and call["number"] == view.selected
        texts = [Text(shown(str(cell["text"])), _TONES[cell["tone"]]) for cell in cells]
        table.add_row(*texts, style="reverse" if chosen else "")
    head = Text(f"{shown_url(view.url)}  {summary(view)}", "bold")
    trouble = Text(f"These figures are old: {view.trouble}" if view.trouble and view.columns else "", "bold red")
    return Group(head, trouble, table, Text(), Text(footer(view, keys=keys)))


def calls_url(url: str) -> str:
    """The page of the server at `url`: ``http://host/talk`` → ``http://host/talk/calls``.

    Raises:
        ValueError: `url` is not an http or https URL.
    """
    check_url(url, {"http", "https"}, "a server")
    url = url.partition("?")[0].rstrip("/")
    return url if url.endswith(ROUTE) else url + ROUTE


async def get_calls(url: str, headers: Mapping[str, str]) -> dict[str, Any]:
    """The live calls of the server at `url`, as ``GET {path}/calls/live`` tells them.

    Raises:
        ValueError: `url` is not an http or https URL, or a header cannot be sent.
        ConnectionError: Nobody answers there, or not in time.
        NegotiationError: The server refused.
        RemoteProtocolError: What answers there tells no such thing.
    """
    response = await request("GET", f"{calls_url(url)}/live", read_headers(headers), TIMEOUT)
    if response.status_code == 404:
        raise NegotiationError("the server shows no calls; give its Stream an authorize_operator", status=404)
    return signalling.parse_reply(response.content, response.status_code)


async def end_call(url: str, headers: Mapping[str, str], number: int, call: str | None = None) -> None:
    """End the call with this number and, if it is given, this beginning of its id. Raises as `get_calls` does."""
    body = {"number": number} if call is None else {"number": number, "call": call}
    response = await request("POST", f"{calls_url(url)}/end", read_headers(headers), TIMEOUT, body)
    signalling.parse_reply(response.content, response.status_code)


class Watching:
    """One terminal that watches a server, until its user leaves.

    Args:
        url: The server.
        headers: Of each request.
        show: Draws a view.
    """

    def __init__(self, url: str, headers: Mapping[str, str], show: Callable[[View], object]) -> None:
        self.view: View = View(url)
        self._headers, self._show = headers, show

    async def look(self) -> None:
        """Ask once. The first time, errors are raised as `get_calls` does; later, the view tells of them."""
        try:
            body = await get_calls(self.view.url, self._headers)
            self.view = self.view.take(body)  # the view as it is now: keys may have been pressed meanwhile
        except (ConnectionError, NegotiationError, RemoteProtocolError) as error:
            if not self.view.columns:
                raise
            self.view = replace(self.view, trouble=str(error))
        self._show(self.view)

    async def press(self, key: str) -> bool:
        """Do what a key asks for; False if its user leaves."""
        self.view, action = press(self.view, key)
        if action.end is not None:
            try:
                name = next((call["call"] for call in self.view.calls if call["number"] == action.end), None)
                await end_call(self.view.url, self._headers, action.end, name)
                told = f"Call {action.end} is ending."
            except (ConnectionError, NegotiationError, RemoteProtocolError) as error:
                told = f"Call {action.end} was not ended: {error}"
            self.view = replace(self.view, told=told)
        self._show(self.view)
        return not action.leave

    async def run(self, keys: AsyncIterator[str] | None) -> None:
        """Ask each second, and do what the keys say, until the user leaves."""
        await self.look()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._keep_looking)
            if keys is None:
                await anyio.sleep_forever()
            else:
                async for key in keys:
                    if not await self.press(key):
                        break
            tasks.cancel_scope.cancel()

    async def _keep_looking(self) -> None:
        while True:
            await anyio.sleep(INTERVAL)
            await self.look()


@asynccontextmanager
async def terminal_keys() -> AsyncIterator[AsyncIterator[str] | None]:
    """The keys of this process's terminal as they are pressed. None if it has no terminal whose keys can be read."""
    if sys.platform == "win32" or not sys.stdin.isatty():  # there only sockets can be waited for
        yield None
        return
    import termios
    import tty

    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    tty.setcbreak(terminal)  # Ctrl-C still interrupts
    try:
        yield _typed(terminal)
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


async def _typed(terminal: int) -> AsyncIterator[str]:
    while True:
        await anyio.wait_readable(terminal)
        typed = os.read(terminal, 1024)
        if not typed:
            return
        for key in read_keys(typed.decode(errors="replace")):
            yield key
