"""Video over bad networks and of odd sizes: a caller that sends pictures through a relay that loses packets."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import anyio
import av
import numpy as np
import pytest

from rtcflow.transports.webrtc import VideoConfig, WebRTCConfig, WebRTCEngine, open_engine

sys.path.insert(0, str(Path(__file__).parent))
from lossy_relay import Relay, good

pytestmark = [pytest.mark.interop, pytest.mark.slow]

LOCAL = WebRTCConfig(host_addresses=("127.0.0.1",))
ENDED = (anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError)
FPS = 15


class VideoRelay(Relay):
    """Loses one packet of pictures, and the next retransmissions of it; or any packets, by chance."""

    def __init__(self, *, lose_at: int | None = None, again: int = 1, loss: float = 0.0, delay: float = 0.0) -> None:
        super().__init__(good)
        self._lose_at, self._again, self._loss, self._delay = lose_at, again, loss, delay
        self._chance = np.random.default_rng(1)
        self._main: int | None = None

    def _meet_fate(self, data: bytes) -> float | None:
        if not 128 <= data[0] <= 191 or 64 <= data[1] & 0x7F <= 95:
            return 0.0
        kind = data[1] & 0x7F
        self._main = kind if self._main is None else self._main
        self.sent += 1
        if self._loss and self._chance.random() < self._loss:
            self.lost += 1
            return None
        lost = kind == self._main and self.sent == self._lose_at
        lost = lost or (kind != self._main and 0 < self.lost <= self._again)
        self.lost += lost
        return None if lost else self._delay


@dataclass
class Seen:
    """When pictures came, in seconds, and their sizes."""

    times: list[float] = field(default_factory=list)
    sizes: set[tuple[int, int]] = field(default_factory=set)

    def freeze(self, begin: float) -> float:
        """The longest time without a picture from `begin` seconds after the first one, to the last one."""
        times = [at for at in self.times if at >= self.times[0] + begin]
        return max(b - a for a, b in pairwise(times))


def only(sdp: str, codec: str) -> str:
    """The offer with `codec` as the only one of its video."""
    kinds = set(re.findall(rf"^a=rtpmap:(\d+) {codec}/", sdp, re.MULTILINE))
    kinds |= {rtx for rtx, base in re.findall(r"^a=fmtp:(\d+) apt=(\d+)", sdp, re.MULTILINE) if base in kinds}
    head, *listed = re.findall(r"^m=video (\d+ \S+) (.*?)\r?$", sdp, re.MULTILINE)[0]
    kept = " ".join(kind for kind in listed[0].split(" ") if kind in kinds)
    lines = [
        f"m=video {head} {kept}" if line.startswith("m=video") else line
        for line in sdp.split("\r\n")
        if not (found := re.match(r"a=(?:rtpmap|fmtp|rtcp-fb):(\d+) ", line)) or found[1] in kinds
    ]
    return "\r\n".join(lines)


def picture(number: int, width: int = 320, height: int = 240) -> av.VideoFrame:
    y, x = np.mgrid[0:height, 0:width]
    grey = (
        110 + 60 * np.sin((x - 4 * number) / 17) * np.cos(y / 13) + np.random.default_rng(number).normal(0, 12, x.shape)
    )
    pixels = np.repeat(grey.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="bgr24")


PICTURES = [picture(number) for number in range(FPS)]


async def call(engine: WebRTCEngine, between: Relay, codec: str, seen: Seen, seconds: float, pictures: Any) -> None:
    """Send `pictures` again and again through the relay, for some seconds."""
    caller = await engine.offer(audio=False, video=True, messages=False)
    server = await engine.answer(between.offer(only(caller.offer_sdp, codec)))
    try:
        await caller.accept_answer(between.answer(server.answer))
        await caller.wait_connected()

        async def send() -> None:
            number, begin = 0, anyio.current_time()
            while True:
                caller.video_out.put_nowait(pictures[number % len(pictures)])
                number += 1
                await anyio.sleep_until(begin + number / FPS)

        async def watch() -> None:
            with suppress(*ENDED):
                while True:
                    frame = await server.video_in.take()
                    seen.times.append(time.monotonic())
                    seen.sizes.add((frame.width, frame.height))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send)
            tasks.start_soon(watch)
            await anyio.sleep(seconds)
            tasks.cancel_scope.cancel()
    finally:
        with anyio.CancelScope(shield=True):
            await caller.aclose()
            await server.aclose()


def hold_all(calls: list[tuple[Relay, str, Any]], seconds: float) -> list[Seen]:
    """All at the same time, so that they share what the machine does to them."""

    async def main() -> None:
        with anyio.fail_after(seconds + 100):
            async with open_engine(LOCAL) as engine, anyio.create_task_group() as tasks:
                for seen, (between, codec, pictures) in zip(found, calls, strict=True):
                    tasks.start_soon(call, engine, between, codec, seen, seconds, pictures)

    found = [Seen() for _ in calls]
    try:
        anyio.run(main)
        return found
    finally:
        for between, *_ in calls:
            between.close()


CODECS = ["VP8", "H264"]


def beside_a_good_call(
    make: Callable[[], VideoRelay], seconds: float
) -> tuple[Seen, dict[str, tuple[VideoRelay, Seen]]]:
    """A call without loss, and one with each codec through the relays that are made, all at the same time.

    If the pictures of the good call freeze as well, the machine was busy, and all of it is done again. If they do each
    time, there is nothing to judge, and no call with loss is returned.
    """
    for _ in range(3):
        relays = [VideoRelay(), *(make() for _ in CODECS)]
        calls = list(zip(relays, ["VP8", *CODECS], [PICTURES] * 3, strict=True))
        good_call, *bad_calls = hold_all(calls, seconds)
        if good_call.freeze(1.0) < 0.2:
            return good_call, dict(zip(CODECS, zip(relays[1:], bad_calls, strict=True), strict=True))
    return good_call, {}


def test_a_packet_lost_for_good_freezes_the_picture_for_half_a_second() -> None:
    """The call without loss tells what the machine itself did. aiortc's own buffer takes 8 to 12 s."""
    good_call, calls = beside_a_good_call(lambda: VideoRelay(lose_at=60, again=12), 5.0)
    for codec, (between, seen) in calls.items():
        assert between.lost >= 2, "the packet and its retransmission were lost"
        assert seen.freeze(1.0) <= 0.5 + 2 * good_call.freeze(1.0), codec
        assert len(seen.times) >= 0.8 * len(good_call.times), codec


@pytest.mark.parametrize(
    ("loss", "shown", "seconds"),
    [
        pytest.param(0.05, 0.8, 5.0, id="5% for 5 s"),
        pytest.param(0.01, 0.95, 60.0, id="1%", marks=[pytest.mark.nightly, pytest.mark.timeout(300)]),
        pytest.param(0.03, 0.9, 60.0, id="3%", marks=[pytest.mark.nightly, pytest.mark.timeout(300)]),
        pytest.param(0.05, 0.8, 60.0, id="5%", marks=[pytest.mark.nightly, pytest.mark.timeout(300)]),
    ],
)
def test_random_loss_of_video(loss: float, shown: float, seconds: float) -> None:
    """Pictures go on, and most of them arrive, on a path with a round trip of 50 ms."""
    good_call, calls = beside_a_good_call(lambda: VideoRelay(loss=loss, delay=0.05), seconds)
    for codec, (between, seen) in calls.items():
        assert between.lost > 0.3 * loss * between.sent
        assert seen.freeze(1.0) <= 0.5 + 2 * good_call.freeze(1.0), codec
        assert len(seen.times) >= shown * len(good_call.times), codec


def test_pictures_of_any_size_are_sent() -> None:
    """Odd sizes, sizes that change, a single pixel: each is shown, none ends the call."""
    sizes = [(641, 481), (64, 48), (640, 479), (3, 3), (1, 1), (320, 240)]
    pictures = [picture(number, *size) for size in sizes for number in range(8)]
    seen = dict(zip(CODECS, hold_all([(VideoRelay(), codec, pictures) for codec in CODECS], 5.0), strict=True))
    assert set(sizes) <= seen["VP8"].sizes
    assert {(width + width % 2, height + height % 2) for width, height in sizes} <= seen["H264"].sizes


@pytest.mark.nightly
@pytest.mark.timeout(120)
def test_screen_pictures_are_sent() -> None:
    """1920 × 1080, fifteen a second: most of them come, whole, and the first ones soon."""
    y, x = np.mgrid[0:1080, 0:1920]
    screens = []
    for number in range(FPS):
        grey = np.where((x + 8 * number) // 64 % 2 == y // 64 % 2, 210, 30).astype(np.uint8)
        screens.append(av.VideoFrame.from_ndarray(np.repeat(grey[..., None], 3, axis=2), format="bgr24"))
    for codec in CODECS:
        (seen,) = hold_all([(VideoRelay(), codec, screens)], 6.0)
        assert seen.sizes == {(1920, 1080)}
        assert len(seen.times) >= 20, codec


def test_a_sender_that_dies_ends_its_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the encoder's own error as the reason; the peer hears a goodbye."""

    def fail(*_: Any) -> Any:
        raise RuntimeError("the encoder has no memory")

    monkeypatch.setattr("rtcflow._engine.video.PictureEncoder._open", fail)

    async def main() -> None:
        async with open_engine(LOCAL) as engine:
            caller = await engine.offer(audio=False, video=True, messages=False)
            server = await engine.answer(only(caller.offer_sdp, "VP8"))
            await caller.accept_answer(server.answer)
            with anyio.fail_after(120):
                await caller.wait_connected()
                server.video_out.put_nowait(picture(0))
                with pytest.raises(anyio.BrokenResourceError) as raised:
                    await server.video_in.take()
                assert "the encoder has no memory" in str(raised.value.__cause__)
                with pytest.raises(anyio.EndOfStream):
                    await caller.video_in.take()
            await caller.aclose()
            await server.aclose()

    anyio.run(main)


class NarrowRelay(VideoRelay):
    """A path that carries so many bits a second, behind a queue of at most two seconds."""

    def __init__(self, rate: float) -> None:
        super().__init__(delay=0.025)
        self._rate, self._free = rate, 0.0

    def _meet_fate(self, data: bytes) -> float | None:
        now = time.monotonic()
        begin = max(now, self._free)
        if begin - now > 2.0:
            self.lost += 1
            return None
        self.sent += 1
        self._free = begin + 8 * (len(data) + 28) / self._rate
        return self._free - now + self._delay


def numbered(number: int) -> av.VideoFrame:
    """A picture with its number in squares at its upper edge."""
    pixels = picture(number % FPS).to_ndarray(format="bgr24")
    for bit in range(16):
        pixels[:20, 20 * bit : 20 * bit + 20] = 235 if number >> bit & 1 else 20
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="bgr24")


def number_of(frame: av.VideoFrame) -> int:
    grey = frame.to_ndarray(format="gray")
    return sum((grey[5:15, 20 * bit + 5 : 20 * bit + 15].mean() > 128) << bit for bit in range(16))


@pytest.mark.nightly
@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize(("rate", "limit"), [(64_000, 1.6), (300_000, 0.5), (1_000_000, 0.5)])
def test_a_narrow_path_builds_no_queue(rate: float, limit: float, codec: str) -> None:
    """Half a minute: after the first five seconds, 95 % of the pictures are no older than the limit."""
    ages: list[tuple[float, float]] = []

    async def main(between: Relay) -> None:
        async with open_engine(LOCAL) as engine:
            caller = await engine.offer(audio=False, video=True, messages=False)
            server = await engine.answer(between.offer(only(caller.offer_sdp, codec)))
            await caller.accept_answer(between.answer(server.answer))
            await caller.wait_connected()
            emitted: dict[int, float] = {}
            begin = anyio.current_time()

            async def send() -> None:
                for number in range(30 * FPS):
                    emitted[number] = anyio.current_time()
                    caller.video_out.put_nowait(numbered(number))
                    await anyio.sleep_until(begin + (number + 1) / FPS)
                tasks.cancel_scope.cancel()

            async def watch() -> None:
                while True:
                    number = number_of(await server.video_in.take())
                    now = anyio.current_time()
                    if number in emitted:
                        ages.append((now - begin, now - emitted[number]))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(send)
                tasks.start_soon(watch)
            await caller.aclose()
            await server.aclose()

    between = NarrowRelay(rate)
    try:
        anyio.run(main, between)
    finally:
        between.close()
    late = sorted(age for at, age in ages if at > 5)
    print(f"{codec} at {rate:.0f} bit/s: {len(ages)} pictures, p50 {late[len(late) // 2]:.3f} s, ", end="")
    print(f"p95 {late[int(0.95 * len(late))]:.3f} s, {between.lost} of {between.sent} datagrams dropped")
    assert len(late) > (10 if rate < 100_000 else 100)
    assert late[int(0.95 * len(late))] <= limit


def with_feedback(sdp: str) -> str:
    """The offer with transport-wide feedback for its video, as browsers have it."""
    extension = "a=extmap:12 http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01\r\n"
    head, mark, video = sdp.partition("m=video")
    video = re.sub(r"(a=mid:.*\r\n)", rf"\g<1>{extension}", video, count=1)
    return head + mark + re.sub(r"(a=rtcp-fb:(\d+) goog-remb\r\n)", r"\g<1>a=rtcp-fb:\g<2> transport-cc\r\n", video)


def test_transport_wide_feedback_is_followed_if_it_is_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer agrees to it, each picture's packets are told as come, and the bitrate hears of the path."""
    told: list[tuple[float, float]] = []
    monkeypatch.setattr(
        "rtcflow.media.video_rate.VideoRate.path", lambda _, now, queue, rate: told.append((queue, rate))
    )

    async def main() -> None:
        async with open_engine(LOCAL) as engine, anyio.create_task_group() as tasks:
            caller = await engine.offer(audio=False, video=True, messages=False)
            assert "transport-cc" not in (await engine.answer(caller.offer_sdp)).answer
            server = await engine.answer(with_feedback(caller.offer_sdp))
            assert "a=extmap:12 http://www.ietf.org/id/draft-holmer" in server.answer
            assert re.search(r"a=rtcp-fb:\d+ transport-cc", server.answer)
            await caller.accept_answer(server.answer)
            await caller.wait_connected()

            async def send() -> None:
                for number in count():
                    caller.video_out.put_nowait(PICTURES[number % FPS])
                    await anyio.sleep(1 / FPS)

            tasks.start_soon(send)
            with anyio.fail_after(120):
                while len(told) < 3:
                    await server.video_in.take()
            tasks.cancel_scope.cancel()

    anyio.run(main)
    assert all(0 <= queue < 30 for queue, _ in told)
    assert told[-1][1] > 10_000


def test_the_order_of_an_offer_and_our_own_preference_choose_the_codec() -> None:
    """The caller's order by default (RFC 3264 section 6.1); ours if we have one."""

    def first(answer: str) -> str:
        number = re.findall(r"^m=video \S+ \S+ (\d+)", answer, re.MULTILINE)[0]
        return re.findall(rf"^a=rtpmap:{number} (\w+)/", answer, re.MULTILINE)[0]

    async def main() -> None:
        for theirs, ours, chosen in ((["H264"], [], "H264"), ([], [], "VP8"), (["VP8"], ["H264"], "H264")):
            prefers_theirs = replace(LOCAL, video=VideoConfig(codecs=theirs))
            prefers_ours = replace(LOCAL, video=VideoConfig(codecs=ours))
            async with open_engine(prefers_theirs) as one, open_engine(prefers_ours) as two:
                caller = await one.offer(audio=False, video=True, messages=False)
                server = await two.answer(caller.offer_sdp)
                assert first(server.answer) == chosen
                await caller.aclose()
                await server.aclose()

    anyio.run(main)
