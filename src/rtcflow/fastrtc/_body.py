"""The body of an offer, as FastRTC's users write it in routes of their own: ``async def offer(body: Body): ...``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ..exceptions import InvalidOffer
from ..protocol.json_text import read_json

if TYPE_CHECKING:

    @dataclass
    class _Fields:
        type: str
        webrtc_id: str
        sdp: str | None = None
        candidate: dict[str, Any] | None = None

        def model_dump(self) -> dict[str, Any]: ...

else:
    try:
        from pydantic import BaseModel as _Base
    except ImportError:  # without FastAPI nothing reads a model

        @dataclass
        class _Fields:
            type: str
            webrtc_id: str
            sdp: str | None = None
            candidate: dict[str, Any] | None = None

            def model_dump(self):  # noqa: ANN202
                return asdict(self)

    else:

        class _Fields(_Base):
            type: str
            webrtc_id: str
            sdp: str | None = None
            candidate: dict[str, Any] | None = None


class Body(_Fields):
    """The JSON of an offer or a candidate. With pydantic installed it is a model, as in FastRTC.

    Attributes:
        type: ``"offer"`` or ``"ice-candidate"``.
        webrtc_id: The id that the caller chose.
        sdp: The offer.
        candidate: The candidate: ``candidate``, ``sdpMid``, ``sdpMLineIndex``.
    """

    @classmethod
    def read(cls, content: bytes) -> Body:
        """Read the body of a request.

        Raises:
            InvalidOffer: It is not JSON, or a field is missing or of another type.
        """
        try:
            said = read_json(content)
            known = {key: said[key] for key in ("type", "webrtc_id", "sdp", "candidate") if key in said}
            return cls(**known)
        except (ValueError, TypeError) as error:
            raise InvalidOffer(f"the body is not an offer: {type(error).__name__}", status=422) from None
