"""A stream on a real ASGI server, in the loop of the test: Uvicorn on asyncio, Hypercorn on trio."""

from __future__ import annotations

import contextlib
import socket
from contextlib import asynccontextmanager

import anyio


@asynccontextmanager
async def _closing(listener):
    with listener:  # trio's server has it by then
        yield


@asynccontextmanager
async def served(stream, backend_name):
    """Serve `stream` on loopback for the block; yields the port. Afterwards no call may be left."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    async with _closing(listener), anyio.create_task_group() as tasks:
        if backend_name == "trio":
            from hypercorn.config import Config
            from hypercorn.trio import serve

            config, stop = Config(), anyio.Event()
            config.bind, config.loglevel, config.graceful_timeout = [f"fd://{listener.detach()}"], "ERROR", 0.2
            tasks.start_soon(lambda: serve(stream.asgi, config, shutdown_trigger=stop.wait))
            finish = stop.set
        else:
            import uvicorn

            server = uvicorn.Server(uvicorn.Config(stream.asgi, log_level="error", ws="wsproto", lifespan="on"))
            server.install_signal_handlers = lambda: None
            server.capture_signals = contextlib.nullcontext
            tasks.start_soon(lambda: server.serve(sockets=[listener]))

            def finish():
                server.should_exit = True

        try:
            with anyio.fail_after(120):
                while not stream.is_running:
                    await anyio.sleep(0.01)
            yield port
        finally:
            finish()
    assert len(stream.calls) == 0
