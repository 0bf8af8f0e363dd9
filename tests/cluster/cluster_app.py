"""What the nodes of the tests serve: a handler that tells which process it is in."""

from __future__ import annotations

import os

from rtcflow import AdditionalOutputs, AsyncStreamHandler, Stream
from rtcflow.ends import Timeouts
from rtcflow.transports.telephone import TelephoneConfig
from rtcflow.transports.webrtc import WebRTCConfig


class Teller(AsyncStreamHandler):
    """Answers each input with its process and the input."""

    def copy(self):
        return Teller()

    async def receive(self, frame):
        pass

    async def emit(self):
        await self.args_set.wait()
        self.args_set.clear()
        return AdditionalOutputs(os.getpid(), *self.latest_args[1:])


stream = Stream(
    Teller(),
    concurrency_limit=int(os.environ.get("LIMIT", "100")),
    offer_rate=None,
    drain_time=float(os.environ.get("DRAIN", "0")),
    timeouts=Timeouts(connect=20, goodbye=0.4),
    webrtc=WebRTCConfig(host_addresses=("127.0.0.1",)),
    telephone=TelephoneConfig(unsigned_is_fine=True, trust_forwarded=True),
)
