"""A middleware between the server and a line: when a call is over, it still takes the rest of what the peer sends.

A server holds received messages in a short queue (Hypercorn: ten), and puts the message about the peer's end behind
them. If the application returns while that queue is full, nobody takes from it any more. Then the server's reader waits
for room for ever, and the socket and its tasks are never freed. A peer only has to go on sending for a moment after its
call has ended, as every microphone does. `Lingering` goes on receiving in the application's place.

A server that is stopped cancels the application, in a call or after it. Under asyncio, Hypercorn then waits for room
just the same, and never stops.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import anyio

from ..transports.line_socket import FAIR, GOODBYE, LineLimits

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

QUIET: Final = 10
SOON: Final = 0.01
"""So many times in a row this many seconds without a message: the server holds no more of them then, and its queue has
room for the peer's end. Turns of the loop are counted, not only time: after a stall the time is over before the server
has read what came meanwhile.
"""


class Lingering:
    """ASGI middleware for WebSocket routes that returns when the server holds no more messages of the peer.

    Everything of the call is free by then. Messages are taken as fast as in a call and no faster, so a flood costs no
    more than a call does.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
            await _take_the_rest(receive)
        except anyio.get_cancelled_exc_class():
            with anyio.move_on_after(GOODBYE, shield=True):  # the server reads no more, so there is little
                await _take_the_rest(receive)
            raise


async def _take_the_rest(receive: Receive) -> None:
    count = waits = 0
    while waits < QUIET:
        with anyio.move_on_after(SOON) as waiting:
            said = await receive()
        if waiting.cancelled_caught:
            waits += 1
            continue
        if said["type"] == "websocket.disconnect":  # the last message there is (ASGI)
            return
        waits = 0
        count += 1
        if count % FAIR == 0:
            await anyio.sleep(FAIR / LineLimits().rate)
