"""Ogg Opus (RFC 7845) made of packets that exist already: two mono streams, which players show as stereo. Pure.

An Ogg page takes a checksum of each byte, which Python is too slow for. `zlib.crc32` has the same polynomial with all
bits mirrored. So the bytes are mirrored by a table before it, and its result after it.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from functools import cache
from typing import Final

SILENCE: Final = b"\xf8\xff\xfe"
"""20 ms of silence in mono, as libopus encodes it (CELT, fullband)."""

LOOK_AHEAD: Final = 312
"""Samples at 48 kHz by which libopus decodes late: 6.5 ms. Players leave them out (RFC 7845 section 4.2)."""

_FRAME: Final = 960
"""Samples of a packet of 20 ms at 48 kHz, Opus' clock (RFC 7845 section 4)."""

_MOST: Final = 50
"""Packets on one page: 1 s, which section 6 of RFC 3533 and players' seeking suggest."""

_MIRROR: Final = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def checksum(page: bytes) -> int:
    """The CRC of a page (RFC 3533 section 6): polynomial 0x04C11DB7, no inversion, no mirroring."""
    mirrored = zlib.crc32(page.translate(_MIRROR), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{mirrored:032b}"[::-1], 2)


@cache
def coded_length(size: int) -> bytes:
    """The length of a frame, which all but the last of several streams need (RFC 6716 appendix B and section 3.2.1)."""
    return bytes((size,)) if size < 252 else bytes((252 + size % 4, (size - 252 - size % 4) // 4))


@cache
def _lacing(size: int) -> bytes:
    """The length of a packet, in a page's table (RFC 3533 section 6)."""
    return b"\xff" * (size // 255) + bytes((size % 255,))


class OggOpus:
    """Makes the pages of one file.

    Args:
        sample_rate: Hz of what was encoded. It is only told: decoders choose their rate themselves.
        serial: Number of the stream, in 32 bits.
    """

    def __init__(self, sample_rate: int, serial: int) -> None:
        self._rate, self._serial = sample_rate, serial
        self._count = self._granule = 0

    def head(self) -> bytes:
        """The pages that a file begins with."""
        # Version 1, two channels, family 1 (Vorbis' order), two streams, none of them coupled: left is 0, right is 1.
        head = struct.pack("<8sBBHIhBBBBB", b"OpusHead", 1, 2, LOOK_AHEAD, self._rate, 0, 1, 2, 0, 0, 1)
        tags = struct.pack("<8sI7sI", b"OpusTags", 7, b"rtcflow", 0)
        return self._page(_lacing(len(head)), [head], first=True) + self._page(_lacing(len(tags)), [tags])

    def pages(self, packets: Iterable[tuple[bytes, bytes]]) -> bytes:
        """The pages of these packets, each of which has 20 ms of the left and of the right side in one frame."""
        pages: list[bytes] = []
        body: list[bytes] = []
        table: list[bytes] = []
        count = 0
        for left, right in packets:
            length = coded_length(len(left) - 1)
            size = len(left) + len(length) + len(right)
            more = size // 255 + 1
            if len(table) == _MOST or count + more > 255:
                pages.append(self._page(b"".join(table), body))
                body, table, count = [], [], 0
            body += left[:1], length, left[1:], right
            table.append(_lacing(size))
            count += more
            self._granule += _FRAME
        if table:
            pages.append(self._page(b"".join(table), body))
        return b"".join(pages)

    def end(self) -> bytes:
        """The last page. It is empty, so it has no position (RFC 3533 section 6)."""
        self._granule = 2**64 - 1
        return self._page(b"", [], last=True)

    def _page(self, lacing: bytes, body: list[bytes], *, first: bool = False, last: bool = False) -> bytes:
        flags = 2 * first + 4 * last
        head = struct.pack("<4sBBQIIIB", b"OggS", 0, flags, self._granule, self._serial, self._count, 0, len(lacing))
        self._count += 1
        page = b"".join((head, lacing, *body))
        return page[:22] + struct.pack("<I", checksum(page)) + page[26:]
