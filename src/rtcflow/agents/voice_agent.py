"""`VoiceAgent`: speech to text, a chat model with tools, and a voice, put together under interruption.

    said ──→ stt ──→ Conversation ──→ chat ──→ sentences ──→ tts ──→ Say(audio, words)
                          ↑            │ calls
                          └── results ←┴── one task for each tool, in the call's task group

The models are functions of the user's. This class adds the order in which things happen. It also decides what happens
to the context when the user interrupts. Only the part of a reply that was heard stays in it, and each call of a tool
has exactly one result. A tool outlives the reply that called it if its policy says so; nothing outlives the call.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator
from contextlib import aclosing, contextmanager
from functools import partial
from itertools import accumulate
from typing import Any
from unicodedata import east_asian_width

import anyio
import anyio.lowlevel
import numpy as np

from ..handlers.base import get_current_handler
from ..handlers.ledger import whole_words
from ..handlers.turns import Heard, ReplyFailed, ReplyOnPause, Say, TurnEvent
from ..handlers.turns.reply import Reply, steps_in_thread
from ..handlers.turns.state import Audio
from ..protocol.chat import ServiceError, ToolCall
from .calling import run_tools
from .conversation import Conversation
from .sentences import closable, sentences

__all__ = ["VoiceAgent", "in_process"]

logger: logging.Logger = logging.getLogger(__name__)

ROUNDS = 8
"""Times that one reply may ask the model. The last time it gets no tools, so that it comes to an end."""

PATIENCE = 15.0
"""Seconds that a service may send nothing. Callers hang up sooner."""

SPEECH_RATE = 15.0
"""Characters a second: what a voice says. It gives chunks of streamed speech their words, which the voice does not."""

WIDE = 3
"""A Chinese, Japanese or Korean character is a syllable or two, and takes as long as this many others."""

EXAMPLES = {
    "chat": "async def chat(messages, tools): ... yield token",
    "stt": "def stt(audio): ... return words",
    "tts": "def tts(text): ... return 24000, samples",
}


class VoiceAgent(ReplyOnPause):
    """A handler that listens, thinks and speaks, and can be interrupted at any moment.

    Args:
        chat: Called with ``(messages, tools)`` in the common chat format; an async generator of text (tokens, or parts
            of any size) and `ToolCall`. It is closed when the user interrupts, so what it holds open is closed, too.
        stt: Speech to text: called with ``(sample_rate, samples)``, returns the words; ``async``, or a plain function,
            which runs in a worker thread. An empty text is not answered.
        tts: Text to speech: called with a sentence, returns audio ``(sample_rate, samples)``, or a generator of it;
            ``async`` or not, as `stt`.
        system: Instructions for the model.
        tools: `Tool` objects, or annotated functions.
        conversation: Makes the `Conversation` of each call, in place of `system` and `tools`: to resume one.
        greeting: Said at the beginning, and part of the context.
        apology: Said when a service fails. None: the user hears nothing, and can speak again.
        patience: Seconds that a service may send nothing before it counts as failed.
        **options: The arguments of `ReplyOnPause`, ``speculative`` among them.

    Raises:
        TypeError: A tool cannot be described to a model, or a service cannot be called.
        ValueError: `patience` is not more than 0.

    Attributes:
        conversation: The context of this call.
    """

    def __init__(
        self,
        chat: Callable[[list[dict[str, Any]], list[dict[str, Any]]], AsyncGenerator[str | ToolCall]],
        *,
        stt: Callable[[Any], Any],
        tts: Callable[[str], Any],
        system: str = "",
        tools: Iterable[object] = (),
        conversation: Callable[[], Conversation] | None = None,
        greeting: str | None = None,
        apology: str | None = "Sorry, I cannot answer at the moment.",
        patience: float = PATIENCE,
        **options: Any,
    ) -> None:
        tools = tuple(tools)
        for name, function in (("chat", chat), ("stt", stt), ("tts", tts)):
            if not callable(function):
                raise TypeError(f"{name} must be a function, not {function!r:.80}; write: {EXAMPLES[name]}")
        if not patience > 0:
            raise ValueError(f"patience must be seconds, more than 0, not {patience!r}")
        self._agent_settings: dict[str, Any] = {
            "chat": chat, "stt": stt, "tts": tts, "system": system, "tools": tools, "conversation": conversation,
            "greeting": greeting, "apology": apology, "patience": patience, **options,
        }  # fmt: skip
        self.conversation: Conversation = Conversation(system, tools) if conversation is None else conversation()
        self._chat, self._stt, self._tts = chat, stt, tts
        self._apology, self._patience, self._apologizing = apology, patience, False
        self._untranscribed: dict[int, Audio] = {}  # by the number of the reply
        self._shown: set[str] = set()  # calls whose results the model has read
        super().__init__(self._answer, None if greeting is None else partial(self._speak, greeting), **options)

    def copy(self) -> VoiceAgent:
        """A fresh agent with the same settings and a conversation of its own."""
        return type(self)(**self._agent_settings)

    async def on_message(self, message: str) -> None:
        """Answer what the user types, except JSON objects. Override it if your page sends other text. A checkpoint."""
        if message.strip() and not message.lstrip().startswith("{"):
            self.reply_to(message)
        await anyio.lowlevel.checkpoint()

    # -- one reply

    async def _answer(self, said: Any) -> AsyncGenerator[Say]:
        """The reply function: answer speech, or a text."""
        text = said if isinstance(said, str) else await self._transcribe(said, self._current())
        if not text.strip():
            return
        self.show_question(text)
        self.conversation.add_user(text, self._current().number)
        async with aclosing(self._respond()) as spoken:
            async for say in spoken:
                yield say

    async def _transcribe(self, said: Audio, reply: Reply) -> str:
        """The words of what was said, and of turns before it that were interrupted before they had any."""
        self._untranscribed[reply.number] = said
        waiting = [samples for _, samples in self._untranscribed.values()]
        try:
            text = await self._call(self._stt, (said[0], np.concatenate(waiting, axis=1)))
        except Exception:
            self._untranscribed.clear()  # it would fail again, with every turn
            raise
        self._untranscribed.clear()
        self.mark("stt")
        if not isinstance(text, str):
            raise ServiceError(f"speech to text gave {text!r:.80}, and not the words; return a string")
        return text

    async def _respond(self) -> AsyncGenerator[Say]:
        """Ask the model, speak what it says, run its tools, and ask it again until it calls none."""
        reply = self._current()
        for round_ in range(ROUNDS):
            calls: list[ToolCall] = []
            schemas = self.conversation.schemas() if round_ < ROUNDS - 1 else []
            async with aclosing(sentences(self._tokens(schemas, calls))) as pieces:
                async for piece in pieces:
                    async with aclosing(self._speak(piece)) as spoken:
                        async for say in spoken:
                            yield say
            if not calls:
                return
            await reply.committed.wait()  # a tool may do what cannot be undone
            await run_tools(self.conversation, calls, reply=reply.number, speak=self._speak_result)

    async def _tokens(self, schemas: list[dict[str, Any]], calls: list[ToolCall]) -> AsyncGenerator[str]:
        """The model's text; its calls go into `calls`."""
        self._shown |= self.conversation.finished()
        async with aclosing(closable(self._chat(self.conversation.messages, schemas))) as stream:
            while True:
                try:
                    with _within(self._patience, "the chat service sent nothing"):
                        item = await anext(stream)
                except StopAsyncIteration:
                    return
                if isinstance(item, ToolCall):
                    calls.append(item)
                elif isinstance(item, str):
                    if "llm_first_token" not in self._current().marks:
                        self.mark("llm_first_token")
                    yield item
                else:
                    raise ServiceError(f"chat gave {item!r:.80}; it must yield text and ToolCall")

    async def _speak(self, text: str) -> AsyncGenerator[Say]:
        """Have the voice say `text`, and note it in the context."""
        reply = self._current()
        if not text.strip():
            return
        self.conversation.add_text(text, reply.number)
        spoken = await self._call(self._tts, text)
        if "tts_first_audio" not in reply.marks:
            self.mark("tts_first_audio")
        if isinstance(spoken, tuple):
            yield Say(spoken, text)
            return
        if hasattr(spoken, "__next__"):
            spoken = steps_in_thread(spoken, self.run_sync)
        if not hasattr(spoken, "__anext__"):
            raise ServiceError(f"tts gave {spoken!r:.80}; it must return (sample_rate, samples), or a generator of it")
        said, seconds = "", 0.0
        async with aclosing(closable(spoken)) as chunks:
            async for chunk in chunks:
                seconds += chunk[1].shape[-1] / chunk[0]
                before, said = said, _words(text, seconds)
                yield Say(chunk, said[len(before) :])
        yield Say((self.output_sample_rate, np.empty(0, np.int16)), text[len(said) :])  # ends with the sound

    async def _call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a service of the user's: awaited, or in a worker thread."""
        with _within(self._patience, f"{getattr(function, '__name__', type(function).__name__)} gave nothing"):
            if inspect.iscoroutinefunction(function):
                return await function(*args)
            if inspect.isasyncgenfunction(function):
                return function(*args)
            result = await self.run_sync(function, *args)
            return await result if inspect.isawaitable(result) else result

    def _current(self) -> Reply:
        reply = self._current_reply
        assert reply is not None  # noqa: S101
        return reply

    # -- tools

    async def _speak_result(self, call: ToolCall) -> None:
        await self.say(self._tell_result(call))

    async def _tell_result(self, call: ToolCall) -> AsyncGenerator[Say]:
        """Speak about a result that came after its reply, unless the model has read it meanwhile."""
        if call.id in self._shown:
            return
        note = f"[The result of {call.name} has come. Tell me about it.]"
        self.conversation.add_user(note, self._current().number)
        async with aclosing(self._respond()) as spoken:
            async for say in spoken:
                yield say

    # -- what happens to a reply

    def _on_reply_over(self, reply: Reply, heard: Heard | None) -> None:
        """Keep of a reply what was heard; of a speculative one that was dropped, nothing."""
        if heard is None:
            self.conversation.take_back(reply.number)
            self._untranscribed.pop(reply.number, None)
        else:
            reply.words = self.conversation.said(reply.number)  # what no voice has said yet is shown as unheard, too
            self.conversation.cut(reply.number, heard.text)

    def _on_turn_event(self, event: TurnEvent) -> None:
        """Apologize when a service has failed."""
        if not isinstance(event, ReplyFailed) or self._apology is None or self._apologizing:
            return
        self._apologizing = True
        self.loop.create_task(self._apologize(self._apology))

    async def _apologize(self, words: str) -> None:
        try:
            await self.say(self._speak(words))
        finally:
            self._apologizing = False


def in_process(function: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
    """An ``async`` function that runs `function` in a process of its own: see `StreamHandlerBase.run_process`.

    For speech models that let no other Python code run while they compute: ``VoiceAgent(stt=in_process(recognize))``.
    """

    async def run(*args: Any) -> Any:
        handler = get_current_handler()
        assert handler is not None  # noqa: S101
        return await handler.run_process(function, *args)

    return run


@contextmanager
def _within(seconds: float, what: str) -> Iterator[None]:
    """Raise `ServiceError` after `seconds`, and not for a `TimeoutError` of the service's own."""
    with anyio.move_on_after(seconds) as limit:
        yield
    if limit.cancelled_caught:
        raise ServiceError(f"{what} for {seconds:g} s")


def _words(text: str, seconds: float) -> str:
    """The words of `text` that are probably spoken within `seconds`. The last one counts when the sound has ended."""
    ends = accumulate(WIDE if east_asian_width(letter) in "WF" else 1 for letter in text)
    return whole_words(text, min(sum(end <= seconds * SPEECH_RATE for end in ends), len(text) - 1))
