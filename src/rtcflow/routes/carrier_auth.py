"""Whether a telephone carrier itself sent a request: its name, its signature, and the URL that it has signed.

Where a secret of the carrier is configured (`TelephoneConfig.secrets`), its requests must be signed with it.
"""

from __future__ import annotations

import base64
import logging
import re
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

from starlette.requests import HTTPConnection, Request

from ..exceptions import InvalidOffer, NegotiationError, NotAuthorized, RemoteProtocolError, UnknownConnection
from ..protocol.lines import OVER_LIMIT, CallStarted, Connected, LineEvent
from ..protocol.signatures import same_secret, verify_plivo, verify_telnyx, verify_twilio, verify_vonage
from ..transports.telephone import TelephoneConfig
from .requests import encoded, public_path

if TYPE_CHECKING:
    from starlette.websockets import WebSocket

logger: logging.Logger = logging.getLogger(__name__)


def not_served(carrier: str) -> NegotiationError:
    """The error for a carrier that `TelephoneConfig.carriers` does not have."""
    error = UnknownConnection(f"calls of {carrier[:40]!r} are not served here")
    error.code = "carrier_not_served"
    return error


def wrong_signature(carrier: str) -> NegotiationError:
    """The error for a request that the carrier did not sign, or signed with another secret."""
    missing = "telnyx_public_key" if carrier == "telnyx" else "secrets and public_url"
    error = NotAuthorized(f"the signature of {carrier} is missing or wrong; see TelephoneConfig.{missing}")
    error.code = "wrong_signature"
    return error


def named_carrier(connection: HTTPConnection) -> str | None:
    """The carrier that the URL names, or None."""
    named = connection.path_params.get("carrier") or connection.query_params.get("carrier")
    return None if named is None else str(named).lower()


def signing_carrier(request: Request) -> str:
    """The carrier of a webhook whose URL does not name it, by the header that only this carrier sends."""
    if "x-plivo-signature-v3" in request.headers:
        return "plivo"
    return "telnyx" if "telnyx-signature-ed25519" in request.headers else "twilio"


def is_form(request: Request) -> bool:
    """Whether the body is a form, by its header."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind == "application/x-www-form-urlencoded"


# -- signatures


def is_signed(
    config: TelephoneConfig, carrier: str, request: Request, body: bytes, fields: list[tuple[str, str]]
) -> bool:
    """Whether the carrier signed this webhook, or has no secret here. Unsigned webhooks are refused if it has one."""
    secret = config.secrets.get(carrier)
    if carrier == "telnyx":  # its webhooks have a key of their own; the secret is for the WebSocket
        key, headers = config.telnyx_public_key, request.headers
        signature, timestamp = headers.get("telnyx-signature-ed25519"), headers.get("telnyx-timestamp")
        if key is None:
            return secret is None
        return verify_telnyx(key, signature, timestamp, time.time(), body)
    if secret is None:
        return True
    url = public_url(config, request, "https", public_path(request), _query(request))
    form, json_body = (fields, None) if is_form(request) else ([], body or None)
    match carrier:
        case "twilio":
            return verify_twilio(secret, request.headers.get("x-twilio-signature"), url, form, json_body)
        case "plivo":
            signature, nonce = _plivo_headers(request)
            return verify_plivo(secret, signature, nonce, url, form, post=request.method == "POST")
    return verify_vonage(secret, request.headers.get("authorization"), time.time(), body or None)


def _query(connection: HTTPConnection) -> str:
    """The query as it was sent: that is what carriers sign. Some servers let bytes through that are not ASCII."""
    query: bytes = connection.scope["query_string"]
    return query.decode("latin-1")


def _plivo_headers(connection: HTTPConnection) -> tuple[str | None, str | None]:
    return connection.headers.get("x-plivo-signature-v3"), connection.headers.get("x-plivo-signature-v3-nonce")


class UpgradeCheck:
    """Whether the carrier signed the upgrade of its WebSocket.

    `before` checks what the headers say, before anything is done for the call. The object itself is called with each
    event up to the start of the call.
    """

    def __init__(self, config: TelephoneConfig, websocket: WebSocket) -> None:
        self._config = config
        self._websocket = websocket
        self._telnyx_token = websocket.headers.get("x-telnyx-streaming-auth-token")
        self._url = public_url(config, websocket, "wss", public_path(websocket), _query(websocket))

    def before(self, carrier: str | None) -> None:
        """Refuse what can be refused before the handshake.

        Raises:
            NegotiationError: The carrier (if it is None, every carrier) is not served, or needs another signature.
        """
        if carrier is not None and carrier not in self._config.served:
            raise not_served(carrier)
        possible = self._config.served if carrier is None else (carrier,)
        if not any(self._may_be(one) for one in possible):
            raise wrong_signature(carrier or "the carrier")

    def __call__(self, carrier: str, event: LineEvent) -> None:
        if isinstance(event, Connected) and event.token and self._telnyx_token is None:
            self._telnyx_token = event.token
        if not isinstance(event, CallStarted):
            return
        if carrier not in self._config.served:
            raise RemoteProtocolError(f"calls of {carrier} are not served", close_code=OVER_LIMIT)
        if not self._is_signed(carrier):
            raise RemoteProtocolError(f"the signature of {carrier} is missing or wrong", close_code=OVER_LIMIT)

    def _may_be(self, carrier: str) -> bool:
        """Telnyx may send its token in its first message instead of a header."""
        return self._is_signed(carrier) or (carrier == "telnyx" and self._telnyx_token is None)

    def _is_signed(self, carrier: str) -> bool:
        secret, headers = self._config.secrets.get(carrier), self._websocket.headers
        match carrier:
            case _ if secret is None:
                return True
            case "twilio":
                return verify_twilio(secret, headers.get("x-twilio-signature"), self._url)
            case "telnyx":
                return same_secret(self._telnyx_token, secret)
            case "exotel":  # it sends what stands before the @ of the URL (RFC 7617)
                basic = "Basic " + base64.b64encode(secret.encode()).decode()
                return same_secret(headers.get("authorization"), basic)
            case "genesys":
                return same_secret(headers.get("x-api-key"), secret)
            case "plivo":
                signature, nonce = _plivo_headers(self._websocket)
                return verify_plivo(secret, signature, nonce, self._url, post=False)
        return verify_vonage(secret, headers.get("authorization"), time.time())


_HOST: Final = re.compile(r"([A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?", re.ASCII)


def check_host(host: str) -> None:
    """Check a Host header before a URL is made of it.

    Raises:
        InvalidOffer: It is not a host (RFC 3986 section 3.2.2) with or without a port.
    """
    try:
        if _HOST.fullmatch(host):
            urlsplit(f"//{host}")
            return
    except ValueError:  # the brackets hold something other than an address
        pass
    raise InvalidOffer(f"the Host header {host[:40]!r} is invalid")


_INSECURE: Final[Mapping[str, str]] = {"https": "http", "wss": "ws"}


def public_url(config: TelephoneConfig, connection: HTTPConnection, scheme: str, path: str, query: str = "") -> str:
    """The URL by which carriers know `path`. `scheme` is ``"https"`` or ``"wss"``: carriers accept nothing else.

    It becomes insecure only if `public_url` or a trusted proxy says http, as a simulator on this machine does.

    Raises:
        InvalidOffer: The host that the trusted proxy sent is invalid.
    """
    host = connection.headers.get("host", "localhost")
    if config.public_url is not None:
        public = urlsplit(config.public_url)
        host, prefix = public.netloc, public.path.rstrip("/")
        has_it = path.startswith(f"{encoded(unquote(prefix))}/")  # a root_path may have it already
        path = path if has_it else encoded(prefix, also="%") + path
        insecure = public.scheme in {"http", "ws"}
    elif config.trust_forwarded:
        host = connection.headers.get("x-forwarded-host", host).partition(",")[0].strip()
        check_host(host)
        insecure = connection.headers.get("x-forwarded-proto", "https").partition(",")[0].strip() in {"http", "ws"}
    else:
        insecure = False
    return f"{_INSECURE[scheme] if insecure else scheme}://{host}{path}" + (f"?{query}" if query else "")
