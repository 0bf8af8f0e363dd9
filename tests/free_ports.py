"""Ports of this machine that nobody uses."""

from __future__ import annotations

import socket


def free_udp_port() -> int:
    """A UDP port that was free a moment ago, on 127.0.0.1."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as trial:
        trial.bind(("127.0.0.1", 0))
        return int(trial.getsockname()[1])
