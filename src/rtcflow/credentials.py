"""Credentials for TURN servers, by FastRTC's names: what `Stream(rtc_configuration=...)` may be given.

    Stream(handler, rtc_configuration=get_cloudflare_turn_credentials_async)
    Stream(handler, rtc_configuration=lambda: get_coturn_credentials("turn:turn.example.org", secret))

Each returns what browsers take, ``{"iceServers": [...]}``. Those that ask a provider need rtcflow[client]. Tokens come
from arguments or from the environment, without the blanks and line ends around them, and are in no error's text.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias
from urllib.parse import quote

from .client.webrtc import import_httpx2, plain_text

if TYPE_CHECKING:
    import httpx2

__all__ = [
    "get_cloudflare_turn_credentials",
    "get_cloudflare_turn_credentials_async",
    "get_coturn_credentials",
    "get_hf_turn_credentials",
    "get_hf_turn_credentials_async",
    "get_turn_credentials",
    "get_turn_credentials_async",
    "get_twilio_turn_credentials",
    "get_twilio_turn_credentials_async",
]

Method: TypeAlias = Literal["cloudflare", "hf", "twilio"]

TTL: Final = 600
"""Seconds that credentials are good for: as long as FastRTC's. A call outlives them; a new one needs new ones."""

TIMEOUT: Final = 10.0
"""Seconds for the provider's answer: a page waits for it."""


@dataclass(frozen=True, slots=True)
class _Question:
    """What is asked of a provider."""

    provider: str
    method: str
    url: str
    headers: Mapping[str, str] = field(repr=False)
    params: Mapping[str, Any] | None = None
    json: Any = None

    def send(self, client: httpx2.Client | None) -> dict[str, Any]:
        httpx2 = import_httpx2()
        with httpx2.Client(timeout=TIMEOUT) if client is None else _Borrowed(client) as asking:
            try:
                return self._read(asking.request(self.method, self.url, **self._options()))
            except httpx2.TransportError as error:
                raise self._unreachable(error) from error

    async def send_async(self, client: httpx2.AsyncClient | None) -> dict[str, Any]:
        httpx2 = import_httpx2()
        async with httpx2.AsyncClient(timeout=TIMEOUT) if client is None else _Borrowed(client) as asking:
            try:
                return self._read(await asking.request(self.method, self.url, **self._options()))
            except httpx2.TransportError as error:
                raise self._unreachable(error) from error

    def _options(self) -> dict[str, Any]:
        return {"headers": dict(self.headers), "params": self.params, "json": self.json}

    def _unreachable(self, error: Exception) -> ConnectionError:
        return ConnectionError(f"{self.provider} cannot be asked for TURN credentials: {type(error).__name__}")

    def _read(self, response: httpx2.Response) -> dict[str, Any]:
        if not response.is_success:
            raise ConnectionError(f"{self.provider} gave no TURN credentials (HTTP {response.status_code})")
        try:
            told = response.json()
        except ValueError:
            told = None
        if isinstance(told, dict) and "ice_servers" in told:  # Twilio's way of writing
            told = {"iceServers": told["ice_servers"], "iceTransportPolicy": "relay"}
        if not isinstance(told, dict) or "iceServers" not in told:
            raise ConnectionError(f"{self.provider} answered, but with no ICE servers")
        return told


class _Borrowed:
    """The caller's client, which it closes itself."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def __enter__(self) -> Any:
        return self._client

    def __exit__(self, *_: object) -> None:
        pass

    async def __aenter__(self) -> Any:
        return self._client

    async def __aexit__(self, *_: object) -> None:
        pass


# -- what is asked


def _secret(argument: str, given: str | None, variable: str) -> str:
    """The value that was given or is in the environment, otherwise "", without what a header and a URL cannot carry.

    Raises:
        ValueError: The value cannot be sent; the text does not show it.
    """
    if given:
        return plain_text(given, argument)
    return plain_text(os.environ.get(variable, ""), f"{variable} in the environment")


def _ask_hf(token: str | None, ttl: int, argument: str = "token") -> _Question:
    token = _secret(argument, token, "HF_TOKEN")
    if not token:
        raise ValueError("no token for Hugging Face; give token=... or set HF_TOKEN")
    headers = {"Authorization": f"Bearer {token}"}
    return _Question("Hugging Face", "GET", "https://turn.fastrtc.org/credentials", headers, {"ttl": ttl})


def _ask_cloudflare(
    turn_key_id: str | None, turn_key_api_token: str | None, hf_token: str | None, ttl: int
) -> _Question:
    if hf_token or (turn_key_id is None and os.environ.get("HF_TOKEN", "").strip()):
        return _ask_hf(hf_token, ttl, "hf_token")
    key = _secret("turn_key_id", turn_key_id, "CLOUDFLARE_TURN_KEY_ID")
    token = _secret("turn_key_api_token", turn_key_api_token, "CLOUDFLARE_TURN_KEY_API_TOKEN")
    if not key or not token:
        raise ValueError(
            "no key for Cloudflare; give turn_key_id=... and turn_key_api_token=..., or set CLOUDFLARE_TURN_KEY_ID and "
            "CLOUDFLARE_TURN_KEY_API_TOKEN"
        )
    url = f"https://rtc.live.cloudflare.com/v1/turn/keys/{quote(key, safe='')}/credentials/generate-ice-servers"
    return _Question("Cloudflare", "POST", url, {"Authorization": f"Bearer {token}"}, json={"ttl": ttl})


def _ask_twilio(twilio_sid: str | None, twilio_token: str | None) -> _Question:
    sid = _secret("twilio_sid", twilio_sid, "TWILIO_ACCOUNT_SID")
    token = _secret("twilio_token", twilio_token, "TWILIO_AUTH_TOKEN")
    if not sid or not token:
        raise ValueError(
            "no account for Twilio; give twilio_sid=... and twilio_token=..., or set TWILIO_ACCOUNT_SID and "
            "TWILIO_AUTH_TOKEN"
        )
    basic = base64.b64encode(f"{sid}:{token}".encode()).decode()
    url = f"https://api.twilio.com/2010-04-01/Accounts/{quote(sid, safe='')}/Tokens.json"
    return _Question("Twilio", "POST", url, {"Authorization": f"Basic {basic}"})


_ASKING: Final[Mapping[str, Callable[..., _Question]]] = {
    "cloudflare": _ask_cloudflare,
    "hf": _ask_hf,
    "twilio": _ask_twilio,
}
_DEFAULTS: Final[Mapping[str, Mapping[str, Any]]] = {
    "cloudflare": {"turn_key_id": None, "turn_key_api_token": None, "hf_token": None, "ttl": TTL},
    "hf": {"token": None, "ttl": TTL},
    "twilio": {"twilio_sid": None, "twilio_token": None},
}


def _ask(method: str, given: Mapping[str, Any]) -> _Question:
    if method not in _ASKING:
        raise ValueError(f"method={method!r}; expected 'cloudflare', 'hf' or 'twilio'")
    known = _DEFAULTS[method]
    if unknown := sorted(set(given) - set(known)):
        raise TypeError(f"{method} takes no {', '.join(unknown)}; it takes {', '.join(known)}")
    return _ASKING[method](**{**known, **given})


# -- asking


def get_turn_credentials(
    method: Method = "cloudflare", *, client: httpx2.Client | None = None, **kwargs: Any
) -> dict[str, Any]:
    """Ask the provider that `method` names; `kwargs` are those of its own function.

    Raises:
        ValueError: There is no such provider, no token for it, or one that cannot be sent.
        ConnectionError: It refused, cannot be reached, or answered something else.
    """
    return _ask(method, kwargs).send(client)


async def get_turn_credentials_async(
    method: Method = "cloudflare", *, client: httpx2.AsyncClient | None = None, **kwargs: Any
) -> dict[str, Any]:
    """The async twin of `get_turn_credentials`. A checkpoint."""
    return await _ask(method, kwargs).send_async(client)


def get_cloudflare_turn_credentials(
    turn_key_id: str | None = None,
    turn_key_api_token: str | None = None,
    hf_token: str | None = None,
    ttl: int = TTL,
    client: httpx2.Client | None = None,
) -> dict[str, Any]:
    """Ask Cloudflare, or with a token of Hugging Face, ask through Hugging Face.

    Args:
        turn_key_id: By default ``CLOUDFLARE_TURN_KEY_ID`` of the environment.
        turn_key_api_token: By default ``CLOUDFLARE_TURN_KEY_API_TOKEN``.
        hf_token: By default ``HF_TOKEN``, which is preferred where no `turn_key_id` is given.
        ttl: Seconds that they are good for.
        client: Asks; by default one is made for this question.
    """
    return _ask_cloudflare(turn_key_id, turn_key_api_token, hf_token, ttl).send(client)


async def get_cloudflare_turn_credentials_async(
    turn_key_id: str | None = None,
    turn_key_api_token: str | None = None,
    hf_token: str | None = None,
    ttl: int = TTL,
    client: httpx2.AsyncClient | None = None,
) -> dict[str, Any]:
    """The async twin of `get_cloudflare_turn_credentials`. A checkpoint."""
    return await _ask_cloudflare(turn_key_id, turn_key_api_token, hf_token, ttl).send_async(client)


def get_hf_turn_credentials(
    token: str | None = None, ttl: int = TTL, client: httpx2.Client | None = None
) -> dict[str, Any]:
    """Ask Hugging Face, with `token` or ``HF_TOKEN`` of the environment."""
    return _ask_hf(token, ttl).send(client)


async def get_hf_turn_credentials_async(
    token: str | None = None, ttl: int = TTL, client: httpx2.AsyncClient | None = None
) -> dict[str, Any]:
    """The async twin of `get_hf_turn_credentials`. A checkpoint."""
    return await _ask_hf(token, ttl).send_async(client)


def get_twilio_turn_credentials(
    twilio_sid: str | None = None, twilio_token: str | None = None, client: httpx2.Client | None = None
) -> dict[str, Any]:
    """Ask Twilio, with these or ``TWILIO_ACCOUNT_SID`` and ``TWILIO_AUTH_TOKEN`` of the environment."""
    return _ask_twilio(twilio_sid, twilio_token).send(client)


async def get_twilio_turn_credentials_async(
    twilio_sid: str | None = None, twilio_token: str | None = None, client: httpx2.AsyncClient | None = None
) -> dict[str, Any]:
    """The async twin of `get_twilio_turn_credentials`. A checkpoint."""
    return await _ask_twilio(twilio_sid, twilio_token).send_async(client)


def get_coturn_credentials(
    urls: str | Sequence[str], secret: str, *, user: str = "rtcflow", ttl: int = TTL, now: float | None = None
) -> dict[str, Any]:
    """Credentials for your own coturn with ``use-auth-secret``. No service is asked.

    The scheme is that of draft-uberti-behave-turn-rest-00 section 2.2: the name says until when, the password signs it.

    Args:
        urls: Of the server, such as ``"turn:turn.example.org?transport=udp"``.
        secret: Its ``static-auth-secret``.
        user: Shown in the server's log. coturn counts its ``user-quota`` by it: all callers that are given the same one
            share that quota.
        ttl: Seconds that they are good for.
        now: Seconds since 1970; by default the time of day.
    """
    until = int(time.time() if now is None else now) + ttl
    username = f"{until}:{user}"
    digest = hmac.new(secret.encode(), username.encode(), hashlib.sha1).digest()
    server = {"urls": urls, "username": username, "credential": base64.b64encode(digest).decode()}
    return {"iceServers": [server]}
