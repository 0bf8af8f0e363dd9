"""Arguments to a call and outputs of it: over HTTP, by fetching, and as an application's function shows them."""

from __future__ import annotations

import asyncio
import functools
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio
import httpx2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtcflow import ends
from rtcflow.ends import Timeouts
from rtcflow.handlers.base import AsyncStreamHandler
from rtcflow.outputs import AdditionalOutputs
from rtcflow.protocol.sse import encode_event, plain
from rtcflow.routes import data as asgi_data
from rtcflow.serving.output_events import OutputFunction
from rtcflow.serving.session import CallRequest
from rtcflow.stream import Stream
from rtcflow.transports.memory import memory_pair

QUICK = Timeouts(connect=5, shutdown=0.5, grace=0.1, goodbye=0.5)


class Quiet(AsyncStreamHandler):
    def copy(self):
        return Quiet()

    async def receive(self, frame):
        pass

    async def emit(self):
        await anyio.sleep_forever()


@asynccontextmanager
async def site(make=Stream, **options):
    """A client of a stream that serves the call "abc": yields the client and the call's session."""
    stream = make(Quiet(), timeouts=QUICK, **options)
    transport = httpx2.ASGITransport(stream.asgi)
    with anyio.fail_after(20):
        async with (
            stream.running(),
            httpx2.AsyncClient(transport=transport, base_url="http://site") as client,
            memory_pair() as (ours, _),
        ):
            async with stream.calls.admit(CallRequest(), "memory", "abc") as session:
                stream.calls.start(session, ours)
            yield client, stream, session


def events(text):
    """The named events of a response's text."""
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line)
        if fields:
            found.append((fields["event"], json.loads(fields["data"])))
    return found


async def ended_after(client, session, *outputs):
    """What a reader of the outputs route gets of a call that puts these out and ends."""
    found = []

    async def read():
        found.append(await client.get("/webrtc/outputs", params={"webrtc_id": "abc"}))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read)
        while not (session.events and session.events.readers):
            await anyio.sleep(0.001)
        for output in outputs:
            session.outputs.put(output)
        session.close()
    return found[0]


# -- arguments


@pytest.mark.anyio
async def test_arguments_are_set_by_post():
    """POST to the input route hands the arguments to the handler of that call, after the id as everywhere."""
    async with site() as (client, _, session):
        body = {"webrtc_id": "abc", "args": [1, "two", {"three": None}]}
        response = await client.post("/webrtc/input", json=body)
        assert (response.status_code, response.json()) == (200, {"status": "success"})
        assert list(session.handler.latest_args)[1:] == [1, "two", {"three": None}]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"webrtc_id": "xyz", "args": []}, 404, "live"),
        ({"webrtc_id": "abc"}, 422, "args"),
        ({"webrtc_id": "abc", "args": "one"}, 422, "args"),
        ({"webrtc_id": "abc", "args": []}, 422, "at least one"),
        ({"args": []}, 422, "webrtc_id"),
        ([], 400, "object"),
    ],
)
async def test_wrong_arguments_change_nothing(body, status, words):
    """What is not for a live call, or no list, is refused with words, and the handler's arguments stay."""
    async with site() as (client, _, session):
        before = session.handler.latest_args
        response = await client.post("/webrtc/input", json=body)
        assert response.status_code == status
        assert words in response.json()["meta"]["message"]
        assert session.handler.latest_args is before


# -- outputs as events


@pytest.mark.anyio
async def test_outputs_are_events_until_the_end():
    """The route sends each output as a list of its values, and "end" with how the call ended."""
    async with site() as (client, _, session):
        session.outputs.put(AdditionalOutputs("early"))
        response = await ended_after(client, session, AdditionalOutputs("a", 2), AdditionalOutputs())
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-store"
        assert events(response.text) == [
            ("output", ["early"]),
            ("output", ["a", 2]),
            ("output", []),
            ("end", "closed"),
        ]
        assert (await client.get("/webrtc/outputs?webrtc_id=abc")).status_code == 404


@pytest.mark.anyio
async def test_outputs_need_the_id_of_a_live_call():
    """Without an id it is a 422, with a wrong one a 404, and the 17th reader of one call gets a 503."""
    async with site() as (client, stream, session):
        assert (await client.get("/webrtc/outputs")).status_code == 422
        assert (await client.get("/webrtc/outputs?webrtc_id=ab")).status_code == 404
        readers = [stream.calls.events(session).read() for _ in range(asgi_data.MAX_READERS)]
        assert (await client.get("/webrtc/outputs?webrtc_id=abc")).status_code == 503
        readers[0][1].close()  # who leaves makes room
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.get, "/webrtc/outputs?webrtc_id=abc")
            while session.events.readers < asgi_data.MAX_READERS:
                await anyio.sleep(0.001)
            session.close()


@pytest.mark.anyio
async def test_silence_is_kept_alive(monkeypatch):
    """While nothing is put out, comments are sent; they are no events, and no output is lost to them."""
    monkeypatch.setattr(asgi_data, "KEEP_ALIVE", 0.01)
    async with site() as (client, _, session):

        async def talk():
            await anyio.sleep(0.5)
            session.outputs.put(AdditionalOutputs("at last"))
            session.close()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(talk)
            response = await client.get("/webrtc/outputs?webrtc_id=abc")
        assert response.text.count(":\n\n") >= 3
        assert events(response.text)[0] == ("output", ["at last"])


@pytest.mark.anyio
async def test_a_reader_that_leaves_is_forgotten():
    """When the page goes away its reader is gone, and the call goes on."""
    async with site() as (_, stream, session):
        said, gone = [], anyio.Event()

        async def receive():
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            said.append(message)

        scope = {
            "type": "http",
            "method": "GET",
            "path": "/webrtc/outputs",
            "raw_path": b"/webrtc/outputs",
            "root_path": "",
            "query_string": b"webrtc_id=abc",
            "headers": [],
            "asgi": {"spec_version": "2.3"},
        }
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stream.asgi, scope, receive, send)
            while len(said) < 2:
                await anyio.sleep(0.001)
            assert said[1]["body"] == b":\n\n"
            assert session.events.readers == 1
            gone.set()
        assert session.events.readers == 0
        assert session.end is None


@pytest.mark.anyio
async def test_a_request_for_the_headers_alone_is_answered_at_once():
    """HEAD has the headers of GET (RFC 9110 section 9.3.2); an answer without an end would keep its connection."""
    async with site() as (client, _, session):
        response = await client.head("/webrtc/outputs", params={"webrtc_id": "abc"})
        assert (response.status_code, response.text) == (200, "")
        assert response.headers["content-type"].startswith("text/event-stream")
        assert session.events is None
        assert (await client.head("/webrtc/outputs", params={"webrtc_id": "never"})).status_code == 404


# -- as the application shows them


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_additional_outputs_handler_makes_what_is_shown(kind):
    """It is called with what it returned before, at first None, and the new values; the route sends what it returns."""

    def history(before, word):
        return f"{before} {word}" if before else word

    async def history_async(before, word):
        return history(before, word)

    function = history if kind == "sync" else history_async
    async with site(additional_outputs_handler=function) as (client, _, session):
        response = await ended_after(client, session, AdditionalOutputs("all"), AdditionalOutputs("together"))
        assert events(response.text)[:2] == [("output", ["all"]), ("output", ["all together"])]


@pytest.mark.anyio
async def test_several_values_are_a_tuple():
    """A handler of two components gets both back, as FastRTC's gets its components' values."""

    def count(words, number, word):
        return [*(words or []), word], (number or 0) + 1

    async with site(additional_outputs_handler=count) as (client, _, session):
        response = await ended_after(client, session, AdditionalOutputs("a"), AdditionalOutputs("b"))
        assert events(response.text)[:2] == [("output", [["a"], 1]), ("output", [["a", "b"], 2])]


@pytest.mark.anyio
async def test_what_the_function_raises_is_told_and_goes_on(caplog):
    """It is logged, readers are told by an event of its own name, and the next output is shown all the same."""

    def touchy(before, word):
        if word == "b":
            raise RuntimeError("secret")
        return (before or "") + word

    async with site(additional_outputs_handler=touchy) as (client, _, session):
        response = await ended_after(client, session, *map(AdditionalOutputs, "abc"))
        assert events(response.text) == [
            ("output", ["a"]),
            ("failure", "an output could not be shown"),
            ("output", ["ac"]),
            ("end", "closed"),
        ]
    assert "secret" in caplog.text


class Panic(BaseException):
    """As native code raises it."""


class Unspeakable:
    def __str__(self):
        raise Panic


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("value", Panic),
        ("sync", SystemExit),
        ("sync", asyncio.CancelledError),
        ("async", GeneratorExit),
        ("async", KeyboardInterrupt),
        ("async", asyncio.CancelledError),
    ],
)
async def test_no_exception_of_the_function_ends_other_calls(kind, error, monkeypatch):
    """SystemExit, the panic of native code, or a future that somebody else cancelled: one failure, and all goes on."""
    monkeypatch.setattr(ends, "ctrl_c_raises", lambda: False)  # as under `rtcflow serve`

    def touchy(word):
        if word == "b":
            raise error
        return word

    async def touchy_async(word):
        return touchy(word)

    options = {} if kind == "value" else {"additional_outputs_handler": touchy if kind == "sync" else touchy_async}
    odd = Unspeakable() if kind == "value" else "b"
    async with site(concurrency_limit=2, **options) as (client, stream, session), memory_pair() as (ours, _):
        async with stream.calls.admit(CallRequest(), "memory", "other") as other:
            stream.calls.start(other, ours)
        response = await ended_after(client, session, *map(AdditionalOutputs, ("a", odd, "c")))
        assert events(response.text)[1:3] == [("failure", "an output could not be shown"), ("output", ["c"])]
        assert other.end is None
        assert stream.calls.is_running


async def read_until(stream, wanted, last_id=None, patience=20):
    """The first events that a reader of call "abc" gets, as text, until `wanted` is in it; then it leaves."""
    text, gone = [], anyio.Event()

    async def receive():
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message):
        text.append(message.get("body", b"").decode())
        if wanted in "".join(text):
            gone.set()

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/webrtc/outputs",
        "raw_path": b"/webrtc/outputs",
        "root_path": "",
        "query_string": b"webrtc_id=abc",
        "headers": [] if last_id is None else [(b"last-event-id", last_id.encode())],
        "asgi": {"spec_version": "2.3"},
    }
    with anyio.fail_after(patience):
        await stream.asgi(scope, receive, send)
    return events("".join(text))


@pytest.mark.anyio
async def test_two_readers_are_shown_the_same_and_it_is_made_once():
    """Both see every state; the function ran once for each output."""
    calls = []

    def history(before, word):
        calls.append(word)
        return f"{before} {word}" if before else word

    async with site(additional_outputs_handler=history) as (client, _, session):
        texts = []

        async def read():
            texts.append((await client.get("/webrtc/outputs?webrtc_id=abc")).text)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            tasks.start_soon(read)
            while not session.events or session.events.readers < 2:
                await anyio.sleep(0.001)
            for word in ("a", "b"):
                session.outputs.put(AdditionalOutputs(word))
            session.close()
        assert texts[0] == texts[1]
        assert events(texts[0]) == [("output", ["a"]), ("output", ["a b"]), ("end", "closed")]
        assert calls == ["a", "b"]


@pytest.mark.anyio
async def test_a_reader_that_comes_again_has_missed_nothing():
    """The state outlives a reader: it begins with the present one, or, if it has seen that, with the next."""

    def history(before, word):
        return f"{before} {word}" if before else word

    async def made(count):
        while session.events._count < count:
            await anyio.sleep(0.001)

    async with site(additional_outputs_handler=history) as (_, stream, session):
        session.outputs.put(AdditionalOutputs("a"))
        assert await read_until(stream, '["a"]') == [("output", ["a"])]
        session.outputs.put(AdditionalOutputs("b"))  # while nobody reads
        await made(2)
        assert await read_until(stream, "output") == [("output", ["a b"])]
        assert await read_until(stream, "output", last_id="1") == [("output", ["a b"])]
        assert await read_until(stream, "output", last_id="77") == [("output", ["a b"])]  # of an earlier call
        session.outputs.put(AdditionalOutputs("c"))
        assert (await read_until(stream, "c", last_id="2"))[-1] == ("output", ["a b c"])
        await made(3)
        with pytest.raises(TimeoutError):
            await read_until(stream, "output", last_id="3", patience=0.5)


@pytest.mark.anyio
async def test_outputs_themselves_are_kept_for_who_comes_later():
    """Without a function the last 256 are, and who says what it saw last gets what came after that."""
    async with site() as (_, stream, session):
        for number in range(3):
            session.outputs.put(AdditionalOutputs(number))
        assert [data for _, data in await read_until(stream, "[2]")] == [[0], [1], [2]]
        assert [data for _, data in await read_until(stream, "[2]")] == [[0], [1], [2]]
        assert [data for _, data in await read_until(stream, "[2]", last_id="1")] == [[1], [2]]
        assert [data for _, data in await read_until(stream, "[2]", last_id="nonsense")] == [[0], [1], [2]]


# -- how it is called


def several(history, *new):
    return [*(history or []), *new]


def spaced(before, word, separator=" "):
    return (before or "") + separator + word


def optional(before=None, word=""):
    return (before or "") + word


def newest(word, mark="!"):
    return word + mark


def everything(*values):
    return list(values)


class Remembers:
    async def __call__(self, before, word):
        await anyio.sleep(0)
        return (before or "") + word


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("function", "outputs", "expected"),
    [
        (several, [("a",), ("b", "c")], [["a", "b", "c"]]),
        (spaced, [("a",), ("b",)], [" a b"]),
        (optional, [("a",), ("b",)], ["ab"]),
        (newest, [("a",), ("b",)], ["b!"]),
        (everything, [("a",), ("b",)], [["b"]]),
        (Remembers(), [("a",), ("b",)], ["ab"]),
        (functools.partial(spaced, separator="-"), [("a",), ("b",)], ["-a-b"]),
        (lambda before, word: Remembers()(before, word), [("a",), ("b",)], ["ab"]),
    ],
)
async def test_former_values_are_counted_by_the_signature(function, outputs, expected):
    """Star, defaults, objects with an async ``__call__``, partials: each gets what it returned before and the new."""
    making = OutputFunction(function)
    for output in outputs:
        shown = await making.after(AdditionalOutputs(*output))
    assert shown == expected


def test_a_function_that_needs_keywords_is_refused_at_once():
    """When the stream is made, not when the first reader comes."""

    def strict(before, word, *, mark):
        return word

    with pytest.raises(TypeError, match="strict is called with positional arguments only, but needs mark="):
        Stream(Quiet(), additional_outputs_handler=strict)


def test_an_additional_outputs_handler_must_be_a_function():
    """Anything else is an error at once."""
    with pytest.raises(TypeError, match="additional_outputs_handler"):
        Stream(Quiet(), additional_outputs_handler="show")


# -- values as JSON


@dataclass
class Word:
    text: str
    score: float


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float32(0.5), 0.5),
        (np.array([[1, 2]]), [[1, 2]]),
        (np.array([np.nan, 1.0]), [None, 1.0]),
        (float("inf"), None),
        ((1, [2]), [1, [2]]),
        ({1: {2}}, {"1": [2]}),
        (Word("hi", np.float64(1)), {"text": "hi", "score": 1.0}),
        (True, True),
        (1 + 2j, "(1+2j)"),
    ],
)
def test_values_become_plain(value, expected):
    """Arrays are lists, dataclasses objects, what is not finite null, and the unknown its words."""
    assert plain(value) == expected
    assert type(plain(value)) is type(expected)


def test_a_value_that_contains_itself_is_an_error():
    """No endless loop, no crash of the interpreter."""
    loop = []
    loop.append(loop)
    with pytest.raises(ValueError, match="itself"):
        plain(loop)


@given(
    st.recursive(st.none() | st.floats() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))
)
def test_an_event_is_one_line_of_json(value):
    """Whatever the value, line ends in it included, the event has one data line, which is JSON."""
    text = encode_event("output", value).decode()
    assert text.startswith("event: output\ndata: ")
    assert text.endswith("\n\n")
    assert len(text.rstrip("\n").split("\n")) == 2
    assert json.loads(text.split("data: ", 1)[1]) == plain(value)
