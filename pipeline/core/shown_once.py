"""One thing is shown once: of nested and doubled regions with one name, the one that fits."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from pipeline.core.regions import box_area

# Share of the smaller box that lies in the larger, from which both may be one thing. Measured on 36 annotated pictures
# with 23 captions each: from .6 to .8 what is shown grows from 7 to 8 a picture, and a tenth of it are doubles.
_WITHIN = 0.7
# A part, or a box drawn too tightly, is the commoner mistake, so the larger box is shown: precision .75 there, .73 with
# the surer one of both. Unless the smaller is surer by this.
_SURER = 0.2

# Behind a thing lies what is this much larger, does not have the thing's pixels, and lies around it: the thing's box in its
# box, or as far in it as here where its own mask leaves so much of its box free that it must be the ground between things.
_LARGER = 1.5
_COVERED = 0.5
_AROUND, _FILLED = 0.4, 0.6

# A noun phrase ends before these: what follows describes its head.
_AFTER_HEAD = frozenset(
    [
        "in",
        "on",
        "of",
        "with",
        "and",
        "wearing",
        "at",
        "by",
        "behind",
        "near",
        "holding",
        "standing",
        "sitting",
        "riding",
        "walking",
        "that",
        "is",
        "are",
        "on",
        "to",
    ]
)


def name_of(text: str) -> str:
    """The head of a caption's first noun phrase, in the singular: "two red cars on the street" is a "car"."""
    words: list[str] = []
    for word in re.findall(r"[^\W_]+(?:-[^\W_]+)*", text.lower()):
        if word in _AFTER_HEAD and words:
            break
        words.append(word)
    head = words[-1] if words else ""
    plural = len(head) > 3 and head.endswith("s") and not head.endswith("ss")
    return head[:-1] if plural else head


class Outlines(Protocol):
    """The masks of the regions of one moment, by their index; None where one has none."""

    def fills(self, region: int) -> float | None:
        """Share of its box that its mask fills."""
        ...

    def covers(self, region: int, other: int) -> float | None:
        """Share of the other's mask that lies in its mask."""
        ...


def shown_once(
    boxes: np.ndarray,
    texts: Sequence[str],
    scores: Sequence[float],
    together: np.ndarray | None = None,
    outlines: Outlines | None = None,
) -> list[int]:
    """Indices of the regions to show, surest first: of several that are one thing, one.

    `boxes` (N, 4) xyxy. Two are one thing when they have one name and the smaller box lies mostly in the larger.
    `together` (N, N) bool: which can be one at all; of one moment all can. `outlines`: with them a background that bears the
    name of a thing before it ("a car" on the road around a car) is told from the thing, and not shown.
    """
    names = [name_of(text) for text in texts]
    area = box_area(boxes)
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=-1)
    inside = shared / np.maximum(np.minimum(area[:, None], area[None]), 1e-9)
    if together is not None:
        inside = np.where(together, inside, 0.0)
    within = inside > _WITHIN
    left = list(range(len(boxes)))
    if outlines is not None:
        left = [row for row in left if not _is_behind(row, names, area, scores, inside, outlines)]
    kept: list[int] = []
    # The largest first: each that comes later lies in one that is kept, or is another thing.
    for index in sorted(left, key=lambda row: (-area[row], -scores[row])):
        others = [other for other in kept if names[other] == names[index] and within[index, other]]
        if others and scores[index] <= max(scores[other] for other in others) + _SURER:
            continue
        kept = [*(other for other in kept if other not in others), index]
    return sorted(kept, key=lambda row: (-scores[row], row))


def _is_behind(
    row: int,
    names: Sequence[str],
    area: np.ndarray,
    scores: Sequence[float],
    inside: np.ndarray,
    outlines: Outlines,
) -> bool:
    """Whether a region is the background of one that bears its name and is not much less sure of it."""
    for other in range(len(names)):
        if names[other] != names[row] or area[row] < _LARGER * area[other]:
            continue
        if inside[row, other] < _AROUND or scores[other] < scores[row] - _SURER:
            continue
        covered, filled = outlines.covers(row, other), outlines.fills(row)
        if covered is None or filled is None or covered >= _COVERED:
            continue  # nobody knows, or the other is a part of it
        if inside[row, other] > _WITHIN or filled < _FILLED:
            return True
    return False
