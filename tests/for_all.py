"""One test over many small cases: a line for each that fails, and none of what a test for each would cost."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any


def for_all(cases: Iterable[Any], *, name: Callable[[Any], str] = str) -> Callable[[Callable[..., None]], Any]:
    """Make one test of a function with an argument: it is called with each case, and those that fail are named."""
    cases = list(cases)

    def decorate(check: Callable[..., None]) -> Callable[[], None]:
        def test() -> None:
            assert cases
            wrong = []
            for case in cases:
                try:
                    check(case)
                except AssertionError as error:
                    wrong.append(f"{name(case)}: {error}")
            assert not wrong, "\n".join(wrong)

        test.__name__, test.__qualname__, test.__doc__ = check.__name__, check.__qualname__, check.__doc__
        test.__module__ = check.__module__
        return test

    return decorate
