"""What is stored: observations, caption events, closed tracks, gaps, steps of effort, and the point to resume from."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from pipeline.core.frame import ClockSource
from pipeline.core.masks import RleMask


@dataclass(frozen=True, slots=True)
class Observation:
    """One tracked region in one keyframe. Times in ns (wall UTC, and stream PTS); `box` xyxy in pixels.

    `mask`: of the same picture; None where it has none, or is not to be kept.
    """

    wall_ns: int
    pts_ns: int
    frame: int
    track: int
    box: tuple[float, float, float, float]
    score: float
    mask: RleMask | None = None


def _no_embedding() -> np.ndarray:
    return np.empty(0, np.float32)


@dataclass(frozen=True, slots=True)
class CaptionEvent:
    """What a track was called from `start_ns` to `end_ns` (wall clock, ns UTC).

    (track, start_ns) identifies an event within its stream: writing the same pair again with a later `end_ns`
    extends the event. `start_pts_ns`/`end_pts_ns`: the same on the stream's own clock. `frame`, `box` (xyxy pixels),
    `mask` belong to the keyframe at `start_ns`. `score`: probability in 0..1 that the caption is right (calibrated);
    `logprob`: mean token log-probability. `embedding`: the region feature, (D,) float32,
    L2-normalised, (0,) without one; two events that differ in it alone count as equal.
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
    embedding: np.ndarray = field(default_factory=_no_embedding, compare=False)
    mask: RleMask | None = None


@dataclass(frozen=True, slots=True)
class StoredCaption:
    """A caption event as it stands in the store since `durable_ns` (wall ns UTC): small enough to be told of each.

    (track, start_ns) identifies it, as in `CaptionEvent`; the other times, `box` and `score` are as there. An event that
    lasts is told again with a later end.
    """

    track: int
    start_ns: int
    end_ns: int
    start_pts_ns: int
    end_pts_ns: int
    box: tuple[float, float, float, float]
    text: str
    score: float
    durable_ns: int

    @classmethod
    def of(cls, event: CaptionEvent, durable_ns: int) -> StoredCaption:
        """What is told of an event, without mask and embedding."""
        return cls(
            event.track,
            event.start_ns,
            event.end_ns,
            event.start_pts_ns,
            event.end_pts_ns,
            event.box,
            event.text,
            event.score,
            durable_ns,
        )


@dataclass(frozen=True, slots=True)
class ClosedTrack:
    """A track that has ended. Times wall ns UTC."""

    track: int
    first_ns: int
    last_ns: int
    observations: int
    best_text: str


class GapReason(StrEnum):
    """Why a stretch was not watched; the values are what is stored.

    OUTAGE: no picture came. CORRUPT: pictures came that cannot be shown. DROPPED: they came faster than they were
    looked at. SHED: they had waited for longer than the budget of age. LOST: the store's files of that time are missing.
    DAMAGED: they are there and cannot be read. FORGOTTEN: they were there, and retention has deleted them.
    RESIZED: of no length, and nothing is missing: from here on the source's pictures have another size.
    """

    OUTAGE = "outage"
    CORRUPT = "corrupt"
    DROPPED = "dropped"
    SHED = "shed"
    LOST = "lost"
    DAMAGED = "damaged"
    FORGOTTEN = "forgotten"
    RESIZED = "resized"


def known_reason(stored: str) -> GapReason | str:
    """A stored reason as what it is; one that another version has written stays text."""
    try:
        return GapReason(stored)
    except ValueError:
        return stored


@dataclass(frozen=True, slots=True)
class Gap:
    """A stretch of time that was not watched, so that "no captions" differs from "nothing happened".

    Wall ns UTC. `frames`: how many frames are missing, 0 when unknown.
    """

    start_ns: int
    end_ns: int
    reason: GapReason
    frames: int = 0


class EffortName(StrEnum):
    """How much work a stream gets, most first; the values are what is stored. What each goes without:
    `pipeline.keyframes.shedding.EFFORTS`.
    """

    FULL = "full"
    NO_VIEWS = "no-views"
    HALF_PROBES = "half-probes"
    FEW_PROBES = "few-probes"
    HALF_KEYFRAMES = "half-keyframes"
    QUARTER_KEYFRAMES = "quarter-keyframes"
    DROP_STALE = "drop-stale"


@dataclass(frozen=True, slots=True)
class EffortStep:
    """From `wall_ns` (ns UTC) on the stream gets this much work. It leaves nothing unwatched by itself."""

    wall_ns: int
    effort: EffortName


@dataclass(frozen=True, slots=True)
class Cut:
    """The first picture of a new shot: nothing is followed from before it. Wall ns UTC, and ns of stream PTS."""

    wall_ns: int
    pts_ns: int


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
    """How far a stream is stored: everything up to and including this keyframe. `shot`: number of its shot, from 0."""

    pts_ns: int = -1
    frame: int = -1
    epoch: int = 0
    wall_ns: int = 0
    next_track: int = 1
    shot: int = 0


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows that become durable together in one commit."""

    observations: tuple[Observation, ...] = ()
    captions: tuple[CaptionEvent, ...] = ()
    tracks: tuple[ClosedTrack, ...] = ()
    gaps: tuple[Gap, ...] = ()
    clocks: tuple[ClockReading, ...] = ()
    efforts: tuple[EffortStep, ...] = ()
    cuts: tuple[Cut, ...] = ()
    resume: ResumePoint = field(default_factory=ResumePoint)
