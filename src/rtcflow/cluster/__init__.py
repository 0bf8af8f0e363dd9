"""Many processes, on one machine or many, that serve one stream together. Needs the extra ``cluster``.

    stream = Stream(handler, cluster=Cluster("nats://10.0.0.1:4222"))

Every process is a *node*. A proxy may send any request to any node. The node finds out over NATS which node has the
call, and that node answers. New calls go to a node with a free slot. Media of WebRTC goes straight to the node of its
call.

`rtcflow serve app:stream --workers 4` does this on one machine, with a NATS server of its own.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import anyio.abc

from .._core.urls import shown_url

if TYPE_CHECKING:
    import ssl

    from ..serving.calls import Calls
    from ..serving.router import CallRouter

__all__ = ["Cluster"]

_PREFIX: Final = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")


@dataclass(frozen=True, slots=True)
class Cluster:
    """How the nodes of a stream find one another.

    All nodes need the same NATS, the same prefix, the same stream and clocks that agree within a minute. A node that
    does not fit is refused when it starts. Everybody who may connect to NATS is trusted. So give NATS credentials,
    and TLS between machines. NATS permissions for one cluster are ``prefix.>``, to publish and to subscribe.

    Args:
        servers: URLs of one NATS cluster, such as ``"nats://10.0.0.1:4222"``; several in a list, or with commas.
        prefix: What the subjects of this stream begin with. Each stream and each deployment needs its own.
        concurrency_limit: How many calls may be live at once on all nodes together. None means no limit beyond those of
            the nodes (`Limits.concurrency_limit`). With one NATS server it is exact. With several that are joined, two
            nodes may take the last slot in the same few milliseconds.
        release: Which release of the application this node runs, such as ``"2026-11-29.2"``. New calls prefer the
            newest, so a rolling deployment moves them over. Only the numbers in it count.
        token: NATS's token, if it wants one.
        user: NATS's user, with `password`.
        password: The user's password.
        nkeys_seed: A file with the seed of an NKey. It needs the package ``nkeys``.
        credentials: A ``.creds`` file. It needs the package ``nkeys``.
        tls: For ``tls://`` URLs: what certificates are trusted, and our own. By default the system's.
        connect_timeout: Seconds for the first connection.

    Raises:
        ValueError: There is no server, or the prefix or the limit is invalid.
    """

    servers: str | Sequence[str]
    prefix: str = field(default="rtcflow", kw_only=True)
    concurrency_limit: int | None = field(default=None, kw_only=True)
    release: str = field(default="", kw_only=True)
    token: str | None = field(default=None, kw_only=True, repr=False)
    user: str | None = field(default=None, kw_only=True)
    password: str | None = field(default=None, kw_only=True, repr=False)
    nkeys_seed: str | None = field(default=None, kw_only=True)
    credentials: str | None = field(default=None, kw_only=True)
    tls: ssl.SSLContext | None = field(default=None, kw_only=True)
    connect_timeout: float = field(default=5.0, kw_only=True)

    def __post_init__(self) -> None:
        given = self.servers.split(",") if isinstance(self.servers, str) else self.servers
        servers = tuple(url.strip() for url in given if url.strip())
        if not servers:
            raise ValueError('Cluster has no server; write Cluster("nats://127.0.0.1:4222")')
        for url in servers:
            if not re.match(r"(nats|tls|ws|wss)://[^/]", url):
                raise ValueError(f'{shown_url(url)!r} is not the URL of a NATS server; write "nats://host:4222"')
        object.__setattr__(self, "servers", servers)
        if not _PREFIX.fullmatch(self.prefix):
            raise ValueError(f"prefix={self.prefix!r}; expected words of letters, digits, - and _ with dots between")
        limit = self.concurrency_limit
        if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 1):
            raise ValueError(f"concurrency_limit={limit!r}; expected a whole number from 1, or None for no limit")

    @asynccontextmanager
    async def joined(self, calls: Calls, tasks: anyio.abc.TaskGroup) -> AsyncIterator[CallRouter]:
        """Be a node of the cluster inside this block. `Stream.running` does this.

        Raises:
            ClusterError: NATS cannot be reached, refuses the credentials, or the nodes there do not fit this one.
            ModuleNotFoundError: The extra ``cluster`` is not installed.
        """
        from .._core.bridge import loop_clock
        from .._engine.nats_link import CannotConnect, NatsLink, NatsOptions
        from ..exceptions import ClusterError
        from .node import Node

        names = ("token", "user", "password", "nkeys_seed", "tls")
        login: dict[str, Any] = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        if self.credentials is not None:
            login["user_credentials"] = self.credentials
        options = NatsOptions(
            servers=tuple(self.servers), prefix=self.prefix, timeout=self.connect_timeout, login=login
        )
        link = NatsLink(options, loop_clock())
        try:
            try:
                await link.open()
            except CannotConnect as error:
                raise ClusterError(str(error)) from None
            node = Node(calls, link, prefix=self.prefix, limit=self.concurrency_limit, release=self.release)
            try:
                await node.start(tasks)
                yield node
            finally:  # others have heard of it while it started
                node.leave()
        finally:
            await link.aclose()
