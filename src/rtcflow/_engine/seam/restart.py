"""ICE restarts (RFC 8445 section 2.4): a live call gets another way to its peer, on the sockets that it has.

A phone goes from WLAN to mobile; a laptop wakes up somewhere else. The peer then offers again with new ICE credentials,
and both sides check their candidates again. Meanwhile media goes on by the old way, as long as that works. DTLS, and
with it the certificate, the keys and all streams, stay.

aioice knows no restarts: a connection checks once. But everything that such a check uses can be replaced in place: the
credentials, the remote candidates and the list of pairs. Sockets and local candidates stay, because this side has not
moved. `_nominated`, the pair in use, stays until another takes its place.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from aioice.utils import random_string
from aiortc import RTCDtlsTransport

from .gate import Gate
from .one_port import give_name

PACE: Final = 0.02
"""Seconds between two checks: Ta of RFC 8445 section 14.2 is 50 ms at most; aioice has this."""

_NAMES: Final = (
    *("_local_username", "_local_password", "_remote_candidates", "_check_list", "_check_list_done", "_nominated"),
    *("_nominating", "_query_consent_task", "_check_periodic", "_pair_remote_candidate", "sort_check_list"),
    *("query_consent", "_closing"),
)


def can_restart(transport: RTCDtlsTransport) -> bool:
    """Whether this aioice is as we know it, and `transport` is connected.

    Relies on: ``RTCIceTransport._connection`` is the `aioice.Connection`. Its ``_nominated`` is empty before ICE is
    done.
    """
    ice: Any = getattr(transport.transport, "_connection", None)
    return all(hasattr(ice, name) for name in _NAMES) and bool(ice._nominated)


def begin(transport: RTCDtlsTransport, user_name: str, password: str) -> None:
    """Begin a new ICE session: with credentials of our own that are new, and those of the peer.

    From here on candidates that are added belong to the new session. Call `check` when they are there.

    Relies on: ``aioice.Connection`` reads its credentials and lists from the attributes in `_NAMES` each time.
    """
    ice: Any = transport.transport._connection
    if ice._query_consent_task is not None:
        ice._query_consent_task.cancel()  # it would ask with the new name at the old address
        ice._query_consent_task = None
    for pair in ice._check_list:
        if pair.task is not None:
            pair.task.cancel()
    give_name(ice)
    ice._local_password = random_string(22)
    for protocol in ice._protocols:
        if isinstance(protocol, Gate):
            protocol.renamed()
    ice.remote_username, ice.remote_password = user_name, password
    ice._remote_candidates[:] = [pair.remote_candidate for pair in ice._nominated.values()]
    ice._check_list.clear()
    ice._nominating.clear()
    ice._check_list_done = False


async def check(transport: RTCDtlsTransport, timeout: float) -> bool:
    """Check the pairs of the new session until one is nominated.

    Relies on: ``_check_periodic`` starts one check, and none once `_check_list_done`; a pair that is nominated is put
    into ``_nominated``; ``query_consent`` is the task that keeps a pair alive.

    Returns:
        False if none was within `timeout` seconds; then the old pair stays in use.
    """
    ice: Any = transport.transport._connection
    for candidate in ice._remote_candidates:
        ice._pair_remote_candidate(candidate)
    ice.sort_check_list()
    try:
        async with asyncio.timeout(timeout):
            while not (ice._closing or any(pair in ice._check_list for pair in ice._nominated.values())):
                ice._check_list_done = False  # aioice takes the old pair for success
                ice._check_periodic()
                await asyncio.sleep(PACE)
    except TimeoutError:
        return False
    finally:
        ice._check_list_done = True
        if not ice._closing and ice._query_consent_task is None:
            consent = asyncio.create_task(ice.query_consent())  # noqa: TID251 - aioice's own; its close() ends it
            ice._query_consent_task = consent
    return not ice._closing
