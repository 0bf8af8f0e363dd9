"""One handler for each kind of bug that people really write; docs/find-a-bug.md shows them with their stories."""

from __future__ import annotations

import socket
import time
from collections import deque

import anyio
import numpy as np

import rtcflow
from rtcflow.testing import signals

RATE = 24000


class Echo(rtcflow.AsyncStreamHandler):
    """What the bugs below are planted into."""

    def __init__(self):
        super().__init__()
        self.frames = deque()
        self.came = rtcflow.Event()

    async def receive(self, frame):
        self.frames.append(frame)
        self.came.set()

    async def emit(self):
        while not self.frames:
            self.came.clear()
            await self.came.wait()
        return self.frames.popleft()

    def copy(self):
        return type(self)()


class SharedModel(Echo):
    """1. All calls share the memory of one model."""

    noise = np.zeros(1)

    async def receive(self, frame):
        self.noise += 0.05 * (np.abs(frame[1]).mean() - self.noise)
        await super().receive(frame)


class StaleReply(Echo):
    """2. The rest of a reply is played after the caller has interrupted it."""

    async def receive(self, frame):
        if not self.frames and np.abs(frame[1]).max() > 1000:
            self.frames.extend((RATE, signals.tone(0.02)) for _ in range(150))
            self.came.set()


class TenMilliseconds(Echo):
    """3. Takes it for granted that frames have a length."""

    async def receive(self, frame):
        if frame[1].reshape(-1, RATE // 100).std(axis=1).max() > 0:
            await super().receive(frame)


class LateSession(Echo):
    """4. Cleans up what only some calls have."""

    async def start_up(self):
        self.session = ["hello"]

    async def shutdown(self):
        self.session.clear()


class WaitsForArguments(Echo):
    """5. Waits for arguments that never come, and cannot be cancelled."""

    async def start_up(self):
        with anyio.CancelScope(shield=True):
            await self.wait_for_args()


class OpenSocket(Echo):
    """6. Leaves a socket open when the call is over."""

    async def start_up(self):
        self.service = socket.socket()


class OneBuffer(rtcflow.StreamHandler):
    """7. Writes into audio that was handed over before."""

    def __init__(self):
        super().__init__()
        self.buffer = np.zeros((1, 480), np.int16)

    def receive(self, frame):
        pass

    def emit(self):
        self.buffer += 1
        return RATE, self.buffer

    def copy(self):
        return OneBuffer()


class Metronome(rtcflow.StreamHandler):
    """8. Works, and then sleeps for as long as its audio lasts."""

    def receive(self, frame):
        pass

    def emit(self):
        time.sleep(0.002)  # the work
        time.sleep(0.02)
        return RATE, signals.tone(0.02)

    def copy(self):
        return Metronome()


class ClearsTooLate(Echo):
    """9. Clears the event after it has waited: a frame that came in between is forgotten."""

    async def emit(self):
        await self.came.wait()
        frame = self.frames.popleft()
        await anyio.sleep(0)
        self.came.clear()
        return frame


class KeepsItsPlace(Echo):
    """10. Gives its place back only if `start_up` has ended."""

    places = [8]
    started = False

    async def start_up(self):
        self.places[0] -= 1
        await anyio.sleep(0.1)
        self.started = True

    async def shutdown(self):
        if self.started:
            self.places[0] += 1


class SaysNothing(Echo):
    """11. Swallows the errors of its model."""

    async def receive(self, frame):
        try:
            self.model.feed(frame)
        except Exception:
            self.failed = True


class Louder(Echo):
    """12. Multiplies int16, which wraps around."""

    async def receive(self, frame):
        await super().receive((frame[0], frame[1] * 3))


class OneMinute(Echo):
    """13. Hangs up a minute after it was made, not after the call began."""

    def __init__(self):
        super().__init__()
        self.began = time.monotonic()

    async def emit(self):
        if time.monotonic() - self.began > 60:
            return rtcflow.CloseStream("your minute is over")
        return await super().emit()


KINDS = {
    SharedModel: "one call leaves no trace in another",
    StaleReply: "after clear_queue the caller hears nothing that was made before",
    TenMilliseconds: "it serves a caller whose frames are of any length",
    LateSession: "shutdown may be called on a copy that never served anybody",
    WaitsForArguments: "its call ends in time, and its threads come back",
    OpenSocket: "it serves a call on trio and on asyncio",
    OneBuffer: "it serves a call on trio and on asyncio",
    Metronome: "its audio comes in real time",
    ClearsTooLate: "it answers in the same way under every order of its tasks",
    KeepsItsPlace: "one call leaves no trace in another",
    SaysNothing: "an error in its methods is not swallowed",
    Louder: "its audio comes in real time",
    OneMinute: "its limits count from the call's own moments",
}
"""The handlers, in the order of their kinds, with the beginning of the sentence that each breaks."""
