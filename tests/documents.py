"""Finding the examples in pages, and calling handlers in memory: for test_docs.py and test_examples.py."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import av
import numpy as np
from numpy.typing import NDArray

import rtcflow

ROOT = Path(__file__).parents[1]
RATE = 48000
FENCE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Example:
    """A block of Python in a page. (Blocks that are not meant to run are fenced with ```py.)"""

    page: Path
    line: int
    code: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT).as_posix()}:{self.line}"

    def run(self) -> dict[str, Any]:
        """Execute it as a module of its own; returns its names."""
        names: dict[str, Any] = {"__name__": "example"}
        # As many line ends before it as in the page, so that tracebacks point there.
        exec(compile("\n" * self.line + self.code, str(self.page), "exec"), names)
        return names


def examples() -> Iterator[Example]:
    """Every block of Python in README and docs."""
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        text = page.read_text()
        for found in FENCE.finditer(text):
            yield Example(page, text.count("\n", 0, found.start()) + 1, found.group(1))


def example(page: str, name: str) -> dict[str, Any]:
    """What the block in `page` that defines `name` defines."""
    (found,) = [
        e
        for e in examples()
        if e.page.name == page and re.search(rf"^(class|async def|def) {name}\b", e.code, re.MULTILINE)
    ]
    return found.run()


def tone(seconds: float, level: float = 0.3) -> NDArray[np.int16]:
    """An A at 48 kHz: int16, shape (1, n)."""
    t = np.arange(round(seconds * RATE)) / RATE
    return (level * 32767 * np.sin(2 * np.pi * 440 * t)).astype(np.int16)[np.newaxis]


@dataclass
class HeardFrame:
    """What a caller got."""

    samples: NDArray[np.int16]
    pictures: list[av.VideoFrame]
    outputs: list[Any]
    seconds: float = 0.0
    end: rtcflow.End | None = None


async def call(
    handler: rtcflow.StreamHandlerBase,
    say: NDArray[np.int16] | None = None,
    show: av.VideoFrame | None = None,
    *,
    seconds: float,
) -> HeardFrame:
    """Call `handler` in memory: say something, show something, listen for `seconds` (or until it ends), hang up."""
    video = show is not None
    offer = rtcflow.abc.MediaOffer(receive_video=video, send_video=video)
    parts: list[NDArray[np.int16]] = []
    heard = HeardFrame(np.zeros((1, 0), np.int16), [], [])

    async def listen(theirs: rtcflow.Transport) -> None:
        while True:
            frame = await theirs.audio_in.take()
            parts.append(frame.samples)
            heard.seconds += frame.duration

    async def look(theirs: rtcflow.Transport) -> None:
        while True:
            heard.pictures.append(await theirs.video_in.take())

    async def talk(theirs: rtcflow.Transport) -> None:
        for first in range(0, 0 if say is None else say.shape[1], 960):
            theirs.audio_out.put(rtcflow.AudioFrame(say[:, first : first + 960], RATE, first))
        while video:
            theirs.video_out.put_nowait(show)
            await anyio.sleep(0.05)

    async def serve(ours: rtcflow.Transport) -> None:
        heard.end = await rtcflow.run_connection(ours, handler, on_outputs=heard.outputs.append)
        done.set()

    done = anyio.Event()
    async with rtcflow.memory_pair(offer) as (ours, theirs), anyio.create_task_group() as tasks:
        theirs.start(rtcflow.AudioFormat(RATE), rtcflow.AudioFormat(RATE))
        tasks.start_soon(serve, ours)
        tasks.start_soon(_until_end, listen, theirs)
        tasks.start_soon(_until_end, look, theirs)
        tasks.start_soon(_until_end, talk, theirs)
        with anyio.move_on_after(seconds):
            await done.wait()
        await theirs.aclose()
        await done.wait()
        tasks.cancel_scope.cancel()
    heard.samples = np.concatenate([np.zeros((1, 0), np.int16), *parts], axis=1)
    return heard


async def _until_end(part: Any, transport: rtcflow.Transport) -> None:
    try:
        await part(transport)
    except (anyio.EndOfStream, anyio.ClosedResourceError):
        return
