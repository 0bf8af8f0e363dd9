"""The connection to NATS. It lives in a thread of its own, like the WebRTC engine, so it serves trio and asyncio alike.

Each request and each subscription of the application's loop goes through `LoopThread` into that thread. Messages come
back through one queue. Relies on: nats-py answers a request without subscribers at once (`NoRespondersError`), and
reconnects and subscribes again by itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import anyio

from .._core.bridge import Event
from .._core.flow import Flow, Policy
from .._core.installed import check_versions, import_extra
from .._core.urls import shown_url
from .loop_thread import LoopThread
from .seam.nats import cut, cut_when_closed, is_joined, stop_sending

if TYPE_CHECKING:
    from nats.aio.client import Client

logger: logging.Logger = logging.getLogger("rtcflow.cluster")

OUTBOX: Final = 10_000
"""Messages that may wait to be sent; more are dropped, as they are while NATS is away."""

INBOX: Final = 10_000
"""Messages that may wait to be read; more are dropped."""


ROUND: Final = 10.0
"""Seconds for one way to NATS and back, after which a subscription that has ended is forgotten all the same."""


TOGETHER: Final = 0.5
"""Seconds over which subscriptions that end are gathered, since forgetting them takes a way to NATS and back."""


CLOSE: Final = 1.0
"""Seconds that a server has to take what is unsent when its connection is closed."""


CANCEL_AGAIN: Final = 0.2
"""Seconds after which a task that was cancelled and still runs is cancelled once more."""


class Message(NamedTuple):
    """A message that came: its subject, its bytes, and the subject for the answer ("" if none is wanted)."""

    subject: str
    data: bytes
    reply: str


class NoListener(Exception):
    """NATS says that nobody subscribes to the subject."""


class LinkDown(Exception):
    """NATS cannot be reached now."""


class LinkClosed(LinkDown):
    """The connection is closed for good."""


class CannotConnect(Exception):
    """No connection could be made at the start; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NatsOptions:
    """How NATS is reached.

    Attributes:
        servers: URLs of one NATS cluster.
        prefix: What all subjects begin with, those for answers too.
        timeout: Seconds for the first connection.
        login: Arguments of `nats.connect`: token, user, password, nkeys_seed, user_credentials, tls.
    """

    servers: tuple[str, ...]
    prefix: str
    timeout: float = 5.0
    login: dict[str, Any] = field(default_factory=dict, repr=False)


class NatsLink:
    """One connection to NATS, for the event loop in which it is opened.

    Attributes:
        messages: What comes in on all subscriptions. One task reads it.
        up_since: When the present connection was made (`clock`), or None while NATS is away.
    """

    def __init__(self, options: NatsOptions, clock: Callable[[], float]) -> None:
        self._options = options
        self._clock = clock
        self._thread = LoopThread()
        self.messages: Flow[Message] = Flow(INBOX, Policy.DROP_OLDEST)
        self._client: Client | None = None
        self._nats: Any = None
        self._outbox: asyncio.Queue[Callable[[], Awaitable[object]]]
        self._pump: asyncio.Task[None] | None = None
        self._waiting: set[asyncio.Timeout] = set()
        self._subscriptions: dict[str, Any] = {}
        self._ended: list[Any] = []  # subscriptions that are still to be forgotten
        self._forgetting: asyncio.Task[None] | None = None
        self._errors: list[str] = []
        self._up = Event()
        self.up_since: float | None = None

    # -- from the application's loop

    async def open(self) -> None:
        """Connect.

        Raises:
            ModuleNotFoundError: nats-py is not installed.
            CannotConnect: No server answers, or it refuses the credentials, or a package for these is missing.
        """
        self._nats = import_extra("nats", extra="cluster", what="a cluster")
        check_versions("nats-py")
        if {"nkeys_seed", "user_credentials"} & self._options.login.keys() and find_spec("nkeys") is None:
            raise CannotConnect("nkeys_seed and credentials need the package nkeys: pip install nkeys")
        try:
            await self._thread.open()
            await self._thread.call(self._connect)
        except BaseException:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        """Send what waits, and close the connection. Idempotent; not cut short by cancelling."""
        try:
            if self._thread.is_open:
                await self._thread.complete(self._disconnect)
        finally:
            await self._thread.aclose()

    @property
    def is_up(self) -> bool:
        """Whether NATS is connected now."""
        return self.up_since is not None

    @property
    def is_joined(self) -> bool:
        """Whether there are several NATS servers. Then other nodes may be at another one, and may lose that one."""
        client = self._client
        return len(self._options.servers) > 1 or (client is not None and is_joined(client))

    async def wait_up(self) -> None:
        """Wait until NATS is connected. Safe to cancel."""
        await self._up.wait()

    async def request(self, subject: str, data: bytes, timeout: float) -> bytes:
        """Ask, and return the first answer.

        Raises:
            NoListener: Nobody subscribes to the subject.
            TimeoutError: Somebody does, and has not answered within `timeout` seconds.
            LinkDown: NATS is not connected, or the connection broke meanwhile.
        """
        try:
            return await self._thread.call(self._request, subject, data, timeout)
        except anyio.ClosedResourceError:
            raise LinkClosed("the connection to NATS is closed") from None

    async def subscribe_and_request(self, subject: str, data: bytes, timeout: float) -> bytes:
        """`subscribe`, then `request` to the other subscribers, with one change to the thread and back."""
        try:
            return await self._thread.call(self._subscribe_and_request, subject, data, timeout)
        except anyio.ClosedResourceError:
            raise LinkClosed("the connection to NATS is closed") from None

    async def subscribe(self, subject: str) -> None:
        """Have the messages of a subject come to `messages`. If this is cancelled, call `unsubscribe`.

        Raises:
            LinkClosed: The connection is closed.
        """
        try:
            await self._thread.call(self._subscribe, subject)
        except anyio.ClosedResourceError:
            raise LinkClosed("the connection to NATS is closed") from None

    def unsubscribe(self, subject: str) -> None:
        """End a subscription before all that is published after this call. Without a subscription it does nothing.

        Messages on their way are still delivered.
        """
        try:
            self._thread.post(self._end, subject)
        except anyio.ClosedResourceError:
            logger.debug("the connection to NATS is closed, and its subscriptions with it")

    def publish(self, subject: str, data: bytes) -> None:
        """Send a message soon. It is dropped if NATS is away."""
        self._post(partial(self._publish, subject, data))

    def _post(self, send: Callable[[], Awaitable[object]]) -> None:
        try:
            self._thread.post(self._put, send)
        except anyio.ClosedResourceError:
            logger.debug("the connection to NATS is closed: a message was dropped")

    # -- in the thread

    def _put(self, send: Callable[[], Awaitable[object]]) -> None:
        try:
            self._outbox.put_nowait(send)
        except asyncio.QueueFull:
            logger.warning("%d messages wait for NATS: one was dropped", OUTBOX)

    async def _connect(self) -> None:
        self._outbox = asyncio.Queue(OUTBOX)
        options, login = self._options, dict(self._options.login)
        # owner: `_within`, which returns when it has ended
        connecting = asyncio.get_running_loop().create_task(
            self._nats.connect(
                list(options.servers),
                name="rtcflow",
                inbox_prefix=f"{options.prefix}._inbox",
                no_echo=True,
                allow_reconnect=True,
                max_reconnect_attempts=-1,
                reconnect_time_wait=0.2,
                connect_timeout=min(2.0, options.timeout),
                ping_interval=2,
                max_outstanding_pings=2,
                error_cb=self._on_error,
                disconnected_cb=self._on_lost,
                reconnected_cb=self._on_up,
                **login,
            )
        )
        try:
            await _within(options.timeout, connecting)
        finally:
            if not connecting.cancelled() and connecting.exception() is None:
                self._client = connecting.result()  # `_disconnect` closes it
        if connecting.cancelled():
            raise CannotConnect(self._why_not())
        try:
            connecting.result()
        except (OSError, ValueError, self._nats.errors.Error) as error:
            self._errors.append(str(error) or type(error).__name__)
            raise CannotConnect(self._why_not()) from error
        await self._on_up()
        self._pump = self._thread.start_task(self._send_all())

    def _why_not(self) -> str:
        servers = ", ".join(map(shown_url, self._options.servers))
        reasons = "; ".join(dict.fromkeys(self._errors)) or "no answer"
        return f"no connection to NATS at {servers} within {self._options.timeout:g} s: {reasons}"

    async def _disconnect(self) -> None:
        client, self._client = self._client, None
        if self._pump is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE):
                    await self._outbox.join() if self.is_up else None
            self._pump.cancel()
        if self._forgetting is not None:
            self._forgetting.cancel()
        if client is not None and not client.is_closed:
            # owner: `_within`, which returns when it has ended
            closing = asyncio.get_running_loop().create_task(client.close())
            await _within(CLOSE, closing)
            cut(client)
            if not closing.cancelled() and (error := closing.exception()) is not None:
                logger.debug("NATS: %r", error)
        self.up_since = None

    async def _on_error(self, error: Exception) -> None:
        words = str(error) or type(error).__name__
        self._errors = [*self._errors[-4:], words]
        logger.debug("NATS: %s", words)

    async def _on_lost(self) -> None:
        if self.up_since is not None and self._client is not None:
            logger.warning("the connection to NATS is lost; live calls go on")
        self.up_since = None
        self._up.clear()
        for waiting in self._waiting:  # their answers were lost with the connection
            if not waiting.expired():  # otherwise this raises, and nats-py would not connect again
                waiting.reschedule(0)
        await self._forget_ended()  # the next connection would begin with them

    async def _on_up(self) -> None:
        if self._errors and self._client is not None and self._pump is not None:
            logger.warning("connected to NATS again")
        self._errors.clear()
        if self._client is not None:
            cut_when_closed(self._client, CLOSE)
        self.up_since = self._clock()
        self._up.set()

    async def _request(self, subject: str, data: bytes, timeout: float) -> bytes:
        client, since = self._client, self.up_since
        if client is None or since is None or not client.is_connected:
            raise LinkDown("NATS cannot be reached now")
        try:
            async with asyncio.timeout(timeout) as waiting:
                self._waiting.add(waiting)
                try:
                    message = await client.request(subject, data, timeout=2 * timeout)
                finally:
                    self._waiting.discard(waiting)
        except self._nats.errors.NoRespondersError:
            raise NoListener(subject) from None
        except TimeoutError:
            if self.up_since != since:
                raise LinkDown("the connection to NATS broke before the answer came") from None
            raise
        except (OSError, self._nats.errors.Error) as error:
            raise LinkDown(str(error) or type(error).__name__) from error
        found: bytes = message.data
        return found

    async def _subscribe(self, subject: str) -> None:
        if self._client is None:
            raise LinkClosed("the connection to NATS is closed")

        async def arrived(message: Any) -> None:
            self.messages.put_nowait(Message(message.subject, message.data, message.reply))

        self._subscriptions[subject] = await self._client.subscribe(subject, cb=arrived)

    async def _subscribe_and_request(self, subject: str, data: bytes, timeout: float) -> bytes:
        await self._subscribe(subject)
        return await self._request(subject, data, timeout)

    def _end(self, subject: str) -> None:
        subscription = self._subscriptions.pop(subject, None)
        if subscription is not None:
            self._put(partial(self._unsubscribe, subscription))

    async def _unsubscribe(self, subscription: Any) -> None:
        """Tell NATS, and let what is on its way be answered: the nodes that ask wait for it.

        nats-py's `Subscription.unsubscribe` throws it away. Its `drain` has two faults. After a loss of the connection
        the subscription comes to life again. And a `drain` that is cancelled or late ends the reader of the connection,
        so nothing is received from then on.
        """
        client = self._client
        if client is not None and self.is_up:
            await stop_sending(client, subscription)
            self._ended.append(subscription)
            if self._forgetting is None:
                self._forgetting = self._thread.start_task(self._forget_later())
        else:
            await subscription.unsubscribe()

    async def _forget_later(self) -> None:
        try:
            while self._ended:
                await asyncio.sleep(TOGETHER)
                count = len(self._ended)
                with suppress(NoListener, LinkDown, TimeoutError):
                    # The answer is "nobody listens", and it comes after all that NATS had sent before.
                    await self._request(f"{self._options.prefix}.nobody", b"", ROUND)
                await self._forget_ended(count)
        finally:
            self._forgetting = None

    async def _forget_ended(self, count: int | None = None) -> None:
        """Forget the first `count` subscriptions that have ended; by default all."""
        ended, self._ended = self._ended[:count], [] if count is None else self._ended[count:]
        for subscription in ended:
            with suppress(self._nats.errors.Error):
                await subscription.unsubscribe()

    async def _publish(self, subject: str, data: bytes) -> None:
        client = self._client
        if client is not None and client.is_connected:
            await client.publish(subject, data)

    async def _send_all(self) -> None:
        while True:
            send = await self._outbox.get()
            try:
                await send()
            except (OSError, self._nats.errors.Error) as error:
                logger.debug("NATS: %s", error)
            finally:
                self._outbox.task_done()


async def _within(seconds: float, task: asyncio.Task[Any]) -> None:
    """Wait until a task has ended. After `seconds`, or if this is cancelled, the task is cancelled until it ends.

    Once is not enough. nats-py connects in an endless loop. It loses a cancellation that comes just when an attempt
    ends, because `asyncio.wait_for` of Python 3.11 does so. The process then never started, and never gave up.
    """
    try:
        await asyncio.wait({task}, timeout=seconds)
    finally:
        while not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=CANCEL_AGAIN)
