"""A voice agent with a chat service at CHAT_URL, a tool, and offline voices. `rtcflow serve voice_agent:stream`."""

import os

import httpx2

import rtcflow
from rtcflow.agents import VoiceAgent, in_process, read_chat, tool
from rtcflow.speech import get_stt_model, get_tts_model

URL = os.environ.get("CHAT_URL", "http://127.0.0.1:11434/v1/chat/completions")
MODEL, KEY = os.environ.get("CHAT_MODEL", "llama3.2"), os.environ.get("CHAT_KEY", "none")


@tool(policy="finish_and_speak")
async def book_table(people: int, time: str) -> str:
    """Book a table."""
    return f"booked: {people} people, {time}"


async def chat(messages, tools):
    body = {"model": MODEL, "messages": messages, "tools": tools, "stream": True}
    http = httpx2.AsyncClient(headers={"Authorization": f"Bearer {KEY}"}, timeout=20)  # the agent gives up after 15 s
    async with http as client, client.stream("POST", URL, json=body) as response:
        async for item in read_chat(response.raise_for_status().aiter_lines()):
            yield item


def recognize(audio):
    return get_stt_model("pocketsphinx").stt(audio)


agent = VoiceAgent(
    chat,
    stt=in_process(recognize),  # while it computes, no other Python code can run in its process
    tts=get_tts_model("espeak").tts,
    system="You answer the telephone of a restaurant. Be brief.",
    tools=[book_table],
)
stream = rtcflow.Stream(agent, concurrency_limit=10)
