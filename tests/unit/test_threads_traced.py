"""A debugger, coverage or Hypothesis may trace a thread while another one was interrupted."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

STORY = """
import os, sys, threading, anyio, logging
from rtcflow import StreamHandler, run_connection, memory_pair

logging.disable(logging.CRITICAL)

class Deaf(StreamHandler):
    def receive(self, frame): pass
    def emit(self):
        {block}
    def copy(self): return Deaf()

async def main():
    async with memory_pair() as (ours, theirs), anyio.create_task_group() as tasks:
        tasks.start_soon(run_connection, ours, Deaf())
        await anyio.sleep(0.1)
        await theirs.aclose()

anyio.run(main)

def traced(): return "done"
sys.settrace(lambda *_: None)
print(traced(), flush=True)
os._exit(0)  # without waiting for the abandoned thread
"""


@pytest.mark.parametrize(
    "block",
    ["lock = threading.Lock(); lock.acquire(); lock.acquire()", "threading.Event().wait()"],
    ids=["a lock, abandoned", "an event, interrupted"],
)
def test_a_traced_thread_goes_on_after_an_interrupt(block):
    """After a worker thread was interrupted, got back or not, a function that is traced still returns."""
    story = textwrap.dedent(STORY).replace("{block}", block)
    out = subprocess.run([sys.executable, "-c", story], timeout=30, capture_output=True, text=True, check=False)
    assert out.stdout.strip() == "done", out.stderr
