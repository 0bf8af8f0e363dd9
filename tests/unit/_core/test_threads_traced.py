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

def interrupted():
    queue.Queue().get()

def interrupted_while_computing():
    while True:
        pass

def abandoned_in_c():
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()

class Deaf(StreamHandler):
    def __init__(self, block):
        super().__init__()
        self.emit = block

    def receive(self, frame):
        pass

    def emit(self):
        pass

    def copy(self):
        return Deaf(self.emit)

async def main(block):
    async with memory_pair() as (ours, theirs), anyio.create_task_group() as tasks:
        tasks.start_soon(run_connection, ours, Deaf(block))
        await anyio.sleep(0.1)
        await theirs.aclose()

sys.settrace(lambda *_: None)
threading.settrace(lambda *_: None)
for block in (interrupted, interrupted_while_computing, abandoned_in_c):
    anyio.run(main, block, backend=sys.argv[1])
    print(block.__name__, flush=True)
os._exit(0)  # without waiting for the abandoned thread
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_traced_threads_go_on_after_an_interrupt(backend):
    """A connection whose worker thread is interrupted ends also where every thread is traced."""
    command = [sys.executable, "-c", STORY, backend]
    out = subprocess.run(command, timeout=150, capture_output=True, text=True, check=False)
    assert out.stdout.split() == ["interrupted", "interrupted_while_computing", "abandoned_in_c"], out.stderr
