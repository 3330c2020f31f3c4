"""What a stored stream is: where it came from, its clock, its picture size."""

from __future__ import annotations

import json
import secrets
import time
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import lru_cache
from types import UnionType
from typing import Any

from pipeline.core.errors import StoreRefused
from pipeline.core.frame import ClockSource
from pipeline.core.redaction import redact_url
from pipeline.core.stream_names import NAME_RULE, is_stream_name
from pipeline.store.place import Stamp, StorePlace
from pipeline.store.zarr_metadata import group_document
from sca.small_files import parsed_json

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
    `identity`: drawn when the stream began; every segment carries it, so that one of another store is not taken for one of these.
    "" for streams that began before there was one.
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
    identity: str = field(default="", compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "uri", redact_url(self.uri))

    def going_on_from(self, known: StreamInfo | None) -> StreamInfo:
        """What is stored of a stream that is written again: when it began and what it is stay."""
        if known is None:
            return replace(self, identity=secrets.token_hex(8))
        return replace(
            self, start_wall_ns=known.start_wall_ns, identity=known.identity or secrets.token_hex(8)
        )

    def document(self, stream: str) -> bytes:
        """`zarr.json` of the stream. With its name and a checksum: another digit in it would move what is asked by time of the stream."""
        told = {**asdict(self), "stream": stream}
        return json.dumps(group_document({**told, "crc32": _checksum(told)})).encode()

    @classmethod
    def from_attributes(cls, attrs: Mapping[str, Any], stream: str) -> StreamInfo:
        """Raises KeyError, TypeError, AttributeError and ValueError for what nobody of ours has written, or for another stream."""
        if "crc32" in attrs:  # earlier versions wrote none
            told = {name: value for name, value in attrs.items() if name != "crc32"}
            if attrs["crc32"] != _checksum(told):
                raise ValueError("it has another checksum than it was written with")
            if told["stream"] != stream:
                raise ValueError(f"it is that of stream {told['stream']!r}")
        for one in fields(cls):
            value = attrs.get(one.name, one.default)
            if one.name in attrs and (
                isinstance(value, bool) or not isinstance(value, _TYPES[str(one.type)])
            ):
                raise ValueError(f"{one.name} is of another type")
            if isinstance(value, int | float) and not abs(value) <= _LARGEST:
                raise ValueError(f"{one.name} is out of range")
        known = {f.name: attrs[f.name] for f in fields(cls) if f.name in attrs}
        return cls(**{**known, "clock": ClockSource(known["clock"])})


def _checksum(told: Mapping[str, object]) -> int:
    return zlib.crc32(json.dumps(told, sort_keys=True, separators=(",", ":")).encode())


def identity_of(place: StorePlace) -> str:
    """`identity` of the stream that lies in a place; "" where it has none, or cannot tell. Read again only when it has changed."""
    try:
        # Behind a network its time would cost as much as its content: that is asked for once a minute.
        stamp = None if place.far else place.stamp("zarr.json")
        return _identity(place, stamp, int(time.monotonic() // 60) if place.far else 0)
    except OSError:
        return ""


@lru_cache(maxsize=1024)
def _identity(place: StorePlace, stamp: Stamp | None, minute: int) -> str:
    try:
        found = parsed_json(place.read("zarr.json"))["attributes"].get("identity", "")
        return found if isinstance(found, str) else ""
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""  # who asks for its streams is told of it


def check_stream_id(stream: str) -> str:
    """`stream` if it can name a directory everywhere. Raises `StoreRefused`."""
    if not is_stream_name(stream):
        raise StoreRefused(f"stream name {stream!r}: {NAME_RULE}")
    return stream
