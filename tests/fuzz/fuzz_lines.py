"""What a client or a carrier sends, under atheris: understood, or a protocol error with a close code; nothing else.

    python tests/fuzz/fuzz_lines.py -max_total_time=60

Run by `nox -s fuzz`. One input is a kind of line and some messages; besides, webhooks' fields and signatures are read.
"""

from __future__ import annotations

import sys
from contextlib import suppress

import atheris
from far_side import CALLS, START

with atheris.instrument_imports(include=["rtcflow"]):
    from rtcflow.exceptions import MediaError, RemoteProtocolError
    from rtcflow.media.codecs import make_coder
    from rtcflow.protocol.lines import Media, Reorder
    from rtcflow.protocol.signatures import verify_plivo, verify_telnyx, verify_twilio, verify_vonage
    from rtcflow.protocol.telephone import CARRIERS, detect
    from rtcflow.protocol.telephone.answers import answer_call, read_call
    from rtcflow.protocol.websocket import WebSocketCodec

MAKERS = [WebSocketCodec, *CARRIERS.values()]
CODES = {1002, 1003, 1007, 1008, 1009}
KEY = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="  # RFC 8032 section 7.1, test 1


def one_line(data: atheris.FuzzedDataProvider) -> None:
    """Messages to one codec, from the beginning or after a good start; its audio is decoded."""
    which = data.ConsumeIntInRange(0, len(MAKERS) - 1)
    codec, reorder = MAKERS[which](), Reorder()
    if data.ConsumeBool():
        for message in [START] if which == 0 else CALLS[list(CARRIERS)[which - 1]]:
            codec.receive(message)
    while data.remaining_bytes():
        text = data.ConsumeUnicode(data.ConsumeIntInRange(0, 200))
        message: str | bytes = text if data.ConsumeBool() else text.encode("utf-8", "replace")
        try:
            event = codec.receive(message)
        except RemoteProtocolError as error:
            assert error.close_code in CODES, error
            return
        if isinstance(event, Media):
            reorder.push(event)
            with suppress(MediaError):
                make_coder("opus" if data.ConsumeBool() else "pcm_s16le", 48000, "stereo").decode(event.payload)


def one_webhook(data: atheris.FuzzedDataProvider) -> None:
    """Whatever is in a webhook: an answer that the carrier can read, and no signature that was not made."""
    words = [data.ConsumeUnicode(60) for _ in range(4)]
    body = data.ConsumeBytes(60)
    told = read_call({"From": words[0], "To": words[1], words[2]: words[3]})
    for carrier in CARRIERS:
        answer_call(carrier, "wss://example.com/telephone/handler", told, sample_rate=16000, signed=data.ConsumeBool())
    assert not verify_twilio("12345", words[0], words[1], [(words[2], words[3])], body)
    assert not verify_plivo("12345", words[0], words[1], words[2])
    assert not verify_vonage("12345", words[0], 0.0, body)
    assert not verify_telnyx(KEY, words[0], words[1], 0.0, body)


def one_first_message(data: atheris.FuzzedDataProvider) -> None:
    """A carrier is recognised by its first message, or refused."""
    try:
        detect(data.ConsumeUnicode(data.remaining_bytes()))
    except RemoteProtocolError as error:
        assert error.close_code in CODES, error


def one_input(given: bytes) -> None:
    """What atheris calls."""
    data = atheris.FuzzedDataProvider(given)
    (one_line, one_line, one_webhook, one_first_message)[data.ConsumeIntInRange(0, 3)](data)


def main() -> None:
    """Run until the time is over, or something is found."""
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
