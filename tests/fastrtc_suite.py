"""FastRTC's own tests, run with `rtcflow.fastrtc` in FastRTC's place. `fastrtc_compat` runs them for `--source`.

A test passes, differs as listed here, or fails. What is listed names the test and a piece of its failure: another
failure of the same test is not listed. docs/moving-from-fastrtc.md says why each difference is right.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final, NamedTuple
from xml.etree import ElementTree as ET

TESTS: Final = ("test_utils.py", "test_stream.py", "test_webrtc_connection_mixin.py")
"""In the checkout's folder `test`: of the helpers, of `Stream`, and of the route for offers."""

LIMIT: Final = 300.0
"""Seconds for all of them."""

FUNCTION: Final = "is a function, which makes audio for mode='receive' only"
REFUSED: Final = "a refusal has a status of 4xx or 5xx"
NO_MEDIA: Final = "an offer without media that the stream can use is refused"
AT_ONCE: Final = "a plain function cannot answer audio: it is refused before the first call"


class Difference(NamedTuple):
    """A failure that is right."""

    test: str
    failure: str
    why: str


DIFFERENCES: Final = (
    Difference("test_successful_connection_audio", FUNCTION, AT_ONCE),
    Difference("test_unsuccessful_connection_audio", FUNCTION, AT_ONCE),
    Difference("test_successful_connection_allow_extra_tracks", FUNCTION, AT_ONCE),
    Difference("test_successful_connection_video[False", "assert 422 == 200", NO_MEDIA),
    Difference("test_unsuccessful_connection_video[False", "assert 422 == 200", NO_MEDIA),
    Difference("test_unsuccessful_connection_video[True", "DID NOT RAISE", "a track too many is declined"),
    Difference("test_incorrect_modality", "modality='dummy'; expected 'audio'", "the error's words"),
    Difference("test_concurrency_limit_reached_two_peers", "assert 409 == 200", REFUSED),
    Difference("test_concurrency_limit_reached_three_peers_same_id", "assert 409 == 200", REFUSED),
    Difference("test_concurrency_limit_reached_three_peers[", "assert 503 == 200", REFUSED),
    Difference("test_concurrency_limit_reached_peers_with_no_mediastreams", "assert 422 == 200", NO_MEDIA),
)


def show_suite(source: Path) -> bool:
    """Run the tests of the checkout at `source` and print each; whether every failure is listed."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        done = subprocess.run(
            [sys.executable, __file__, str(source.resolve()), str(report)],
            check=False,
            capture_output=True,
            text=True,
            timeout=LIMIT,
        )
        cases = list(ET.parse(report).iter("testcase")) if report.exists() else []
    counts = {"pass": 0, "listed difference": 0, "unlisted failure": 0}
    for case in cases:
        name = case.get("name", "")
        broken = [found for kind in ("failure", "error", "skipped") if (found := case.find(kind)) is not None]
        said = " ".join(found.get("message", "") for found in broken)
        why = next((d.why for d in DIFFERENCES if name.startswith(d.test) and d.failure in said), None)
        kind = "pass" if not broken else "unlisted failure" if why is None else "listed difference"
        counts[kind] += 1
        note = why or " ".join(said.split())[:100]
        print(f"{kind:<17}  {name.replace('-test_client_and_stream', ' ')}  {note}")
    if not cases:
        print(f"FastRTC's tests did not run: {(done.stdout + done.stderr).strip()[-300:]}")
    print(f"FastRTC's own tests: {', '.join(f'{count} {kind}' for kind, count in counts.items())}\n", flush=True)
    return bool(cases) and not counts["unlisted failure"]


def run(source: Path, report: Path) -> int:
    """Run them in this process."""
    from rtcflow.fastrtc import _run

    _run.stand_in()
    import pytest

    options = ["-q", "-p", "no:cacheprovider", "-p", "no:rtcflow", "-c", "/dev/null", "--rootdir", str(source)]
    settings = ["-o", "filterwarnings=default", "-o", "asyncio_mode=strict", "--import-mode=importlib"]
    files = [str(source / "test" / name) for name in TESTS]
    return int(pytest.main([*options, *settings, f"--junitxml={report}", *files]))


if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1]), Path(sys.argv[2])))
