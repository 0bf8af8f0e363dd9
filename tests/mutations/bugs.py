"""The planted bugs: what goes wrong in live audio, in other people's code and in drafts of this."""

from __future__ import annotations

from pathlib import Path

from mutations.by_tools import BY_TOOLS, TOLD_OF_A_BOT
from mutations.plant import Edit, Mutant


def _unit(file: str, *names: str) -> tuple[str, ...]:
    (path,) = Path(__file__).parents[1].glob(f"unit/**/test_{file}.py")
    return tuple(f"tests/{path.relative_to(Path(__file__).parents[1]).as_posix()}::{name}" for name in names)


def _lives(*handlers: str) -> tuple[str, ...]:
    """The lifecycle machine over these handlers of its test."""
    test = "tests/property/test_connection_machine.py::test_connections_live_through_anything"
    return tuple(f"{test}[{handler}]" for handler in handlers)


MUTANTS = (
    # -- a connection's life
    Mutant(
        "shutdown-twice",
        "A connection calls its handler's shutdown a second time.",
        (
            Edit(
                "connection.connection:Connection._call_shutdown",
                "await _call_shutdown(self.handler, self._crew)",
                "await _call_shutdown(self.handler, self._crew); await _call_shutdown(self.handler, self._crew)",
            ),
        ),
        _lives("Bot-trio"),
        kind=4,
    ),
    Mutant(
        "shutdown-skipped-on-cancel",
        "A connection that is cancelled does not call its handler's shutdown.",
        (
            Edit(
                "connection.connection:Connection._close",
                "if self._bound:  # otherwise",
                "if self.end.cause is not EndCause.CANCELLED:  # otherwise",
            ),
        ),
        _unit("connection", "test_cancelling_ends_it_in_order"),
        kind=4,
    ),
    Mutant(
        "emit-while-running",
        "emit is called again while it still runs.",
        (
            Edit(
                "connection.media_loops:MediaLoops._begin_in",
                "for method, loop in loops.items():",
                "for method, loop in [*loops.items(), *((m, l) for m, l in loops.items() if m == 'emit')]:",
            ),
        ),
        _lives("Bot-trio", "Echo-trio"),
        kind=6,
    ),
    Mutant(
        "receive-overlapping",
        "receive is called with the next frame before it is done with the last.",
        (
            Edit(
                "connection.media_loops:MediaLoops._receive",
                "await self._handler.receive((heard.sample_rate, samples))",
                "self._handler.loop.create_task(self._handler.receive((heard.sample_rate, samples)))",
            ),
        ),
        _unit("connection", "test_a_slow_receive_hears_one_frame_at_a_time"),
        kind=6,
    ),
    Mutant(
        "call-after-shutdown",
        "A worker thread begins another call of the handler after its shutdown.",
        (Edit("_core.threads:Crew.call", "if self._stopping and not job.last:", "if False:"),),
        _unit("threads", "test_no_call_begins_after_stop"),
        kind=6,
    ),
    Mutant(
        "cancellation-swallowed",
        "Whoever runs a connection and is cancelled goes on as if nothing had been.",
        (
            Edit(
                "connection.connection:Connection.serve",
                "    finally:\n        reset_current_context(token)",
                "    except anyio.get_cancelled_exc_class():\n        pass\n"
                "    finally:\n        reset_current_context(token)",
            ),
            Edit("serving.session:Session.serve", "await anyio.lowlevel.checkpoint_if_cancelled()", "pass"),
        ),
        TOLD_OF_A_BOT,
        kind=11,
    ),
    Mutant(
        "last-cause-wins",
        "What happens while a connection closes overwrites the reason for its end.",
        (Edit("connection.connection:Connection._finish", "if self.end is not None:", "if False:"),),
        _unit("connection", "test_the_time_limit_ends_the_call"),
        kind=11,
    ),
    Mutant(
        "time-limit-ignored",
        "A connection with a time limit goes on for ever.",
        (Edit("connection.connection:Connection._begin_call", "if self._time_limit is not None:", "if False:"),),
        _unit("connection", "test_the_time_limit_ends_the_call"),
        kind=13,
    ),
    Mutant(
        "close-stream-drops-audio",
        "CloseStream throws away the audio that was emitted before it.",
        (
            Edit(
                "connection.connection:Connection._close", "if self.end.cause is EndCause.HANDLER_CLOSED:", "if False:"
            ),
        ),
        _unit("connection", "test_close_stream_plays_what_is_queued_then_says_goodbye"),
        kind=4,
    ),
    Mutant(
        "frames-after-close",
        "A handler that is still in emit when its connection ends gets its audio onto the line.",
        (Edit("_core.player:Player.end", "self._ended = True", "pass"),),
        _unit("player", "test_nothing_is_put_after_the_end"),
        kind=6,
    ),
    Mutant(
        "message-before-open",
        "A message that is sent before the peer's channel is open does not wait for it.",
        (Edit("connection.connection:Connection.send_message", "await self._messages_open.wait()", "pass"),),
        _unit("connection", "test_a_message_waits_for_the_channel"),
        kind=6,
    ),
    # -- what handlers raise and put out
    Mutant(
        "error-swallowed",
        "What a handler raises does not reach whoever runs its connection.",
        (Edit("connection.connection:Connection.run", "raise _together(self.errors)", "pass"),),
        _unit("connection", "test_what_a_handler_raises_ends_the_connection_and_arrives_bare"),
        kind=11,
    ),
    Mutant(
        "error-not-told",
        "The peer is not told that the handler failed.",
        (Edit("connection.connection:Connection._say_why", "self._tell(messages.Error(text))", "pass"),),
        _unit("connection", "test_what_a_handler_raises_ends_the_connection_and_arrives_bare"),
        kind=11,
    ),
    Mutant(
        "exception-leaked",
        "Strangers are told the text of exceptions without debug.",
        (
            Edit(
                "connection.connection:Connection._say_why",
                "if self._debug and self.end.error else",
                "if self.end.error else",
            ),
        ),
        _unit("connection", "test_what_a_handler_raises_ends_the_connection_and_arrives_bare"),
    ),
    Mutant(
        "outputs-lost",
        "AdditionalOutputs beside audio are lost.",
        (
            Edit(
                "connection.media_loops:MediaLoops._speak",
                "if emitted.outputs is not None:",
                "if emitted.outputs is not None and emitted.audio is None:",
            ),
        ),
        _lives("Bot-trio"),
        kind=10,
    ),
    Mutant(
        "none-floods",
        "An emit that always returns None is called as fast as the processor can.",
        (Edit("connection.media_loops:IdleWait.next", "return self._wait", "return 0.0"),),
        _unit("connection", "test_an_emit_that_always_returns_none_costs_little"),
        kind=8,
    ),
    Mutant(
        "emit-not-held-back",
        "A handler that emits faster than real time fills the memory.",
        (Edit("_core.player:Player._has_room", "if self._playout.queued_seconds < self._most_waiting:", "if True:"),),
        _unit("connection", "test_an_emit_faster_than_real_time_is_held_back"),
        kind=8,
    ),
    Mutant(
        "clear-queue-clears-nothing",
        "clear_queue says how much waits, and lets it play on.",
        (
            Edit(
                "connection.connection:Connection.clear_queue",
                "self.transport.clear_audio()",
                "self.transport.audio_out.queued_seconds",
            ),
        ),
        _unit("connection", "test_clear_queue_takes_effect_at_once"),
        kind=2,
    ),
    # -- admission
    Mutant(
        "refused-without-shutdown",
        "The handler that was copied for a call which then fails is never shut down.",
        (
            Edit(
                "serving.calls:Calls._drop",
                "await shut_down(session.handler, self.options.timeouts.shutdown, workers=self.threads, owner=owner)",
                "pass",
            ),
        ),
        _unit("stream", "test_a_transport_that_cannot_be_opened_gives_everything_back"),
        kind=4,
    ),
    Mutant(
        "slot-kept-on-refusal",
        "A call whose transport cannot be opened keeps its slot.",
        (Edit("serving.calls:Calls._drop", "self._release(session)", "pass"),),
        _unit("stream", "test_a_transport_that_cannot_be_opened_gives_everything_back"),
        kind=10,
    ),
    Mutant(
        "threads-kept",
        "The worker threads reserved for a call stay reserved after its end.",
        (Edit("serving.calls:Calls._release", "self.threads.release(threads_needed(self.options.handler))", "pass"),),
        _unit("stream", "test_worker_threads_come_back_with_the_slot"),
        kind=10,
    ),
    Mutant(
        "limit-off-by-one",
        "One caller more than the limit is let in.",
        (
            Edit(
                "serving.calls:Calls._check_free",
                "len(self._sessions) >= limit",
                "len(self._sessions) > limit",
            ),
        ),
        _unit("stream", "test_the_limit_is_exact_and_names_itself"),
        kind=10,
    ),
    Mutant(
        "id-taken-over",
        "A second caller under the id of a live call takes its place.",
        (Edit("serving.calls:Calls._check_free", "if webrtc_id in self._sessions:", "if False:"),),
        _unit("stream", "test_a_live_id_cannot_be_taken_over"),
        kind=10,
    ),
    # -- threads and tasks
    Mutant(
        "left-thread-watched-for-ever",
        "Virtual time stands when a worker thread ends in the very moment it is left.",
        (Edit("_core.threads:Crew.run", "over = self._leave(job)", "self._leave(job); over = job.done.is_set()"),),
        _unit("threads", "test_a_thread_that_ends_in_the_moment_it_is_left_is_watched_no_more"),
        kind=9,
    ),
    Mutant(
        "thread-left-behind",
        "A thread that waits in queue.get() for ever is not got back.",
        (Edit("_core.threads:Crew.join", "self._interrupt()", "return []"),),
        _unit("threads", "test_a_thread_that_waits_in_queue_get_comes_back"),
        kind=5,
    ),
    Mutant(
        "context-not-in-threads",
        "Worker threads do not know whose call they serve.",
        (Edit("_core.threads:Crew._work", "= function()", "= contextvars.Context().run(function)"),),
        _unit("connection", "test_the_handler_sees_its_context_in_every_method"),
        kind=1,
    ),
    Mutant(
        "event-lost",
        "A clear between set and wake-up puts the waiter back to sleep.",
        (
            Edit(
                "_core.bridge:Event.wait",
                "await self._lot.park()",
                "await self._lot.park()\n            while not self._flag and not self._closed:\n"
                "                await self._lot.park()",
            ),
        ),
        _unit("bridge", "test_a_clear_right_after_set_loses_nobody"),
        kind=9,
    ),
    Mutant(
        "lost-wake-up",
        "A thread lets go of the lock before it is in the parking lot.",
        (
            Edit(
                "_core.bridge:ParkingLot.park_sync",
                "    self.waiters.add(waiter)\n    self._lock.release()",
                "    self._lock.release()\n    time.sleep(0.0001)\n    self.waiters.add(waiter)",
            ),
        ),
        _unit("bridge", "test_no_wake_up_is_lost_between_threads"),
        kind=9,
    ),
    Mutant(
        "one-waiter-woken",
        "Of all who wait for an event one is woken.",
        (Edit("_core.bridge:ParkingLot.wake_all", "for waiter in waiters:", "for waiter in list(waiters)[:1]:"),),
        _unit("bridge", "test_one_task_and_one_thread_both_wake"),
        kind=9,
    ),
    # -- queues
    Mutant(
        "queue-without-bound",
        "A full queue takes more.",
        (Edit("_core.flow:Flow._try_put", "if len(self._items) >= self.bound:", "if False:"),),
        _unit("flow", "test_drop_oldest_keeps_the_newest"),
        kind=10,
    ),
    Mutant(
        "newest-first",
        "Frames reach the handler in the wrong order.",
        (Edit("_core.flow:Flow._pop", "self._items.popleft()", "self._items.pop()"),),
        _unit("flow", "test_order_is_kept_from_thread_to_task"),
        kind=12,
    ),
    Mutant(
        "cancelled-take-loses",
        "A take that is cancelled with a frame in its hand loses it.",
        (
            Edit(
                "_core.flow:Flow.take_in_a_row",
                "return self._pop()",
                "item = self._pop()\n        await anyio.lowlevel.checkpoint()\n        return item",
            ),
        ),
        _unit("flow", "test_a_take_in_a_row_that_is_cancelled_as_an_item_comes_loses_nothing"),
        kind=9,
    ),
    Mutant(
        "statistics-do-not-add-up",
        "Frames that wait when their queue is closed are counted nowhere.",
        (Edit("_core.flow:Flow._finish", "self._dropped += len(self._items)", "pass"),),
        ("tests/unit/_core/test_flow.py",),
        kind=10,
    ),
    # -- media
    Mutant(
        "pacing-adds-floats",
        "Deadlines are the last one and a period, so that errors add up over the day.",
        (Edit("media.pacing:Pacer.frame_sent", "self._sent += 1", "self._start += 1 / self.rate"),),
        _unit("pacing", "test_a_day_of_frames_does_not_drift"),
        kind=8,
    ),
    Mutant(
        "playout-anchored-on-now",
        "Each frame is due a period after the last one really left, so that lateness adds up.",
        (Edit("media.playout:Playout.pop", "self._set_slot(self._slot + 1)", "self._anchor = now; self._set_slot(1)"),),
        _unit("playout", "test_deadlines_do_not_drift"),
        kind=8,
    ),
    Mutant(
        "media-time-stands-in-silence",
        "Timestamps do not count silence.",
        (
            Edit(
                "media.playout:Playout.pop",
                "self._frame = max(self._frame, int((now - self._origin) / FRAME_SECONDS + 1e-6))",
                "pass",
            ),
        ),
        _unit("playout", "test_silence_counts_in_media_time"),
        kind=12,
    ),
    Mutant(
        "stereo-not-interleaved",
        "Left comes before right, as a whole.",
        (Edit("media.convert:interleave", "samples.T", "samples"),),
        _unit("convert", "test_interleaved_samples_alternate"),
        kind=12,
    ),
    Mutant(
        "int16-wraps",
        "Full scale wraps around instead of saturating.",
        (Edit("media.convert:_scaled", "np.minimum(scaled, np.float32(32767), out=scaled)", "pass"),),
        _unit("convert", "test_floats_are_rounded_to_the_nearest_and_saturate"),
        kind=12,
    ),
    Mutant(
        "stereo-mean-overflows",
        "Loud stereo wraps around when it is made mono.",
        (Edit("media.convert:to_channels", "(left >> 1) + (right >> 1) + (left & right & 1)", "(left + right) >> 1"),),
        _unit("convert", "test_two_sides_become_their_mean"),
        kind=12,
    ),
    Mutant(
        "resampler-forgets",
        "Each chunk is resampled by itself, and clicks at its ends.",
        (
            Edit(
                "media.resample:Resampler.feed",
                "self._run(self._filter, samples)",
                "self._run(self._new_filter(), samples)",
            ),
        ),
        _unit("resample", "test_chunking_cannot_be_heard"),
        kind=12,
    ),
    Mutant(
        "jitter-holds-back",
        "What waited behind a lost packet is not played with it, but as after losses of its own.",
        (
            Edit(
                "media.jitter:JitterBuffer._give_up",
                "    out.append(played)\n    self._play_held(out)",
                "    out.append(played)",
            ),
        ),
        _unit("jitter", "test_one_hole_is_one_loss_and_all_that_waited_behind_it_is_played"),
    ),
    Mutant(
        "sequence-does-not-wrap",
        "Sequence number 0 after 65,535 is taken for a packet from elsewhere.",
        (
            Edit(
                "media.jitter:JitterBuffer.feed", "(sequence - expected) & 0xFFFF", "abs(sequence - expected % 0x10000)"
            ),
        ),
        _unit("jitter", "test_packets_are_played_in_order_or_said_to_be_lost"),
    ),
    # -- ends, transports and codecs
    Mutant(
        "broken-told-as-left",
        "A link that broke is told as a peer that left.",
        (Edit("connection.connection:Connection._watch_peer", "End(EndCause.LINK_BROKE,", "End(EndCause.PEER_LEFT,"),),
        _lives("Bot-trio"),
        kind=11,
    ),
    Mutant(
        "slot-kept-at-the-end",
        "A call keeps its slot after its end.",
        (Edit("serving.calls:Calls._release", "del self._sessions[session.webrtc_id]", "pass"),),
        _lives("Bot-trio"),
        kind=10,
    ),
    Mutant(
        "start-up-error-swallowed",
        "What start_up raises is lost, and the call goes on.",
        (
            Edit(
                "connection.connection:Connection._start_up",
                "        await start_up()",
                "        try:\n            await start_up()\n        except Exception:\n            pass",
            ),
        ),
        _unit("connection", "test_what_a_handler_raises_ends_the_connection_and_arrives_bare"),
        kind=11,
    ),
    Mutant(
        "early-close-forgotten",
        "A call that is closed while its transport is being opened goes on.",
        (Edit("serving.session:Session.prepare", "if self._closing is not None:", "if False:"),),
        _lives("Bot-trio"),
        kind=9,
    ),
    Mutant(
        "context-of-another-call",
        "A handler sees the context of the first call there ever was.",
        (
            Edit(
                "context:get_current_context",
                "    return _current.get()",
                "    return globals().setdefault('_first', _current.get())",
            ),
        ),
        _lives("Bot-trio"),
        kind=1,
    ),
    Mutant(
        "close-without-bound",
        "Closing waits for a transport that does not close.",
        (
            Edit(
                "connection.connection:Connection._close",
                "with anyio.move_on_after(min(timeouts.goodbye, deadline - anyio.current_time())):",
                "with anyio.CancelScope():",
            ),
        ),
        _unit("connection", "test_a_whole_end_has_a_deadline"),
        kind=13,
    ),
    Mutant(
        "latest-is-oldest",
        "A full queue keeps what came first: video runs late.",
        (
            Edit(
                "_core.flow:Flow._try_put",
                "        self._items.popleft()\n        self._dropped += 1",
                "        self._put += 1\n        self._dropped += 1\n        return True",
            ),
        ),
        _unit("connection", "test_a_slow_video_handler_sees_the_latest_frame"),
        kind=2,
    ),
    Mutant(
        "goodbye-not-sent",
        "A transport that is closed does not say goodbye.",
        (Edit("transports.memory:MemoryTransport._say_goodbye", "self._outbox.put_nowait(_GOODBYE)", "pass"),),
        _unit("testing_conformance", "test_a_sound_transport_passes"),
        kind=5,
    ),
    Mutant(
        "messages-without-bound",
        "Messages for a peer that does not read fill the memory.",
        (Edit("transports.memory:MemoryTransport.send_message_nowait", ">= SEND_BOUND", ">= 2**40"),),
        _unit("testing_conformance", "test_a_sound_transport_passes"),
    ),
    Mutant(
        "far-side-not-told-to-clear",
        "A carrier plays on what it buffers when its caller interrupts.",
        (Edit("transports.line:LineTransport.clear_audio", "if self._codec.clears:", "if False:"),),
        _unit("line_transports", "test_clear_tells_the_carrier_and_comes_before_what_is_said_next"),
        kind=2,
    ),
    Mutant(
        "pts-without-gaps",
        "What a carrier lost is missing in media time, too.",
        (
            Edit(
                "transports.line:LineTransport._hear",
                "self._clock.pts(n, timestamp)",
                "self._clock.pts(n, None)",
            ),
        ),
        _unit("line_transports", "test_a_gap_in_a_carriers_timestamps_is_a_gap_in_media_time"),
        kind=12,
    ),
    Mutant(
        "resampler-gives-two-more",
        "A flushed stream is two samples longer than it is.",
        (Edit("media.resample:Resampler.flush", "- self._given\n", "- self._given + 2\n"),),
        _unit("resample", "test_chunking_cannot_be_heard"),
        kind=12,
    ),
    Mutant(
        "mulaw-upside-down",
        "mu-law decodes to the other sign.",
        (Edit("media.g711:decode_mulaw", "return _FROM_MULAW", "return -_FROM_MULAW"),),
        _unit("g711", "test_mulaw_decodes_to_the_tables_values"),
    ),
    Mutant(
        "concealed-with-another-voice",
        "What stands in for a lost packet is the stretch that fits worst.",
        (Edit("media.conceal:Concealer._last_period", "np.argmax(", "np.argmin("),),
        _unit("conceal", "test_the_voice_goes_on"),
    ),
    Mutant(
        "layout-ignored",
        "The layout beside emitted audio does not count.",
        (Edit("handlers.items:_parse_audio", "as_pcm(samples, layout,", "as_pcm(samples, None,"),),
        _unit("items", "test_shapes_and_layouts_of_audio", "test_junk_is_named_with_what_to_write"),
        kind=3,
    ),
    Mutant(
        "pictures-darken",
        "Pictures of 16 bits are cut to 8, not rounded.",
        (
            Edit(
                "handlers.items:_to_uint8",
                "(band.astype(np.uint32) + 128) // 257",
                "band.astype(np.uint32) // 257",
            ),
        ),
        _unit("items", "test_uint16_becomes_the_nearest_uint8"),
    ),
    # -- protocol
    Mutant(
        "junk-raises",
        "JSON of the application's own ends the connection with a KeyError.",
        (Edit("protocol.messages:_read", 'fields.get("type")', 'fields["type"]'),),
        _unit("messages", "test_what_is_only_nearly_ours_is_the_applications"),
        kind=3,
    ),
    # -- coming back
    Mutant(
        "id-is-enough",
        "A call is resumed by whoever knows its id.",
        (
            Edit(
                "protocol.resume:Ticket.accept", "not hmac.compare_digest(expected.proof, proof.proof)", "not expected"
            ),
        ),
        _unit("resume", "test_a_proof_for_anything_else_is_refused_and_uses_nothing_up"),
    ),
    Mutant(
        "proof-counts-twice",
        "A proof that was seen on its way can be used again.",
        (Edit("protocol.resume:Ticket.accept", "proof.number <= self._last or ", ""),),
        _unit("resume", "test_the_right_proof_is_accepted_once"),
    ),
    Mutant(
        "proof-for-any-offer",
        "A proof counts for another offer than the one that it was made for.",
        (Edit("protocol.resume:prove", "\\n{offer}", ""),),
        _unit("resume", "test_a_proof_for_anything_else_is_refused_and_uses_nothing_up"),
    ),
    Mutant(
        "resumed-by-another-kind",
        "A WebSocket call goes on over WebRTC.",
        (Edit("serving.session:Session.check_resume", "if kind != self.kind:", "if False:"),),
        _unit("resume_lines", "test_a_call_is_resumed_by_the_kind_of_transport_that_it_began_by"),
    ),
    Mutant(
        "waits-anew",
        "An attempt that fails begins the time of waiting again.",
        (Edit("connection.carriage:Carriage.lost", "since=now if self.since is None else self.since", "since=now"),),
        _unit("carriage", "test_a_call_waits_so_many_seconds_from_its_loss_and_not_longer"),
    ),
    Mutant(
        "old-link-counts",
        "What an earlier link reports suspends a call that is live again.",
        (Edit("connection.carriage:Carriage.lost", "if number != self.number:", "if False:"),),
        _unit("carriage", "test_what_an_earlier_transport_reports_changes_nothing"),
    ),
    Mutant(
        "waits-for-ever",
        "A call whose caller does not come back keeps its slot.",
        (Edit("connection.carriage:Carriage.is_over", "now >= self.deadline", "False"),),
        _unit("resume_lines", "test_a_call_that_is_over_is_gone"),
    ),
    Mutant(
        "kept-messages-forgotten",
        "Messages that a link did not take before it broke are lost.",
        (Edit("connection.resuming:Resuming._suspend", "if self._messages is None:", "if True:"),),
        _unit("resuming", "test_messages_that_the_next_link_did_not_take_wait_for_the_one_after"),
    ),
    # -- a cluster
    Mutant(
        "forged-ids-are-routed",
        "An id of a call that its node did not sign is routed.",
        (
            Edit(
                "cluster.ids:is_signed",
                "hmac.compare_digest(_tag(found.signed, key).encode(), found.tag.encode())",
                "True",
            ),
        ),
        _unit("node_messages", "test_an_id_that_was_changed_is_not_routed"),
    ),
    Mutant(
        "two-nodes-hold-one-name",
        "The node that holds a name lets another one take it, too.",
        (Edit("cluster.claims:Claims.asked", "state is _State.HELD", "False"),),
        _unit("claims", "test_exactly_one_wins"),
    ),
    # -- pictures over bad networks
    Mutant(
        "hole-never-given-up",
        "A lost packet of video is waited for until the buffer is full.",
        (
            Edit(
                "media.pictures:PictureBuffer._overdue", "now - first.since >= self.give_up", "now - first.since >= 1e9"
            ),
        ),
        _unit("pictures", "test_a_hole_is_given_up_in_time_and_a_key_picture_asked_for"),
    ),
    Mutant(
        "lost-packet-reported-once",
        "A request for a lost packet is not repeated.",
        (Edit("media.pictures:PictureBuffer._report", "hole.asked < MAX_REQUESTS", "hole.asked < 1"),),
        _unit("pictures", "test_a_hole_is_reported_at_once_and_again_after_each_round_trip"),
    ),
    Mutant(
        "decodes-without-key-picture",
        "Pictures that build on a dropped one are decoded.",
        (Edit("media.pictures:PictureBuffer._give_up", "self.need_key(now)", "pass"),),
        _unit("pictures", "test_what_leaves_can_be_decoded"),
    ),
    Mutant(
        "spoiled-picture-leaves",
        "The rest of a picture with a dropped packet is decoded.",
        (Edit("media.pictures:PictureBuffer._release", "timestamp == self._spoiled or", ""),),
        _unit("pictures", "test_a_picture_with_a_dropped_packet_never_leaves"),
    ),
    # -- recordings
    Mutant(
        "drifting-device-followed-nowhere",
        "A recording keeps a caller's side where it began, however far their device's clock is off.",
        (Edit("media.recording:_Side._place", "self._slewing or abs(off) > self._deadband", "False"),),
        _unit("recording", "test_an_hour_with_a_drifting_device", "test_packets_of_a_drifting_device"),
    ),
    Mutant(
        "cleared-audio-recorded",
        "What a barge-in has cleared stays in the recording.",
        (Edit("media.recording:Intake.cleared", 'self._left.extend((now, 0, 0, b"", False, False))', "pass"),),
        _unit("recording", "test_cleared_audio_is_not_in_it", "test_cleared_packets_are_not_in_it"),
    ),
    Mutant(
        "long-packets-mislaid",
        "The length of a long packet loses its lowest bits.",
        (Edit("media.ogg:coded_length", "252 + size % 4,", "252,"),),
        _unit("ogg", "test_lengths", "test_ffmpeg_reads_both_sides"),
    ),
    Mutant(
        "sent-packets-encoded-again",
        "The packets that leave are not shown to recordings.",
        (
            Edit(
                "_engine.audio:PlayoutTrack._write", "self._packets.sent, self._packets.sent_pts = payload, pts", "pass"
            ),
        ),
        _unit("recorder", "test_packets_of_a_webrtc_call_are_recorded_as_they_are"),
    ),
    *BY_TOOLS,
)
