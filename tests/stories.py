"""The stories in docs/find-a-bug.md, as the tools tell them: `python tests/stories.py` writes them into the page."""

from __future__ import annotations

import logging
import re
import sys
from pathlib import Path

from rtcflow.handlers.base import StreamHandlerBase
from rtcflow.testing.contract import HANDLER_CHECKS, _check_sentence

TESTS = Path(__file__).resolve().parent
sys.path.insert(0, str(TESTS))

from kinds import KINDS  # noqa: E402

PAGE = TESTS.parent / "docs" / "find-a-bug.md"
BEGIN, END = "% stories: written by tests/stories.py\n", "% end of the stories\n"


def story(handler: type[StreamHandlerBase]) -> str:
    """What a failing test says of a handler of `KINDS`."""
    (sentence,) = [one for one in HANDLER_CHECKS if one.startswith(KINDS[handler])]
    try:
        _check_sentence(handler(), sentence)
    except AssertionError as error:
        return str(error)
    raise LookupError(f"{handler.__name__} keeps the sentence {sentence!r}")


def section(handler: type[StreamHandlerBase]) -> str:
    """A handler and its story, as they stand in the page."""
    title = re.sub(r"^(\d+)\. ", r"### \1. ", str(handler.__doc__)).rstrip(".")
    code = f"```{{literalinclude}} ../tests/kinds.py\n:pyobject: {handler.__name__}\n```"
    return f"{title}\n\n{code}\n\n```text\n{story(handler)}\n```\n"


def main() -> None:
    """Write the stories into the page."""
    logging.disable()
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    stories = "\n".join(map(section, KINDS))
    PAGE.write_text(f"{before}{BEGIN}\n{stories}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
