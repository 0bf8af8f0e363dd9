"""The processes of `rtcflow serve --workers`; those that need real processes are in tests/cluster."""

from __future__ import annotations

from rtcflow.cluster.supervisor import LocalNats


def test_a_half_written_file_names_no_port(tmp_path):
    """NATS writes it while the supervisor reads."""
    nats, file = LocalNats(tmp_path), tmp_path / "nats-server_7.ports"
    for text in ("", '{"nats": [', '{"nats": ["nats://127.0.0.1:42'):
        file.write_text(text)
        assert nats._read_port(7) == -1
    file.write_text('{"nats": ["nats://127.0.0.1:4222"]}')
    assert nats._read_port(7) == 4222
