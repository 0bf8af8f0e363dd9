"""The strategies give what they promise, and refuse what cannot be."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st
from hypothesis.errors import InvalidArgument, NoSuchExample

from rtcflow.exceptions import MediaError
from rtcflow.handlers.items import parse_emit, parse_video_emit
from rtcflow.outputs import AdditionalOutputs, CloseStream, WebRTCData
from rtcflow.protocol import messages as wire
from rtcflow.testing import strategies as rtc
from rtcflow.testing.links import Bursts


@given(rtc.pcm(dtype=None))
def test_pcm_is_audio_as_handlers_give_it(samples):
    """Every drawn array has a dtype, shape and range that `emit` may return."""
    assert samples.dtype in (np.int16, np.float32)
    assert samples.ndim == 2
    assert samples.shape[0] in (1, 2)
    assert 1 <= samples.shape[1] <= 2000
    assert samples.dtype == np.int16 or np.max(np.abs(samples)) <= 1


@given(rtc.pcm(peak=0.25))
def test_pcm_keeps_to_its_peak(samples):
    """No sample exceeds the peak that was asked for."""
    assert np.max(np.abs(samples.astype(int))) <= 0.25 * 32768


@given(st.data(), st.integers(0, 3000))
def test_chunkings_add_up(data, n):
    """The pieces of a chunking make the whole, in order."""
    samples = np.arange(n, dtype=np.int16)[np.newaxis]
    pieces = data.draw(rtc.chunks(samples))
    assert np.array_equal(np.concatenate(pieces, axis=1), samples)


@given(st.data(), st.integers(1, 100))
def test_chunkings_without_empty_pieces(data, n):
    """With empty=False no piece has length 0."""
    sizes = data.draw(rtc.chunkings(n, empty=False))
    assert sum(sizes) == n
    assert min(sizes) > 0


@given(rtc.schedules(disturbances=()))
def test_an_undisturbed_schedule_is_on_time(arrivals):
    """Without disturbances frame n arrives after n frame times."""
    assert [arrival.index for arrival in arrivals] == list(range(len(arrivals)))
    assert [arrival.at for arrival in arrivals] == pytest.approx([0.02 * i for i in range(len(arrivals))])


@given(rtc.schedules())
def test_schedules_are_in_order_of_arrival(arrivals):
    """Arrivals come in the order of time, and never before their frame could have been sent."""
    moments = [arrival.at for arrival in arrivals]
    assert moments == sorted(moments)
    assert all(arrival.at >= 0.02 * arrival.index - 1e-9 for arrival in arrivals)


@given(rtc.emit_items(max_samples=50))
def test_every_emit_item_is_accepted(item):
    """What emit_items draws, a connection accepts."""
    parse_emit(item)


@pytest.mark.parametrize("kind", rtc.JUNK)
def test_junk_is_refused(kind):
    """What junk draws, a connection refuses, with a word on what to write."""
    with pytest.raises(MediaError, match="expected"):
        parse_emit(rtc.make_junk(kind))


@given(rtc.video_emit_items())
def test_every_video_item_is_accepted(item):
    """What video_emit_items draws, a connection accepts."""
    parse_video_emit(item)


@given(rtc.messages())
def test_messages_are_read_without_error(text):
    """Every message can be decoded."""
    wire.decode(text)


@given(rtc.messages(app_only=True))
def test_app_messages_reach_the_application(text):
    """With app_only every message is the application's, unchanged."""
    assert wire.decode(text) == wire.AppMessage(text)


@given(rtc.args())
def test_args_are_accepted(values):
    """set_args takes what args draws: a list with something in it."""
    assert isinstance(values, list)
    assert values


@given(rtc.endings("closed", max_seconds=1))
def test_endings_keep_to_what_was_asked(ending):
    """An ending is of the kind, and within the time, that was asked for."""
    assert ending.how == "closed"
    assert 0 <= ending.after <= 1


@given(
    st.sampled_from([0.1, 0.3, 0.7]).flatmap(lambda peak: st.tuples(st.just(peak), rtc.pcm(dtype="float32", peak=peak)))
)
def test_float_audio_keeps_to_any_peak(drawn):
    """No sample is louder than was asked for, whatever was."""
    peak, samples = drawn
    assert np.abs(samples.astype(float)).max(initial=0) <= peak


@given(rtc.audio(rate=16000, dtype="float32"), rtc.audio())
def test_audio_has_its_rate(float_audio, any_audio):
    """The rate that was asked for, or one that occurs."""
    assert float_audio[0] == 16000
    assert float_audio[1].dtype == np.float32
    assert any_audio[0] in rtc.INPUT_RATES


@given(rtc.links(max_loss=0.1))
def test_links_lose_no_more_than_allowed(link):
    """The long-run loss of a drawn link is within the bound."""
    loss = link.loss if isinstance(link.loss, float) else link.loss.rate
    assert loss <= 0.1 + 1e-9


@pytest.mark.parametrize(
    ("make", "cure"),
    [
        (lambda: rtc.pcm(dtype="float64"), "junk"),
        (lambda: rtc.pcm(layout="5.1"), "'mono', 'stereo'"),
        (lambda: rtc.pcm(min_samples=10, max_samples=5), "max_samples of at least 10"),
        (lambda: rtc.pcm(max_samples=0), "max_samples of at least 1, or a lower min_samples"),
        (lambda: rtc.pcm(min_samples=-1), "min_samples=0"),
        (lambda: rtc.audio(rate=22051), "22050"),
        (lambda: rtc.pictures(max_side=1).example(), "max_side=2"),
        (lambda: rtc.links(max_delay=-1), "max_delay=0"),
        (lambda: rtc.endings(max_seconds=-1), "max_seconds=0"),
        (lambda: rtc.emit_items(rate=22051), "22050"),
        (lambda: rtc.pcm(peak=2), r"samples \* 2"),
        (lambda: rtc.emit_items("float64"), "junk"),
        (lambda: rtc.emit_items("video"), "it has"),
        (lambda: rtc.emit_items(rate=7), "48000"),
        (lambda: rtc.junk("none"), "there are"),
        (lambda: rtc.args(min_size=0), "min_size=1"),
        (lambda: rtc.args(min_size=5, max_size=1), "max_size of at least 5"),
        (lambda: rtc.endings("boredom"), "one of"),
        (lambda: rtc.links(max_loss=3), "probability"),
        (lambda: rtc.traces(disturbances=["burst"]).example(), "schedules"),
        (lambda: rtc.schedules(min_frames=2, max_frames=1).example(), "max_frames of at least 2"),
        (lambda: rtc.schedules(disturbances=["rain"]).example(), "there are"),
        (lambda: rtc.chunkings(0, empty=False).example(), "empty=True"),
    ],
)
@pytest.mark.filterwarnings("ignore::hypothesis.errors.NonInteractiveExampleWarning")
def test_impossible_combinations_say_what_to_write(make, cure):
    """A combination that cannot be is refused with a word on what to write instead."""
    with pytest.raises(InvalidArgument, match=cure):
        make()


# -- everything that is promised can be drawn


def drawn(strategy, condition, tries=500):
    """Whether Hypothesis draws something for which the condition holds."""
    quick = settings(max_examples=tries, derandomize=True, database=None, phases=[Phase.generate])
    try:
        find(strategy, condition, settings=quick)
    except NoSuchExample:
        return False
    return True


def gaps(arrivals):
    return [after.at - before.at for before, after in pairwise(arrivals)]


@pytest.mark.parametrize(
    ("disturbance", "seen"),
    [
        ("loss", lambda some: {one.index for one in some} != set(range(some[-1].index + 1)) if some else True),
        ("reorder", lambda some: [one.index for one in some] != sorted(one.index for one in some)),
        ("duplicate", lambda some: len({one.index for one in some}) < len(some)),
        ("burst", lambda some: any(gap < 1e-9 for gap in gaps(some))),
        ("pause", lambda some: any(gap > 0.1 for gap in gaps(some))),
        ("jitter", lambda some: any(1e-4 < one.at % 0.02 < 0.0199 for one in some)),
    ],
)
def test_each_disturbance_occurs_if_it_may(disturbance, seen):
    """A schedule has the disturbance that was asked for, and not without."""
    assert drawn(rtc.schedules(disturbances=[disturbance]), seen)
    assert not drawn(rtc.schedules(disturbances=[]), lambda some: bool(some) and seen(some), tries=50)


@pytest.mark.parametrize("branch", rtc.ACCEPTED)
def test_each_branch_of_emit_type_is_drawn(branch):
    """Alone when it is asked for, and among all others."""
    kinds = {
        "none": lambda item: item is None,
        "audio": lambda item: isinstance(item, tuple) and isinstance(item[0], int) and len(item) == 2,
        "audio with layout": lambda item: isinstance(item, tuple) and len(item) == 3,
        "outputs": lambda item: isinstance(item, AdditionalOutputs),
        "audio and outputs": lambda item: isinstance(item, tuple) and isinstance(item[1], AdditionalOutputs),
        "close": lambda item: isinstance(item, CloseStream),
        "audio and close": lambda item: isinstance(item, tuple) and isinstance(item[1], CloseStream),
    }
    assert drawn(rtc.emit_items(max_samples=20), kinds[branch])
    assert not drawn(rtc.emit_items(branch, max_samples=20), lambda item: not kinds[branch](item), tries=50)


@pytest.mark.parametrize("how", rtc.ENDINGS)
def test_each_end_is_drawn(how):
    """The peer leaves, the link breaks, the time is up, the server shuts down, it is cancelled, …"""
    assert drawn(rtc.endings(), lambda ending: ending.how == how and ending.after > 0)


@pytest.mark.parametrize(
    "seen",
    [
        lambda samples: samples.dtype == np.int16 and samples.min() == -32768,
        lambda samples: samples.dtype == np.int16 and samples.max() == 32767,
        lambda samples: samples.dtype == np.float32 and samples.max() == 1.0,
        lambda samples: samples.shape[0] == 2 and not np.array_equal(samples[0], samples[1]),
        lambda samples: samples.shape[1] > 500 and not samples.any(),
        lambda samples: samples.shape[1] == 1,
    ],
    ids=["lowest", "highest", "full scale", "two sides", "silence", "one sample"],
)
def test_the_edges_of_pcm_are_drawn(seen):
    """Both ends of the scale, both dtypes and layouts, silence, a single sample."""
    assert drawn(rtc.pcm(dtype=None), seen)


def test_messages_and_args_of_each_kind_are_drawn():
    """The protocol's own and the application's, JSON of any shape; with a WebRTCData and without."""
    assert drawn(rtc.messages(), lambda text: isinstance(wire.decode(text), wire.Dtmf))
    assert drawn(rtc.messages(), lambda text: text.startswith("{") and isinstance(wire.decode(text), wire.AppMessage))
    assert drawn(rtc.messages(), lambda text: text == "[]")
    assert drawn(rtc.args(), lambda values: isinstance(values[0], WebRTCData))
    assert drawn(rtc.args(), lambda values: len(values) == 4 and not isinstance(values[0], WebRTCData))


@pytest.mark.parametrize("at", ["bursts", "random", "reorder", "duplicate", "jitter", "bandwidth", "blackouts"])
def test_links_have_each_impairment(at):
    """A drawn link may have any of them."""
    seen = {
        "bursts": lambda link: isinstance(link.loss, Bursts) and link.loss.start > 0,
        "random": lambda link: isinstance(link.loss, float) and link.loss > 0,
    }
    assert drawn(rtc.links(), seen.get(at, lambda link: bool(getattr(link, at))))
