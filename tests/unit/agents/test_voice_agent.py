"""The whole agent in virtual time, with services of fixed delays: replies, tools and failures."""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import sys
import threading

import anyio
import numpy as np
import pytest
from turn_script import RATE, Script, turn

from rtcflow.agents import Conversation, ServiceError, ToolCall, VoiceAgent, tool
from rtcflow.handlers.turns import Interrupted, PlayoutFinished, ReplyFailed
from rtcflow.testing import open_caller
from rtcflow.testing.clocks import virtual_backend
from rtcflow.turns import EnergyVad, ReplyOnPause, SpeechEnded, SpeechStarted

pytestmark = pytest.mark.anyio

STT, FIRST_TOKEN, TOKEN, VOICE = 0.15, 0.2, 0.02, 0.1
PAUSE = 0.5


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    """Virtual time on both backends."""
    return virtual_backend(request.param)


def check(messages):
    """What every chat service demands: each call has exactly one result, right behind it."""
    at = 0
    while at < len(messages):
        calls = messages[at].get("tool_calls", ())
        assert messages[at]["role"] != "tool"
        for call in calls:
            at += 1
            assert (messages[at]["role"], messages[at]["tool_call_id"]) == ("tool", call["id"])
        at += 1
    json.dumps(messages)


class Services:
    """Fakes with fixed delays. The model says what it is told to, one answer after the other."""

    def __init__(self, *answers, words=("Hello?",)):
        self.answers, self.words = list(answers), list(words)
        self.asked, self.heard_seconds, self.open, self.cancelled_at = [], [], 0, []

    async def stt(self, audio):
        self.heard_seconds.append(audio[1].shape[1] / audio[0])
        await anyio.sleep(STT)
        return self.words.pop(0) if len(self.words) > 1 else self.words[0]

    async def chat(self, messages, tools):
        check(messages)
        self.asked.append(messages)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        self.open += 1
        try:
            await anyio.sleep(FIRST_TOKEN)
            for part in [answer] if isinstance(answer, str | Exception | ToolCall) else answer:
                if isinstance(part, Exception):
                    raise part
                if isinstance(part, float):
                    await anyio.sleep(part)
                elif isinstance(part, ToolCall):
                    yield part
                else:
                    for token in part.split(" "):
                        yield token + " "
                        await anyio.sleep(TOKEN)
        except anyio.get_cancelled_exc_class():
            self.cancelled_at.append(anyio.current_time())
            raise
        finally:
            self.open -= 1

    async def tts(self, text):
        await anyio.sleep(VOICE)
        return RATE, np.full((1, round(len(text) / 15 * RATE)), 5000, np.int16)

    def agent(self, script=(), **options):
        self.events = []
        return VoiceAgent(
            self.chat,
            stt=self.stt,
            tts=options.pop("tts", self.tts),
            detector=lambda: Script(list(script)),
            on_event=lambda event: self.events.append((anyio.current_time(), event)),
            output_sample_rate=RATE,
            **options,
        )

    def of(self, kind):
        return [event for _, event in self.events if isinstance(event, kind)]


LONG = "This is a long answer. " + "It has many sentences. " * 10


# -- replies


@pytest.mark.parametrize("speculative", [False, True])
async def test_the_first_sound_comes_as_soon_as_the_services_allow(speculative):
    """Pause + 450 ms and one frame; with `speculative`, what the services take from the first silence on."""
    services = Services("Of course I can do that. Just a moment.")
    async with open_caller(services.agent(turn(0.3, 1.0), speculative=speculative)) as caller:
        await caller.wait(5)
        (times,) = caller.handler.turns
    expected = STT + FIRST_TOKEN + VOICE + 6 * TOKEN + (0.1 if speculative else PAUSE)
    assert times.response_time == pytest.approx(expected, abs=0.06)
    assert list(times.marks) == ["stt", "llm_first_token", "tts_first_audio"]


async def test_a_conversation_is_kept():
    """Each turn is in the context, in the words that were said and heard."""
    services = Services("Good morning.", "Yes, it is.", words=["Hi.", "Is it?"])
    async with open_caller(services.agent(turn(0.3, 0.8) + turn(5.0, 5.5), system="Be kind.")) as caller:
        await caller.wait(10)
        assert caller.handler.conversation.messages == [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "Hi."},
            {"role": "assistant", "content": "Good morning."},
            {"role": "user", "content": "Is it?"},
            {"role": "assistant", "content": "Yes, it is."},
        ]


async def test_the_context_holds_what_was_heard():
    """After an interruption: a beginning of the answer, as long as what left for the caller."""
    services = Services(LONG, "Fine.", words=["Tell me.", "Stop."])
    async with open_caller(services.agent(turn(0.3, 0.8) + turn(5.0, 5.5))) as caller:
        await caller.wait(9)
        (interrupted,) = services.of(Interrupted)
        said = caller.handler.conversation.messages[1]["content"]
        assert said == interrupted.position.text.rstrip()
        assert LONG.startswith(said)
        assert len(said) == pytest.approx(15 * interrupted.position.seconds, abs=12)
        assert services.asked[1][1]["content"] == said
        assert services.asked[1][2] == {"role": "user", "content": "Stop."}


async def test_an_interruption_cancels_the_requests():
    """Within 50 ms of the decision no request is open."""
    services = Services(["One moment please. ", 10.0, "Done."], "Fine.")
    async with open_caller(services.agent(turn(0.3, 0.8) + turn(3.0, 3.4))) as caller:
        await caller.wait(3.4)
        ((at, _),) = [(at, event) for at, event in services.events if isinstance(event, Interrupted)]
        assert services.open == 0
        (cancelled,) = services.cancelled_at
        assert cancelled - at <= 0.05


async def test_what_was_said_before_an_early_interruption_is_not_lost():
    """The user goes on while the first half is being recognised: both halves are recognised together."""
    services = Services("Fine.", words=["whole"])
    async with open_caller(services.agent(turn(0.3, 0.8) + turn(1.35, 2.0, confirmed=0.05))) as caller:
        await caller.wait(6)
    assert len(services.heard_seconds) == 2
    assert services.heard_seconds[1] > services.heard_seconds[0] + 1
    assert [message["content"] for message in services.asked[-1]] == ["whole"]


async def test_a_dropped_speculation_leaves_nothing_in_the_context():
    """The user breathes, and goes on."""
    script = sorted(
        [*turn(0.3, 2.0), (0.9, SpeechEnded(0.8, 0.2)), (1.35, SpeechStarted(1.3))], key=lambda entry: entry[0]
    )
    services = Services("Fine.", words=["half", "whole"])
    async with open_caller(services.agent(script, speculative=True)) as caller:
        await caller.wait(6)
        messages = caller.handler.conversation.messages
    assert messages == [{"role": "user", "content": "whole"}, {"role": "assistant", "content": "Fine."}]


async def test_sentences_are_made_while_others_are_played():
    """At most a bound ahead: the voice has made two sentences more than are played, and no more."""
    made = []
    services = Services(LONG)

    async def tts(text):
        made.append((anyio.current_time(), text))
        return await Services.tts(services, text)

    async with open_caller(services.agent(turn(0.3, 0.8), tts=tts)) as caller:
        began = anyio.current_time()
        await caller.wait(6)
        heard = caller.handler.heard()
        ahead = sum(len(text) for at, text in made if at <= began + 6) - len(heard.text)
    assert 22 < ahead <= 4 * 23


async def test_a_voice_that_streams_gives_each_chunk_its_words():
    """Words go with the sound they are in, within a word or two, and all of them are heard at the end."""
    services = Services(LONG, "Fine.")

    async def tts(text):
        for _ in range(round(len(text) / 15 / 0.1)):
            yield RATE, np.full((1, round(0.1 * RATE)), 5000, np.int16)

    async with open_caller(services.agent(turn(0.3, 0.8) + turn(4.0, 4.4), tts=tts)) as caller:
        await caller.wait(8)
        (interrupted,) = services.of(Interrupted)
        (finished,) = services.of(PlayoutFinished)
        assert finished.heard.text.strip() == "Fine."
    assert LONG.startswith(interrupted.position.text)
    assert len(interrupted.position.text) == pytest.approx(15 * interrupted.position.seconds, abs=15)


async def test_a_plain_generator_of_a_voice_streams_from_worker_threads():
    """Each chunk is heard as it comes, and what holds the generator is closed at the end."""
    closed, threads = [], set()

    def speak(text):
        try:
            for _ in range(4):
                threads.add(threading.current_thread())
                yield RATE, np.full((1, RATE // 2), 5000, np.int16)
        finally:
            closed.append(text)

    services = Services("One two three four five six.")
    async with open_caller(services.agent(turn(0.3, 0.8), tts=speak)) as caller:
        await caller.wait(6)
        loud = sum(heard.frame.duration for heard in caller.heard if np.abs(heard.frame.samples).max() > 1000)
        said = caller.handler.conversation.messages[-1]["content"]
    assert loud == pytest.approx(2.0, abs=0.05)
    assert [text.strip() for text in closed] == [said.strip()] == ["One two three four five six."]
    assert threading.current_thread() not in threads


async def test_a_plain_generator_that_is_interrupted_is_closed_by_its_thread(caplog):
    """Nobody can stop a thread. Its next step closes the generator, and nothing is logged as an error."""
    closed, entered, go = [], threading.Event(), threading.Event()

    def speak(text):
        try:
            yield RATE, np.full((1, RATE // 2), 5000, np.int16)
            entered.set()
            go.wait(30)
            yield RATE, np.full((1, RATE // 2), 5000, np.int16)
        finally:
            closed.append(threading.current_thread())

    services = Services("One two three four five six.")
    async with open_caller(services.agent(turn(0.3, 0.8), tts=speak)) as caller:
        await caller.wait(2)
        assert entered.is_set()
        caller.handler.interrupt()
        await caller.wait(0.5)
        assert closed == []
        go.set()
        await caller.wait(0.5)
    assert len(closed) == 1
    assert closed != [threading.current_thread()]
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_a_voice_may_give_any_iterator():
    """Nothing has to be closed there."""

    def speak(text):
        return iter(2 * [(RATE, np.full((1, RATE // 2), 5000, np.int16))])

    services = Services("One two three four five six.")
    async with open_caller(services.agent(turn(0.3, 0.8), tts=speak, apology=None)) as caller:
        await caller.wait(6)
    assert services.of(ReplyFailed) == []
    (finished,) = services.of(PlayoutFinished)
    assert finished.heard.text.strip() == "One two three four five six."


async def test_words_without_sound_do_not_shift_the_others():
    """A voice may have nothing to say of a piece, such as a line of stars."""

    async def speak(text):
        if text.strip() != "***":
            yield RATE, np.full((1, RATE), 5000, np.int16)

    services = Services("***\nOne two three four five six seven. ")
    async with open_caller(services.agent(turn(0.3, 0.8), tts=speak, apology=None)) as caller:
        await caller.wait(6)
        said = caller.handler.conversation.messages[-1]["content"]
    assert said == "***\nOne two three four five six seven."


@pytest.mark.parametrize("seconds", [0.02, 20.0])
@pytest.mark.parametrize(
    "answer",
    [("word " * 56).strip() + ".", "今日はとても天気がいいですから散歩に行きましょう" * 4 + "。"],
    ids=["English", "Japanese"],
)
async def test_long_sentences_of_a_voice_that_streams_are_cut_where_they_were_heard(seconds, answer):
    """However short its chunks are, and in scripts without blanks, too."""

    async def speak(text):
        left = len(text.encode()) / 15
        while left > 0:
            yield RATE, np.full((1, round(min(left, seconds) * RATE)), 5000, np.int16)
            left -= seconds

    services = Services(answer, "Fine.")
    async with open_caller(services.agent(turn(0.3, 0.8) + turn(12.0, 12.4), tts=speak)) as caller:
        await caller.wait(14)
        (interrupted,) = services.of(Interrupted)
        kept = next(m["content"] for m in caller.handler.conversation.messages if m["role"] == "assistant")
    position = interrupted.position
    assert 9 < position.seconds < 11
    assert answer.startswith(kept)
    assert len(kept.encode()) == pytest.approx(15 * position.seconds, abs=15)


async def test_a_voice_that_gives_nothing_costs_one_turn():
    async def speak(text):
        return None

    services = Services("Hello.")
    async with open_caller(services.agent(turn(0.3, 0.8), tts=speak, apology=None)) as caller:
        await caller.wait(4)
    (failed,) = services.of(ReplyFailed)
    assert "tts gave None; it must return (sample_rate, samples)" in str(failed.error)


@pytest.mark.parametrize("words", ["", "  \n"])
async def test_nothing_that_was_understood_is_not_answered(words):
    services = Services("Hello.", words=[words])
    async with open_caller(services.agent(turn(0.3, 0.8))) as caller:
        await caller.wait(4)
        assert caller.handler.conversation.messages == []
    assert services.asked == []


async def test_a_greeting_is_part_of_the_context():
    """The model knows what the bot has said first."""
    services = Services("Fine.")
    async with open_caller(services.agent(greeting="Welcome.")) as caller:
        await caller.wait(2)
        assert caller.handler.conversation.messages == [{"role": "assistant", "content": "Welcome."}]


async def test_typed_text_is_answered():
    """`reply_to` needs no speech to text."""
    services = Services("Fine.")
    async with open_caller(services.agent()) as caller:
        await caller.wait(0.2)
        caller.handler.reply_to("Hello from the keyboard.")
        await caller.wait(2)
    assert services.asked[0] == [{"role": "user", "content": "Hello from the keyboard."}]
    assert services.heard_seconds == []


async def test_the_page_has_both_sides_and_takes_text():
    """What was said and answered, with the unheard part; what is typed is answered; a page's own JSON is not."""
    services = Services(LONG, "Fine.", words=["Tell me."])
    async with open_caller(services.agent(turn(0.3, 0.8))) as caller:
        await caller.wait(5)
        caller.send_message('{"type": "mine"}')
        caller.send_message("Stop it.")
        await caller.wait(5)
        messages = [json.loads(text) for _, text in caller.messages]
    rows = {}
    for message in messages:
        if message["type"] == "transcript":
            rows[message["data"]["id"]] = message["data"]
    first, cut, second, whole = rows.values()
    assert (first["text"], second["text"]) == ("Tell me.", "Stop it.")
    assert LONG.startswith(cut["heard"])
    assert cut["text"].startswith(cut["heard"])
    assert len(cut["text"]) > len(cut["heard"]) + 20
    assert whole["heard"] == whole["text"]


async def test_a_conversation_is_resumed():
    """`as_dict` in one call, `from_dict` in the next."""
    kept = Conversation("Be kind.")
    kept.add_user("My name is Ada.")
    kept = json.loads(json.dumps(kept.as_dict()))
    services = Services("Fine.")
    agent = services.agent(turn(0.3, 0.8), conversation=lambda: Conversation.from_dict(kept))
    async with open_caller(agent) as caller:
        await caller.wait(4)
    assert [message["content"] for message in services.asked[0]] == ["Be kind.", "My name is Ada.", "Hello?"]


# -- tools


def slow(policy, seconds, log):
    @tool(policy=policy)
    async def work() -> str:
        """Work."""
        log.append("begun")
        try:
            await anyio.sleep(seconds)
            log.append("done")
        except anyio.get_cancelled_exc_class():
            log.append("cancelled")
            raise
        return "forty-two"

    return work


CALL = ["One moment. ", ToolCall("a", "work", "{}")]


async def test_a_tool_is_called_and_the_model_told():
    """A call, its result, and the answer in one reply."""
    log = []
    services = Services(CALL, "It is forty-two.")
    async with open_caller(services.agent(turn(0.3, 0.8), tools=[slow("cancel", 0.5, log)])) as caller:
        await caller.wait(8)
        messages = caller.handler.conversation.messages
    assert log == ["begun", "done"]
    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "assistant"]
    assert messages[2]["content"] == "forty-two"
    assert len(services.of(PlayoutFinished)) == 1


async def test_no_tool_runs_before_the_turn_has_ended():
    """The answer to a breath may call one; what cannot be undone waits until the user has finished."""
    script = [*turn(0.3, 3.0), (0.9, SpeechEnded(0.8, 0.2)), (2.0, SpeechStarted(1.9))]
    log = []
    services = Services([ToolCall("a", "work")], "Fine.")
    agent = services.agent(
        sorted(script, key=lambda entry: entry[0]), tools=[slow("cancel", 0.1, log)], speculative=True
    )
    async with open_caller(agent) as caller:
        await caller.wait(6)
        assert log == []
        assert [message["role"] for message in caller.handler.conversation.messages] == ["user", "assistant"]


@pytest.mark.parametrize(
    ("policy", "log", "result"),
    [
        ("cancel", ["begun", "cancelled"], "cancelled"),
        ("finish_and_remember", ["begun", "done"], "forty-two"),
        ("finish_and_speak", ["begun", "done"], "forty-two"),
    ],
)
async def test_policies_say_what_becomes_of_a_tool(policy, log, result):
    """The user interrupts while it runs: cancelled, remembered, or spoken about."""
    done = []
    services = Services(CALL, "Fine.", "It is forty-two.")
    agent = services.agent(turn(0.3, 0.8) + turn(3.0, 3.4), tools=[slow(policy, 6.0, done)])
    async with open_caller(agent) as caller:
        await caller.wait(5.0)
        if policy != "cancel":
            assert "still running" in json.dumps(services.asked[1])
        await caller.wait(9)
        messages = caller.handler.conversation.messages
        heard = [event.heard.text.strip() for event in services.of(PlayoutFinished)]
    check(messages)
    assert done == log
    (answer,) = [message["content"] for message in messages if message["role"] == "tool"]
    assert result in answer
    assert heard == ["Fine.", "It is forty-two."] if policy == "finish_and_speak" else ["Fine."]


async def test_a_result_the_model_has_read_is_not_spoken_about_again():
    """The user asks first: the answer has the result, and nobody repeats it."""
    services = Services(CALL, LONG, "It is forty-two.", "Again?")
    script = turn(0.3, 0.8) + turn(3.0, 3.4) + turn(7.0, 7.4)
    async with open_caller(services.agent(script, tools=[slow("finish_and_speak", 3.0, [])])) as caller:
        await caller.wait(14)
    assert len(services.asked) == 3
    assert "forty-two" in json.dumps(services.asked[2])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (ToolCall("a", "nothing", "{}"), "there is no tool"),
        (ToolCall("a", "work", "{"), "not JSON"),
        (ToolCall("a", "work", '{"x": 1}'), "has no argument"),
        (ToolCall("a", "broken", "{}"), "ZeroDivisionError"),
        (ToolCall("a", "odd", "{}"), "not JSON serializable"),
        (ToolCall("a", "forever", "{}"), "no result after 2 s"),
        (ToolCall("a", "late", "{}"), "TimeoutError: the database"),
    ],
)
async def test_a_tool_that_fails_is_told_to_the_model(call, words):
    """Bad names and arguments, errors, results that JSON cannot hold, and no result: the model hears why, once."""

    def broken() -> float:
        return 1 / 0

    async def odd() -> object:
        return object()

    async def late() -> None:
        raise TimeoutError("the database")

    @tool(timeout=2)
    async def forever() -> None:
        await anyio.sleep_forever()

    services = Services([call], "I could not do that.")
    tools = [slow("cancel", 0.1, []), broken, odd, late, forever]
    async with open_caller(services.agent(turn(0.3, 0.8), tools=tools)) as caller:
        await caller.wait(8)
        messages = caller.handler.conversation.messages
        assert len(services.of(PlayoutFinished)) == 1
    (answer,) = [message["content"] for message in messages if message["role"] == "tool"]
    assert words in answer


@pytest.mark.parametrize("service", ["chat", "stt", "tts"])
async def test_a_timeout_of_a_service_itself_is_told_as_it_is(service):
    """It is not the agent that has lost its patience."""

    async def fail(*_):
        raise TimeoutError("the pool has no connection")

    async def chat(*_):
        await fail()
        yield ""

    services = Services("Hello.")
    setattr(services, service, chat if service == "chat" else fail)
    async with open_caller(services.agent(turn(0.3, 0.8), apology=None)) as caller:
        await caller.wait(3)
    (failed,) = services.of(ReplyFailed)
    assert repr(failed.error) == "TimeoutError('the pool has no connection')"


async def test_a_filter_that_fails_is_nothing_to_apologize_for(caplog):
    """The caller is heard and answered all the same."""

    class Broken:
        latency, needs_played = 0.0, False

        def __init__(self, format):
            pass

        def feed(self, samples, played):
            raise LookupError("no model")

    services = Services("Hello.")
    async with open_caller(services.agent(turn(0.3, 0.8) + turn(5.0, 5.5), filters=[Broken])) as caller:
        await caller.wait(10)
        said = [message["content"] for message in caller.handler.conversation.messages]
    assert said == ["Hello?", "Hello."] * 2
    assert services.of(ReplyFailed) == []
    assert ".Broken failed in turn 1" in caplog.text


async def test_a_decorated_tool_is_awaited():
    """A plain function around an async one runs in a worker thread, and gives a coroutine."""

    def logged(function):
        @functools.wraps(function)
        def around(**arguments):
            return function(**arguments)

        return around

    @logged
    async def add(a: int, b: int) -> int:
        await anyio.sleep(0.1)
        return a + b

    services = Services([ToolCall("a", "add", '{"a": 1, "b": 2}')], "It is three.")
    async with open_caller(services.agent(turn(0.3, 0.8), tools=[add])) as caller:
        await caller.wait(8)
        messages = caller.handler.conversation.messages
    assert [message["content"] for message in messages if message["role"] == "tool"] == ["3"]


@pytest.mark.parametrize("anyio_backend", [virtual_backend("asyncio")], ids=["asyncio"])
async def test_a_tool_that_meets_a_cancelled_future_has_failed():
    """The user has interrupted nothing; on asyncio it only looks so."""

    async def work() -> str:
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        return str(await future)

    services = Services([ToolCall("a", "work", "{}")], "I could not do that.")
    async with open_caller(services.agent(turn(0.3, 0.8), tools=[work])) as caller:
        await caller.wait(8)
        messages = caller.handler.conversation.messages
    (answer,) = [message["content"] for message in messages if message["role"] == "tool"]
    assert "somebody else had cancelled" in answer


async def test_a_model_that_only_calls_tools_comes_to_an_end():
    """The last time it is asked, it gets no tools."""
    offered = []
    services = Services([ToolCall("a", "work")])
    chat = services.chat

    async def counting(messages, tools):
        offered.append(len(tools))
        async for item in chat(messages, tools):
            if tools:
                yield item

    services.chat = counting
    async with open_caller(services.agent(turn(0.3, 0.8), tools=[slow("cancel", 0.1, [])])) as caller:
        await caller.wait(8)
        check(caller.handler.conversation.messages)
    assert offered == [1] * 7 + [0]


# -- services that fail


async def hangs_up(messages, tools):
    yield "This is half of "
    raise ServiceError("the chat service hung up in the middle of its answer")


async def stalls(messages, tools):
    yield "One moment. "
    await anyio.sleep_forever()


async def refuses(messages, tools):
    raise ConnectionError("401 Unauthorized")
    yield


async def babbles(messages, tools):
    yield 5


@pytest.mark.parametrize("chat", [hangs_up, stalls, refuses, babbles])
@pytest.mark.parametrize("apology", ["Sorry.", None])
async def test_a_chat_service_that_fails_costs_one_turn(chat, apology):
    """One event, an apology if there is one, and the next turn is answered."""
    services = Services("Fine.")
    agent = services.agent(turn(0.3, 0.8) + turn(12.0, 12.4), apology=apology, patience=3.0)
    async with open_caller(agent) as caller:
        good, caller.handler._chat = caller.handler._chat, chat
        await caller.wait(10)
        assert len(services.of(ReplyFailed)) == 1
        said = [
            message["content"] for message in caller.handler.conversation.messages if message["role"] == "assistant"
        ]
        assert ("Sorry." in said) is (apology is not None)
        caller.handler._chat = good
        await caller.wait(6)
        assert services.of(PlayoutFinished)[-1].heard.text.strip() == "Fine."
        check(caller.handler.conversation.messages)


@pytest.mark.parametrize("service", ["stt", "tts"])
@pytest.mark.parametrize("how", ["raises", "stalls", "junk"])
async def test_a_voice_or_ear_that_fails_costs_one_turn(service, how):
    """Also where the apology cannot be spoken: no loop of apologies, and the call goes on."""

    async def bad(given):
        if how == "raises":
            raise ConnectionError("429 Too Many Requests")
        if how == "stalls":
            await anyio.sleep_forever()
        return 5

    services = Services("Fine.")
    async with open_caller(services.agent(turn(0.3, 0.8) + turn(12.0, 12.4), patience=2.0)) as caller:
        good = getattr(caller.handler, f"_{service}")
        setattr(caller.handler, f"_{service}", bad)
        await caller.wait(10)
        failed = services.of(ReplyFailed)
        assert len(failed) == (2 if service == "tts" else 1)  # the second is the apology's
        setattr(caller.handler, f"_{service}", good)
        await caller.wait(6)
        assert services.of(PlayoutFinished)[-1].heard.text.strip() == "Fine."


async def test_an_idle_agent_runs_what_an_idle_reply_on_pause_runs():
    """While nobody speaks, the agent layer costs nothing: each frame takes the same calls of Python functions."""

    async def reply(audio):
        yield RATE, np.zeros((1, RATE), np.int16)

    def is_counted(frame):
        """Not how virtual time looks around, which it does more often on a busy machine."""
        package, _, module = frame.f_globals["__name__"].partition(".")
        return package in {"rtcflow", "numpy"} and not module.startswith("testing")

    async def calls_in_a_second(handler):
        count = 0

        def profile(frame, event, arg):
            nonlocal count
            count += event == "call" and is_counted(frame) and is_counted(frame.f_back)

        async with open_caller(handler) as caller:
            caller.play_nowait(np.zeros(48000 * 4, np.int16))
            await caller.wait(1)
            sys.setprofile(profile)
            try:
                await caller.wait(1)
            finally:
                sys.setprofile(None)
        return count

    agent, alone = [], []
    for _ in range(2):  # the less of two: the first run also fills caches, and the collector calls finalizers in any
        agent.append(await calls_in_a_second(Services("Yes.").agent()))
        alone.append(await calls_in_a_second(ReplyOnPause(reply, detector=lambda: Script([]), output_sample_rate=RATE)))
    assert min(agent) == min(alone)
    assert min(alone) > 500


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"chat": None}, TypeError, "chat must be a function, not None; write: async def chat"),
        ({"stt": "whisper"}, TypeError, "stt must be a function"),
        ({"tts": 3}, TypeError, "tts must be a function"),
        ({"patience": 0}, ValueError, "patience must be seconds"),
        ({"tools": [3]}, TypeError, "a tool must be a function"),
    ],
)
def test_what_cannot_serve_is_refused_when_the_agent_is_made(arguments, error, words):
    """With the line to write, and not at the first turn of the first caller."""
    services = Services("Yes.")
    right = {"chat": services.chat, "stt": services.stt, "tts": services.tts}
    with pytest.raises(error, match=words):
        VoiceAgent(**(right | arguments), model=EnergyVad())
