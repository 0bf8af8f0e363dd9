"""Call a server from Python: the same `Transport` as on the server's side, on trio and on asyncio."""

from __future__ import annotations

import os
import secrets
import socket
import ssl
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any, Final, Literal, TypedDict, overload
from urllib.parse import urlsplit

import anyio

from .._core.installed import import_extra
from .._core.native import task_group
from .._core.urls import shown_url
from ..ends import sole_error
from ..exceptions import RemoteProtocolError
from ..protocol import signalling
from ..protocol.resume import Permit, Proof, prove

if TYPE_CHECKING:
    import httpx2

    from ..transports.webrtc import WebRTCEngine, WebRTCTransport
    from .resuming import ResumingCall

__all__ = ["connect", "get_configuration", "offer_url"]

OFFER_ROUTE: Final = "/webrtc/offer"
CONFIGURATION_ROUTE: Final = "/webrtc/configuration"

HANG_UP: Final = 2.0
"""Seconds in which the server can hear that a client hangs up. Otherwise the call ends by itself later."""


def offer_url(url: str) -> str:
    """The offer route of the server at `url`: ``http://host/talk`` → ``http://host/talk/webrtc/offer``.

    Raises:
        ValueError: `url` is not an http or https URL.
    """
    check_url(url, {"http", "https"}, "a server")
    url, query, parameters = url.partition("?")
    url = url.rstrip("/")
    if not url.endswith(OFFER_ROUTE):
        url += OFFER_ROUTE
    return url + query + parameters


def check_url(url: str, schemes: Collection[str], what: str) -> None:
    """Refuse what cannot be asked, before anybody is asked.

    Raises:
        ValueError: `url` has another scheme, no host, or a port that cannot be.
    """
    shown = shown_url(url)
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"{shown!r} is not the URL of {what}: {error}") from None
    if url.partition("://")[0].lower() not in schemes or not host:
        example = "ws://127.0.0.1:8000" if "ws" in schemes else "http://127.0.0.1:8000"
        raise ValueError(f"{shown!r} is not the URL of {what}; write for example {example}")


class _OfferedMedia(TypedDict):
    """What is offered."""

    audio: bool
    video: bool
    messages: bool


@overload
def connect(
    url: str,
    *,
    audio: bool = True,
    video: bool = False,
    messages: bool = True,
    webrtc_id: str | None = None,
    headers: Mapping[str, str] | None = None,
    timeout: float = 10.0,
    engine: WebRTCEngine | None = None,
    resume: Literal[False] = False,
) -> AbstractAsyncContextManager[WebRTCTransport]: ...
@overload
def connect(
    url: str,
    *,
    audio: bool = True,
    video: bool = False,
    messages: bool = True,
    webrtc_id: str | None = None,
    headers: Mapping[str, str] | None = None,
    timeout: float = 10.0,
    engine: WebRTCEngine | None = None,
    resume: Literal[True],
) -> AbstractAsyncContextManager[ResumingCall]: ...
def connect(
    url: str,
    *,
    audio: bool = True,
    video: bool = False,
    messages: bool = True,
    webrtc_id: str | None = None,
    headers: Mapping[str, str] | None = None,
    timeout: float = 10.0,
    engine: WebRTCEngine | None = None,
    resume: bool = False,
) -> AbstractAsyncContextManager[Any]:
    """Call the server at `url` over WebRTC, and hang up at the end of the block.

    Usage, by hand or by a handler of your own (a bot that calls)::

        async with connect("http://127.0.0.1:8000") as call:
            call.start(AudioFormat(48000), AudioFormat(48000))
            await call.wait_connected()
            frame = await call.audio_in.take()

        async with connect("http://127.0.0.1:8000") as call:
            await run_connection(call, MyHandler())

    Args:
        url: Where the server's stream is mounted, or its offer route itself.
        audio: Whether to offer audio, both ways.
        video: Whether to offer video, both ways.
        messages: Whether to open a data channel.
        webrtc_id: The id under which the server's application finds this call; an unguessable one by default.
        headers: Further headers of the request, such as ``Authorization``.
        timeout: Seconds for the server's answer.
        engine: An open engine. Pass one if you make many calls or want other options; by default the call opens one.
        resume: If the link breaks, come back over another peer connection, if the server waits
            (`Stream(resume=...)`). Without `engine`, the server counts as gone after 1.2 s of silence; otherwise
            `WebRTCConfig.peer_timeout` says when. Sound and pictures that are put in meanwhile are dropped; messages
            wait.

    Yields:
        The transport, with the answer accepted; it is on its way to being connected (`Transport.wait_connected`). With
        `resume`, a transport of the same kind that outlives its peer connections (`ResumingCall`).

    Raises:
        ValueError: `url` is not an http or https URL, or a header cannot be sent.
        ConnectionError: Nobody answers there, or not in time.
        NegotiationError: The server refused; its class, `status` and `code` say why.
        RemoteProtocolError: What answers there is no such server.
    """
    media = _OfferedMedia(audio=audio, video=video, messages=messages)
    own_id = webrtc_id or secrets.token_urlsafe(18)
    if resume:
        return _resuming(url, own_id, headers, timeout, engine, media)
    return _once(url, own_id, headers, timeout, engine, media)


@asynccontextmanager
async def _once(
    url: str,
    webrtc_id: str,
    headers: Mapping[str, str] | None,
    timeout: float,
    engine: WebRTCEngine | None,
    media: _OfferedMedia,
) -> AsyncIterator[WebRTCTransport]:
    from ..transports.webrtc import open_engine

    target, sent = offer_url(url), read_headers(headers)
    import_httpx2()
    async with open_engine() if engine is None else nullcontext(engine) as opened:
        call = await opened.offer(**media)
        try:
            await _negotiate(call, target, signalling.Offer(call.offer_sdp, webrtc_id), sent, timeout)
            yield call
        finally:
            with anyio.CancelScope(shield=True):
                await call.aclose()


@asynccontextmanager
async def _resuming(
    url: str,
    webrtc_id: str,
    headers: Mapping[str, str] | None,
    timeout: float,
    engine: WebRTCEngine | None,
    media: _OfferedMedia,
) -> AsyncIterator[ResumingCall]:
    """Call, and come back over other peer connections of the same engine."""
    from ..transports.webrtc import WebRTCConfig, open_engine
    from .resuming import CONNECT_TIMEOUT, PEER_TIMEOUT, ResumingCall

    target, sent = offer_url(url), read_headers(headers)
    import_httpx2()

    async def stop(permit: Permit) -> None:
        await hang_up(target, webrtc_id, permit, sent)

    config = WebRTCConfig(peer_timeout=PEER_TIMEOUT, connect_timeout=CONNECT_TIMEOUT)
    attempts = 0
    permit: Permit | None = None
    failure: BaseException | None = None

    async with open_engine(config) if engine is None else nullcontext(engine) as opened:

        async def dial() -> WebRTCTransport:
            nonlocal attempts, permit
            call = await opened.offer(**media)
            try:
                told: bool | Proof = True
                if permit is not None:
                    attempts += 1
                    told = prove(permit.secret, webrtc_id, attempts, call.offer_sdp)
                offer = signalling.Offer(call.offer_sdp, webrtc_id, resume=told)
                answer = await _negotiate(call, target, offer, sent, timeout)
                permit = permit or answer.permit
            except BaseException:
                with anyio.CancelScope(shield=True):
                    await call.aclose()
                raise
            return call

        call = ResumingCall(await dial(), permit, stop)
        try:
            async with task_group() as tasks:
                tasks.start_soon(call.run, dial)
                try:
                    yield call
                finally:
                    with anyio.CancelScope(shield=True):
                        await call.aclose()
                tasks.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            failure = sole_error(group)
    if failure is not None:
        raise failure  # what the block raised, as it was


async def _negotiate(
    call: WebRTCTransport, target: str, offer: signalling.Offer, headers: Mapping[str, str], timeout: float
) -> signalling.Answer:
    response = await request("POST", target, headers, timeout, offer.to_json())
    answer = signalling.parse_answer(response.content, response.status_code)
    await call.accept_answer(answer.sdp)
    return answer


async def hang_up(target: str, webrtc_id: str, permit: Permit, headers: Mapping[str, str]) -> None:
    """Tell the server that the caller hangs up, beside the call's link, which may be broken. A checkpoint.

    Nothing is raised if nobody answers within `HANG_UP` seconds. The server then waits until its own time is over.
    """
    if permit.stop:
        with suppress(ConnectionError):
            await request("POST", target, headers, HANG_UP, signalling.StopRequest(webrtc_id, permit.stop).to_json())


async def get_configuration(
    url: str, *, headers: Mapping[str, str] | None = None, timeout: float = 10.0
) -> dict[str, Any]:
    """What the server at `url` tells its callers: ``rtcConfiguration`` (its ICE servers), ``modality``, ``mode``.
    A checkpoint.

    The ICE servers are for `WebRTCConfig.ice_servers`: ``read_ice_servers(found["rtcConfiguration"])``.

    Raises:
        ValueError: `url` is not an http or https URL, or a header cannot be sent.
        ConnectionError: Nobody answers there, or not in time.
        NegotiationError: The server refused.
        RemoteProtocolError: What answers there tells no such thing.
    """
    before, _, query = offer_url(url).partition("?")
    target = before.removesuffix(OFFER_ROUTE) + CONFIGURATION_ROUTE + (f"?{query}" if query else "")
    response = await request("GET", target, read_headers(headers), timeout)
    found = signalling.parse_reply(response.content, response.status_code)
    if not isinstance(found.get("rtcConfiguration"), dict):
        raise RemoteProtocolError(f"{shown_url(target)} answered, but with no rtcConfiguration")
    return found


def read_headers(given: Mapping[str, str] | None) -> dict[str, str]:
    """Headers of a request, without the blanks and line ends around them that files and shells leave.

    Raises:
        ValueError: One of them cannot be sent. The text names it, and not what it holds: that may be a secret.
    """
    return {name: plain_text(value, f"the header {name!r}") for name, value in (given or {}).items()}


def plain_text(value: str, what: str) -> str:
    """`value` without blanks and line ends around it, if a header can carry it (RFC 9110 section 5.5).

    Raises:
        ValueError: It cannot; the text says that of `what`, and does not show the value.
    """
    value = value.strip()
    if not (value.isascii() and value.isprintable()):
        raise ValueError(
            f"{what} holds a line break, a control character or a letter outside ASCII (not shown, since it may be "
            "secret); such a value cannot be sent in a header: copy it again"
        )
    return value


async def request(
    method: str, url: str, headers: Mapping[str, str], timeout: float, body: Mapping[str, Any] | None = None
) -> httpx2.Response:
    """Send one request, and return the whole response.

    Raises:
        ValueError: `url` is not an http or https URL.
        ConnectionError: Nobody answers there, or not in time.
    """
    library = import_httpx2()
    shown = shown_url(url)
    # Reading the certificates of the system takes 60 ms, which plain http need not wait for. Everything else is
    # verified. The scheme may have capital letters (RFC 3986 section 3.1).
    verify = not url.lower().startswith("http:")
    try:
        with anyio.fail_after(timeout):
            async with library.AsyncClient(timeout=timeout, headers=headers, verify=verify) as client:
                response: httpx2.Response = await client.request(method, url, json=body)
                return response
    except (TimeoutError, library.TimeoutException):
        raise ConnectionError(f"{shown} did not answer within {timeout:g} s") from None
    except (library.UnsupportedProtocol, library.InvalidURL) as error:
        raise ValueError(f"{shown!r} is not the URL of a server: {error}") from None
    except library.TransportError as error:
        raise ConnectionError(f"nobody answers at {shown}: {_in_words(error)}") from error


def _in_words(error: BaseException) -> str:
    """The system's own words for what went wrong, whatever the backend wrapped them in."""
    for found in _causes(error):
        if isinstance(found, ssl.SSLCertVerificationError):
            return f"its TLS certificate is not accepted: {found.verify_message}"
        if isinstance(found, ssl.SSLError):  # an OSError whose errno is not the system's
            reason = (found.reason or str(found)).replace("_", " ").lower()
            return f"TLS failed ({reason}); does it speak https at all?"
        if isinstance(found, socket.gaierror):
            return found.strerror or str(found)
        if isinstance(found, OSError) and found.errno is not None:
            return os.strerror(found.errno)
    return str(error) or type(error).__name__


def _causes(error: BaseException) -> Iterator[BaseException]:
    yield error
    inner = error.exceptions if isinstance(error, BaseExceptionGroup) else (error.__cause__ or error.__context__,)
    for cause in inner:
        if cause is not None:
            yield from _causes(cause)


def import_httpx2() -> Any:
    """The module `httpx2`, or an error that names the extra."""
    return import_extra("httpx2", extra="client", what="calling a server")
