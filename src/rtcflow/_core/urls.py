"""URLs in texts that others may read."""

from __future__ import annotations

import re


def shown_url(url: str) -> str:
    """`url` as texts and logs show it: without its query, which may hold a token, and without user and password."""
    return re.sub("//[^/]*@", "//", url.partition("?")[0])
