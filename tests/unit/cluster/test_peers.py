"""Who is dead and who is only away, decided in virtual time over a NATS that the test plays."""

from __future__ import annotations

import anyio
import pytest

from rtcflow._engine.nats_link import NoListener
from rtcflow.cluster.ids import new_key
from rtcflow.cluster.members import PROTOCOL, SILENCE, Report
from rtcflow.cluster.peers import BEAT, RECONNECT, Peers
from rtcflow.cluster.pipe import GONE
from rtcflow.cluster.policy import Load

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend(virtual_backend):
    return virtual_backend


class Nats:
    """Knows who listens; a question to somebody else who is not gone has no answer in time."""

    is_joined = False

    def __init__(self):
        self.up_since = 0.0
        self.listening = set()
        self.hanging = set()

    async def request(self, subject, message, timeout):
        await anyio.lowlevel.checkpoint()
        name = subject.rpartition(".")[2]
        if name in self.hanging:
            await anyio.sleep(timeout)
            raise TimeoutError
        if name not in self.listening:
            raise NoListener
        return b""

    async def cut_off(self, node):
        """Its machine lost the network: it is silent for so long that it is no member any more."""
        self.hanging.add(node)
        await anyio.sleep(2 * SILENCE)

    def close_connection(self, node):
        """NATS has noticed, and closes the old connection."""
        self.hanging.discard(node)
        self.listening.discard(node)

    async def connects(self, node, seconds):
        """It connects again after so many seconds."""
        await anyio.sleep(seconds)
        self.listening.add(node)


def report(node):
    return Report(node, new_key(), PROTOCOL, "stream", "/a", 1e9, Load(0, 5))


@pytest.fixture
async def cluster():
    """A node that hears of three others for a while."""
    nats = Nats()
    peers = Peers("me", nats, "p")
    nats.listening |= {"a", "b", "c"}
    async with anyio.create_task_group() as tasks:

        async def beat():
            while True:
                for node in nats.listening - nats.hanging:
                    peers.heard(report(node))
                peers.look(tasks)
                await anyio.sleep(BEAT)

        tasks.start_soon(beat)
        await anyio.sleep(4 * BEAT)
        yield nats, peers
        tasks.cancel_scope.cancel()


async def test_a_killed_node_is_dead_at_once(cluster):
    """Also when it has been silent for so long that it is no member any more."""
    nats, peers = cluster
    nats.listening.discard("a")
    begin = anyio.current_time()
    assert await peers.is_dead("a")
    assert anyio.current_time() - begin < BEAT
    nats.listening.discard("b")
    await anyio.sleep(2 * SILENCE)
    assert "b" not in peers.members
    begin = anyio.current_time()
    assert await peers.is_dead("b")
    assert anyio.current_time() - begin < BEAT
    assert not await peers.is_dead("c")


async def test_a_node_that_was_cut_off_is_not_dead_while_it_comes_back(cluster):
    """NATS has closed its old connection, and its new one is not there yet."""
    nats, peers = cluster
    await nats.cut_off("a")
    assert "a" not in peers.members
    assert not await peers.is_dead("a")
    nats.close_connection("a")
    gone = []
    peers.watch("p.node.a", lambda: gone.append("a"))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(nats.connects, "a", SILENCE / 2)
        assert not await peers.is_dead("a")
    await anyio.sleep(SILENCE)
    assert "a" in peers.members
    assert not gone
    assert not await peers.is_dead("a")


async def test_a_node_that_never_comes_back_is_dead_in_the_end(cluster):
    """Its machine has lost its power: NATS notices that later than the silence. Then no other death waits for it."""
    nats, peers = cluster
    await nats.cut_off("a")
    nats.close_connection("a")
    begin = anyio.current_time()
    assert await peers.is_dead("a")
    assert BEAT < anyio.current_time() - begin <= SILENCE + BEAT
    await anyio.sleep(SILENCE)
    assert not peers.members.silent()
    nats.listening -= {"b"}
    begin = anyio.current_time()
    assert await peers.is_dead("b")
    assert anyio.current_time() - begin < BEAT


async def test_a_node_that_has_just_come_back_is_not_dead(cluster):
    """What it had sent arrives before NATS closes its old connection: it is a member to which nobody listens."""
    nats, peers = cluster
    await nats.cut_off("a")
    peers.heard(report("a"))
    nats.close_connection("a")
    assert "a" in peers.members
    gone = []
    peers.watch("p.node.a", lambda: gone.append("a"))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(nats.connects, "a", SILENCE / 2)
        assert await peers.deliver("p.node.a", b"", 1) == b""
        assert not await peers.is_dead("a")
    await anyio.sleep(SILENCE)
    assert not gone
    nats.listening.discard("a")
    await anyio.sleep(SILENCE)
    assert gone == ["a"]


async def test_a_node_is_dead_though_its_subject_is_there_for_a_moment_more(cluster):
    """NATS takes back the subjects of a dead node one after the other. A question on the way there has no answer."""
    nats, peers = cluster
    nats.hanging.add("a")
    begin = anyio.current_time()
    async with anyio.create_task_group() as tasks:

        async def take_back():
            await anyio.sleep(0.01)
            nats.close_connection("a")

        tasks.start_soon(take_back)
        assert await peers.is_dead("a")
    assert anyio.current_time() - begin < 2 * BEAT


async def test_a_node_whose_connection_breaks_is_not_dead(cluster):
    """It connects again at once."""
    nats, peers = cluster
    nats.listening.discard("a")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(nats.connects, "a", RECONNECT / 2)
        assert not await peers.is_dead("a")


async def test_a_node_that_is_known_to_have_gone_takes_nothing(cluster):
    nats, peers = cluster
    nats.listening.discard("a")
    begin = anyio.current_time()
    assert await peers.deliver("p.node.a", b"", 1) == GONE
    assert anyio.current_time() - begin < BEAT
