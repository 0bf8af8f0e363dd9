"""The processes of `rtcflow serve --workers`; those that need real processes are in tests/cluster."""

from __future__ import annotations

import signal
import socket

import anyio
import pytest

from rtcflow.cluster import supervisor as supervisor_module
from rtcflow.cluster.supervisor import LocalNats, _Keeper, _Supervisor
from rtcflow.exceptions import ClusterError


def test_a_half_written_file_names_no_port(tmp_path):
    """NATS writes it while the supervisor reads."""
    nats, file = LocalNats(tmp_path), tmp_path / "nats-server_7.ports"
    for text in ("", '{"nats": [', '{"nats": ["nats://127.0.0.1:42'):
        file.write_text(text)
        assert nats._read_port(7) == -1
    file.write_text('{"nats": ["nats://127.0.0.1:4222"]}')
    assert nats._read_port(7) == 4222


class Worker:
    """A process that notes what it is sent."""

    def __init__(self):
        self.signals = []

    def send_signal(self, number):
        self.signals.append(number)


@pytest.mark.anyio
async def test_the_first_signal_lets_workers_drain_that_are_being_replaced():
    """For such a worker it would be the second one, which ends its calls at once. The supervisor's second one does."""
    with socket.socket() as listener:
        supervisor = _Supervisor(lambda *_: (), listener, 0)
        keepers = [_Keeper(lambda *_: (), listener, 0) for _ in range(2)]
        workers = [Worker(), Worker()]
        for keeper, worker in zip(keepers, workers, strict=True):
            keeper._process = worker
        supervisor._keepers = keepers
        keepers[0].retire()

        async def signals():
            for sent in (1, 2):
                yield signal.SIGTERM
                await anyio.lowlevel.checkpoint()
                assert [len(worker.signals) for worker in workers] == [sent, sent]

        await supervisor._obey(signals())


def keepers_of(listener, count):
    """Keepers with workers that are ready, and note what they are sent."""
    keepers = [_Keeper(lambda *_: (), listener, 0) for _ in range(count)]
    for keeper in keepers:
        keeper._process = Worker()
        keeper.ready.set()
    return keepers


@pytest.mark.anyio
async def test_a_second_reload_leaves_workers_alone_that_drain_already(monkeypatch):
    """It replaces the new workers, once. A second signal would end the calls of the old ones at once."""
    with socket.socket() as listener:
        supervisor = _Supervisor(lambda *_: (), listener, 0)
        supervisor._keepers = keepers_of(listener, 2)

        def begin():
            supervisor._keepers += keepers_of(listener, 1)
            return supervisor._keepers[-1]

        async def signals():
            yield signal.SIGHUP
            yield signal.SIGHUP

        monkeypatch.setattr(supervisor, "_begin", begin)
        async with anyio.create_task_group() as supervisor._tasks:
            await supervisor._obey(signals())
        sent = [keeper._process.signals for keeper in supervisor._keepers]
    assert sent == 4 * [[signal.SIGTERM]] + 2 * [[]]


@pytest.mark.anyio
async def test_a_second_reload_does_not_wait_for_a_worker_that_is_never_ready(monkeypatch):
    """The first one has begun it. It may wait for a database that is away, and the second one is to cure that."""
    with socket.socket() as listener:
        supervisor = _Supervisor(lambda *_: (), listener, 0)
        supervisor._keepers = keepers_of(listener, 2)

        def begin():
            (keeper,) = keepers_of(listener, 1)
            if len(supervisor._keepers) == 2:
                keeper.ready = anyio.Event()
                monkeypatch.setattr(keeper._process, "send_signal", lambda _: keeper.over.set())
            supervisor._keepers.append(keeper)
            return keeper

        async def signals():
            for _ in range(2):
                yield signal.SIGHUP
                await anyio.wait_all_tasks_blocked()
            supervisor._tasks.cancel_scope.cancel()

        monkeypatch.setattr(supervisor, "_begin", begin)
        async with anyio.create_task_group() as supervisor._tasks:
            await supervisor._obey(signals())
        assert supervisor._keepers[2].over.is_set()
        sent = [keeper._process.signals for keeper in supervisor._keepers]
    assert sent == [[signal.SIGTERM], [signal.SIGTERM], [], [], []]


@pytest.mark.anyio
async def test_a_worker_that_cannot_be_started_again_is_tried_again(monkeypatch, caplog):
    """The system may have no process for it. Other workers have calls, so nothing ends, not even after a night."""
    with socket.socket() as listener:
        keeper, lives = _Keeper(lambda *_: (), listener, 0), []

        async def live():
            lives.append(1)
            await anyio.lowlevel.checkpoint()
            if len(lives) == 1100:
                keeper.retire()
            if len(lives) % 2:
                raise BlockingIOError("no process can be made")
            return 1

        keeper.ready.set()
        monkeypatch.setattr(keeper, "_live", live)
        monkeypatch.setattr(supervisor_module, "LONGEST_PAUSE", 0)
        await keeper.run()
    assert len(lives) == 1100
    assert not keeper.failed
    assert "a worker cannot be started (no process can be made); starting another one in 0 s" in caplog.text


@pytest.mark.anyio
async def test_a_first_worker_that_cannot_be_started_has_failed(caplog):
    """At a reload the old ones stay."""
    with socket.socket() as listener:
        keeper = _Keeper(lambda *_: ("/nowhere/python",), listener, listener.fileno())
        await keeper.run()
    assert keeper.failed
    assert keeper.over.is_set()
    assert caplog.text.count("a worker cannot be started") == 1


@pytest.mark.anyio
async def test_a_nats_server_that_never_listens_is_ended(tmp_path, monkeypatch):
    """Otherwise it would be there beside the one that is started next."""
    (program := tmp_path / "nats-server").write_text("#!/bin/sh\nexec sleep 1000\n")
    program.chmod(0o700)
    monkeypatch.setattr(supervisor_module, "find_nats", lambda: str(program))
    monkeypatch.setattr(supervisor_module, "NATS_START", 0.2)
    nats = LocalNats(tmp_path)
    with pytest.raises(ClusterError, match=r"did not listen within 0\.2 s"):
        await nats.start()
    with anyio.fail_after(120):
        assert await nats._process.wait() != 0


@pytest.mark.parametrize("error", [ClusterError, OSError])
@pytest.mark.anyio
async def test_a_nats_server_that_does_not_start_again_is_tried_again(tmp_path, monkeypatch, caplog, error):
    """Live calls need no NATS, so the supervisor must not end with it."""
    nats, started = LocalNats(tmp_path), []

    class Dead:
        async def wait(self):
            await anyio.lowlevel.checkpoint()
            return 137

    async def start():
        started.append(1)
        if len(started) < 3:
            raise error("the port is taken")
        nats._process = None  # the test is over

    nats._process = Dead()
    monkeypatch.setattr(nats, "start", start)
    monkeypatch.setattr(supervisor_module, "NATS_PAUSE", 0)
    with anyio.fail_after(120):
        await nats.keep()
    assert len(started) == 3
    assert caplog.text.count("the port is taken; trying again in 0 s") == 2
