"""Bugs in rtcflow that the toolkit finds over rtcflow's own handlers and transports, and the kind of each bug."""

from __future__ import annotations

from mutations.plant import Edit, Mutant

KINDS = (
    "everything else: arithmetic, protocols, pictures",
    "state that copies share",
    "audio from before a clear",
    "assumptions about frames",
    "cleanup on one path",
    "waits that never end",
    "work after the end",
    "buffers written after they were handed over",
    "drift and gaps",
    "lost interruptions and wake-ups",
    "counters and slots",
    "errors and cancellations swallowed",
    "samples",
    "limits counted from the wrong moment",
)
"""The kinds of docs/find-a-bug.md, by their number."""

CHECKED = "tests/conformance/test_toolkit.py::test_handlers_keep_their_contract"
PROMISED = "tests/conformance/test_toolkit.py::test_transports_keep_their_promises"
EXPLORED = "tests/unit/testing/test_testing_explored.py"
LIVED = "tests/property/test_connection_machine.py::test_connections_live_through_anything"


TOLD = ("tests/property/test_connection_machine.py::test_stories_that_the_machine_tells_rarely",)
TOLD_OF_A_BOT = ("tests/property/test_connection_machine.py::test_stories_of_a_bot_that_the_machine_tells_rarely",)


def _checked(*handlers: str) -> tuple[str, ...]:
    return tuple(f"{CHECKED}[{handler}]" for handler in handlers)


def _promised(*pairs: str) -> tuple[str, ...]:
    return tuple(f"{PROMISED}[{pair}]" for pair in pairs)


def _explored(name: str) -> tuple[str, ...]:
    return (f"{EXPLORED}::{name}",)


def _lived(*handlers: str) -> tuple[str, ...]:
    return tuple(f"{LIVED}[{handler}]" for handler in handlers)


BY_TOOLS = (
    Mutant(
        "arguments-shared",
        "All handlers wait for the arguments of one.",
        (
            Edit(
                "handlers.base:StreamHandlerBase.__init__",
                "self.args_set: Event = Event()",
                "self.args_set: Event = globals().setdefault('_one', Event())",
            ),
        ),
        _checked("AsyncEcho"),
        kind=1,
    ),
    Mutant(
        "ends-share-a-queue",
        "Both ends of a pair, and all pairs, take the same messages.",
        (
            Edit(
                "_core.link:LinkEnd.__init__",
                "self.messages_in: Flow[str] = Flow(MESSAGE_BOUND, Policy.BLOCK)",
                "self.messages_in = globals().setdefault('_one', Flow(MESSAGE_BOUND, Policy.BLOCK))",
            ),
        ),
        _promised("memory-trio"),
        kind=1,
    ),
    Mutant(
        "clear-keeps-a-second",
        "A clear leaves what was queued first.",
        (Edit("media.playout:Playout.clear", "self._chunks.clear()", "[self._chunks.pop() for _ in range(1)]"),),
        _promised("memory-trio"),
        kind=2,
    ),
    Mutant(
        "clear-not-counted",
        "What was taken before a clear leaves after it.",
        (Edit("_core.player:Player.clear", "self.clears += 1", "pass"),),
        _explored("test_a_player_sends_nothing_stale"),
        kind=2,
    ),
    Mutant(
        "stale-frame-leaves",
        "What was taken before a clear is not looked at again before it is sent.",
        (Edit("_core.player:Player.drop_stale", "if self._clears_at_pop == self.clears:", "if True:"),),
        _explored("test_a_player_sends_nothing_stale"),
        kind=2,
    ),
    Mutant(
        "samples-cut-to-a-frame",
        "What is longer than a frame is cut on its way.",
        (
            Edit(
                "transports.memory:MemoryTransport._hear",
                "self.audio_in.put_nowait(frame)",
                "self.audio_in.put_nowait(AudioFrame(frame.samples[:, ::2], frame.sample_rate, frame.pts))",
            ),
        ),
        _promised("memory-trio"),
        kind=3,
    ),
    Mutant(
        "float-frames",
        "Frames are of another dtype.",
        (
            Edit(
                "transports.memory:MemoryTransport._hear",
                "self.audio_in.put_nowait(frame)",
                "self.audio_in.put_nowait(AudioFrame(frame.samples.astype('f4'), frame.sample_rate, frame.pts))",
            ),
        ),
        _promised("memory-trio"),
        kind=3,
    ),
    Mutant(
        "line-forgets-its-layout",
        "Frames of a line lose their first axis.",
        (
            Edit(
                "transports.line:LineTransport._hear",
                "AudioFrame(samples, self._hears",
                "AudioFrame(samples[0], self._hears",
            ),
        ),
        ("tests/unit/transports/test_line_transports.py",),
        kind=3,
    ),
    Mutant(
        "no-shutdown-after-an-error",
        "A handler that has raised is not shut down.",
        (
            Edit(
                "connection.connection:Connection._close",
                "if self._bound:  # otherwise",
                "if not self.errors:  # otherwise",
            ),
        ),
        _lived("AsyncEcho-trio"),
        kind=4,
    ),
    Mutant(
        "no-shutdown-before-the-call",
        "A handler whose caller is gone before the call is up is not shut down.",
        (
            Edit(
                "connection.connection:Connection._close",
                "if self._bound:  # otherwise",
                "if self._connected is not None:  # otherwise",
            ),
        ),
        (
            "tests/unit/connection/test_connection.py::"
            "test_a_handler_whose_caller_is_gone_before_the_call_is_up_is_shut_down",
        ),
        kind=4,
    ),
    Mutant(
        "timers-go-on",
        "What a handler started through its loop goes on after the end.",
        (Edit("connection.connection:Connection._close", "self._loop.close()", "pass"),),
        ("tests/unit/connection/test_loop.py::test_futures_are_cancelled_when_the_call_is_over",),
        kind=4,
    ),
    Mutant(
        "video-goes-on",
        "The clock of video is not stopped at the end.",
        (Edit("connection.media_loops:MediaLoops.close", "self._ticks.close()", "pass"),),
        _lived("Mirror-trio"),
        kind=4,
    ),
    Mutant(
        "end-wakes-nobody",
        "Whoever waits for a frame when its queue ends waits for ever.",
        (Edit("_core.flow:Flow._finish", "self._takers.wake_all()", "pass"),),
        _promised("memory-trio"),
        kind=5,
    ),
    Mutant(
        "room-at-the-end",
        "Whoever waits for room when the call ends waits for ever.",
        (Edit("_core.player:Player.end", "self._putters.wake_all()", "pass"),),
        _explored("test_a_player_lets_everybody_go_at_the_end"),
        kind=5,
    ),
    Mutant(
        "closed-event-wakes-nobody",
        "Whoever waits for arguments when the call ends waits for ever.",
        (Edit("_core.bridge:Event.close", "self._lot.wake_all()", "pass"),),
        _explored("test_an_event_that_is_closed_wakes_everybody"),
        kind=5,
    ),
    Mutant(
        "queue-not-closed",
        "A thread that takes frames is not told of the end.",
        (Edit("connection.connection:Connection._close", "transport.audio_in.close()", "pass"),),
        _lived("Echo-trio"),
        kind=6,
    ),
    Mutant(
        "waits-for-room-after-the-end",
        "A thread that waits for room in audio_out is not told of the end.",
        (Edit("connection.connection:Connection._close", "transport.audio_out.end()", "pass"),),
        _checked("LongText"),
        kind=5,
    ),
    Mutant(
        "tasks-outlive-the-call",
        "Tasks of the call are not waited for at its end.",
        (Edit("connection.connection:Connection._close", "await self._call.wind_up(timeouts.whole / 2)", "pass"),),
        ("tests/unit/connection/test_end_order.py",),
        kind=6,
    ),
    Mutant(
        "heard-and-written-to",
        "A frame is silenced after it was handed over.",
        (
            Edit(
                "transports.memory:MemoryTransport._hear",
                "self.audio_in.put_nowait(frame)",
                "self.audio_in.put_nowait(frame); frame.samples[:] = 0",
            ),
        ),
        _promised("memory-trio"),
        kind=7,
    ),
    Mutant(
        "played-and-written-to",
        "The handler's own array is not copied, and is changed when it is played.",
        (
            Edit("media.convert:as_pcm", "return shaped.copy()", "return shaped"),
            Edit(
                "connection.media_loops:MediaLoops._speak",
                "audio_out.put(voice.feed(samples, rate))",
                "audio_out.put(voice.feed(samples, rate)); samples.setflags(write=True); samples += 1",
            ),
        ),
        _checked("AsyncEcho"),
        kind=7,
    ),
    Mutant(
        "slots-a-little-long",
        "Each slot of playout is one sample longer than its audio.",
        (Edit("media.playout:Playout._set_slot", "slot * self.frame_size /", "slot * (self.frame_size + 1) /"),),
        ("tests/unit/media/test_playout.py::test_deadlines_do_not_drift",),
        kind=8,
    ),
    Mutant(
        "plays-at-nine-tenths",
        "Audio leaves slower than real time.",
        (Edit("media.playout:Playout._set_slot", "slot * self.frame_size /", "slot * 2 * self.frame_size /"),),
        _promised("memory-trio"),
        kind=8,
    ),
    Mutant(
        "idle-for-long",
        "A handler that has nothing to say is asked twice a second.",
        (Edit("connection.media_loops:IdleWait.next", "0.02)", "0.5)"),),
        ("tests/unit/connection/test_connection.py::test_an_emit_that_has_nothing_is_asked_again_within_a_frame",),
        kind=8,
    ),
    Mutant(
        "everything-at-once",
        "Audio is not paced.",
        (Edit("media.playout:Playout._set_slot", "slot * self.frame_size /", "0 * self.frame_size /"),),
        _promised("memory-trio"),
        kind=8,
    ),
    Mutant(
        "put-wakes-nobody",
        "Whoever waits for a frame does not see it come.",
        (Edit("_core.flow:Flow._try_put", "self._takers.wake_all()", "pass"),),
        _explored("test_a_full_flow_takes_one_after_the_other"),
        kind=9,
    ),
    Mutant(
        "take-wakes-no-putter",
        "Whoever waits for room in a queue does not see it.",
        (Edit("_core.flow:Flow._pop", "self._putters.wake_all()", "pass"),),
        _explored("test_a_full_flow_takes_one_after_the_other"),
        kind=9,
    ),
    Mutant(
        "played-wakes-nobody",
        "Whoever waits for room to speak does not see it.",
        (Edit("_core.player:Player._take_due", "self._putters.wake_all()", "pass"),),
        _explored("test_a_player_plays_everything_in_order"),
        kind=9,
    ),
    Mutant(
        "clear-wakes-nobody",
        "Whoever waits for room to speak does not see that the queue was cleared.",
        (Edit("_core.player:Player.clear", "self._putters.wake_all()", "pass"),),
        _explored("test_a_player_lets_everybody_go_when_it_is_cleared"),
        kind=9,
    ),
    Mutant(
        "cancelled-waiter-is-woken",
        "A task of trio that was cancelled is woken all the same.",
        (Edit("_core.bridge:_TrioWaiter._abort", "self._task = None", "pass"),),
        _explored("test_an_event_that_is_set_wakes_everybody"),
        kind=9,
    ),
    Mutant(
        "cancelled-future-is-resolved",
        "A task of asyncio that was cancelled is woken all the same.",
        (Edit("_core.bridge:_FutureWaiter._resolve", "if not self._future.done():", "if True:"),),
        _explored("test_an_event_that_is_set_wakes_everybody"),
        kind=9,
    ),
    Mutant(
        "event-looks-before-it-locks",
        "A thread that waits for an event goes to sleep although it is set.",
        (
            Edit(
                "_core.bridge:Event.wait_sync",
                "if self._flag:\n            return True\n        ",
                "",
            ),
        ),
        _explored("test_threads_and_tasks_wake_one_another"),
        kind=9,
    ),
    Mutant(
        "taker-stays-for-ever",
        "A take that was cancelled still counts as the one taker.",
        (Edit("_core.flow:Flow.take_in_a_row", "self._taking = False", "pass"),),
        _explored("test_a_flow_hands_over_everything_in_order"),
        kind=10,
    ),
    Mutant(
        "dropped-not-counted",
        "A frame that makes room for another one is counted nowhere.",
        (
            Edit(
                "_core.flow:Flow._try_put", "self._items.popleft()\n        self._dropped += 1", "self._items.popleft()"
            ),
        ),
        _promised("memory-trio"),
        kind=10,
    ),
    Mutant(
        "taken-not-counted",
        "Frames that were taken are counted nowhere.",
        (Edit("_core.flow:Flow._pop", "self._taken += 1", "pass"),),
        _promised("memory-trio"),
        kind=10,
    ),
    Mutant(
        "queued-counts-one-more",
        "Each piece of audio counts as one sample more than it has.",
        (Edit("media.playout:Playout.push", "self._queued += n", "self._queued += n + 1"),),
        _promised("memory-trio"),
        kind=10,
    ),
    Mutant(
        "outputs-counted-as-audio",
        "Statistics count what is no audio.",
        (Edit("connection.media_loops:MediaLoops._speak", "self.emitted += 1", "self.emitted += 2"),),
        _lived("AsyncEcho-trio"),
        kind=10,
    ),
    Mutant(
        "message-error-swallowed",
        "What on_message raises is lost, and the call goes on.",
        (
            Edit(
                "connection.connection:Connection._call_method",
                "await method(*args)",
                "with suppress(Exception):\n            await method(*args)",
            ),
        ),
        TOLD_OF_A_BOT,
        kind=11,
    ),
    Mutant(
        "error-taken-for-the-end",
        "What a handler raises is taken for the caller's goodbye.",
        (
            Edit(
                "connection.connection:Connection._failed",
                "isinstance(error, anyio.ClosedResourceError)",
                "isinstance(error, Exception)",
            ),
        ),
        TOLD,
        kind=11,
    ),
    Mutant(
        "last-sample-lost",
        "Each frame of a line loses its last sample.",
        (
            Edit(
                "transports.line:LineTransport._hear",
                "AudioFrame(samples, self._hears",
                "AudioFrame(samples[:, :-1] * 0, self._hears",
            ),
        ),
        ("tests/unit/transports/test_line_transports.py",),
        kind=12,
    ),
    Mutant(
        "two-frames-exchanged",
        "Samples of a frame come in the wrong order.",
        (
            Edit(
                "transports.memory:MemoryTransport._hear",
                "self.audio_in.put_nowait(frame)",
                "self.audio_in.put_nowait(AudioFrame(frame.samples[:, ::-1], frame.sample_rate, frame.pts * 0))",
            ),
        ),
        _promised("memory-trio"),
        kind=12,
    ),
    Mutant(
        "media-time-jumps",
        "Timestamps go back after ten frames.",
        (Edit("media.playout:Playout.pop", "self._frame += 1", "self._frame = (self._frame + 1) % 10"),),
        _promised("memory-trio"),
        kind=12,
    ),
    Mutant(
        "limit-in-half-seconds",
        "A time limit is over after twice its time.",
        (Edit("connection.connection:Connection._limit_time", "sleep(seconds)", "sleep(2 * seconds)"),),
        TOLD,
        kind=13,
    ),
    Mutant(
        "limit-counts-from-midnight",
        "A time limit counts from the loop's own beginning.",
        (
            Edit(
                "connection.connection:Connection._limit_time",
                "anyio.sleep(seconds)",
                "anyio.sleep_until(seconds)",
            ),
        ),
        TOLD,
        kind=13,
    ),
)
