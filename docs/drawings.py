"""The drawings of the docs, as SVG: `python docs/drawings.py FOLDER`; the docs build calls `draw_all`.

`house` reads the imports of the package, so it cannot differ from the code. The other drawings are made from the lists
below.
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from rtcflow.ends import Timeouts

PACKAGE = Path(__file__).parents[1] / "src" / "rtcflow"

INK, LINE, PAPER = "#1c2733", "#5b6b7b", "#fbfcfd"
FILLS = {
    "blue": "#dcebfa",
    "green": "#dff3e4",
    "amber": "#fdf0d5",
    "grey": "#eceff2",
    "red": "#fae0df",
    "violet": "#ebe3f8",
}


@dataclass
class Drawing:
    """Boxes, arrows and words on paper; positions in pixels from the upper left."""

    width: int
    height: int
    title: str
    parts: list[str] = field(default_factory=list)

    def box(
        self, x: float, y: float, width: float, height: float, words: str, fill: str = "blue", note: str = ""
    ) -> None:
        """A rounded box with a title, and smaller lines below it."""
        lines = note.split("\n") if note else []
        self.parts.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="8" fill="{FILLS[fill]}" stroke="{LINE}"/>'
        )
        top = y + height / 2 - (len(lines) * 15) / 2 + 5
        self.text(x + width / 2, top, words, weight=600)
        for number, line in enumerate(lines, 1):
            self.text(x + width / 2, top + number * 15, line, size=11.5)

    def frame(self, x: float, y: float, width: float, height: float, words: str) -> None:
        """A dashed border around what belongs together."""
        self.parts.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="10" fill="none" stroke="{LINE}" '
            'stroke-dasharray="5 4"/>'
        )
        self.text(x + 12, y + 18, words, size=12, anchor="start", weight=600)

    def text(
        self, x: float, y: float, words: str, *, size: float = 13, anchor: str = "middle", weight: int = 400
    ) -> None:
        """One line of words."""
        self.parts.append(
            f'<text x="{x}" y="{y}" font-size="{size}" text-anchor="{anchor}" font-weight="{weight}">'
            f"{escape(words)}</text>"
        )

    def arrow(self, *points: tuple[float, float], words: str = "", dashed: bool = False, dy: float = -6) -> None:
        """A line through `points` with a head at its end, and words at its middle."""
        path = " ".join(f"{x},{y}" for x, y in points)
        dash = ' stroke-dasharray="4 4"' if dashed else ""
        self.parts.append(
            f'<polyline points="{path}" fill="none" stroke="{LINE}" stroke-width="1.6"{dash} marker-end="url(#head)"/>'
        )
        if words:
            middle = len(points) // 2
            (x1, y1), (x2, y2) = points[middle - 1], points[middle]
            self.text((x1 + x2) / 2, (y1 + y2) / 2 + dy, words, size=11.5)

    def svg(self) -> str:
        """The file's text."""
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" role="img" '
                f'aria-label="{escape(self.title)}" font-family="system-ui, sans-serif" fill="{INK}">',
                f"<title>{escape(self.title)}</title>",
                '<defs><marker id="head" markerWidth="9" markerHeight="9" refX="8" refY="4.5" orient="auto">'
                f'<path d="M0,0 L9,4.5 L0,9 z" fill="{LINE}"/></marker></defs>',
                f'<rect width="{self.width}" height="{self.height}" rx="12" fill="{PAPER}"/>',
                *self.parts,
                "</svg>\n",
            ]
        )


# -- the house, from the code


def _target(package: list[str], node: ast.ImportFrom) -> Iterable[str]:
    base = [*package[: len(package) - node.level + 1], *(node.module.split(".") if node.module else [])]
    for alias in node.names:
        full = [*base, alias.name]
        yield full[1] if len(full) > 1 else ""


def imports() -> dict[str, set[str]]:
    """Which folder or flat module of the package imports which, in functions and for type checking, too."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in sorted(PACKAGE.rglob("*.py")):
        place = path.relative_to(PACKAGE).with_suffix("").parts
        if place[0] in {"__init__", "__main__", "_version"}:
            continue
        found[place[0]] |= set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level:
                names = _target(["rtcflow", *path.relative_to(PACKAGE).parts[:-1]], node)
                found[place[0]] |= {name for name in names if name != place[0]}
    return {name: {other for other in others if other in found} for name, others in found.items()}


def floors(graph: dict[str, set[str]]) -> list[list[str]]:
    """The parts, lowest floor first: each stands one floor above the highest part that it imports."""
    level: dict[str, int] = {}
    rest = dict(graph)
    while rest:
        ready = [name for name, others in rest.items() if all(other in level for other in others)]
        if not ready:  # a circle: tests/test_layers.py fails, the drawing shows the rest on one floor
            ready = list(rest)
        for name in ready:
            level[name] = 1 + max((level.get(other, 0) for other in graph[name]), default=-1)
            del rest[name]
    return [sorted(name for name in level if level[name] == floor) for floor in range(max(level.values()) + 1)]


PARTS = {
    "context": "what a handler knows of its caller",
    "ends": "why a call ended; deadlines",
    "exceptions": "every error, with its advice",
    "frames": "AudioFrame, AudioFormat, layouts",
    "media": "pure: samples in, samples out",
    "outputs": "what a handler may return",
    "protocol": "pure: bytes to events and back",
    "_core": "queues, player, threads, waiting",
    "audio": "helpers for arrays and files",
    "abc": "what a transport promises",
    "handlers": "what users subclass; turn-taking",
    "_engine": "WebRTC: asyncio, aiortc, codecs",
    "connection": "one task group per call",
    "transports": "memory, WebRTC, socket, phone",
    "client": "call a server; measure it",
    "serving": "admission and live calls",
    "credentials": "TURN servers of providers",
    "routes": "HTTP and WebSocket routes",
    "stream": "handler + options, served",
    "demo": "the echo to try",
    "cli": "the command line",
    "fastrtc": "FastRTC's names",
    "testing": "virtual time, machines, strategies",
    "agents": "conversation, tools, speech services",
    "cluster": "many processes, one stream",
    "speech": "recognition and synthesis",
    "turns": "the public names of turn-taking",
    "prometheus": "figures of streams and calls",
    "otel": "traces of calls and turns",
    "logs": "call ids in log lines, JSON",
}
"""One line for each part; a part without one is drawn with its name alone."""


def house() -> Drawing:
    """The parts of the package on their floors."""
    stories = floors(imports())
    wide, high, gap, left = 222, 44, 10, 44
    most = max(map(len, stories))
    size = (left + most * (wide + gap) + 10, 56 + len(stories) * (high + gap))
    drawing = Drawing(*size, "The parts of rtcflow on their floors")
    drawing.text(left, 28, "A part imports only parts on lower floors.", anchor="start", weight=600)
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir()}
    for floor, names in enumerate(stories):
        y = 44 + (len(stories) - 1 - floor) * (high + gap)
        drawing.text(22, y + high / 2 + 5, str(floor), size=12)
        for place, name in enumerate(names):
            fill = "violet" if name in {"media", "protocol"} else "blue" if name in folders else "grey"
            words = name + ("/" if name in folders else "")
            drawing.box(left + place * (wide + gap), y, wide, high, words, fill, PARTS.get(name, ""))
    return drawing


# -- the others


def life() -> Drawing:
    """A connection from its offer to its end."""
    drawing = Drawing(1180, 330, "The life of a connection")
    steps = [
        ("admit", "authorize, slot,\ncopy(), transport", "grey"),
        ("prepare()", "once, before\nany frame", "blue"),
        ("connected", "ICE and DTLS done,\nor the socket is open", "green"),
        ("live", "receive, emit, video,\nstart_up, messages", "green"),
        ("closing", "the first cause is kept,\nno further call begins", "amber"),
        ("shutdown()", f"once, at most {Timeouts().shutdown:g} s", "blue"),
        ("closed", "last frames, goodbye,\nthe slot is free", "grey"),
    ]
    for number, (words, note, fill) in enumerate(steps):
        x = 20 + number * 165
        drawing.box(x, 60, 146, 84, words, fill, note)
        if number:
            drawing.arrow((x - 19, 102), (x - 1, 102))
    drawing.text(20, 36, "One task group per connection", anchor="start", weight=600)
    drawing.box(
        20,
        190,
        1140,
        54,
        "Every end takes the same way",
        "amber",
        "the peer hangs up · the handler returns CloseStream or raises · a limit · the network · your app cancels",
    )
    drawing.arrow((753, 190), (753, 146))
    limits = Timeouts()
    phases = f"shutdown() {limits.shutdown:g} s, worker threads {limits.grace:g} s, goodbye {limits.goodbye:g} s"
    drawing.text(20, 280, f"Deadlines after the cause: {phases}.", anchor="start")
    drawing.text(20, 300, f"Together they take at most Timeouts.close ({limits.whole:g} s).", anchor="start")
    return drawing


def frame_path() -> Drawing:
    """What one frame passes between the wire and the handler."""
    drawing = Drawing(980, 330, "The way of a frame")
    drawing.frame(14, 14, 460, 300, "engine thread")
    drawing.frame(490, 14, 476, 300, "your event loop, or worker threads of a sync handler")
    drawing.box(30, 50, 120, 50, "UDP packet", "grey", "SRTP")
    drawing.box(180, 50, 120, 50, "jitter buffer", "violet", "media/jitter")
    drawing.box(330, 50, 125, 50, "Opus decoder", "violet", "handler's rate")
    drawing.box(510, 50, 130, 50, "audio_in", "green", "queue of 50 frames")
    drawing.box(670, 50, 130, 50, "resample, cut", "violet", "handler's frame size")
    drawing.box(830, 50, 120, 50, "receive(frame)", "blue")
    for a, b in ((150, 180), (300, 330), (455, 510), (640, 670), (800, 830)):
        drawing.arrow((a, 75), (b - 1, 75))
    drawing.box(830, 220, 120, 50, "emit()", "blue")
    drawing.box(670, 220, 130, 50, "check, resample", "violet", "int16, any length")
    drawing.box(510, 220, 130, 50, "audio_out", "green", "Player")
    drawing.box(330, 220, 125, 50, "playout", "violet", "20 ms, on time")
    drawing.box(180, 220, 120, 50, "Opus encoder", "violet")
    drawing.box(30, 220, 120, 50, "UDP packet", "grey", "SRTP")
    for a, b in ((830, 800), (670, 640), (510, 455), (330, 300), (180, 150)):
        drawing.arrow((a, 245), (b + 1, 245))
    drawing.arrow((890, 100), (890, 219), words="your code", dy=4)
    drawing.text(244, 160, "keeps receiving and playing while your loop is blocked", size=12)
    return drawing


def threads() -> Drawing:
    """Which thread runs what."""
    drawing = Drawing(980, 330, "Threads and loops")
    drawing.box(20, 60, 280, 210, "", "grey")
    drawing.text(160, 84, "engine thread (asyncio)", weight=600)
    for number, words in enumerate(
        ("ICE, DTLS, SRTP, data channels", "jitter buffers, codecs", "playout of every WebRTC call")
    ):
        drawing.box(36, 104 + number * 52, 248, 40, words, "violet")
    drawing.box(350, 60, 280, 210, "", "grey")
    drawing.text(490, 84, "your event loop (trio or asyncio)", weight=600)
    for number, words in enumerate(
        ("routes and WebSockets", "one task group per connection", "async receive, emit, start_up …")
    ):
        drawing.box(366, 104 + number * 52, 248, 40, words, "green")
    drawing.box(680, 60, 280, 210, "", "grey")
    drawing.text(820, 84, "worker threads, at most thread_limit", weight=600)
    for number, words in enumerate(
        ("sync receive: one thread a call", "sync emit: one thread a call", "run_sync, sync start_up, shutdown")
    ):
        drawing.box(696, 104 + number * 52, 248, 40, words, "blue")
    drawing.arrow((300, 150), (349, 150))
    drawing.arrow((349, 180), (301, 180))
    drawing.arrow((630, 150), (679, 150))
    drawing.arrow((679, 180), (631, 180))
    drawing.arrow(
        (160, 270),
        (160, 300),
        (820, 300),
        (820, 271),
        words="a sync handler takes frames from the engine directly: one hop",
    )
    drawing.text(20, 36, "Queues between them are bounded and may be used from any thread.", anchor="start", weight=600)
    return drawing


def turn() -> Drawing:
    """One turn with a barge-in."""
    drawing = Drawing(980, 300, "A turn with barge-in")
    y_user, y_bot, y_ledger = 70, 150, 230
    for y, words in ((y_user, "caller"), (y_bot, "reply"), (y_ledger, "ledger")):
        drawing.text(20, y + 22, words, anchor="start", weight=600)
    drawing.box(110, y_user, 190, 34, "speaks", "blue")
    drawing.box(300, y_user, 90, 34, "pause", "grey")
    drawing.box(400, y_bot, 230, 34, "played: heard", "green")
    drawing.box(630, y_bot, 160, 34, "dropped", "red")
    drawing.box(600, y_user, 190, 34, "speaks again", "blue")
    drawing.box(400, y_ledger, 230, 34, "heard() counts this", "green")
    drawing.arrow((390, y_user + 34), (400, y_bot - 1), words="")
    drawing.text(352, 130, "TurnEnded", size=11.5)
    drawing.arrow((630, y_user + 34), (630, y_bot - 1))
    drawing.text(700, 130, "Interrupted: cancel, clear", size=11.5)
    drawing.box(790, y_user, 90, 34, "pause", "grey")
    drawing.box(890, y_bot, 70, 34, "reply", "green")
    drawing.arrow((880, y_user + 34), (890, y_bot - 1))
    drawing.text(20, 36, "time runs to the right", size=12, anchor="start")
    return drawing


def placement() -> Drawing:
    """Where calls are placed in a cluster."""
    drawing = Drawing(980, 330, "Where calls are placed in a cluster")
    drawing.box(20, 120, 130, 70, "caller", "blue", "page, phone, client")
    drawing.box(260, 120, 130, 70, "proxy", "grey", "sends requests\nto any node")
    drawing.frame(510, 14, 220, 300, "nodes of the cluster")
    drawing.box(530, 50, 180, 60, "node A", "amber", "full")
    drawing.box(530, 130, 180, 60, "node B", "violet", "got the request")
    drawing.box(530, 210, 180, 60, "node C", "green", "has the call")
    drawing.box(830, 120, 130, 70, "NATS", "grey", "claims of ids,\nload of nodes")
    drawing.arrow((150, 155), (259, 155), words="offer")
    drawing.arrow((390, 155), (529, 155), words="HTTP")
    for y in (80, 160, 240):
        drawing.arrow((710, y), (829, 155), dashed=True)
    drawing.arrow((620, 190), (620, 209))
    drawing.arrow((85, 190), (85, 290), (620, 290), (620, 271), words="WebRTC media: straight to the node of the call")
    drawing.text(660, 290, "The lighter of two", size=11.5, anchor="start")
    drawing.text(660, 305, "random free nodes", size=11.5, anchor="start")
    return drawing


DRAWINGS = {
    "house": house,
    "life": life,
    "frame": frame_path,
    "threads": threads,
    "turn": turn,
    "placement": placement,
}


def draw_all(folder: Path) -> None:
    """Write every drawing into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in DRAWINGS.items():
        (folder / f"{name}.svg").write_text(make().svg(), encoding="utf-8")


if __name__ == "__main__":
    draw_all(Path(sys.argv[1]))
