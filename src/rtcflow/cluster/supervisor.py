"""The processes behind `rtcflow serve --workers N`: the workers, and a NATS server if none was named.

The supervisor listens once. The workers inherit the listening socket, and the system hands each connection to a worker
that is free. The supervisor itself serves nothing and imports no application. It starts workers, starts a new one where
one has died, passes signals on, and replaces the workers one after the other at SIGHUP.

Each worker has two pipes. Over one of them it says that it is ready. The other one ends when the supervisor dies, for
whatever reason, and then the worker stops, too. NATS reads no pipe. On Linux the system ends it with the supervisor.
On other systems it stays if the supervisor is killed by SIGKILL.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import anyio
import anyio.abc

from ..exceptions import ClusterError

logger: logging.Logger = logging.getLogger(__name__)

LONGEST_PAUSE: Final = 30.0
"""Seconds before a worker that fails again and again is started once more, at most."""

SETTLED: Final = 10.0
"""Seconds after which a worker that died counts as one that had worked."""

NATS_START: Final = 10.0
"""Seconds in which the NATS server must listen."""

NATS_PAUSE: Final = 1.0
"""Seconds before a NATS server that did not start again is started once more."""

TOKEN: Final = "RTCFLOW_NATS_TOKEN"  # noqa: S105
"""The environment variable with NATS's token: other users of the machine can read a command line."""


END_WITH_PARENT: Final = """
import ctypes, os, signal, sys
parent, *command = sys.argv[1:]
ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() != int(parent):
    sys.exit(1)
os.execv(command[0], command)
"""
"""A program that becomes another one, to which Linux sends SIGTERM when its parent dies: ``PR_SET_PDEATHSIG``, see
prctl(2). Relies on: the thread that starts it is the supervisor's main one, since the system looks at the thread."""


class LocalNats:
    """A NATS server of our own on loopback, with a token that nobody else knows.

    Args:
        folder: A folder that only we may read.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = -1
        self._process: anyio.abc.Process | None = None
        self.token: str = secrets.token_urlsafe(24)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"nats://127.0.0.1:{self._port}"

    async def start(self) -> None:
        """Start it, the second time on the same port.

        Raises:
            ClusterError: There is no server to start, or it does not start.
            OSError: The system makes no process, or no file.
        """
        binary = find_nats()
        settings = self._folder / "nats.conf"
        settings.write_text(
            f'host: "127.0.0.1"\nport: {self._port}\nports_file_dir: "{self._folder}"\n'
            f'authorization {{ token: "{self.token}" }}\nping_interval: "2s"\nping_max: 2\n',
            encoding="utf-8",
        )
        settings.chmod(0o600)
        command = [binary, "-c", str(settings)]
        if sys.platform == "linux":
            command = [sys.executable, "-I", "-S", "-c", END_WITH_PARENT, str(os.getpid()), *command]
        process = self._process = await anyio.open_process(
            command, stdin=None, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        with anyio.move_on_after(NATS_START):
            while process.returncode is None:
                if self._port < 0:
                    self._port = self._read_port(process.pid)
                with suppress(OSError):
                    if self._port > 0:
                        await (await anyio.connect_tcp("127.0.0.1", self._port)).aclose()
                        return
                await anyio.sleep(0.02)  # another program's start: it tells nobody
        if process.returncode is None:
            process.kill()
            raise ClusterError(f"the NATS server {binary} did not listen within {NATS_START:g} s")
        raise ClusterError(f"the NATS server {binary} did not start (exit status {process.returncode})")

    def _read_port(self, pid: int) -> int:
        for file in self._folder.glob(f"*_{pid}.ports"):
            if found := re.search(r'nats://127\.0\.0\.1:(\d+)"', file.read_text(encoding="utf-8")):  # or half written
                return int(found[1])
        return -1

    async def keep(self) -> None:
        """Start it again whenever it dies, and until it starts. Calls go on without it, so nothing ends here."""
        while self._process is not None:
            status = await self._process.wait()
            logger.warning("the NATS server died (exit status %s); starting it again", status)
            try:
                await self.start()
            except (ClusterError, OSError) as error:
                logger.error("%s; trying again in %g s", error, NATS_PAUSE)
                await anyio.sleep(NATS_PAUSE)

    async def stop(self) -> None:
        """End it."""
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            process.terminate()
            with anyio.move_on_after(2, shield=True):
                await process.wait()
            if process.returncode is None:
                process.kill()


def find_nats() -> str:
    """The program nats-server: the one that came with the extra ``cluster``, or one of the system's.

    Raises:
        ClusterError: No such program was found.
    """
    beside = Path(sysconfig.get_path("scripts")) / "nats-server"
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if found is None:
        raise ClusterError(
            "--workers needs nats-server; install rtcflow[cluster], or name a running one with --nats nats://host:4222"
        )
    return found


class _Keeper:
    """One worker after the other, until it is told to retire."""

    def __init__(self, command: Callable[[int, int, int], Sequence[str]], listener: socket.socket, life: int) -> None:
        self._command = command
        self._listener = listener
        self._life = life
        self._process: anyio.abc.Process | None = None
        self._retired = anyio.Event()
        self.ready = anyio.Event()
        self.over = anyio.Event()
        self.failed = False

    @property
    def is_retired(self) -> bool:
        """Whether it was told to retire."""
        return self._retired.is_set()

    def retire(self) -> None:
        """Have the worker drain and end; a second time, at once."""
        self._retired.set()
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)

    async def run(self) -> None:
        failures = 0
        try:
            while not self._retired.is_set():
                began = anyio.current_time()
                try:
                    ended = f"a worker died (exit status {await self._live()})"
                except OSError as error:  # the system makes no process now: calls of other workers go on
                    ended = f"a worker cannot be started ({error})"
                    if not self.ready.is_set():
                        logger.error("%s", ended)
                if self._retired.is_set():
                    return
                if not self.ready.is_set():
                    self.failed = True
                    return
                failures = 0 if anyio.current_time() - began > SETTLED else failures + 1
                pause = min(LONGEST_PAUSE, 0.1 * 2 ** min(failures, 9))
                logger.error("%s; starting another one in %g s", ended, pause)
                with anyio.move_on_after(pause):
                    await self._retired.wait()
        finally:
            self.over.set()

    async def _live(self) -> int:
        """Run one worker to its end; returns its exit status."""
        read, write = os.pipe()
        fds = (self._listener.fileno(), write, self._life)
        try:
            process = self._process = await anyio.open_process(
                self._command(*fds), stdin=subprocess.DEVNULL, stdout=None, stderr=None, pass_fds=fds,
                start_new_session=True,  # Ctrl-C comes to the supervisor alone
            )  # fmt: skip
            os.close(write)
            write = -1
            if self._retired.is_set():  # while the process was made
                process.terminate()
            try:
                await anyio.wait_readable(read)
                if os.read(read, 1):
                    self.ready.set()
                return await process.wait()
            finally:
                if process.returncode is None:
                    process.kill()
        finally:
            os.close(read)
            if write >= 0:
                os.close(write)


async def supervise(
    command: Callable[[int, int, int, str | None], Sequence[str]],
    workers: int,
    listener: socket.socket,
    *,
    nats: str | None = None,
    started: Callable[[], object] = lambda: None,
) -> int:
    """Run `workers` processes until SIGTERM or SIGINT, and replace them one by one at SIGHUP.

    Args:
        command: Makes a worker's command line. It gets three file descriptors and NATS's URL. The descriptors are the
            listening socket, the pipe on which the worker says that it is ready, and the pipe that ends with the
            supervisor.
        workers: How many.
        listener: The listening socket.
        nats: The URLs of NATS; None starts a server.
        started: Called when all workers are ready.

    Returns:
        The exit status: 1 if a worker never became ready.

    Raises:
        ClusterError: There is no NATS server to start, or it does not start.
    """
    life, kept = os.pipe()
    os.set_inheritable(life, True)
    stopping = anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    try:
        with TemporaryDirectory(prefix="rtcflow-") as folder, stopping as signals:
            local = LocalNats(Path(folder)) if nats is None else None
            if local is not None:
                await local.start()
                os.environ[TOKEN] = local.token
            try:
                url = nats if local is None else local.url
                supervisor = _Supervisor(lambda heard, ready, ends: command(heard, ready, ends, url), listener, life)
                return await supervisor.run(workers, local, signals, started)
            finally:
                if local is not None:
                    await local.stop()
    finally:
        os.close(life)
        os.close(kept)


class _Supervisor:
    def __init__(self, command: Callable[[int, int, int], Sequence[str]], listener: socket.socket, life: int) -> None:
        self._command = command
        self._listener = listener
        self._life = life
        self._keepers: list[_Keeper] = []
        self._stopping = False
        self._replacing = anyio.Lock()
        self._newest: _Keeper | None = None  # the one that a replacement waits for
        self._tasks: anyio.abc.TaskGroup

    async def run(
        self,
        workers: int,
        local: LocalNats | None,
        signals: AsyncIterator[signal.Signals],
        started: Callable[[], object],
    ) -> int:
        async with anyio.create_task_group() as self._tasks:
            if local is not None:
                self._tasks.start_soon(local.keep)
            self._tasks.start_soon(self._obey, signals)
            first = [self._begin() for _ in range(workers)]
            for keeper in first:
                await self._until_ready(keeper)
            failed = any(keeper.failed for keeper in first)
            if failed:
                self._stop()
            elif not self._stopping:
                started()
            while self._keepers:
                await self._keepers[0].over.wait()
                self._keepers = [keeper for keeper in self._keepers if not keeper.over.is_set()]
            self._tasks.cancel_scope.cancel()
        return int(failed)

    def _begin(self) -> _Keeper:
        keeper = _Keeper(self._command, self._listener, self._life)
        self._keepers.append(keeper)
        self._tasks.start_soon(keeper.run)
        return keeper

    async def _until_ready(self, keeper: _Keeper) -> None:
        """Wait until the worker is ready, or has ended."""
        async with anyio.create_task_group() as either:

            async def until(event: anyio.Event) -> None:
                await event.wait()
                either.cancel_scope.cancel()

            either.start_soon(until, keeper.ready)
            either.start_soon(until, keeper.over)

    def _stop(self) -> None:
        again, self._stopping = self._stopping, True
        for keeper in self._keepers:
            if again or not keeper.is_retired:  # those that are being replaced drain already
                keeper.retire()

    async def _obey(self, signals: AsyncIterator[signal.Signals]) -> None:
        async for number in signals:
            if number is not signal.SIGHUP:
                self._stop()
            elif not self._stopping:
                self._tasks.start_soon(self._replace_all)

    async def _replace_all(self) -> None:
        """Replace the workers one after the other: the new one is ready before the old one drains.

        A second SIGHUP waits for the first one. If the first one waits for a worker that is not ready yet, that worker
        is ended, since nobody knows whether it will ever be ready. Workers that drain already have been replaced.
        """
        if self._newest is not None and not self._newest.ready.is_set():
            self._newest.retire()
        async with self._replacing:
            for old in list(self._keepers):
                if self._stopping or old.is_retired or old.over.is_set():
                    continue
                new = self._newest = self._begin()
                await self._until_ready(new)
                if new.is_retired:  # by another signal
                    return
                if not new.ready.is_set():
                    logger.error("the new worker does not start: the old ones stay")
                    return
                old.retire()
            logger.info("all workers were replaced")
