"""examples/phone_agent.py: keys, a transfer after the last word, and hanging up, in virtual time."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import anyio
import numpy as np
import pytest

from rtcflow import EndCause
from rtcflow.context import Context
from rtcflow.testing import open_caller
from rtcflow.testing.clocks import virtual_backend

EXAMPLES = Path(__file__).parents[3] / "examples"
pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    """Virtual time on both backends."""
    return virtual_backend(request.param)


@pytest.fixture
def program(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    module = importlib.import_module("phone_agent")
    monkeypatch.setattr(module, "voice", lambda text: (8000, np.full((1, 500 * len(text)), 8000, np.int16)))
    return module


def press(caller, digit):
    caller.send_message(json.dumps({"type": "dtmf", "data": digit}))


def loud(caller):
    return [heard.at for heard in caller.heard if np.abs(heard.frame.samples).max() > 1000]


async def test_the_transfer_waits_for_the_last_word(program, monkeypatch):
    """People report that transfers cut off the last words: here every frame of them is out before the request."""
    transferred = []

    async def transfer(call_id, number):
        transferred.append((anyio.current_time(), call_id, number))

    monkeypatch.setattr(program, "transfer", transfer)
    context = Context("x", custom={"call_id": "CA1"})
    async with open_caller(program.Menu(), context=context) as caller:
        await caller.wait(1)
        press(caller, "2")
        await caller.wait(8)
        (transfer,) = transferred
        assert transfer[1:] == ("CA1", "+15550100")
        words = len("One moment, please. I connect you.") * 500 / 8000
        assert len(loud(caller)) * 0.02 == pytest.approx(1 + words, abs=0.2)


async def test_nine_hangs_up_after_goodbye(program):
    """The caller hears all of it."""
    async with open_caller(program.Menu()) as caller:
        await caller.wait(1)
        before = len(loud(caller))
        press(caller, "9")
        with anyio.fail_after(120):
            end = await caller.wait_ended()
    assert (end.cause, end.reason) == (EndCause.HANDLER_CLOSED, "the caller pressed nine")
    assert (len(loud(caller)) - before) * 0.02 == pytest.approx(0.5, abs=0.1)


async def test_a_key_interrupts_the_menu(program):
    """One answer, one key after the other, and the last one is played to its end."""
    async with open_caller(program.Menu()) as caller:
        await caller.wait(1)
        press(caller, "1")
        await caller.wait(0.5)
        press(caller, "1")
        await caller.wait(6)
        assert caller.handler.heard().complete
        assert caller.handler.heard().text == "We are open from nine to five."
