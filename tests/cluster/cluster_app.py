"""What the nodes of the tests serve: a handler that tells which process it is in. The environment sets how."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import anyio

from rtcflow import AdditionalOutputs, AsyncStreamHandler, Stream
from rtcflow.cluster import Cluster
from rtcflow.ends import Timeouts
from rtcflow.transports.telephone import TelephoneConfig
from rtcflow.transports.webrtc import WebRTCConfig

ENV = os.environ

if skew := float(ENV.get("SKEW", "0")):
    true_time = time.time
    time.time = lambda: true_time() + skew

if "PROTOCOL" in ENV:  # another version of rtcflow
    from rtcflow.cluster import node

    node.PROTOCOL = int(ENV["PROTOCOL"])

if "RECONNECT" in ENV:  # a busy machine needs longer
    from rtcflow.cluster import peers

    peers.RECONNECT = float(ENV["RECONNECT"])

if "SLOW" in ENV:  # the event loop stands still again and again
    signal.signal(signal.SIGALRM, lambda *_: time.sleep(0.2))
    signal.setitimer(signal.ITIMER_REAL, 1, 0.4)


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


class Other(Teller):
    """Another stream."""

    def copy(self):
        return Other()


async def authorize(caller):
    """Say that a call has come, and never answer it."""
    Path(ENV["HANG"]).touch()
    await anyio.sleep_forever()


cluster = None
if "NATS" in ENV:
    limit = ENV.get("CLUSTER_LIMIT")
    limit = None if limit is None else int(limit)
    cluster = Cluster(ENV["NATS"], concurrency_limit=limit, release=ENV.get("RELEASE", ""))

stream = Stream(
    Other() if "OTHER" in ENV else Teller(),
    concurrency_limit=int(ENV.get("LIMIT", "100")),
    offer_rate=None,
    drain_time=float(ENV.get("DRAIN", "0")),
    timeouts=Timeouts(connect=float(ENV.get("CONNECT", "20")), goodbye=0.4),
    webrtc=WebRTCConfig(host_addresses=(ENV.get("ADDRESS", "127.0.0.1"),)),
    telephone=TelephoneConfig(unsigned_is_fine=True, trust_forwarded=True),
    authorize=authorize if "HANG" in ENV else None,
    cluster=cluster,
)

app = stream.asgi
