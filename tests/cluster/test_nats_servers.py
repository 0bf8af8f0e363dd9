"""NATS as an operator sets it up: users, TLS, NKeys, and several servers that are joined. Nodes are in this process.

Part of ``nox -s cluster``.
"""

from __future__ import annotations

import base64
import datetime as dt
import ipaddress
import json
import secrets
import socket
import ssl
import sys
import time
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager

import anyio
import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from nats_process import NatsProcess

from rtcflow import AsyncStreamHandler, Stream, WebRTCConfig, open_engine
from rtcflow._engine import nats_link
from rtcflow.cluster import Cluster
from rtcflow.exceptions import ClusterError

LOCAL = WebRTCConfig(host_addresses=("127.0.0.1",))

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.nightly,
    pytest.mark.skipif(sys.platform != "linux", reason="starts servers"),
]


class Silent(AsyncStreamHandler):
    def copy(self):
        return Silent()

    async def receive(self, frame):
        pass

    async def emit(self):
        await anyio.sleep_forever()


@asynccontextmanager
async def nodes(servers, **cluster):
    """One node for each of `servers`: clients of their applications, and the streams."""
    async with AsyncExitStack() as stack:
        clients, streams = [], []
        for url in servers:
            stream = Stream(
                Silent(), webrtc=LOCAL, concurrency_limit=20, offer_rate=None, cluster=Cluster(url, **cluster)
            )
            await stack.enter_async_context(stream.running())
            transport = httpx2.ASGITransport(stream.asgi)
            client = httpx2.AsyncClient(transport=transport, base_url="http://site")
            clients.append(await stack.enter_async_context(client))
            streams.append(stream)
        for stream in streams:
            while len(stream.calls.router._peers.members) < len(streams) - 1:
                await stream.calls.router._peers.wait_news()
        yield clients, streams


async def make_calls(clients, engine, number, prefix="call"):
    """Offers at the nodes in turn; then each node is asked about each call. Returns the answers' status codes."""
    call = await engine.offer(receive=False, messages=False)
    statuses = []
    for n in range(number):
        body = {"sdp": call.offer_sdp, "type": "offer", "webrtc_id": f"{prefix}{n}"}
        statuses.append((await clients[n % len(clients)].post("/webrtc/offer", json=body)).status_code)
    for n in range(number):
        if statuses[n] == 200:
            for client in clients:
                told = await client.post("/webrtc/input", json={"webrtc_id": f"{prefix}{n}", "args": [n]})
                assert told.status_code == 200, told.text
    await call.aclose()
    return statuses


async def refused(server, words, **cluster):
    """A node does not start, and says why."""
    with pytest.raises(ClusterError, match=words):
        async with Stream(Silent(), cluster=Cluster(server.url, connect_timeout=2, **cluster)).running():
            pass


def settings(folder, text):
    file = folder / "nats.conf"
    file.write_text(text)
    return "-c", str(file)


PERMISSIONS = 'permissions: {publish: "mine.>", subscribe: "mine.>"}'


async def test_a_user_with_the_permissions_of_the_page(tmp_path):
    """docs/scale-out.md: ``prefix.>``, to publish and to subscribe, is enough. A wrong password is named."""
    users = f'authorization {{ users: [{{user: "app", password: "right", {PERMISSIONS}}}] }}'
    server = NatsProcess(*settings(tmp_path, users))
    try:
        async with (
            nodes([server.url] * 2, prefix="mine", user="app", password="right", concurrency_limit=3) as (clients, _),
            open_engine(LOCAL) as engine,
        ):
            assert sorted(await make_calls(clients, engine, 4)) == [200, 200, 200, 503]
        await refused(server, "(?i)authorization", prefix="mine", user="app", password="wrong")
    finally:
        server.kill()


async def test_an_nkey(tmp_path, monkeypatch):
    """A file with the seed; without the package nkeys, the error says what to install."""
    nkeys = pytest.importorskip("nkeys")
    seed = tmp_path / "seed"
    seed.write_bytes(nkeys.encode_seed(secrets.token_bytes(32), nkeys.PREFIX_BYTE_USER))
    public = nkeys.from_seed(bytearray(seed.read_bytes())).public_key.decode()
    server = NatsProcess(*settings(tmp_path, f"authorization {{ users: [{{nkey: {public}}}] }}"))
    try:
        async with (
            nodes([server.url] * 2, nkeys_seed=str(seed)) as (clients, _),
            open_engine(LOCAL) as engine,
        ):
            assert await make_calls(clients, engine, 4) == [200] * 4
        await refused(server, "(?i)authorization")
        await refused(server, "No such file", nkeys_seed=str(tmp_path / "nowhere"))
        monkeypatch.setattr(nats_link, "find_spec", lambda _: None)
        await refused(server, "pip install nkeys", nkeys_seed=str(seed))
    finally:
        server.kill()


class Signer:
    """An operator, an account or a user of NATS: a key pair that signs JWTs (NATS documentation, "JWT Guide")."""

    def __init__(self, nkeys, prefix):
        self.seed = nkeys.encode_seed(secrets.token_bytes(32), prefix)
        self._pair = nkeys.from_seed(bytearray(self.seed))
        self.public = self._pair.public_key.decode()

    def vouch(self, subject, kind, **claims):
        nats = {"type": kind, "version": 2, **claims}
        body = {"jti": secrets.token_hex(16), "iat": int(time.time()), "iss": self.public, "sub": subject, "nats": nats}
        words = [encoded({"typ": "JWT", "alg": "ed25519-nkey"}), encoded({"name": kind, **body})]
        return b".".join([*words, unpadded(self._pair.sign(b".".join(words)))]).decode()


def unpadded(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def encoded(claims):
    return unpadded(json.dumps(claims).encode())


async def test_credentials(tmp_path):
    """A ``.creds`` file of a user, whose account an operator vouches for, with the permissions of the page."""
    nkeys = pytest.importorskip("nkeys")
    operator = Signer(nkeys, nkeys.PREFIX_BYTE_OPERATOR)
    account = Signer(nkeys, nkeys.PREFIX_BYTE_ACCOUNT)

    def creds(name, by):
        user = Signer(nkeys, nkeys.PREFIX_BYTE_USER)
        allowed = {"allow": ["mine.>"]}
        jwt = by.vouch(user.public, "user", pub=allowed, sub=allowed, subs=-1, data=-1, payload=-1)
        file = tmp_path / name
        file.write_text(
            f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{user.seed.decode()}\n------END USER NKEY SEED------\n"
        )
        return str(file)

    limits = dict.fromkeys(("subs", "data", "payload", "imports", "exports", "conn", "leaf"), -1)
    vouched = operator.vouch(account.public, "account", limits=limits | {"wildcards": True})
    server = NatsProcess(
        *settings(
            tmp_path,
            f"operator: {operator.vouch(operator.public, 'operator')}\n"
            f"resolver: MEMORY\nresolver_preload: {{ {account.public}: {vouched} }}\n",
        )
    )
    try:
        async with (
            nodes([server.url] * 2, prefix="mine", credentials=creds("a.creds", account)) as (clients, _),
            open_engine(LOCAL) as engine,
        ):
            assert await make_calls(clients, engine, 4) == [200] * 4
        stranger = Signer(nkeys, nkeys.PREFIX_BYTE_ACCOUNT)
        await refused(server, "(?i)authorization", prefix="mine", credentials=creds("b.creds", stranger))
        await refused(server, "No such file", prefix="mine", credentials=str(tmp_path / "nowhere"))
    finally:
        server.kill()


def certificate(folder):
    """A certificate for 127.0.0.1 that signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "nats")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


async def test_tls(tmp_path):
    """Both sides prove who they are; a certificate that is not trusted is named."""
    certificate(tmp_path)
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    tls = f'tls {{ cert_file: "{cert}", key_file: "{key}", ca_file: "{cert}", verify: true }}'
    server = NatsProcess(*settings(tmp_path, tls))
    server.url = server.url.replace("nats://", "tls://")
    try:
        trusting = ssl.create_default_context(cafile=str(cert))
        trusting.load_cert_chain(cert, key)
        async with (
            nodes([server.url] * 2, tls=trusting) as (clients, _),
            open_engine(LOCAL) as engine,
        ):
            assert await make_calls(clients, engine, 4) == [200] * 4
        await refused(server, "(?i)certificate")
        await refused(server, "(?i)certificate|closed|eof", tls=ssl.create_default_context(cafile=str(cert)))
    finally:
        server.kill()


class Joined:
    """Three NATS servers that are one cluster of NATS."""

    def __init__(self, folder) -> None:
        ports = []
        for _ in range(3):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                ports.append(probe.getsockname()[1])
        routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in ports)
        self.servers = []
        for number, port in enumerate(ports):
            text = f'cluster {{ name: "three", listen: "127.0.0.1:{port}", routes: [{routes}] }}\n'
            own = folder / str(number)
            own.mkdir()
            self.servers.append(NatsProcess(*settings(own, text)))
        self.urls = [server.url for server in self.servers]

    def kill(self) -> None:
        for server in self.servers:
            server.kill()


async def test_three_joined_servers(tmp_path):
    """Each node is at another server. One server dies: its node goes to another one, and no call is disturbed."""
    with ExitStack() as stack, anyio.fail_after(100):
        joined = Joined(tmp_path)
        stack.callback(joined.kill)
        await anyio.sleep(1)  # they find one another
        lists = [[url, *joined.urls] for url in joined.urls]
        async with nodes(lists) as (clients, streams), open_engine(LOCAL) as engine:
            assert await make_calls(clients, engine, 9) == [200] * 9
            assert min(len(stream.calls) for stream in streams) > 0
            calls = [len(stream.calls) for stream in streams]
            joined.servers[0].kill()
            for n in range(9):
                for client in clients:
                    while True:
                        told = await client.post("/webrtc/input", json={"webrtc_id": f"call{n}", "args": [n]})
                        if told.status_code != 503:
                            break
                        await anyio.sleep(0.1)
                    assert told.status_code == 200, told.text
            assert [len(stream.calls) for stream in streams] == calls
            assert await make_calls(clients, engine, 3, "more") == [200] * 3


async def test_a_limit_over_three_joined_servers(tmp_path):
    """One offer after the other, it is exact. In the same milliseconds it may be passed by a little."""
    with ExitStack() as stack, anyio.fail_after(100):
        joined = Joined(tmp_path)
        stack.callback(joined.kill)
        await anyio.sleep(1)
        async with nodes(joined.urls, concurrency_limit=10) as (clients, streams), open_engine(LOCAL) as engine:
            assert sorted(await make_calls(clients, engine, 13)) == [200] * 10 + [503] * 3
            for stream in streams:
                for webrtc_id in list(stream.calls):
                    stream.close(webrtc_id)
            while any(len(stream.calls) for stream in streams):
                await anyio.sleep(0.05)
            call = await engine.offer(receive=False, messages=False)
            statuses = []

            async def offer(number):
                body = {"sdp": call.offer_sdp, "type": "offer", "webrtc_id": f"crowd{number}"}
                statuses.append((await clients[number % 3].post("/webrtc/offer", json=body)).status_code)

            async with anyio.create_task_group() as tasks:
                for number in range(30):
                    tasks.start_soon(offer, number)
            print("of 30 at once for 10 places were taken:", statuses.count(200))
            assert 10 <= statuses.count(200) <= 12
            await call.aclose()
