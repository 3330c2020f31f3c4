"""Which frames are worth looking at."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from pydantic import Field

from pipeline.core.clock import NS
from pipeline.core.frame import FrameTime
from pipeline.core.options import Options
from pipeline.core.records import Cut
from pipeline.core.thumbnail import changed_places
from pipeline.keyframes.cuts import FoundCut, ShotState, end_of_stream, look_at, next_shot_state
from pipeline.sources.picture import DecodedFrame

# Cameras jitter: a frame that comes this much too early still counts as on time.
_TOLERANCE_NS = 1_000_000


class KeyframeOptions(Options):
    """How densely a stream is looked at. Seconds of presentation time."""

    interval_s: float = Field(default=0.5, gt=0, description="time between keyframes while something moves")
    max_interval_s: float = Field(default=2.0, gt=0, description="time between keyframes of a still scene")
    follow: bool = Field(
        default=True,
        description="points are followed through the frames in between, so that tracks are looked for where they went",
    )
    change: float = Field(
        default=0.003,
        ge=0,
        le=1,
        description="share of the picture that must change to matter; 0: every frame counts as changed",
    )


class KeyframeReason(StrEnum):
    """Why a frame became a keyframe."""

    FIRST = "first"
    CUT = "cut"
    CHANGED = "changed"
    OLD = "old"
    PHOTO = "photo"


@dataclass(frozen=True, slots=True)
class LastKeyframe:
    """What the gate remembers: when the last keyframe was and what it looked like."""

    time: FrameTime
    thumbnail: np.ndarray


def keyframe_reason(
    elapsed_ns: int | None,
    changed: float,
    options: KeyframeOptions,
    interval_factor: float = 1.0,
    *,
    cut: bool = False,
    photo: bool = False,
) -> KeyframeReason | None:
    """Whether a frame `elapsed_ns` after the last keyframe (None: there was none) becomes a keyframe, and why.

    `interval_factor`: how many times as long as usual to wait between keyframes. `cut`: another shot has begun. `photo`: it
    is a picture by itself.
    """
    # 1. Nothing was seen yet.
    if elapsed_ns is None:
        return KeyframeReason.FIRST
    # 2. A cut is looked at once, so that nothing is thought to go on over it.
    if cut:
        return KeyframeReason.CUT
    # 3. Whoever gives a folder of photos wants each of them looked at.
    if photo:
        return KeyframeReason.PHOTO
    # 4. However much changes, no sooner than the interval: this bounds the work. A frame that is a hair early is on time,
    # else jitter would put off every other keyframe by a whole frame.
    waited_s = (elapsed_ns + _TOLERANCE_NS) / NS / interval_factor
    if waited_s < options.interval_s:
        return None
    # 5. A change is looked at now; a still scene only now and then, so that its tracks stay alive.
    if changed >= options.change:
        return KeyframeReason.CHANGED
    return KeyframeReason.OLD if waited_s >= options.max_interval_s else None


class KeyframeGate:
    """`keyframe_reason` over one stream. A new epoch (reconnect, PTS reset) starts with a keyframe, and so does a new shot.

    `interval_factor` may be set at any time. `shot`: number of the shot that the last keyframe is in, from 0.
    """

    def __init__(self, options: KeyframeOptions) -> None:
        self._options = options
        self._last: LastKeyframe | None = None
        self._shots = ShotState()
        self._epoch: int | None = None
        self._cuts: list[Cut] = []
        self.shot = 0
        self.interval_factor = 1.0

    def resume_after(self, time: FrameTime) -> None:
        """Count from an earlier run's last keyframe, whose looks are not known."""
        self._last = LastKeyframe(time, np.empty((0, 0), np.uint8))

    def remember(self, frame: DecodedFrame) -> None:
        """What the earlier run's last keyframe looked like."""
        if self._last is not None:
            self._last = LastKeyframe(self._last.time, frame.thumbnail())

    def consider(self, frame: DecodedFrame) -> KeyframeReason | None:
        """The reason why `frame` is a keyframe, or None. Call in stream order, with every frame."""
        time, last, thumbnail = frame.time, self._last, frame.thumbnail()
        if self._epoch != time.epoch:
            # Nobody knows what was missed in between, and tracks may well go on over an outage.
            self._epoch, self._shots = time.epoch, ShotState()
        self._shots, cuts = next_shot_state(self._shots, look_at(thumbnail), time.pts_ns, time.wall_ns)
        for cut in cuts:
            self._begin_shot(cut)
        # PTS of different epochs cannot be subtracted.
        same_epoch = last is not None and last.time.epoch == time.epoch
        elapsed = time.pts_ns - last.time.pts_ns if last is not None and same_epoch else None
        if elapsed is not None and self._shots.suspicion is not None:
            # Is it a flash or another place? A keyframe now would be of one or the other; the next pictures tell.
            return None
        changed = 1.0 if last is None else float(changed_places(last.thumbnail, thumbnail).mean())
        reason = keyframe_reason(
            elapsed, changed, self._options, self.interval_factor, cut=bool(cuts), photo=frame.photo
        )
        if reason is not None:
            self._last = LastKeyframe(time, thumbnail)
        return reason

    def end(self) -> None:
        """The stream is over: a cut that was still uncertain counts."""
        if (cut := end_of_stream(self._shots)) is not None:
            self._begin_shot(cut)

    @property
    def unclear(self) -> bool:
        """Whether the last frame may be a flash, shows nothing, or comes out of the dark: the next ones tell more."""
        return self._shots.suspicion is not None or self._shots.dark is not None

    def taken_cuts(self) -> list[Cut]:
        """The cuts found since this was asked last."""
        taken, self._cuts = self._cuts, []
        return taken

    def _begin_shot(self, cut: FoundCut) -> None:
        self._cuts.append(Cut(cut.wall_ns, cut.pts_ns))
        self.shot += 1
