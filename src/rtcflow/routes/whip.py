"""WHIP and WHEP: OBS, GStreamer, and ten lines in a browser send media to a stream's handler, or fetch what it makes.

    POST    {path}/whip, {path}/whep            an offer → 201, the answer, and the session's URL in Location
    PATCH   {path}/whip/{session}, …            candidates → 204; new ICE credentials (a restart) → 200 and ours
    DELETE  {path}/whip/{session}, …            goodbye

Also GET, HEAD and OPTIONS, as RFC 9725 and draft-ietf-wish-whep want them. The session's URL is its secret. The server
makes it, and neither logs nor `CallRequest.path` hold it.
"""

from __future__ import annotations

import logging
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute

from ..exceptions import NegotiationError, NotAuthorized, UnknownConnection
from ..protocol import whip
from ..protocol.whip import Direction, Fragment
from ..serving.calls import Calls
from ..serving.negotiation import answer_offer, get_rtc_configuration
from ..serving.options import Modality, Mode
from ..serving.session import CallRequest, Session
from ..transports.webrtc import WebRTCTransport
from . import routed
from .origin_guard import guarded
from .requests import answering, caller_of, count_request, failure_headers, public_path, read_body

if TYPE_CHECKING:
    from starlette.requests import Request

logger: logging.Logger = logging.getLogger(__name__)

NOT_WITHOUT: Final = 428
"""Precondition Required (RFC 6585 section 3)."""
NOT_NOW: Final = 412
"""Precondition Failed (RFC 9110 section 15.5.13)."""


def routes(calls: Calls, path: str = "") -> list[BaseRoute]:
    """The endpoints that fit the stream's mode: WHIP if callers may send, WHEP if they may receive."""
    found: list[BaseRoute] = []
    if calls.options.mode is not Mode.RECEIVE:
        found += Endpoint(calls, f"{path}/whip", Direction.WHIP).routes()
    if calls.options.mode is not Mode.SEND:
        found += Endpoint(calls, f"{path}/whep", Direction.WHEP).routes()
    return found


class WrongCondition(NegotiationError):
    """A request about a session whose conditions do not hold."""

    code = "precondition_failed"


@dataclass(frozen=True, slots=True)
class IceSession:
    """The ICE session that a PATCH must name: `etag` stands for it, `ufrag` belongs to it (RFC 9725 section 4.3.1)."""

    etag: str
    ufrag: str

    @classmethod
    def begin(cls, ufrag: str) -> IceSession:
        """A new one, with an `etag` of its own."""
        return cls(f'"{secrets.token_urlsafe(9)}"', ufrag)


class Endpoint:
    """One WHIP or WHEP endpoint, and the sessions that it has made."""

    def __init__(self, calls: Calls, path: str, direction: Direction) -> None:
        self._calls = calls
        self._path = path
        self._direction = direction
        self._sessions: WeakKeyDictionary[Session, IceSession] = WeakKeyDictionary()

    def routes(self) -> list[BaseRoute]:
        """The route of the endpoint, and the route of its sessions."""
        calls, path = self._calls, self._path
        takes, patches = {"Accept-Post": whip.SDP_TYPE}, {"Accept-Patch": whip.FRAGMENT_TYPE}
        endpoint, session = (
            self._answering(self.endpoint, takes, calls.refused),
            self._answering(self.session, patches),
        )
        return [
            guarded(
                calls,
                path,
                endpoint,
                ["POST", "GET", "HEAD"],
                takes,
                find=routed.new_call,
            ),
            guarded(
                calls,
                f"{path}/{{session}}",
                session,
                ["PATCH", "DELETE", "GET", "HEAD"],
                patches,
                find=routed.in_path,
            ),
        ]

    # -- the endpoint

    async def endpoint(self, request: Request) -> Response:
        """`POST {path}/whip`; and the answers to GET and HEAD."""
        if request.method == "POST":
            return await self._create(request)
        if request.method == "HEAD" and self._direction is Direction.WHEP:
            return Response(media_type=whip.SDP_TYPE)
        return Response(status_code=204)

    async def _create(self, request: Request) -> Response:
        calls, sends = self._calls, self._direction is Direction.WHEP
        count_request(calls, request)
        body = await read_body(request, whip.SDP_TYPE, whip.MAX_BODY)
        modality = calls.options.modality
        audio, video = modality is not Modality.VIDEO, modality is not Modality.AUDIO
        offer = whip.read_offer(body, self._direction, audio=audio, video=video)
        async with calls.admit(caller_of(request), "webrtc") as session:
            links = whip.link_headers(await get_rtc_configuration(calls.options.page))
            for url in links.left_out:
                logger.warning("WHIP clients are not told of the ICE server %s: no header can carry it", url)
            transport = await answer_offer(calls, offer.sdp, send=sends, receive=not sends)
            calls.start(session, transport, {"signalling": self._direction.value})
        self._sessions[session] = ice = IceSession.begin(offer.ufrag)
        location = f"{public_path(request).rstrip('/')}/{session.webrtc_id}"
        headers = {"Location": location, "ETag": ice.etag, "Accept-Patch": whip.FRAGMENT_TYPE}
        response = Response(transport.answer, 201, headers | {"Cache-Control": "no-store"}, whip.SDP_TYPE)
        for link in links.headers:
            response.headers.append("Link", link)
        return response

    # -- its sessions

    async def session(self, request: Request) -> Response:
        """`PATCH` and `DELETE {path}/whip/{session}`; and the answers to GET and HEAD."""
        session, ice = self._find(request.path_params["session"])
        await self._calls.authorize(self._caller(request))
        if request.method == "PATCH":
            return await self._patch(request, session, ice)
        elif request.method == "DELETE":
            if self._sessions.pop(session, None) is None:
                raise UnknownConnection("this session has ended")
            (await session.wait_prepared()).peer_left()
            return Response()
        return Response(status_code=204)

    async def _patch(self, request: Request, session: Session, ice: IceSession) -> Response:
        body = await read_body(request, whip.FRAGMENT_TYPE, whip.MAX_BODY)
        if_match = request.headers.get("if-match")
        if if_match is None:
            raise WrongCondition(
                "the If-Match header is missing; send the ETag of the last response", status=NOT_WITHOUT
            )
        if not whip.etag_matches(if_match, ice.etag):
            raise WrongCondition(
                "the ICE session of this ETag is over; send the ETag of the present one", status=NOT_NOW
            )
        fragment = whip.read_fragment(body)
        transport = (await session.wait_prepared()).transport
        assert isinstance(transport, WebRTCTransport)  # noqa: S101
        response = Response(status_code=204)
        if fragment.ufrag not in {None, ice.ufrag}:
            count_request(self._calls, request)  # it costs as much as an offer
            response = await self._restart(session, whip.restart_offer(transport.remote_sdp, fragment), fragment)
        for candidate in fragment.candidates:
            await transport.add_candidate(candidate)
        if fragment.ended:
            await transport.add_candidate(None)
        return response

    async def _restart(self, session: Session, offer: str, fragment: Fragment) -> Response:
        """Begin a new ICE session for the call. If that fails, the old one stays as it is (RFC 9725 section 4.3.3)."""
        answer = await session.renegotiate(offer)
        assert fragment.ufrag is not None  # noqa: S101
        self._sessions[session] = ice = IceSession.begin(fragment.ufrag)
        headers = {"ETag": ice.etag, "Cache-Control": "no-store"}
        return Response(whip.write_fragment(answer), 200, headers, whip.FRAGMENT_TYPE)

    def _find(self, webrtc_id: str) -> tuple[Session, IceSession]:
        session = self._calls.find(webrtc_id)
        ice = self._sessions.get(session)
        if ice is None:  # a call of another route, or deleted
            raise UnknownConnection("no session has this URL")
        return session, ice

    # -- who asks

    def _caller(self, request: Request) -> CallRequest:
        """The facts of a request about a session, without the secret in its URL."""
        return replace(caller_of(request, new_call=False), path=request.scope["path"].rpartition("/")[0])

    def _answering(
        self,
        handle: Callable[[Request], Awaitable[Response]],
        accepted: Mapping[str, str],
        refused: Counter[str] | None = None,
    ) -> Callable[[Request], Awaitable[Response]]:
        async def asked(request: Request) -> Response:
            try:
                return await handle(request)
            except NotAuthorized as error:
                if error.status == 403 and "authorization" not in request.headers:
                    error.status = 401  # RFC 9725 section 4.5: the client must say who it is
                raise

        return answering(asked, partial(_problem, accepted), refused)


def _problem(accepted: Mapping[str, str], error: NegotiationError) -> JSONResponse:
    """A refusal. One of the body's type says which type is `accepted` (RFC 5789 section 2.2)."""
    headers = {**failure_headers(error), **(accepted if error.status == 415 else {})}
    return JSONResponse(whip.problem(error), error.status, headers, whip.PROBLEM_TYPE)
