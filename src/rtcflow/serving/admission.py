"""Admission: the `authorize` hook, and how often one address may ask."""

from __future__ import annotations

import errno
import logging
import os
from typing import Any, Final

import anyio
import anyio.lowlevel

from .._core.guard import is_for_the_process
from .._core.hooks import ask
from ..exceptions import ApplicationFailed, NegotiationError, NotAuthorized, TooManyConnections, TooManyRequests
from ..protocol.rates import AddressRate
from .options import Authorize, Options
from .session import CallRequest

logger: logging.Logger = logging.getLogger(__name__)


RESERVE: Final = 16
"""File descriptors that must be free before a call is let in. The call needs some for its sockets, and the server must
still accept connections to refuse other calls.
"""

EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS})
"""The system's errors for too few descriptors, or too little memory for sockets."""


class NoDescriptors(TooManyConnections):
    """The process has too few file descriptors left for another call."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit, "the server has no file descriptor left for a call (`ulimit -n`); try again later")


def has_descriptors() -> bool:
    """Whether `RESERVE` file descriptors are free. It opens and closes as many: about 20 microseconds."""
    opened: list[int] = []
    try:
        opened.extend(os.open(os.devnull, os.O_RDONLY) for _ in range(RESERVE))
    except OSError as error:
        if error.errno in EXHAUSTED:
            return False
        raise
    finally:
        for descriptor in opened:
            os.close(descriptor)
    return True


def refusal_level(error: NegotiationError) -> int:
    """The level of a refusal's line in the log: a warning if the server's owner can do something about it."""
    return logging.WARNING if isinstance(error, NoDescriptors) else logging.INFO


class Admission:
    """Decides on requests before anything is made for them."""

    def __init__(self, options: Options) -> None:
        rate = options.limits.offer_rate
        self._authorize = options.access.authorize
        self._authorize_operator = options.access.authorize_operator
        self._rate = None if rate is None else AddressRate(rate)

    def count(self, host: str | None) -> None:
        """Count one offer, or one question for ICE servers, of the address `host`. Routes do so before all else.

        Raises:
            TooManyRequests: The address asks too often (`Limits.offer_rate`).
        """
        if self._rate is not None and not self._rate.take(host, anyio.current_time()):
            raise TooManyRequests(self._rate.wait)

    async def authorize(self, caller: CallRequest) -> Any:
        """What the `authorize` hook returns for this request: who is calling. None if there is no hook.

        Raises:
            NotAuthorized: The hook refused.
            ApplicationFailed: The hook raised something else.
        """
        if self._authorize is None:
            await anyio.lowlevel.checkpoint()
            return None
        return await _decide("authorize", self._authorize, caller, "this call is not allowed")

    async def authorize_operator(self, caller: CallRequest) -> Any:
        """What the `authorize_operator` hook returns for this request. Without a hook nobody is an operator.

        Raises:
            NotAuthorized: The hook refused, or the stream has no hook.
            ApplicationFailed: The hook raised something else.
        """
        if self._authorize_operator is None:
            await anyio.lowlevel.checkpoint()
            raise NotAuthorized("this server has no operators: Stream(authorize_operator=...) names them")
        return await _decide("authorize_operator", self._authorize_operator, caller, "only operators may see the calls")


async def _decide(name: str, hook: Authorize, caller: CallRequest, refused: str) -> Any:
    """What a hook of the application returns for a request."""
    try:
        principal = await ask(hook, caller)
    except NegotiationError:
        raise
    except BaseException as error:
        if is_for_the_process(error):
            raise
        # The hook decides about strangers. If it fails, nobody comes in, and the server goes on.
        logger.exception("%s raised for %s %r", name, caller, caller.path)
        raise ApplicationFailed("the server could not check whether this call is allowed") from error
    if principal is None or principal is False or (isinstance(principal, str) and not principal):
        raise NotAuthorized(refused)
    return principal
