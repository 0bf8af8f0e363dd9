"""Print what an editor shows when the pointer rests on a name: pyright's language server is asked, as editors ask it.

python tools/hover.py        # fail unless hovering over `emit` shows `EmitType`, and over `video_emit` `VideoEmitType`
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

PROGRAM = """\
import rtcflow

def f(
    a: rtcflow.StreamHandler,
    b: rtcflow.AsyncStreamHandler,
    c: rtcflow.AudioVideoStreamHandler,
    d: rtcflow.AsyncAudioVideoStreamHandler,
) -> None:
    a.emit
    b.emit
    c.video_emit
    d.video_emit
"""


class Server:
    """pyright's language server, over its standard input and output (Language Server Protocol 3.17)."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            ["pyright-langserver", "--stdio"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self._number = 0
        root = folder.as_uri()
        folders = [{"uri": root, "name": "program"}]
        options = {"processId": None, "rootUri": root, "workspaceFolders": folders, "capabilities": {}}
        self.ask("initialize", options)
        self._send({"method": "initialized", "params": {}})

    def ask(self, method: str, params: dict[str, Any]) -> Any:
        """Send a request and return its result. The server's own requests get an empty answer."""
        self._number += 1
        self._send({"id": self._number, "method": method, "params": params})
        while True:
            message = self._receive()
            if "method" in message and "id" in message:
                count = len(message.get("params", {}).get("items", [])) if isinstance(message["params"], dict) else 0
                self._send({"id": message["id"], "result": [None] * count if count else None})
            elif message.get("id") == self._number and "method" not in message:
                return message.get("result")

    def tell(self, method: str, params: dict[str, Any]) -> None:
        """Send a notification."""
        self._send({"method": method, "params": params})

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _send(self, message: dict[str, Any]) -> None:
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        assert self._process.stdin is not None
        self._process.stdin.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        self._process.stdin.flush()

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        length = 0
        while line := self._process.stdout.readline().strip():
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        if not length:
            raise SystemExit("pyright's language server ended")
        return json.loads(self._process.stdout.read(length))


def hovers() -> dict[str, str]:
    """What is shown for each line of `PROGRAM` that names a method."""
    found = {}
    with TemporaryDirectory() as folder:
        file = Path(folder) / "program.py"
        file.write_text(PROGRAM, encoding="utf-8")
        server = Server(Path(folder))
        try:
            document = {"uri": file.as_uri(), "languageId": "python", "version": 1, "text": PROGRAM}
            server.tell("textDocument/didOpen", {"textDocument": document})
            for number, line in enumerate(PROGRAM.splitlines()):
                if line.endswith("emit"):
                    place = {"line": number, "character": len(line) - 2}
                    params = {"textDocument": {"uri": file.as_uri()}, "position": place}
                    found[line.strip()] = server.ask("textDocument/hover", params)["contents"]["value"]
        finally:
            server.close()
    return found


def main() -> None:
    wrong = 0
    shows = hovers()
    if len(shows) != PROGRAM.count("emit\n"):
        raise SystemExit(f"the language server showed {len(shows)} names")
    for name, text in shows.items():
        wanted = "VideoEmitType" if "video" in name else "EmitType"
        shown = text.replace("```", "").strip().splitlines()
        print(f"{name}: {' '.join(shown[:3])[:200]}")
        wrong += f" {wanted}" not in text.replace("(", " ").replace("[", " ")
    raise SystemExit(f"{wrong} names do not show their type" if wrong else 0)


if __name__ == "__main__":
    main()
