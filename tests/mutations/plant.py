"""Plants bugs: a function's source is changed in one place, and its code replaced, wherever it was imported to.

As a pytest plugin (`-p mutations.plant`) it plants the mutant that the environment variable `RTCFLOW_MUTANT` names,
for the whole run. Nothing is planted without it.
"""

from __future__ import annotations
import __future__

import importlib
import inspect
import os
import sys
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import Any

import pytest
from hypothesis import Phase, settings

VARIABLE = "RTCFLOW_MUTANT"


class Outgrown(Exception):
    """The code has changed, so that a bug cannot be planted any more: bring its mutant up to date."""


@dataclass(frozen=True)
class Edit:
    """One place in one function.

    Attributes:
        where: ``"module:Class.method"`` or ``"module:function"``, below `rtcflow`.
        old: Text in its source, there exactly once; indented as the function's own text is.
        new: What stands there instead.
    """

    where: str
    old: str
    new: str

    def prepare(self) -> tuple[FunctionType, CodeType]:
        """The function, and its code with the bug in it; nothing is planted yet.

        Raises:
            Outgrown: The bug no longer fits the code.
        """
        function = self._find()
        source = textwrap.dedent(inspect.getsource(function))
        if source.count(self.old) != 1:
            raise Outgrown(f"{self.where}: {source.count(self.old)} times in its source: {self.old!r}")
        changed = self._compile(source.replace(self.old, self.new), function)
        if changed.co_freevars != function.__code__.co_freevars:
            raise Outgrown(f"{self.where}: uses super() or names around it; plant the bug elsewhere")
        return function, changed

    @contextmanager
    def plant(self) -> Iterator[None]:
        """Replace the function's code inside the block."""
        function, changed = self.prepare()
        sound, function.__code__ = function.__code__, changed
        try:
            yield
        finally:
            function.__code__ = sound

    def _find(self) -> FunctionType:
        module, _, path = self.where.partition(":")
        found: Any = importlib.import_module(f"rtcflow.{module}")
        for name in path.split("."):
            found = inspect.getattr_static(found, name)
        found = getattr(found, "fget", None) or getattr(found, "__func__", found)
        function = inspect.unwrap(found)
        if not isinstance(function, FunctionType):
            raise Outgrown(f"{self.where} is no function")
        return function

    @staticmethod
    def _compile(source: str, function: FunctionType) -> CodeType:
        flags = __future__.annotations.compiler_flag
        module = compile(source, function.__code__.co_filename, "exec", flags, dont_inherit=True)
        return next(
            constant
            for constant in module.co_consts
            if isinstance(constant, CodeType) and constant.co_name == function.__name__
        )


@dataclass(frozen=True)
class Mutant:
    """One bug, and the tests that must see it.

    Attributes:
        name: In words, with hyphens.
        description: What is wrong, in one sentence.
        edits: The places.
        tests: Node ids of the tests of which at least one turns red.
        hangs: Something waits for ever: a test that is ended for its time is one that has seen it.
    """

    name: str
    description: str
    edits: tuple[Edit, ...]
    tests: tuple[str, ...]
    hangs: bool = False

    @contextmanager
    def plant(self) -> Iterator[None]:
        """Have the bug inside the block; for one thread that has nothing of rtcflow running yet.

        Raises:
            Outgrown: It no longer fits the code.
        """
        with ExitStack() as planted:
            for edit in self.edits:
                planted.enter_context(edit.plant())
            yield


def pytest_configure(config: Any) -> None:
    """Plant the mutant of the environment, until the run ends."""
    name = os.environ.get(VARIABLE)
    if name:
        from mutations.bugs import MUTANTS

        # That a law is broken is enough to know here: the smallest example is not looked for.
        settings.register_profile("mutant", settings(), phases=[Phase.explicit, Phase.generate])
        settings.load_profile("mutant")
        planted = ExitStack()
        planted.enter_context(next(mutant for mutant in MUTANTS if mutant.name == name).plant())
        config.add_cleanup(planted.close)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """With a bug planted, end the process once the outcome is told: threads left behind would keep it for ever."""
    if os.environ.get(VARIABLE):
        session.config.add_cleanup(lambda: _leave(exitstatus))


def _leave(exitstatus: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exitstatus)


def pytest_report_header() -> str | None:
    """Say which bug is planted, at the top of the run."""
    name = os.environ.get(VARIABLE)
    return f"planted bug: {name}" if name else None
