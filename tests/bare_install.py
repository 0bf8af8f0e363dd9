"""Run by `nox -s wheel` where rtcflow was installed from its wheel, without any extra: what a bare install promises."""

from __future__ import annotations

import importlib.util
import sys
from importlib.resources import files

NOT_NEEDED = [
    "trio",
    "uvloop",
    "hypercorn",
    "httpx2",
    "typer",
    "rich",
    "hypothesis",
    "pytest",
    "fastapi",
    "gradio",
    "librosa",
]
found = [name for name in NOT_NEEDED if importlib.util.find_spec(name)]
assert not found, f"a bare install brought {found}"

import anyio  # noqa: E402

import rtcflow  # noqa: E402
from rtcflow.demo import EchoHandler  # noqa: E402

for name in rtcflow.__all__:
    getattr(rtcflow, name)
assert files("rtcflow").joinpath("py.typed").is_file()
assert files("rtcflow").joinpath("web", "index.html").is_file()
assert rtcflow.Stream(EchoHandler()).asgi.routes


async def main() -> None:
    """A WebRTC call, both ends here."""
    async with rtcflow.open_engine() as engine, anyio.create_task_group() as tasks:
        caller = await engine.offer()
        callee = await engine.answer(caller.offer_sdp)
        tasks.start_soon(rtcflow.run_connection, callee, EchoHandler())
        await caller.accept_answer(callee.answer)
        caller.start(rtcflow.AudioFormat(48000), rtcflow.AudioFormat(48000))
        with anyio.fail_after(120):
            await caller.wait_connected()
        await caller.aclose()


anyio.run(main)

from rtcflow.__main__ import main as command_line  # noqa: E402

sys.argv = ["rtcflow", "--version"]
command_line()
sys.argv = ["rtcflow", "demo"]
try:
    command_line()
except SystemExit as refusal:
    assert refusal.code == 2, refusal.code
print(f"rtcflow {rtcflow.__version__}: 1 passed, a bare install does what it promises")
