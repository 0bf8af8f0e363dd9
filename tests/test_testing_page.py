"""The bug in docs/testing.md: the machine finds it, and tells it as the page says; cured, it is found no more."""

from __future__ import annotations

import math
import re

import pytest
from documents import ROOT, example, examples
from hypothesis import HealthCheck, settings

pytest_plugins = ["pytester"]

PAGE = (ROOT / "docs" / "testing.md").read_text()
STORIES = re.findall(r"^```text\n(BotLife found.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def told(life):
    """What the machine prints of each bug."""
    life.seconds = math.inf  # a slow machine finds the same
    case = life.TestCase
    case.settings = settings(
        case.settings,
        derandomize=True,
        database=None,
        max_examples=50,
        print_blob=False,  # which CI would print
        suppress_health_check=list(HealthCheck),
    )
    with pytest.raises((AssertionError, ExceptionGroup)) as caught:
        case().runTest()
    errors = caught.value.exceptions if isinstance(caught.value, ExceptionGroup) else [caught.value]
    return {f"{error}\n" for error in errors}


def cured(bot):
    """The page's bot, with its first bug cured."""

    class Bot(bot):
        async def receive(self, frame):
            await self.ready.wait()
            await super().receive(frame)

        def copy(self):
            return type(self)(self.service)

    return Bot


def test_the_fixtures(pytester):
    """The lines about pytest's fixtures do what they say, on both backends."""
    (parrot,) = [found.code for found in examples() if found.page.name == "testing.md" and "class Parrot" in found.code]
    (block,) = re.findall(r"^```py\n(@pytest\.fixture.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    handler = parrot[: parrot.index("async def test_")]
    pytester.makepyfile("import pytest\n" + handler + block)
    pytester.runpytest_subprocess("-p", "no:cacheprovider", "-W", "error", "-p", "no:asyncio").assert_outcomes(passed=2)


def test_the_stories():
    """A frame that comes too early, a caller who is gone too early: as the page prints it."""
    assert told(example("testing.md", "BotLife")["BotLife"]) == set(STORIES)


def test_one_bug_cured():
    """With `receive` cured, the other story is left."""
    names = example("testing.md", "BotLife")
    names["Bot"] = cured(names["Bot"])
    assert told(names["BotLife"]) == {STORIES[1]}


def test_no_third_story():
    """With `shutdown` cured, too, nothing more is found; and the pasted story passes."""
    names = example("testing.md", "BotLife")

    class Bot(cured(names["Bot"])):
        async def shutdown(self):
            if self.session is not None:
                await super().shutdown()

    names["Bot"] = Bot
    names["BotLife"].seconds = math.inf
    case = names["BotLife"].TestCase
    case.settings = settings(case.settings, derandomize=True, max_examples=20, suppress_health_check=list(HealthCheck))
    case().runTest()
    (pasted,) = re.findall(r"^```py\n(def test_a_caller_is.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    exec(pasted, names)
    names["test_a_caller_is_gone_at_once"]()


def test_the_rule_of_ones_own():
    """The rule that the page shows, in three lines, is one that Hypothesis plays: what it does is in the story."""
    (rule,) = re.findall(r"^```py\n(    @rule\(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert len(rule.splitlines()) == 3
    names = example("testing.md", "CounterLife")
    exec(KNOCKS + rule, names)
    (story,) = told(names["Life"])
    assert "knock" in story
    assert "caller knocks" in story


KNOCKS = """
from hypothesis import strategies as st
from hypothesis.stateful import rule

class Afraid(Counter):
    async def on_message(self, text):
        assert text != "knock", "a knock"

    def copy(self):
        return Afraid()

class Life(HandlerLifecycle):
    def make_handler(self):
        return Afraid()

"""
