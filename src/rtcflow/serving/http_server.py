"""The HTTP server of `rtcflow serve` and of `rtcflow.fastrtc`: Hypercorn, with seven faults guarded here.

- Under trio, Hypercorn runs each connection in the server's own nursery. An error inside one connection's tasks ended
  the process and every call. (A refused WebSocket upgrade with a frame in the same TCP segment did so: h11 raises in
  ``send(None)``.) Here each connection has its own guard. Its error is logged, and ends this connection only.
- After a client has gone, Hypercorn's WebSocket pings keep the connection's tasks for up to the ping interval, and
  under trio its socket, too. Here both end as soon as nothing more can be read.
- Hypercorn always accepts compression, and inflates 64 KiB of it at once before it looks at its limit: up to 64 MB for
  each connection. Here compression is never accepted, so that a message is as long as the bytes on the wire.
- At its end Hypercorn closes each connection that has no request. One that was accepted a moment before has none yet,
  and its client gets no answer. Here it keeps `FIRST` seconds for its request. While the server drains, answers say
  ``Connection: close``. So a client has no old connection left over which it could send just when the server ends.
- Hypercorn holds ten messages for an application, and puts the client's end behind them. Nobody takes from a full queue
  when the application answers, returns or is cancelled, so the connection waited for room for ever. A body of many
  chunks that was refused unread got no answer and left a socket and two tasks each time. Under asyncio, a server with
  such a connection did not stop. Here the end has a place of its own, and what comes after the application is dropped.
- At its end Hypercorn waits without a limit for clients that stay: under trio, and under asyncio up to Python 3.11, for
  one that does not read what is sent; under asyncio since Python 3.12 for each one that has a request, because
  `asyncio.Server.wait_closed` does. Here it hangs up on all that are left when the grace is over.
- Hypercorn forgets to close some connections without a request: one that only says that it speaks HTTP/2, and under
  asyncio one whose upgrade has a frame behind it. Here each has `keep_alive_timeout`, or twice as long.

Hypercorn has no option for any of this. While `serve` runs, three names in its modules stand for our subclasses. Relies
on: `hypercorn.trio.run` and `hypercorn.asyncio.run` take `TCPServer`, `tcp_server` beside each takes `TaskGroup`, and
`hypercorn.protocol.ws_stream` takes `PerMessageDeflate`, from their own module (Hypercorn 0.18).
tests/unit/serving/test_http_server.py fails if a release differs.
"""

from __future__ import annotations

import importlib
import logging
import math
import socket
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal

import anyio

from .._core.native import task_group
from .._engine.lasting_loop import lasting_loop
from ..ends import ctrl_c_raises, errors_in, is_interrupt, sole_error
from ..transports.line_socket import LineLimits

if TYPE_CHECKING:
    from .calls import Calls

logger: logging.Logger = logging.getLogger(__name__)

PING: Final = 20.0
"""Seconds between two pings to each WebSocket client, as Uvicorn has it. Hypercorn does not look at the answers, but
the system notices a dead network when something is sent into it.
"""

FIRST: Final = 0.5
"""Seconds after it was accepted in which a connection may send its first request, although the server ends."""

NOT_UNDERSTOOD: Final = "our state is ERROR"
"""In the text of h11's error for an answer to a client that has sent something that is not HTTP."""

ANSWER: Final = 10.0
"""Seconds in which a client answers that the application has closed its WebSocket; as many as with Uvicorn."""

DEAD: Final = 10
"""Seconds after which the system ends a TCP connection whose other end no longer answers, or takes nothing."""

Backend = Literal["asyncio", "trio"]


async def serve(
    application: Any,
    listener: socket.socket,
    backend: Backend,
    *,
    stop: Callable[[], Awaitable[None]],
    grace: float,
    max_message: int,
    draining: Callable[[], bool] = lambda: False,
    started: Callable[[], object] = lambda: None,
) -> None:
    """Serve `application` on `listener` until `stop` returns.

    Args:
        application: An ASGI application.
        listener: A listening socket; it is closed at the end.
        backend: The event loop that this runs in.
        stop: When it returns, no connection is accepted any more and the application's lifespan ends.
        grace: Seconds that requests under way get then.
        max_message: The most bytes of a WebSocket message. The routes have their own, lower limits; this one is for
            messages that never end.
        draining: Whether the server is about to stop, so that its clients need other connections. If so before
            `started` was called, this must be cancelled.
        started: Called when the application's lifespan has begun; from then on it is to be ended by `stop`.
    """
    from hypercorn.config import Config

    notice_dead_peers(listener)
    config = Config()
    config.bind = [f"fd://{listener.detach()}"]  # hypercorn closes it
    config.graceful_timeout = grace
    config.websocket_ping_interval = PING
    config.websocket_max_message_size = max_message
    errors = logging.getLogger("hypercorn.error")  # as it is: it has no handler of its own, so nothing is told twice
    if errors.level == logging.NOTSET:
        errors.setLevel(logging.WARNING)
    config.errorlog = errors
    connections: set[Any] = set()
    over = anyio.Event()
    try:
        async with task_group() as tasks:

            async def stop_and_hang_up() -> None:
                await stop()
                tasks.start_soon(_hang_up, connections, grace, over)

            tasks.start_soon(_hang_up_on_idle, connections, config.keep_alive_timeout, over)
            with (
                _replaced(f"hypercorn.{backend}.run", "TCPServer", partial(_guard, connections)),
                _replaced(f"hypercorn.{backend}.tcp_server", "TaskGroup", _with_room),
                _replaced("hypercorn.protocol.ws_stream", "PerMessageDeflate", _decline),
            ):
                await importlib.import_module(f"hypercorn.{backend}").serve(
                    _closing(application, draining, started), config, shutdown_trigger=stop_and_hang_up
                )
            # Not cancelled: asyncio's task groups in Hypercorn leave a cancellation of this task behind (before Python
            # 3.13), and one of anyio's would then count as that.
            over.set()
    except BaseExceptionGroup as group:
        raise sole_error(group) from None


async def _lasts(seconds: float, over: anyio.Event) -> bool:
    """Wait `seconds`, or until `over` is set; whether it is not."""
    with anyio.move_on_after(seconds):
        await over.wait()
    return not over.is_set()


def notice_dead_peers(listener: socket.socket) -> None:
    """Have the system end connections that are dead (tcp(7)); on Linux, those accepted later inherit it."""
    if sys.platform == "linux":
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (
            (socket.TCP_KEEPIDLE, DEAD // 3),
            (socket.TCP_KEEPINTVL, DEAD // 3),
            (socket.TCP_KEEPCNT, 2),
            (socket.TCP_USER_TIMEOUT, 1000 * DEAD),
        ):
            listener.setsockopt(socket.IPPROTO_TCP, option, value)


async def _hang_up(connections: set[Any], seconds: float, over: anyio.Event) -> None:
    """Hang up on the clients that are still there in `seconds`."""
    if await _lasts(seconds, over):
        for connection in list(connections):
            await connection.hang_up()


async def _hang_up_on_idle(connections: set[Any], seconds: float, over: anyio.Event) -> None:
    """Hang up on each client that had no request between two looks, of which there is one in `seconds`."""
    before: dict[Any, int] = {}
    while await _lasts(seconds, over):
        idle = {connection: connection.requests for connection in connections if connection.is_idle}
        for connection, requests in idle.items():
            if before.get(connection) == requests:
                await connection.hang_up()
        before = idle


def _closing(application: Any, draining: Callable[[], bool], started: Callable[[], object] = lambda: None) -> Any:
    """The application, whose answers say ``Connection: close`` while it drains (RFC 9112, section 9.6).

    A client that sends nonsense behind its request cannot be answered any more. The application sees an error then, but
    it is not the application's, so it is not told as one.

    A server that is stopped while it starts cancels the application's lifespan. Starlette tells that as a failure of
    the start, and Hypercorn then raises an error that nobody waits for. Nothing has failed, so it is not told. Nor is
    the end of a start that came too late: Starlette would tell the cancellation as a failure of the end.
    """

    async def closing(scope: Any, receive: Any, send: Any) -> None:
        broken = False

        async def send_last(event: Any) -> None:
            nonlocal broken
            if event["type"] == "lifespan.startup.complete":
                if draining():
                    await anyio.sleep_forever()  # until it is cancelled
                started()
            if draining() and event["type"] == "lifespan.startup.failed":
                return
            if draining() and event["type"] == "http.response.start" and scope["http_version"].startswith("1"):
                event = {**event, "headers": [*event.get("headers", ()), (b"connection", b"close")]}
            try:
                await send(event)
            except Exception as error:
                broken = broken or NOT_UNDERSTOOD in str(error)
                raise

        try:
            await application(scope, receive, send_last)
        except Exception as error:
            if not broken:
                raise
            # The client's fault, not the application's. The connection fails once more, and its guard tells why.
            logger.debug("the application could not answer", exc_info=error)
        except (SystemExit, KeyboardInterrupt) as error:
            if scope["type"] != "lifespan" or is_interrupt(error):
                raise
            raise ApplicationExit(*error.args) from error

    return closing


class ApplicationExit(SystemExit):
    """The application's lifespan has called `sys.exit`, for example because a model is missing: the server ends."""


def asyncio_options(*, uvloop: bool) -> dict[str, Any]:
    """The `backend_options` of `anyio.run` for `serve` on asyncio: a handler's task that exits ends no other call."""
    return {"loop_factory": partial(lasting_loop, ApplicationExit, uvloop=uvloop)}


def longest_message(calls: Iterable[Calls]) -> int:
    """The `max_message` of `serve` for some streams: beyond it, each of their routes refuses a message anyway.

    The routes count characters, and a character may have four bytes.
    """
    limits = [LineLimits().max_message]
    for options in (one.options for one in calls):
        if options.websocket is not None:
            limits.append(options.websocket.max_message)
        if options.telephone is not None:
            limits.append(options.telephone.limits.max_message)
    return 4 * max(limits)


@contextmanager
def _replaced(module: str, name: str, subclass: Callable[[Any], Any]) -> Iterator[None]:
    """Let a class in a module be a subclass of it inside this block."""
    place: Any = importlib.import_module(module)
    kept = getattr(place, name)
    setattr(place, name, subclass(kept))
    try:
        yield
    finally:
        setattr(place, name, kept)


def _guard(connections: set[Any], server: Any) -> Any:
    """Hypercorn's class for one connection, whose errors stay inside; those that are open are in `connections`."""

    class Guarded(server):  # type: ignore[misc]
        _is_trio = server.__module__.startswith("hypercorn.trio")

        async def run(self) -> None:
            connections.add(self)
            try:
                await super().run()
            except BaseException as error:
                whole = error if isinstance(error, BaseExceptionGroup) else BaseExceptionGroup("", [error])
                cancelled = anyio.get_cancelled_exc_class()
                passing, failed = whole.split((cancelled, KeyboardInterrupt) if ctrl_c_raises() else cancelled)
                if failed is not None:
                    why = ", ".join(map(repr, errors_in(failed)))
                    logger.warning("a connection ended: the HTTP server failed on what it sent: %s", why)
                    logger.debug("the whole error", exc_info=failed)
                # Under asyncio this is all that the task does. Its cancellation at the server's end ends here, since
                # asyncio.streams reports a cancelled task as an error (Python 3.11).
                interrupts = None if passing is None else passing.subgroup(KeyboardInterrupt)
                if passing is not None and (self._is_trio or interrupts is not None):
                    raise errors_in(interrupts or passing)[0] from None
            finally:
                connections.discard(self)

        @property
        def requests(self) -> int:
            """How many requests it has had."""
            count: int = self._task_group.begun
            return count

        @property
        def is_idle(self) -> bool:
            """Whether no request is being answered."""
            group = getattr(self, "_task_group", None)
            if group is None or group.begun > group.answered:
                return False
            return self._is_trio or not self.writer.transport.get_write_buffer_size()

        async def hang_up(self) -> None:
            """Close the socket, also if there is more to send. What waits for it fails."""
            if self._is_trio:
                await anyio.aclose_forcefully(self.stream)
            else:
                self.writer.transport.abort()

        context: Any

        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            self._gone = anyio.Event()
            self.context = _ConnectionContext(self.context, self._gone)

        async def _read_data(self) -> None:
            await super()._read_data()
            self._gone.set()
            await self.idle_task.stop()  # under asyncio it kept the socket for 5 s more
            if self._is_trio:
                await anyio.aclose_forcefully(self.stream)
            else:
                self.writer.close()

    return Guarded


class _ConnectionContext:
    """Hypercorn's context for one connection, whose `sleep` between two pings ends when the client has gone."""

    def __init__(self, context: Any, gone: anyio.Event) -> None:
        self._context = context
        self._gone = gone
        self.terminated = _Terminated(context.terminated, gone)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def sleep(self, wait: float) -> None:
        with anyio.move_on_after(wait):
            await self._gone.wait()


class _Terminated:
    """Hypercorn's event for its end, as a connection without a request waits for it: a new one has a moment more."""

    def __init__(self, terminated: Any, gone: anyio.Event) -> None:
        self._terminated = terminated
        self._gone = gone
        self._until = anyio.current_time() + FIRST

    def is_set(self) -> bool:
        is_set: bool = self._terminated.is_set()
        return is_set

    async def wait(self) -> None:
        await self._terminated.wait()
        with anyio.move_on_after(max(0.0, self._until - anyio.current_time())):
            await self._gone.wait()


def _with_room(group: Any) -> Any:
    """Hypercorn's tasks of one connection, in which the client's end always has room in the application's queue.

    What an application sends to a client that has gone is dropped at once. So each `send` lets others run then, or an
    application that only ever sends would hold up all calls for ever.

    The application of a client that sends on, although its WebSocket was closed, is told of the end after `ANSWER`.
    """

    class WithRoom(group):  # type: ignore[misc]
        begun = answered = 0  # requests

        async def spawn_app(self, application: Any, config: Any, scope: Any, send: Any) -> Any:
            room = anyio.Semaphore(config.max_app_queue_size - 1, fast_acquire=True)  # the last place is for the end
            over, gone, until = False, False, math.inf

            async def run(scope: Any, receive: Any, give: Any, *others: Any) -> None:
                async def take() -> Any:
                    if anyio.current_time() >= until:  # it sends on: the application need not wait for its end
                        return {"type": "websocket.disconnect", "code": 1006}
                    message = await receive()
                    room.release()
                    return message

                async def give_last(message: Any) -> None:
                    nonlocal until
                    await give(message)
                    if gone:
                        await anyio.lowlevel.checkpoint()
                    if message["type"] == "websocket.close":
                        until = anyio.current_time() + ANSWER

                nonlocal over
                try:
                    await application(scope, take, give_last, *others)
                finally:
                    over = True
                    self.answered += 1
                    room.release()  # to the reader, if it waits

            self.begun += 1
            put = await super().spawn_app(run, config, scope, send)

            async def put_for_the_application(message: Any) -> None:
                nonlocal gone
                gone = gone or message["type"].endswith(".disconnect")
                if not over and not gone:
                    await room.acquire()
                if not over:
                    await put(message)

            return put_for_the_application

    return WithRoom


def _decline(extension: Any) -> Any:
    """The extension that compresses messages, which is never agreed on."""

    class Declined(extension):  # type: ignore[misc]
        def accept(self, offer: str) -> None:
            """Decline what the client offers."""

    return Declined
