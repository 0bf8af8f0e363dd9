"""The processes of `rtcflow serve --workers`; those that need real processes are in tests/cluster."""

from __future__ import annotations

import signal
import socket

import anyio
import pytest

from rtcflow.cluster.supervisor import LocalNats, _Keeper, _Supervisor


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
