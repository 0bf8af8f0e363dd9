"""Recording a connection: taps on the transport's queues, a bounded queue, and a worker thread that writes.

A tap only notes the frame and the time, in the thread that brings the frame. Each `BATCH` of notes goes to the writer's
thread, which places them on the timeline (`media.recording`) and writes the blocks. So a frame wakes nobody, and a slow
disk holds up nothing. If more than `BOUND` batches wait, further ones are dropped. They are silence in the file, and
all that follows stays in place.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import anyio
import av

from .._core.bridge import Event
from .._core.flow import Flow, Policy
from .._core.hooks import ask
from ..abc import Transport
from ..context import Context, shorten_id
from ..frames import AudioFrame
from ..media.recording import Mark, Timeline
from .record_files import OPUS_RATES, RecordFile, check_suffix, open_record_file

logger = logging.getLogger(__name__)

BATCH: Final = 100
"""Notes that are handed over together: 1 s of a call."""

BOUND: Final = 30
"""Batches that may wait for a slow disk: 30 s."""

PICTURES: Final = 10
"""Batches that may wait before pictures are left out."""

RecordPath = str | os.PathLike[str]


class _Note(NamedTuple):
    kind: str  # "heard", "left", "cleared" or "shown"
    what: Any
    at: float
    side: int = 0


class Recording:
    """One recording of a connection, from `Connection.record` to its file.

    Attributes:
        path: The file, or None as long as it is not known.
        error: Why nothing more is written, or None. It was logged once. The file can be read up to there.
        marks: Where audio was cleared before it left, as at a barge-in. It is not in the file.
        made: Whether there is a file.
        dropped: Notes that the disk was too slow for; about 100 are 1 s.
    """

    def __init__(self, path: RecordPath | Callable[[Context], Any], context: Context) -> None:
        if not callable(path):
            path = Path(path)
            check_suffix(path)
        self.path: Path | None = None
        self.error: BaseException | None = None
        self.dropped = 0
        self._wanted, self._context = path, context
        self._name = f"{context.transport} call {shorten_id(context.webrtc_id)}"
        self._lock = threading.Lock()
        self._batch: list[_Note] = []
        self._batches = Flow[list[_Note]](BOUND, Policy.BLOCK)
        self._transport: Transport | None = None
        self._rate = 0
        self._timeline: Timeline | None = None
        self._start = 0.0
        self._now = 0.0  # when it was detached
        self._closed = Event()
        self.made: bool = False
        self._pictures: list[Callable[[av.VideoFrame], None]] = []

    def __repr__(self) -> str:
        return f"<Recording {self.path or '…'} {'closed' if self._closed.is_set() else 'open'}>"

    @property
    def marks(self) -> tuple[Mark, ...]:
        """Where audio was cleared, in order."""
        return () if self._timeline is None else tuple(self._timeline.marks)

    # -- from any thread

    def stop(self) -> None:
        """Record no more; the file is closed soon. Idempotent. The end of the call does the same."""
        self._detach()
        with self._lock:
            self._hand_over()
            self._batches.end()

    async def wait_closed(self) -> None:
        """Wait until the file is closed, after `stop` or the end of the call. Safe to cancel."""
        await self._closed.wait()

    # -- the taps

    def attach(self, transport: Transport, rate: int) -> None:
        """Listen to `transport`, in place of the one before."""
        self._detach()
        if self._batches.closed:
            return
        if not self._rate:
            self._rate = min((known for known in OPUS_RATES if known >= rate), default=OPUS_RATES[-1])
            self._start = transport.audio_out.now
        self._transport = transport
        transport.audio_in.tap(self._heard)
        transport.audio_out.tap(self)
        self._attach_pictures()

    def _attach_pictures(self) -> None:
        transport = self._transport
        if transport is not None and self.path is not None and self.path.suffix.lower() == ".mkv":
            self._pictures = [partial(self._shown, 0), partial(self._shown, 1)]
            for flow, tap in zip((transport.video_in, transport.video_out), self._pictures, strict=True):
                flow.tap(tap)

    def _detach(self) -> None:
        transport, self._transport = self._transport, None
        if transport is None:
            return
        transport.audio_in.untap(self._heard)
        transport.audio_out.untap(self)
        for flow, tap in zip((transport.video_in, transport.video_out), self._pictures, strict=False):
            flow.untap(tap)
        self._now = transport.audio_out.now

    def _heard(self, frame: AudioFrame) -> None:
        transport = self._transport
        if transport is not None:
            self._note(_Note("heard", frame, transport.audio_out.now))

    def left(self, due: Any, now: float) -> None:
        """Note a frame that has left."""
        self._note(_Note("left", due, now))

    def cleared(self, now: float, seconds: float) -> None:
        """Note that waiting audio was cleared."""
        self._note(_Note("cleared", seconds, now))

    def _shown(self, side: int, frame: av.VideoFrame) -> None:
        transport = self._transport
        if transport is not None and len(self._batches) < PICTURES:
            self._note(_Note("shown", frame, transport.audio_out.now, side))

    def _note(self, note: _Note) -> None:
        with self._lock:
            self._batch.append(note)
            if len(self._batch) >= BATCH:
                self._hand_over()

    def _hand_over(self) -> None:
        batch, self._batch = self._batch, []
        try:
            if batch:
                self._batches.put_nowait(batch)
        except anyio.WouldBlock:
            if not self.dropped:
                logger.error("%s: the disk is too slow for its recording; parts of it will be silent", self._name)
            self.dropped += len(batch)

    # -- the writer

    async def choose_path(self) -> bool:
        """Find out where to record; False if nothing is to be recorded. Errors are logged here."""
        wanted = self._wanted
        try:
            if callable(wanted):
                wanted = await ask(wanted, self._context, abandon=True)
            if wanted is not None:
                wanted = Path(wanted)
                check_suffix(wanted)
        except Exception as error:  # the application's: its call goes on  # noqa: BLE001
            self._fail(error, "could not choose a file for its recording")
            return False
        if wanted is None:
            return False
        self.path = wanted
        self._attach_pictures()
        return True

    def write(self) -> None:
        """Write until `stop`; in a worker thread."""
        path = self.path
        assert path is not None  # noqa: S101
        transport = self._transport
        video = (False, False) if transport is None else (transport.offer.receive_video, transport.offer.send_video)
        file: RecordFile | None = None
        try:
            file = open_record_file(path, self._rate, video=video)
            self.made = True
            self._write_all(file)
        except FileExistsError as error:
            self._fail(error, "is not recorded: the file exists already. Each call needs a name of its own")
        except Exception as error:  # the disk's, or an encoder's: the call goes on  # noqa: BLE001
            self._fail(error, "is not recorded any further" if self.made else "is not recorded")
        finally:
            self.abandon()
            if file is not None:
                self._close_file(file)
            self._closed.set()

    def _write_all(self, file: RecordFile) -> None:
        timeline = self._timeline = Timeline(self._rate, self._start)
        while True:
            try:
                batch = self._batches.take_sync()
            except anyio.EndOfStream:
                break
            except anyio.ClosedResourceError:  # given up: the disk was too slow at the end
                return
            for kind, what, at, side in batch:
                if kind == "heard":
                    timeline.heard(what, at)
                elif kind == "left":
                    timeline.left(what, at)
                elif kind == "cleared":
                    timeline.cleared(at, what)
                else:
                    file.show(side, what, at - self._start)
            block = timeline.take()
            if block.shape[1]:
                file.write(block)
        rest = timeline.finish(self._now)
        for begin in range(0, rest.shape[1], self._rate):
            file.write(rest[:, begin : begin + self._rate])

    def _close_file(self, file: RecordFile) -> None:
        try:
            file.close()
        except Exception as error:  # as above  # noqa: BLE001
            self._fail(error, "is not recorded to its end")

    def _fail(self, error: BaseException, words: str) -> None:
        if self.error is None:  # what follows from the first one is not worth a second
            self.error = error
            where = "" if self.path is None else f" ({self.path})"
            if isinstance(error, OSError | av.FFmpegError | ValueError):
                logger.error("%s %s%s: %s", self._name, words, where, error)
            else:
                logger.error("%s %s%s", self._name, words, where, exc_info=error)

    def abandon(self) -> None:
        """Take no more notes, and forget those that wait. From any thread; idempotent."""
        self._detach()
        self._batches.close()

    def close(self) -> None:
        """Nothing is written any more, or ever was: tell those who wait."""
        self.abandon()
        self._closed.set()

    def give_up(self, seconds: float) -> None:
        """The writer did not end in time: leave it to itself."""
        if not self._closed.is_set():
            logger.error("%s: its recording was not closed within %g s: the disk hangs", self._name, seconds)
            self.close()
