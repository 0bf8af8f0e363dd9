"""STUN and TURN servers that answer as a test wants, on 127.0.0.1."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from aioice import stun

Reply = Callable[[stun.Message, tuple[str, int]], stun.Message | None]


@contextmanager
def server(reply: Reply, host: str = "127.0.0.1") -> Iterator[int]:
    """A UDP server on `host` that answers STUN messages with what `reply` returns; yields its port."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind((host, 0))

        def serve() -> None:
            while (received := listener.recvfrom(2000))[0] != b"end":
                if (answer := reply(stun.parse_message(received[0]), received[1])) is not None:
                    listener.sendto(bytes(answer), received[1])

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.sendto(b"end", listener.getsockname())
            thread.join()


def mapped(request: stun.Message, _: tuple[str, int]) -> stun.Message:
    """What a STUN server says to who is behind a NAT."""
    response = stun.Message(request.message_method, stun.Class.RESPONSE, request.transaction_id)
    response.attributes["XOR-MAPPED-ADDRESS"] = ("203.0.113.9", 5000)
    return response


def refusing(code: int) -> Reply:
    def reply(request: stun.Message, _: tuple[str, int]) -> stun.Message:
        response = stun.Message(request.message_method, stun.Class.ERROR, request.transaction_id)
        response.attributes["ERROR-CODE"] = (code, "No")
        return response

    return reply


def silent(_: stun.Message, __: tuple[str, int]) -> None:
    return None
