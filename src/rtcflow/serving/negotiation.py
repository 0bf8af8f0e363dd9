"""WebRTC for the calls of a stream: what browsers are told to offer, and the answer to an offer."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import anyio.lowlevel

from .._core.guard import is_for_the_process
from .._core.hooks import ask
from ..exceptions import ApplicationFailed
from ..protocol.ice import read_rtc_configuration
from .admission import EXHAUSTED, NoDescriptors
from .calls import Calls
from .options import Modality, Mode, Page

if TYPE_CHECKING:
    from ..transports.webrtc import WebRTCTransport

logger: logging.Logger = logging.getLogger(__name__)


async def get_rtc_configuration(page: Page) -> dict[str, Any]:
    """What clients give to their ``RTCPeerConnection`` now (`Page.rtc_configuration`).

    Raises:
        ApplicationFailed: The function that returns it raised, or returned something else.
    """
    found: Any = page.rtc_configuration
    if not callable(found):
        await anyio.lowlevel.checkpoint()
    else:
        try:
            found = await ask(found)
        except BaseException as error:
            if is_for_the_process(error):
                raise
            # The application's, like `authorize`: if it fails, this request is refused and no other is disturbed.
            logger.exception("rtc_configuration raised")
            raise ApplicationFailed("the server could not get its ICE servers") from error
    try:
        return read_rtc_configuration(found)
    except TypeError as error:
        logger.error("%s", error)
        raise ApplicationFailed("the server could not get its ICE servers") from None


async def answer_offer(calls: Calls, offer_sdp: str, *, send: bool = True, receive: bool = True) -> WebRTCTransport:
    """Answer a WebRTC offer with a transport that fits the stream; the first call opens the engine.

    Args:
        calls: The stream's calls.
        offer_sdp: The offer.
        send: Whether the server sends media, if the stream's mode allows it.
        receive: Whether the server receives media, if the mode allows it.

    Raises:
        NotServing: The stream is not running.
        InvalidOffer: The offer is invalid.
        UnsupportedMedia: The offer has nothing that the stream's handler can use.
        ApplicationFailed: The function in `WebRTCConfig.ice_servers` raised, or returned something else.
        NoDescriptors: The process has no file descriptor left.
    """
    options, engine = calls.options, await calls.engine()
    try:
        config = await engine.next_config()
    except BaseException as error:
        if is_for_the_process(error):
            raise
        # The application's, like `rtc_configuration`: if it fails, this call is refused and no other is disturbed.
        logger.exception("WebRTCConfig.ice_servers raised")
        raise ApplicationFailed("the server could not get its own ICE servers") from error
    try:
        return await engine.answer(
            offer_sdp,
            audio=options.modality is not Modality.VIDEO,
            video=options.modality is not Modality.AUDIO,
            send=send and options.mode is not Mode.SEND,
            receive=receive and options.mode is not Mode.RECEIVE,
            latency=options.latency,
            config=config,
        )
    except BaseException as error:
        if not _is_exhausted(error):
            raise
        raise NoDescriptors(len(calls)) from None


def _is_exhausted(error: BaseException | None) -> bool:
    """Whether the system has run out of what sockets need."""
    if isinstance(error, BaseExceptionGroup):
        return any(map(_is_exhausted, error.exceptions))
    if isinstance(error, OSError) and error.errno in EXHAUSTED:
        return True
    return error is not None and _is_exhausted(error.__cause__ or error.__context__)
