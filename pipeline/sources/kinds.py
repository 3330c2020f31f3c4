"""Which kinds of sources there are, by address scheme or file ending, and what they are asked."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from pipeline.core.dropping import KEEP_LATEST, DropPolicy
from pipeline.sources.source import Source, SourceInfo, SourceOptions
from sca.parts import Registry, registry


@dataclass(frozen=True, slots=True)
class SourceRequest:
    """What is to be opened. `uri` may hold credentials: never print it.

    `stream`: the name under which it is stored. `start_ns`: wall clock of the first frame, ns UTC, where the user gave
    one. `known`: what an earlier opening found out: a source that may be away need not be there now. `drop`: what gives
    way where a source cannot wait for its reader.
    """

    uri: str = field(repr=False)
    stream: str
    start_ns: int | None = None
    options: SourceOptions = field(default_factory=SourceOptions)
    known: SourceInfo | None = None
    drop: DropPolicy = KEEP_LATEST


class SourceOpener(Protocol):
    """Opens one kind of source."""

    def __call__(self, request: SourceRequest) -> Source:
        """An open source. Raises `SourceRefused` naming the input (without credentials) and the remedy."""
        ...


LIVE_SCHEMES = frozenset({"rtsp", "rtsps", "rtmp", "rtmps", "http", "https", "udp", "rtp", "srt", "tcp"})

SOURCES: Registry[SourceOpener] = registry(
    "source", "sources", dict.fromkeys(sorted(LIVE_SCHEMES), "pipeline.sources.opening:open_network_camera")
)
"""A part is named by the scheme of the addresses that it opens ("s3" for s3://...), in lower case, or by the ending of its
files with the dot (".npy"). Files that no part claims are videos and pictures.
"""


def address_schemes() -> list[str]:
    """Schemes of the addresses that can be opened, those of installed packages included."""
    return sorted(name for name in SOURCES.names() if not name.startswith("."))


def file_endings() -> set[str]:
    """Endings of the files that parts of installed packages open."""
    return {name for name in SOURCES.names() if name.startswith(".")}
