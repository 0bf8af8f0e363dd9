"""FastRTC's `Stream`: its arguments, attributes and methods over `rtcflow.Stream`.

Four methods serve routes: `offer`, `websocket_offer`, `telephone_handler` and `handle_incoming_call`. Your own routes
may call them. If a subclass overrides one, `mount` serves the override. Its `super()` call finds the request that came
in, so authorization and rate limits count as always.
"""

from __future__ import annotations

import contextvars
import inspect
import json
import warnings
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, NoReturn, TypedDict
from weakref import WeakKeyDictionary

import anyio
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.websockets import WebSocket

from .. import stream
from .._core.fanout import Reader
from ..exceptions import UnknownConnection
from ..handlers import base
from ..handlers.functions import VideoStreamHandler
from ..outputs import AdditionalOutputs, WebRTCData
from ..protocol.json_text import read_json
from ..routes import lines, offer, webhooks
from ..routes.app import Endpoints
from ..routes.requests import answering, read_body
from ..serving.session import Session
from ..transports.telephone import TelephoneConfig
from ._body import Body
from ._on_demand import OnDemand
from ._overrides import refuse_overrides
from ._ui import page_of

if TYPE_CHECKING:
    from starlette.applications import Starlette

_request: contextvars.ContextVar[Request | None] = contextvars.ContextVar("rtcflow_fastrtc_request", default=None)
_resume: contextvars.ContextVar[Mapping[str, Any] | None] = contextvars.ContextVar("rtcflow_resume", default=None)
"""What the request says of coming back (`Stream(resume=...)`). An override of `offer` gets FastRTC's fields alone."""


class _Option:
    """An attribute of FastRTC's that is an option of the stream. Assigning another value counts from the next call on.

    Args:
        group: The attribute of `Options` that has it.
    """

    def __init__(self, group: str) -> None:
        self._group = group

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, stream: Stream | None, owner: type) -> Any:
        if stream is None:
            return self
        found = getattr(getattr(stream.options, self._group), self._name)
        return None if found == {} else found

    def __set__(self, stream: Stream, value: Any) -> None:
        group = replace(getattr(stream.options, self._group), **{self._name: value})
        changes: dict[str, Any] = {self._group: group}
        stream.calls.options = replace(stream.options, **changes)


class _Fixed:
    """An attribute that is as it was given. A later change would make no difference, so it is refused."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, stream: Stream | None, owner: type) -> Any:
        return self if stream is None else vars(stream)[self._name]

    def __set__(self, stream: Stream, value: Any) -> None:
        if vars(stream).get(self._name, value) is not value:
            raise AttributeError(f"{self._name} cannot change after the stream was made; make another Stream")
        vars(stream)[self._name] = value


class UIArgs(TypedDict, total=False):
    """How FastRTC's page looks. rtcflow's page takes ``title`` and ignores the others."""

    title: str
    subtitle: str
    icon: str
    icon_button_color: str
    pulse_color: str
    icon_radius: int
    send_input_on: Literal["submit", "change"]
    hide_title: bool
    full_screen: bool


class Stream(stream.Stream):
    """`rtcflow.Stream` with FastRTC's arguments, methods and defaults.

    Args:
        handler: As for `rtcflow.Stream`; or a class of handlers that is made without arguments.
        additional_outputs_handler: As there.
        mode: As there.
        modality: As there, but ``"video"`` by default.
        concurrency_limit: As there; None is no limit (in FastRTC it was 1).
        time_limit: As there.
        allow_extra_tracks: Makes no difference: tracks that the stream cannot use are declined and disturb nothing.
        rtp_params: As for `rtcflow.Stream`.
        rtc_configuration: As there.
        server_rtc_configuration: ``{"iceServers": [...]}`` for the server's own side, or a function, sync or async,
            that is asked at each call. None means no server (FastRTC had aiortc ask a STUN server of Google's).
        track_constraints: As for `rtcflow.Stream`; None leaves the choice to the page.
        additional_inputs: Gradio components. Kept as `additional_input_components`; rtcflow's page does not show them.
        additional_outputs: Gradio components. Kept as `additional_output_components`.
        ui_args: How FastRTC's page looks (`UIArgs`); rtcflow's page ignores it.
        verbose: Makes no difference: nothing is printed; there is `logging`.
        **options: The other arguments of `rtcflow.Stream`.

    Raises:
        TypeError: A subclass overrides a method that rtcflow does not call (raised when the class is made).

    Attributes:
        event_handler: The handler, as it was given. It cannot be changed.
        concurrency_limit: As given; ``"default"`` is 1. Assigning another one counts from the next call on. The same is
            true of `time_limit`, `rtp_params`, `rtc_configuration` and `track_constraints`.
        server_rtc_configuration: As given. It cannot be changed.
        ui: The page: ``ui.launch(...)`` serves it. Whatever you assign is kept and left alone.
        webrtc_component: An object for Gradio programs that name it in ``inputs=[...]``.
    """

    concurrency_limit: _Option = _Option("limits")
    time_limit: _Option = _Option("limits")
    rtp_params: _Option = _Option("page")
    rtc_configuration: _Option = _Option("page")
    track_constraints: _Option = _Option("page")
    event_handler: _Fixed = _Fixed()
    server_rtc_configuration: _Fixed = _Fixed()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        refuse_overrides(cls, _NOT_CALLED)

    def __init__(
        self,
        handler: base.StreamHandlerBase | type[base.StreamHandlerBase] | VideoStreamHandler | Callable[..., Any],
        *,
        additional_outputs_handler: Callable[..., Any] | None = None,
        mode: Literal["send-receive", "receive", "send"] = "send-receive",
        modality: Literal["video", "audio", "audio-video"] = "video",
        concurrency_limit: int | Literal["default"] | None = "default",
        time_limit: float | None = None,
        allow_extra_tracks: bool = False,
        rtp_params: Mapping[str, Any] | None = None,
        rtc_configuration: Mapping[str, Any] | Callable[[], Any] | None = None,
        server_rtc_configuration: Mapping[str, Any] | Callable[[], Any] | None = None,
        track_constraints: Mapping[str, Any] | None = None,
        additional_inputs: Sequence[Any] | None = None,
        additional_outputs: Sequence[Any] | None = None,
        ui_args: Any = None,
        verbose: bool = True,
        **options: Any,
    ) -> None:
        if additional_inputs:
            warnings.warn(
                "rtcflow's page does not show the Gradio components in additional_inputs; name the handler's arguments "
                "with Stream(arguments={...}), or post them to /webrtc/input",
                UserWarning,
                stacklevel=2,
            )
        if inspect.isclass(handler) and issubclass(handler, base.StreamHandlerBase):
            handler = handler()
        options.setdefault("telephone", TelephoneConfig())  # FastRTC's routes are always there
        super().__init__(
            handler,
            additional_outputs_handler=additional_outputs_handler,
            mode=mode,
            modality=modality,
            concurrency_limit=concurrency_limit,
            time_limit=time_limit,
            rtc_configuration=rtc_configuration,
            server_rtc_configuration=server_rtc_configuration,
            rtp_params=rtp_params,
            track_constraints=track_constraints,
            **options,
        )
        self.event_handler = handler
        self.allow_extra_tracks = allow_extra_tracks
        self.server_rtc_configuration = server_rtc_configuration
        self.additional_input_components = additional_inputs
        self.additional_output_components = additional_outputs
        self.ui_args = ui_args
        self.verbose = verbose
        self._ui: Any = None
        self._on_demand = OnDemand(self.calls)
        self._fetching: WeakKeyDictionary[Session, _Fetching] = WeakKeyDictionary()

    @property
    def additional_outputs_handler(self) -> Callable[..., Any] | None:
        """As given. Assigning another one counts for calls whose outputs nobody reads yet."""
        return self.options.additional_outputs_handler

    @additional_outputs_handler.setter
    def additional_outputs_handler(self, function: Callable[..., Any] | None) -> None:
        self.calls.options = replace(self.options, additional_outputs_handler=function)

    # -- the page

    @property
    def ui(self) -> Any:
        """The page: ``ui.launch(server_name=..., server_port=...)`` serves it until Ctrl-C. May be assigned."""
        if self._ui is None:
            self._ui = page_of(self)
        return self._ui

    @ui.setter
    def ui(self, page: Any) -> None:
        self._ui = page

    @property
    def webrtc_component(self) -> Stream:
        """This stream: in FastRTC a Gradio component with the same `handlers` and `connections`."""
        return self

    # -- serving

    def mount(
        self, app: Starlette, path: str = "", tags: Sequence[Any] | None = None, *, page: bool | None = None
    ) -> None:
        """As `rtcflow.Stream.mount`; overridden route methods are served.

        Args:
            app: A FastAPI or Starlette application.
            path: The prefix.
            tags: With FastAPI: tags of the offer and telephone routes in its documentation.
            page: Whether to serve the page to talk with; by default only under a prefix.
        """
        before = len(app.router.routes)
        super().mount(app, path, page=page)
        app.router.routes[before:before] = _documented(app, path.rstrip("/"), tags)

    def _endpoints(self) -> Endpoints:
        """The methods that a subclass overrides, and rtcflow's own functions for the others."""
        cls, found = type(self), Endpoints.of(self.calls)
        if cls.offer is not Stream.offer or cls.handle_offer is not Stream.handle_offer:
            found = replace(found, offer=self._serve_offer)
        if cls.handle_incoming_call is not Stream.handle_incoming_call:
            found = replace(found, incoming_call=partial(_serve_request, self.handle_incoming_call))
        if cls.telephone_handler is not Stream.telephone_handler:
            found = replace(found, telephone_handler=self.telephone_handler)
        if cls.websocket_offer is not Stream.websocket_offer:
            found = replace(found, websocket_offer=self.websocket_offer)
        return found

    async def _serve_offer(self, request: Request) -> Response:
        content = await read_body(request)
        body, said = Body.read(content), read_json(content)
        token = _request.set(request)
        resume = _resume.set({key: said[key] for key in ("resume", "token") if key in said})
        try:
            return as_response(await self.offer(body))
        finally:
            _request.reset(token)
            _resume.reset(resume)

    async def offer(self, body: Any) -> Any:
        """Answer an offer, or take a candidate: for a route of your own, ``return await stream.offer(body)``.

        Args:
            body: A `Body`, or a dict with ``sdp``, ``type`` and ``webrtc_id``.

        Returns:
            ``{"sdp": ..., "type": "answer"}``; or a response with a status of 4xx or 5xx that says what is wrong.

        If nothing runs the stream, it runs in a thread of its own from now on, and a warning says so.
        """
        said = body.model_dump() if hasattr(body, "model_dump") else dict(body)
        return await self.handle_offer(said, None)

    async def handle_offer(self, body: Mapping[str, Any], set_outputs: Any = None) -> Any:  # noqa: ARG002
        """`offer` for a dict. `set_outputs` makes no difference, because outputs always reach `output_stream`."""
        said = {**(_resume.get() or {}), **{key: value for key, value in body.items() if value is not None}}
        request = _replaying(_request.get(), json.dumps(said).encode(), "/webrtc/offer")
        response = await self._on_demand.run(answering(partial(offer.offer, self.calls)), request)
        return json.loads(bytes(response.body)) if response.status_code == 200 else response

    async def websocket_offer(self, websocket: WebSocket) -> None:
        """Serve a WebSocket client from its upgrade to its end."""
        await lines.websocket_offer(self.calls, websocket)

    async def telephone_handler(self, websocket: WebSocket) -> None:
        """Serve a carrier's media stream from its upgrade to the end of the call."""
        await lines.telephone_handler(self.calls, websocket)

    async def handle_incoming_call(self, request: Request) -> Response:
        """Answer a carrier's webhook with where to stream the call."""
        return await webhooks.incoming_call(self.calls, request)

    # -- the live calls

    @property
    def handlers(self) -> Mapping[str, Any]:
        """The handler of each live call, by its id: a snapshot."""
        return {key: session.handler for key, session in self.connections.items()}

    @property
    def connections(self) -> Mapping[str, Session]:
        """The calls whose transport is open, by id: a snapshot. `calls` has the others, too."""
        return {key: session for key, session in self.calls.items() if session.connection is not None}

    async def fetch_latest_output(self, webrtc_id: str, timeout: float = 10.0) -> AdditionalOutputs:
        """The next output of that call that was not fetched before. FastRTC's name: it is not always the latest.

        Fetching reads beside all other readers. At most 256 outputs wait; beyond that the oldest are lost.

        Raises:
            UnknownConnection: No call with this id is live, or it has ended meanwhile.
            TimeoutError: There was no output within `timeout` seconds.
        """
        session = self.session(webrtc_id)
        fetching = self._fetching.get(session)
        if fetching is None:
            fetching = self._fetching[session] = _Fetching(session.outputs.read(), anyio.Lock())
        with anyio.fail_after(timeout):
            async with fetching.lock:  # each of several tasks gets outputs of its own
                output = await anext(fetching.reader, None)
        if output is None:
            raise UnknownConnection("the call ended before there was another output")
        return output

    async def update_connection(self, webrtc_data: str | WebRTCData, desired_state: Literal["closed"]) -> None:
        """End a call. FastRTC only asked the page to do so, and ignored ids that it did not know. This ignores them,
        too.
        """
        if desired_state != "closed":
            raise ValueError(f"desired_state={desired_state!r}; expected 'closed'")
        with suppress(UnknownConnection):
            self.close(_id_of(webrtc_data))

    def set_input_gradio(self, webrtc_data: str | WebRTCData, *args: Any) -> None:
        """`set_input`, with the page's data as the first argument."""
        self.set_input(_id_of(webrtc_data), webrtc_data, *args)

    def set_input_on_submit(self, webrtc_data: str | WebRTCData, *args: Any) -> None:
        """`set_input_gradio`; then the handler, if it is a `ReplyOnPause`, replies at once."""
        self.set_input_gradio(webrtc_data, *args)
        handler: Any = self.handlers.get(_id_of(webrtc_data))
        if hasattr(handler, "trigger_response"):
            handler.trigger_response()

    async def get_rtc_configuration(self) -> dict[str, Any]:
        """FastRTC's other name for `resolve_rtc_configuration`."""
        return await self.resolve_rtc_configuration()

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            if name in _NOT_HERE:
                raise AttributeError(f"rtcflow.fastrtc.Stream has no {name}: {_NOT_HERE[name]}")
            super().__getattr__(name)


class _Fetching(NamedTuple):
    """What `Stream.fetch_latest_output` keeps of one call."""

    reader: Reader[AdditionalOutputs]
    lock: anyio.Lock


_NOT_HERE: Final = {
    "fastphone": "it lends a telephone number of Hugging Face's; see the page about telephones for your own",
    "clean_up": "a call that ends leaves nothing; to end one, use close(webrtc_id)",
    "connection_timeout": "it was for its own use; see Stream(timeouts=...)",
    "wait_for_time_limit": "it was for its own use; see Stream(time_limit=...)",
    "convert_to_aiortc_format": "it was for its own use; see Stream(server_rtc_configuration=...)",
    "set_additional_outputs": "it was for its own use; a handler returns AdditionalOutputs",
    "additional_outputs": "it was for its own use; read stream.output_stream(webrtc_id)",
    "pcs": "rtcflow's engine holds the peer connections; stream.connections has the live calls",
    "data_channels": "use the handler's: stream.handlers[webrtc_id].channel",
}

_NOT_CALLED: Final = {
    **{name: why for name, why in _NOT_HERE.items() if name not in {"fastphone", "additional_outputs", "pcs"}},
    "_generate_default_ui": "rtcflow serves a page of its own; assign stream.ui to have another",
}
"""Methods that rtcflow does not call. To override them would change nothing."""


def _id_of(webrtc_data: str | WebRTCData) -> str:
    return webrtc_data.webrtc_id if isinstance(webrtc_data, WebRTCData) else webrtc_data


def as_response(result: Any) -> Response:
    """What a route method returned, as a response: a response as it is, anything else as JSON."""
    if isinstance(result, Response):
        return result
    return Response(json.dumps(result), media_type="application/json")


def _replaying(request: Request | None, body: bytes, path: str) -> Request:
    """A request with this body; its other facts are those of `request`, if there is one."""
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if request is None:
        scope: dict[str, Any] = {
            "type": "http",
            "method": "POST",
            "path": path,
            "query_string": b"",
            "headers": headers,
        }
    else:
        kept = [
            (key, value) for key, value in request.scope["headers"] if key not in {b"content-type", b"content-length"}
        ]
        scope = {**request.scope, "headers": [*kept, *headers]}

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    return Request(scope, receive)


async def _serve_request(serve: Callable[[Request], Awaitable[Any]], request: Request) -> Response:
    return as_response(await serve(request))


def _documented(app: Any, path: str, tags: Sequence[Any] | None) -> list[BaseRoute]:
    """With FastAPI, the entries of its documentation for the two HTTP routes; requests do not come to them."""
    if not hasattr(app, "openapi"):
        return []
    from fastapi.routing import APIRoute

    class Documented(APIRoute):
        """Only documents: the route that serves comes later."""

        def matches(self, scope: Any) -> Any:  # noqa: ARG002
            from starlette.routing import Match

            return Match.NONE, {}

    async def offer(body: Body) -> dict[str, Any]:  # noqa: ARG001
        return {}

    async def handle_incoming_call() -> Response:
        return Response()

    offer.__doc__, handle_incoming_call.__doc__ = Stream.offer.__doc__, Stream.handle_incoming_call.__doc__
    listed = list(tags or ())
    return [
        Documented(f"{path}/webrtc/offer", offer, methods=["POST"], tags=listed),
        Documented(f"{path}/telephone/incoming", handle_incoming_call, methods=["POST"], tags=listed),
    ]
