"""The command line: one clear line for what is wrong, and an exit code that is not 0."""

from __future__ import annotations

import itertools
import json
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from datetime import datetime
from functools import partial

import anyio
import httpx2
import numpy as np
import pytest

import rtcflow
from rtcflow.client.lines import call_by_websocket
from rtcflow.client.webrtc import connect

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")


LIMIT = 4.0  # seconds for a server to end: 2 s, and twice that for the interpreter's own end


def slowness() -> float:
    """How many times as long as its own processor time a program takes now: what a busy machine adds."""
    began, before = time.monotonic(), os.times()
    subprocess.run([sys.executable, "-c", "import rtcflow"], check=True)
    now = os.times()
    computed = now.children_user + now.children_system - before.children_user - before.children_system
    return max(1.0, (time.monotonic() - began) / computed)


def took_at_most(seconds: float, limit: float) -> bool:
    """Whether something took no longer than that; on a busy machine, as much longer as a control does."""
    return seconds < limit or seconds < limit * slowness()


def run(*arguments: object, cwd=None, code: str | None = None) -> subprocess.CompletedProcess[str]:
    start = ["-m", "rtcflow"] if code is None else ["-c", code]
    return subprocess.run(
        [sys.executable, *start, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=150,
        cwd=cwd,
        check=False,
    )


@contextmanager
def server(folder, *arguments: str, module: str = "rtcflow"):
    """A server as a process of its own; yields its URL and the process, and its log is in `folder`."""
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            cwd=folder,
        )
    try:
        deadline = time.monotonic() + 100
        while not (found := re.search(r"http://\S+:\d+", log.read_text())):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield found[0], process
    finally:
        process.kill()
        process.wait()


def stop(process, folder, within: float) -> str:
    """Ctrl-C; returns the log."""
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait(150) == 0
    took = time.monotonic() - began
    log = (folder / "server.log").read_text()
    assert took_at_most(took, within), f"took {took:.1f} s\n{log}"
    assert "Traceback" not in log
    return log


def wait_for_calls(folder, number: int = 1) -> None:
    """Until so many calls are up, and a little of them has passed."""
    deadline = time.monotonic() + 100
    while (folder / "server.log").read_text().count("begins") < number:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(1.0)


@pytest.fixture
def free_port():
    with closing(socket.create_server(("127.0.0.1", 0))) as found:
        return found.getsockname()[1]


def test_without_arguments_there_is_help():
    """`rtcflow` alone lists its commands."""
    done = run()
    assert all(command in done.stdout + done.stderr for command in ("demo", "serve", "call"))


WRONG = [
    (["call", "nonsense"], "'nonsense' is not the URL of a server"),
    (["call", "http://127.0.0.1:PORT", "--play", "missing.wav"], "cannot play missing.wav: No such file"),
    (["call", "http://127.0.0.1:PORT", "--record", "no/such/folder.wav"], "no such folder"),
    (["call", "http://127.0.0.1:PORT", "--record", "."], "it is a folder; write answer.wav"),
    (["call", "http://127.0.0.1:PORT", "--play", "/dev/null"], "cannot play /dev/null: "),
    (["call", "http://127.0.0.1:PORT"], "Connection refused"),
    (["call", "http://127.0.0.1:99999"], "'http://127.0.0.1:99999' is not the URL of a server: Port out of range"),
    (["call", "ws://127.0.0.1:port"], "'ws://127.0.0.1:port' is not the URL of a WebSocket: Port could not be"),
    (["bench", "http://127.0.0.1:99999", "-n", "3"], "Port out of range"),
    (["top", "http://127.0.0.1:99999"], "Port out of range"),
    (["doctor", "http://[::1"], "is not the URL of a server: Invalid IPv6 URL"),
    (["serve", "nothing"], "write module:stream"),
    (["serve", ".demo:stream"], "write module:stream"),
    (["serve", "rtcflow.demo:make_stream"], "rtcflow.demo:make_stream is a function, neither a Stream nor"),
    (["serve", "rtcflow.demo:EchoHandler"], "rtcflow.demo:EchoHandler is the class EchoHandler, neither a Stream"),
    (["serve", "no_such_module:stream"], "there is no module 'no_such_module'"),
    (["serve", "rtcflow.demo:nothing"], "module 'rtcflow.demo' has no 'nothing'"),
    (["serve", "rtcflow.demo:HELD"], "neither a Stream nor an ASGI application"),
    (["demo", "--host", "192.0.2.1"], "cannot listen on 192.0.2.1:8000"),
]
EACH_IN_A_CHILD = """
import json, os, sys, traceback
import rtcflow.cli, rtcflow.client.webrtc, rtcflow.demo, rtcflow.transports.webrtc
from rtcflow.__main__ import main

for number, arguments in enumerate(json.loads(sys.argv[1])):
    child = os.fork()
    if child == 0:
        for stream, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{number}.{name}", os.O_WRONLY | os.O_CREAT), stream)
        sys.argv[1:] = arguments
        code = 255
        try:
            main()
        except SystemExit as error:
            code = error.code
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_what_is_wrong_is_one_clear_line(free_port, tmp_path):
    """No traceback: one line that names it, and exit code 1. Each command is a process of its own, forked from one."""
    given = [[word.replace("PORT", str(free_port)) for word in arguments] for arguments, _ in WRONG]
    done = run(json.dumps(given), code=EACH_IN_A_CHILD, cwd=tmp_path)
    assert done.stdout.split() == ["1"] * len(WRONG), (done.stdout, done.stderr)
    for number, (_, words) in enumerate(WRONG):
        said = (tmp_path / f"{number}.err").read_text()
        assert words in said
        assert len(said.strip().splitlines()) == 1, said
        assert (tmp_path / f"{number}.out").read_text() == ""


@pytest.mark.parametrize("missing", ["typer", "rich", "hypercorn", "httpx2"])
def test_a_missing_extra_is_named(missing):
    """Without an extra's package the command says which one to install."""
    code = f"import sys; sys.modules[{missing!r}] = None; from rtcflow.__main__ import main; main()"
    command = ["call", "http://127.0.0.1:1"] if missing == "httpx2" else ["demo"]
    done = run(*command, code=code)
    assert done.returncode in {1, 2}
    extra = {"hypercorn": "server", "httpx2": "client"}.get(missing, "cli")
    assert f"install rtcflow[{extra}]" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_module_that_fails_to_import_shows_its_own_error(tmp_path):
    """A missing import inside the served module is its own error, with the traceback that tells where."""
    (tmp_path / "mine.py").write_text("import no_such_dependency\n")
    done = run("serve", "mine:stream", cwd=tmp_path)
    assert done.returncode == 1
    assert "mine.py" in done.stderr
    assert "No module named 'no_such_dependency'" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_the_demo_ends_within_two_seconds_with_calls_open(backend, tmp_path):
    """Ctrl-C closes a live call with a reason, the caller hears it, and the server is gone within 2 s, exit code 0.

    Another caller is stopped and acknowledges no goodbye: it is not waited for too long.
    """
    with server(tmp_path, "demo", "--port", "0", "--backend", backend) as (url, process):
        command = [sys.executable, "-m", "rtcflow", "call", url, "--seconds", "60", "--json"]
        with (
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as call,
            subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as deaf,
        ):
            try:
                wait_for_calls(tmp_path, 2)
                deaf.send_signal(signal.SIGSTOP)
                asked = datetime.now()
                log = stop(process, tmp_path, within=LIMIT)
                figures = json.loads(call.communicate(timeout=150)[0])
            finally:
                call.kill()
                deaf.kill()
    assert figures["ended"] == "the server ended it: the server is shutting down"
    assert figures["frames_received"] > 20
    assert f"with {backend}" in log
    closed = r"^(\S+ \S+) INFO webrtc call \S+ from 127\.0\.0\.1:\d+ ended after .* shutting down \(connected in \d+ ms"
    ended = re.findall(closed, log, re.MULTILINE)
    assert len(ended) == 2
    # By the server's own log: how long the interpreter takes to end is the machine's affair.
    took = datetime.strptime(max(ended), "%Y-%m-%d %H:%M:%S,%f") - asked
    assert took_at_most(took.total_seconds(), 1.5), log
    assert log.rstrip().endswith("Ended.")


REFUSING = """
import anyio, rtcflow

class Refusing(rtcflow.AsyncStreamHandler):
    def copy(self):
        return Refusing()

    async def start_up(self):
        while True:
            try:
                await anyio.sleep_forever()
            except BaseException:
                print("refused", flush=True)

    async def receive(self, frame):
        pass

    async def emit(self):
        await self.send_message("begun")
        await anyio.sleep_forever()

stream = rtcflow.Stream(Refusing(), concurrency_limit=2, timeouts=rtcflow.Timeouts(shutdown=0.2, close=0.5))
"""


async def call_twice(url: str) -> None:
    """One call in the stream's own tasks, and one in those of a request."""
    async with connect(url) as call, call_by_websocket(url.replace("http", "ws")) as line:
        for each in (call, line):
            each.start(rtcflow.AudioFormat(48000), rtcflow.AudioFormat(48000))
            while "begun" not in await each.messages_in.take():  # `start_up` runs, and refuses to be cancelled
                pass


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_a_handler_that_refuses_to_be_cancelled_does_not_keep_the_process(backend, tmp_path):
    """One SIGTERM ends it, with a line in the log, whichever task the call runs in: the stream's or the request's."""
    (tmp_path / "mine.py").write_text(REFUSING)
    with server(tmp_path, "serve", "mine:stream", "--port", "0", "--backend", backend) as (url, process):
        anyio.run(call_twice, url)
        process.terminate()
        assert process.wait(150) == 1
    log = (tmp_path / "server.log").read_text()
    assert log.count("Refusing.start_up") == 2, log
    assert "the process ends although methods of handlers still run" in log
    assert log.rstrip().endswith("Ended.")


EXITING = """
import sys
import anyio, rtcflow
from rtcflow.demo import EchoHandler

class Exiting(EchoHandler):
    def copy(self):
        return Exiting()

    async def on_message(self, message):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.fail, message)
            await anyio.sleep_forever()

    async def fail(self, message):
        if message == "exit":
            sys.exit(7)
        raise KeyboardInterrupt

stream = rtcflow.Stream(Exiting(), concurrency_limit=None)
"""


async def call_and_fail(url: str) -> None:
    """Calls whose handlers exit, on each of two transports; a call beside them is served to its own end."""
    lines = url.replace("http", "ws")
    call_by = {"webrtc": partial(connect, url), "websocket": partial(call_by_websocket, lines)}
    sound = rtcflow.AudioFormat(48000)
    async with call_by_websocket(lines) as other:
        other.start(sound, sound)
        for kind, message in itertools.product(call_by, ("exit", "interrupt")):
            async with call_by[kind]() as call:
                call.start(sound, sound)
                await call.wait_connected()
                await call.wait_messages_open()
                call.send_message_nowait(message)
                with suppress(anyio.BrokenResourceError):  # a WebSocket tells an error as one
                    await call.wait_ended()
        other.audio_out.put(np.ones((1, 960), np.int16))
        assert (await other.audio_in.take()).samples.any()


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_a_handler_whose_task_exits_ends_its_own_call_only(backend, tmp_path):
    """`sys.exit` and `KeyboardInterrupt` in a task group of the handler: asyncio lets both leave its loop, trio not."""
    (tmp_path / "mine.py").write_text(EXITING)
    with server(tmp_path, "serve", "mine:stream", "--port", "0", "--backend", backend) as (url, process):
        anyio.run(call_and_fail, url)
        process.send_signal(signal.SIGINT)
        assert process.wait(150) == 0
    log = (tmp_path / "server.log").read_text()
    assert log.count("Exiting raised BaseExceptionGroup") == 4, log
    assert log.rstrip().endswith("Ended.")


LEAVING = """
import sys

async def app(scope, receive, send):
    assert scope["type"] == "lifespan"
    await receive()
    sys.exit("there is no model")
"""


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_an_application_that_exits_at_its_start_ends_the_server(backend, tmp_path):
    """`sys.exit` in the lifespan is for the whole process; its status and its words are the application's."""
    (tmp_path / "mine.py").write_text(LEAVING)
    done = run("serve", "mine:app", "--port", "0", "--backend", backend, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "there is no model\n")


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [pytest.param(4, marks=pytest.mark.nightly), 60])
def test_a_server_that_dies_during_a_call_is_told(seconds, tmp_path):
    """A killed server says no goodbye: the call says that it is gone (its port is closed), exit code 1."""
    with server(tmp_path, "demo", "--port", "0") as (url, process):
        command = [sys.executable, "-m", "rtcflow", "call", url, "--seconds", str(seconds), "--json"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as call:
            try:
                wait_for_calls(tmp_path)
                process.kill()
                killed = time.monotonic()
                figures = json.loads(call.communicate(timeout=150)[0])
                took = time.monotonic() - killed
            finally:
                call.kill()
    assert took_at_most(took, 8)
    assert call.returncode == 1
    assert "the peer is gone" in figures["ended"] or "gone silent" in figures["ended"]
    assert figures["failed"]


@pytest.mark.slow
def test_serve_runs_a_stream_of_ones_own(tmp_path):
    """`rtcflow serve module:stream` finds the module in the current directory; a full stream refuses in one line."""
    (tmp_path / "mine.py").write_text(
        "import rtcflow\n"
        "from rtcflow.demo import EchoHandler\n"
        "def authorize(caller):\n    raise rtcflow.NotAuthorized('members only', status=401)\n"
        "stream = rtcflow.Stream(EchoHandler(), authorize=authorize)\n"
    )
    with server(tmp_path, "serve", "mine:stream", "--port", "0") as (url, process):
        done = run("call", url, "--seconds", "1")
        assert done.returncode == 1
        assert done.stderr == f"rtcflow: {url}: members only\n"
        stop(process, tmp_path, within=LIMIT)


@pytest.mark.slow
def test_collections_of_garbage_are_short(tmp_path):
    """What exists before the first call is not looked through."""
    (tmp_path / "mine.py").write_text(
        "import gc\n"
        "async def app(scope, receive, send):\n"
        "    if scope['type'] == 'http':\n"
        "        await send({'type': 'http.response.start', 'status': 200, 'headers': []})\n"
        "        counts = f'{gc.get_freeze_count()} {len(gc.get_objects())}'\n"
        "        await send({'type': 'http.response.body', 'body': counts.encode()})\n"
    )
    with server(tmp_path, "serve", "mine:app", "--port", "0") as (url, process):
        frozen, others = map(int, httpx2.get(url, timeout=60).text.split())
        stop(process, tmp_path, within=LIMIT)
    assert frozen > 10 * others


@pytest.mark.slow
def test_the_log_of_serve_can_be_json(tmp_path):
    """Each line is one object; those of a WebRTC call name it, aioice's too, which come from the engine's thread."""
    (tmp_path / "mine.py").write_text(
        "import logging, rtcflow\n"
        "from rtcflow.demo import EchoHandler\n"
        "logging.getLogger('aioice').setLevel(logging.INFO)\n"
        "stream = rtcflow.Stream(EchoHandler(), authorize=lambda caller: 'ann')\n"
    )
    with server(tmp_path, "serve", "mine:stream", "--port", "0", "--log-format", "json") as (url, process):
        assert run("call", url, "--seconds", "1").returncode == 0
        log = stop(process, tmp_path, within=LIMIT)
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    assert [line for line in log.splitlines() if not line.startswith(("{", "Serving", "Ended"))] == []
    assert {"rtcflow.serving.session", "aioice.ice"} <= {line["logger"] for line in lines}
    for line in lines:
        assert (line.get("transport"), line.get("principal")) == ("webrtc", "ann"), line
    assert len({line["call"] for line in lines}) == 1


@pytest.mark.slow
def test_the_logging_of_the_application_is_left_alone(tmp_path):
    """An application with handlers of its own keeps them, and is told that --log-format does nothing."""
    (tmp_path / "mine.py").write_text(
        "import logging, rtcflow\n"
        "from rtcflow.demo import EchoHandler\n"
        "logging.basicConfig(level=logging.INFO, format='mine %(message)s')\n"
        "stream = rtcflow.Stream(EchoHandler())\n"
    )
    with server(tmp_path, "serve", "mine:stream", "--port", "0", "--log-format", "json") as (url, process):
        assert run("call", url, "--seconds", "1").returncode == 0
        log = stop(process, tmp_path, within=LIMIT)
    assert "rtcflow: --log-format has no effect: the application sets up logging" in log
    assert re.search("^mine webrtc call .* begins$", log, re.MULTILINE)


def make_speech(path) -> None:
    words = "The north wind and the sun were disputing."
    subprocess.run(["espeak-ng", "-w", str(path), words], check=True, timeout=150)


SERVERS = {
    "hypercorn on trio": ("rtcflow", ["serve", "rtcflow.demo:stream", "--port", "0", "--backend", "trio"]),
    "hypercorn on uvloop": ("rtcflow", ["serve", "rtcflow.demo:app", "--port", "0", "--backend", "asyncio"]),
    "uvicorn on asyncio": ("uvicorn", ["rtcflow.demo:app", "--port", "0", "--loop", "asyncio"]),
    "uvicorn on uvloop": ("uvicorn", ["rtcflow.demo:app", "--port", "0", "--loop", "uvloop"]),
}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
@pytest.mark.parametrize(
    "which",
    [
        "hypercorn on trio",
        "uvicorn on asyncio",
        *(pytest.param(name, marks=pytest.mark.nightly) for name in ("hypercorn on uvloop", "uvicorn on uvloop")),
    ],
)
def test_speech_comes_back_from_every_server(which, tmp_path):
    """Speech played into the demo comes back the same but for two Opus passes, whatever server and loop run it."""
    module, arguments = SERVERS[which]
    make_speech(tmp_path / "speech.wav")
    with server(tmp_path, *arguments, module=module) as (url, process):
        caller = ("--backend", "trio" if "trio" in which else "asyncio")
        for _ in range(5):  # a machine that is busy with other things may lose frames
            done = run("call", url, "--play", "speech.wav", "--record", "back.wav", "--json", *caller, cwd=tmp_path)
            assert done.returncode == 0, done.stderr
            figures = json.loads(done.stdout)
            if figures["correlation"] >= 0.85:
                break
        stop(process, tmp_path, within=10.0)  # how soon is the business of the test of the demo's end
    assert figures["correlation"] >= 0.85, figures
    assert 0 < figures["round_trip"] < 0.5
    assert figures["frames_received"] > 0.9 * figures["frames_sent"]
    assert (tmp_path / "back.wav").stat().st_size > 100_000


@pytest.mark.skipif(sys.platform != "linux", reason="where sockets inherit this from their listener")
def test_a_dead_network_is_noticed_by_the_system_within_ten_seconds():
    """Connections that `rtcflow serve` and `launch()` accept end when the other end answers neither data nor probes."""
    from rtcflow.serving.http_server import notice_dead_peers

    with socket.create_server(("127.0.0.1", 0)) as listener:
        notice_dead_peers(listener)
        with socket.create_connection(listener.getsockname()), listener.accept()[0] as accepted:
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)

            def option(name):
                return accepted.getsockopt(socket.IPPROTO_TCP, name)

            probes = option(socket.TCP_KEEPCNT) * option(socket.TCP_KEEPINTVL)
            assert option(socket.TCP_KEEPIDLE) + probes <= 10
            assert option(socket.TCP_USER_TIMEOUT) == 10_000


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_served_websockets_are_pinged(backend, monkeypatch):
    """Or a network that died would never be noticed by the system: nothing is sent to a silent client."""
    from rtcflow import cli

    seen = []

    async def serve(application, config, shutdown_trigger):
        seen.append(config.websocket_ping_interval)
        os.close(int(config.bind[0].removeprefix("fd://")))

    monkeypatch.setattr(f"hypercorn.{backend}.serve", serve)
    listener = socket.create_server(("127.0.0.1", 0))
    anyio.run(cli._serve, None, [], listener, cli.Backend(backend), cli._Deadline([]))
    assert seen == [20]


def test_the_version_is_printed():
    """`rtcflow --version` says the installed one, and nothing else."""
    done = run("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"rtcflow {rtcflow.__version__}\n", "")


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGTERM to catch")
def test_sigterm_before_the_server_is_ready_is_a_clean_end(tmp_path):
    """While the application is still being imported, too: exit code 0, and no traceback."""
    (tmp_path / "slow.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(60)\n")
    command = [sys.executable, "-m", "rtcflow", "serve", "slow:stream", "--port", "0"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "importing\n"
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=10 * LIMIT)
    assert (process.returncode, out, err) == (0, "Ended.\n", "")


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT"])
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGTERM to catch")
def test_a_signal_while_the_application_starts_is_a_clean_end(tmp_path, backend, number):
    """The event loop runs, and the lifespan of the application has begun: its own cleaning up happens."""
    (tmp_path / "slow.py").write_text(
        "import anyio, contextlib\n"
        "from starlette.applications import Starlette\n"
        "@contextlib.asynccontextmanager\n"
        "async def lifespan(app):\n"
        "    print('starting', flush=True)\n"
        "    try:\n"
        "        await anyio.sleep(60)\n"
        "        yield\n"
        "    finally:\n"
        "        print('cleaned up', flush=True)\n"
        "app = Starlette(lifespan=lifespan)\n"
    )
    command = [sys.executable, "-m", "rtcflow", "serve", "slow:app", "--port", "0", "--backend", backend]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while process.stdout.readline() != "starting\n":
            pass
        process.send_signal(signal.Signals[number])
        out, err = process.communicate(timeout=10 * LIMIT)
    assert (process.returncode, out.splitlines(), err) == (0, ["cleaned up", "Ended."], "")


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_signal_while_the_application_ends_its_start(backend, caplog):
    """In any step of the event loop: no error is told, and a lifespan that had begun ends as it does later."""
    from starlette.applications import Starlette

    from rtcflow import cli

    @asynccontextmanager
    async def lifespan(application):
        os.kill(os.getpid(), signal.SIGTERM)  # the loop hears of it some steps later
        for _ in range(application.state.steps):
            await anyio.sleep(0)
        yield
        await anyio.sleep(0)
        ended.append(application.state.steps)

    kind, ended = cli.Backend(backend), []
    for steps in range(10):
        deadline, listener = cli._Deadline([]), socket.create_server(("127.0.0.1", 0))
        number, served = listener.fileno(), Starlette(lifespan=lifespan)
        served.state.steps = steps
        with cli._sigterm_later():
            cli._run(kind, partial(cli._serve, served, [], listener, kind, deadline), serving=True)
        deadline.stop()
        with suppress(OSError):  # a server that has not begun leaves it to the end of the process
            os.close(number)
    assert 0 in ended
    assert 9 not in ended  # so all cases were there
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_worker_whose_supervisor_dies_while_it_starts(backend):
    """It ends as if the supervisor died later: it drains, and nothing is told as an error."""
    from starlette.applications import Starlette

    from rtcflow import cli

    (heard, ready), (life, kept) = os.pipe(), os.pipe()
    os.close(heard)
    os.close(kept)
    kind, deadline = cli.Backend(backend), cli._Deadline([])
    worker = cli.InheritedFiles(-1, ready, life)
    serve = partial(cli._serve, Starlette(), [], socket.create_server(("127.0.0.1", 0)), kind, deadline, None, worker)
    with cli._sigterm_later():
        cli._run(kind, serve, serving=True)
    deadline.stop()
    os.close(life)


def test_serving_keeps_the_logging_of_the_application(monkeypatch):
    """Handlers and levels that the application has set up stay; without any, the terminal gets the log."""
    from rtcflow import cli

    root, ours = logging.getLogger(), logging.getLogger("rtcflow")
    mine = logging.NullHandler()
    monkeypatch.setattr(root, "handlers", [mine])
    monkeypatch.setattr(ours, "level", logging.NOTSET)
    cli._log_to_terminal()
    assert root.handlers == [mine]
    assert ours.level == logging.NOTSET
    monkeypatch.setattr(root, "handlers", [])
    cli._log_to_terminal()
    assert len(root.handlers) == 1
    assert ours.level == logging.INFO
