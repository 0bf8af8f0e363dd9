"""Each log record of a call says which call it is, whoever wrote it and in which thread."""

from __future__ import annotations

import contextvars
import json
import logging
import sys
import threading
import time
from contextlib import asynccontextmanager

import anyio
import pytest

from rtcflow.connection import Connection
from rtcflow.context import Context
from rtcflow.ends import Timeouts
from rtcflow.frames import AudioFormat
from rtcflow.handlers.base import AsyncStreamHandler, StreamHandler
from rtcflow.logs import CallFilter, JsonFormatter, TextFormatter
from rtcflow.serving.session import CallRequest
from rtcflow.stream import Stream
from rtcflow.testing import silence
from rtcflow.transports.memory import memory_pair

pytestmark = pytest.mark.anyio
log = logging.getLogger("application")


class Kept(logging.Handler):
    """Keeps each record, as a handler of the application with a `CallFilter` sees it."""

    def __init__(self):
        super().__init__(logging.INFO)
        self.records = []
        self.addFilter(CallFilter())

    def emit(self, record):
        self.records.append(record)

    def of(self, logger):
        return [record for record in self.records if record.name.startswith(logger)]


@pytest.fixture
def kept():
    handler, root = Kept(), logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield handler
    root.removeHandler(handler)
    root.setLevel(level)


class InThreads(StreamHandler):
    def receive(self, frame):
        log.info("receive")

    def emit(self):
        log.info("emit")
        time.sleep(0.02)

    def copy(self):
        return InThreads()

    def shutdown(self):
        log.info("shutdown")


class InTasks(AsyncStreamHandler):
    async def start_up(self):
        self.loop.create_task(self.work())

    async def work(self):
        log.info("task")
        await anyio.to_thread.run_sync(log.info, "thread of a task")

    async def receive(self, frame):
        log.info("receive")

    async def emit(self):
        log.info("emit")
        await anyio.sleep(0.02)

    def copy(self):
        return InTasks()


@asynccontextmanager
async def calling(stream, principal):
    """A call over a memory transport; yields the caller's end and the session."""
    ended = anyio.Event()

    async def hold(*, task_status):
        async with memory_pair() as (ours, theirs):
            theirs.start(AudioFormat(48000), AudioFormat(48000))
            request = CallRequest(headers={"name": principal}, remote_address=("192.0.2.1", 1))
            async with stream.calls.admit(request, "memory", f"{principal}-and-the-secret-part") as session:
                log.info("admitted")
                stream.calls.start(session, ours)
            log.info("after admission")
            task_status.started((session, theirs))
            await session.connection.wait_ended()
            ended.set()

    async with anyio.create_task_group() as tasks:
        session, theirs = await tasks.start(hold)
        while session.statistics().setup is None:
            await anyio.sleep(0.002)
        yield session, theirs
        await theirs.aclose()
        await ended.wait()


@pytest.mark.parametrize("handler", [InThreads(), InTasks()], ids=["threads", "tasks"])
async def test_every_record_of_a_call_names_it(handler, kept):
    """Twenty calls at once: records of methods, their tasks and threads, and of rtcflow itself, name their own call."""
    names = [f"{number:02}-caller" for number in range(20)]
    stream = Stream(handler, concurrency_limit=None, authorize=lambda request: request.headers["name"])

    async def one(name):
        async with calling(stream, name) as (session, theirs):
            for _ in range(3):
                theirs.audio_out.put(silence(0.02))
            wanted = {"receive", "emit"} if isinstance(handler, InThreads) else {"receive", "emit", "thread of a task"}
            while not wanted <= {record.getMessage() for record in kept.of("application") if record.principal == name}:
                await anyio.sleep(0.01)

    with anyio.fail_after(120):
        async with stream.running(), anyio.create_task_group() as tasks:
            for name in names:
                tasks.start_soon(one, name)

    written = kept.of("application")
    for name in names:
        own = {record.getMessage() for record in kept.of("application") if record.principal == name}
        assert {"admitted", "receive", "emit"} <= own
        assert {"shutdown"} <= own if isinstance(handler, InThreads) else {"task", "thread of a task"} <= own
    for record in written:
        if record.getMessage() == "after admission":
            assert (record.call, record.transport, record.principal) == (None, None, None)
        else:
            assert record.call == f"{record.principal[:8]}…"
            assert record.transport == "memory"
    for record in kept.of("rtcflow"):  # on a busy machine also that a method took long
        assert record.call == f"{record.principal[:8]}…"
    for record in kept.of("rtcflow.serving.session"):  # "begins" and "ended"
        assert f"call {record.principal[:8]}" in record.getMessage()
    assert len(kept.of("rtcflow.serving.session")) == 2 * len(names)


async def test_a_renamed_call_has_its_new_name(kept):
    """WebSocket clients send their id after they were admitted."""
    stream = Stream(InTasks())
    async with stream.running(), memory_pair() as (ours, _):
        async with stream.calls.admit(CallRequest(), "websocket", "before-the-client-said") as session:
            stream.calls.rename(session, "afterwards-and-secret")
            log.info("renamed")
            stream.calls.start(session, ours)
        session.close()
        await session.connection.wait_ended()
    assert {record.call for record in kept.records} == {"afterwar…"}


async def test_a_call_without_a_stream_is_named_too(kept):
    """A `Connection` needs no Stream."""
    async with memory_pair() as (ours, theirs):
        connection = Connection(ours, InTasks(), context=Context(webrtc_id="by-itself-and-secret", principal=7))

        async def leave():
            while not kept.of("application"):
                await anyio.sleep(0.002)
            await theirs.aclose()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(leave)
            await connection.run()
    assert {(r.call, r.principal) for r in kept.of("application")} == {("by-itsel…", 7)}
    log.info("outside")
    assert kept.records[-1].call is None


def make(level=logging.INFO, message="said %s", *args, name="application", **extra):
    logger = logging.getLogger(name)
    return logger.makeRecord(name, level, "here.py", 1, message, args or ("this",), None, extra=extra)


def test_libraries_that_say_too_much_are_quiet(monkeypatch):
    """aioice is dropped below WARNING, unless the application has set its level."""
    keep = CallFilter().filter
    assert not keep(make(name="aioice.ice"))
    assert not keep(make(name="aioice"))
    assert keep(make(logging.WARNING, name="aioice.ice"))
    assert keep(make(name="aioicebox"))
    assert keep(make(name="rtcflow"))
    assert CallFilter(quiet=()).filter(make(name="aioice.ice"))
    assert not CallFilter(quiet="rtcflow").filter(make(name="rtcflow.serving"))
    monkeypatch.setattr(logging.getLogger("aioice"), "level", logging.DEBUG)
    assert keep(make(name="aioice.ice"))


def test_what_a_record_was_given_stays():
    """`extra={"call": ...}` of the application wins."""
    record = make(call="mine")
    CallFilter().filter(record)
    assert (record.call, record.transport) == ("mine", None)


class Unspeakable:
    def __str__(self):
        raise RuntimeError("no")

    __repr__ = __str__


def test_json_is_one_line_with_all_that_is_known():
    """Extras are keys, tracebacks are text, and no value keeps a line from being written."""
    context = contextvars.copy_context()
    record = make(logging.ERROR, "two\nlines %s", "“ü”", count=3, odd=Unspeakable(), far=float("nan"), who={"a": 1})
    try:
        1 / 0  # noqa: B018
    except ZeroDivisionError:
        record.exc_info = sys.exc_info()
    context.run(CallFilter().filter, record)
    text = JsonFormatter().format(record)
    assert "\n" not in text
    line = json.loads(text, parse_constant=pytest.fail)
    assert line["message"] == "two\nlines “ü”"
    assert (line["level"], line["logger"], line["count"]) == ("ERROR", "application", 3)
    assert line["time"].endswith("+00:00")
    assert line["error"].endswith("ZeroDivisionError: division by zero")
    assert "whose text is not known" in line["odd"]
    assert (line["far"], line["who"]) == ("nan", "{'a': 1}")
    assert not {"call", "msg", "args", "thread", "taskName"} & line.keys()


def test_json_is_written_although_the_arguments_do_not_fit():
    """A wrong format string of the application loses no line."""
    line = json.loads(JsonFormatter().format(make(logging.INFO, "%d apples", "many")))
    assert line["message"] == "'%d apples' with arguments that do not fit: TypeError"


def test_json_is_written_whatever_a_value_is():
    """Half a surrogate pair, as in a caller's JSON, and a number that Python refuses to write."""
    record = logging.makeLogRecord({"msg": "grüße \ud800", "principal": "x\udcff", "n": 1 << 40, "much": 10**5000})
    line = JsonFormatter().format(record)
    assert "grüße" in line
    told = json.loads(line.encode("utf-8"))
    assert (told["message"], told["principal"], told["n"]) == ("grüße \ud800", "x\udcff", 1 << 40)
    assert told["much"].startswith("<int whose text is not known")


def test_text_names_the_call_once():
    """rtcflow's messages name the call already."""
    text = TextFormatter("%(levelname)s %(message)s")
    assert text.format(make(call="abc…", transport="webrtc")) == "INFO said this [webrtc abc…]"
    assert text.format(make(logging.INFO, "call %s ends", "abc…", call="abc…")) == "INFO call abc… ends"
    assert text.format(make()) == "INFO said this"


# -- on_call_end


async def one_call(stream):
    async with stream.running(), calling(stream, "somebody"):
        pass


@pytest.mark.parametrize("colour", ["sync", "async"])
async def test_the_application_is_told_how_each_call_ended(colour):
    """Once per call, with the session, the end and the figures, when the slot is free."""
    told = []

    def sync_hook(session, end, statistics):
        told.append((session, end, statistics, len(stream.calls), threading.current_thread()))

    async def async_hook(session, end, statistics):
        await anyio.sleep(0)
        sync_hook(session, end, statistics)

    stream = Stream(InTasks(), on_call_end=sync_hook if colour == "sync" else async_hook)
    await one_call(stream)
    ((session, end, statistics, live, thread),) = told
    assert session.webrtc_id == "somebody-and-the-secret-part"
    assert end is session.end
    assert statistics.setup is not None
    assert live == 0
    assert (thread is threading.main_thread()) == (colour == "async")


async def test_a_hook_that_raises_disturbs_nobody(kept):
    """One error is logged, in the name of the call."""

    def hook(*_):
        raise LookupError("no such table")

    await one_call(Stream(InTasks(), on_call_end=hook))
    (record,) = (record for record in kept.records if record.levelno == logging.ERROR)
    assert record.getMessage() == "on_call_end raised after memory call somebody…"
    assert record.call == "somebody…"
    assert "no such table" in str(record.exc_info[1])


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
@pytest.mark.parametrize("colour", ["sync", "async"])
async def test_a_hook_that_does_not_return_is_left_behind(colour, kept):
    """After `Timeouts.shutdown` the server goes on."""
    release = threading.Event()

    async def async_hook(*_):
        await anyio.sleep_forever()

    hook = async_hook if colour == "async" else lambda *_: release.wait(30)
    stream = Stream(InTasks(), on_call_end=hook, timeouts=Timeouts(shutdown=0.1))
    with anyio.fail_after(120):
        await one_call(stream)
    release.set()
    assert [r.message for r in kept.records if r.levelno == logging.ERROR] == [
        "on_call_end did not return within 0.1 s; the server does not wait for it"
    ]


async def test_the_hook_is_called_for_cancelled_calls():
    """A stream that is cancelled tells of its calls all the same."""
    told = []

    async def hook(session, end, statistics):
        await anyio.sleep(0)
        told.append(end.cause.name)

    stream = Stream(InTasks(), on_call_end=hook)
    with anyio.fail_after(120), anyio.CancelScope() as scope:
        async with stream.running(), memory_pair() as (ours, _):
            async with stream.calls.admit(CallRequest(), "memory") as session:
                stream.calls.start(session, ours)
            while session.statistics().setup is None:
                await anyio.sleep(0.005)
            scope.cancel()
            await anyio.sleep_forever()
    assert len(told) == 1


def test_a_hook_that_is_no_function_is_refused():
    """At once, with the shape to write."""
    with pytest.raises(TypeError, match=r"def on_call_end\(session, end, statistics\)"):
        Stream(InTasks(), on_call_end="log")
