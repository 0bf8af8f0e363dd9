"""What strangers' packets cost on the one UDP port of a server with a live call.

    python bench/strangers.py

Prints the processor's time for each packet, for three kinds: junk, what looks like RTP, and a STUN request with a user
name that no call has.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import anyio

from rtcflow.transports.webrtc import WebRTCConfig, open_engine

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from free_ports import free_udp_port
from webrtc_pair import LOCAL, dial

COUNT = 20_000
KINDS = {
    "junk": b"\xff" * 160,
    "RTP": b"\x80\x6f" + bytes(158),
    "STUN": b"\x00\x01\x00\x08\x21\x12\xa4\x42" + bytes(12) + b"\x00\x06\x00\x03abc\x00",
}


async def flood(packet: bytes, port: int) -> None:
    """Send from another process, so that its time does not count."""
    program = (
        "import socket, sys, time\n"
        "sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "for number in range(int(sys.argv[2])):\n"
        "    sender.sendto(bytes.fromhex(sys.argv[3]), ('127.0.0.1', int(sys.argv[1])))\n"
        "    if number % 20 == 0: time.sleep(0.004)\n"
    )
    await anyio.run_process([sys.executable, "-c", program, str(port), str(COUNT), packet.hex()])


async def main() -> None:
    port = free_udp_port()
    config = WebRTCConfig(host_addresses=("127.0.0.1",), port=port)
    async with open_engine(config) as server, open_engine(LOCAL) as client:
        caller, callee = await dial(client, server)
        begin, used = time.monotonic(), time.process_time()
        await anyio.sleep(3)
        idle = (time.process_time() - used) / (time.monotonic() - begin)
        for kind, packet in KINDS.items():
            begin, used = time.monotonic(), time.process_time()
            await flood(packet, port)
            seconds = time.monotonic() - begin
            cost = (time.process_time() - used - idle * seconds) / COUNT
            print(f"{kind:4} {1e6 * cost:5.1f} us a packet, at {COUNT / seconds:.0f} packets a second")
        await caller.aclose()
        await callee.aclose()


anyio.run(main)
