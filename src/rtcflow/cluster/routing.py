"""Which node answers a request: the one that has its call, or for a new call one with a free slot."""

from __future__ import annotations

import logging
import random
from typing import TYPE_CHECKING, Any, Final

import anyio

from ..exceptions import CallLost, NotServing
from ..serving.router import About, RequestTarget, replay
from .carrying import AnswerStart
from .holdings import call_name
from .ids import is_signed, read_id

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Mapping

    from ..serving.router import Application
    from .carrying import Carrier, Request
    from .holdings import Holdings
    from .peers import Peers
    from .policy import Load

logger: logging.Logger = logging.getLogger(__name__)

EARLY: Final = 1.0
"""Seconds that a trickled candidate waits for the offer of its call, which may be on its way to another node."""

ATTEMPTS: Final = 8
"""Nodes that are asked for one call at most."""


class Routing:
    """Finds the node of a request; see `rtcflow.serving.router.CallRouter.route`.

    Args:
        calls: The ids of the live calls of this node.
        endpoints: What answers each route of its stream.
        load: How busy this node is.
        peers: The other nodes.
        holdings: The ids of the calls here, and what is known of those elsewhere.
        carrier: Takes a request to another node.
    """

    def __init__(
        self,
        calls: Container[str],
        endpoints: Mapping[str, Application],
        load: Callable[[], Load],
        peers: Peers,
        holdings: Holdings,
        carrier: Carrier,
    ) -> None:
        self._calls = calls
        self._endpoints = endpoints
        self._load = load
        self._peers = peers
        self._holdings = holdings
        self._carrier = carrier

    async def route(self, target: RequestTarget, request: Request) -> bool:
        """See `rtcflow.serving.router.CallRouter.route`."""
        webrtc_id = target.webrtc_id
        if webrtc_id is not None and webrtc_id in self._calls:
            return False
        if webrtc_id is not None and target.about is not About.NEW:
            if await self._route_live(webrtc_id, target, request):
                return True
            if target.about is About.LIVE:
                return False
        return await self._place(request)

    async def _route_live(self, webrtc_id: str, target: RequestTarget, request: Request) -> bool:
        found = read_id(webrtc_id)
        if found is not None:
            if found.node == self._peers.name:
                return False  # made up, or over
            key = self._peers.members.key(found.node)
            if key is not None and not is_signed(found, key):
                return False  # made up
            subject = self._peers.node_subject(found.node)
            # Without a key it is made up, or its node has just started and was not heard here yet. NATS knows.
            if await self._carrier.forward(subject, None if key is None else found.node, request):
                return True
            if key is None:
                return False
            if not await self._ask_again(subject, found.node, request):
                raise CallLost
            return True
        name = call_name(webrtc_id)
        subject = f"{self._peers.prefix}.{name}"
        try:
            if await self._carrier.forward(subject, self._holdings.said_to_hold(name), request):
                return True
        except NotServing:
            if target.about is About.LIVE or self._holdings.said_to_hold(name) is not None:
                raise
            return False  # NATS is away, and nobody has told of a call with this id: it is a new one
        if target.early and await self._announced(name):
            if webrtc_id in self._calls:
                return False
            if await self._carrier.forward(subject, self._holdings.said_to_hold(name), request):
                return True
        node = self._holdings.said_to_hold(name)
        if target.about is not About.LIVE or node is None:
            return False
        return await self._ask_again(subject, node, request)

    async def _ask_again(self, subject: str, node: str, request: Request) -> bool:
        """Nobody listens to `subject`. If the node lives, it may only have been away in that moment.

        Raises:
            CallLost: The node is dead.
        """
        if await self._peers.is_dead(node):
            raise CallLost
        return await self._carrier.forward(subject, node, request)

    async def _announced(self, name: str) -> bool:
        """Wait until some node has taken an id, for a moment."""
        with anyio.move_on_after(EARLY):
            while not self._holdings.has_heard_of(name):
                await self._peers.wait_news()
            return True
        return False

    async def _place(self, request: Request) -> bool:
        """Find a node for a new call. False if it is to be served here, also if that means refusing it."""
        if request.body is None and self._load().has_room:
            return False  # its media comes here anyway
        tried: set[str] = set()
        refusal: AnswerStart | None = None
        while len(tried) < ATTEMPTS and (node := self._choose(tried)) is not None:
            tried.add(node)
            taken = False
            self._peers.placement.reserve(node)
            try:
                if node == self._peers.name:
                    refusal = await self._serve_here(request)
                else:
                    refusal = await self._carrier.offer(node, request)
                taken = refusal is None
            except CallLost:
                # Perhaps it died with the request in its hands: another one may take it. Perhaps it only was away.
                self._peers.placement.remove(node)
            except NotServing as error:
                logger.info("node %s did not take a call: %s", node, error)
            finally:
                self._peers.placement.settle(node, taken=taken)
            if taken:
                return True
        if refusal is None or request.body is None:
            return False
        await request.send_whole(refusal)
        return True

    def _choose(self, tried: set[str]) -> str | None:
        placement = self._peers.placement
        placement.update(self._peers.name, self._load())
        node = placement.choose(random.randrange, tried)
        if node is None:
            full = placement.believed_full(tried)
            node = random.choice(full) if full else None  # noqa: S311
        return node

    async def _serve_here(self, request: Request) -> AnswerStart | None:
        """Serve a new call at this node; returns the refusal if it has no slot after all."""
        if request.body is None:
            return AnswerStart(503)
        refusal: AnswerStart | None = None

        async def send(event: Any) -> None:
            nonlocal refusal
            if event["type"] == "http.response.start" and event["status"] == 503:
                refusal = AnswerStart(503, event["headers"])
            elif refusal is None:
                await request.send(event)
            else:
                refusal.body += event.get("body", b"")

        application = self._endpoints[request.endpoint]
        await application(dict(request.scope), replay(request.body, request.receive), send)
        return refusal
