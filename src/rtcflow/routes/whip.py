"""WHIP and WHEP: OBS, GStreamer, and ten lines in a browser send media to a stream's handler, or fetch what it makes.

    POST    {path}/whip, {path}/whep            an offer → 201, the answer, and the session's URL in Location
    PATCH   {path}/whip/{session}, …            candidates
    DELETE  {path}/whip/{session}, …            goodbye

Also GET, HEAD and OPTIONS, as RFC 9725 and draft-ietf-wish-whep want them. The session's URL is its secret: the server
makes it, and neither logs nor `Caller.path` hold it.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute

from ..exceptions import NegotiationError, NotAuthorized, UnknownConnection, UnsupportedMedia
from ..protocol import whip
from ..protocol.whip import Direction
from ..serving.session import Caller, Session
from ..stream import Modality, Mode, Stream
from ..transports.webrtc import WebRTCTransport
from .app import answering, caller_of, check_rate, failure_headers, read_body
from .origin_guard import guarded

if TYPE_CHECKING:
    from starlette.requests import Request

logger = logging.getLogger(__name__)

NOT_WITHOUT: Final = 428
"""Precondition Required (RFC 6585 section 3)."""
NOT_NOW: Final = 412
"""Precondition Failed (RFC 9110 section 15.5.13)."""


def routes(stream: Stream, path: str = "") -> list[BaseRoute]:
    """The endpoints that fit the mode of `stream`: one that only sends takes nothing, and the other way round."""
    found: list[BaseRoute] = []
    if stream.mode is not Mode.RECEIVE:
        found += Endpoint(stream, f"{path}/whip", Direction.WHIP).routes()
    if stream.mode is not Mode.SEND:
        found += Endpoint(stream, f"{path}/whep", Direction.WHEP).routes()
    return found


class Failed(NegotiationError):
    """A request about a session whose conditions do not hold."""

    code = "precondition_failed"


@dataclass(frozen=True, slots=True)
class IceSession:
    """What PATCH is measured against: `etag` names the ICE session that `ufrag` belongs to (RFC 9725 section 4.3.1)."""

    etag: str
    ufrag: str


class Endpoint:
    """One WHIP or WHEP endpoint, and the sessions that were made by it."""

    def __init__(self, stream: Stream, path: str, direction: Direction) -> None:
        self._stream = stream
        self._path = path
        self._direction = direction
        self._sessions: WeakKeyDictionary[Session, IceSession] = WeakKeyDictionary()

    def routes(self) -> list[BaseRoute]:
        """The endpoint's route, and that of its sessions."""
        stream, path = self._stream, self._path
        endpoint, session = self._answering(self.endpoint), self._answering(self.session)
        return [
            guarded(stream, path, endpoint, ["POST", "GET", "HEAD"], {"Accept-Post": whip.SDP_TYPE}),
            guarded(
                stream,
                f"{path}/{{session}}",
                session,
                ["PATCH", "DELETE", "GET", "HEAD"],
                {"Accept-Patch": whip.FRAGMENT_TYPE},
            ),
        ]

    # -- the endpoint

    async def endpoint(self, request: Request) -> Response:
        """`POST {path}/whip`; and what the endpoint answers to those who only look."""
        if request.method == "POST":
            return await self._create(request)
        if request.method == "HEAD" and self._direction is Direction.WHEP:
            return Response(media_type=whip.SDP_TYPE)
        return Response(status_code=204)

    async def _create(self, request: Request) -> Response:
        stream, sends = self._stream, self._direction is Direction.WHEP
        check_rate(stream, request)
        body = await read_body(request, whip.SDP_TYPE, whip.MAX_BODY)
        offer = whip.read_offer(body, self._direction, video=stream.modality is not Modality.AUDIO)
        async with stream.admit(caller_of(request), "webrtc") as session:
            links = whip.link_headers(await stream.resolve_rtc_configuration())
            for url in links.left_out:
                logger.warning("WHIP clients are not told of the ICE server %s: no header can carry it", url)
            transport = await stream.open_webrtc(offer.sdp, send=sends, receive=not sends)
            stream.start(session, transport, {"signalling": self._direction.value})
        self._sessions[session] = ice = IceSession(f'"{secrets.token_urlsafe(9)}"', offer.ufrag)
        location = f"{request.scope['path'].rstrip('/')}/{session.webrtc_id}"
        headers = {"Location": location, "ETag": ice.etag, "Cache-Control": "no-store"}
        response = Response(transport.answer, 201, headers, whip.SDP_TYPE)
        for link in links.headers:
            response.headers.append("Link", link)
        return response

    # -- its sessions

    async def session(self, request: Request) -> Response:
        """`PATCH` and `DELETE {path}/whip/{session}`; and what it answers to those who only look."""
        session, ice = self._find(request.path_params["session"])
        await self._stream.authorize(self._caller(request))
        if request.method == "PATCH":
            await self._patch(request, session, ice)
        elif request.method == "DELETE":
            if self._sessions.pop(session, None) is None:
                raise UnknownConnection("this session has ended")
            session.close("the caller has ended the call")
            return Response()
        return Response(status_code=204)

    async def _patch(self, request: Request, session: Session, ice: IceSession) -> None:
        body = await read_body(request, whip.FRAGMENT_TYPE, whip.MAX_BODY)
        if_match = request.headers.get("if-match")
        if if_match is None:
            raise Failed("the If-Match header is missing; send the ETag of the 201 response", status=NOT_WITHOUT)
        if not whip.etag_matches(if_match, ice.etag):
            raise Failed("the ICE session of this ETag is not the present one", status=NOT_NOW)
        fragment = whip.read_fragment(body)
        if fragment.ufrag not in {None, ice.ufrag}:
            raise UnsupportedMedia("ICE restarts are not supported; the session goes on. To begin anew, POST an offer")
        transport = (await session.wait_prepared()).transport
        assert isinstance(transport, WebRTCTransport)
        for candidate in fragment.candidates:
            await transport.add_candidate(candidate)
        if fragment.ended:
            await transport.add_candidate(None)

    def _find(self, webrtc_id: str) -> tuple[Session, IceSession]:
        session = self._stream.session(webrtc_id)
        ice = self._sessions.get(session)
        if ice is None:  # it is somebody's on another route, or was deleted
            raise UnknownConnection("no session has this URL")
        return session, ice

    # -- who asks

    def _caller(self, request: Request) -> Caller:
        """Who asks about a session: as when it asked for it, without the secret in the URL."""
        return replace(caller_of(request, new_call=False), path=request.scope["path"].rpartition("/")[0])

    def _answering(self, handle: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def asked(request: Request) -> Response:
            try:
                return await handle(request)
            except NotAuthorized as error:
                if error.status == 403 and "authorization" not in request.headers:
                    error.status = 401  # RFC 9725 section 4.5: it shall say who it is
                raise

        return answering(asked, _problem)


def _problem(error: NegotiationError) -> JSONResponse:
    return JSONResponse(whip.problem(error), error.status, failure_headers(error), whip.PROBLEM_TYPE)
