"""What the link to NATS does with nats-py that has no public name."""

from __future__ import annotations

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
