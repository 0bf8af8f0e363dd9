"""One end of a link: its three states, its bounds, and that the first end counts; on each backend and from threads."""

from __future__ import annotations

import threading

import anyio
import numpy as np
import pytest

from rtcflow._core.link import AUDIO_BOUND, MESSAGE_BOUND, LinkEnd
from rtcflow._core.player import Player
from rtcflow.exceptions import RemoteProtocolError
from rtcflow.frames import AudioFormat, AudioFrame

pytestmark = pytest.mark.anyio


def make(**options):
    link = LinkEnd(Player(), **options)
    link.audio_out.open(AudioFormat(8000))
    return link


def silence(pts=0):
    return AudioFrame(np.zeros((1, 160), np.int16), 8000, pts)


async def raised(wait):
    """What a wait raises, and the cause it names."""
    with anyio.fail_after(120):
        try:
            await wait()
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
            return type(error), error.__cause__
    return None


async def test_a_goodbye_ends_every_queue_and_is_no_failure():
    """What waited can still be taken; nothing can be sent; wait_ended returns."""
    link = make()
    link.audio_in.put_nowait(silence())
    link.end()
    await link.audio_in.take()
    for flow in (link.audio_in, link.video_in, link.messages_in, link.video_out):
        assert await raised(flow.take) == (anyio.EndOfStream, None)
    with pytest.raises(anyio.ClosedResourceError):
        link.audio_out.put(silence())
    assert await raised(link.wait_ended) is None
    assert await raised(link.wait_connected) == (anyio.BrokenResourceError, None)


async def test_a_failure_is_told_to_all_who_wait():
    """Every wait names the error, and so does wait_ended."""
    link, error = make(), ConnectionError("gone")
    link.end(error)
    for wait in (link.audio_in.take, link.messages_in.take, link.wait_ended, link.wait_connected):
        assert await raised(wait) == (anyio.BrokenResourceError, error)


async def test_the_first_end_counts_and_closing_tops_it():
    """A later failure changes nothing; what this side closed says so, whatever came before."""
    link = make()
    link.end()
    link.end(ConnectionError("later"))
    assert link.error is None
    assert await raised(link.wait_ended) is None
    link.close()
    for wait in (link.wait_ended, link.wait_connected, link.audio_in.take, link.messages_in.take):
        assert await raised(wait) == (anyio.ClosedResourceError, None)


@pytest.mark.parametrize(("end", "kind"), [("end", anyio.BrokenResourceError), ("close", anyio.ClosedResourceError)])
async def test_who_waits_to_be_connected_is_let_go_by_an_end_in_another_thread(end, kind):
    """A link that ends before media could flow never will be connected."""
    link = make(connected=False)
    async with anyio.create_task_group() as tasks:
        found = []

        async def wait():
            found.append(await raised(link.wait_connected))

        tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        threading.Thread(target=getattr(link, end)).start()
    assert found == [(kind, None)]


async def test_media_is_dropped_oldest_first_and_messages_never():
    """50 frames wait, the latest picture, and 1000 messages; one message more is the peer's fault."""
    link = make()
    for pts in range(AUDIO_BOUND + 5):
        link.audio_in.put_nowait(silence(pts))
    assert (len(link.audio_in), (await link.audio_in.take()).pts) == (50, 5)
    assert link.video_in.bound == link.video_out.bound == 1
    for number in range(MESSAGE_BOUND):
        link.put_message(str(number))
    with pytest.raises(RemoteProtocolError, match="1000") as refused:
        link.put_message("one more")
    assert refused.value.close_code == 1008
    assert (len(link.messages_in), await link.messages_in.take()) == (1000, "0")
