"""The public API as a user writes it: read by mypy and pyright, never run."""

from __future__ import annotations
