"""What a stored stream is: where it came from, its clock, its picture size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from types import UnionType
from typing import Any

from pipeline.core.errors import StoreRefused
from pipeline.core.frame import ClockSource
from pipeline.core.redaction import redact_url
from pipeline.core.stream_names import NAME_RULE, is_stream_name

# As JSON has them.
_TYPES: dict[str, type | UnionType] = {"str": str, "ClockSource": str, "int": int, "float": float | int}
_LARGEST = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """Attributes of a stream. `start_wall_ns`: wall clock (ns UTC) at PTS 0. `width`, `height`: frame in pixels.

    `uri`: the source; without its secrets. `model`: name of the model that captioned.
    `fingerprint`: tells the content of two sources apart, so that a run is never resumed on another video.
    `pixel_aspect`: width over height of the source's stored pixels ("16/9"); boxes, masks and sizes are of square ones.
    `engines`: what computed each of the model's stages in the last run, and why nothing faster did.
    """

    uri: str
    clock: ClockSource
    start_wall_ns: int
    width: int
    height: int
    fps: float = 0.0
    model: str = ""
    fingerprint: str = ""
    engines: str = ""
    pixel_aspect: str = "1"

    def __post_init__(self) -> None:
        object.__setattr__(self, "uri", redact_url(self.uri))

    def attributes(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_attributes(cls, attrs: Mapping[str, Any]) -> StreamInfo:
        """Raises KeyError, TypeError, AttributeError and ValueError for what nobody of ours has written."""
        for field in fields(cls):
            value = attrs.get(field.name, field.default)
            if field.name in attrs and (
                isinstance(value, bool) or not isinstance(value, _TYPES[str(field.type)])
            ):
                raise ValueError(f"{field.name} is of another type")
            if isinstance(value, int | float) and not abs(value) <= _LARGEST:
                raise ValueError(f"{field.name} is out of range")
        known = {f.name: attrs[f.name] for f in fields(cls) if f.name in attrs}
        return cls(**{**known, "clock": ClockSource(known["clock"])})


def check_stream_id(stream: str) -> str:
    """`stream` if it can name a directory everywhere. Raises `StoreRefused`."""
    if not is_stream_name(stream):
        raise StoreRefused(f"stream name {stream!r}: {NAME_RULE}")
    return stream
