"""Where to look for regions that no track accounts for."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from pipeline.core.options import Options

# How a keyframe is searched for regions.

# A point where the picture has changed is tried this many times as soon, or as often, as one where it has not. A guess.
_CHANGED_WEIGHT = 5.0
# A point inside a large region is tried seldom, not never: a table is found before the cup on it. A guess.
_HIDDEN_WEIGHT = 0.3
# What a point beside one that is tried in the same keyframe still counts at least: neighbours mostly lie in one thing.
_NEIGHBOUR_WEIGHT = 0.2


class ProbeOptions(Options):
    """Where to look for regions that no track accounts for. Points form a `grid` x `grid` raster."""

    grid: int = Field(
        default=12, ge=1, le=64, description="points along a side: smaller things need a finer raster"
    )
    budget: int = Field(
        default=8,
        ge=0,
        description="points tried for new regions in a keyframe; 0: no region is looked for so",
    )
    first_budget: int = Field(default=32, ge=0, description="points tried in the first keyframe of a scene")


class PerceptionOptions(Options):
    """Which masks count as regions. Areas are shares of the picture."""

    probing: ProbeOptions = ProbeOptions()
    views: int = Field(
        default=2,
        ge=0,
        le=4,
        description="windows of the picture that are looked at by themselves in a keyframe, beside the whole; all four in "
        "the first of a scene; 0: none ever",
    )
    closer: int = Field(
        default=2,
        ge=0,
        le=32,
        description="crops around small tracks that are looked at by themselves in a keyframe; around small regions, and twice as "
        "many, in the first of a scene; 0: none ever",
    )
    proposals: int = Field(
        default=24,
        ge=0,
        description="boxes in which the model expects things, tried for new regions in a keyframe at most; 0: none",
    )
    least_proposal: float = Field(
        default=0.3, ge=0, le=1, description="least IoU with a thing that the model expects of such a box"
    )
    max_track_prompts: int = Field(
        default=32, ge=0, description="live tracks looked for in their place in a keyframe at most"
    )
    still_s: float = Field(
        default=20.0,
        ge=0,
        description="what stands still is what it was, and is looked at again after so many seconds at most; 0: in every keyframe",
    )
    max_regions: int = Field(default=72, ge=1, description="regions kept of a keyframe at most")
    min_predicted_iou: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="least IoU that the model itself expects of a mask; none: what suits the model",
    )
    min_stability: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="least IoU of a mask with itself at a stricter and a looser threshold; none: what suits the model",
    )
    min_area: float = Field(default=0.001, ge=0, le=1, description="smaller masks are no regions")
    max_area: float = Field(
        default=0.9, ge=0, le=1, description="larger masks are no regions: they are the background"
    )
    same_region_iou: float = Field(
        default=0.55, gt=0, le=1, description="masks whose IoU is above this are one region, found twice"
    )


def grid_points(side: int) -> np.ndarray:
    """The centres of `side` x `side` cells, (side*side, 2) xy in 0..1, row by row."""
    centres = (np.arange(side) + 0.5) / side
    return np.stack([np.tile(centres, side), np.repeat(centres, side)], axis=1)


def choose_probes(age: np.ndarray, weight: np.ndarray, budget: int, side: int) -> np.ndarray:
    """Indices of up to `budget` grid points to try now, spread over the picture.

    `age` (side*side,): keyframes since each point was last tried. `weight` (side*side,): how much it matters now, 0
    for points that need no look. The most urgent (age x weight) go first; after each choice its neighbours count
    less, so that one budget does not land in one corner. Any point whose weight stays positive is reached in the end.
    """
    # The longer ago, the more urgent: whatever its weight, a point's turn comes.
    urgency = age.astype(np.float64) * weight
    places = grid_points(side) * side
    discount = np.ones_like(urgency)
    # If the budget were spread evenly, its points would stand this many cells apart: nearer ones count less.
    reach = side / np.sqrt(max(budget, 1))
    chosen: list[int] = []
    for _ in range(budget):
        best = int(np.argmax(urgency * discount))
        if urgency[best] <= 0:
            break
        chosen.append(best)
        urgency[best] = 0
        near = np.linalg.norm(places - places[best], axis=1)
        discount *= np.clip(near / reach, _NEIGHBOUR_WEIGHT, 1)
    return np.array(chosen, np.int64)


class ProbeSchedule:
    """Which points of one stream's raster were tried how long ago."""

    def __init__(self, options: ProbeOptions) -> None:
        self._options = options
        self._points = grid_points(options.grid)
        self._age = np.full(len(self._points), 1.0)
        self._first = True

    def next_points(
        self, covered: np.ndarray, hidden: np.ndarray, changed: np.ndarray, share: float = 1.0
    ) -> np.ndarray:
        """(n, 2) xy in 0..1 to try in this keyframe, `share` (0..1] of the budget, but one at least.

        Three pictures of any size, sampled at the points: `covered` (bool) by the mask of a small region, `hidden`
        (bool) inside a large one, `changed` (0..1) since the last keyframe.
        """
        # Where a track's mask lies already there is nothing new to find; what changed may be something new.
        weight = np.where(self._sample(hidden), _HIDDEN_WEIGHT, 1.0) * (
            1 - self._sample(covered).astype(float)
        )
        weight *= 1 + (_CHANGED_WEIGHT - 1) * self._sample(changed)
        # One at least, however little effort is left: a stream that sheds work must still find what is new.
        full = self._options.first_budget if self._first else self._options.budget
        budget = max(min(1, full), round(full * share))
        chosen = choose_probes(self._age, weight, budget, self._options.grid)
        self._age += 1
        self._age[chosen] = 1.0
        self._first = False
        return self._points[chosen]

    def new_scene(self) -> None:
        """Everything may be different now: the next keyframe is probed like a first one."""
        self._first = True

    def _sample(self, picture: np.ndarray) -> np.ndarray:
        height, width = picture.shape
        x = np.minimum((self._points[:, 0] * width).astype(int), width - 1)
        y = np.minimum((self._points[:, 1] * height).astype(int), height - 1)
        return np.asarray(picture[y, x])
