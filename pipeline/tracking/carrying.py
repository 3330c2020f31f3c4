"""Where a box went, told by the points that were followed inside it: a pure decision."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.core.motion import MotionField

# Points that must agree on where a box went: the median of fewer is that of an error.
_LEAST_POINTS = 4
# And on how much larger it has become: growth is the finer difference.
_LEAST_POINTS_GROWTH = 8
_MAX_GROWTH = 2.0
# Distances between points are compared, of so many at most; nearer ones than this share of the box tell noise.
_COMPARED = 40
_NEAR = 0.1
# Without a mask: a point inside the box that moves otherwise than the ring around it belongs to the thing. By how much
# (in medians of the ring's own spread, and as a share of the box's size), and how many must be there.
_OUTSTANDING = 1.5
_LEAST_MOVE = 0.02
_LEAST_SHARE = 0.2
_RING = 2.0


@dataclass(frozen=True, slots=True)
class Carried:
    """A box xyxy pixels (4,) after a motion field, and which share of its points was still found there."""

    box: np.ndarray
    kept: float


def carry(
    box: np.ndarray, field: MotionField, size: tuple[int, int], mask: np.ndarray | None = None
) -> Carried | None:
    """Move `box` (4,) xyxy pixels of a picture of `size` (H, W) along `field`; None where too few points tell.

    `mask`: (h, w) bool, the thing itself, on any grid of the whole picture. A box holds background too, which moves with the camera; without a mask the
    points that move otherwise than what surrounds the box speak for the thing.
    """
    height, width = size
    before, after = field.before * [width, height], field.after * [width, height]
    # 1. Whose points they are.
    own = _within(before, box)
    if mask is not None:
        cells = np.array(mask.shape[::-1])
        column, row = np.clip((field.before * cells).astype(int), 0, cells - 1).T
        own &= mask[row, column]
    seen = own & field.found
    if mask is None:
        seen = _outstanding(before, after, seen, field.found, box)
    if seen.sum() < _LEAST_POINTS:
        return None
    # 2. How far they drew apart, and where they went beyond that: medians, for some points slip onto what lies behind.
    first, second = before[seen], after[seen]
    growth = _growth(first, second, box)
    move = np.median(second - growth * first, axis=0)
    # 3. The box goes with them, its middle keeping its place among the points.
    centre = move + growth * (box[:2] + box[2:]) / 2
    half = growth * (box[2:] - box[:2]) / 2
    moved = np.concatenate([centre - half, centre + half]).astype(np.float32)
    return Carried(moved, float((own & field.found).sum() / own.sum()))


def _within(points: np.ndarray, box: np.ndarray, size: float = 1.0) -> np.ndarray:
    """Which points (N,) lie in the box, blown up to `size` times its sides."""
    centre, half = (box[:2] + box[2:]) / 2, size * (box[2:] - box[:2]) / 2
    return np.asarray((np.abs(points - centre) <= half).all(axis=1))


def _outstanding(
    before: np.ndarray, after: np.ndarray, seen: np.ndarray, found: np.ndarray, box: np.ndarray
) -> np.ndarray:
    """Of the points `seen` in the box, those that move otherwise than its surroundings; all where too few do."""
    ring = found & _within(before, box, _RING) & ~_within(before, box)
    if ring.sum() < _LEAST_POINTS:
        return seen
    moves = after - before
    usual = np.median(moves[ring], axis=0)
    beyond = np.abs(moves - usual).max(axis=1)
    least = max(
        _LEAST_MOVE * float(np.sqrt(np.prod(box[2:] - box[:2]))),
        _OUTSTANDING * float(np.median(beyond[ring])),
    )
    other = seen & (beyond > least)
    return other if other.sum() >= max(_LEAST_POINTS, _LEAST_SHARE * seen.sum()) else seen


def _growth(first: np.ndarray, second: np.ndarray, box: np.ndarray) -> float:
    """By which factor points (N, 2) have drawn apart."""
    if len(first) < _LEAST_POINTS_GROWTH:
        return 1.0
    some = np.linspace(0, len(first) - 1, min(len(first), _COMPARED)).astype(int)
    one, other = np.triu_indices(len(some), 1)
    distances = [
        np.linalg.norm(points[some][one] - points[some][other], axis=1) for points in (first, second)
    ]
    far = distances[0] > _NEAR * float(np.sqrt(np.prod(box[2:] - box[:2])))
    if far.sum() < _LEAST_POINTS_GROWTH:
        return 1.0
    ratio = float(np.median(distances[1][far] / distances[0][far]))
    return float(np.clip(ratio, 1 / _MAX_GROWTH, _MAX_GROWTH))
