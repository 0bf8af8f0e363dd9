"""Network namespaces, with which tests have machines of their own."""

from __future__ import annotations

import os
import shutil
import subprocess


def can_make_namespaces() -> bool:
    """Whether this machine has `ip`, and lets us make namespaces."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        return False
    name = f"rtcflow-try-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], check=False, capture_output=True).returncode == 0
    if made:
        subprocess.run(["ip", "netns", "del", name], check=True, timeout=20, capture_output=True)
    return made
