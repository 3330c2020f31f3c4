"""One thing is shown once: of nested and doubled regions with one name, the one that fits."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from pipeline.core.regions import box_area

# From here on two boxes of one name may be one thing: this IoU, from which a box is a thing's when things are counted
# (`sca evaluate`), or this share of the smaller box in the larger. Measured on 36 annotated pictures in four runs: with .3 and
# .7, one region a picture fewer is shown and one thing in a hundred is lost.
_ALIKE = 0.4
_WITHIN = 0.8
# Of several boxes of one thing that is shown on which the others of its name agree most: each gives its score times the root of
# the IoU (of 363 things .35 are then named in their own box, where the largest or the surest is shown .30, with as many regions).
# Since a part, or a box drawn too tightly, is the commoner mistake, a box e times as large is worth this much of a score.
_LARGER_IS_WHOLE = 0.05
# Two names in one place cannot both be right: from this IoU on, the one that others agree on by this much more is shown. (Of what
# is shown a hundredth more is right then, and nothing less is named; from .5 on two hundredths for one.)
_SAME_PLACE = 0.6
_MORE_AGREED = 1.5
# Masks that share less of the smaller one are of two things, whatever their boxes: a car, and the road around it.
_COVERED = 0.5

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

    `boxes` (N, 4) xyxy. Two are one thing when they have one name and about one box, or the smaller lies in the larger;
    shown is the box on which those of its name agree most. Of two names in one place that which more agree on is shown.
    `together` (N, N) bool: which can be one at all; of one moment all can. `outlines`: with them a thing and the ground around it,
    whose boxes may be the same, are no rivals.
    """
    names = [name_of(text) for text in texts]
    area = box_area(boxes)
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=-1)
    inside = shared / np.maximum(np.minimum(area[:, None], area[None]), 1e-9)
    iou = shared / np.maximum(area[:, None] + area[None] - shared, 1e-9)
    if together is not None:
        inside, iou = np.where(together, inside, 0.0), np.where(together, iou, 0.0)
    numbers = {name: number for number, name in enumerate(names)}
    kind = np.array([numbers[name] for name in names], np.int64)
    same = kind[:, None] == kind[None]
    sure = np.asarray(scores, np.float64)
    agreed = sure + _agreement(iou, same, sure)
    fits = agreed + _LARGER_IS_WHOLE * np.log(np.maximum(area, 1.0))
    one = same & ((iou > _ALIKE) | (inside > _WITHIN))
    kept: list[int] = []
    for index in sorted(range(len(boxes)), key=lambda row: (-fits[row], -sure[row], row)):
        if not one[index, kept].any():
            kept.append(index)
    rivals = ~same & (iou > _SAME_PLACE) & (agreed[None] > _MORE_AGREED * agreed[:, None])
    kept = [
        row
        for row in kept
        if not any(rivals[row, other] and _one_place(row, other, outlines) for other in kept)
    ]
    return sorted(kept, key=lambda row: (-sure[row], row))


def _agreement(iou: np.ndarray, same: np.ndarray, sure: np.ndarray) -> np.ndarray:
    """(N,) How far the others that bear its name agree with each box: their scores, by the root of the IoU."""
    votes = np.where(same, np.sqrt(iou), 0.0)
    np.fill_diagonal(votes, 0.0)
    return np.asarray(votes @ sure)


def _one_place(row: int, other: int, outlines: Outlines | None) -> bool:
    """Whether two regions whose boxes are about the same may be one thing: nobody knows, or their masks share pixels."""
    covered = None if outlines is None else outlines.covers(row, other)
    return covered is None or covered >= _COVERED
