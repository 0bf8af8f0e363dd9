"""WebRTC in a trio application, without any server: both ends in one program, the offer handed over in a variable.

In practice the two halves are two programs, and you choose how offer and answer travel.
"""

from __future__ import annotations

import trio
from echo import Echo
from tone_generator import Tone

import rtcflow


async def main():
    async with rtcflow.open_engine() as engine, trio.open_nursery() as nursery:
        caller = await engine.offer()
        callee = await engine.answer(caller.offer_sdp)
        nursery.start_soon(rtcflow.run_connection, callee, Echo())

        await caller.accept_answer(callee.answer)
        end = await rtcflow.run_connection(caller, Tone(seconds=1.0))
        heard = caller.statistics().audio_in.put
        print(f"{end.cause.value}; {heard} frames of our own tone came back")
        return end, heard


if __name__ == "__main__":
    trio.run(main)
