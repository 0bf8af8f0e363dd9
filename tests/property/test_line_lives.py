"""Whatever a client or a carrier says, in any order: one call, one end, one shutdown, and the slot is free again."""

from __future__ import annotations

import logging
import queue
from collections import deque

import anyio
import pytest
from far_side import CALLS, DIGITS, START, STOPS, far_side
from hypothesis import example, given
from hypothesis import strategies as st

import rtcflow
from rtcflow.routes import lines as asgi_lines
from rtcflow.testing.clocks import virtual_backend
from rtcflow.transports.telephone import TelephoneConfig

CODES = {
    None: {None, 1000},
    "left": {None, 1000},
    "negotiation_timeout": {1008},
    "protocol_error": {1002, 1003, 1007, 1008, 1009},
}
"""Our close codes, by why a call came to nothing or broke off. None means that the far side had closed before."""

LINES = ["websocket", *CALLS]
MEDIA = '{"event":"media","media":{"payload":"%s"}}' % (160 * "AAAA")


class Echo(rtcflow.AsyncStreamHandler):
    """An echo whose copies are counted, as are the ends of their lives."""

    def __init__(self, copies=None, ends=None):
        super().__init__(input_sample_rate=8000, output_sample_rate=8000)
        self.copies, self.ends = [] if copies is None else copies, [] if ends is None else ends
        self.frames, self.came = deque(maxlen=50), rtcflow.Event()

    def copy(self):
        self.copies.append(type(self)(self.copies, self.ends))
        return self.copies[-1]

    async def receive(self, frame):
        self.clear_queue()
        self.frames.append(frame)
        self.came.set()

    async def emit(self):
        while not self.frames:
            self.came.clear()
            await self.came.wait()
        return self.frames.popleft()

    async def shutdown(self):
        self.ends.append(self)


class SyncEcho(rtcflow.StreamHandler):
    """The same in threads; its emit blocks for ever once the caller is gone."""

    def __init__(self, copies=None, ends=None):
        super().__init__(input_sample_rate=8000, output_sample_rate=8000)
        self.copies, self.ends = [] if copies is None else copies, [] if ends is None else ends
        self.frames = queue.Queue()

    copy = Echo.copy

    def receive(self, frame):
        self.frames.put(frame)

    def emit(self):
        return self.frames.get()

    def shutdown(self):
        self.ends.append(self)


def steps(line):
    """Messages that make sense, that make none, and what may happen between them."""
    opening = [START] if line == "websocket" else CALLS[line]
    known = [
        *opening,
        *opening,
        MEDIA,
        b"\x01\x00" * 160,
        '{"event":"stop"}',
        '{"event":"ping"}',
        DIGITS.get(line, MEDIA),
    ]
    known += [STOPS.get(line, MEDIA), '{"event":"mark","mark":{"name":"rtcflow-1"}}', '{"type":"log","data":"hello"}']
    wrong = ["nonsense", "[]", "{}", b"", b"\x01", '{"event":"media"}', '{"event":"media","media":{"payload":"%"}}']
    say = st.sampled_from([("say", message) for message in (*known, *known, *wrong)])
    wait = st.tuples(st.just("wait"), st.sampled_from([0.001, 0.02, 0.3, 11.0]))
    act = st.sampled_from([("close", None), ("stall", None), ("read", None)])
    begin = st.sampled_from([[], [("say", message) for message in opening]])
    return st.tuples(begin, st.lists(st.one_of(say, say, wait, act), max_size=12)).map(
        lambda parts: parts[0] + parts[1]
    )


async def live(line, kind, story, code):
    """One call by `story`, then a plain one."""
    handler = kind()
    stream = rtcflow.Stream(
        handler,
        concurrency_limit=1,
        telephone=TelephoneConfig(unsigned_is_fine=True),
        timeouts=rtcflow.Timeouts(shutdown=1, grace=0.1, goodbye=0.5),
    )

    async def serve(far):
        if line == "websocket":
            await asgi_lines.websocket_offer(stream.calls, far.websocket)
        else:
            await asgi_lines.telephone_handler(stream.calls, far.websocket)

    async with stream.running():
        async with far_side() as far, anyio.create_task_group() as tasks:
            tasks.start_soon(serve, far)
            live = []
            for step, detail in story:
                match step:
                    case "say":
                        far.say(detail)
                    case "wait":
                        await anyio.sleep(detail)
                    case "close":
                        for session in stream.calls.values():
                            session.close("enough")
                    case "stall":
                        far.gate = anyio.Event()
                    case "read":
                        far.gate.set()
                live = [one.connection for one in stream.calls.values() if one.connection is not None] or live
            far.leave(code)
            with anyio.fail_after(60):
                while len(stream.calls):
                    await anyio.sleep(0.1)
                await anyio.sleep(15)  # the setup deadline, where nobody was admitted
            far.gate.set()
        assert handler.ends == handler.copies, "each that was copied was shut down, once"
        assert len(handler.copies) == 1
        if ("stall", None) not in story:  # a peer that reads nothing cannot be told
            (why,) = stream.refused or (None,)
            # The peer of a live call can break the protocol while the server closes the call. Either may be told.
            expected = CODES[why] | (CODES["protocol_error"] if live else set())
            assert (far.closed or (None,))[0] in expected, why
        async with far_side() as far, anyio.create_task_group() as tasks:
            tasks.start_soon(serve, far)
            for message in [START] if line == "websocket" else CALLS[line]:
                far.say(message)
            with anyio.fail_after(10):
                while not stream.calls:
                    await anyio.sleep(0.01)
            (session,) = stream.calls.values()
            far.leave(1000)
        assert session.connection.end.cause is rtcflow.EndCause.PEER_LEFT
        assert handler.ends == handler.copies


@pytest.mark.parametrize("kind", [Echo, SyncEcho])
@pytest.mark.parametrize("backend", ["trio", "asyncio"])
@pytest.mark.parametrize("line", LINES)
def test_every_life_of_a_line_ends_once(line, backend, kind):
    """Left before the start, started twice, media first, silence, nonsense, a stall: one shutdown, a free slot."""
    logging.getLogger("rtcflow").setLevel(logging.CRITICAL)

    @given(story=steps(line), code=st.sampled_from([1000, 1001, 1005, 1006, 1011]))
    @example(story=[], code=1006)
    @example(story=[("wait", 11.0)], code=1000)
    @example(story=[("say", MEDIA)], code=1000)
    @example(story=[("stall", None), ("say", "nonsense")], code=1000)
    @example(story=[("say", STOPS.get(line, '{"event":"stop"}')), ("wait", 1)], code=1000)
    @example(story=[("say", message) for message in 2 * ([START] if line == "websocket" else CALLS[line])], code=1000)
    def lives(story, code):
        name, options = virtual_backend(backend)
        anyio.run(live, line, kind, story, code, backend=name, backend_options=options)

    try:
        lives()
    finally:
        logging.getLogger("rtcflow").setLevel(logging.NOTSET)
