"""The command line: `rtcflow demo`, `serve`, `call`, `bench`, `doctor` and `top`."""

from __future__ import annotations

import base64
import enum
import faulthandler
import gc
import importlib
import importlib.util
import inspect
import json
import logging
import math
import os
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn

import anyio
import anyio.abc
import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table

from ._core.installed import check_versions
from ._core.moved import absent
from ._core.urls import shown_url
from ._version import __version__
from .ends import errors_in, sole_error
from .exceptions import ClusterError
from .logs import CallFilter, JsonFormatter, TextFormatter

if TYPE_CHECKING:
    from .abc import Transport
    from .client.doctor import DoctorReport
    from .client.lines import CallerTransport
    from .client.load import LoadProgress, LoadReport, Spread
    from .client.measured_call import CallReport
    from .cluster import Cluster
    from .serving.calls import Calls
    from .stream import Stream

GRACE: Final = 1.0
"""Seconds that requests under way get when the server is stopped; calls get `serving.calls.CLOSING` beside that."""


class Backend(enum.StrEnum):
    """The event loops that a server, or a call, can run on."""

    trio = "trio"
    asyncio = "asyncio"


class LogFormat(enum.StrEnum):
    """How `rtcflow serve` writes its log."""

    text = "text"
    json = "json"


class SimulatedCarrier(enum.StrEnum):
    """The telephone carriers that can be simulated."""

    twilio = "twilio"
    telnyx = "telnyx"
    plivo = "plivo"
    vonage = "vonage"
    exotel = "exotel"
    genesys = "genesys"


app: Final = typer.Typer(
    help="Real-time audio and video handlers over WebRTC, WebSocket and telephone lines.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

BackendOption = Annotated[Backend, typer.Option(help="The event loop.")]
HostOption = Annotated[str, typer.Option(help="The address to listen on; 0.0.0.0 is every one of this machine.")]
PortOption = Annotated[int, typer.Option(help="The port to listen on; 0 finds a free one.", min=0, max=65535)]


def _number(value: float | None) -> float | None:
    """Refuse NaN, which older versions of typer take: such a limit is never broken, such a time never comes."""
    if value is not None and math.isnan(value):
        raise typer.BadParameter("nan is not a number")
    return value


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"rtcflow {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version, and exit.")
    ] = False,
) -> None:
    """Real-time audio and video handlers over WebRTC, WebSocket and telephone lines."""


@app.command()
def demo(
    backend: BackendOption = Backend.trio,
    host: HostOption = "127.0.0.1",
    port: PortOption = 8000,
) -> None:
    """Serve an echo, and a page to talk to it."""
    from .demo import stream

    serve_application(stream, "the echo demo", host, port, backend)


@app.command()
def serve(
    target: Annotated[str, typer.Argument(metavar="MODULE:STREAM", help="A Stream, or an ASGI application.")],
    backend: BackendOption = Backend.asyncio,
    host: HostOption = "127.0.0.1",
    port: PortOption = 8000,
    drain: Annotated[
        float | None,
        typer.Option(
            help="Seconds that live calls may go on after SIGTERM or Ctrl-C, while new ones get 503.",
            min=0,
            callback=_number,
        ),
    ] = None,
    log_format: Annotated[LogFormat, typer.Option(help="json: one JSON object per line.")] = LogFormat.text,
    workers: Annotated[
        int,
        typer.Option(help="Processes that serve it together; they start a NATS server unless --nats names one.", min=1),
    ] = 1,
    nats: Annotated[
        str | None,
        typer.Option(help="URLs of NATS, with commas, by which this machine serves together with others."),
    ] = None,
    prefix: Annotated[str, typer.Option(help="What the subjects in NATS begin with.")] = "rtcflow",
    as_worker: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Serve a Stream of yours, or an ASGI application that has mounted one.

    With --workers, SIGHUP replaces the processes one after the other, and calls of the old ones may go on for --drain
    seconds. The token for NATS may be in the URL, or in the environment variable RTCFLOW_NATS_TOKEN.
    """
    if workers > 1:
        options = ["--backend", backend, "--log-format", log_format, "--prefix", prefix]
        options += [] if drain is None else ["--drain", str(drain)]
        raise SystemExit(_serve_with_workers(target, host, port, workers, nats, options, log_format))
    signal.signal(signal.SIGTERM, _end_early)  # importing may take long
    worker = None if as_worker is None else InheritedFiles(*map(int, as_worker.split(",")))
    found = load_target(target)
    serve_application(found, target, host, port, backend, drain, log_format, _cluster(nats, prefix), worker)


@app.command()
def call(
    url: Annotated[
        str, typer.Argument(help="Where the stream is mounted: http://127.0.0.1:8000; ws:// calls over a WebSocket.")
    ],
    play: Annotated[Path | None, typer.Option(help="A sound file to play into the call.")] = None,
    record: Annotated[Path | None, typer.Option(help="A WAV file to record the answer to.")] = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            help="How long to stay; by default the length of --play and 1 s, or 10 s.", min=0.1, callback=_number
        ),
    ] = None,
    telephone: Annotated[
        SimulatedCarrier | None, typer.Option(help="Call a ws:// URL as this telephone carrier would.")
    ] = None,
    header: Annotated[
        list[str] | None, typer.Option(help="A header for the request: 'Authorization: ...'. May be repeated.")
    ] = None,
    dtmf: Annotated[
        str, typer.Option(help="Keys to press: 0123456789*#ABCD; a comma waits 1 s. Or type them, and Return.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
    backend: BackendOption = Backend.asyncio,
) -> None:
    """Call a server without a browser: play a recording, record the answer, measure the line."""
    if telephone is None and dtmf:
        _fail("--dtmf needs a telephone; add --telephone twilio, for example")
    if telephone is not None and not _is_websocket(url):
        _fail(f"a carrier calls a WebSocket; write ws:// instead of {url.partition('://')[0]}://")
    line = _Line(url, None if telephone is None else telephone.value, dtmf, _headers(header))
    raise SystemExit(_call(line, play, record, seconds, backend, as_json=as_json))


@app.command()
def bench(
    url: Annotated[str, typer.Argument(help="Where the stream is mounted: http://127.0.0.1:8000")],
    connections: Annotated[int, typer.Option("--connections", "-n", help="How many calls at once.", min=1)] = 8,
    seconds: Annotated[
        float, typer.Option(help="How long to measure, with all calls up.", min=0.5, callback=_number)
    ] = 10.0,
    min_delivery: Annotated[
        float | None, typer.Option(help="The share of frames that must come, 0 to 1.", min=0, max=1, callback=_number)
    ] = None,
    max_gap_p99: Annotated[
        float | None, typer.Option(help="Milliseconds that 99 % of the gaps may last.", min=0, callback=_number)
    ] = None,
    max_latency: Annotated[
        float | None,
        typer.Option(
            help="Milliseconds until half of what was said must be back, from an echo.", min=0, callback=_number
        ),
    ] = None,
    max_setup: Annotated[
        float | None,
        typer.Option(help="Milliseconds in which half of the calls must be set up.", min=0, callback=_number),
    ] = None,
    header: Annotated[list[str] | None, typer.Option(help="A header for the offers: 'Authorization: ...'.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
    backend: BackendOption = Backend.asyncio,
) -> None:
    """Call a server many times at once, and measure; exit code 1 if a limit was not kept.

    The callers need about as much of a core as the server does: let them run on another core, or another machine.
    """
    from .client.load import LoadLimits

    limits = LoadLimits(
        min_delivery, *(None if limit is None else limit / 1000 for limit in (max_gap_p99, max_latency, max_setup))
    )
    report = _run(backend, partial(_load, url, connections, seconds, _headers(header), quiet=as_json))
    broken = limits.broken(report)
    if as_json:
        print(json.dumps({"url": shown_url(url), **report.as_dict(), "broken": broken}))
    else:
        _print_load(report)
    for words in broken:
        print(f"rtcflow: {words}", file=sys.stderr)
    raise SystemExit(1 if broken else 0)


@app.command()
def doctor(
    url: Annotated[str, typer.Argument(help="Where the stream is mounted: http://127.0.0.1:8000")],
    relay_only: Annotated[
        bool, typer.Option(help="Forbid host candidates: does the call work for those who need TURN?")
    ] = False,
    timeout: Annotated[float, typer.Option(help="Seconds for each step.", min=0.1, callback=_number)] = 10.0,
    header: Annotated[list[str] | None, typer.Option(help="A header for the requests: 'Authorization: ...'.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")] = False,
    backend: BackendOption = Backend.asyncio,
) -> None:
    """Find out why calls to a server work, or do not; exit code 1 if something is wrong."""
    report = _run(backend, partial(_examine, url, _headers(header), relay_only=relay_only, timeout=timeout))
    if as_json:
        print(json.dumps(report.as_dict()))
    else:
        _print_doctor(report)
    raise SystemExit(1 if report.problems else 0)


@app.command()
def top(
    url: Annotated[str, typer.Argument(help="Where the stream is mounted: http://127.0.0.1:8000")],
    end: Annotated[int | None, typer.Option(help="End the call with this number, and exit.", min=1)] = None,
    once: Annotated[bool, typer.Option(help="Print the calls once, and exit; so it is without a terminal.")] = False,
    user: Annotated[str | None, typer.Option(help="NAME:PASSWORD, if the server asks for them.")] = None,
    header: Annotated[list[str] | None, typer.Option(help="A header for the requests: 'Authorization: ...'.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the calls once as JSON.")] = False,
    backend: BackendOption = Backend.asyncio,
) -> None:
    """Watch the live calls of a server, and end one."""
    headers = _headers(header)
    if user is not None:
        headers["Authorization"] = "Basic " + base64.b64encode(user.encode()).decode()
    _run(backend, partial(_top, url, headers, end=end, once=once, as_json=as_json))


def _headers(lines: list[str] | None) -> dict[str, str]:
    pairs = [line.partition(":") for line in lines or ()]
    if not all(name.strip() and colon for name, colon, _ in pairs):
        _fail("a --header has a name and a colon; write --header 'Authorization: Bearer ...'")
    return {name.strip(): value.strip() for name, _, value in pairs}


def _console(**options: Any) -> Console:
    """A terminal that shows texts as they are. To Rich ``[b]`` is a style, and the ``:ab:`` of an address an emoji."""
    console = Console(markup=False, emoji=False, **options)
    if console.is_terminal:
        return console
    return Console(markup=False, emoji=False, width=1000, **options)  # nothing is cut off for a program that reads it


def _is_websocket(url: str) -> bool:
    """Whether it is a WebSocket's. A scheme may have capital letters (RFC 3986 section 3.1)."""
    return url.lower().startswith(("ws://", "wss://"))


def _fail(words: str) -> NoReturn:
    """Print one clear line, and exit."""
    print(f"rtcflow: {words}", file=sys.stderr)
    raise SystemExit(1)


def _run(backend: Backend, main: Callable[[], Awaitable[Any]], *, serving: bool = False) -> Any:
    if backend is Backend.trio:
        if importlib.util.find_spec("trio") is None:
            _fail("--backend trio needs trio; install rtcflow[trio]")
        return anyio.run(main, backend="trio")
    uvloop = importlib.util.find_spec("uvloop") is not None
    options: dict[str, Any] = {"use_uvloop": uvloop}
    if serving:
        from .serving.http_server import asyncio_options

        options = asyncio_options(uvloop=uvloop)
    return anyio.run(main, backend="asyncio", backend_options=options)


# -- serving


def load_target(target: str) -> Any:
    """The object that ``module:name`` names, looked for in the current directory first."""
    module_name, separator, name = target.partition(":")
    if not separator or not module_name or module_name.startswith(".") or not name:
        _fail(f"{target!r} names nothing to serve; write module:stream, for example rtcflow.demo:stream")
    sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise  # an import inside that module failed: its traceback tells where
        _fail(f"there is no module {error.name!r}, here ({Path.cwd()}) or installed")
    found: Any = module
    try:
        for part in name.split("."):
            found = getattr(found, part)
    except AttributeError:
        _fail(f"module {module_name!r} has no {name!r}")
    return found


@dataclass(frozen=True, slots=True)
class InheritedFiles:
    """What a worker process inherits: numbers of open files.

    Attributes:
        listener: The listening socket.
        ready: A pipe on which it says that it is ready.
        life: A pipe that ends when its supervisor dies.
    """

    listener: int
    ready: int
    life: int


def _cluster(nats: str | None, prefix: str) -> Cluster | None:
    """The cluster that `--nats` names."""
    if nats is None:
        return None
    from .cluster import Cluster
    from .cluster.supervisor import TOKEN

    try:
        return Cluster(nats, prefix=prefix, token=os.environ.get(TOKEN))
    except ValueError as error:
        _fail(str(error))


def _serve_with_workers(
    target: str, host: str, port: int, workers: int, nats: str | None, options: list[str], log_format: LogFormat
) -> int:
    """Run worker processes until a signal; returns the exit status."""
    from .cluster.supervisor import supervise

    if sys.platform == "win32":
        _fail("--workers needs a Unix system; start several processes with --nats instead")
    _log_to_terminal(log_format)

    def command(listener: int, ready: int, life: int, url: str | None) -> list[str]:
        inherited = f"{listener},{ready},{life}"
        return [
            *(sys.executable, "-m", "rtcflow", "serve", target, *options),
            *("--nats", str(url), "--as-worker", inherited),
        ]

    with closing(_listen(host, port)) as listener:
        words = f"Serving {target} on {_shown_url(host, listener)} with {workers} workers. Ctrl-C ends it."
        try:
            status = anyio.run(
                partial(supervise, command, workers, listener, nats=nats, started=partial(print, words, flush=True))
            )
        except BaseExceptionGroup as group:
            _fail_cluster(group)
        except ClusterError as error:
            _fail(str(error))
    print("Ended.", flush=True)
    return status


def _fail_cluster(group: BaseExceptionGroup[BaseException]) -> NoReturn:
    """One clear line if all of the errors say that a cluster cannot be joined; otherwise the errors as they are."""
    errors = errors_in(group)
    if all(isinstance(error, ClusterError) for error in errors):
        _fail("; ".join(dict.fromkeys(map(str, errors))))
    raise group


def serve_application(
    served: Stream | Any,
    name: str,
    host: str,
    port: int,
    backend: Backend,
    drain: float | None = None,
    log_format: LogFormat = LogFormat.text,
    cluster: Cluster | None = None,
    worker: InheritedFiles | None = None,
) -> None:
    """Serve a Stream, or an ASGI application, until Ctrl-C or SIGTERM.

    Args:
        served: The stream or application.
        name: What the first line calls it.
        host: The address to listen on.
        port: The port; 0 finds a free one.
        backend: The event loop.
        drain: Seconds that live calls may go on after the first signal; by default each stream's `Limits.drain_time`.
        log_format: How the log is written, unless the application has set up logging of its own.
        cluster: With which other processes the streams are served, those that were not made with a cluster.
        worker: What this process inherits, if it is one of several workers; then `host` and `port` do not count.
    """
    from .stream import Stream

    if importlib.util.find_spec("hypercorn") is None:
        _fail("serving needs hypercorn; install rtcflow[server]")
    try:
        check_versions("hypercorn", "trio")
    except ImportError as error:
        _fail(str(error))
    with suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGTERM, _end_early)
    if sys.stderr is not None and not faulthandler.is_enabled():
        with suppress(OSError, ValueError):  # a standard error that is not a file
            faulthandler.enable()  # a crash in native code leaves a traceback
    _log_to_terminal(log_format)  # before the routes are made, which may warn
    stream = served if isinstance(served, Stream) else None
    application = stream.asgi if stream is not None else served
    if not _may_be_asgi(application):
        what = f"the class {served.__name__}" if inspect.isclass(served) else f"a {type(served).__name__}"
        _fail(f"{name} is {what}, neither a Stream nor an ASGI application; write for example: stream = Stream(...)")
    # Media shares the interpreter with all other Python code (see WebRTCConfig.switch_interval).
    sys.setswitchinterval(0.0005)
    calls = _calls_of(application)
    if cluster is not None:
        if not calls:
            _fail(f"{name} has mounted no Stream, so it cannot be part of a cluster")
        for number, one in enumerate(calls):
            one.join(replace(cluster, prefix=f"{cluster.prefix}.{number}") if number else cluster)
    with closing(_listen(host, port) if worker is None else socket.socket(fileno=worker.listener)) as listener:
        deadline = _Deadline(calls)
        if worker is None:
            print(f"Serving {name} on {_shown_url(host, listener)} with {backend}. Ctrl-C ends it.", flush=True)
        try:
            with _sigterm_later():
                main = partial(_serve, application, calls, listener, backend, deadline, drain, worker)
                _run(backend, main, serving=True)
        except BaseException:
            for one in calls:
                if one.join_error is not None:
                    _fail(str(one.join_error))
            raise
        finally:
            deadline.stop()
    if worker is None:
        print("Ended.", flush=True)


def _may_be_asgi(application: Any) -> bool:
    """Whether it can be called with a scope, `receive` and `send`. A function that makes a stream cannot."""
    if not callable(application) or inspect.isclass(application):
        return False
    try:
        inspect.signature(application).bind(None, None, None)
    except TypeError:
        return False
    except ValueError:  # some written in C do not tell
        pass
    return True


def _listen(host: str, port: int) -> socket.socket:
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        _fail(f"cannot listen on {host}:{port}: {error.strerror}")
    return listener


def _shown_url(host: str, listener: socket.socket) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"


class _Deadline:
    """Ends the process if methods of handlers refuse to be cancelled when the server ends.

    A task cannot be killed, and an event loop ends after its last task. A thread waits here, since such a method may
    block the loop, too.
    """

    def __init__(self, calls: list[Calls]) -> None:
        from .serving.calls import CLOSING

        self._calls = calls
        self._ended = threading.Event()
        timeouts = [one.options.timeouts for one in calls]
        self.seconds = GRACE + CLOSING + max((each.whole + each.shutdown for each in timeouts), default=0.0)

    def start(self) -> None:
        """From now on the server must end within `seconds`."""
        threading.Thread(target=self._wait, name="rtcflow end", daemon=True).start()

    def stop(self) -> None:
        """The server has ended."""
        self._ended.set()

    def _wait(self) -> None:
        if self._ended.wait(self.seconds) or not any(one.is_held_up for one in self._calls):
            return  # what an application does at its end may take as long as it likes
        words = "the process ends although methods of handlers still run: they refuse to be cancelled"
        logging.getLogger(__name__).error(words)
        print("Ended.", flush=True)
        logging.shutdown()
        os._exit(1)


async def _serve(
    application: Any,
    calls: list[Calls],
    listener: socket.socket,
    backend: Backend,
    deadline: _Deadline,
    drain: float | None = None,
    worker: InheritedFiles | None = None,
) -> None:
    """Serve until a signal. The first one drains, a second one ends the drain. During the start, one ends all."""
    from .serving.http_server import ApplicationExit, longest_message, serve

    ready, first, second = anyio.Event(), anyio.Event(), anyio.Event()
    watching = anyio.CancelScope()

    async def watch(*, task_status: anyio.abc.TaskStatus[None]) -> None:
        if sys.platform == "win32":
            task_status.started()
            return  # Ctrl-C arrives as KeyboardInterrupt
        with watching, anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
            task_status.started()
            await anext(signals)
            if not ready.is_set():
                serving.cancel_scope.cancel()
            first.set()
            await anext(signals)
            second.set()

    async def stop() -> None:
        """Return when the server is to stop. The server calls this when it takes connections."""
        ready.set()  # an application without a lifespan says nothing
        # What exists before the first call stays. A collection of garbage need not look through it, with all calls
        # waiting meanwhile: of a stream alone these are 95,000 objects, and 50 ms.
        gc.collect()
        gc.freeze()
        if worker is not None:
            with suppress(BrokenPipeError):  # the supervisor has died meanwhile: its other pipe tells
                os.write(worker.ready, b"1")
            os.close(worker.ready)
        await _first(first, worker)
        async with anyio.create_task_group() as draining:
            draining.start_soon(_cancel_after, second, draining.cancel_scope)
            async with anyio.create_task_group() as streams:
                for one in calls:
                    streams.start_soon(one.drain, one.options.limits.drain_time if drain is None else drain)
            draining.cancel_scope.cancel()
        deadline.start()

    most = longest_message(calls)
    try:
        async with anyio.create_task_group() as serving:
            await serving.start(watch)
            await serve(
                application, listener, backend.value,
                stop=stop, grace=GRACE, max_message=most, draining=first.is_set, started=ready.set,
            )  # fmt: skip
            watching.cancel()
    except BaseExceptionGroup as group:
        exits = group.subgroup(ApplicationExit)
        raise sole_error(group) if exits is None else errors_in(exits)[0] from None


async def _first(told: anyio.Event, worker: InheritedFiles | None) -> None:
    """Wait for a signal, or for the end of the supervisor."""
    async with anyio.create_task_group() as either:
        if worker is not None:
            either.start_soon(_cancel_at_end, worker.life, either.cancel_scope)
        await told.wait()
        either.cancel_scope.cancel()


async def _cancel_at_end(pipe: int, scope: anyio.CancelScope) -> None:
    await anyio.wait_readable(pipe)
    scope.cancel()


async def _cancel_after(event: anyio.Event, scope: anyio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


async def _wait_for_signal() -> None:
    if sys.platform == "win32":
        await anyio.sleep_forever()  # Ctrl-C arrives as KeyboardInterrupt
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            return


def _calls_of(application: Any) -> list[Calls]:
    """The calls of each stream that an application has mounted, found by its health routes."""
    from .routes.health import HealthRoute

    routes = getattr(application, "routes", None)
    if not isinstance(routes, list):
        return []
    found = {id(route.calls): route.calls for route in routes if isinstance(route, HealthRoute)}
    for route in routes:
        found |= {id(one): one for one in _calls_of(getattr(route, "app", None))}
    return list(found.values())


@contextmanager
def _sigterm_later() -> Iterator[None]:
    """Hold SIGTERM back until the event loop takes signals: an exception from a signal handler breaks trio's loop."""
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_early(*_: object) -> NoReturn:
    """SIGTERM before the event loop runs: end as after Ctrl-C, without a traceback."""
    print("Ended.", flush=True)
    raise SystemExit(0)


def _log_to_terminal(log_format: LogFormat = LogFormat.text) -> None:
    """Log to standard error, unless the application has set up logging of its own."""
    if logging.getLogger().handlers:
        if log_format is LogFormat.json:
            advice = "give its handler rtcflow.logs.JsonFormatter() and CallFilter()"
            print(f"rtcflow: --log-format has no effect: the application sets up logging; {advice}", file=sys.stderr)
        return
    console = Console(stderr=True)
    handler: logging.Handler = logging.StreamHandler()
    if log_format is LogFormat.json:
        handler.setFormatter(JsonFormatter())
    elif console.is_terminal:
        handler = RichHandler(console=console, show_path=False, markup=False, log_time_format="%X")
        handler.setFormatter(TextFormatter("%(message)s"))
    else:  # into a file or a journal
        handler.setFormatter(TextFormatter("%(asctime)s %(levelname)s %(message)s"))
    handler.addFilter(CallFilter())
    logging.basicConfig(handlers=[handler])
    logger = logging.getLogger("rtcflow")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)


# -- calling


def _call(
    line: _Line, play: Path | None, record: Path | None, seconds: float | None, backend: Backend, *, as_json: bool
) -> int:
    from .client.measured_call import RATE, SETTLING, read_audio, write_wav

    samples = None
    if play is not None:
        try:
            samples = read_audio(play)
        except (OSError, ValueError) as error:
            _fail(f"cannot play {play}: {getattr(error, 'strerror', None) or error}")
    length = 10.0 if samples is None else SETTLING + samples.shape[1] / RATE + 1.0
    if record is not None:
        _check_recordable(record)
    try:
        report, setup = _run(backend, partial(_hold, line, samples, length if seconds is None else seconds))
    except KeyboardInterrupt:
        _fail("interrupted before the call was up")
    if record is not None:
        try:
            write_wav(record, report.recording)
        except OSError as error:
            _fail(f"cannot record to {record}: {error.strerror}")
    if as_json:
        print(json.dumps(_figures(report, line.url, setup)))
    else:
        _print_report(_figures(report, line.url, setup), record)
    return 1 if report.failed else 0


def _check_recordable(record: Path) -> None:
    """Refuse now what would fail when the call is over, and the recording lost."""
    folder = record.absolute().parent
    if not folder.is_dir():
        _fail(f"cannot record to {record}: there is no such folder")
    if record.is_dir():
        _fail(f"cannot record to {record}: it is a folder; write {record / 'answer.wav'}, for example")
    if not os.access(record if record.exists() else folder, os.W_OK):
        _fail(f"cannot record to {record}: it cannot be written")


@dataclass(frozen=True, slots=True)
class _Line:
    """Which server to call, and how."""

    url: str
    carrier: str | None = None
    digits: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[tuple[Transport, float]]:
        """The transport, and when the call was begun."""
        from .client.webrtc import connect, import_httpx2

        import_httpx2()  # before the clock starts
        if not _is_websocket(self.url):
            from .transports.webrtc import open_engine

            async with open_engine() as engine:
                began = anyio.current_time()
                async with connect(self.url, engine=engine, headers=self.headers) as call:
                    yield call, began
            return
        from .client.lines import call_by_telephone, call_by_websocket

        began = anyio.current_time()
        if self.carrier is None:
            async with call_by_websocket(self.url, headers=self.headers) as line:
                yield line, began
            return
        async with call_by_telephone(self.url, self.carrier, headers=self.headers) as line:
            line.press(self.digits)
            try:
                async with anyio.create_task_group() as keys:
                    if sys.stdin.isatty() and sys.platform != "win32":  # there only sockets can be waited for
                        keys.start_soon(_press_typed, line)
                    yield line, began
                    keys.cancel_scope.cancel()
            except BaseExceptionGroup as group:
                raise sole_error(group) from None  # what the call has raised, for the one clear line


async def _press_typed(line: CallerTransport) -> None:
    """Press the keys that are typed, at each Return.

    Waiting happens here and in no thread: that would wait for a last Return when the call is over.
    """
    terminal = sys.stdin.fileno()
    while True:
        await anyio.wait_readable(terminal)
        typed = os.read(terminal, 1024)
        if not typed:  # Ctrl-D
            return
        for keys in typed.decode("ascii", "replace").splitlines():  # several, if they were pasted
            try:
                line.press("".join(keys.split()))
            except ValueError as error:
                print(f"rtcflow: {error}", file=sys.stderr)
            except anyio.ClosedResourceError:
                return


async def _hold(line: _Line, samples: Any, seconds: float) -> tuple[CallReport, float]:
    """Call, hold the call, hang up: at the end of `seconds`, or at Ctrl-C."""
    from .client.measured_call import hold_call
    from .exceptions import NegotiationError, RemoteProtocolError

    url = line.url
    try:
        async with line.open() as (call, began):
            asked = anyio.current_time() - began
            report = await hold_call(call, samples, seconds, until=_wait_for_signal)
            return report, asked + report.setup
    except ModuleNotFoundError as error:
        _fail(str(error))
    except (ValueError, ConnectionError) as error:
        _fail(str(error))
    except (NegotiationError, RemoteProtocolError) as error:
        _fail(f"{shown_url(url)}: {error}")
    except anyio.BrokenResourceError as error:
        _fail(f"the server answered, but no media could flow: {error.__cause__ or 'the link failed'}")


def _figures(report: CallReport, url: str, setup: float) -> dict[str, Any]:
    figures = {key: value for key, value in asdict(report).items() if key not in {"recording", "messages"}}
    return {
        "url": shown_url(url),
        **figures,
        "setup": setup,
        "messages": [repr(message) for message in report.messages],
    }


def _print_report(figures: dict[str, Any], record: Path | None) -> None:
    def milliseconds(value: float | None) -> str:
        return "–" if value is None else f"{1000 * value:.0f} ms"

    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    table.add_row("setup", milliseconds(figures["setup"]))
    table.add_row("duration", f"{figures['duration']:.1f} s")
    table.add_row("frames", f"{figures['frames_sent']} sent, {figures['frames_received']} received")
    if figures["packets_lost"]:
        table.add_row("packets lost", str(figures["packets_lost"]))
    if figures["correlation"] is not None:
        table.add_row("echo", f"after {milliseconds(figures['round_trip'])}, correlation {figures['correlation']:.2f}")
    table.add_row("network", f"round trip {milliseconds(figures['network_round_trip'])}")
    table.add_row("ended", figures["ended"])
    if record is not None:
        table.add_row("recorded to", str(record))
    _console(soft_wrap=True).print(table)


# -- load


async def _load(url: str, connections: int, seconds: float, headers: dict[str, str], *, quiet: bool) -> LoadReport:
    from rich.live import Live

    from .client.load import run_load

    console = _console(stderr=True)
    with Live(console=console, transient=True, auto_refresh=False) as live:

        def show(progress: LoadProgress) -> None:
            if console.is_terminal and not quiet:
                live.update(_progress_line(progress), refresh=True)

        try:
            return await run_load(
                url,
                connections=connections,
                seconds=seconds,
                headers=headers,
                on_progress=show,
                until=_wait_for_signal,
            )
        except ModuleNotFoundError as error:
            failure = str(error)
        except (ValueError, ConnectionError) as error:
            failure = str(error)
    _fail(failure)


def _progress_line(progress: LoadProgress) -> str:
    failed = f", {progress.failed} failed" if progress.failed else ""
    calls = f"{progress.connected} of {progress.connections} calls up{failed}"
    if not progress.elapsed:
        return calls
    return f"{progress.elapsed:4.0f} of {progress.seconds:g} s: {calls}, delivery {100 * progress.delivery:.1f} %"


def _print_load(report: LoadReport) -> None:
    def spread(figure: Spread | None) -> tuple[str, ...]:
        if figure is None:
            return ("–",) * 4
        return tuple(f"{1000 * value:.1f}" for value in (figure.median, figure.p95, figure.p99, figure.most))

    console = _console(soft_wrap=True)
    console.print(f"{report.connected} of {report.connections} calls, {report.seconds:.1f} s")
    for words, count in report.failures.items():
        console.print(f"{count} failed: {words}")
    concealed = f", {report.concealed} frames lost on the way back" if report.concealed else ""
    console.print(
        f"delivery {100 * report.delivery:.2f} %, of the worst call {100 * report.worst_delivery:.2f} %{concealed}"
    )
    console.print(f"echo of {report.echoes} of {report.marks} marks")
    table = Table("ms", "median", "95 %", "99 %", "most", box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    table.add_row("setup", *spread(report.setup))
    table.add_row("gaps", *spread(report.gap))
    table.add_row("latency", *spread(report.latency))
    table.add_row("late ourselves", *spread(report.client_lag))
    console.print(table)


# -- the live calls


async def _top(url: str, headers: dict[str, str], *, end: int | None, once: bool, as_json: bool) -> None:
    from rich.live import Live

    from .client.top import View, Watching, draw, end_call, get_calls, terminal_keys
    from .exceptions import NegotiationError, RemoteProtocolError

    console = _console()
    try:
        if end is not None:
            await end_call(url, headers, end)
            print(f"Call {end} is ending.")
        elif as_json:
            print(json.dumps(await get_calls(url, headers)))
        elif once or not console.is_terminal:
            console.print(draw(View(url).take(await get_calls(url, headers)), keys=False), soft_wrap=True)
        else:
            with Live(console=console, screen=True, auto_refresh=False) as live:
                async with terminal_keys() as keys:

                    def show(view: View) -> None:
                        live.update(draw(view, keys=keys is not None, height=console.height), refresh=True)

                    await Watching(url, headers, show).run(keys)
        return
    except (ValueError, ConnectionError, ModuleNotFoundError) as error:
        failure = str(error)
    except (NegotiationError, RemoteProtocolError) as error:
        failure = f"{shown_url(url)}: {error}"
    _fail(failure)


# -- the doctor


async def _examine(url: str, headers: dict[str, str], *, relay_only: bool, timeout: float) -> DoctorReport:
    from .client.doctor import examine

    try:
        return await examine(url, headers=headers, relay_only=relay_only, timeout=timeout)
    except (ValueError, ModuleNotFoundError) as error:
        failure = str(error)
    _fail(failure)


def _print_doctor(report: DoctorReport) -> None:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    table.add_row("Opus", report.opus or "by FFmpeg: libopus was not found")
    for server in report.ice_servers:
        table.add_row("ICE server", str(server))
    for words, candidates in (("our candidates", report.ours), ("the server's", report.theirs)):
        for candidate in candidates:
            table.add_row(words, f"{candidate.type} {candidate.ip}:{candidate.port}")
    if report.setup is not None:
        table.add_row("connected", f"after {1000 * report.setup:.0f} ms by {report.route}")
    console = _console(soft_wrap=True, highlight=False)
    console.print(table)
    for words in report.problems:
        console.print(f"✗ {words}")
    for words in report.notes:
        console.print(f"– {words}")
    if not report.problems:
        console.print("✓ Calls work.")


if not TYPE_CHECKING:

    def __getattr__(name: str) -> NoReturn:
        raise absent(__name__, name)
