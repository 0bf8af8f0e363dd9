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
async def test_a_nats_server_that_does_not_start_again_is_tried_again(tmp_path, monkeypatch, caplog):
    """Live calls need no NATS, so the supervisor must not end with it."""
    nats, started = LocalNats(tmp_path), []

    class Dead:
        async def wait(self):
            await anyio.lowlevel.checkpoint()
            return 137

    async def start():
        started.append(1)
        if len(started) < 3:
            raise ClusterError("the port is taken")
        nats._process = None  # the test is over

    nats._process = Dead()
    monkeypatch.setattr(nats, "start", start)
    monkeypatch.setattr(supervisor_module, "NATS_PAUSE", 0)
    with anyio.fail_after(30):
        await nats.keep()
    assert len(started) == 3
    assert caplog.text.count("the port is taken; trying again in 0 s") == 2
