"""What every tracker offers, and how one is chosen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from pydantic import Field

from pipeline.core.frame import FrameTime
from pipeline.core.motion import MotionField
from pipeline.core.options import Options
from pipeline.core.regions import EndedTrack, Expected
from pipeline.tracking.association import AssociationOptions, Candidates
from sca.parts import Registry, registry


class TrackingOptions(Options):
    """How long tracks live. Seconds of stream time."""

    tracker: str = Field(
        default="prompted",
        description="who follows things: prompted, which is our own, or one of an installed package",
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="settings of its own that a tracker of an installed package takes"
    )
    confirm_hits: int = Field(
        default=2,
        ge=1,
        description="keyframes in which a region is found before its track gets a number; in the first keyframe: at once",
    )
    lost_s: float = Field(
        default=2.0, ge=0, description="how long a missing track is still looked for in its place"
    )
    reentry_s: float = Field(
        default=30.0,
        ge=0,
        description="how long after that it is still recognised by its looks, wherever it is",
    )
    association: AssociationOptions = AssociationOptions()


@dataclass(frozen=True, slots=True)
class TrackUpdate:
    """`track_ids` (N,) int64 for the detections, -1 while tentative; tracks that ended; the next free number.

    `keys`: of the track of each detection, as `Expected.keys` will have it; none from a tracker that does not tell, whose
    tracks are then not known by their own pixels while the model looks elsewhere.
    """

    track_ids: np.ndarray
    ended: tuple[EndedTrack, ...]
    next_track: int
    keys: tuple[int, ...] = ()


class Tracker(Protocol):
    """The tracks of one stream. For each keyframe, in order: `expect`, then look there, then `update`.

    Numbers are given once: a number that has ended, or that an earlier run gave, never comes again. A tracker that also
    has `moved` (`FollowsMotion`) is told before `expect` where the picture's points went since the last keyframe.
    """

    def expect(self, time: FrameTime, frame_size: tuple[int, int]) -> Expected:
        """Where the live tracks should be in a (height, width) picture at `time`: each box becomes a prompt.

        No boxes is an answer: everything is then found by probing.
        """
        ...

    def update(self, time: FrameTime, detections: Candidates, prompted_by: tuple[int, ...]) -> TrackUpdate:
        """Take in the N detections of this keyframe, N may be 0.

        `prompted_by`: for each the key (of `Expected.keys`) whose box found it, -1 where it came from elsewhere.
        """
        ...

    def finish(self) -> tuple[EndedTrack, ...]:
        """The stream is over: every numbered track that has not ended yet."""
        ...


@runtime_checkable
class FollowsMotion(Protocol):
    """What a tracker may offer besides."""

    def moved(self, fields: tuple[MotionField, ...], frame_size: tuple[int, int]) -> None:
        """How points of a (height, width) picture moved from the last keyframe to the one that is expected next.

        `fields`: one after the other, none where it is not known; told before each `expect`.
        """
        ...


TRACKERS: Registry[Callable[[TrackingOptions, int], Tracker]] = registry(
    "tracker", "trackers", {"prompted": "pipeline.tracking.tracker:PromptedTracker"}
)
"""Parts are called with the settings of the group and the first number to give."""


def open_tracker(options: TrackingOptions, next_track: int) -> Tracker:
    """The tracker that settings choose, for one stream. `UserError` as in `Registry.get`."""
    return TRACKERS.get(options.tracker)(options, next_track)
