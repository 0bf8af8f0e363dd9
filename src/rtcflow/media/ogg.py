"""Ogg Opus (RFC 7845) made of packets that exist already: two mono streams, which players show as stereo. Pure.

An Ogg page takes a checksum of each byte, which Python is too slow for. `zlib.crc32` has the same polynomial with all
bits mirrored. So the bytes are mirrored by a table before it, and its result after it.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
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


def delimit(packet: bytes) -> bytes:
    """Give a packet of one frame the length that all but the last of several streams need (RFC 6716 appendix B)."""
    size = len(packet) - 1
    length = bytes((size,)) if size < 252 else bytes((252 + size % 4, (size - 252 - size % 4) // 4))
    return packet[:1] + length + packet[1:]


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
        return self._page([head], 0, first=True) + self._page([tags], 0)

    def pages(self, packets: Iterable[tuple[bytes, bytes]]) -> bytes:
        """The pages of these packets, each of which has 20 ms of the left and of the right side in one frame."""
        pages: list[bytes] = []
        page: list[bytes] = []
        lacing = 0
        for left, right in packets:
            packet = delimit(left) + right
            more = len(packet) // 255 + 1
            if len(page) == _MOST or lacing + more > 255:
                pages.append(self._page(page, self._granule))
                page, lacing = [], 0
            page.append(packet)
            lacing += more
            self._granule += _FRAME
        if page:
            pages.append(self._page(page, self._granule))
        return b"".join(pages)

    def end(self) -> bytes:
        """The last page. It is empty, so it has no position (RFC 3533 section 6)."""
        return self._page([], 2**64 - 1, last=True)

    def _page(self, packets: list[bytes], granule: int, *, first: bool = False, last: bool = False) -> bytes:
        lacing = b"".join(b"\xff" * (len(packet) // 255) + bytes((len(packet) % 255,)) for packet in packets)
        flags = 2 * first + 4 * last
        head = struct.pack("<4sBBQIIIB", b"OggS", 0, flags, granule, self._serial, self._count, 0, len(lacing))
        self._count += 1
        page = b"".join((head, lacing, *packets))
        return page[:22] + struct.pack("<I", checksum(page)) + page[26:]
