"""FastRTC's JSON signalling: offers and trickled candidates come in, a connection starts in the stream's task group.

POST {path}/webrtc/offer           an offer gets an answer; a candidate goes to its call
GET  {path}/webrtc/configuration   what a browser must know before it calls
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import anyio
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute

from ..exceptions import UnknownConnection
from ..protocol import signalling
from ..serving.calls import Calls
from ..serving.negotiation import answer_offer, get_rtc_configuration
from ..transports.webrtc import WebRTCTransport
from . import routed
from .origin_guard import guarded
from .requests import answering, caller_of, count_request, read_body


def routes(calls: Calls, path: str, answer: Callable[[Request], Awaitable[Response]]) -> list[BaseRoute]:
    """The routes of JSON signalling; `answer` is `offer`, or what a subclass of `Stream` has in its place."""
    return [
        guarded(
            calls,
            f"{path}/webrtc/offer",
            answering(answer, refused=calls.refused),
            ["POST"],
            find=routed.offer,
        ),
        guarded(calls, f"{path}/webrtc/configuration", answering(partial(configuration, calls)), ["GET"]),
    ]


async def offer(calls: Calls, request: Request) -> Response:
    """`POST {path}/webrtc/offer`: an offer gets an answer, also in a live call; a candidate goes to its call."""
    match signalling.parse_request(await read_body(request)):
        case signalling.Offer() as wanted:
            count_request(calls, request)
            session = calls.get(wanted.webrtc_id)
            if session is not None and session.connection is not None:
                await calls.authorize(caller_of(request, new_call=False))
                answer = await calls.find(wanted.webrtc_id).renegotiate(wanted.sdp)
                return JSONResponse(signalling.Answer(answer).to_json())
            async with calls.admit(caller_of(request), "webrtc", wanted.webrtc_id) as session:
                transport = await answer_offer(calls, wanted.sdp)
                calls.start(session, transport)
            return JSONResponse(signalling.Answer(transport.answer).to_json())
        case signalling.CandidateRequest(webrtc_id, candidate):
            session = calls.find(webrtc_id)
            try:
                connection = await session.wait_prepared()  # browsers find candidates while their offer is on its way
            except anyio.ClosedResourceError:
                raise UnknownConnection("this call was refused") from None
            if not isinstance(connection.transport, WebRTCTransport):
                raise UnknownConnection(f"this is a {session.kind} call, which has no candidates")
            await connection.transport.add_candidate(candidate)
            return JSONResponse(signalling.SUCCESS)


async def configuration(calls: Calls, request: Request) -> Response:
    """`GET {path}/webrtc/configuration`: what a browser gives to its RTCPeerConnection, and what it should offer."""
    count_request(calls, request)
    await calls.authorize(caller_of(request, new_call=False))  # it may hold TURN credentials, which are for callers
    options = calls.options
    return JSONResponse(
        {
            "rtcConfiguration": await get_rtc_configuration(options.page),
            "modality": options.modality.value,
            "mode": options.mode.value,
            "trackConstraints": options.page.track_constraints,
            "rtpParams": options.page.rtp_params,
        },
        headers={"Cache-Control": "no-store"},
    )
