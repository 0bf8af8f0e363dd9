"""FastRTC's public names, with its actual defaults: ``import rtcflow.fastrtc as fastrtc`` runs its users' handlers.

Against `rtcflow` itself four things differ: `Stream` has FastRTC's arguments and is of video by default; both video
handlers are given (and return) uint8 BGR arrays, which is what FastRTC hands out whatever its reference says; `Warning`
and `WebRTCError` tell the peer at once; and names that have no place here say why and what to use instead.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NoReturn

import anyio

from . import stream
from .audio import (
    aggregate_bytes_to_16bit,
    async_aggregate_bytes_to_16bit,
    audio_to_bytes,
    audio_to_file,
    audio_to_float32,
    audio_to_int16,
    wait_for_item,
)
from .context import get_current_context
from .credentials import (
    get_cloudflare_turn_credentials,
    get_cloudflare_turn_credentials_async,
    get_hf_turn_credentials,
    get_hf_turn_credentials_async,
    get_turn_credentials,
    get_turn_credentials_async,
    get_twilio_turn_credentials,
)
from .exceptions import UnknownConnection
from .handlers import base
from .handlers.base import AsyncStreamHandler, StreamHandler, VideoFormat, get_current_handler
from .handlers.functions import VideoStreamHandler
from .handlers.turns import (
    AlgoOptions,
    ModelOptions,
    PauseDetectionModel,
    ReplyOnPause,
    ReplyOnStopWords,
    SileroVadOptions,
    get_silero_model,
)
from .outputs import AdditionalOutputs, AudioEmitType, CloseStream, VideoEmitType, WebRTCData
from .protocol import messages
from .transports.webrtc import WebRTCConfig, read_ice_servers

if TYPE_CHECKING:
    from starlette.applications import Starlette

__all__ = [
    "AdditionalOutputs",
    "AlgoOptions",
    "AsyncAudioVideoStreamHandler",
    "AsyncStreamHandler",
    "AudioEmitType",
    "AudioVideoStreamHandler",
    "CloseStream",
    "ModelOptions",
    "PauseDetectionModel",
    "ReplyOnPause",
    "ReplyOnStopWords",
    "SileroVadOptions",
    "Stream",
    "StreamHandler",
    "VideoEmitType",
    "VideoStreamHandler",
    "Warning",
    "WebRTCData",
    "WebRTCError",
    "aggregate_bytes_to_16bit",
    "async_aggregate_bytes_to_16bit",
    "audio_to_bytes",
    "audio_to_file",
    "audio_to_float32",
    "audio_to_int16",
    "get_cloudflare_turn_credentials",
    "get_cloudflare_turn_credentials_async",
    "get_current_context",
    "get_hf_turn_credentials",
    "get_hf_turn_credentials_async",
    "get_silero_model",
    "get_turn_credentials",
    "get_turn_credentials_async",
    "get_twilio_turn_credentials",
    "wait_for_item",
]


class Stream(stream.Stream):
    """`rtcflow.Stream` with FastRTC's arguments, methods and defaults.

    Args:
        handler: As for `rtcflow.Stream`.
        additional_outputs_handler: As there.
        mode: As there.
        modality: As there, but ``"video"`` by default.
        concurrency_limit: As there; None is no limit (in FastRTC it was 1).
        time_limit: As there.
        allow_extra_tracks: Tracks that the stream has no use for are declined and disturb nothing, either way.
        rtp_params: As for `rtcflow.Stream`.
        rtc_configuration: As there.
        server_rtc_configuration: ``{"iceServers": [...]}`` for the server's own side, or a function, sync or async,
            that is asked at each call. None is none (FastRTC had aiortc ask a STUN server of Google's).
        track_constraints: As for `rtcflow.Stream`; None leaves the choice to the page.
        additional_inputs: For Gradio's page: does nothing here, and warns so.
        additional_outputs: As `additional_inputs`.
        ui_args: As `additional_inputs`.
        verbose: Nothing is printed either way; there is `logging`.
        **options: What else `rtcflow.Stream` takes.
    """

    def __init__(
        self,
        handler: base.StreamHandlerBase | VideoStreamHandler | Callable[..., Any],
        *,
        additional_outputs_handler: Callable[..., Any] | None = None,
        mode: Literal["send-receive", "receive", "send"] = "send-receive",
        modality: Literal["video", "audio", "audio-video"] = "video",
        concurrency_limit: int | Literal["default"] | None = "default",
        time_limit: float | None = None,
        allow_extra_tracks: bool = False,  # noqa: ARG002
        rtp_params: Mapping[str, Any] | None = None,
        rtc_configuration: Mapping[str, Any] | Callable[[], Any] | None = None,
        server_rtc_configuration: Mapping[str, Any] | Callable[[], Any] | None = None,
        track_constraints: Mapping[str, Any] | None = None,
        additional_inputs: Any = None,
        additional_outputs: Any = None,
        ui_args: Any = None,
        verbose: bool = True,  # noqa: ARG002
        **options: Any,
    ) -> None:
        for name, value in (
            ("additional_inputs", additional_inputs),
            ("additional_outputs", additional_outputs),
            ("ui_args", ui_args),
        ):
            if value is not None:
                warnings.warn(f"{name} is for Gradio's page and does nothing here", UserWarning, stacklevel=2)
        if server_rtc_configuration is not None:
            given = server_rtc_configuration
            servers = given if callable(given) else read_ice_servers(given)
            options["webrtc"] = replace(options.get("webrtc") or WebRTCConfig(), ice_servers=servers)
        super().__init__(
            handler,
            additional_outputs_handler=additional_outputs_handler,
            mode=mode,
            modality=modality,
            concurrency_limit=concurrency_limit,
            time_limit=time_limit,
            rtc_configuration=rtc_configuration,
            rtp_params=rtp_params,
            track_constraints=track_constraints,
            **options,
        )

    def mount(self, app: Starlette, path: str = "", tags: Any = None, *, page: bool | None = None) -> None:  # noqa: ARG002
        """As `rtcflow.Stream.mount`; `tags` are for FastAPI's documentation, in which these routes are not."""
        super().mount(app, path, page=page)

    async def update_connection(self, webrtc_data: str | WebRTCData, desired_state: Literal["closed"]) -> None:
        """End a call. FastRTC only asked the page to do so, and passed over ids that it did not know; so does this."""
        if desired_state != "closed":
            raise ValueError(f"desired_state={desired_state!r}; expected 'closed'")
        webrtc_id = webrtc_data.webrtc_id if isinstance(webrtc_data, WebRTCData) else webrtc_data
        with suppress(UnknownConnection):
            self.close(webrtc_id)

    async def get_rtc_configuration(self) -> dict[str, Any]:
        """FastRTC's other name for `resolve_rtc_configuration`."""
        return await self.resolve_rtc_configuration()

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            if name in _STREAM_NOT_HERE:
                raise AttributeError(f"rtcflow.fastrtc.Stream has no {name}: {_STREAM_NOT_HERE[name]}")
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


class AudioVideoStreamHandler(base.AudioVideoStreamHandler):
    """`rtcflow.AudioVideoStreamHandler` with uint8 BGR arrays, shape (height, width, 3), as its video."""

    _default_video_format: ClassVar[VideoFormat] = "bgr24"


class AsyncAudioVideoStreamHandler(base.AsyncAudioVideoStreamHandler):
    """`rtcflow.AsyncAudioVideoStreamHandler` with uint8 BGR arrays, shape (height, width, 3), as its video."""

    _default_video_format: ClassVar[VideoFormat] = "bgr24"


def Warning(message: str = "Warning issued.") -> None:  # noqa: A001, N802  FastRTC's name
    """Show `message` to the peer of the handler this is called from; without a peer, do nothing."""
    _tell(messages.Warning(message))


class WebRTCError(Exception):
    """An exception whose text the peer is told, as soon as it is made; raised out of a handler it ends the connection.

    Attributes:
        told_peer: True: the connection need not tell the peer once more that its handler failed.
    """

    told_peer = True

    def __init__(self, message: str) -> None:
        super().__init__(message)
        _tell(messages.Error(message))


def _tell(message: messages.Message) -> None:
    handler = get_current_handler()
    if handler is not None and handler.channel is not None:
        with suppress(anyio.ClosedResourceError, anyio.WouldBlock):
            handler.channel.send(messages.encode(message))


_STREAM_NOT_HERE = {
    "ui": "it is Gradio's page; Stream.mount serves a page without Gradio, and `rtcflow serve` starts a server",
    "fastphone": "it lends a telephone number of Hugging Face's; see the page about telephones for your own",
    "offer": "mount serves the offer route; to serve it elsewhere take the routes of rtcflow.routes.app.routes(stream)",
    "telephone_handler": "mount serves the telephone routes",
    "handle_incoming_call": "mount serves the telephone routes",
    "websocket_offer": "mount serves the WebSocket route",
    "handle_offer": "mount serves the offer route; without a server, rtcflow.open_engine answers offers",
    "clean_up": "a call that ends leaves nothing; to end one, use close(webrtc_id)",
    "connection_timeout": "it was for its own use; see Stream(timeouts=...)",
    "wait_for_time_limit": "it was for its own use; see Stream(time_limit=...)",
    "convert_to_aiortc_format": "it was for its own use; see Stream(server_rtc_configuration=...)",
    "set_additional_outputs": "it was for its own use; a handler returns AdditionalOutputs",
    "set_input_gradio": "it is for Gradio's page; use set_input(webrtc_id, ...)",
    "set_input_on_submit": "it is for Gradio's page; use set_input(webrtc_id, ...) and trigger_response()",
}

_SUBMODULES = frozenset(
    {
        *("pause_detection", "reply_on_pause", "reply_on_stopwords", "speech_to_text", "text_to_speech", "tracks"),
        *("utils", "webrtc", "webrtc_connection_mixin", "websocket"),
    }
)

_NOT_HERE = {
    "WebRTC": "it is a Gradio component; Stream.mount serves a page without Gradio",
    "UIArgs": "they are for Gradio's page; Stream.mount serves a page without Gradio",
    "get_stt_model": "rtcflow brings no speech models; call one of your choice in the handler",
    "MoonshineSTT": "rtcflow brings no speech models; call one of your choice in the handler",
    "get_tts_model": "rtcflow brings no speech models; call one of your choice in the handler",
    "KokoroTTSOptions": "rtcflow brings no speech models; call one of your choice in the handler",
    "CartesiaTTSOptions": "rtcflow brings no speech models; call one of your choice in the handler",
}


def __getattr__(name: str) -> NoReturn:
    if name in _NOT_HERE:
        raise AttributeError(f"rtcflow.fastrtc has no {name}: {_NOT_HERE[name]}")
    if name in _SUBMODULES:
        raise AttributeError(f"rtcflow.fastrtc has no submodule {name}: its names are in rtcflow.fastrtc itself")
    raise AttributeError(f"module 'rtcflow.fastrtc' has no attribute {name!r}")
