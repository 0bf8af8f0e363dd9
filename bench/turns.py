"""Turn-taking, measured: when turns are noticed, how rightly, how soon the bot falls silent, and what it costs.

    python bench/turns.py                       the detector on a spoken corpus (espeak-ng): clean, in five kinds of
                                                noise, and as it comes out of Opus
    python bench/turns.py --fastrtc MODEL       FastRTC's algorithm beside it, on the same audio in the same run, with
                                                the same network and with its own: MODEL is its file silero_vad.onnx
    python bench/turns.py --live                replies and barge-in over WebRTC calls, in real time
    python bench/turns.py --idle 50             processor time of calls in which nobody speaks
    python bench/turns.py --stop-words          hits and false alarms

Frames of 20 ms at 48 kHz throughout. FastRTC loads its file from a hub at run time; the same network (Silero VAD 4, by
its inputs and shapes) is in the wheel of faster-whisper 1.0.2. It needs fastrtc, librosa and onnxruntime installed.
"""

from __future__ import annotations

import argparse
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import turn_corpus
from turns_common import BROWSER, milliseconds

from rtcflow._engine.config import OpusConfig
from rtcflow._engine.opus import OpusEncoder, make_decoder
from rtcflow.frames import AudioFormat
from rtcflow.handlers.turns import AlgoOptions, EnergyVad, SpeechStarted, TurnEnded, VoiceTurns, get_silero_model

FRAME = 960
REPLY = 4.0  # seconds that the caller listens, in the condition that is a call


def frames(pcm):
    for at in range(0, pcm.shape[1] - FRAME + 1, FRAME):
        yield (at + FRAME) / 48000, pcm[:, at : at + FRAME]


def hear(model, conversation):
    """When turns ended, and when each was noticed to begin."""
    detector = VoiceTurns(model.stream(), AlgoOptions())
    ends, starts = [], []
    for now, samples in frames(conversation.pcm):
        for event in detector.feed(samples, 48000, bot_speaking=False):
            if isinstance(event, TurnEnded):
                ends.append(now)
            elif isinstance(event, SpeechStarted) and len(starts) == len(ends):
                starts.append(now)
    return ends, starts


class _SameNetwork:
    """Our network behind FastRTC's model class: two windows of 512 samples for its one of 1024."""

    def __init__(self):
        self.network = get_silero_model()._network

    def initial(self, _batch):
        return np.zeros(128, np.float32), np.zeros(128, np.float32), np.zeros(64, np.float32)

    def __call__(self, x, state, _rate):
        hidden, cell, context = state
        heard = np.concatenate([context, x]).astype(np.float32)
        probabilities, hidden, cell = self.network(heard, hidden, cell)
        return max(probabilities), (hidden, cell, heard[-64:])


def fastrtc_model(path):
    """FastRTC's model class, around its own file or (None) our network."""
    from fastrtc.pause_detection.silero import SileroVADModel

    if path is not None:
        SileroVADModel.download_model = staticmethod(lambda: path)
        model = SileroVADModel()
        model.warmup()
        return model

    class Model(SileroVADModel):
        def __init__(self):
            self.same = _SameNetwork()

        def get_initial_state(self, batch_size):
            return self.same.initial(batch_size)

        def __call__(self, x, state, sr):
            return self.same(x, state, sr)

    return Model()


def hear_fastrtc(model, conversation):
    import fastrtc.reply_on_pause as theirs

    class Handler(theirs.ReplyOnPause):
        clear_queue = property(lambda self: lambda: None)

        def send_message_sync(self, message):
            pass

    handler = Handler(lambda audio: None, model=model)
    ends = []
    for now, samples in frames(conversation.pcm):
        handler.receive((48000, samples))
        if handler.event.is_set():
            ends.append(now)
            handler.event.clear()
            handler.state = theirs.AppState()
    return ends, []


def conditions(utterances):
    spoken = turn_corpus.conversation(1, utterances)
    n = len(spoken.audio)
    white = np.random.default_rng(0).standard_normal(n).astype(np.float32)
    pink, music = turn_corpus.pink_noise(n), turn_corpus.music(n)
    yield "clean", spoken
    yield "room, 40 dB", turn_corpus.with_noise(spoken, white, 40)
    for snr in (10, 0):
        yield f"pink noise, {snr} dB", turn_corpus.with_noise(spoken, pink, snr)
    yield "white noise, 0 dB", turn_corpus.with_noise(spoken, white, 0)
    yield "music, 10 dB", turn_corpus.with_noise(spoken, music, 10)
    yield "clean, Opus as a browser's", through_opus(spoken, BROWSER)
    yield "clean, Opus as ours when the core is full", through_opus(spoken, OpusConfig(complexity=0))


def through_opus(spoken, config):
    """What is left of it at the far end of a call without losses; 6.5 ms late."""
    encoder, decoder = OpusEncoder(48000, config), make_decoder("OPUS", AudioFormat(48000))
    heard = [decoder.decode(encoder.payload(samples)) for _, samples in frames(spoken.pcm)]
    return turn_corpus.Conversation(np.concatenate(heard, axis=1)[0] / np.float32(32768), spoken.utterances)


def costs(utterances):
    """What only costs: audio of one call each."""
    spoken = turn_corpus.conversation(1, utterances)
    talk = [spoken.audio[round(start * 48000) : round(end * 48000)] for start, end in spoken.utterances]
    silence = np.zeros(round(REPLY * 48000), np.float32)
    call = np.concatenate([part for said in talk for part in (said, silence)])
    noise = np.random.default_rng(0).standard_normal(len(call)).astype(np.float32) * np.float32(0.0005)
    share = sum(map(len, talk)) / len(call)
    yield f"a call: the caller speaks {100 * share:.0f} % of it, room 40 dB", call + noise
    yield "somebody speaks without a pause", np.concatenate(talk)
    yield "nobody speaks, room noise", turn_corpus.pink_noise(len(silence) * 8) * np.float32(0.001)
    yield "nobody speaks, muted", np.zeros(len(silence) * 8, np.float32)


def onsets(conversation, starts):
    return [
        found[0] - start
        for start, end in conversation.utterances
        if (found := [at for at in starts if start < at < end])
    ]


def detection(listeners, utterances):
    head = ["condition"]
    for name in listeners:
        head += [f"{name}: precision / recall", "end after ms, median / p95"]
    print(f"| {' | '.join(head)} | start after ms |\n{'|---' * (len(head) + 1)}|")
    for name, conversation in conditions(utterances):
        cells, began = [name], []
        for listen in listeners.values():
            ends, starts = listen(conversation)
            score = turn_corpus.score(conversation.utterances, ends)
            cells += [f"{score.precision:.3f} / {score.recall:.3f}", milliseconds(score.delays)]
            began = began or onsets(conversation, starts)
        print(f"| {' | '.join(cells)} | {milliseconds(began)} |", flush=True)


def processor(listeners, utterances, rounds=5):
    """Interleaved, the least of some rounds: what else the machine does disturbs all alike."""
    print(f"\n| ms of CPU per s of audio | {' | '.join(listeners)} | ratio of the first to the last |")
    print("|---" * (len(listeners) + 2) + "|")
    for name, audio in costs(utterances):
        conversation = turn_corpus.Conversation(audio.astype(np.float32), [])
        least = dict.fromkeys(listeners, np.inf)
        for _ in range(rounds):
            for who, listen in listeners.items():
                began = time.process_time()
                listen(conversation)
                least[who] = min(least[who], (time.process_time() - began) / (len(audio) / 48000) * 1000)
        *_, last = least.values()
        figures = " | ".join(f"{cost:.2f}" for cost in least.values())
        print(f"| {name} | {figures} | {least['rtcflow'] / last:.2f} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--utterances", type=int, default=110)
    parser.add_argument("--fastrtc", metavar="MODEL")
    parser.add_argument("--energy", action="store_true", help="the model that knows only levels")
    parser.add_argument("--costs", action="store_true", help="nothing but the processor time")
    parser.add_argument("--live", action="store_true")
    parser.add_argument("--calls", type=int, default=12, help="calls at once, for --live")
    parser.add_argument("--clean", action="store_true", help="without noise only, for --live")
    parser.add_argument("--idle", type=int, metavar="CALLS")
    parser.add_argument("--stop-words", action="store_true")
    options = parser.parse_args()
    if options.stop_words:
        from turns_stop_words import stop_words

        stop_words()
    elif options.live or options.idle:
        import turns_live

        turns_live.main(options)
    else:
        listeners = {"rtcflow": partial(hear, EnergyVad() if options.energy else get_silero_model())}
        if options.fastrtc:
            listeners["FastRTC, same network"] = partial(hear_fastrtc, fastrtc_model(None))
            listeners["FastRTC, its own"] = partial(hear_fastrtc, fastrtc_model(options.fastrtc))
        if not options.costs:
            detection(listeners, options.utterances)
        processor(listeners, min(options.utterances, 12))


if __name__ == "__main__":
    main()
