"""A decoded picture and the moment it belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from pipeline.core.motion import MotionField


class ClockSource(StrEnum):
    """Where a frame's wall clock comes from, most exact first."""

    RTCP = "rtcp"
    FILE = "file"
    ARRIVAL = "arrival"


@dataclass(frozen=True, slots=True)
class FrameTime:
    """When a frame was shown and when that was on the wall.

    `pts_ns`: presentation time in nanoseconds from the stream's first frame, taken from the container's time
    stamps, never from a frame rate. `wall_ns`: nanoseconds since 1970-01-01 UTC. `epoch`: grows by one at each
    PTS reset or reconnect, so (epoch, pts_ns) never goes backwards within a stream.
    """

    pts_ns: int
    wall_ns: int
    epoch: int = 0
    clock: ClockSource = ClockSource.FILE

    @property
    def order(self) -> tuple[int, int]:
        """The key by which frames of one stream are ordered."""
        return (self.epoch, self.pts_ns)


@dataclass(frozen=True, slots=True)
class Frame:
    """One decoded frame. `rgb`: (H, W, 3) uint8. `index`: 0-based number of the frame in its stream.

    `thumbnail`: (h, 64) uint8 grey, what the keyframe gate judged it by; None for a frame that no gate has seen.
    `shot`: number of its shot since the source was opened: it grows by one at each hard cut. `motion`: how things moved
    from an earlier keyframe to this one, in successive steps; empty where nobody knows.
    """

    stream: str
    index: int
    time: FrameTime
    rgb: np.ndarray
    thumbnail: np.ndarray | None = None
    shot: int = 0
    motion: tuple[MotionField, ...] = ()

    @property
    def height(self) -> int:
        return int(self.rgb.shape[0])

    @property
    def width(self) -> int:
        return int(self.rgb.shape[1])
