"""What is stored: observations, caption events, closed tracks, gaps, and the point to resume from."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.core.frame import ClockSource
from pipeline.core.regions import RleMask


@dataclass(frozen=True, slots=True)
class Observation:
    """One tracked region in one keyframe. Times in ns (wall UTC, and stream PTS); `box` xyxy in pixels."""

    wall_ns: int
    pts_ns: int
    frame: int
    track: int
    box: tuple[float, float, float, float]
    score: float


@dataclass(frozen=True, slots=True)
class CaptionEvent:
    """What a track was called from `start_ns` to `end_ns` (wall clock, ns UTC).

    (track, start_ns) identifies an event within its stream: writing the same pair again with a later `end_ns`
    extends the event. `start_pts_ns`/`end_pts_ns`: the same on the stream's own clock. `frame`, `box` (xyxy pixels),
    `mask` belong to the keyframe at `start_ns`. `score`: probability in 0..1 that the caption is right (calibrated);
    `logprob`: mean token log-probability. `embedding`: the region feature, L2-normalised.
    """

    track: int
    start_ns: int
    end_ns: int
    start_pts_ns: int
    end_pts_ns: int
    frame: int
    box: tuple[float, float, float, float]
    text: str
    score: float
    logprob: float
    embedding: tuple[float, ...] = ()
    mask: RleMask | None = None


@dataclass(frozen=True, slots=True)
class ClosedTrack:
    """A track that has ended. Times wall ns UTC."""

    track: int
    first_ns: int
    last_ns: int
    observations: int
    best_text: str


@dataclass(frozen=True, slots=True)
class Gap:
    """A stretch of time that was not watched, so that "no captions" differs from "nothing happened".

    `reason`: "corrupt", "dropped", "outage", "shed". `frames`: how many frames are missing, 0 when unknown.
    """

    start_ns: int
    end_ns: int
    reason: str
    frames: int = 0


@dataclass(frozen=True, slots=True)
class ClockReading:
    """How the stream's clock and the wall clock stood to each other, from `wall_ns` until the next reading.

    `epoch`: which run of PTS. `clock`: where the wall clock comes from. `drift_ppm`: millionths by which the wall clock
    ran faster than PTS lately; None when too little was seen to tell.
    """

    wall_ns: int
    pts_ns: int
    epoch: int
    clock: ClockSource
    drift_ppm: float | None = None


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """How far a stream is stored: everything up to and including this keyframe."""

    pts_ns: int = -1
    frame: int = -1
    epoch: int = 0
    wall_ns: int = 0
    next_track: int = 1


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows that become durable together in one commit."""

    observations: tuple[Observation, ...] = ()
    captions: tuple[CaptionEvent, ...] = ()
    tracks: tuple[ClosedTrack, ...] = ()
    gaps: tuple[Gap, ...] = ()
    clocks: tuple[ClockReading, ...] = ()
    resume: ResumePoint = field(default_factory=ResumePoint)
