"""Admission by one door, slots that always come back, and the life of a stream."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager

import anyio
import pytest

from rtcflow.context import get_current_context
from rtcflow.ends import EndCause, Timeouts
from rtcflow.exceptions import (
    ApplicationFailed,
    ConnectionExists,
    HandlerError,
    NotAuthorized,
    NotServing,
    TooManyConnections,
    UnknownConnection,
)
from rtcflow.frames import AudioFormat
from rtcflow.handlers.base import AsyncStreamHandler, AudioVideoStreamHandler, StreamHandler
from rtcflow.outputs import AdditionalOutputs
from rtcflow.serving.session import CallRequest, threads_needed
from rtcflow.stream import Modality, Mode, Stream
from rtcflow.transports.memory import memory_pair

pytestmark = pytest.mark.anyio

QUICK = Timeouts(connect=5, shutdown=0.5, grace=0.1, goodbye=0.5)
CALLER = CallRequest(path="/webrtc/offer", headers={"authorization": "Bearer me"}, remote_address=("192.0.2.1", 4711))


class Quiet(AsyncStreamHandler):
    """Listens, says nothing, and remembers who was made and who was shut down."""

    def __init__(self, diary=None):
        super().__init__()
        self.diary = diary if diary is not None else []

    def copy(self):
        self.diary.append("copy")
        return Quiet(self.diary)

    async def receive(self, frame):
        pass

    async def emit(self):
        await anyio.sleep_forever()

    async def shutdown(self):
        self.diary.append("shutdown")


class Sync(StreamHandler):
    def receive(self, frame):
        pass

    def emit(self):
        return None

    def copy(self):
        return Sync()


class Film(AudioVideoStreamHandler):
    def receive(self, frame):
        pass

    def emit(self):
        return None

    def video_receive(self, frame):
        pass

    def video_emit(self):
        return None

    def copy(self):
        return Film()


@asynccontextmanager
async def serving(handler, **options):
    """A running stream that serves over memory transports; yields (stream, dial)."""
    stream = Stream(handler, timeouts=QUICK, **options)
    with anyio.fail_after(120):
        async with anyio.create_task_group() as lines, stream.running():

            async def dial(webrtc_id=None, caller=CALLER):
                """Call it; returns (session, the caller's end of the line)."""

                async def hold(*, task_status):
                    async with memory_pair() as (ours, theirs):
                        theirs.start(AudioFormat(48000), AudioFormat(48000))
                        async with stream.calls.admit(caller, "memory", webrtc_id) as session:
                            stream.calls.start(session, ours)
                        task_status.started((session, theirs))
                        await session.connection.wait_ended()

                return await lines.start(hold)

            yield stream, dial
    assert len(stream.calls) == 0


async def until(condition):
    while not condition():
        await anyio.sleep(0.005)


def connected(session):
    """Whether media may flow: who leaves before that has never been connected."""
    return session.connection is not None and session.connection.statistics().setup is not None


# -- construction


@pytest.mark.parametrize(
    ("handler", "modality", "advice"),
    [
        (Quiet(), "video", "use modality='audio'"),
        (Quiet(), "audio-video", "subclass AudioVideoStreamHandler"),
        (Film(), "video", "use modality='audio-video'"),
        (Quiet, "audio", "write: Quiet()"),
        (lambda frame: frame, "audio", "subclass StreamHandler"),
    ],
)
def test_what_does_not_fit_together_is_refused_with_advice(handler, modality, advice):
    """A handler of the wrong kind for the modality is an error at construction that says what to use."""
    with pytest.raises(HandlerError) as error:
        Stream(handler, modality=modality)
    assert advice in str(error.value)


def test_modality_and_mode_are_spelled_as_in_fastrtc():
    """Strings and enum members are both taken; other words are a ValueError."""
    stream = Stream(Film(), modality="audio-video", mode="send-receive")
    assert (stream.modality, stream.mode) == (Modality.AUDIO_VIDEO, Mode.SEND_RECEIVE)
    assert Stream(Film(), modality=Modality.AUDIO).modality is Modality.AUDIO
    with pytest.raises(ValueError, match="smell"):
        Stream(Film(), modality="smell")
    with pytest.raises(ValueError, match="backwards"):
        Stream(Quiet(), mode="backwards")
    with pytest.raises(ValueError, match="None means no limit"):
        Stream(Quiet(), concurrency_limit=0)


def test_the_default_limit_is_one_caller():
    """As in FastRTC: one, unless said otherwise; "default" is the same; None is no limit."""
    assert Stream(Quiet()).options.limits.concurrency_limit == 1
    assert Stream(Quiet(), concurrency_limit="default").options.limits.concurrency_limit == 1
    assert Stream(Quiet(), concurrency_limit=None).options.limits.concurrency_limit is None


# -- admission


@pytest.mark.parametrize("name", ["concurrency_limit", "time_limit", "allowed_origins", "additional_outputs_handler"])
def test_an_option_that_is_assigned_is_an_error(name):
    """It would change nothing. Attributes of one's own are free."""

    class Mine(Stream):
        pass

    stream = Mine(Quiet())
    with pytest.raises(AttributeError, match=f"{name} would change nothing: .* options do not change"):
        setattr(stream, name, 5)
    stream.history = 5
    assert stream.history == 5


async def test_a_caller_is_served_and_its_slot_comes_back():
    """An admitted caller is among the connections until its end, and then the slot is free again."""
    diary = []
    async with serving(Quiet(diary)) as (stream, dial):
        session, line = await dial("one")
        assert dict(stream.calls) == {"one": session}
        assert len(stream.calls) == 1
        await until(lambda: connected(session))
        await line.aclose()
        await until(lambda: len(stream.calls) == 0)
        assert session.end.cause is EndCause.PEER_LEFT
        assert not stream.calls
    assert diary == ["copy", "shutdown"]


async def test_the_limit_is_exact_and_names_itself():
    """One caller more than the limit is refused; when one leaves, the next is admitted."""
    async with serving(Quiet(), concurrency_limit=2) as (stream, dial):
        _, first = await dial()
        await dial()
        with pytest.raises(TooManyConnections) as error:
            await dial()
        assert error.value.limit == 2
        assert error.value.status == 503
        await first.aclose()
        await until(lambda: len(stream.calls) == 1)
        await dial()


async def test_a_live_id_cannot_be_taken_over():
    """A second caller under a live id is refused with 409 and disturbs nobody; later the id is free."""
    async with serving(Quiet(), concurrency_limit=None) as (stream, dial):
        session, line = await dial("mine")
        with pytest.raises(ConnectionExists) as error:
            await dial("mine")
        assert error.value.status == 409
        assert stream.session("mine") is session
        await line.aclose()
        await until(lambda: len(stream.calls) == 0)
        await dial("mine")


async def test_ids_made_here_cannot_be_guessed():
    """Without an id of its own a caller gets one with 144 bits of randomness."""
    async with serving(Quiet(), concurrency_limit=None) as (_, dial):
        ids = {(await dial())[0].webrtc_id for _ in range(3)}
        assert len(ids) == 3
        assert all(len(key) == 24 for key in ids)


async def test_sync_handlers_are_counted_in_threads():
    """A caller for whom there are not enough worker threads is refused, and nothing is kept of it."""
    async with serving(Sync(), concurrency_limit=None, thread_limit=3) as (stream, dial):
        await dial()
        with pytest.raises(TooManyConnections, match="worker threads"):
            await dial()
        assert len(stream.calls) == 1


def test_a_function_of_video_needs_two_threads():
    """It has nothing to hear and nothing to say: a thread that sees, and one that shows."""
    assert threads_needed(Stream(lambda frame: frame, modality="video").handler) == 2
    assert threads_needed(Sync()) == 2


async def test_worker_threads_come_back_with_the_slot():
    """When a caller leaves, or opening its transport fails, the next one finds the worker threads it needs."""
    async with serving(Sync(), concurrency_limit=None, thread_limit=3) as (stream, dial):
        for _ in range(3):
            _, line = await dial()
            await line.aclose()
            await until(lambda: len(stream.calls) == 0)
            with pytest.raises(OSError, match="no transport"):
                async with stream.calls.admit(CALLER, "memory"):
                    raise OSError("no transport")


class Refusing(Exception):
    pass


def _raise(error):
    raise error


@pytest.mark.parametrize(
    ("authorize", "expected", "status"),
    [
        (lambda _: None, NotAuthorized, 403),
        (lambda _: False, NotAuthorized, 403),
        (lambda _: _raise(NotAuthorized("who are you?", status=401)), NotAuthorized, 401),
        (lambda _: _raise(Refusing("secret: the database is down")), ApplicationFailed, 500),
    ],
)
@pytest.mark.parametrize("colour", ["sync", "async"])
async def test_an_unauthorized_caller_costs_nothing(authorize, expected, status, colour):
    """A refusing or failing hook, sync or async, comes before slot and copy, and its own words stay inside."""

    async def hook(caller):
        return authorize(caller)

    diary = []
    async with serving(Quiet(diary), authorize=authorize if colour == "sync" else hook) as (stream, dial):
        with pytest.raises(expected) as error:
            await dial()
        assert error.value.status == status
        assert "secret" not in str(error.value)
        assert len(stream.calls) == 0
    assert diary == []


async def test_the_hook_sees_the_request_and_its_answer_reaches_the_handler():
    """authorize gets headers and address; what it returns is the principal in the handler's context."""
    seen = []
    contexts = []

    class Looking(Quiet):
        def copy(self):
            return Looking()

        async def start_up(self):
            contexts.append(get_current_context())

    def authorize(caller):
        seen.append(caller)
        return {"name": "Ada"}

    async with serving(Looking(), authorize=authorize) as (_, dial):
        await dial("abc")
        await until(lambda: contexts)
    assert seen == [CALLER]
    (context,) = contexts
    assert (context.webrtc_id, context.transport, context.principal) == ("abc", "memory", {"name": "Ada"})
    assert context.remote_address == ("192.0.2.1", 4711)
    assert context.headers["authorization"] == "Bearer me"


class Same(Quiet):
    def copy(self):
        return self


class Broken(Quiet):
    def copy(self):
        raise RuntimeError("secret: no model")


class Strange(Quiet):
    def copy(self):
        return "a handler"


@pytest.mark.parametrize("handler", [Same(), Broken(), Strange()])
async def test_a_copy_that_fails_refuses_that_call_only(handler, caplog):
    """A copy() that raises or returns no fresh handler is logged, hidden from the caller, and gives the slot back."""
    async with serving(handler) as (stream, dial):
        for _ in range(3):
            with pytest.raises(ApplicationFailed) as error:
                await dial()
            assert "secret" not in str(error.value)
        assert len(stream.calls) == 0
    assert sum("copy failed" in record.message for record in caplog.records) == 3


async def test_a_transport_that_cannot_be_opened_gives_everything_back():
    """When opening the transport fails, the slot is free again and the copied handler is shut down once."""
    diary = []
    async with serving(Quiet(diary)) as (stream, _):
        with pytest.raises(OSError, match="no transport"):
            async with stream.calls.admit(CALLER, "memory"):
                raise OSError("no transport")
        assert len(stream.calls) == 0
    assert diary == ["copy", "shutdown"]


@pytest.mark.parametrize("where", ["authorize", "transport"])
async def test_a_cancelled_admission_gives_everything_back(where):
    """Cancelled while authorize or the transport takes its time, admission leaves no slot taken."""
    diary = []

    async def authorize(_):
        if where == "authorize":
            await anyio.sleep_forever()
        return "somebody"

    async with serving(Quiet(diary), authorize=authorize) as (stream, _):

        async def come():
            async with stream.calls.admit(CALLER, "memory"):
                await anyio.sleep_forever()

        async with anyio.create_task_group() as tg:
            tg.start_soon(come)
            await anyio.wait_all_tasks_blocked()
            assert len(stream.calls) == (where == "transport")
            tg.cancel_scope.cancel()
        assert len(stream.calls) == 0
    assert diary == (["copy", "shutdown"] if where == "transport" else [])


async def test_a_request_that_fails_after_the_start_ends_the_connection():
    """If the answer cannot be given after the connection was started, the connection does not stay behind."""
    async with serving(Quiet()) as (stream, _), memory_pair() as (ours, _):
        with pytest.raises(OSError, match="the caller hung up"):
            async with stream.calls.admit(CALLER, "memory") as session:
                stream.calls.start(session, ours)
                raise OSError("the caller hung up")
        await until(lambda: len(stream.calls) == 0)
        assert session.end.cause is EndCause.CLOSED


async def test_an_admitted_caller_can_name_itself_later():
    """A WebSocket caller is admitted first and says its id then; a live id is refused."""
    async with serving(Quiet(), concurrency_limit=None) as (stream, dial):
        await dial("taken")
        async with stream.calls.admit(CALLER, "memory") as session:
            with pytest.raises(ConnectionExists):
                stream.calls.rename(session, "taken")
            stream.calls.rename(session, "free")
            assert stream.session("free") is session
        with pytest.raises(UnknownConnection):
            stream.session("free")


async def test_run_serves_in_the_calling_task():
    """`run` returns how it ended, for transports that live in their request's own task."""
    async with serving(Quiet()) as (stream, _), memory_pair() as (ours, theirs):
        theirs.start(AudioFormat(48000), AudioFormat(48000))
        async with stream.calls.admit(CALLER, "memory") as session, anyio.create_task_group() as tg:

            async def leave():
                await until(lambda: connected(session))
                await theirs.aclose()

            tg.start_soon(leave)
            end = await stream.calls.run(session, ours)
        assert end.cause is EndCause.PEER_LEFT


# -- the life of a stream


async def test_a_stream_that_does_not_run_says_so():
    """Outside running() callers get 503 and an explanation."""
    stream = Stream(Quiet())
    with pytest.raises(NotServing, match="lifespan") as error:
        async with stream.calls.admit(CALLER, "memory"):
            pass
    assert error.value.status == 503


async def test_the_end_of_the_stream_ends_its_connections_with_a_reason():
    """Leaving running() closes every connection, tells the peer why, and takes less than 2 s."""
    diary = []
    ended = []
    stream = Stream(Quiet(diary), concurrency_limit=None, timeouts=QUICK)
    async with memory_pair() as (ours, theirs):
        theirs.start(AudioFormat(48000), AudioFormat(48000))
        async with stream.running():
            async with stream.calls.admit(CALLER, "memory") as session:
                stream.calls.start(session, ours)
            await until(lambda: session.connection.statistics().setup is not None)
            began = anyio.current_time()
        assert anyio.current_time() - began < 2
        ended.append(session.end)
        assert "the server is shutting down" in await theirs.messages_in.take()
    assert ended[0].cause is EndCause.CLOSED
    assert diary == ["copy", "shutdown"]
    assert len(stream.calls) == 0


async def test_a_cancelled_stream_ends_its_connections_too():
    """A cancelled stream shuts every handler down once and gives all slots back. It may run again."""
    diary = []
    stream = Stream(Quiet(diary), concurrency_limit=None, timeouts=QUICK)
    async with memory_pair() as (ours, theirs):
        theirs.start(AudioFormat(48000), AudioFormat(48000))
        with anyio.CancelScope() as scope:
            async with stream.running():
                async with stream.calls.admit(CALLER, "memory") as session:
                    stream.calls.start(session, ours)
                await until(lambda: session.connection.statistics().setup is not None)
                scope.cancel()
                await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert diary == ["copy", "shutdown"]
    assert len(stream.calls) == 0
    assert not stream.is_running
    async with stream.running():
        assert stream.calls.is_ready


async def test_a_stream_runs_again_after_it_ended():
    """running() can be entered again, and a nested one in the same loop is the same run."""
    stream = Stream(Quiet())
    for _ in range(2):
        async with stream.running():
            async with stream.running():
                assert stream.is_running
            assert stream.is_running
        assert not stream.is_running


async def test_a_stream_runs_in_one_event_loop():
    """A second one gets an error that says what to write. The first goes on."""
    stream = Stream(Quiet())

    async def enter():
        async with stream.running():
            pass

    async with stream.running():
        with pytest.raises(RuntimeError, match="make one Stream for each server"):
            await anyio.to_thread.run_sync(anyio.run, enter)
        assert stream.calls.is_ready


async def test_a_handler_that_raises_ends_its_own_call_only(caplog):
    """Its error is logged once with its traceback and recorded; other calls and the server go on."""

    class Moody(Quiet):
        def copy(self):
            return Moody()

        async def start_up(self):
            if get_current_context().webrtc_id == "unlucky":
                raise RuntimeError("no mood")

    with caplog.at_level(logging.INFO, "rtcflow"):
        async with serving(Moody(), concurrency_limit=None) as (stream, dial):
            await dial("lucky")
            session, _ = await dial("unlucky")
            await until(lambda: len(stream.calls) == 1)
            assert session.end.cause is EndCause.HANDLER_RAISED
            assert str(session.end.error) == "no mood"
            assert "lucky" in stream.calls
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == 1
    assert errors[0].exc_info[1] is session.end.error


class Exiting(StreamHandler):
    """Raises what it is told to raise."""

    def copy(self):
        return Exiting()

    def receive(self, frame):
        pass

    def emit(self):
        if self.latest_args and isinstance(self.latest_args[-1], BaseException):
            raise self.latest_args[-1]


class ExitingAsync(AsyncStreamHandler):
    def copy(self):
        return ExitingAsync()

    async def receive(self, frame):
        pass

    async def emit(self):
        if self.latest_args and isinstance(self.latest_args[-1], BaseException):
            raise self.latest_args[-1]


class Panic(BaseException):
    """What pyo3 calls a panic is such a class."""


@pytest.mark.parametrize("handler", [Exiting, ExitingAsync])
@pytest.mark.parametrize("error", [SystemExit(3), Panic("native code")])
async def test_a_handler_that_would_end_the_process_ends_its_own_call_only(handler, error, caplog):
    """sys.exit() in one call is told in the log, and nobody else hears of it."""
    with caplog.at_level(logging.ERROR):
        async with serving(handler(), concurrency_limit=2) as (stream, dial):
            one, _ = await dial("one")
            two, _ = await dial("two")
            stream.set_input("one", error)
            assert (await one.connection.wait_ended()).cause is EndCause.HANDLER_RAISED
            await until(lambda: len(stream.calls) == 1)
            assert two.end is None
            two.close()
            await two.connection.wait_ended()
    assert caplog.text.count(f"raised {type(error).__name__}") == 1


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_ctrl_c_in_a_handler_is_for_the_whole_process(backend):
    """KeyboardInterrupt may be raised wherever Python code runs, in a handler too: it goes on its way."""

    async def main():
        async with serving(ExitingAsync()) as (stream, dial):
            await dial("one")
            stream.set_input("one", KeyboardInterrupt())
            await anyio.sleep_forever()

    with pytest.raises((KeyboardInterrupt, BaseExceptionGroup)) as info:
        anyio.run(main, backend=backend)
    assert isinstance(info.value, KeyboardInterrupt) or info.value.subgroup(KeyboardInterrupt)


async def test_each_call_has_a_line_at_its_begin_and_at_its_end(caplog):
    """The log says who called over what, how it ended, and its figures."""
    with caplog.at_level(logging.INFO, "rtcflow.serving.session"):
        async with serving(Quiet()) as (stream, dial):
            session, line = await dial("abc")
            await until(lambda: session.statistics().setup is not None)
            await line.aclose()
            await until(lambda: len(stream.calls) == 0)
    begin, end = (record.message for record in caplog.records)
    assert begin == "memory call a… from 192.0.2.1:4711 begins"
    assert end.startswith("memory call a… from 192.0.2.1:4711 ended after ")
    assert "the peer left (connected in " in end


async def test_the_line_at_the_end_says_how_the_link_broke(caplog):
    """Where the cause alone says little, the log has the reason."""
    with caplog.at_level(logging.INFO, "rtcflow.serving.session"):
        async with serving(Quiet()) as (stream, dial):
            session, _ = await dial("abc")
            await until(lambda: session.connection.statistics().setup is not None)
            session.connection.transport.break_link(ConnectionError("the DTLS handshake failed"))
            await until(lambda: len(stream.calls) == 0)
    assert ": the link broke: the DTLS handshake failed (" in caplog.records[-1].message


# -- what the application does with a live call


async def test_arguments_reach_the_handler_of_that_call():
    """set_input hands arguments to one call; an unknown id is an error."""

    class Listening(Quiet):
        def copy(self):
            return Listening(self.diary)

        async def start_up(self):
            await self.wait_for_args()
            self.diary.append(list(self.latest_args))

    diary = []
    async with serving(Listening(diary)) as (stream, dial):
        await dial("abc")
        with pytest.raises(UnknownConnection):
            stream.set_input("xyz", 1)
        stream.set_input("abc", 1, "two")
        await until(lambda: diary)
    assert diary[0][1:] == [1, "two"]


async def test_outputs_reach_every_reader_and_end_with_the_call():
    """output_stream yields what the handler puts out, to any number of readers, and stops at the end of the call."""

    class Talking(Quiet):
        def __init__(self):
            super().__init__()
            self.left = [AdditionalOutputs("a"), AdditionalOutputs("b", 2)]

        def copy(self):
            return Talking()

        async def emit(self):
            if self.left:
                return self.left.pop(0)
            return await anyio.sleep_forever()

    async with serving(Talking()) as (stream, dial):
        session, line = await dial("abc")
        first = stream.output_stream("abc")
        assert [(await anext(first)).args for _ in range(2)] == [("a",), ("b", 2)]
        second = stream.output_stream("abc")
        session.outputs.put(AdditionalOutputs("c"))
        await line.aclose()
        assert [output.args async for output in first] == [("c",)]
        assert [output.args async for output in second] == [("c",)]
        with pytest.raises(UnknownConnection):
            stream.output_stream("abc")


async def test_the_application_can_close_a_call():
    """close ends that call with the given reason; an unknown id is an error."""
    async with serving(Quiet()) as (stream, dial):
        session, line = await dial("abc")
        await until(lambda: session.connection.statistics().setup is not None)
        with pytest.raises(UnknownConnection):
            stream.close("xyz")
        stream.close("abc", "enough")
        assert "enough" in await line.messages_in.take()
        await until(lambda: len(stream.calls) == 0)
        assert (session.end.cause, session.end.reason) == (EndCause.CLOSED, "enough")


async def test_a_time_limit_ends_the_call():
    """time_limit counts from connected."""
    async with serving(Quiet(), time_limit=0.05) as (stream, dial):
        session, _ = await dial()
        await until(lambda: len(stream.calls) == 0)
        assert session.end.cause is EndCause.TIME_LIMIT
