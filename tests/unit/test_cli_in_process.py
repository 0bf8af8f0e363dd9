"""What the commands print and how they end, with stand-ins for the server. Real processes: test_cli.py."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import sys
from contextlib import asynccontextmanager
from types import SimpleNamespace

import anyio
import numpy as np
import pytest

pytest.importorskip("typer", reason="the extra cli is not here")
from typer.testing import CliRunner

from rtcflow import cli
from rtcflow.client import load, top
from rtcflow.client.load import LoadReport, Spread
from rtcflow.client.measured_call import CallReport
from rtcflow.cluster import supervisor
from rtcflow.ends import Timeouts
from rtcflow.exceptions import ClusterError, InvalidOffer, NegotiationError, RemoteProtocolError
from rtcflow.serving.live_calls import LiveCall, as_json


def command(*arguments: object):
    """Run a command in this process; its exit code, standard output, and standard error."""
    done = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout, done.stderr


def test_the_version():
    from rtcflow import __version__

    assert command("--version") == (0, f"rtcflow {__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["call", "ws://host", "--dtmf", "1"], "--dtmf needs a telephone; add --telephone twilio"),
        (["call", "https://host", "--telephone", "twilio"], "write ws:// instead of https://"),
        (["call", "WS://127.0.0.1:port", "--telephone", "twilio"], "is not the URL of a WebSocket: Port could not be"),
        (["call", "Wss://127.0.0.1:port"], "is not the URL of a WebSocket: Port could not be"),
        (["call", "http://host", "--header", "nonsense"], "a --header has a name and a colon"),
        (["top", "host:8000"], "write for example http://"),
        (["serve", "rtcflow.demo:"], "write module:stream"),
        (["serve", "rtcflow.demo:stream.nothing"], "has no 'stream.nothing'"),
        (["serve", "no_such_module:stream"], "there is no module 'no_such_module'"),
        (["serve", "rtcflow.demo:stream", "--nats", "http://host"], "nats"),
    ],
)
def test_what_is_wrong_is_one_line(arguments, words, monkeypatch):
    monkeypatch.setattr(cli.signal, "signal", lambda *_: None)  # the tests' own SIGTERM
    monkeypatch.setattr(sys, "path", [*sys.path])
    code, out, err = command(*arguments)
    assert (code, out) == (1, "")
    assert words in err
    assert err.startswith("rtcflow: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("option", ["--seconds", "--min-delivery", "--max-gap-p99", "--max-latency", "--max-setup"])
def test_nan_is_no_limit(option):
    """It would never be broken, and a server that is too slow would pass."""
    code, _, err = command("bench", "http://host", option, "nan")
    assert code == 2
    assert f"Invalid value for '{option}'" in err


def test_trio_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(cli.importlib.util, "find_spec", lambda _name: None)
    assert "install rtcflow[trio]" in command("top", "http://host", "--backend", "trio")[2]


# -- call

REPORT = CallReport(
    setup=0.25, duration=3.0, frames_sent=150, frames_received=149, packets_lost=2, round_trip=0.125, correlation=0.987,
    network_round_trip=None, ended="hung up after the time was over", recording=np.full((1, 4800), 7, np.int16),
)  # fmt: skip


@pytest.fixture
def held(monkeypatch):
    """Makes `rtcflow call` give a report, or raise, without a call; collects what it would have called with."""
    asked = []

    def be(outcome):
        async def hold(line, samples, seconds):
            asked.append((line, samples, seconds))
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome, 0.5

        monkeypatch.setattr(cli, "_hold", hold)
        return asked

    return be


def test_the_figures_of_a_call_are_a_table(held, tmp_path):
    asked = held(REPORT)
    code, out, _ = command("call", "http://host", "--record", tmp_path / "back.wav", "--header", "A: b")
    assert code == 0
    told = {line.split("  ")[0].strip(): line for line in out.splitlines()}
    assert "500 ms" in told["setup"]
    assert "150 sent, 149 received" in told["frames"]
    assert re.search(r"packets lost +2", out)
    assert "after 125 ms, correlation 0.99" in told["echo"]
    assert "–" in told["network"], "nobody has measured it"
    assert (tmp_path / "back.wav").stat().st_size == 44 + 2 * 4800
    ((line, samples, seconds),) = asked
    assert (dict(line.headers), samples, seconds) == ({"A": "b"}, None, 10.0)


def test_what_looks_like_markup_is_shown_as_it_is(held, tmp_path):
    """The server's words and the name of a file are no styles of Rich's, and half of a tag loses no report. A long name
    is whole, where a program reads it.
    """
    held(CallReport(ended="the server ended it: [/b] see [log]"))
    (folder := tmp_path / f"[red] {'long' * 30}").mkdir()
    code, out, _ = command("call", "http://host", "--record", folder / "a.wav")
    assert code == 0
    assert "the server ended it: [/b] see [log]" in out
    assert str(folder / "a.wav") in out


def test_addresses_that_look_like_emoji_are_shown_as_they_are(capsys):
    """`:ab:` and `:100:` are codes of Rich's, and parts of addresses."""
    from rtcflow.client.doctor import DoctorReport
    from rtcflow.protocol.signalling import parse_candidate
    from rtcflow.transports.webrtc import ServerReport

    ours = parse_candidate("candidate:1 1 udp 2130706431 2001:db8:100:1::5 50000 typ host")
    server = ServerReport("turn:[fd00:ab:cd::1]:3478", 0.1, ("192.0.2.1", 5))
    problems = ["No answer came from 2001:db8:a:1::5"]
    report = DoctorReport("http://me:SECRET@host", ours=[ours], ice_servers=(server,), problems=problems)
    assert report.as_dict()["url"] == "http://host"
    cli._print_doctor(report)
    shown = capsys.readouterr().out
    for text in ("2001:db8:100:1::5", "turn:[fd00:ab:cd::1]:3478", "2001:db8:a:1::5"):
        assert text in shown


def test_an_output_that_knows_few_letters_loses_no_report(monkeypatch):
    """A pipe on Windows, for example, or a terminal without UTF-8."""
    from rtcflow import __main__
    from rtcflow.client.doctor import DoctorReport

    out = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "argv", ["rtcflow", "doctor", "http://host"])
    monkeypatch.setattr(cli, "_run", lambda *_: DoctorReport("http://host", setup=0.1))
    with pytest.raises(SystemExit):
        __main__.main()
    out.flush()
    assert b"? Calls work." in out.buffer.getvalue()


def test_a_call_that_failed_ends_with_status_1_and_its_figures_as_json(held):
    report = CallReport(ended="the line broke", failed=True)
    held(report)
    code, out, _ = command("call", "http://host?token=SECRET", "--json", "--seconds", 3)
    figures = json.loads(out)
    assert code == 1
    assert figures["url"] == "http://host", "others may read the figures"
    assert (figures["ended"], figures["failed"], figures["setup"]) == ("the line broke", True, 0.5)
    assert "recording" not in figures


def test_ctrl_c_before_the_call_is_up(held):
    held(KeyboardInterrupt())
    assert command("call", "http://host") == (1, "", "rtcflow: interrupted before the call was up\n")


def test_a_recording_that_cannot_be_written_is_told_before_the_call(held, tmp_path, monkeypatch):
    asked = held(REPORT)
    monkeypatch.setattr(cli.os, "access", lambda *_: False)
    code, _, err = command("call", "http://host", "--record", tmp_path / "back.wav")
    assert (code, asked) == (1, [])
    assert "it cannot be written" in err


def test_a_disk_that_is_full_at_the_end_is_told(held, tmp_path, monkeypatch):
    from rtcflow.client import measured_call

    def write(*_):
        raise OSError(28, "No space left on device")

    held(REPORT)
    monkeypatch.setattr(measured_call, "write_wav", write)
    code, _, err = command("call", "http://host", "--record", tmp_path / "back.wav")
    assert code == 1
    assert "cannot record to" in err
    assert "No space left on device" in err


def broken():
    error = anyio.BrokenResourceError()
    error.__cause__ = OSError("no candidate works")
    return error


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ModuleNotFoundError("install rtcflow[client]"), "install rtcflow[client]"),
        (ConnectionRefusedError("Connection refused"), "Connection refused"),
        (InvalidOffer("the server is full"), "http://host: the server is full"),
        (RemoteProtocolError("that is no answer"), "http://host: that is no answer"),
        (broken(), "the server answered, but no media could flow: no candidate works"),
        (anyio.BrokenResourceError(), "no media could flow: the link failed"),
    ],
    ids=repr,
)
def test_why_there_was_no_call_is_one_line(error, words, monkeypatch):
    @asynccontextmanager
    async def open_line(_self):
        raise error
        yield

    monkeypatch.setattr(cli._Line, "open", open_line)
    code, out, err = command("call", "http://host")
    assert (code, out) == (1, "")
    assert err.endswith(f"{words}\n")
    assert err.count("\n") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="there only sockets can be waited for")
@pytest.mark.parametrize(
    "typed", [[b"1 2\n", b"x\n", b"3\n", b"9\n"], [b"1 2\nx\n3\n", b"9\n"]], ids=["one by one", "pasted"]
)
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_keys_that_are_typed_are_pressed_at_each_return(backend, typed, monkeypatch, capsys):
    import pty
    import tty

    pressed = []

    def press(digits):
        pressed.append(digits)
        changed.set()
        if "x" in digits:
            raise ValueError("a telephone has no key x")
        if "9" in digits:  # the call is over: typing is over, too
            raise anyio.ClosedResourceError

    ours, theirs = pty.openpty()
    tty.setraw(theirs)
    with open(theirs, "rb", buffering=0) as terminal, open(ours, "wb", buffering=0) as typist:
        monkeypatch.setattr(sys, "stdin", terminal)

        async def main():
            nonlocal changed
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(cli._press_typed, SimpleNamespace(press=press))
                for keys in typed:
                    changed = anyio.Event()
                    typist.write(keys)
                    await changed.wait()

        changed = None
        anyio.run(main, backend=backend)
    assert pressed == ["12", "x", "3", "9"]
    assert capsys.readouterr().err == "rtcflow: a telephone has no key x\n"


# -- bench


def test_the_figures_of_a_load_and_the_limits_that_it_broke(monkeypatch):
    spread = Spread(0.02, 0.03, 0.05, 0.08)
    report = LoadReport(
        connections=8, connected=7, failures={"refused [503]": 1}, seconds=10.0, delivery=0.9, worst_delivery=0.5,
        concealed=3, gap=spread, setup=None, marks=70, echoes=68, latency=spread, client_lag=spread,
    )  # fmt: skip

    async def run_load(url, *, on_progress, **options):
        on_progress(load.LoadProgress(8, 7, 1, 2.0, 10.0, 0.9))
        assert options["connections"] == 8
        return report

    monkeypatch.setattr(load, "run_load", run_load)
    code, out, err = command("bench", "http://host", "--min-delivery", 0.99, "--max-gap-p99", 100)
    assert code == 1
    assert err.strip() == "rtcflow: delivery is 0.9000, below 0.99"
    assert "7 of 8 calls, 10.0 s" in out
    assert "1 failed: refused [503]" in out
    assert "delivery 90.00 %, of the worst call 50.00 %, 3 frames lost on the way back" in out
    assert re.search(r"gaps +20.0 +30.0 +50.0 +80.0", out)
    assert re.search(r"setup +– +– +– +–", out)
    code, out, _ = command("bench", "http://host?token=SECRET", "--json")
    figures = json.loads(out)
    assert (code, figures["broken"], figures["connected"]) == (0, [], 7)
    assert figures["url"] == "http://host"


def test_how_far_a_load_has_come():
    assert cli._progress_line(load.LoadProgress(8, 3, 0, 0.0, 10.0, 0.0)) == "3 of 8 calls up"
    words = cli._progress_line(load.LoadProgress(8, 7, 1, 2.4, 10.0, 0.987))
    assert words == "   2 of 10 s: 7 of 8 calls up, 1 failed, delivery 98.7 %"


@pytest.mark.parametrize("error", [ModuleNotFoundError("install rtcflow[client]"), ConnectionError("refused")])
def test_a_load_that_cannot_begin(error, monkeypatch):
    async def run_load(*_, **__):
        raise error

    monkeypatch.setattr(load, "run_load", run_load)
    assert command("bench", "http://host") == (1, "", f"rtcflow: {error}\n")


# -- top


@pytest.fixture
def live(monkeypatch):
    """A server with one live call; collects the headers and the calls that were ended."""
    seen = SimpleNamespace(headers=None, ended=[], error=None)
    call = LiveCall(number=3, call="abcdef…", transport="webrtc", caller="ann", state="live", age=65.0, loss=0.2)

    async def get_calls(_url, headers):
        seen.headers = headers
        if seen.error is not None:
            raise seen.error
        return as_json([call], limit=20, ready=True)

    async def end_call(_url, _headers, number):
        seen.ended.append(number)

    monkeypatch.setattr(top, "get_calls", get_calls)
    monkeypatch.setattr(top, "end_call", end_call)
    return seen


def test_the_live_calls_are_printed_once_without_a_terminal(live):
    code, out, _ = command("top", "http://host", "--user", "ann:secret", "--header", "X-A: b")
    assert code == 0
    assert "1 of 20 live" in out
    assert "abcdef" in out
    assert live.headers == {"X-A": "b", "Authorization": "Basic YW5uOnNlY3JldA=="}


def test_the_live_calls_as_json(live):
    code, out, _ = command("top", "http://host", "--json")
    assert code == 0
    assert json.loads(out)["calls"][0]["caller"] == "ann"


def test_a_call_is_ended_by_its_number(live):
    assert command("top", "http://host", "--end", 3) == (0, "Call 3 is ending.\n", "")
    assert live.ended == [3]


@pytest.mark.parametrize(
    ("error", "words"),
    [(ConnectionError("nobody answers"), "nobody answers"), (NegotiationError("no", status=403), "http://host: no")],
)
def test_a_server_that_does_not_tell(live, error, words):
    live.error = error
    assert command("top", "http://host", "--once") == (1, "", f"rtcflow: {words}\n")


# -- serve


@pytest.mark.parametrize("grouped", [True, False])
def test_workers_that_cannot_join_their_cluster_are_one_line(grouped, monkeypatch):
    error = ClusterError("no connection to NATS at nats://127.0.0.1:9")

    async def supervise(make, workers, listener, **_):
        assert make(3, 4, 5, "nats://x")[-2:] == ["--as-worker", "3,4,5"]
        assert workers == 2
        raise BaseExceptionGroup("", [error, error]) if grouped else error

    monkeypatch.setattr(supervisor, "supervise", supervise)
    monkeypatch.setattr(cli, "_log_to_terminal", lambda *_: None)
    code, out, err = command("serve", "rtcflow.demo:stream", "--workers", 2, "--port", 0, "--drain", 5)
    assert (code, out, err) == (1, "", f"rtcflow: {error}\n")


def test_other_errors_of_workers_are_raised_as_they_are(monkeypatch):
    async def supervise(*_, **__):
        raise BaseExceptionGroup("", [ClusterError("gone"), ZeroDivisionError()])

    monkeypatch.setattr(supervisor, "supervise", supervise)
    monkeypatch.setattr(cli, "_log_to_terminal", lambda *_: None)
    with pytest.raises(BaseExceptionGroup) as raised:
        command("serve", "rtcflow.demo:stream", "--workers", 2, "--port", 0)
    assert raised.value.subgroup(ZeroDivisionError) is not None


def test_a_port_that_is_taken_is_one_line(monkeypatch, capsys):
    with cli._listen("127.0.0.1", 0) as taken, pytest.raises(SystemExit):
        cli._listen(*taken.getsockname())
    assert "Address already in use" in capsys.readouterr().err


def test_a_json_log_is_refused_where_the_application_has_its_own(monkeypatch, capsys):
    monkeypatch.setattr(logging.getLogger(), "handlers", [logging.NullHandler()])
    cli._log_to_terminal(cli.LogFormat.json)
    assert "--log-format has no effect" in capsys.readouterr().err


def test_a_json_log(monkeypatch, capsys):
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    ours = logging.getLogger("rtcflow")
    monkeypatch.setattr(ours, "level", logging.NOTSET)
    cli._log_to_terminal(cli.LogFormat.json)
    ours.info("a call has begun")
    assert json.loads(capsys.readouterr().err)["message"] == "a call has begun"


def test_a_process_whose_handlers_refuse_to_end_is_ended(monkeypatch, capsys):
    """Only after the deadline, and only if a handler's method is what holds it up."""
    ended = []
    monkeypatch.setattr(os, "_exit", ended.append)
    monkeypatch.setattr(logging, "shutdown", lambda: None)
    options = SimpleNamespace(timeouts=Timeouts())
    for held_up, expected in ((False, []), (True, [1])):
        deadline = cli._Deadline([SimpleNamespace(options=options, is_held_up=held_up)])
        deadline.seconds = 0.001
        deadline._wait()
        assert ended == expected
    deadline.stop()
    deadline._wait()
    assert ended == [1]
    assert capsys.readouterr().out == "Ended.\n"
