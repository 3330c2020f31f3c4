"""Where to look for regions that no track accounts for."""

from __future__ import annotations

import numpy as np

from pipeline.perception_options import ProbeOptions


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
