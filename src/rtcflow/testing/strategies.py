"""Hypothesis strategies for what travels on a connection: audio, chunkings, schedules, emit items, messages, ends.

    from rtcflow.testing import strategies as rtc

    @given(rtc.pcm(), st.data())
    def test_chunking_cannot_be_seen(samples, data):
        chunks = data.draw(rtc.chunks(samples))

They shrink towards the short, the quiet and the undisturbed. A combination that cannot be is a
`hypothesis.errors.InvalidArgument` that says what to write instead.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import av
import numpy as np
from hypothesis import strategies as st
from hypothesis.errors import InvalidArgument
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from ..frames import CHANNELS, FRAME_SECONDS, ChannelLayout
from ..outputs import AdditionalOutputs, CloseStream, WebRTCData
from ..protocol import messages as wire
from .links import Blackout, Bursts, LossyLink, Trace

__all__ = [
    "ACCEPTED",
    "JUNK",
    "Arrival",
    "Ending",
    "args",
    "audio",
    "chunkings",
    "chunks",
    "emit_items",
    "endings",
    "input_rates",
    "junk",
    "links",
    "messages",
    "output_rates",
    "pcm",
    "pictures",
    "schedules",
    "traces",
    "video_emit_items",
]

Dtype = Literal["int16", "float32"]

INPUT_RATES = (8000, 16000, 22050, 24000, 32000, 44100, 48000)
"""Sample rates that telephones, models and sound cards use, Hz."""

OUTPUT_RATES = tuple(rate for rate in INPUT_RATES if rate % 50 == 0)

EDGES: dict[str, tuple[float, ...]] = {
    "int16": (0, 1, -1, 32767, -32768, -32767, 255, 256),
    "float32": (0.0, 1.0, -1.0, 1 / 32768, -1 / 32768, 32767 / 32768, 0.5, -0.5),
}
"""Values at which conversions break: zero, one step, both ends of the scale, a byte's border."""


def input_rates() -> st.SearchStrategy[int]:
    """Sample rates in Hz at which audio may come, or be emitted."""
    return st.sampled_from((48000, *(rate for rate in INPUT_RATES if rate != 48000)))


def output_rates() -> st.SearchStrategy[int]:
    """Sample rates in Hz that an `output_sample_rate` may have: multiples of 50."""
    return st.sampled_from((24000, *(rate for rate in OUTPUT_RATES if rate != 24000)))


# -- audio


@st.composite
def _pcm(
    draw: st.DrawFn, dtypes: tuple[Dtype, ...], layouts: tuple[ChannelLayout, ...], low: int, high: int, peak: float
) -> NDArray[Any]:
    dtype = draw(st.sampled_from(dtypes))
    channels = CHANNELS[draw(st.sampled_from(layouts))]
    n = draw(st.integers(low, high))
    scale = 32768 if dtype == "int16" else 1.0
    kind = draw(st.sampled_from(("silence", "constant", "square", "noise", "ramp", "anything")))
    if kind == "anything" and n > 64:
        kind = "noise"
    edges = st.sampled_from([edge for edge in EDGES[dtype] if abs(edge) <= peak * scale])
    shape = (channels, n)
    if kind == "silence":
        return np.zeros(shape, dtype)
    if kind == "constant":
        return np.full(shape, draw(edges), dtype)
    if kind == "square":
        ends = [draw(edges), draw(edges)]
        return np.resize(np.array(ends, dtype), shape)
    if kind == "anything":
        return draw(hnp.arrays(dtype, shape, elements=_samples(dtype, peak)))
    if kind == "ramp":  # every sample and channel differs from its neighbours: order mistakes show
        steps = np.arange(channels * n).reshape(shape) % max(2, int(peak * 32767))
        return steps.astype(np.int16) if dtype == "int16" else (steps / 32768).astype(np.float32)
    random = np.random.default_rng(draw(st.integers(0, 2**16)))
    noise = random.uniform(-peak, peak, shape) * scale
    return np.clip(noise, -scale, 32767 if dtype == "int16" else 1.0).astype(dtype)


def _samples(dtype: Dtype, peak: float) -> st.SearchStrategy[Any]:
    if dtype == "int16":
        return st.integers(max(-32768, round(-peak * 32768)), min(32767, round(peak * 32768)))
    most = float(np.nextafter(np.float32(peak), np.float32(0))) if np.float32(peak) > peak else float(np.float32(peak))
    return st.floats(-most, most, width=32, allow_subnormal=False)


def pcm(
    *,
    dtype: Dtype | None = "int16",
    layout: ChannelLayout | None = None,
    min_samples: int = 1,
    max_samples: int = 2000,
    peak: float = 1.0,
) -> st.SearchStrategy[NDArray[Any]]:
    """Audio: shape (channels, n); silence, constants at the edges, square waves between them, ramps, noise, anything.

    Args:
        dtype: ``"int16"``, ``"float32"`` (in [-1, 1]) or None for either.
        layout: ``"mono"``, ``"stereo"`` or None for either.
        min_samples: Per channel.
        max_samples: Per channel.
        peak: Largest absolute value, as a share of full scale.
    """
    if dtype is not None and dtype not in EDGES:
        raise InvalidArgument(f"audio is int16 or float32, not {dtype}; for what emit() must refuse, write junk()")
    if layout is not None and layout not in CHANNELS:
        raise InvalidArgument(f"layout is 'mono', 'stereo' or None for either, not {layout!r}")
    _check_bounds("min_samples", min_samples, "max_samples", max_samples, lowest=0)
    if not 0 <= peak <= 1:
        raise InvalidArgument(
            f"peak is a share of full scale, from 0 to 1, not {peak}; for audio beyond full scale write "
            "pcm(dtype='float32').map(lambda samples: samples * 2)"
        )
    dtypes: tuple[Dtype, ...] = ("int16", "float32") if dtype is None else (dtype,)
    layouts: tuple[ChannelLayout, ...] = ("mono", "stereo") if layout is None else (layout,)
    return _pcm(dtypes, layouts, min_samples, max_samples, peak)


def audio(
    *,
    rate: int | None = None,
    dtype: Dtype | None = "int16",
    layout: ChannelLayout | None = None,
    min_samples: int = 1,
    max_samples: int = 2000,
    peak: float = 1.0,
) -> st.SearchStrategy[tuple[int, NDArray[Any]]]:
    """Audio with its sample rate: ``(rate, samples)``, as `receive` gets it and `run_call(play=…)` takes it.

    Args:
        rate: Hz; None for any of `input_rates`.
        dtype: As for `pcm`, and so are the rest.
        layout: See there.
        min_samples: See there.
        max_samples: See there.
        peak: See there.
    """
    samples = pcm(dtype=dtype, layout=layout, min_samples=min_samples, max_samples=max_samples, peak=peak)
    return st.tuples(_rates(rate), samples)


def _rates(rate: int | None) -> st.SearchStrategy[int]:
    if rate is None:
        return input_rates()
    if rate in INPUT_RATES or (rate % 50 == 0 and 1000 <= rate <= 384_000):
        return st.just(rate)
    raise InvalidArgument(
        f"no audio has a sample rate of {rate} Hz; write one of {INPUT_RATES}, or another multiple of 50"
    )


def _check_bounds(least: str, low: float, most: str, high: float, *, lowest: float) -> None:
    if low < lowest:
        raise InvalidArgument(f"{least} is at least {lowest:g}, not {low:g}; write {least}={lowest:g}")
    if high < low:
        raise InvalidArgument(
            f"{most}={high:g} is less than {least}={low:g}; give a {most} of at least {low:g}, or a lower {least}"
        )


@st.composite
def chunkings(draw: st.DrawFn, n: int, *, max_chunks: int = 30, empty: bool = True) -> list[int]:
    """Ways to cut `n` samples: lengths that add up to `n`; all at once, one by one (if n is small), empty ones.

    Args:
        draw: Given by Hypothesis.
        n: Samples.
        max_chunks: The most pieces.
        empty: Whether pieces of no length may occur.
    """
    if n < 0 or max_chunks < 1:
        raise InvalidArgument(f"cannot cut {n} samples into at most {max_chunks} pieces; give n >= 0, max_chunks >= 1")
    if not n and not empty:
        raise InvalidArgument("0 samples can only be cut into empty pieces; write chunkings(0, empty=True)")
    if n <= max_chunks and n and draw(st.booleans()):
        return [1] * n
    low, high = (0, n) if empty else (1, n - 1)
    if high < low:
        return [n]
    cuts = sorted(draw(st.lists(st.integers(low, high), max_size=max_chunks - 1, unique=not empty)))
    return [int(piece) for piece in np.diff([0, *cuts, n])]


def chunks(samples: NDArray[Any], *, max_chunks: int = 30) -> st.SearchStrategy[list[NDArray[Any]]]:
    """The same audio in pieces, cut along the last axis (see `chunkings`)."""
    return chunkings(samples.shape[-1], max_chunks=max_chunks).map(
        lambda sizes: np.split(samples, np.cumsum(sizes)[:-1], axis=-1)
    )


# -- when frames arrive


@dataclass(frozen=True, slots=True)
class Arrival:
    """One frame's arrival.

    Attributes:
        at: Seconds after the first frame was sent.
        index: Which frame: 0, 1, 2, … in the order of sending.
    """

    at: float
    index: int


Disturbance = Literal["loss", "reorder", "duplicate", "burst", "pause", "jitter"]
ALL_DISTURBANCES: tuple[Disturbance, ...] = ("loss", "reorder", "duplicate", "burst", "pause", "jitter")


@st.composite
def traces(
    draw: st.DrawFn,
    *,
    max_frames: int = 100,
    disturbances: Sequence[Disturbance] = ("loss", "reorder", "duplicate", "jitter"),
    max_delay: float = 0.2,
) -> Trace:
    """Links on which the fate of each frame was chosen by Hypothesis, so that a failure shrinks to the frame it needs.

    Args:
        draw: Given by Hypothesis.
        max_frames: How many frames may suffer; later ones arrive at once.
        disturbances: What may happen: ``"loss"``, ``"reorder"``, ``"duplicate"``, ``"jitter"``.
        max_delay: Seconds.
    """
    possible = {"loss", "reorder", "duplicate", "jitter"}
    if unknown := set(disturbances) - possible:
        raise InvalidArgument(f"a link knows no {sorted(unknown)}; bursts and pauses are the sender's: use schedules()")
    fates: list[st.SearchStrategy[tuple[float, ...]]] = [st.just((0.0,))]
    late = st.integers(1, max(1, round(max_delay / FRAME_SECONDS))).map(lambda frames: frames * FRAME_SECONDS)
    if "loss" in disturbances:
        fates.append(st.just(()))
    if "reorder" in disturbances:
        fates.append(late.map(lambda delay: (delay + FRAME_SECONDS / 2,)))
    if "jitter" in disturbances:
        fates.append(st.integers(1, 9).map(lambda tenths: (tenths * FRAME_SECONDS / 10,)))
    if "duplicate" in disturbances:
        fates.append(late.map(lambda delay: (0.0, delay)))
    return Trace(draw(st.lists(st.one_of(fates), max_size=max_frames)))


@st.composite
def schedules(
    draw: st.DrawFn,
    *,
    min_frames: int = 1,
    max_frames: int = 60,
    disturbances: Sequence[Disturbance] = ALL_DISTURBANCES,
    frame_seconds: float = FRAME_SECONDS,
) -> list[Arrival]:
    """When the frames of a call arrive, in order of arrival: on time, or lost, late, early, doubled, in bursts.

    Args:
        draw: Given by Hypothesis.
        min_frames: Frames sent, at least.
        max_frames: Frames sent, at most.
        disturbances: What may go wrong; ``()`` for a perfect link.
        frame_seconds: Time between two frames.
    """
    if unknown := set(disturbances) - set(ALL_DISTURBANCES):
        raise InvalidArgument(f"unknown disturbances {sorted(unknown)}; there are {ALL_DISTURBANCES}")
    _check_bounds("min_frames", min_frames, "max_frames", max_frames, lowest=0)
    if min_frames and "loss" in disturbances and min_frames == max_frames == 1:
        raise InvalidArgument("a call of one frame, with loss, may have none; leave 'loss' out or allow more frames")
    n = draw(st.integers(min_frames, max_frames))
    link_kinds: list[Disturbance] = [kind for kind in disturbances if kind not in {"burst", "pause"}]
    link = draw(traces(max_frames=n, disturbances=link_kinds))
    pauses = draw(_moments(n)) if "pause" in disturbances else {}
    held = draw(_moments(n)) if "burst" in disturbances else {}
    out: list[Arrival] = []
    sent = 0.0
    released = 0.0
    for index in range(n):
        sent += pauses.get(index, 0) * frame_seconds
        # A burst: what the sender held back for some frames leaves at one moment.
        released = max(released, sent + held.get(index, 0) * frame_seconds)
        out += [Arrival(arrival, index) for arrival in link.send(max(sent, released), 0)]
        sent += frame_seconds
    return sorted(out, key=lambda arrival: arrival.at)


def _moments(n: int) -> st.SearchStrategy[dict[int, int]]:
    return st.dictionaries(st.integers(0, max(0, n - 1)), st.integers(1, 50), max_size=3)


def links(*, max_loss: float = 0.3, max_delay: float = 0.5) -> st.SearchStrategy[LossyLink]:
    """Bad networks by seed (see `LossyLink`); shrink towards a perfect one.

    Args:
        max_loss: Largest share of frames lost, of those that no blackout swallows.
        max_delay: Seconds.
    """
    if not 0 <= max_loss <= 1:
        raise InvalidArgument(f"max_loss is a probability, from 0 to 1, not {max_loss}")
    if max_delay < 0:
        raise InvalidArgument(f"max_delay is in seconds, and not negative: write max_delay=0, not {max_delay}")
    loss = st.floats(0, max_loss)
    # From rate = start / (start + 1 / length): the start that gives the wanted rate.
    bursts = st.builds(
        lambda rate, length: Bursts(min(1.0, rate / (1 - rate) / length) if rate < 1 else 1.0, length),
        st.floats(0, min(max_loss, 0.9)),
        st.floats(1, 20),
    )
    blackout = st.builds(lambda begin, length: Blackout(begin, begin + length), st.floats(0, 10), st.floats(0, 3))
    return st.builds(
        LossyLink,
        seed=st.integers(0, 2**16),
        loss=st.one_of(loss, bursts),
        delay=st.floats(0, max_delay),
        jitter=st.floats(0, 0.05),
        reorder=st.floats(0, 0.2),
        duplicate=st.floats(0, 0.2),
        bandwidth=st.one_of(st.none(), st.floats(64_000, 2_000_000)),
        blackouts=st.lists(blackout, max_size=2),
    )


# -- what handlers return

ACCEPTED = ("none", "audio", "audio with layout", "outputs", "audio and outputs", "close", "audio and close")
"""The branches of `EmitType`, with CloseStream also beside audio."""

JUNK = (
    "a word",
    "an array alone",
    "the rate last",
    "a list",
    "no rate",
    "zero rate",
    "float64",
    "int32",
    "three channels",
    "samples first",
    "three dimensions",
    "NaN",
    "outputs first",
    "wrong layout",
    "a number",
)
"""What handlers return by mistake: each must end the connection with an error that says what to write."""


def emit_items(*branches: str, rate: int | None = None, max_samples: int = 2000) -> st.SearchStrategy[Any]:
    """What `emit` may return: every branch of `EmitType`.

    Args:
        *branches: Some of `ACCEPTED`; by default all.
        rate: Sample rate in Hz of the audio in it; None for any.
        max_samples: Per channel.
    """
    if unknown := set(branches) - set(ACCEPTED):
        if unknown & set(JUNK):
            raise InvalidArgument(f"{sorted(unknown)} must be refused; write junk({', '.join(map(repr, unknown))})")
        raise InvalidArgument(f"EmitType has no branches {sorted(unknown)}; it has {ACCEPTED}")
    rates = _rates(rate)
    _check_bounds("min_samples", 1, "max_samples", max_samples, lowest=0)
    audio = st.tuples(rates, st.one_of(_flat(max_samples), pcm(dtype=None, max_samples=max_samples)))
    with_layout = st.one_of(
        [
            st.tuples(rates, pcm(dtype=None, layout=layout, max_samples=max_samples), st.just(layout))
            for layout in CHANNELS
        ]
    )
    outputs = st.lists(st.one_of(st.none(), st.integers(), st.text(max_size=20)), max_size=3).map(
        lambda values: AdditionalOutputs(*values)
    )
    close = st.builds(CloseStream, st.text(max_size=20))
    either = st.one_of(audio, with_layout)
    by_name: dict[str, st.SearchStrategy[Any]] = {
        "none": st.none(),
        "audio": audio,
        "audio with layout": with_layout,
        "outputs": outputs,
        "audio and outputs": st.tuples(either, outputs),
        "close": close,
        "audio and close": st.tuples(either, close),
    }
    return st.one_of([by_name[branch] for branch in branches or ACCEPTED])


def _flat(max_samples: int) -> st.SearchStrategy[NDArray[Any]]:
    return pcm(dtype=None, layout="mono", min_samples=0, max_samples=max_samples).map(lambda samples: samples[0])


def junk(*kinds: str) -> st.SearchStrategy[Any]:
    """What `emit` must not return (see `JUNK`): each is a `MediaError`.

    Args:
        *kinds: Some of `JUNK`; by default all.
    """
    if unknown := set(kinds) - set(JUNK):
        raise InvalidArgument(f"no such junk {sorted(unknown)}; there are {JUNK}")
    return st.sampled_from(kinds or JUNK).map(make_junk)


def make_junk(kind: str) -> Any:
    """The junk of that name, see `JUNK`."""
    samples = np.zeros((1, 480), np.int16)
    return {
        "a word": "hello",
        "an array alone": samples,
        "the rate last": (samples, 24000),
        "a list": [24000, samples],
        "no rate": (None, samples),
        "zero rate": (0, samples),
        "float64": (24000, samples.astype(np.float64)),
        "int32": (24000, samples.astype(np.int32)),
        "three channels": (24000, np.zeros((3, 480), np.int16)),
        "samples first": (24000, np.zeros((480, 2), np.int16)),
        "three dimensions": (24000, samples[np.newaxis]),
        "NaN": (24000, np.full((1, 480), np.nan, np.float32)),
        "outputs first": (AdditionalOutputs(1), (24000, samples)),
        "wrong layout": (24000, samples, "stereo"),
        "a number": 24000,
    }[kind]


@st.composite
def pictures(draw: st.DrawFn, *, max_side: int = 32) -> NDArray[Any]:
    """Pictures: uint8, uint16 or float32 (0-255); shape (height, width, 3) or (height, width); even sides."""
    if max_side < 2:
        raise InvalidArgument(f"the sides of a picture are even, and at least 2: write max_side=2, not {max_side}")
    height, width = (2 * draw(st.integers(1, max(1, max_side // 2))) for _ in range(2))
    shape = draw(st.sampled_from([(height, width, 3), (height, width)]))
    dtype, top = draw(st.sampled_from([("uint8", 255), ("uint16", 65535), ("float32", 255)]))
    if draw(st.booleans()):
        return np.full(shape, draw(st.sampled_from([0, top, top // 2])), dtype)
    return np.random.default_rng(draw(st.integers(0, 2**16))).uniform(0, top, shape).astype(dtype)


def video_emit_items(*, max_side: int = 32) -> st.SearchStrategy[Any]:
    """What `video_emit` may return: every branch of `VideoEmitType`."""
    frame = pictures(max_side=max_side)
    av_frame = frame.filter(lambda picture: picture.ndim == 3 and picture.dtype == np.uint8).map(
        lambda picture: av.VideoFrame.from_ndarray(picture, format="bgr24")
    )
    picture = st.one_of(frame, av_frame)
    outputs = st.lists(st.integers(), max_size=2).map(lambda values: AdditionalOutputs(*values))
    return st.one_of(st.none(), picture, outputs, st.tuples(picture, outputs), st.builds(CloseStream))


# -- messages, arguments, ends


def messages(*, app_only: bool = False, max_size: int = 200) -> st.SearchStrategy[str]:
    """Texts on the data channel: the protocol's own, the application's, and what merely looks like either.

    Args:
        app_only: Only what `on_message` gets.
        max_size: Characters of the application's own texts.
    """
    texts = st.text(max_size=max_size)
    alike = ["", "{", "[]", "{}", "null", "1", '"handshake"', '{"type": 1}', '{"type": "unknown"}', '{"data": []}']
    app = st.one_of(
        st.sampled_from(alike),
        st.sampled_from(alike),
        st.dictionaries(st.text(max_size=8), st.one_of(st.integers(), texts), max_size=3).flatmap(_json),
        texts,
    ).filter(lambda text: isinstance(wire.decode(text), wire.AppMessage))
    if app_only:
        return app
    own: st.SearchStrategy[wire.Message] = st.one_of(
        st.just(wire.Handshake()),
        st.just(wire.SendInput()),
        st.just(wire.FetchOutput()),
        st.just(wire.UpdateConnection()),
        st.builds(wire.EndStream, texts),
        st.builds(wire.StopWord, texts),
        st.builds(wire.Log, texts),
        st.builds(wire.Error, texts),
        st.builds(wire.Warning, texts),
        st.builds(wire.Dtmf, st.sampled_from(wire.DIGITS)),
    )
    return st.one_of(app, app, own.flatmap(_encoded))


# Not mapped: a story would be told in calls of these functions.
def _json(value: Any) -> st.SearchStrategy[str]:
    return st.just(json.dumps(value))


def _encoded(message: wire.Message) -> st.SearchStrategy[str]:
    return st.just(wire.encode(message))


def args(*, min_size: int = 1, max_size: int = 4) -> st.SearchStrategy[list[Any]]:
    """Argument lists for `set_args`: JSON values, now and then led by a `WebRTCData`."""
    if min_size < 1:
        raise InvalidArgument("set_args takes at least one argument; write args(min_size=1)")
    _check_bounds("min_size", min_size, "max_size", max_size, lowest=1)
    value = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=20))
    plain = st.lists(value, min_size=min_size, max_size=max_size)
    page = st.builds(WebRTCData, webrtc_id=st.text(max_size=10), textbox=st.text(max_size=20))
    return st.one_of(plain, st.tuples(page, plain).map(lambda pair: [pair[0], *pair[1]][:max_size]))


@dataclass(frozen=True, slots=True)
class Ending:
    """How a call ends.

    Attributes:
        how: ``"peer leaves"``, ``"link breaks"``, ``"time limit"``, ``"closed"`` (that connection),
            ``"server shutdown"`` (all of them), ``"cancelled"``, ``"handler closes"`` or ``"handler raises"``.
        after: Seconds after the call began.
    """

    how: str
    after: float


ENDINGS = (
    "peer leaves",
    "link breaks",
    "time limit",
    "closed",
    "server shutdown",
    "cancelled",
    "handler closes",
    "handler raises",
)


def endings(*hows: str, max_seconds: float = 3.0) -> st.SearchStrategy[Ending]:
    """Every kind of end, at any moment, in steps of half a frame.

    Args:
        *hows: Some of `ENDINGS`; by default all.
        max_seconds: The latest.
    """
    if unknown := set(hows) - set(ENDINGS):
        raise InvalidArgument(f"a call does not end by {sorted(unknown)}; it ends by one of {ENDINGS}")
    if max_seconds < 0:
        raise InvalidArgument(f"a call does not end before it begins: write max_seconds=0, not {max_seconds}")
    steps = st.integers(0, round(max_seconds / (FRAME_SECONDS / 2)))
    return st.builds(
        lambda how, step: Ending(how, round(step * FRAME_SECONDS / 2, 3)), st.sampled_from(hows or ENDINGS), steps
    )
