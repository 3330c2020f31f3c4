"""What every source of frames looks like to the rest of the pipeline."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, Protocol

from pydantic import Field

from pipeline.core.options import Options
from pipeline.core.records import Gap, ResumePoint
from pipeline.core.restarts import RestartPolicy
from pipeline.sources.picture import DecodedFrame

# How sources are opened.


class SourceOptions(Options):
    """How sources are opened. Durations in seconds."""

    image_interval_s: float = Field(
        default=1.0, gt=0, description="time between two pictures of an image directory"
    )
    track: int | None = Field(
        default=None,
        ge=1,
        description="which video track of a file, from 1; none: the film, by its own flags or size",
    )
    rate: float | None = Field(
        default=None,
        gt=0,
        le=1000,
        description="pictures a second of files without a clock (raw .h264, .hevc, .m4v); none: as they say, or 25",
    )
    decoder: Literal["cpu", "nvdec"] = Field(
        default="cpu", description="nvdec: video files are decoded on an NVIDIA GPU"
    )
    rtsp_transport: Literal["tcp", "udp"] = Field(
        default="tcp", description="udp loses packets on a busy network, but a camera may know only that"
    )
    open_timeout_s: float = Field(default=10.0, gt=0, description="how long a camera may take to answer")
    stall_timeout_s: float = Field(
        default=5.0, gt=0, description="without data for so long, a camera is connected to again"
    )
    reconnect: RestartPolicy = Field(
        default=RestartPolicy.ALWAYS,
        description="after what a camera is connected to again; always: also when the sender ends the stream",
    )
    max_backoff_s: float = Field(default=30.0, gt=0, description="longest pause between two tries to connect")
    check_certificates: bool = Field(
        default=True,
        description="whether an https:// address must show a certificate that this machine trusts",
    )
    max_clock_error_s: float = Field(
        default=10.0,
        ge=0,
        description="a camera's clock that is farther off than this is not used; 0: never use it",
    )


class SourceKind(StrEnum):
    """Where the frames come from."""

    FILE = "file"
    IMAGES = "images"
    LIVE = "live"
    WEBCAM = "webcam"


@dataclass(frozen=True, slots=True)
class SourceInfo:
    """What is known of a source once it is open.

    `address`: without credentials. `width`, `height`: pixels, as displayed. `duration_ns`, `frames`: None when
    unknown (live). `start_wall_ns`: wall clock of PTS 0, ns UTC. `fingerprint`: tells two videos apart, so that a
    run is never resumed on another video. `nominal_fps`: for display only; time is never computed from it.
    `pixel_aspect`: width over height of a stored pixel ("16/9"); it is applied to what is delivered. `notices`: what
    the user must know of how the source is read.
    """

    stream: str
    address: str
    kind: SourceKind
    width: int
    height: int
    start_wall_ns: int
    fingerprint: str
    duration_ns: int | None = None
    frames: int | None = None
    nominal_fps: float | None = None
    pixel_aspect: str = "1"
    notices: tuple[str, ...] = ()

    @property
    def live(self) -> bool:
        return self.kind in (SourceKind.LIVE, SourceKind.WEBCAM)


@dataclass(frozen=True, slots=True)
class SourceCounts:
    """How many frames were decoded, found corrupt, dropped on purpose, and how often the source reconnected.

    `connected`: whether frames may be expected now; False while a camera is away.
    """

    frames: int = 0
    corrupt: int = 0
    dropped: int = 0
    reconnects: int = 0
    connected: bool = True


class Source(Protocol):
    """An open source: iterate it once for frames in order and for gaps, then close it.

    A live source yields None when nothing came for a moment, so that its reader can look around. Iterating may raise
    `ValueError` when a live source ends for good with an error.
    """

    @property
    def info(self) -> SourceInfo: ...

    @property
    def counts(self) -> SourceCounts: ...

    def resume_after(self, point: ResumePoint) -> None:
        """Continue behind `point` instead of from the beginning. Call before iterating."""

    def __iter__(self) -> Iterator[DecodedFrame | Gap | None]: ...

    def close(self) -> None: ...


def resumed_at(source: Source) -> DecodedFrame | None:
    """The frame at the point behind which `source` goes on, known with the first event; None where it has none.

    It tells what the last keyframe looked like, and what is still shown. A source need not have a `resumed_at`.
    """
    frame: DecodedFrame | None = getattr(source, "resumed_at", None)
    return frame
