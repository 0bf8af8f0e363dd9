"""The examples in README and docs: each runs, and the handlers among them do what the page says."""

from __future__ import annotations

import numpy as np
import pytest
from documents import Example, call, example, examples, tone

import rtcflow


@pytest.fixture
def anyio_backend(virtual_backend: object) -> object:
    """Both backends, in virtual time."""
    return virtual_backend


# test_find_a_bug.py runs those of its page.
@pytest.mark.parametrize("example", [one for one in examples() if one.page.name != "find-a-bug.md"], ids=str)
def test_every_example_runs(example: Example) -> None:
    """A block of Python in README or docs can be pasted into a file and run."""
    example.run()


@pytest.mark.parametrize(
    ("page", "name"),
    [("README.md", "Echo"), ("index.md", "Echo"), ("tutorial.md", "Echo"), ("tutorial.md", "AsyncEcho")],
)
@pytest.mark.anyio
async def test_the_echoes_echo(page: str, name: str) -> None:
    """What is said into an echo comes back as it was."""
    said = tone(0.3)
    heard = await call(example(page, name)[name](), said, seconds=0.6)
    assert heard.samples.shape[1] >= 0.2 * 48000
    part = heard.samples[0, 960:4800].astype(float)
    best = np.correlate(said[0].astype(float), part, "valid").max()
    assert best > 0.98 * np.dot(part, part)
    assert heard.end is not None
    assert heard.end.cause is rtcflow.EndCause.PEER_LEFT


@pytest.mark.anyio
async def test_the_meter_reports_how_loud_it_is() -> None:
    """The tutorial's Meter hands its readings to the application."""
    heard = await call(example("tutorial.md", "Meter")["Meter"](), tone(0.2, level=0.5), seconds=0.4)
    levels = [outputs.args[0] for outputs in heard.outputs]
    assert max(levels) == pytest.approx(0.5 * 2 / np.pi, rel=0.05)


@pytest.mark.anyio
async def test_the_talkative_one_is_interrupted() -> None:
    """The tutorial's Talkative hums until the caller speaks, and what was queued is dropped."""
    talkative = example("tutorial.md", "Talkative")["Talkative"]
    undisturbed = await call(talkative(), seconds=1.0)
    interrupted = await call(talkative(), np.concatenate([0 * tone(0.1), tone(0.1)], axis=1), seconds=1.0)
    assert undisturbed.seconds > 0.7
    assert interrupted.seconds < 0.6
