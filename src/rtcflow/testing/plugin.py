"""The pytest plugin under its old name, for `-p rtcflow.testing.plugin` and older installations in editable mode."""

from _rtcflow_pytest import (
    _leak_guard,
    pytest_addoption,
    pytest_configure,
    real_backend,
    virtual_backend,
    virtual_clock,
)

__all__ = ["_leak_guard", "pytest_addoption", "pytest_configure", "real_backend", "virtual_backend", "virtual_clock"]
