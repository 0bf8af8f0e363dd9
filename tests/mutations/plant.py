"""Plants bugs: a function's source is changed in one place, and its code replaced, wherever it was imported to."""

from __future__ import annotations
import __future__

import importlib
import inspect
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import Any


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
        kind: Its number among the kinds of docs/find-a-bug.md; 0 for another one.
    """

    name: str
    description: str
    edits: tuple[Edit, ...]
    tests: tuple[str, ...]
    kind: int = 0

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
