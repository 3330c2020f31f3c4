"""What is asked of rows: time, track, words, score, place, shot and likeness."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.store.text_filter import TextFilter

_ANY_TEXT = TextFilter()


@dataclass(frozen=True, slots=True)
class RowFilter:
    """What to look for; None means anything. Times wall ns, both ends included. `box`: xyxy pixels, overlapping.

    `text`: part of the caption, in any case; `texts`: more that is asked of it. `zone`: corners (x, y) in pixels of a polygon in
    which the middle of the box lies. `shot`: its number, of where the row begins. `like`: (D,) embedding to which that of the
    row has a cosine of `min_similarity` or more; rows without embedding have none.
    """

    start: int | None = None
    end: int | None = None
    track: int | None = None
    text: str | None = None
    min_score: float | None = None
    box: tuple[float, float, float, float] | None = None
    texts: TextFilter = _ANY_TEXT
    zone: tuple[tuple[float, float], ...] | None = None
    shot: int | None = None
    like: tuple[float, ...] | None = None
    min_similarity: float = -1.0


def inside_polygon(boxes: np.ndarray, corners: Sequence[tuple[float, float]]) -> np.ndarray:
    """Whether the middles of boxes (n, 4) xyxy lie in a polygon, (n,) bool; even-odd rule, it closes by itself."""
    x, y = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
    inside = np.zeros(len(boxes), bool)
    for (x0, y0), (x1, y1) in zip(corners, [*corners[1:], corners[0]], strict=True):
        if y0 != y1:
            crosses = (y0 > y) != (y1 > y)
            with np.errstate(
                all="ignore"
            ):  # of corners that are far away, or edges that are all but level, where nothing crosses
                inside ^= crosses & (x < (x1 - x0) * ((y - y0) / (y1 - y0)) + x0)
    return inside
