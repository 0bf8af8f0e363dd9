"""What the application says with `handler.say`, between what `emit` gives.

Strategy: both go into one queue, `audio_out`. So only one of them may have the floor (`MediaLoops.floor`): `emit` takes
it for one item, and `say` for all that it plays. `emit` goes on being called, and waits with what it gives. Handing the
audio to the loop of `emit` would fail with handlers that block in `emit` until they have something.

The argument of `say` runs like the reply of a `ReplyOnPause` (`run_reply`). So it may be audio or a generator of any
kind, and stops in the same way. The invariant: after `clear_queue` nothing more of it leaves.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import numpy as np

from .._core.guard import failure_in
from ..handlers.base import Binding
from ..handlers.items import Emitted
from ..handlers.ledger import Heard, PlayoutLedger
from ..handlers.turns.reply import Chunk, ChunkQueue, Reply, run_reply
from ..handlers.turns.timeline import TurnTimeline
from .media_loops import MediaLoops

__all__ = ["Saying"]


class Saying:
    """Says one thing after the other, each to its end or until `stop`.

    Args:
        media: Has the floor, and the transport that carries the call.
        connection: Runs the generators, and knows how far playing has come.
    """

    def __init__(self, media: MediaLoops, connection: Binding) -> None:
        self._media, self._connection = media, connection
        self._stop: Callable[[], None] | None = None
        self._reply: Reply | None = None  # what is being said

    def stop(self) -> None:
        """Say no more of what is being said; from any thread."""
        if (stop := self._stop) is not None:
            self._connection.loop.call_soon_threadsafe(stop)

    async def say(self, item: object) -> Heard:
        """Play `item` after what `emit` gave so far; see `StreamHandlerBase.say`. A checkpoint."""
        if self._reply is not None:
            self._reply.check_may_wait(anyio.get_current_task())
        media, ledger = self._media, PlayoutLedger()
        try:
            await media.begun.wait()
            await media.floor.acquire()
            try:
                if media.speaks:
                    await self._play(item, ledger)
            except anyio.get_cancelled_exc_class():
                self._connection.clear_queue()
                raise
            finally:
                self._stop = None
                media.floor.release()
        except anyio.ClosedResourceError:
            pass  # the call is over: what was heard until then counts
        return ledger.heard()

    async def _play(self, item: object, ledger: PlayoutLedger) -> None:
        media, loop = self._media, self._connection.loop
        queue = ChunkQueue()
        self._reply = reply = Reply(TurnTimeline(0))
        with anyio.CancelScope() as playing:

            def stop() -> None:
                reply.interrupt(loop.time())
                queue.let_go()
                playing.cancel()

            self._stop = stop
            media.begin_aside()
            try:
                loop.create_task(self._make(reply, item, queue))
                while not (chunk := await queue.take()).last:
                    self._note(ledger, chunk)
                    if not await media.speak_aside(Emitted(chunk.audio, chunk.outputs, chunk.close)):
                        return
                    await media.wait_for_room()
                ledger.close()
                await self._connection.wait_played(math.inf)
            finally:
                stop()
                ledger.played(self._heard_to())

    async def _make(self, reply: Reply, item: object, queue: ChunkQueue) -> None:
        """The task that runs a generator; what it raises is raised by `say`."""

        async def made() -> object:
            return item

        async def in_thread(function: Callable[..., Any], *args: Any) -> Any:
            return await self._connection.run_sync("say", partial(function, *args))

        with reply.scope:
            try:
                await run_reply(reply, made, [], queue, in_thread)
                await queue.put(Chunk(reply, last=True))
            except (Exception, anyio.get_cancelled_exc_class()) as raised:
                if (error := failure_in(raised)) is None:
                    raise
                queue.fail(error)  # handed to the caller of `say`

    def _note(self, ledger: PlayoutLedger, chunk: Chunk) -> None:
        if chunk.audio is not None:
            playback = self._connection.playback()
            ledger.played(self._heard_to())
            ledger.begin(playback.played + playback.waiting)
            ledger.add(*chunk.audio, chunk.text)
        elif chunk.text:  # words that end with the sound before them
            ledger.add(1, np.empty((1, 0), np.int16), chunk.text)

    def _heard_to(self) -> float:
        playback = self._connection.playback()
        return playback.played if playback.confirmed is None else playback.confirmed
