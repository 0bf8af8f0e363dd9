"""Recording a connection: taps on the transport's queues, an intake that they fill, and a worker thread that writes.

An `Intake` (`media.recording`) notes the frames, in the threads that bring them. Each `BATCH` seconds it wakes the
writer's thread, which takes the notes, places the frames on the timeline and writes a block. So a slow disk holds up
nothing. If `MOST` frames of a side wait for the writer, further ones are dropped. They are silence in the file, and all
that follows stays in place.
"""

from __future__ import annotations

import logging
import os
import random
import threading
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import anyio
import anyio.lowlevel
import av

from .._core.bridge import Event
from .._core.flow import Flow, Policy
from .._core.guard import is_for_the_process
from .._core.hooks import ask
from ..abc import Transport
from ..context import Context, shorten_id
from ..media.recording import BATCH, Intake, Mark
from .record_files import OPUS_RATES, RecordFile, check_suffix, open_record_file, takes_packets

logger: logging.Logger = logging.getLogger(__name__)

PICTURES: Final = 60
"""Pictures that may wait for the writer: 1 s of both sides at 30 per second, 27 MB at 640 x 480."""

_encoding = threading.Lock()
"""Held by the one writer of the process that encodes. More at a time would only wait for the interpreter's lock, and
make the media's thread wait for it. Nothing that may block, such as writing to a disk, is done meanwhile."""

RecordPath = str | os.PathLike[str]


class Recording:
    """One recording of a connection: what `Connection.record` returns."""

    def __init__(self, recorder: Any) -> None:
        self._recorder: FileRecorder = recorder

    def __repr__(self) -> str:
        return f"<Recording {self.path or '…'} {'closed' if self._recorder.is_closed else 'open'}>"

    @property
    def path(self) -> Path | None:
        """The file, or None as long as it is not known."""
        return self._recorder.path

    @property
    def made(self) -> bool:
        """Whether there is a file."""
        return self._recorder.made

    @property
    def is_open(self) -> bool:
        """Whether it records now."""
        return self._recorder.is_open

    @property
    def error(self) -> BaseException | None:
        """Why nothing more is written, or None. It was logged once. The file can be read up to there."""
        return self._recorder.error

    @property
    def dropped(self) -> int:
        """Frames that the disk was too slow for; 50 are 1 s of one side. They are silence in the file."""
        return self._recorder.dropped

    @property
    def marks(self) -> tuple[Mark, ...]:
        """Where audio was cleared before it left, as at a barge-in, in order. It is not in the file."""
        return self._recorder.marks

    def stop(self) -> None:
        """Record no more; the file is closed soon. From any thread; idempotent. The end of the call does the same."""
        self._recorder.stop()

    async def wait_closed(self) -> None:
        """Wait until the file is closed, after `stop` or the end of the call. Safe to cancel. A checkpoint."""
        await self._recorder.wait_closed()


class FileRecorder:
    """What makes one `Recording`: its taps, and the writer of its file.

    Attributes:
        recording: Its face for users; it says what the attributes mean.
        path: See there, as `error` and `made`.
    """

    def __init__(self, path: RecordPath | Callable[[Context], Any], context: Context) -> None:
        if not callable(path):
            path = Path(path)
            check_suffix(path)
        self.recording: Recording = Recording(self)
        self.path: Path | None = None
        self.error: BaseException | None = None
        self._wanted, self._context = path, context
        self._name = f"{context.transport} call {shorten_id(context.webrtc_id)}"
        self._due = Flow[None](1, Policy.DROP_OLDEST)  # the writer is to write
        self._slow = False
        self._pictures_waiting: deque[tuple[int, av.VideoFrame, float]] = deque()
        self._transport: Transport | None = None
        self._rate = 0
        self._intake: Intake | None = None
        self._takes_packets: bool | None = None  # whether the file is made of packets; not known at first
        self._attached = Event()  # or it never will be
        self._start = 0.0
        self._now = 0.0  # when it was detached
        self._closed = Event()
        self.made: bool = False
        self._pictures: list[Callable[[av.VideoFrame], None]] = []

    @property
    def marks(self) -> tuple[Mark, ...]:
        """See `Recording.marks`."""
        return () if self._intake is None else tuple(self._intake.marks)

    @property
    def dropped(self) -> int:
        """See `Recording.dropped`."""
        return 0 if self._intake is None else self._intake.dropped

    # -- from any thread

    @property
    def is_open(self) -> bool:
        """See `Recording.is_open`."""
        return self.made and not self._due.closed

    @property
    def is_closed(self) -> bool:
        """Whether nothing is written any more."""
        return self._closed.is_set()

    def stop(self) -> None:
        """See `Recording.stop`."""
        self._detach()
        self._due.end()
        self._attached.set()

    async def wait_closed(self) -> None:
        """See `Recording.wait_closed`."""
        await self._closed.wait()

    # -- the taps

    def attach(self, transport: Transport, rate: int) -> None:
        """Listen to `transport`, in place of the one before."""
        self._detach()
        if self._due.closed:
            return
        intake, clock = self._intake, transport.audio_out.clock
        if intake is None:
            self._rate = min((known for known in OPUS_RATES if known >= rate), default=OPUS_RATES[-1])
            self._start = clock()
            first = random.uniform(0, BATCH)  # calls that begin together are not written together  # noqa: S311
            self._intake = intake = Intake(clock, first, self._wake)
        intake.clock = clock
        self._transport = transport
        transport.audio_in.tap(intake.heard)
        transport.audio_out.tap(intake)
        self._attach_pictures()
        self._attach_packets()
        self._attached.set()
        if self._due.closed:  # `stop` came meanwhile, in another thread
            self._detach()

    def _attach_pictures(self) -> None:
        transport = self._transport
        if transport is not None and self.path is not None and self.path.suffix.lower() == ".mkv":
            self._pictures = [partial(self._shown, 0), partial(self._shown, 1)]
            for flow, tap in zip((transport.video_in, transport.video_out), self._pictures, strict=True):
                flow.tap(tap)

    def _attach_packets(self) -> None:
        transport, path = self._transport, self.path
        if transport is not None and self._intake is not None and path is not None and takes_packets(path):
            if self._takes_packets is None:
                self._takes_packets = transport.packets is not None
            if self._takes_packets:
                self._intake.packets = transport.packets

    def _detach(self) -> None:
        intake, transport, self._transport = self._intake, self._transport, None
        if transport is None or intake is None:
            return
        transport.audio_in.untap(intake.heard)
        transport.audio_out.untap(intake)
        intake.packets = None
        for flow, tap in zip((transport.video_in, transport.video_out), self._pictures, strict=False):
            flow.untap(tap)
        self._now = transport.audio_out.now

    def _wake(self) -> None:
        """Have the writer take what was noted. In the thread of the media."""
        if self.dropped and not self._slow:
            self._slow = True
            logger.error("%s: the disk is too slow for its recording; parts of it will be silent", self._name)
        self._due.put_nowait(None)

    def _shown(self, side: int, frame: av.VideoFrame) -> None:
        intake, waiting = self._intake, self._pictures_waiting
        if intake is not None and len(waiting) < PICTURES:
            waiting.append((side, frame, intake.clock() - self._start))
            if len(waiting) >= PICTURES // 4:
                self._wake()

    # -- the writer

    async def choose_path(self) -> bool:
        """Find out where to record; False if nothing is to be recorded. Errors are logged here."""
        await anyio.lowlevel.checkpoint()
        wanted = self._wanted
        try:
            if callable(wanted):
                wanted = await ask(wanted, self._context, abandon=True)
            if wanted is not None:
                wanted = Path(wanted)
                check_suffix(wanted)
        except BaseException as error:
            if is_for_the_process(error):
                raise
            # The application's, which may raise anything, also SystemExit: its call goes on, and so do all others.
            self._fail(error, "could not choose a file for its recording")
            return False
        if wanted is None:
            return False
        self.path = wanted
        self._attach_pictures()
        self._attach_packets()
        await self._attached.wait()
        return self._intake is not None

    def write(self) -> None:
        """Write until `stop`; in a worker thread."""
        path = self.path
        assert path is not None  # noqa: S101
        transport = self._transport
        video = (False, False) if transport is None else (transport.offer.receive_video, transport.offer.send_video)
        file: RecordFile | None = None
        try:
            packets = self._takes_packets = bool(self._takes_packets)  # `stop` may have come: what was noted counts
            file = open_record_file(path, self._rate, video=video, packets=packets)
            self.made = True
            self._write_all(file)
        except FileExistsError as error:
            self._fail(error, "is not recorded: the file exists already. Each call needs a name of its own")
        except Exception as error:  # the disk's, or an encoder's: the call goes on  # noqa: BLE001
            self._fail(error, "is not recorded any further" if self.made else "is not recorded")
        finally:
            self.abandon()
            self._pictures_waiting.clear()
            if self._intake is not None:
                self._intake.take()  # nobody writes them
            if file is not None:
                self._close_file(file)
            self._closed.set()

    def _write_all(self, file: RecordFile) -> None:
        timeline, pictures, intake, done = file.timeline(), self._pictures_waiting, self._intake, False
        assert intake is not None  # noqa: S101
        while not done:
            try:
                self._due.take_sync()
            except anyio.EndOfStream:  # `stop` came before
                done = True
            except anyio.ClosedResourceError:  # given up: the disk was too slow at the end
                return
            for _ in range(len(pictures)):  # not those that come meanwhile: the sound would wait for ever
                file.show(*pictures.popleft())
            blocks = timeline.finish(intake.take(self._now)) if done else timeline.place(intake.take())
            while (data := self._encode(file, blocks)) is not None:
                file.write(data)

    @staticmethod
    def _encode(file: RecordFile, blocks: Iterator[Any]) -> Any:
        """Make the next block, of a second at most, or return None after the last one."""
        with _encoding:
            block = next(blocks, None)
            return None if block is None else file.encode(block)

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
        """Take no more notes. From any thread; idempotent."""
        self._detach()
        self._due.close()

    def close(self) -> None:
        """Nothing is written any more, or ever was: tell those who wait."""
        self.abandon()
        self._closed.set()

    def give_up(self, seconds: float) -> None:
        """The writer did not end in time: leave it to itself."""
        if not self._closed.is_set():
            why = "the function that chooses its file has not returned" if self.path is None else "the disk hangs"
            logger.error("%s: its recording was not closed within %g s: %s", self._name, seconds, why)
            self.close()
