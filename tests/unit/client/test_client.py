"""The Python client: the same Transport on the caller's side, and clear words when there is no call."""

from __future__ import annotations

import datetime as dt
import json
import socket
import ssl
from contextlib import asynccontextmanager, closing, suppress

import anyio
import pytest
from anyio.streams.tls import TLSStream
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from rtcflow.client.webrtc import connect, get_configuration, offer_url
from rtcflow.client.websocket import UpgradeRefused, open_websocket
from rtcflow.connection.connection import run_connection
from rtcflow.demo import EchoHandler
from rtcflow.exceptions import NegotiationError, RemoteProtocolError, TooManyConnections
from rtcflow.transports.webrtc import WebRTCConfig, open_engine

LOCAL = WebRTCConfig(host_addresses=("127.0.0.1",))


@pytest.mark.parametrize(
    ("url", "route"),
    [
        ("http://host", "http://host/webrtc/offer"),
        ("http://host:8000/", "http://host:8000/webrtc/offer"),
        ("https://host/talk/", "https://host/talk/webrtc/offer"),
        ("http://host/webrtc/offer", "http://host/webrtc/offer"),
        ("http://host/talk?token=1", "http://host/talk/webrtc/offer?token=1"),
    ],
)
def test_the_offer_route_is_found(url, route):
    """A server's URL, its mount path, or the route itself may be given; the query is kept."""
    assert offer_url(url) == route


@pytest.mark.parametrize("url", ["", "host", "ftp://host", "http://", "http:///", "://x", "ws://host", "http://:80"])
def test_what_is_no_url_of_a_server_says_what_to_write(url):
    """Other words are a ValueError with an example."""
    with pytest.raises(ValueError, match=r"http://127\.0\.0\.1:8000"):
        offer_url(url)


@asynccontextmanager
async def impostor(answer: bytes | None):
    """A server that answers every request with these bytes; None: never. Yields its URL."""

    async def serve(stream):
        async with stream:
            await stream.receive()
            if answer is None:
                await anyio.sleep_forever()
            await stream.send(answer)

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as tg:
        tg.start_soon(listener.serve, serve)
        yield f"http://127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}"
        tg.cancel_scope.cancel()


def reply(status: str, body: object) -> bytes:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(content)}\r\nContent-Type: application/json\r\n\r\n"
    return head.encode() + content


REFUSED = {"status": "failed", "meta": {"error": "concurrency_limit_reached", "limit": 3, "message": "full"}}


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (reply("503 Service Unavailable", REFUSED), TooManyConnections, "full"),
        (reply("200 OK", REFUSED), TooManyConnections, "full"),  # as FastRTC says it
        (reply("404 Not Found", b"Not Found"), NegotiationError, "404"),
        (reply("200 OK", b"<html>"), RemoteProtocolError, "JSON"),
        (reply("200 OK", {"type": "answer", "sdp": "garbage"}), NegotiationError, "SDP"),
        (b"SSH-2.0-OpenSSH\r\n", ConnectionError, "nobody answers"),
        (b"", ConnectionError, "nobody answers"),
        (None, ConnectionError, "did not answer within"),
    ],
)
async def test_a_server_that_does_not_serve_is_named(answer, error, words):
    """A refusal, another kind of server, silence: each its own error, and nothing stays open."""
    async with impostor(answer) as url, open_engine(LOCAL) as engine:
        with pytest.raises(error, match=words):
            # Only silence waits for the limit: on a busy machine an answer may take long.
            async with connect(url, engine=engine, timeout=1.0 if answer is None else 60.0):
                pytest.fail("there was no answer")


@pytest.mark.anyio
async def test_a_dead_server_is_a_connection_error():
    """Where nobody listens, the error has the network's own words."""
    with closing(socket.create_server(("127.0.0.1", 0))) as gone:
        port = gone.getsockname()[1]
    async with open_engine(LOCAL) as engine:
        with pytest.raises(ConnectionError, match="Connection refused"):
            async with connect(f"http://127.0.0.1:{port}", engine=engine):
                pytest.fail("nobody is there")


@pytest.mark.anyio
async def test_a_handler_can_be_the_caller():
    """A bot that calls: `run_connection` takes the client's transport like a server's."""
    import httpx2

    from rtcflow.stream import Stream

    stream = Stream(EchoHandler(), webrtc=LOCAL)
    heard = []

    class Caller(EchoHandler):
        async def start_up(self):
            await anyio.sleep(0.2)

        async def receive(self, frame):
            heard.append(frame)

        async def emit(self):
            if heard:
                from rtcflow.outputs import CloseStream

                return CloseStream("heard enough")
            import numpy as np

            await anyio.sleep(0.02)
            return 48000, np.ones((1, 960), np.int16)

    async with stream.running(), open_engine(LOCAL) as engine:
        with pytest.MonkeyPatch.context() as patch:
            real = httpx2.AsyncClient
            transport = httpx2.ASGITransport(stream.asgi)
            patch.setattr(httpx2, "AsyncClient", lambda **options: real(**{**options, "transport": transport}))
            with anyio.fail_after(120):
                async with connect("http://site", engine=engine) as call:
                    await run_connection(call, Caller())
        assert heard


@pytest.mark.anyio
async def test_a_caller_learns_the_servers_ice_servers():
    """`get_configuration` gives what a browser is told; a refusal and a stranger are errors of their own."""
    told = {"rtcConfiguration": {"iceServers": [{"urls": "turn:t.example"}]}, "modality": "audio"}
    async with impostor(reply("200 OK", told)) as url:
        assert await get_configuration(url + "/talk") == told
    async with impostor(reply("200 OK", {"hello": "world"})) as url:
        with pytest.raises(RemoteProtocolError, match="no rtcConfiguration"):
            await get_configuration(url)
    async with impostor(reply("401 Unauthorized", {"status": "failed", "meta": {"error": "not_authorized"}})) as url:
        with pytest.raises(NegotiationError) as caught:
            await get_configuration(url)
        assert caught.value.status == 401
    with pytest.raises(ValueError, match="not the URL of a server"):
        await get_configuration("nonsense")


@pytest.mark.anyio
@pytest.mark.parametrize("spoilt", ["Bearer SECRET\r\nX: y", "Bearer SECRET\0", "Bearer SECRÉT"])
async def test_a_header_that_cannot_be_sent_is_named_and_not_shown(spoilt):
    """Before anybody is asked; the error does not hold what may be a secret."""
    for asking in (connect("http://127.0.0.1:1", headers={"Authorization": spoilt}), None):
        with pytest.raises(ValueError, match="the header 'Authorization' holds a line break") as caught:
            if asking is None:
                await get_configuration("http://127.0.0.1:1", headers={"Authorization": spoilt})
            else:
                await asking.__aenter__()
        assert "SECR" not in "".join(map(str, (caught.value, caught.value.__cause__, caught.value.__context__)))


@pytest.mark.anyio
async def test_a_line_end_after_a_token_is_not_sent():
    """`--header "Authorization: Bearer $(cat token)"` and a file's text do the same."""
    seen = []

    async def serve(stream):
        async with stream:
            seen.append(await stream.receive())
            await stream.send(reply("200 OK", {"rtcConfiguration": {}}))

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as tg:
        tg.start_soon(listener.serve, serve)
        url = f"http://127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}"
        await get_configuration(url, headers={"Authorization": "Bearer tok\n"})
        tg.cancel_scope.cancel()
    assert b"Authorization: Bearer tok\r\n" in seen[0]


@pytest.mark.anyio
async def test_a_token_in_the_query_is_in_no_error():
    """Where nobody answers, the URL is shown without it."""
    with closing(socket.create_server(("127.0.0.1", 0))) as gone:
        port = gone.getsockname()[1]
    with pytest.raises(ConnectionError, match="nobody answers") as caught:
        await get_configuration(f"http://127.0.0.1:{port}/talk?token=SECRET")
    assert "SECRET" not in str(caught.value)
    with pytest.raises(ConnectionError, match=rf"nobody answers at http://127.0.0.1:{port}/talk/@me/") as caught:
        await get_configuration(f"http://me:SECRET@127.0.0.1:{port}/talk/@me")
    assert "SECRET" not in str(caught.value)
    with pytest.raises(ConnectionError, match="nobody answers") as caught:
        async with open_websocket(f"ws://127.0.0.1:{port}/talk?token=SECRET"):
            pytest.fail("nobody is there")
    assert "SECRET" not in str(caught.value)
    async with impostor(reply("403 Forbidden", {})) as url:
        with pytest.raises(UpgradeRefused, match="answered 403 Forbidden") as caught:
            async with open_websocket(f"{url.replace('http', 'ws')}/talk?token=SECRET"):
                pytest.fail("it was refused")
    assert "SECRET" not in str(caught.value)
    with pytest.raises(ValueError, match="is not the URL of a WebSocket") as caught:
        async with open_websocket("ws://127.0.0.1:99999/talk?token=SECRET"):
            pytest.fail("there is no such port")
    assert "SECRET" not in str(caught.value)


@pytest.mark.anyio
async def test_https_to_a_server_without_it_says_that_it_is_tls():
    """Not the system's words for whatever number OpenSSL gave its error."""
    async with impostor(b"HTTP/1.1 400 Bad Request\r\n\r\n") as url:
        with pytest.raises(ConnectionError, match=r"TLS failed \(.+\); does it speak https at all\?"):
            await get_configuration(url.replace("http:", "https:"))


@pytest.mark.anyio
@pytest.mark.parametrize("scheme", ["https", "HTTPS", "Https"])
async def test_a_certificate_that_nobody_vouches_for_is_named(tmp_path, scheme):
    """The usual server of one's own has signed its certificate itself. A scheme may have capital letters."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "both.pem").write_bytes(private + certificate.public_bytes(Encoding.PEM))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "both.pem")

    async def serve(stream):
        async with stream:
            with suppress(ssl.SSLError, anyio.BrokenResourceError, anyio.EndOfStream):
                await TLSStream.wrap(stream, server_side=True, ssl_context=context)

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as tg:
        tg.start_soon(listener.serve, serve)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        with pytest.raises(ConnectionError, match="its TLS certificate is not accepted: self-signed certificate"):
            await get_configuration(f"{scheme}://127.0.0.1:{port}")
        tg.cancel_scope.cancel()
