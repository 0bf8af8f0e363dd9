"""Programs written for FastRTC, run unchanged: imported, built, called, heard. `nox -s fastrtc_compat` runs it.

    python tests/fastrtc_compat.py --source FASTRTC_CHECKOUT [PROGRAM.py | FOLDER ...]

Each program runs in a process of its own, as `__main__`, with `rtcflow.fastrtc` in FastRTC's place. Packages that are
not installed, cloud clients above all, are replaced by stubs (`fastrtc_stubs`). Calls that would block, such as
`stream.ui.launch()` and `uvicorn.run()`, return. Then one WebRTC call is made to each stream that the program built: a
caller speaks (or sends pictures), answers requests for arguments, and notes what comes back.

With `--source`, FastRTC's own tests run, too (`fastrtc_suite`). A failure that is not listed there fails the session.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import runpy
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import fastrtc_stubs
import fastrtc_suite
import numpy as np

COLUMNS = ("imported", "built", "called", "heard")
LIMIT = 90.0
"""Seconds for a program, its import included."""
PATIENCE = 20.0
"""Seconds of a call in which something must come back."""
SENTENCE = "Hello computer. What is the weather like in Paris today?"


# -- one program, in a process of its own


def run_one(program: Path) -> dict[str, Any]:
    """Run `program` and call what it built."""
    from rtcflow.fastrtc import _run

    found: dict[str, Any] = dict.fromkeys(COLUMNS, False) | {"note": ""}
    root = root_of(program)
    os.chdir(program.parent)
    around = [path / "src" for path in list(program.parents)[:6] if (path / "src").is_dir()]
    sys.path[:0] = [str(path) for path in dict.fromkeys([program.parent, *around, root])]
    fastrtc_stubs.install(program)
    _run.stand_in()
    streams = watch()
    sys.argv = [str(program)]
    try:
        run_as_main(program, root)
    except KeyboardInterrupt:
        pass  # it was asleep for ever
    except SystemExit as error:
        if error.code:
            found["note"] = f"SystemExit: {error.code}"
            return found
    except BaseException as error:
        found["note"] = last_line(error)
        return found
    found["imported"] = True
    found["built"] = bool(streams)
    for stream in streams:
        told = anyio.run(call, stream)
        for column in ("called", "heard"):
            found[column] = found[column] or told[column]
        found["note"] = told["note"] or found["note"]
        if found["heard"]:
            found["note"] = told["note"]
            break
    return found


def root_of(program: Path) -> Path:
    """The folder from which the program's own packages are imported."""
    folder = program.parent
    while (folder / "__init__.py").exists():
        folder = folder.parent
    for parent in [folder, *folder.parents][:4]:
        if (parent / "pyproject.toml").exists() or (parent / ".git").exists() or (parent / "requirements.txt").exists():
            return parent
    return folder


def run_as_main(program: Path, root: Path) -> None:
    """Run it as `__main__`; as a module of its package if it has relative imports."""
    text = program.read_text(encoding="utf-8", errors="replace")
    if "\nfrom ." in text or "    from ." in text:
        in_package = (root / "src" / "__init__.py").exists()  # then `src` is the package, not the folder around it
        for base in (root,) if in_package else (root / "src", root):
            if program.is_relative_to(base):
                name = ".".join(program.relative_to(base).with_suffix("").parts)
                sys.path.insert(0, str(base))
                runpy.run_module(name, run_name="__main__", alter_sys=True)
                return
    runpy.run_path(str(program), run_name="__main__")


def watch() -> list[Any]:
    """Note every stream that is made, let calls that would block return, and give no one credentials."""
    import uvicorn

    from rtcflow import credentials
    from rtcflow.fastrtc import _stream, _ui
    from rtcflow.transports.webrtc import WebRTCConfig

    streams: list[Any] = []
    make = _stream.Stream.__init__

    def noting(self: Any, *args: Any, **options: Any) -> None:
        local = {"webrtc": WebRTCConfig(host_addresses=("127.0.0.1",)), "server_rtc_configuration": None}
        make(self, *args, **(options | local | {"debug": True}))
        streams.append(self)

    def launch(self: Any, *_: Any, **__: Any) -> Any:
        return self._rtc.asgi, "http://127.0.0.1:7860/", None

    _stream.Stream.__init__ = noting  # type: ignore[method-assign]
    _ui.UI.launch = launch  # type: ignore[method-assign]
    uvicorn.run = lambda *_, **__: None
    nothing = {"iceServers": []}
    credentials._Question.send = lambda *_: nothing  # type: ignore[method-assign]
    sleep = time.sleep

    def sleeping(seconds: float) -> None:
        if streams and seconds >= 0.5 and threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt
        sleep(seconds)

    time.sleep = sleeping
    return streams


def last_line(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    where = [frame for frame in traceback.extract_tb(error.__traceback__) if "site-packages" not in frame.filename]
    place = f" ({Path(where[-1].filename).name}:{where[-1].lineno})" if where else ""
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:150] + place


def values_for(stream: Any, handler: Any) -> list[Any]:
    """Arguments as a page would post them: for its Gradio inputs, or by the reply function's parameters."""
    from rtcflow.fastrtc import WebRTCData

    if stream.additional_input_components and not hasattr(handler, "fn"):
        return [first_value(component) for component in stream.additional_input_components]
    function = getattr(handler, "fn", None) or getattr(handler, "_function", None) or handler
    function = getattr(function, "function", function)
    try:
        first, *parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return ["hello"]
    given = [value_for(parameter) for parameter in parameters]
    return (
        [WebRTCData("caller", textbox="hello"), *given] if "WebRTCData" in str(first.annotation) else given or ["hello"]
    )


def first_value(component: Any) -> Any:
    value = getattr(component, "__dict__", {}).get("value")
    return [] if value is None and type(component).__name__ in {"Chatbot", "State"} else value or "hello"


def value_for(parameter: inspect.Parameter) -> Any:
    said = str(parameter.annotation)
    if parameter.name.endswith(("_sr", "rate")):
        return 24_000
    for words, value in (("list", []), ("float", 0.3), ("int", 1), ("dict", {}), ("bool", True)):
        if words in said:
            return value
    if any(word in parameter.name for word in ("chat", "history", "state", "messages")):
        return []
    return 0.3 if "thresh" in parameter.name else "hello"


async def call(stream: Any) -> dict[str, Any]:
    """One WebRTC call, from the offer to what comes back."""
    from rtcflow.frames import AudioFormat
    from rtcflow.transports.webrtc import WebRTCConfig, open_engine

    told: dict[str, Any] = {"called": False, "heard": False, "note": ""}
    local = WebRTCConfig(host_addresses=("127.0.0.1",))
    heard: list[str] = []
    try:
        with anyio.fail_after(PATIENCE + 15):
            async with stream.running(), open_engine(local) as engine:
                video = "video" in stream.modality.value
                theirs = await engine.offer(audio=stream.modality != "video", video=video)
                answer = await stream.offer({"sdp": theirs.offer_sdp, "type": "offer", "webrtc_id": "caller"})
                if not isinstance(answer, dict):
                    told["note"] = f"the offer was refused: {bytes(answer.body).decode()[:120]}"
                    return told
                await theirs.accept_answer(answer["sdp"])
                theirs.start(AudioFormat(48000), AudioFormat(48000))
                await theirs.wait_connected()
                session = stream.session("caller")
                told["called"] = True
                with anyio.move_on_after(PATIENCE):
                    async with anyio.create_task_group() as group:
                        for task in (speak, show, listen, look, read, collect):
                            group.start_soon(until_over, task, theirs, stream, session, heard)
                        while not enough(stream, heard) and session.end is None:
                            await anyio.sleep(0.05)
                        group.cancel_scope.cancel()
                if session.end is not None and session.end.error is not None:
                    told["note"] = last_line(session.end.error)
                told["heard"] = enough(stream, heard)
    except BaseException as error:
        told["note"] = last_line(error)
    told["note"] = told["note"] or ", ".join(sorted(set(heard)))
    return told


def enough(stream: Any, heard: list[str]) -> bool:
    """Whether what the program is for has come back: outputs of one that only listens, else sound or pictures."""
    wanted = {"outputs"} if stream.mode == "send" else {"sound", "picture"}
    return bool(wanted & set(heard))


async def until_over(task: Any, *args: Any) -> None:
    try:
        await task(*args)
    except (anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError):
        return  # the call has ended


async def speak(theirs: Any, stream: Any, session: Any, heard: list[str]) -> None:
    """Say the sentence, then be silent for two seconds; again and again."""
    from rtcflow.frames import AudioFrame

    if stream.modality == "video" or stream.mode == "receive":
        return
    samples = await anyio.to_thread.run_sync(speech)
    while True:
        for start in range(0, samples.size, 960):
            theirs.audio_out.put(AudioFrame(samples[None, start : start + 960], 48000, start))
        await anyio.sleep(samples.size / 48000)


def speech() -> Any:
    from rtcflow.speech import EspeakTTS

    rate, spoken = EspeakTTS(48000).tts(SENTENCE)
    silence = np.zeros(2 * rate, np.float32)
    whole = (np.concatenate([silence[: rate // 2], spoken, silence]) * 32767).astype(np.int16)
    return whole[: whole.size // 960 * 960]


async def show(theirs: Any, stream: Any, session: Any, heard: list[str]) -> None:
    import av

    if "video" not in stream.modality.value or stream.mode == "receive":
        return
    picture = np.zeros((240, 320, 3), np.uint8)
    picture[60:180, 80:240] = (200, 100, 50)
    while True:
        theirs.video_out.put_nowait(av.VideoFrame.from_ndarray(picture, format="bgr24"))
        await anyio.sleep(1 / 15)


async def listen(theirs: Any, stream: Any, session: Any, heard: list[str]) -> None:
    while True:
        frame = await theirs.audio_in.take()
        if np.abs(frame.samples).max(initial=0) > 200:
            heard.append("sound")


async def look(theirs: Any, stream: Any, session: Any, heard: list[str]) -> None:
    while True:
        await theirs.video_in.take()
        heard.append("picture")


async def read(theirs: Any, stream: Any, session: Any, heard: list[str]) -> None:
    """Answer requests for arguments; note messages."""
    given = values_for(stream, session.handler)
    while True:
        message = await theirs.messages_in.take()
        kind = json.loads(message).get("type") if message.startswith("{") else "text"
        if kind == "send_input":
            stream.set_input("caller", *given)
        elif kind == "error":
            heard.append(f"error: {json.loads(message)['message'][:100]}")
        elif kind not in {"log", "turn", "warning"}:
            heard.append("messages")


async def collect(theirs: Any, stream: Any, session: Any, heard: list[str]) -> None:
    async for _ in session.outputs.read():
        heard.append("outputs")


# -- all of them


def demos(source: Path) -> list[Path]:
    """The programs of FastRTC's demo folder: one of each."""
    found = []
    for folder in sorted((source / "demo").iterdir()):
        programs = [folder / "app.py", folder / "backend" / "server.py"]
        found += [program for program in programs if program.is_file()][:1]
    return found


def programs_in(folder: Path) -> list[Path]:
    """The files below `folder` that make a stream."""
    return [
        path
        for path in sorted(folder.rglob("*.py"))
        if "fastrtc" in (text := path.read_text(encoding="utf-8", errors="replace"))
        and ("Stream(" in text or "WebRTC(" in text)
        and not path.name.startswith("test_")
    ]


def run_apart(program: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, "--one", str(program.resolve())]
    environment = {**os.environ, **fastrtc_stubs.SECRETS, "PYTHONWARNINGS": "ignore"}
    with tempfile.NamedTemporaryFile("r", suffix=".json") as result:
        try:
            done = subprocess.run(
                [*command, "--result", result.name],
                check=False,
                capture_output=True,
                text=True,
                timeout=LIMIT,
                env=environment,
            )
        except subprocess.TimeoutExpired:
            return dict.fromkeys(COLUMNS, False) | {"note": f"nothing within {LIMIT:g} s"}
        told = result.read()
    if not told:
        lines = done.stderr.strip().splitlines() or ["ended without a word"]
        return dict.fromkeys(COLUMNS, False) | {"note": lines[-1][:150]}
    return dict(json.loads(told))


def show_table(title: str, programs: list[Path], base: Path, jobs: int) -> int:
    """Run `programs`, print their table; returns how many did their work."""
    with ThreadPoolExecutor(jobs) as pool:
        results = list(pool.map(run_apart, programs))
    width = max([len(title), *(len(name_of(program, base)) for program in programs)])
    print(f"{title:<{width}}  {'  '.join(COLUMNS)}  note")
    for program, result in zip(programs, results, strict=True):
        marks = "  ".join(f"{'yes' if result[column] else '-':<{len(column)}}" for column in COLUMNS)
        print(f"{name_of(program, base):<{width}}  {marks}  {result['note']}")
    counts = [sum(bool(result[column]) for result in results) for column in COLUMNS]
    print(
        f"{'of ' + str(len(programs)):<{width}}  ",
        "  ".join(f"{n:<{len(c)}}" for n, c in zip(counts, COLUMNS, strict=True)),
    )
    print(flush=True)
    return counts[-1]


def name_of(program: Path, base: Path) -> str:
    return str(program.relative_to(base)) if program.is_relative_to(base) else program.name


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, help="a checkout of FastRTC")
    parser.add_argument("--least", type=int, default=0, help="how many of its demos must do their work")
    parser.add_argument("--jobs", type=int, default=2, help="programs at a time")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("programs", nargs="*", type=Path, help="programs, or folders to search for them")
    wanted = parser.parse_args()
    if wanted.one is not None:
        told = run_one(wanted.one)
        wanted.result.write_text(json.dumps(told))
        sys.stdout.flush()
        os._exit(0)  # threads of the program, if it has any, are not waited for
    heard, all_listed = wanted.least, True
    if wanted.source is not None:
        all_listed = fastrtc_suite.show_suite(wanted.source)
        heard = show_table("demo", demos(wanted.source), wanted.source / "demo", wanted.jobs)
    for path in wanted.programs:
        base = path if path.is_dir() else path.parent
        programs = programs_in(path) if path.is_dir() else [path]
        if programs:
            show_table(path.name, programs, base, wanted.jobs)
    return int(heard < wanted.least or not all_listed)


if __name__ == "__main__":
    threading.current_thread().name = "compat"
    sys.exit(main())
