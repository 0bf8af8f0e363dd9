"""The measuring client: a light peer made of aiortc, one measurement per run, one JSON object on stdout.

What it says was encoded beforehand; what comes back is stamped as it arrives, after SRTP and before any jitter buffer,
and is decoded after the run. `bench/suite.py` starts it, on a core of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import fractions
import gc
import json
import os
import random
import resource
import signal
import time
from pathlib import Path

import av
import httpx2
import numpy as np
from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.codecs.vpx import Vp8Decoder, Vp8Encoder, VpxPayloadDescriptor
from aiortc.jitterbuffer import JitterFrame

from rtcflow.client.load import MARKS, RATE, CallTrace, _find_marks, find_echoes, judge, spoken_signal

SIZE = RATE // 50
LOOP = 64
"""Pictures in the loop that is sent: 2.1 s, more than any picture is under way."""
CHANCE = random.Random(7)
SENDING: set[asyncio.Future[None]] = set()
now = time.monotonic


# -- what is said


def opus(signal: np.ndarray) -> list[bytes]:
    """A loop of int16 samples, shape (n,), as a loop of packets, with the settings that aiortc's own encoder has."""
    encoder = av.CodecContext.create("libopus", "w")
    encoder.bit_rate, encoder.format, encoder.layout, encoder.sample_rate = 96000, "s16", "stereo", RATE
    encoder.options = {"application": "voip"}
    packets = []
    for begin in range(0, 2 * len(signal), SIZE):
        chunk = np.repeat(np.take(signal, range(begin, begin + SIZE), mode="wrap"), 2)
        frame = av.AudioFrame.from_ndarray(chunk[np.newaxis], format="s16", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = RATE, begin, fractions.Fraction(1, RATE)
        packets += [bytes(packet) for packet in encoder.encode(frame)]
    return packets[-len(signal) // SIZE :]  # the second time round: the encoder has settled


def decode(packets: list[tuple[float, bytes]]) -> list[tuple[float, np.ndarray]]:
    """Each packet that can be decoded as ``(moment, int16 samples at COARSE Hz)``."""
    decoder = av.CodecContext.create("libopus", "r")
    decoder.format, decoder.layout, decoder.sample_rate = "s16", "mono", RATE
    heard = []
    for moment, payload in packets:
        try:
            frames = decoder.decode(av.Packet(payload))
        except av.FFmpegError:
            continue
        for frame in frames:
            samples = frame.to_ndarray()[0, : frame.samples]
            heard.append((moment, samples[: len(samples) // 6 * 6].reshape(-1, 6).mean(axis=1).astype(np.int16)))
    return heard


def numbered() -> list[bytes]:
    """A loop of moving pictures, 640×480, each of which tells its number in squares, as VP8 frames."""
    encoder, frames = Vp8Encoder(), []
    y, x = np.mgrid[0:480, 0:640]
    for number in range(LOOP):
        phase = 2 * np.pi * number / LOOP
        grey = 128 + 60 * np.sin(x / 37 + phase) * np.cos(y / 29 - phase)
        for bit in range(6):
            grey[:80, 80 * bit : 80 * bit + 80] = 235 if number >> bit & 1 else 20
        picture = np.stack([grey, np.roll(grey, 1, 1), grey], axis=2).astype(np.uint8)
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")
        frame.pts, frame.time_base = 3000 * number, fractions.Fraction(1, 90000)
        frame.pict_type = av.video.frame.PictureType.I if number == 0 else av.video.frame.PictureType.NONE
        payloads, _ = encoder.encode(frame)
        frames.append(b"".join(VpxPayloadDescriptor.parse(payload)[1] for payload in payloads))
    return frames


def read_number(frame: av.VideoFrame, *, flipped: bool) -> int:
    """The number in the squares of a picture that came back: of its negative, or upside down. It may be smaller."""
    grey = frame.to_ndarray(format="gray")
    side = frame.width // 8
    row = frame.height - side // 2 if flipped else side // 2
    return sum(int((grey[row, bit * side + side // 2] < 128) != flipped) << bit for bit in range(6))


class Paced(MediaStreamTrack):
    """Ready packets in a loop, paced by absolute deadlines."""

    def __init__(self, kind: str, packets: list[bytes], period: float, clock: int, offset: float = 0.0) -> None:
        super().__init__()
        self.kind, self.packets, self.period = kind, packets, period
        self.step, self.time_base = round(period * clock), fractions.Fraction(1, clock)
        self.offset, self.count, self.began = offset, 0, 0.0
        self.sent: list[float] = []

    async def recv(self) -> av.Packet:
        self.began = self.began or now() + self.offset
        await asyncio.sleep(max(0.0, self.began + self.count * self.period - now()))
        packet = av.Packet(self.packets[self.count % len(self.packets)])
        packet.pts, packet.time_base = self.count * self.step, self.time_base
        self.count += 1
        self.sent.append(now())
        return packet


# -- one peer


class TappedPeer:
    """One call. `fates` says what becomes of its nth RTP packet: "lost", or "late" (after the next one).

    `jitter` is the most seconds by which its packets are delayed, each by its own lot.
    """

    jitter = 0.0

    def __init__(self, track: Paced, fates: dict[int, str] | None = None) -> None:
        self.track, self.fates = track, fates or {}
        self.received: list[tuple[float, bytes]] = []
        self.pictures: dict[int, float] = {}
        self.asked = self.up = 0.0
        self._held: list[bytes] = []
        self._count = 0
        self.connected = asyncio.Event()

    async def open(self, url: str) -> None:
        self.connection = connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        connection.addTrack(self.track)
        connection.createDataChannel("text")
        connection.on("connectionstatechange", self._state_changed)
        await connection.setLocalDescription(await connection.createOffer())
        body = {"sdp": connection.localDescription.sdp, "type": "offer", "webrtc_id": os.urandom(6).hex()}
        async with httpx2.AsyncClient(verify=False, timeout=20) as http:
            self.asked = now()
            answer = (await http.post(url, json=body)).raise_for_status().json()
        await connection.setRemoteDescription(RTCSessionDescription(answer["sdp"], answer["type"]))
        (transceiver,) = connection.getTransceivers()
        transceiver.receiver._handle_rtp_packet = self._tap_audio
        if self.track.kind == "video":
            self._stock, self._receiver = type(transceiver.receiver)._handle_rtp_packet, transceiver.receiver
            transceiver.receiver._handle_rtp_packet = self._tap_video
        elif self.fates:
            self._send, transceiver.sender.transport._send_rtp = transceiver.sender.transport._send_rtp, self._meet_fate
        await asyncio.wait_for(self.connected.wait(), 20)

    def _state_changed(self) -> None:
        if self.connection.connectionState == "connected":
            self.up = now()
            self.connected.set()

    async def _tap_audio(self, packet, arrival_time_ms) -> None:
        self.received.append((now(), packet.payload))

    async def _tap_video(self, packet, arrival_time_ms) -> None:
        self.pictures.setdefault(packet.timestamp, now())
        decoding = self._receiver._RTCRtpReceiver__decoder_queue.queue
        await self._stock(self._receiver, packet, arrival_time_ms=arrival_time_ms)
        decoding.clear()  # NACK, PLI and REMB as ever, but nothing is decoded

    async def _meet_fate(self, data: bytes) -> None:
        if 64 <= data[1] & 0x7F <= 95:  # RTCP (RFC 5761 section 4)
            await self._send(data)
            return
        fate = self.fates.get(self._count)
        self._count += 1
        if fate == "late":
            self._held.append(data)
        elif fate != "lost" and self.jitter:
            delay = self.jitter * CHANCE.random()
            asyncio.get_running_loop().call_later(delay, lambda: SENDING.add(asyncio.ensure_future(self._send(data))))
        elif fate != "lost":
            await self._send(data)
            while self._held:
                await self._send(self._held.pop())

    def trace(self) -> CallTrace:
        """For `rtcflow.load`: only frames with sound in them count as arrived."""
        trace = CallTrace(setup=self.up - self.asked, heard=decode(self.received))
        trace.arrivals = [moment for moment, samples in trace.heard if np.abs(samples).max() > 100]
        trace.departures = [(moment, 0.02 * (number + 1)) for number, moment in enumerate(self.track.sent)]
        return trace

    async def close(self) -> None:
        self.track.stop()
        await asyncio.wait_for(self.connection.close(), 5)


class FilmPeer(TappedPeer):
    """Keeps every packet of video that comes, with its moment."""

    def __init__(self, track: Paced, *, flipped: bool) -> None:
        super().__init__(track)
        self.flipped = flipped
        self.packets: dict[int, dict[int, bytes]] = {}  # by timestamp, then by sequence number: some come twice
        self.complete: dict[int, float] = {}

    async def _tap_video(self, packet, arrival_time_ms) -> None:
        if packet.payload:  # libwebrtc also sends packets of padding alone
            self.packets.setdefault(packet.timestamp, {})[packet.sequence_number] = packet.payload
            self.complete[packet.timestamp] = now()
        await super()._tap_video(packet, arrival_time_ms)

    def ages(self, begin: float, end: float = float("inf")) -> list[float]:
        """Of each picture that came between `begin` and `end`, the seconds since it was sent."""
        decoder, found = Vp8Decoder(), []
        for timestamp, moment in sorted(self.complete.items(), key=lambda item: item[1]):
            packets = self.packets[timestamp]
            middle = next(iter(packets)) + 0x8000  # sequence numbers may wrap within a picture
            payloads = [packets[number] for number in sorted(packets, key=lambda n: (n - middle) & 0xFFFF)]
            data = b"".join(VpxPayloadDescriptor.parse(payload)[1] for payload in payloads)
            try:
                frames = decoder.decode(JitterFrame(data=data, timestamp=timestamp))
            except av.FFmpegError:  # before the first key picture, or a part is missing
                continue
            for frame in frames:
                number = read_number(frame, flipped=self.flipped)
                sent = [at for k, at in enumerate(self.track.sent) if k % LOOP == number and at <= moment]
                if begin <= moment < end and sent:
                    found.append(moment - sent[-1])
        return found


# -- the server's process


class Process:
    """What a process uses."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def cpu(self) -> float:
        """CPU seconds of all its threads, those that have ended included."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def rss(self) -> float:
        """Resident memory, MB."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def host() -> tuple[float, float]:
    """CPU seconds that all of the machine was busy, and that a hypervisor took."""
    fields = [
        int(value) / os.sysconf("SC_CLK_TCK") for value in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    ]
    return sum(fields[:3]) + sum(fields[5:7]), fields[7]


def own_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


class Watch:
    """Who used the processors, from its making until `figures`."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._begin = self._look()

    def _look(self) -> tuple[float, ...]:
        return now(), self._process.cpu(), own_cpu(), *host()

    def figures(self) -> dict[str, float]:
        """% of a core: of the server, of this client, of others; and what a hypervisor took."""
        seconds, server, ours, busy, steal = (
            later - before for later, before in zip(self._look(), self._begin, strict=True)
        )
        shares = {"server_cpu": server, "client_cpu": ours, "foreign_cpu": busy - server - ours, "steal": steal}
        return {name: 100 * value / seconds for name, value in shares.items()}


# -- the measurements


async def open_all(args, peers: list[TappedPeer]) -> None:
    opening = asyncio.Semaphore(4)

    async def open_one(peer: TappedPeer) -> None:
        async with opening:
            await peer.open(f"{args.url}/webrtc/offer")

    await asyncio.gather(*(open_one(peer) for peer in peers))
    gc.collect()
    gc.disable()


def speaking(packets: list[bytes], offset: float) -> Paced:
    return Paced("audio", packets, 0.02, RATE, offset)


def look_ahead(packets: list[bytes]) -> float:
    """By how much later a mark is in what we say than in the signal: our own encoder's doing, not the server's."""
    sound = np.concatenate([samples for _, samples in decode([(0.0, packet) for packet in packets * 2])])
    found = [at for at, _ in _find_marks([(0.0, sound)])]
    return float(np.median([min((at - mark[0]) % 1.0 for mark in MARKS) for at in found]))


async def measure_echo(args, packets: list[bytes]) -> dict:
    """Latency, delivery, gaps; CPU and memory of the server per call."""
    process = Process(args.pid)
    idle = process.rss()
    peers = [TappedPeer(speaking(packets, 0.02 * number / args.n)) for number in range(args.n)]
    await open_all(args, peers)
    await asyncio.sleep(2.0)
    begin, watch = now(), Watch(process)
    await asyncio.sleep(args.seconds)
    end, figures = now(), watch.figures()
    rss = process.rss() - idle
    report = judge([peer.trace() for peer in peers], begin, end)
    skew = look_ahead(packets)
    return {
        "n": args.n,
        "latency_ms": 1000 * (report.latency.median - skew) if report.latency else None,
        "latency_p99_ms": 1000 * (report.latency.p99 - skew) if report.latency else None,
        "delivery": report.delivery,
        "gap_p99_ms": 1000 * report.gap.p99,
        "cpu": figures["server_cpu"] / args.n,
        "cpu_all": figures["server_cpu"],
        "rss_mb": rss / args.n,
        **figures,
    }


FAULTS = {"lost": {200: "lost"}, "swapped": {200: "late"}, "five": dict.fromkeys(range(200, 205), "lost")}
"""After 4 s; the RTP packets to which it happens."""


async def measure_faults(args, packets: list[bytes]) -> dict:
    """By how much later the echo is, 3 s after each fault, ms."""
    peers = [TappedPeer(speaking(packets, 0.005 * number), fates) for number, fates in enumerate(FAULTS.values())]
    await open_all(args, peers)
    await asyncio.sleep(10.0)
    changes = {}
    for name, peer in zip(FAULTS, peers, strict=True):
        trace, first = peer.trace(), peer.track.sent[0]
        before, after = (find_echoes(trace, first + begin, first + end)[1] for begin, end in ((0.5, 3.9), (7.0, 9.7)))
        changes[name] = 1000 * float(np.median(after) - np.median(before)) if before and after else None
    return changes


async def measure_loss(args, packets: list[bytes]) -> dict:
    """Of calls over a network that loses 2 % or 5 % and delays by up to 30 ms: what is missing, and how late it is."""
    fates = [{n: "lost" for n in range(10_000) if CHANCE.random() < share} | {-1: ""} for share in (0.0, 0.02, 0.05)]
    peers = [TappedPeer(speaking(packets, 0.005 * number), each) for number, each in enumerate(fates)]
    await open_all(args, peers)
    for peer in peers[1:]:
        peer.jitter = 0.03
    await asyncio.sleep(1.5)
    begin = now()
    await asyncio.sleep(max(args.seconds, 10.0))
    end = now()
    clean, *others = (judge([peer.trace()], begin, end) for peer in peers)
    found: dict[str, float] = {}
    for share, report in zip(("2", "5"), others, strict=True):
        found[f"missing_{share}"] = 100 * (1 - report.delivery)
        if clean.latency and report.latency:
            found[f"later_{share}"] = 1000 * (report.latency.median - clean.latency.median)
    return found


async def measure_stall(args, packets: list[bytes]) -> dict:
    """By how much later the echo is 3 s after a stall of the handler's loop, and of the process; and its course."""
    # Four calls, so that there are four marks a second.
    peers = [TappedPeer(speaking(packets, 0.25 * number)) for number in range(4)]
    await open_all(args, peers)
    await asyncio.sleep(3.0)
    begin = now()
    await asyncio.sleep(3.5)
    loop_stalled = now()
    async with httpx2.AsyncClient(verify=False) as http:
        await http.get(f"{args.url}/debug/block", params={"seconds": "0.3"})
    await asyncio.sleep(6.0)
    stopped = now()
    os.kill(args.pid, signal.SIGSTOP)
    try:
        await asyncio.sleep(0.3)
    finally:
        os.kill(args.pid, signal.SIGCONT)
    await asyncio.sleep(6.5)
    traces, skew, course = [peer.trace() for peer in peers], look_ahead(packets), []
    for moment in np.arange(begin, stopped + 6.0, 0.25):
        found = [latency for trace in traces for latency in find_echoes(trace, moment, moment + 0.25)[1]]
        course += [(float(moment - begin), 1000 * (latency - skew)) for latency in found]

    def between(first: float, last: float) -> float:
        found = [latency for moment, latency in course if first <= moment + begin < last]
        return float(np.median(found)) if found else float("nan")

    before = between(begin, loop_stalled - 0.3)
    return {
        "loop": between(loop_stalled + 3, stopped - 0.5) - before,
        "process": between(stopped + 3, stopped + 6) - before,
        "stalls": [loop_stalled - begin, stopped - begin],
        "course": course,
    }


async def measure_setup(args, packets: list[bytes]) -> dict:
    """From POST to the first packet with our own sound, ms."""
    found, failed = [], 0
    for _ in range(args.count):
        peer = TappedPeer(speaking(packets, 0.0))
        await peer.open(f"{args.url}/webrtc/offer")
        await asyncio.sleep(1.0)
        arrivals = peer.trace().arrivals
        found += [1000 * (arrivals[0] - peer.asked)] if arrivals else []
        failed += not arrivals
        await peer.close()
        await asyncio.sleep(0.1)
    return {"first_echo_ms": float(np.median(found)) if found else None, "all": found, "failed": failed}


async def measure_clear(args, packets: list[bytes]) -> dict:
    """From `clear_queue()` to the last packet with sound, and its 20 ms."""
    silence = opus(np.zeros(RATE, np.int16))
    found = []
    async with httpx2.AsyncClient(verify=False) as http:
        for _ in range(args.count):
            track = speaking(silence, 0.0)
            peer = TappedPeer(track)
            await peer.open(f"{args.url}/webrtc/offer")
            await asyncio.sleep(0.8)
            track.packets = packets
            await asyncio.sleep(1.2)
            cleared = (await http.get(f"{args.url}/debug/cleared")).json()
            loud = [moment for moment, samples in decode(peer.received) if np.abs(samples).max() > 2000]
            if cleared and loud:
                found.append(1000 * max(0.0, loud[-1] + 0.02 - cleared[0]))
            await peer.close()
    return {"clear_ms": float(np.median(found)) if found else None, "all": found}


async def measure_video(args, packets: list[bytes]) -> dict:
    """CPU of the server per call; pictures a second that come back, and how old they are."""
    process, pictures = Process(args.pid), numbered()
    peers = [
        FilmPeer(Paced("video", pictures, 1 / 30, 90000, number / args.n / 30), flipped=True)
        for number in range(args.n)
    ]
    await open_all(args, peers)
    await asyncio.sleep(4.0)
    begin, cpu = now(), process.cpu()
    await asyncio.sleep(args.seconds)
    end, cpu = now(), process.cpu() - cpu
    ages = [age for peer in peers for age in peer.ages(begin, end)]
    return {
        "video_cpu": 100 * cpu / args.n / (end - begin),
        "fps": len(ages) / args.n / (end - begin),
        "age_p50_ms": 1000 * float(np.percentile(ages, 50)) if ages else None,
        "age_p95_ms": 1000 * float(np.percentile(ages, 95)) if ages else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["echo", "faults", "loss", "stall", "setup", "clear", "video"])
    parser.add_argument("--url", required=True, help="the server, without a path")
    parser.add_argument("--pid", type=int, required=True, help="its process")
    parser.add_argument("-n", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--count", type=int, default=5)
    args = parser.parse_args()

    async def run() -> dict:
        packets, watch = opus(spoken_signal()[0]), Watch(Process(args.pid))
        found = await asyncio.wait_for(globals()[f"measure_{args.what}"](args, packets), 90)
        return {**watch.figures(), **found}

    print(json.dumps(asyncio.run(run())), flush=True)
    os._exit(0)  # nobody needs to see how many calls are closed


if __name__ == "__main__":
    main()
