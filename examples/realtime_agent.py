"""A caller talks to a speech-to-speech service. `OPENAI_API_KEY=… rtcflow serve realtime_agent:stream`.

With `GeminiLive(key)` in place of `OpenAIRealtime(key)` it is the other service. REALTIME_URL names a compatible one.
"""

from __future__ import annotations

import os

import rtcflow
from rtcflow.agents import OpenAIRealtime, RealtimeHandler, tool

KEY = os.environ.get("OPENAI_API_KEY", "none")
URL = os.environ.get("REALTIME_URL", "wss://api.openai.com/v1/realtime")


@tool(policy="finish_and_remember")
async def opening_hours(day: str) -> str:
    """When the shop is open on a day of the week."""
    return "closed" if day.lower() == "sunday" else "nine to five"


handler = RealtimeHandler(
    lambda: OpenAIRealtime(KEY, url=URL),
    system="You answer the telephone of a shop. Be brief.",
    tools=[opening_hours],
    on_event=print,
)
stream = rtcflow.Stream(handler, concurrency_limit=10)
