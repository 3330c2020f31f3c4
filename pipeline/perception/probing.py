"""Where to look for regions that no track accounts for."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from pipeline.core.options import Options

# How a keyframe is searched for regions.


class ProbeOptions(Options):
    """Where to look for regions that no track accounts for. Points form a `grid` x `grid` raster."""

    grid: int = Field(default=12, ge=1, le=64)
    budget: int = Field(default=8, ge=0, description="points tried in a keyframe")
    first_budget: int = Field(default=32, ge=0, description="points tried in the first keyframe of a scene")
    change_weight: float = Field(
        default=4.0, ge=0, description="how much sooner a changed place is tried again"
    )
    large_region: float = Field(
        default=0.2, ge=0, le=1, description="larger regions may hide others: probe inside"
    )


class PerceptionOptions(Options):
    """Which masks count as regions. Areas are shares of the picture."""

    probing: ProbeOptions = ProbeOptions()
    max_track_prompts: int = Field(default=32, ge=0, description="live tracks looked for in a keyframe")
    max_motion_prompts: int = Field(
        default=12, ge=0, description="moving places tried in a keyframe, while the camera stands still"
    )
    max_regions: int = Field(default=40, ge=1)
    min_predicted_iou: float | None = Field(
        default=None, ge=0, le=1, description="none: what suits the model"
    )
    min_stability: float | None = Field(default=None, ge=0, le=1, description="none: what suits the model")
    min_area: float = Field(default=0.001, ge=0, le=1)
    max_area: float = Field(default=0.9, ge=0, le=1)
    same_region_iou: float = Field(
        default=0.55, gt=0, le=1, description="masks that overlap more are one region"
    )
    same_box_iou: float = Field(default=0.8, gt=0, le=1, description="and so are masks with nearly one box")


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
    urgency = age.astype(np.float64) * weight
    places = grid_points(side) * side
    discount = np.ones_like(urgency)
    reach = side / np.sqrt(max(budget, 1))
    chosen: list[int] = []
    for _ in range(budget):
        best = int(np.argmax(urgency * discount))
        if urgency[best] <= 0:
            break
        chosen.append(best)
        urgency[best] = 0
        near = np.linalg.norm(places - places[best], axis=1)
        discount *= np.clip(near / reach, 0.2, 1)
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
        weight = np.where(self._sample(hidden), 0.3, 1.0) * (1 - self._sample(covered).astype(float))
        weight *= 1 + self._options.change_weight * self._sample(changed)
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
