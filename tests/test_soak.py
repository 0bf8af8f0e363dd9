"""How bench/soak.py judges: a machine that lets programs wait is not called a fault of the product."""

from __future__ import annotations

import importlib.util
import os
import sys
import threading
from pathlib import Path

import pytest

SOAK = Path(__file__).parents[1] / "bench" / "soak.py"


@pytest.fixture(scope="module")
def soak():
    spec = importlib.util.spec_from_file_location("bench_soak", SOAK)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_a_call_is_judged_unless_the_control_was_late_during_it(soak):
    """A call that lost frames counts if the control ran all the time; a short wait of the control excuses nothing."""
    calls = [soak.Delivery("webrtc", begin, begin + 10, 500, heard, 0.1) for begin, heard in [(0, 400), (20, 400)]]
    calls.append(soak.Delivery("webrtc", 40, 50, 500, 497, 0.1))
    calls.append(soak.Delivery("webrtc", 60, 70, 500, 400, 0.1))
    found = soak.judge(
        calls, [(5.0, 0.1), (29.9, 0.4), (35.0, 4.0)], [(61.0, 0.1), (62.0, 0.9), (15.0, 0.9), (21.0, 0.2)]
    )
    assert (found["healthy calls"], found["judged"], found["below 99 %"]) == (4, 2, 1)
    assert found["below 99 %, not judged"] == 2
    assert found["worst"] == ["webrtc of 10.0 s: 400 of 500"]
    assert found["control's longest gap"] == 4.0


def test_the_system_says_how_long_each_thread_waited(soak):
    """Seconds that only grow; on systems other than Linux nothing is known."""
    before, after = soak.waits(os.getpid()), soak.waits(os.getpid())
    assert sys.platform != "linux" or 0 <= before[name := str(threading.get_native_id())] <= after[name]


def test_what_the_control_writes_is_read(soak, tmp_path):
    """Also if it was killed in the middle of a line."""
    (tmp_path / "notes").write_text("1.5 0.25\n2.5 0.5\n3")
    assert soak.waited(tmp_path / "notes") == [(1.5, 0.25), (2.5, 0.5)]
