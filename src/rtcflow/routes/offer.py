"""FastRTC's JSON signalling: offers and trickled candidates come in, a connection starts in the stream's task group.

POST {path}/webrtc/offer           an offer gets an answer; a candidate goes to its call; a caller hangs up
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
from ..protocol.resume import Proof
from ..serving.calls import Calls
from ..serving.negotiation import answer_offer, get_rtc_configuration
from ..transports.webrtc import WebRTCTransport
from . import routed
from .origin_guard import guarded
from .requests import answering, caller_of, count_request, counting_strangers, read_body


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
    """`POST {path}/webrtc/offer`: an offer gets an answer, also in a live call; a candidate goes to its call; a caller
    that may come back hangs up.
    """
    match signalling.parse_request(await read_body(request)):
        case signalling.Offer() as wanted:
            count_request(calls, request)
            if isinstance(wanted.resume, Proof):
                return await _go_on(calls, request, wanted, wanted.resume)
            session = calls.get(wanted.webrtc_id)
            if session is not None and session.connection is not None:
                await calls.authorize(caller_of(request, new_call=False))
                answer = await calls.find(wanted.webrtc_id).renegotiate(wanted.sdp)
                return JSONResponse(signalling.Answer(answer).to_json())
            async with calls.admit(caller_of(request), "webrtc", wanted.webrtc_id) as session:
                transport = await answer_offer(calls, wanted.sdp)
                permit = session.permit_resume() if wanted.resume else None
                calls.start(session, transport)
            return JSONResponse(signalling.Answer(transport.answer, permit=permit).to_json())
        case signalling.CandidateRequest(webrtc_id, candidate):
            session = await calls.find_early(webrtc_id)
            try:
                connection = await session.wait_prepared()  # browsers find candidates while their offer is on its way
            except anyio.ClosedResourceError:
                raise UnknownConnection("this call was refused") from None
            latest = connection.latest_transport
            if not isinstance(latest, WebRTCTransport):
                raise UnknownConnection(f"this is a {session.kind} call, which has no candidates")
            await latest.add_candidate(candidate)
            return JSONResponse(signalling.SUCCESS)
        case signalling.StopRequest(webrtc_id, token):
            session = calls.get(webrtc_id)
            if session is not None:  # otherwise it is over, as its caller wants: its link may have said so earlier
                with counting_strangers(calls, request):
                    session.hang_up(token)
            return JSONResponse(signalling.SUCCESS)


async def _go_on(calls: Calls, request: Request, wanted: signalling.Offer, proof: Proof) -> Response:
    """Go on with a live call over another peer connection (`Stream(resume=...)`)."""
    session = calls.find_resumable(wanted.webrtc_id)
    await calls.authorize(caller_of(request, new_call=False))
    connection = session.check_resume("webrtc", proof, wanted.sdp)
    transport = await answer_offer(calls, wanted.sdp)
    try:
        connection.resume(transport)
    except BaseException:
        with anyio.CancelScope(shield=True):
            await transport.aclose()
        raise
    return JSONResponse(signalling.Answer(transport.answer).to_json())


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
