"""Datagrams that a hostile host may send to a call's UDP port: all lengths, all first bytes, nearly sound ones."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Iterator

LENGTHS = (
    0,
    1,
    2,
    3,
    4,
    7,
    8,
    11,
    12,
    13,
    19,
    20,
    21,
    28,
    63,
    100,
    576,
    1200,
    1472,
    1500,
    2047,
    2048,
    2049,
    9000,
    65507,
)
COOKIE = 0x2112A442
ATTRIBUTES = (
    *(0x0001, 0x0003, 0x0004, 0x0006, 0x0008, 0x0009, 0x000C, 0x000D, 0x0012, 0x0013, 0x0014, 0x0019, 0x0020, 0x0024),
    *(0x0025, 0x8022, 0x8028, 0x8029, 0x802A, 0x802B, 0x802C, 0x7FFF),
)


def of_every_kind(random: random.Random, user_name: bytes) -> Iterator[bytes]:
    """Datagrams without end: all lengths, then all first bytes, then mixed.

    Args:
        random: Where chance comes from.
        user_name: The USERNAME of the call's STUN messages, for those that come near.
    """
    for length in LENGTHS:
        yield random.randbytes(length)
    for first in range(256):
        yield bytes((first,))
        yield bytes((first,)) + random.randbytes(random.choice(LENGTHS[4:17]))
    while True:
        yield random.choice((stun, dtls, rtp, rtcp, sctp))(random, user_name)


def spoil(random: random.Random, data: bytes) -> bytes:
    """`data` with some bytes changed, cut off, or added."""
    spoilt = bytearray(data)
    for _ in range(random.randrange(4)):
        if spoilt:
            spoilt[random.randrange(len(spoilt))] = random.randrange(256)
    way = random.randrange(4)
    if way == 0:
        del spoilt[random.randrange(len(spoilt) + 1) :]
    elif way == 1:
        spoilt += random.randbytes(random.randrange(40))
    return bytes(spoilt)


def stun(random: random.Random, user_name: bytes) -> bytes:
    """Of any method and class, with attributes of any kind and length, sound FINGERPRINT or not (RFC 8489)."""
    body = b""
    if random.random() < 0.5:
        body += struct.pack("!HH", 0x0006, len(user_name)) + user_name + bytes(-len(user_name) % 4)
    for _ in range(random.randrange(6)):
        size = random.choice((0, 1, 3, 4, 8, 20, 20, 60))
        claimed = random.choice((size, size, size, 0, 4, 65535))
        value = random.choice((random.randbytes(size), bytes(size), b"\xff" * size))
        body += struct.pack("!HH", random.choice(ATTRIBUTES), claimed) + value + bytes(-size % 4)
    kind = random.choice((0x0001, 0x0011, 0x0101, 0x0111, 0x0003, 0x0017, random.randrange(0x4000)))
    identity = random.randbytes(12)
    if random.random() < 0.5:
        head = struct.pack("!HHI", kind, len(body) + 8, COOKIE) + identity
        body += struct.pack("!HHI", 0x8028, 4, zlib.crc32(head + body) ^ 0x5354554E)
    length = len(body) if random.random() < 0.9 else random.randrange(65536)
    return struct.pack("!HHI", kind, length, COOKIE) + identity + body


def dtls(random: random.Random, user_name: bytes) -> bytes:
    """Records of every type and epoch: alerts, hellos, close_notify (RFC 6347 section 4.1)."""
    kind = random.choice((20, 21, 21, 22, 22, 23, 24, 25, random.randrange(20, 64)))
    alert = bytes((random.choice((1, 2)), random.choice((0, 10, 20, 40, 80, 90))))
    hello = bytes((random.choice((0, 1, 2, 11, 14, 20)),)) + random.randbytes(random.choice((11, 50, 200)))
    body = alert if kind == 21 and random.random() < 0.7 else hello
    epoch, version = random.choice((0, 0, 1, 2, 65535)), random.choice((0xFEFD, 0xFEFF, 0x0303))
    sequence = random.choice((0, 1, random.randrange(2**48)))
    return struct.pack("!BHHHI", kind, version, epoch, sequence >> 32, sequence & 0xFFFFFFFF) + (
        struct.pack("!H", len(body) if random.random() < 0.8 else random.randrange(65536)) + body
    )


def rtp(random: random.Random, user_name: bytes) -> bytes:
    """Plain packets where encrypted ones are expected, with sources, extensions and padding that lie (RFC 3550)."""
    return spoil(
        random,
        struct.pack(
            "!BBHLL",
            random.randrange(128, 192),
            random.choice((96, 97, 111, 96 + 128, 0, random.randrange(256))),
            random.randrange(65536),
            random.randrange(2**32),
            random.choice((0, 1, random.randrange(2**32))),
        )
        + random.randbytes(random.choice((0, 4, 40, 160, 1200))),
    )


def rtcp(random: random.Random, user_name: bytes) -> bytes:
    """Reports, BYE, feedback (RFC 3550 section 6, RFC 4585)."""
    words = random.choice((0, 1, 6, 20))
    head = struct.pack("!BBH", random.randrange(128, 192), random.randrange(192, 224), words)
    return spoil(random, head + random.randbytes(4 * words))


def sctp(random: random.Random, user_name: bytes) -> bytes:
    """Packets that belong inside DTLS (RFC 9260): to nobody's surprise, INIT and ABORT too."""
    chunk = struct.pack(
        "!BBH", random.choice((0, 1, 3, 6, 14, 130, 192)), random.randrange(256), random.choice((4, 16, 40))
    )
    return (
        struct.pack("!HHLL", 5000, 5000, random.randrange(2**32), random.randrange(2**32))
        + chunk
        + random.randbytes(36)
    )
