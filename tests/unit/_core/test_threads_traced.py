"""A debugger, coverage or Hypothesis may trace threads while one of them is interrupted."""

from __future__ import annotations

import subprocess
import sys

import pytest

STORY = """
import logging, os, queue, sys, threading
import anyio
from rtcflow import StreamHandler, memory_pair, run_connection

logging.disable(logging.CRITICAL)

class Deaf(StreamHandler):
    def receive(self, frame):
        pass

    def emit(self):
        lock = threading.Lock()
        lock.acquire()
        {block}

    def copy(self):
        return Deaf()

async def main():
    async with memory_pair() as (ours, theirs), anyio.create_task_group() as tasks:
        tasks.start_soon(run_connection, ours, Deaf())
        await anyio.sleep(0.1)
        await theirs.aclose()

sys.settrace(lambda *_: None)
threading.settrace(lambda *_: None)
anyio.run(main, backend="{backend}")
print("done", flush=True)
os._exit(0)  # without waiting for the abandoned thread
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize(
    "block",
    ["lock.acquire()", "queue.Queue().get()", "while True: pass"],
    ids=["abandoned in C", "interrupted", "interrupted while computing"],
)
def test_traced_threads_go_on_after_an_interrupt(block, backend):
    """A connection whose worker thread is interrupted ends also where every thread is traced."""
    story = STORY.format(block=block, backend=backend)
    out = subprocess.run([sys.executable, "-c", story], timeout=40, capture_output=True, text=True, check=False)
    assert out.stdout.strip() == "done", out.stderr
