"""`stream.ui`: what FastRTC's programs launch, and what Gradio's programs mount.

`launch` serves rtcflow's page on the HTTP server of `rtcflow serve`. If a program has imported Gradio, `stream.ui` is
also one of Gradio's `Blocks`, so that Gradio can mount and nest it. It then shows a link to rtcflow's page.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import sys
import threading
import warnings
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Final, NoReturn

import anyio
import anyio.from_thread

from ..serving.http_server import asyncio_options, longest_message, serve
from ..stream import Stream

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.types import Receive, Scope, Send

    from ..serving.calls import Calls

PORTS: Final = range(7860, 7960)
"""The ports that are tried if none is given: Gradio's."""

PROTECTING: Final = {
    **dict.fromkeys(("auth", "auth_dependency"), "give the stream a function that decides: Stream(authorize=...)"),
    **dict.fromkeys(("ssl_keyfile", "ssl_certfile"), "put a proxy with the certificate in front of it"),
}
"""Arguments of Gradio's `launch` that are refused, and what to do instead."""

CLOSING: Final = 10.0
"""Seconds that `close` waits for the server."""


class Server:
    """A server in a thread of its own, from `start` until `close`."""

    def __init__(self, application: Starlette, calls: Calls, listener: socket.socket) -> None:
        self._application = application
        self._calls = calls
        self._listener = listener
        self._portal: Any = None
        self._stop: anyio.Event | None = None
        self._started = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="rtcflow-ui", daemon=True)

    def start(self) -> None:
        """Return once it serves.

        Raises:
            BaseException: Why it does not.
        """
        self._thread.start()
        self._started.wait()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            anyio.run(self._serve, backend_options=asyncio_options(uvloop=False))
        except BaseException as error:  # noqa: BLE001  it is raised in the thread that started or waits for this one
            self._error = error
        finally:
            self._started.set()

    async def _serve(self) -> None:
        stop = self._stop = anyio.Event()
        async with anyio.from_thread.BlockingPortal() as self._portal:
            self._started.set()
            most = longest_message([self._calls])
            await serve(self._application, self._listener, "asyncio", stop=stop.wait, grace=1.0, max_message=most)

    def wait(self) -> None:
        """Wait until it has ended; raises what ended it."""
        self._thread.join()
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """End all calls, and the thread."""
        if self._portal is not None and self._stop is not None:
            with suppress(RuntimeError):  # it has ended
                self._portal.call(self._stop.set)
        self._thread.join(CLOSING)
        self._listener.close()  # if it never served


class UI:
    """The page of a stream. It is also an ASGI application: ``app.mount("/ui", stream.ui)``.

    Args:
        stream: The stream.
    """

    def __init__(self, stream: Stream) -> None:
        self._rtc = stream
        self._server: Server | None = None
        self._url: str | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the page and its routes."""
        await self._rtc.asgi(scope, receive, send)

    @property
    def app(self) -> Starlette:
        """The ASGI application that `launch` serves."""
        return self._rtc.asgi

    def launch(
        self,
        *_: Any,
        server_name: str | None = None,
        server_port: int | None = None,
        prevent_thread_lock: bool = False,
        quiet: bool = False,
        **ignored: Any,  # Gradio's other arguments
    ) -> tuple[Any, str, None]:
        """Serve the page until Ctrl-C, and print its URL.

        Args:
            server_name: The address to listen on; None is ``GRADIO_SERVER_NAME``, or 127.0.0.1.
            server_port: The port; None is ``GRADIO_SERVER_PORT``, or the first free one from 7860 to 7959.
            prevent_thread_lock: Whether to return at once; then `close` ends the server.
            quiet: Whether to print nothing.
            **ignored: Gradio's other arguments. Those that would protect the page (``auth``, ``ssl_certfile``) are
                refused, ``share=True`` is a warning, and the rest makes no difference.

        Returns:
            The application, its URL, and None (in Gradio: the public URL).

        Raises:
            RuntimeError: hypercorn is not installed, or this page is being served.
            OSError: The port is taken.
            ValueError: The page is to be protected in a way that rtcflow does not have.
        """
        _check_ignored(ignored)
        if self._server is not None:
            raise RuntimeError("this page is being served already; call close() first")
        if importlib.util.find_spec("hypercorn") is None:
            raise RuntimeError("stream.ui.launch() needs hypercorn; install rtcflow[server]")
        host = server_name or os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1")
        listener = _listen(host, server_port)
        shown = f"[{host}]" if ":" in host else host
        url = f"http://{shown}:{listener.getsockname()[1]}/"
        sys.setswitchinterval(0.0005)  # media shares the interpreter with the handlers' Python code
        self._server, self._url = Server(self._rtc.asgi, self._rtc.calls, listener), url
        try:
            self._server.start()
        except BaseException:
            self.close()
            raise
        if not quiet:
            print(f"* Running on local URL:  {url}", flush=True)  # noqa: T201
        if not prevent_thread_lock:
            try:
                self._server.wait()
            except KeyboardInterrupt:
                if not quiet:
                    print("Keyboard interruption in main thread... closing server.", flush=True)  # noqa: T201
            finally:
                self.close()
        return self._rtc.asgi, url, None

    def close(self, *_: Any, **__: Any) -> None:
        """End what `launch` started."""
        server, self._server, self._url = self._server, None, None
        if server is not None:
            server.close()

    def queue(self, *_: Any, **__: Any) -> Any:
        """Do nothing, and return this page: in Gradio, it sets the queue of events."""
        return self

    def __enter__(self) -> NoReturn:
        raise RuntimeError(
            "`with stream.ui:` adds Gradio components, and this program has not imported Gradio; import gradio first, "
            "or leave the block out: rtcflow's page needs no Gradio"
        )

    def __exit__(self, *_: object) -> None: ...

    def render(self) -> NoReturn:
        """Put the page into one of Gradio's; needs Gradio."""
        self.__enter__()


def page_of(stream: Stream) -> UI:
    """The page of `stream`: where the program has imported Gradio, one that Gradio can mount and nest."""
    gradio = sys.modules.get("gradio")
    return _gradio_page()(stream) if isinstance(getattr(gradio, "Blocks", None), type) else UI(stream)


@lru_cache(maxsize=1)
def _gradio_page() -> type[UI]:
    """`UI` as one of Gradio's `Blocks`."""
    import gradio  # pyright: ignore[reportMissingImports]

    class Page(UI, gradio.Blocks):  # type: ignore[misc]
        """Gradio's page of a stream. `launch` serves rtcflow's page."""

        def __init__(self, stream: Stream) -> None:
            UI.__init__(self, stream)
            gradio.Blocks.__init__(self, title="rtcflow")
            with gradio.Blocks.__enter__(self):
                gradio.HTML(partial(link, self))

        app = None  # type: ignore[assignment]  # Gradio sets it
        launch = UI.launch
        close = UI.close
        queue = getattr(gradio.Blocks, "queue", UI.queue)
        __enter__ = gradio.Blocks.__enter__
        __exit__ = gradio.Blocks.__exit__
        render = gradio.Blocks.render

    return Page


def link(page: UI) -> str:
    """HTML for Gradio's page: a link to rtcflow's, if `launch` serves it, or where to find it."""
    if page._url is None:
        return "The call has a page of its own: serve it with Stream.ui.launch(), or with stream.mount(app, path)."
    return f'<a href="{page._url}" target="_blank">Open the call</a>'


def _check_ignored(arguments: Mapping[str, Any]) -> None:
    """Gradio's arguments: without these, a page that should be protected would be open to everybody.

    Raises:
        ValueError: One of them is given; the text says what to write.
    """
    for name, instead in PROTECTING.items():
        if arguments.get(name):
            raise ValueError(f"launch({name}=...) protects Gradio's page, and rtcflow's is another one; {instead}")
    if arguments.get("share"):
        warnings.warn(
            "launch(share=True) makes no public link: let callers reach this server in another way",
            UserWarning,
            stacklevel=3,
        )


def _listen(host: str, port: int | None) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    if port is None and (named := os.environ.get("GRADIO_SERVER_PORT")):
        port = int(named)
    if port is not None:
        return socket.create_server((host, port), family=family)
    for candidate in PORTS:
        with suppress(OSError):
            return socket.create_server((host, candidate), family=family)
    raise OSError(f"no port from {PORTS.start} to {PORTS.stop - 1} is free; give server_port=...")
