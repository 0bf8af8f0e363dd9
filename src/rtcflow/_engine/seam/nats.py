"""What the link to NATS does with nats-py that has no public name."""

from __future__ import annotations

import asyncio
from typing import Any


async def stop_sending(client: Any, subscription: Any) -> None:
    """Ask NATS for no more messages of `subscription`; what is on its way still arrives.

    `Subscription.unsubscribe` throws away what is on its way, and `drain` closes more than the subscription.

    Relies on: ``Client._send_unsubscribe(sid)`` writes UNSUB and forgets nothing; ``Subscription._id`` is its sid.
    """
    await client._send_unsubscribe(subscription._id)


def is_joined(client: Any) -> bool:
    """Whether the server is one of several that are joined.

    Relies on: ``Client._server_info`` is what the server said in INFO, where ``cluster`` is the name of its cluster.
    """
    return bool(client._server_info.get("cluster"))


def cut_when_closed(client: Any, seconds: float) -> None:
    """Have the present connection cut `seconds` after it was closed, whatever the server has not taken by then.

    nats-py waits until all was taken, before it connects again. A server that is dead or stopped takes nothing.

    Relies on: ``Client._transport`` is the present connection; each attempt makes its own. That of TCP and TLS has
    ``close()`` and ``_io_writer``, an `asyncio.StreamWriter`. That of a WebSocket has no such writer.
    """
    transport = client._transport
    close, writer = transport.close, getattr(transport, "_io_writer", None)
    if writer is None:
        return
    abort = writer.transport.abort

    def close_soon() -> None:
        close()
        asyncio.get_running_loop().call_later(seconds, abort)

    transport.close = close_soon


def cut(client: Any) -> None:
    """Cut the present connection, if there still is one.

    Relies on: see `cut_when_closed`.
    """
    writer = getattr(client._transport, "_io_writer", None)
    if writer is not None:
        writer.transport.abort()
