"""How an end is put into words."""

from __future__ import annotations

import signal
import threading

import anyio
import pytest

from rtcflow.ends import LONGEST_TEXT, ctrl_c_raises, describe_error, errors_in, is_interrupt, sole_error


class Mute(Exception):
    """Raises when it is asked for its text."""

    def __str__(self):
        raise self.args[0]


@pytest.mark.parametrize("failure", [ValueError("x"), GeneratorExit(), SystemExit(1)])
def test_an_error_that_cannot_say_what_it_is(failure):
    """Whatever __str__ raises, the error is described by its type."""
    assert (
        describe_error(Mute(failure)) == f"Mute: its text is not known, because __str__ raised {type(failure).__name__}"
    )


def test_a_long_text_is_cut():
    """A text may be longer than any message can be."""
    assert describe_error(ValueError("x" * 10**6)) == "ValueError: " + "x" * LONGEST_TEXT + "…"


def test_an_error_without_a_text_is_its_type():
    """As in a traceback."""
    assert describe_error(ValueError()) == "ValueError"


def test_only_the_outer_group_is_taken_off():
    """That is the group of our own task group. A group inside it is the application's."""
    mine = ExceptionGroup("mine", [ValueError("one")])
    assert sole_error(ExceptionGroup("", [mine])) is mine
    several = ExceptionGroup("", [mine, KeyError("two")])
    assert sole_error(several) is several
    assert list(map(repr, errors_in(several))) == ["ValueError('one')", "KeyError('two')"]
    assert errors_in(mine.exceptions[0]) == [mine.exceptions[0]]


@pytest.fixture
def sigint():
    """Set the handler of SIGINT; it is as before afterwards."""
    before = signal.getsignal(signal.SIGINT)
    yield lambda handler: signal.signal(signal.SIGINT, handler)
    signal.signal(signal.SIGINT, before)


DEEP = BaseExceptionGroup("", [BaseExceptionGroup("", [KeyboardInterrupt()]), ValueError()])


@pytest.mark.parametrize("error", [KeyboardInterrupt(), DEEP], ids=["one", "deep"])
def test_a_keyboard_interrupt_is_ctrl_c_where_ctrl_c_raises_one(error, sigint):
    """Python raises it, and `asyncio.run` and `trio.run`. Nothing is raised by a server that takes the signal."""
    sigint(signal.default_int_handler)
    assert is_interrupt(error)

    async def inside():
        found = [is_interrupt(error)]
        with anyio.open_signal_receiver(signal.SIGINT):
            found.append(is_interrupt(error))
        return found

    for backend in ("asyncio", "trio"):
        assert anyio.run(inside, backend=backend) == [True, False]
    found = []
    thread = threading.Thread(target=lambda: found.append(ctrl_c_raises()))
    thread.start()
    thread.join()
    assert found == [False]
    sigint(lambda *_: None)
    assert not is_interrupt(error)
    assert "raised KeyboardInterrupt" in describe_error(Mute(KeyboardInterrupt()))


def test_other_errors_are_no_ctrl_c():
    """SystemExit ends nothing but the call of the handler that raises it."""
    assert not is_interrupt(SystemExit())
    assert not is_interrupt(BaseExceptionGroup("", [SystemExit(), ValueError()]))
