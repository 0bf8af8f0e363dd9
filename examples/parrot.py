"""Repeats what you said when you pause, and stops when you speak. `rtcflow serve parrot:stream`.

`pip install 'rtcflow[cli,vad]'` brings the model that tells speech from noise.
"""

from __future__ import annotations

import rtcflow


def parrot(audio):
    rate, samples = audio  # all that was said in this turn: int16, shape (1, n)
    yield rate, samples


stream = rtcflow.Stream(rtcflow.ReplyOnPause(parrot), concurrency_limit=10)
