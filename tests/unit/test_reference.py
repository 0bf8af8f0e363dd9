"""The handler reference names what exists, and tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import rtcflow
import rtcflow.audio
from rtcflow.connection.handler_loop import HandlerLoop
from rtcflow.handlers.base import AsyncAudioVideoStreamHandler, AudioVideoStreamHandler

TESTS = Path(__file__).parent
PAGE = TESTS.parents[1] / "docs" / "reference.md"
ROW = re.compile(r"^\| (`.*`) \| .* \| `(\w+\.py)::(\w+)` \|$", re.MULTILINE)
ROWS = [
    (name, file, test) for names, file, test in ROW.findall(PAGE.read_text()) for name in re.findall(r"`(\w+)`", names)
]


class Handler(AudioVideoStreamHandler):
    def receive(self, frame): ...
    def emit(self): ...
    def video_receive(self, frame): ...
    def video_emit(self): ...
    def copy(self): ...


def test_the_tables_are_read() -> None:
    """The page's tables have the shape this test reads."""
    assert len(ROWS) > 40


@pytest.mark.parametrize(("name", "file", "test"), ROWS)
def test_every_row_names_what_exists_and_a_test_of_it(name: str, file: str, test: str) -> None:
    """A name in the reference is an attribute of handlers, of their loop, or of rtcflow; its test is there."""
    owners = [Handler(), AudioVideoStreamHandler, AsyncAudioVideoStreamHandler, HandlerLoop, rtcflow.audio]
    assert any(name in dir(owner) for owner in owners), name
    assert re.search(rf"^(async )?def {test}\(", next(TESTS.rglob(file)).read_text(), re.MULTILINE), test


def test_every_public_name_of_handlers_is_in_the_reference() -> None:
    """What handlers offer, the page lists."""
    page = PAGE.read_text()
    for name in [*dir(Handler()), *(n for n in vars(HandlerLoop) if n not in {"close", "move_to"})]:
        if not name.startswith("_"):
            assert f"`{name}" in page, name
