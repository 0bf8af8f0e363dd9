"""A WebSocket that another node serves, as the server of its client sees it; over NATS it is tested in test_node.py."""

from __future__ import annotations

import anyio
import pytest

from rtcflow.cluster.carrying import Carrier, Request
from rtcflow.cluster.pipe import Pipe

pytestmark = pytest.mark.anyio


class OtherNode:
    """Takes what is written into the pipe."""

    def __init__(self):
        self.taken = []

    async def deliver(self, subject, message, timeout):
        await anyio.lowlevel.checkpoint()
        self.taken.append(message)
        return b"taken"


async def carry(*events, gone=False, send_fails=None):
    """Carry a WebSocket on which the other node has sent these events; what the client's server got, and the node."""
    node, sent = OtherNode(), []
    pipe = Pipe(node, 1)
    for number, event in enumerate(events, 1):
        pipe.take(number, ({"type": event}, b""), lambda: None)
    if gone:
        pipe.fail()
    connected = [{"type": "websocket.connect"}]

    async def receive():
        return connected.pop() if connected else await anyio.sleep_forever()

    async def send(event):
        await anyio.lowlevel.checkpoint()
        if event["type"] == send_fails:
            raise ConnectionError
        sent.append(event["type"])

    await Carrier({}, node)._carry_websocket(pipe, Request("WS /", {}, receive, send, None))
    return sent, node


async def test_a_node_that_dies_has_its_websocket_closed():
    sent, _ = await carry("websocket.accept", gone=True)
    assert sent == ["websocket.accept", "websocket.close"]


async def test_a_websocket_is_closed_once():
    """The other node drains: it has closed the WebSocket, and is gone before it can say that this was all."""
    sent, _ = await carry("websocket.accept", "websocket.close", gone=True)
    assert sent == ["websocket.accept", "websocket.close"]


async def test_a_client_that_has_left_is_no_error():
    """ASGI's servers may raise an OSError for what is sent then. The other node is told."""
    sent, node = await carry("websocket.accept", "websocket.send", send_fails="websocket.send")
    assert sent == ["websocket.accept"]
    assert b"websocket.disconnect" in node.taken[-1]


async def test_a_client_that_leaves_with_its_node_is_no_error():
    sent, _ = await carry("websocket.accept", gone=True, send_fails="websocket.close")
    assert sent == ["websocket.accept"]
