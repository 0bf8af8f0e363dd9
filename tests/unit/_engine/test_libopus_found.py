"""Which libopus is used is told once: in the log, and by `rtcflow doctor`."""

from __future__ import annotations

import ctypes.util
import logging
from collections.abc import Iterator

import av
import pytest

from rtcflow._engine import libopus
from rtcflow.client.doctor import DoctorReport


@pytest.fixture(autouse=True)
def anew() -> Iterator[None]:
    """Look for the library anew, and again after the test."""
    libopus.load.cache_clear()
    yield
    libopus.load.cache_clear()


def test_what_was_found_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "rtcflow.engine")
    assert libopus.load() is libopus.load() is not None
    (record,) = caplog.records
    assert record.getMessage().startswith("Opus is coded by libopus 1.")
    assert str(DoctorReport("http://x").opus).startswith("libopus 1.")
    assert DoctorReport("http://x").as_dict()["opus"] == libopus.version()


def test_that_nothing_was_found_is_logged_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:
    monkeypatch.setattr(av, "__file__", str(tmp_path / "av" / "__init__.py"))
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)
    assert libopus.load() is None
    assert libopus.version() is None
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "libopus was not found" in record.getMessage()
    assert DoctorReport("http://x").opus is None
