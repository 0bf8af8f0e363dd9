"""`WebRTC`, FastRTC's component for Gradio. It needs Gradio; everything else here does not.

The component makes a `Stream` of its function (`rtc`). Launch or mount that; Gradio's page shows a link to it.
"""

from __future__ import annotations

from abc import ABCMeta
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

from ._stream import Stream
from ._ui import link

_WITHOUT = (
    "WebRTC(...) is a Gradio component, and Gradio is not installed; without Gradio, write: "
    "Stream(handler, modality=..., mode=...).ui.launch()"
)


class _Unavailable:
    """`WebRTC` where Gradio is not installed: it can be imported, not made."""

    def __init__(self, *_: Any, **__: Any) -> None:
        raise ImportError(_WITHOUT)


@lru_cache(maxsize=1)
def webrtc_class() -> type[Any]:
    """The class `WebRTC`, or a stand-in if Gradio is not installed."""
    try:
        import gradio  # pyright: ignore[reportMissingImports]
    except ImportError:
        return type("WebRTC", (_Unavailable,), {"__doc__": _Unavailable.__doc__, "__module__": __name__})

    kind: Any = type(gradio.HTML)

    class Unwritten(kind if issubclass(kind, ABCMeta) else ABCMeta):  # type: ignore[misc]
        """Makes the class alone. Gradio's own metaclass also writes a .pyi file beside the source."""

        def __new__(cls, name: str, bases: tuple[type, ...], names: dict[str, Any]) -> Any:
            return ABCMeta.__new__(cls, name, bases, names)

    class WebRTC(gradio.HTML, metaclass=Unwritten):  # type: ignore[misc]
        """FastRTC's component: in a Gradio page, a link to a call.

        Args:
            modality: See `Stream`.
            mode: See `Stream`.
            rtc_configuration: See `Stream`.
            server_rtc_configuration: See `Stream`.
            track_constraints: See `Stream`.
            rtp_params: See `Stream`.
            time_limit: See `Stream`.
            **_: FastRTC's other arguments are about how it looks, and make no difference.

        Attributes:
            rtc: The `Stream`, from the call of `stream` on: ``rtc.mount(app)``, ``rtc.ui.launch()``.
        """

        def __init__(
            self,
            value: Any = None,  # noqa: ARG002
            *,
            modality: Any = "video",
            mode: Any = "send-receive",
            rtc_configuration: Any = None,
            server_rtc_configuration: Any = None,
            track_constraints: Any = None,
            rtp_params: Any = None,
            time_limit: float | None = None,
            **_: Any,
        ) -> None:
            self.rtc: Any = None
            self._options = {
                "modality": modality,
                "mode": mode,
                "rtc_configuration": rtc_configuration,
                "server_rtc_configuration": server_rtc_configuration,
                "track_constraints": track_constraints,
                "rtp_params": rtp_params,
                "time_limit": time_limit,
            }
            self._outputs: Callable[..., Any] | None = None
            super().__init__(partial(_shown, self))

        def stream(
            self, fn: Any, *_: Any, time_limit: float | None = None, concurrency_limit: Any = "default", **__: Any
        ) -> None:
            """Serve `fn` to callers."""
            options = {**self._options, "concurrency_limit": concurrency_limit}
            if time_limit is not None:
                options["time_limit"] = time_limit
            self.rtc = Stream(fn, additional_outputs_handler=self._outputs, **options)

        def on_additional_outputs(self, fn: Callable[..., Any], *_: Any, **__: Any) -> None:
            """Turn each `AdditionalOutputs` of a call into the values that its readers are shown."""
            self._outputs = fn
            if self.rtc is not None:
                self.rtc.additional_outputs_handler = fn

        @property
        def handlers(self) -> Any:
            """The handler of each live call, by its id."""
            return {} if self.rtc is None else self.rtc.handlers

        @property
        def connections(self) -> Any:
            """The live calls, by their ids."""
            return {} if self.rtc is None else self.rtc.connections

        def _serving(self) -> Stream:
            if self.rtc is None:
                raise RuntimeError("this component serves no function yet; call its stream(fn, ...) first")
            found: Stream = self.rtc
            return found

        def set_input(self, webrtc_id: str, *args: Any) -> None:
            """See `Stream.set_input`."""
            self._serving().set_input(webrtc_id, *args)

        def output_stream(self, webrtc_id: str) -> Any:
            """See `Stream.output_stream`."""
            return self._serving().output_stream(webrtc_id)

        async def fetch_latest_output(self, webrtc_id: str) -> Any:
            """See `Stream.fetch_latest_output`."""
            return await self._serving().fetch_latest_output(webrtc_id)

        async def update_connection(self, webrtc_data: Any, desired_state: Any) -> None:
            """See `Stream.update_connection`."""
            await self._serving().update_connection(webrtc_data, desired_state)

    return WebRTC


def _shown(component: Any) -> str:
    return "" if component.rtc is None else link(component.rtc.ui)
