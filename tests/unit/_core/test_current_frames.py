"""Looking at threads while garbage waits to be collected."""

from __future__ import annotations

import subprocess
import sys

import pytest

STORY = """
import gc, sys, threading, time
from rtcflow._core.interrupt import current_frames

class Cycle:
    def __init__(self):
        self.me, self.local = self, threading.local()
        self.local.value = 1

def wait():
    end.wait()

for room in 2, 4, 8, 16:  # how many objects are made before garbage is collected: at one of these, the frames
    end = threading.Event()
    threads = [threading.Thread(target=wait) for _ in range(30)]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    gc.collect()
    gc.disable()
    spare = [{{}} for _ in range(20)]  # dicts for reuse: making one shall not collect the garbage
    del spare
    Cycle()
    gc.set_threshold(gc.get_count()[0] + room)
    if {enabled}:
        gc.enable()
    frames = current_frames()
    gc.set_threshold(700)
    end.set()
    for thread in threads:
        thread.join()
    print(len(frames), gc.isenabled())
"""


@pytest.mark.parametrize("enabled", [True, False])
def test_garbage_does_not_stop_the_process(enabled: bool) -> None:
    """A collection of what is local to threads waits until their frames are there; the collector is left as it was."""
    story = STORY.format(enabled=enabled)
    done = subprocess.run([sys.executable, "-c", story], timeout=150, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == (4 * f"31 {enabled}\n", "")
