"""What was said in a call, as a language model reads it: messages in the common chat format. Pure.

Invariants, whatever is interrupted when:

- Each call of a tool has exactly one result, and it stands right behind the message that called it. A call without a
  result yet reads as "still running"; the result takes that place when it comes.
- Of a reply that was cut, only what was heard is in the context.
- What a speculative reply has added disappears with it.

Each entry belongs to the reply that added it. That is why cutting and taking back need no search through texts.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..protocol.chat import ToolCall
from .tools import Tool, as_tool

__all__ = ["Conversation"]

logger: logging.Logger = logging.getLogger(__name__)

LIMIT = 100_000
"""Characters of context, some 25,000 tokens of English: a conversation of about two hours."""

RUNNING = '{"status": "still running"}'
LOST = '{"error": "the call ended before the tool had a result"}'


@dataclass(slots=True)
class _ChatEntry:
    """One message.

    Attributes:
        reply: Number of the reply that added it.
        role: ``"user"`` or ``"assistant"``.
        text: All of it.
        heard: How many characters of it count, or None: all.
        calls: Tools that it calls.
        results: By the id of the call.
    """

    reply: int
    role: str
    text: str = ""
    heard: int | None = None
    calls: list[ToolCall] = field(default_factory=list)
    results: dict[str, str] = field(default_factory=dict)

    def messages(self) -> list[dict[str, Any]]:
        """As a chat service takes it."""
        text = self.text if self.heard is None else self.text[: self.heard].rstrip()
        if not self.calls:
            return [{"role": self.role, "content": text}] if text.strip() else []
        calls = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in self.calls
        ]
        first = {"role": "assistant", "content": text or None, "tool_calls": calls}
        return [
            first,
            *(
                {"role": "tool", "tool_call_id": call.id, "content": self.results.get(call.id, RUNNING)}
                for call in self.calls
            ),
        ]


class Conversation:
    """The context of one call.

    Args:
        system: Instructions for the model.
        tools: `Tool` objects, or annotated functions, of which `tool` makes some.
        limit: Characters of context. The oldest exchanges beyond it are left out. Results of tools get a quarter of it.

    Raises:
        TypeError: A tool cannot be described to a model.
        ValueError: Two tools have one name, or `limit` leaves no space beside `system`.

    Attributes:
        dropped: Messages that were left out so far because of `limit`.
    """

    def __init__(self, system: str = "", tools: Iterable[object] = (), *, limit: int = LIMIT) -> None:
        self.system: str = system
        self.limit: int = limit
        self.tools: dict[str, Tool] = {}
        for given in tools:
            made = as_tool(given)
            if made.name in self.tools:
                raise ValueError(f"two tools are called {made.name!r}; give one another name: tool(…, name=…)")
            self.tools[made.name] = made
        if limit < len(system) + 1000:
            raise ValueError(f"limit={limit} leaves no space for a conversation beside the system's {len(system)}")
        self.dropped: int = 0
        self._entries: list[_ChatEntry] = []
        self._ids: set[str] = set()

    # -- what is read

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The messages in the common chat format, within `limit`, made for this moment."""
        rendered = [entry.messages() for entry in self._entries]
        sizes = [_size(messages) for messages in rendered]
        most = self.limit - len(self.system)
        first = _newest(sizes, 0, most)
        # An exchange begins with the user's words: no service takes an answer without them.
        while 0 < first < len(rendered) and self._entries[first].role == "assistant":
            first += 1
        if first == len(rendered) and rendered:
            # The last exchange is too long by itself: the user's words stay, cut, with the newest of what followed.
            first = max((at for at, entry in enumerate(self._entries) if entry.role == "user"), default=0)
            rendered[first] = [{"role": "user", "content": self._entries[first].text[-most // 2 :]}]
            del rendered[first + 1 : _newest(sizes, first + 1, most - _size(rendered[first]))]
        if first > self.dropped:
            logger.warning(
                "the context has more than %d characters: its %d oldest messages are left out", self.limit, first
            )
            self.dropped = first
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, *(message for messages in rendered[first:] for message in messages)]

    def schemas(self) -> list[dict[str, Any]]:
        """The tools, as a chat service takes them."""
        return [made.schema() for made in self.tools.values()]

    def running(self) -> list[ToolCall]:
        """Calls without a result."""
        return [call for entry in self._entries for call in entry.calls if call.id not in entry.results]

    def finished(self) -> set[str]:
        """Ids of the calls that have a result."""
        return {call for entry in self._entries for call in entry.results}

    def said(self, reply: int) -> str:
        """All that the bot has wanted to say in this reply, heard or not."""
        return "".join(entry.text for entry in self._entries if entry.reply == reply and entry.role == "assistant")

    def __len__(self) -> int:
        return len(self._entries)

    # -- what happens

    def add_user(self, text: str, reply: int = 0) -> None:
        """The user said this, and `reply` answers it."""
        self._entries.append(_ChatEntry(reply, "user", text))

    def add_text(self, text: str, reply: int = 0) -> None:
        """The bot says this, more of the same message if the last one is a text of the same reply."""
        self._open_entry(reply).text += text

    def add_calls(self, calls: Iterable[ToolCall], reply: int = 0) -> list[ToolCall]:
        """The model wants these tools to be called.

        Returns:
            The calls, with ids that are unique in this conversation: some services repeat theirs.
        """
        unique = []
        for call in calls:
            name, number = call.id or "call", 1
            while name in self._ids:
                number += 1
                name = f"{call.id or 'call'}-{number}"
            self._ids.add(name)
            unique.append(ToolCall(name, call.name, call.arguments))
        if unique:
            self._open_entry(reply).calls = unique
        return unique

    def _open_entry(self, reply: int) -> _ChatEntry:
        """The last message if it is the bot's, of this reply and without calls; otherwise a new one."""
        last = self._entries[-1] if self._entries else None
        if last is None or last.reply != reply or last.role != "assistant" or last.calls:
            last = _ChatEntry(reply, "assistant")
            self._entries.append(last)
        return last

    def add_result(self, call: str, content: str) -> bool:
        """A call has a result.

        Returns:
            Whether it counts: the first one of a call does, and none of a call that was taken back.
        """
        for entry in self._entries:
            if any(known.id == call for known in entry.calls):
                if call in entry.results:
                    return False
                most = max(500, (self.limit - len(self.system)) // (4 * len(entry.calls)))
                entry.results[call] = content if len(content) <= most else f"{content[:most]} … (the rest was too long)"
                return True
        return False

    def cut(self, reply: int, heard: str) -> None:
        """Of this reply, only `heard` was heard: the beginning of all its texts."""
        left = len(heard)
        for entry in self._entries:
            if entry.reply == reply and entry.role == "assistant":
                entry.heard = min(left, len(entry.text))
                left -= entry.heard

    def take_back(self, reply: int) -> None:
        """Take this reply back: nobody has heard any of it."""
        self._entries = [entry for entry in self._entries if entry.reply != reply]

    # -- keeping it

    def as_dict(self) -> dict[str, Any]:
        """All of it but the tools' functions, as JSON can hold it. Calls that still run have a result that says so."""
        entries = []
        for entry in self._entries:
            text = entry.text if entry.heard is None else entry.text[: entry.heard]
            calls = [{"id": call.id, "name": call.name, "arguments": call.arguments} for call in entry.calls]
            results = {call.id: entry.results.get(call.id, LOST) for call in entry.calls}
            entries.append({"role": entry.role, "text": text, "calls": calls, "results": results})
        return {"system": self.system, "entries": entries}

    @classmethod
    def from_dict(cls, kept: Mapping[str, Any], tools: Iterable[object] = (), *, limit: int = LIMIT) -> Conversation:
        """Go on with what `as_dict` gave, in a later call.

        Raises:
            ValueError: It is something else.
        """
        if not isinstance(kept, Mapping):
            raise ValueError(f"this is not what Conversation.as_dict gave: {kept!r:.80}")  # noqa: TRY004
        conversation = cls(str(kept.get("system", "")), tools, limit=limit)
        try:
            for number, entry in enumerate(kept["entries"]):
                calls = [ToolCall(call["id"], call["name"], call["arguments"]) for call in entry["calls"]]
                # Replies of this call have numbers from 1.
                kept_entry = _ChatEntry(-1 - number, entry["role"], entry["text"], None, calls, dict(entry["results"]))
                conversation._entries.append(kept_entry)
                conversation._ids.update(call.id for call in calls)
        except (KeyError, TypeError) as error:
            raise ValueError(f"this is not what Conversation.as_dict gave: {error!r}") from error
        return conversation


def _size(messages: list[dict[str, Any]]) -> int:
    return sum(len(json.dumps(message, ensure_ascii=False)) for message in messages)


def _newest(sizes: list[int], begin: int, most: int) -> int:
    """Where the newest messages begin that take `most` characters together; not before `begin`."""
    first = len(sizes)
    while first > begin and sizes[first - 1] <= most:
        first -= 1
        most -= sizes[first]
    return first
