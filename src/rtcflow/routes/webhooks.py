"""The webhook by which a telephone carrier announces a call; the answer says where to stream its media.

    POST {path}/telephone/incoming[/{carrier}]   (GET, too)

A carrier may also be named by ``?carrier=``.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from urllib.parse import parse_qsl

from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from .._core.shown import shown
from ..exceptions import NegotiationError
from ..protocol.json_text import read_json_object
from ..protocol.telephone import CARRIERS, answer_call
from ..protocol.telephone.answers import read_call
from ..serving.calls import Calls
from ..serving.options import Modality
from ..transports.telephone import TelephoneConfig
from .carrier_auth import (
    check_host,
    is_form,
    is_signed,
    named_carrier,
    not_served,
    public_url,
    signing_carrier,
    wrong_signature,
)
from .lines import check_audio
from .requests import failure_headers, public_path, read_whole

logger: logging.Logger = logging.getLogger(__name__)

WEBHOOK_LIMIT = 64 * 1024
"""The most bytes of a webhook's body: a carrier's form has one or two thousand."""
WEBHOOK_TIMEOUT = 10.0
"""Seconds in which it must arrive."""


def routes(calls: Calls, path: str, answer: Callable[[Request], Awaitable[Response]]) -> list[BaseRoute]:
    """The routes of webhooks, if the stream was made with `telephone=`.

    Args:
        calls: The stream's calls.
        path: Prefix of the routes.
        answer: `incoming_call`, or what a subclass of `Stream` has in its place.
    """
    config = calls.options.telephone
    if config is None:
        return []
    if calls.options.modality is not Modality.VIDEO:
        _warn_of_strangers(config, path)
    suffixes = ("", "/{carrier}") if config.served else ()
    return [Route(f"{path}/telephone/incoming{suffix}", answer, methods=["GET", "POST"]) for suffix in suffixes]


def _warn_of_strangers(config: TelephoneConfig, path: str) -> None:
    unchecked = [carrier for carrier in config.served if carrier not in config.secrets]
    if unchecked and not config.unsigned_is_fine:
        logger.warning(
            "telephone calls of %s are taken unchecked under %s/telephone; give Stream(telephone=TelephoneConfig("
            "secrets=...)) what the carrier signs with, or carriers=() to refuse all",
            ", ".join(unchecked),
            path,
        )
    if "telnyx" in config.secrets and "telnyx" in config.served and config.telnyx_public_key is None:
        logger.warning(
            "Telnyx' webhooks are refused at %s/telephone/incoming, since their signature cannot be checked; to answer "
            "them give TelephoneConfig(telnyx_public_key=...), which its portal shows",
            path,
        )


async def incoming_call(calls: Calls, request: Request) -> Response:
    """`POST {path}/telephone/incoming`: the carrier is told where to stream the call."""
    try:
        return await _answer_webhook(calls, request)
    except NegotiationError as error:
        calls.refused[error.code] += 1
        logger.warning("%s refused: %s", shown(request.scope["path"]), shown(str(error)))
        return PlainTextResponse(str(error), error.status, failure_headers(error))
    except ClientDisconnect:
        return Response(status_code=400)  # nobody reads it


async def _answer_webhook(calls: Calls, request: Request) -> Response:
    config = calls.options.telephone or TelephoneConfig()
    check_audio(calls)
    calls.check_admitting()  # otherwise the carrier would be sent to a WebSocket that refuses it
    check_host(request.headers.get("host", "localhost"))
    carrier = named_carrier(request) or signing_carrier(request)
    if carrier not in config.served or carrier not in CARRIERS:
        raise not_served(carrier)
    body = await read_whole(request, WEBHOOK_LIMIT, WEBHOOK_TIMEOUT)
    fields = _fields(request, body)
    if not is_signed(config, carrier, request, body, fields):
        raise wrong_signature(carrier)
    path = public_path(request).partition("/telephone/incoming")[0] + f"/telephone/handler/{carrier}"
    url = public_url(config, request, "wss", path)
    told = {**config.parameters, **read_call({**dict(request.query_params), **dict(fields)})}
    if carrier != "vonage":
        told.pop("call_id", None)  # the other carriers send it themselves
    signed = carrier == "vonage" and carrier in config.secrets
    media_type, answer = answer_call(carrier, url, told, sample_rate=config.sample_rate, signed=signed)
    return Response(answer, media_type=media_type)


def _fields(request: Request, body: bytes) -> list[tuple[str, str]]:
    """The fields of a form, or the texts of a JSON object, in the body."""
    if is_form(request):
        return parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True)
    return [(name, part) for name, part in (read_json_object(body) or {}).items() if isinstance(part, str)]
