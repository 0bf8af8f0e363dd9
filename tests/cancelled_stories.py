"""What the stories of the cancellation sweeps have in common: handlers that are counted, a stream of them, a caller."""

from __future__ import annotations

from typing import Any

import anyio
import numpy as np
from cancellation_sweep import Facts

from rtcflow import AsyncStreamHandler, Stream, StreamHandler
from rtcflow.ends import Timeouts
from rtcflow.frames import AudioFormat, AudioFrame
from rtcflow.transports.webrtc import WebRTCConfig

LOCAL = WebRTCConfig(host_addresses=("127.0.0.1",))
QUICK = Timeouts(connect=5, shutdown=1, grace=0.2, goodbye=0.5)
TALK = 0.05
"""Seconds for which a caller speaks before it hangs up."""
SOUND = np.ones((1, 960), np.int16)


class Talker(AsyncStreamHandler):
    """Says something now and then, hears everything, and counts how often it was shut down."""

    def __init__(self, made: list[Any]) -> None:
        super().__init__(output_sample_rate=48000)
        self.made, self.shut_down = made, 0
        made.append(self)

    async def start_up(self):
        self.loop.create_task(anyio.sleep_forever())
        await anyio.sleep_forever()

    async def receive(self, frame):
        pass

    async def emit(self):
        await anyio.sleep(0.02)
        return 48000, SOUND

    async def shutdown(self):
        self.shut_down += 1

    def copy(self):
        return type(self)(self.made)


class SyncTalker(StreamHandler):
    """The same in worker threads."""

    def __init__(self, made: list[Any]) -> None:
        super().__init__(output_sample_rate=48000)
        self.made, self.shut_down = made, 0
        made.append(self)

    def receive(self, frame):
        pass

    def emit(self):
        return 48000, SOUND

    def shutdown(self):
        self.shut_down += 1

    def copy(self):
        return type(self)(self.made)


def a_stream(facts: Facts, kind: type[Talker | SyncTalker] = Talker, **options: Any) -> Stream:
    """A stream that shuts each of its handlers down once, and whose slots are all free in the end."""
    made: list[Any] = []
    stream = Stream(kind(made), modality="audio", mode="send-receive", webrtc=LOCAL, timeouts=QUICK, **options)
    facts.expect("each copy was shut down once", lambda: all(handler.shut_down == 1 for handler in made[1:]))
    facts.expect("every slot is free", lambda: not len(stream.calls))
    return stream


def a_handler(facts: Facts, kind: type[Talker | SyncTalker] = Talker) -> Any:
    """A handler that is not shut down twice."""
    handler = kind([])
    facts.expect("shutdown was called at most once", lambda: handler.shut_down <= 1)
    return handler


async def speak(theirs: Any, *messages: str) -> None:
    """Be the caller for a moment, and hang up."""
    theirs.start(AudioFormat(48000), AudioFormat(48000))
    theirs.audio_out.put(AudioFrame(SOUND, 48000, 0))
    for message in messages:
        theirs.send_message_nowait(message)
    await anyio.sleep(TALK)
    await theirs.aclose()
