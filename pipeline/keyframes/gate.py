"""Which frames are worth looking at."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from pydantic import Field

from pipeline.core.clock import NS
from pipeline.core.frame import FrameTime
from pipeline.core.options import Options
from pipeline.core.thumbnail import changed_places
from pipeline.sources.picture import DecodedFrame

# Cameras jitter: a frame that comes this much too early still counts as on time.
_TOLERANCE_NS = 1_000_000


class KeyframeOptions(Options):
    """How densely a stream is looked at. Seconds of presentation time."""

    interval_s: float = Field(default=0.5, gt=0, description="time between keyframes while something moves")
    max_interval_s: float = Field(default=2.0, gt=0, description="time between keyframes of a still scene")
    change: float = Field(
        default=0.003,
        ge=0,
        le=1,
        description="share of the picture that must change to matter; 0: every frame counts as changed",
    )


class KeyframeReason(StrEnum):
    """Why a frame became a keyframe."""

    FIRST = "first"
    CHANGED = "changed"
    OLD = "old"


@dataclass(frozen=True, slots=True)
class LastKeyframe:
    """What the gate remembers: when the last keyframe was and what it looked like."""

    time: FrameTime
    thumbnail: np.ndarray


def keyframe_reason(
    elapsed_ns: int | None, changed: float, options: KeyframeOptions, interval_factor: float = 1.0
) -> KeyframeReason | None:
    """Whether a frame `elapsed_ns` after the last keyframe (None: there was none) becomes a keyframe, and why.

    `interval_factor`: how many times as long as usual to wait between keyframes.
    """
    # 1. Nothing was seen yet.
    if elapsed_ns is None:
        return KeyframeReason.FIRST
    # 2. However much changes, no sooner than the interval: this bounds the work. A frame that is a hair early is on time,
    # else jitter would put off every other keyframe by a whole frame.
    waited_s = (elapsed_ns + _TOLERANCE_NS) / NS / interval_factor
    if waited_s < options.interval_s:
        return None
    # 3. A change is looked at now; a still scene only now and then, so that its tracks stay alive.
    if changed >= options.change:
        return KeyframeReason.CHANGED
    return KeyframeReason.OLD if waited_s >= options.max_interval_s else None


class KeyframeGate:
    """`keyframe_reason` over one stream. A new epoch (reconnect, PTS reset) starts with a keyframe.

    `interval_factor` may be set at any time.
    """

    def __init__(self, options: KeyframeOptions) -> None:
        self._options = options
        self._last: LastKeyframe | None = None
        self.interval_factor = 1.0

    def resume_after(self, time: FrameTime) -> None:
        """Count from an earlier run's last keyframe, whose looks are not known."""
        self._last = LastKeyframe(time, np.empty((0, 0), np.uint8))

    def consider(self, frame: DecodedFrame) -> KeyframeReason | None:
        """The reason why `frame` is a keyframe, or None. Call in stream order."""
        last = self._last
        if last is not None and last.time.epoch == frame.time.epoch:
            elapsed, factor = frame.time.pts_ns - last.time.pts_ns, self.interval_factor
            # Would it be too early even if all had changed? Then its thumbnail need not be made.
            if keyframe_reason(elapsed, 1.0, self._options, factor) is None:
                return None
            thumbnail = frame.thumbnail()
            changed = float(changed_places(last.thumbnail, thumbnail).mean())
            reason = keyframe_reason(elapsed, changed, self._options, factor)
        else:
            # PTS of different epochs cannot be subtracted, and nobody knows what was missed in between.
            thumbnail = frame.thumbnail()
            reason = keyframe_reason(None, 1.0, self._options)
        if reason is not None:
            self._last = LastKeyframe(frame.time, thumbnail)
        return reason
