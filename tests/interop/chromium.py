"""Drives a headless Chromium over its debugging pipe (Chrome DevTools Protocol): no driver, no download."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

FLAGS = (
    "--headless=new --no-sandbox --remote-debugging-pipe --use-fake-device-for-media-stream --disable-quic "
    "--no-first-run --no-default-browser-check --disable-background-networking --disable-component-update "
    "--disable-sync --disable-gpu --disable-dev-shm-usage --disable-features=Translate,MediaRouter "
    "--metrics-recording-only --no-proxy-server --password-store=basic --window-size=900,1000"
)

# Chromium reads commands from descriptor 3 and answers on 4.
AS_3_AND_4 = """
import fcntl, os, sys
r, w = (fcntl.fcntl(int(fd), fcntl.F_DUPFD, 10) for fd in sys.argv[1:3])
os.dup2(r, 3)
os.dup2(w, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


def find() -> str | None:
    """Where Chromium is, or None."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Page:
    """One tab."""

    def __init__(self, browser: Browser, session: str, target: str) -> None:
        self._browser, self._session, self._target = browser, session, target

    def call(self, method: str, **params):
        return self._browser.call(method, self._session, **params)

    def close(self) -> None:
        """Close the tab."""
        self._browser.call("Target.closeTarget", targetId=self._target)

    def evaluate(self, expression: str):
        """The JSON value of a JavaScript expression; promises are awaited."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise AssertionError(result["exceptionDetails"])
        return result["result"].get("value")

    def wait_for(self, expression: str, seconds: float = 20.0):
        """Wait until the expression is true, and return its value."""
        deadline = time.monotonic() + seconds
        while not (value := self.evaluate(expression)):
            if time.monotonic() > deadline:
                raise AssertionError(f"{expression} was not true within {seconds} s; console: {self._browser.logs}")
            time.sleep(0.1)
        return value

    def click(self, selector: str) -> None:
        """Click as a person does."""
        x, y = self.evaluate(
            f"(it => {{ it.scrollIntoView({{ block: 'nearest' }}); const r = it.getBoundingClientRect();"
            f" return [r.x + r.width / 2, r.y + r.height / 2]; }})(document.querySelector({json.dumps(selector)}))"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str, code: int, text: str = "") -> None:
        """Press a key."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, text=text)

    def screenshot(self, path: Path) -> None:
        """Keep a picture of the whole page."""
        picture = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(picture["data"]))


class Browser:
    """A running Chromium."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers = commands, os.fdopen(answers, "rb")
        self._buffer = b""
        self._id = 0
        self.logs: list[str] = []

    def call(self, method: str, session: str | None = None, **params):
        self._id += 1
        command = {"id": self._id, "method": method, "params": params}
        if session:
            command["sessionId"] = session
        os.write(self._commands, json.dumps(command).encode() + b"\0")
        while True:
            message = self._read()
            if message.get("id") == self._id:
                if "error" in message:
                    raise AssertionError(f"{method}: {message['error']}")
                return message["result"]
            if message.get("method") in {"Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled"}:
                self.logs.append(json.dumps(message["params"])[:500])

    def _read(self):
        while b"\0" not in self._buffer:
            chunk = self._answers.read1(1 << 20)
            if not chunk:
                raise AssertionError("Chromium has ended")
            self._buffer += chunk
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def open(self, url: str, *, script: str = "", context: str | None = None, **metrics) -> Page:
        """A new tab; `script` runs before the page's own, `context` is a profile of its own."""
        profile = {} if context is None else {"browserContextId": context}
        target = self.call("Target.createTarget", url="about:blank", **profile)["targetId"]
        page = Page(self, self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"], target)
        for domain in ("Page", "Runtime", "Log"):
            page.call(f"{domain}.enable")
        if script:
            page.call("Page.addScriptToEvaluateOnNewDocument", source=script)
        if metrics:
            page.call("Emulation.setDeviceMetricsOverride", **metrics)
        page.call("Page.navigate", url=url)
        page.wait_for("document.readyState === 'complete'")
        return page


@contextmanager
def chromium(folder: Path, *flags: str, within: tuple[str, ...] = ()):
    """A Chromium with an empty profile in `folder`; ended, with all its processes, at the end of the block.

    `within` are the words of a command that runs another one, such as ``ip netns exec NAME``.
    """
    path = find()
    assert path is not None
    commands_out, commands_in = os.pipe()
    answers_out, answers_in = os.pipe()
    launcher = [*within, sys.executable, "-S", "-c", AS_3_AND_4, str(commands_out), str(answers_in)]
    with (folder / "chromium.log").open("wb") as log:
        process = subprocess.Popen(
            [*launcher, path, *FLAGS.split(), *flags, f"--user-data-dir={folder / 'profile'}", "about:blank"],
            pass_fds=(commands_out, answers_in),
            stdout=subprocess.DEVNULL,
            stderr=log,
            env={**os.environ, "HOME": str(folder)},
        )
    os.close(commands_out)
    os.close(answers_in)
    browser = Browser(commands_in, answers_out)
    try:
        yield browser
        browser.call("Browser.close")
        process.wait(10)
    finally:
        process.kill()
        process.wait()
        os.close(commands_in)
        browser._answers.close()
