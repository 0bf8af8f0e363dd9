"""What the benchmarks of turn-taking share."""

from __future__ import annotations

import numpy as np

from rtcflow._engine.config import OpusConfig

BROWSER = OpusConfig(bitrate=32_000, complexity=9, application="voip")  # as browsers encode a microphone


def milliseconds(values, percent=None):
    """The median and the 95th percentile of seconds, or one percentile, in milliseconds."""
    if percent is None:
        return f"{milliseconds(values, 50)} / {milliseconds(values, 95)}"
    return f"{1000 * np.percentile(values, percent):.0f}" if len(values) else "-"
