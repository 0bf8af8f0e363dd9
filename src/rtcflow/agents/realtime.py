"""`RealtimeHandler`: the caller talks to a speech-to-speech service, which hears and speaks by itself.

    receive ──→ audio of the caller ──→ WebSocket ──→ the service
    emit    ←── audio queue         ←── WebSocket ←── its events        (`start_up`: one session after the other)

The service decides whose turn it is. When it has heard the caller speak, the audio that waits is dropped, here and at
the far side. The service is told how much of its message was *played*. The playout's ledger counts that, on a telephone
as the carrier confirms it. A service sends speech faster than it is played, and would remember what nobody heard.
"""

from __future__ import annotations

import json
import logging
import math
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import anyio

from ..client.websocket import ClientSocket, Goodbye, UpgradeRefused, open_websocket
from ..exceptions import NegotiationTimeout
from ..handlers.base import AsyncStreamHandler
from ..handlers.ledger import PlayoutLedger, whole_words
from ..handlers.turns.timeline import transcript_message
from ..outputs import CloseStream, EmitType
from ..protocol.chat import ServiceError, ToolCall
from ..protocol.realtime import (
    AudioReceived,
    CallsCancelled,
    RealtimeEvent,
    RealtimeProtocol,
    ServiceFailed,
    SessionEnding,
    SessionReady,
    ToolsCalled,
    Transcript,
    UserInterrupted,
    UserStopped,
)
from .calling import CANCELLED, call_tool, failure
from .conversation import Conversation
from .tools import Tool, as_tool

__all__ = ["RealtimeHandler"]

logger: logging.Logger = logging.getLogger(__name__)

ATTEMPTS = 5
"""Sessions that may fail one after the other before the call ends."""

BACKOFF = 0.5
"""Seconds before the second attempt; each further one waits twice as long."""

LONGEST_WAIT = 8.0
"""Seconds between attempts, at most: callers do not wait for longer. A session that breaks sooner has failed."""

OPENING = 10.0
"""Seconds from the connection's beginning until the service must have said that the session is ready."""

MOST_AUDIO = 600.0
"""Seconds of a service's speech that may wait to be played. Longer answers are an error of the service."""

MOST_CHUNKS = 30_000
"""Chunks that may wait: as many seconds in frames of 20 ms, which are shorter than what services send."""

MESSAGES_KEPT = 100
"""Messages of the service whose words and ends are remembered; only the last few matter."""

LONGEST_MESSAGE = 4 * 1024 * 1024
"""Bytes: audio of half a minute in base64."""

REFUSED = frozenset({400, 401, 403, 404})
"""HTTP statuses after which the next attempt would fail, too."""


class _ServiceMessage:
    """One message of the service.

    Attributes:
        item: Its name.
        number: Names it in the conversation.
        ledger: How much of it was played.
        received: Seconds of its sound that have come.
        words: Those that have come.
    """

    def __init__(self, item: str, number: int) -> None:
        self.item, self.number = item, number
        self.ledger = PlayoutLedger()
        self.received = 0.0
        self.words = ""

    def heard_words(self, seconds: float) -> str:
        """The words in the first `seconds`: as large a part of them as of the sound. Services do not tell it."""
        if seconds >= self.received:
            return self.words
        return whole_words(self.words, int(len(self.words) * seconds / self.received))


class RealtimeHandler(AsyncStreamHandler):
    """Connects a call to a speech-to-speech service.

    Needs the extra ``rtcflow[client]``. Runs under trio and asyncio.

    Args:
        protocol: Makes the wire format for each call: ``lambda: OpenAIRealtime(key)`` or ``lambda: GeminiLive(key)``.
        system: Instructions for the model.
        tools: `Tool` objects, or annotated functions. Each runs in a task of the call; its policy rules interruptions.
        on_event: Called in the event loop with each `RealtimeEvent` but audio.
        attempts: Sessions that may fail, or break within 8 s, in a row, before the call ends. A refused key or model
            ends it at once.

    A session that breaks is opened again with growing pauses. Meanwhile the caller hears the rest of the last answer
    and then nothing. What the caller says is dropped. The new session is told what was said and heard.

    Raises:
        TypeError: A tool cannot be described to a model, or `protocol` cannot be called.

    Attributes:
        conversation: What was said, as the service writes it down, and cut to what was heard.
    """

    def __init__(
        self,
        protocol: Callable[[], RealtimeProtocol],
        *,
        system: str = "",
        tools: Iterable[object] = (),
        on_event: Callable[[RealtimeEvent], None] | None = None,
        attempts: int = ATTEMPTS,
    ) -> None:
        if not callable(protocol):
            raise TypeError("protocol makes the wire format for each call; write: lambda: OpenAIRealtime(key)")
        self._protocol = protocol()
        super().__init__(output_sample_rate=self._protocol.output_rate, input_sample_rate=self._protocol.input_rate)
        made = [as_tool(given) for given in tools]
        self._settings = {
            "protocol": protocol, "system": system, "tools": made, "on_event": on_event, "attempts": attempts,
        }  # fmt: skip
        self._system, self._tools, self._attempts = system, {tool.name: tool for tool in made}, attempts
        self._on_event = on_event
        self._session = 0
        self._socket: ClientSocket | None = None  # once the session is ready
        self._sending = anyio.Lock()
        self.conversation: Conversation = Conversation(system)
        self._waiting: deque[AudioReceived] = deque()  # what the service said, not emitted yet; `_take` bounds it
        self._waiting_seconds = 0.0
        self._there_is_more = anyio.Event()
        self._replies: OrderedDict[str, _ServiceMessage] = OrderedDict()  # the last `MESSAGES_KEPT`
        self._playing: deque[_ServiceMessage] = deque(maxlen=MESSAGES_KEPT)  # emitted, and not known to be played
        self._cut: deque[str] = deque(maxlen=MESSAGES_KEPT)  # messages that must not be heard any further
        self._running: dict[str, tuple[Tool, anyio.CancelScope]] = {}
        self._goodbye: str | None = None
        self._state = ""  # as the page was told
        self._numbers = 1  # of the service's next message

    def copy(self) -> RealtimeHandler:
        """A fresh handler with the same settings."""
        return type(self)(**self._settings)  # type: ignore[arg-type]

    # -- the call's side

    async def receive(self, frame: Any) -> None:
        """Hand the caller's audio to the service; dropped while there is no session. A checkpoint only if it waits."""
        if self._socket is not None:
            await self._send(self._protocol.audio(frame[1]))

    async def emit(self) -> EmitType:
        """The next chunk of what the service says. A checkpoint only if it waits."""
        while not self._waiting:
            if self._goodbye is not None:
                return CloseStream(self._goodbye)
            self._there_is_more = anyio.Event()
            await self._there_is_more.wait()
        chunk = self._waiting.popleft()
        self._waiting_seconds -= chunk.samples.shape[1] / self._protocol.output_rate
        playback = self.playback()
        self._note_played()
        if not self._playing or self._playing[-1].item != chunk.item:
            self._playing.append(self._reply(chunk.item))
        ledger = self._playing[-1].ledger
        ledger.begin(playback.played + playback.waiting)
        ledger.add(self._protocol.output_rate, chunk.samples)
        return self._protocol.output_rate, chunk.samples

    def interrupt(self) -> None:
        """Silence the service's answer, as the caller's speech does; from any thread.

        Raises:
            RuntimeError: The handler serves no connection yet.
        """
        self.clear_queue()
        self.loop.create_task(self._interrupted())

    def reply_to(self, text: str) -> None:
        """Have the service answer `text`; from any thread. Dropped while there is no session."""
        self.loop.create_task(self._send(self._protocol.text(text)))

    def _reply(self, item: str) -> _ServiceMessage:
        """The message of the service that is called `item`."""
        if item not in self._replies:
            self._replies[item] = _ServiceMessage(item, self._numbers)
            self._numbers += 1
        if len(self._replies) > MESSAGES_KEPT:
            self._replies.popitem(last=False)
        return self._replies[item]

    def _note_played(self) -> None:
        playback = self.playback()
        position = playback.played if playback.confirmed is None else playback.confirmed
        for reply in self._playing:
            reply.ledger.played(position)
        while len(self._playing) > 1:
            heard = self._playing[0].ledger.heard()
            if heard.seconds < heard.total:
                break
            self._show(self._playing.popleft(), heard.seconds)

    async def _interrupted(self) -> None:
        """The caller speaks: silence what was said so far, and tell the service where it ended."""
        unplayed = {chunk.item for chunk in self._waiting}
        self._waiting.clear()
        self._waiting_seconds = 0.0
        self.clear_queue()
        self._note_played()
        messages: list[str] = []
        for reply in [*self._playing, *(self._reply(item) for item in unplayed)]:
            heard = reply.ledger.heard()
            if reply.item not in self._cut and (heard.seconds < heard.total or reply.item in unplayed):
                messages += self._protocol.truncated(reply.item, math.floor(1000 * heard.seconds))
                self._cut.append(reply.item)
                self.conversation.cut(reply.number, reply.heard_words(heard.seconds))
            self._show(reply, heard.seconds)
        self._playing.clear()
        for tool, scope in list(self._running.values()):
            if tool.policy == "cancel":
                scope.cancel()
        await self._send(messages)

    # -- the service's side

    async def start_up(self) -> None:
        """Keep a session with the service for as long as the call lasts. A checkpoint."""
        protocol, failures = self._protocol, 0
        while True:
            self._session += 1
            ready = [math.inf]
            try:
                async with open_websocket(
                    protocol.url, headers=protocol.headers, timeout=OPENING, max_message=LONGEST_MESSAGE
                ) as socket:
                    await self._serve(socket, ready)
            except (ServiceError, ConnectionError, NegotiationTimeout) as error:
                if isinstance(error, UpgradeRefused) and error.status in REFUSED:
                    self._end(f"the speech service answered {error.status}")
                    return
                self._tell(ServiceFailed(str(error)))
                logger.warning("the speech service failed: %s", error)
            finally:
                self._socket = None
                self._show_state("")
            was_ready = ready[0] < math.inf
            failures = 0 if anyio.current_time() - ready[0] > LONGEST_WAIT else failures + 1
            if failures >= self._attempts:
                self._end("the speech service cannot be reached")
                return
            if failures > was_ready:
                await anyio.sleep(min(LONGEST_WAIT, BACKOFF * 2 ** min(failures - was_ready - 1, 9)))

    def _end(self, reason: str) -> None:
        logger.error("the call ends: %s", reason)
        self._goodbye = reason
        self._there_is_more.set()

    async def _serve(self, socket: ClientSocket, ready: list[float]) -> None:
        """One session, until either side ends it."""
        protocol = self._protocol
        schemas = (tool.schema()["function"] for tool in self._tools.values())
        said = [it for it in self.conversation.messages if it["role"] in {"user", "assistant"} and it["content"]]
        for message in [*protocol.hello(self._system, schemas), *protocol.history(said)]:
            await socket.send(message)
        with suppress(Goodbye), anyio.move_on_after(OPENING) as opening:
            while True:
                for event in protocol.read(await socket.receive()):
                    if isinstance(event, SessionReady):
                        opening.deadline, ready[0], self._socket = math.inf, anyio.current_time(), socket
                    if isinstance(event, SessionEnding):
                        self._tell(event)
                        return
                    await self._act_on(event)
        if ready[0] == math.inf:
            raise ServiceError(f"the speech service closed the session, or was not ready after {OPENING:g} s")

    async def _act_on(self, event: RealtimeEvent) -> None:
        match event:
            case AudioReceived(item, samples):
                if item not in self._cut and samples.shape[1]:
                    self._take(event)
                return
            case Transcript(role, text, item):
                self._note_words(role, text, item)
            case UserInterrupted():
                self._show_state("")
                await self._interrupted()
            case UserStopped():
                self._show_state("thinking")
            case ToolsCalled(calls):
                for call in calls:
                    self._begin_tool(call)
            case CallsCancelled(ids):
                for id_ in ids:
                    if id_ in self._running:
                        self._running[id_][1].cancel()
            case ServiceFailed(text):
                logger.warning("the speech service reports an error: %s", text)
        self._tell(event)

    def _take(self, chunk: AudioReceived) -> None:
        self._waiting_seconds += chunk.samples.shape[1] / self._protocol.output_rate
        if self._waiting_seconds > MOST_AUDIO or len(self._waiting) >= MOST_CHUNKS:
            raise ServiceError(f"the speech service sent more than {MOST_AUDIO:g} s of speech ahead of time")
        self._reply(chunk.item).received += chunk.samples.shape[1] / self._protocol.output_rate
        self._show_state("")
        self._waiting.append(chunk)
        self._there_is_more.set()

    def _note_words(self, role: str, text: str, item: str) -> None:
        if role == "user":
            self.conversation.add_user(text)
            self._send_if_open(transcript_message("user", text, f"{item}-user"))
        elif item not in self._cut:
            reply = self._reply(item)
            reply.words += text
            self.conversation.add_text(text, reply.number)
            self._show(reply)

    def _show_state(self, state: str) -> None:
        """Show on the page that the service thinks; otherwise the page decides by what it hears."""
        if state != self._state:
            self._state = state
            self._send_if_open(json.dumps({"type": "state", "data": state}))

    def _show(self, reply: _ServiceMessage, seconds: float | None = None) -> None:
        """Show a message of the service on the page, and what was heard of it when that is known."""
        if reply.words:
            heard = None if seconds is None else reply.heard_words(seconds)
            self._send_if_open(transcript_message("assistant", reply.words, f"{reply.item}-bot", heard=heard))

    def _tell(self, event: RealtimeEvent) -> None:
        if self._on_event is not None:
            self._on_event(event)

    def _begin_tool(self, call: ToolCall) -> None:
        """Start the task of one tool. From now on, the service and the caller can cancel it."""
        if call.id not in self._running:  # or it was sent twice
            tool, scope = self._tools.get(call.name), anyio.CancelScope()
            if tool is not None:
                self._running[call.id] = (tool, scope)
            self.loop.create_task(self._run_tool(call, tool, scope, self._session), name=call.name)

    async def _run_tool(self, call: ToolCall, tool: Tool | None, scope: anyio.CancelScope, session: int) -> None:
        """The task of one tool: exactly one result is sent, whatever happens to it."""
        content = failure(f"there is no tool {call.name!r}") if tool is None else CANCELLED
        if tool is not None:
            try:
                with scope:
                    content = await call_tool(tool, call, self.run_sync)
            finally:
                del self._running[call.id]
        if session == self._session:
            answer = not scope.cancelled_caught and (tool is None or tool.policy != "finish_and_remember")
            await self._send(self._protocol.result(call, content, answer=answer))
        else:  # the next session does not know of the call
            await self._send(self._protocol.text(f"[The result of {call.name} has come: {content:.2000}]"))

    async def _send(self, messages: list[str]) -> None:
        """Send in order; dropped while there is no session."""
        async with self._sending:
            with suppress(ConnectionError):  # the reader learns of it
                for message in messages:
                    if self._socket is not None:
                        await self._socket.send(message)
