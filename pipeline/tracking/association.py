"""Which detection continues which track: a pure decision."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydantic import Field

from pipeline.core.masks import RleMask
from pipeline.core.options import Options
from pipeline.core.regions import box_area, box_iou

# The affinity of a pair is its overlap (0..1) plus these. Guesses that only have to keep an order: looks may turn a
# tie of overlaps, never an overlap that is clear; that the track's own prompt found the region counts for less than
# the same looks do.
_FEATURE_WEIGHT = 0.5
_PROMPTED_BONUS = 0.3
# Boxes that hardly touch may still be one thing: least IoU with the predicted box. A guess.
_MIN_OVERLAP = 0.1
# A track whose points were followed is where they are: what overlaps that place by less (IoU) is a part of it, or what
# stands beside it. What a region must have of a thing to be called its own in the annotated pictures.
_FOLLOWED_OVERLAP = 0.4
# And so may boxes that do not touch: centres at most this many box sizes apart. Seen, not fitted:
# at 0.8, small fast things were lost, which move by more than their size between two keyframes.
_MAX_DISTANCE = 1.5
# Largest ratio of areas, either way, between two sightings of one thing: twice as near or as far. A guess.
_MAX_GROWTH = 4.0
# What makes a pair sure: IoU of the region that a track's own prompt found with where the track was expected, and IoU that
# the model expects of the mask. Middles, not fitted.
_SURE_OVERLAP = 0.5
_SURE_SCORE = 0.5


class AssociationOptions(Options):
    """How alike two regions must look to be one thing. Similarities are cosines of the model's region features."""

    min_similarity: float = Field(
        default=0.4, ge=-1, le=1, description="a region that looks less like a track never continues it"
    )
    reentry_similarity: float = Field(
        default=0.8,
        ge=-1,
        le=1,
        description="a track that was away is recognised by looks from here on, wherever it comes back",
    )


@dataclass(frozen=True, slots=True)
class Candidates:
    """N boxes xyxy pixels (N, 4) with their L2-normalised features (N, D).

    Of detections also, where whoever found them tells: `scores` (N,) float32, how sure the model is of each mask, and
    `masks`, None where only the box is known.
    """

    boxes: np.ndarray
    features: np.ndarray
    scores: np.ndarray | None = None
    masks: tuple[RleMask | None, ...] | None = None

    def __len__(self) -> int:
        return len(self.boxes)


def associate(
    tracks: Candidates,
    detections: Candidates,
    prompted_by: np.ndarray,
    options: AssociationOptions,
    followed: np.ndarray | None = None,
) -> list[tuple[int, int]]:
    """Pairs (track, detection), each used once: the sure ones, then those of the greatest total affinity that may match.

    `tracks.boxes` are predictions for this moment; `prompted_by` (M,) holds the track that prompted each detection,
    -1 for none; `followed` (N,) bool, tracks whose own points were followed there. A pair may match when features agree,
    areas are comparable, and boxes overlap or lie close: clearly overlap, where the track was followed.
    """
    if not len(tracks) or not len(detections):
        return []
    # How well each pair fits: where the track was expected, how it looked, and whose prompt found the region. The
    # prompt alone decides nothing: a track that is hidden finds what hides it.
    overlap = box_iou(tracks.boxes, detections.boxes)
    similarity = tracks.features @ detections.features.T
    prompted = prompted_by[None, :] == np.arange(len(tracks))[:, None]
    affinity = overlap + _FEATURE_WEIGHT * similarity + _PROMPTED_BONUS * prompted
    # Which pairs are possible at all: near the expected place, alike, and of comparable size. Each alone errs (things
    # cross, look alike, change shape), so all three must agree.
    near = (overlap >= _MIN_OVERLAP) | (_distance(tracks.boxes, detections.boxes) <= _MAX_DISTANCE)
    if followed is not None:
        near = np.where(followed[:, None], overlap >= _FOLLOWED_OVERLAP, near)
    allowed = near & (similarity >= options.min_similarity) & _comparable(tracks, detections)
    # First what is sure: found by the track's own prompt, where it was expected, by a mask that the model trusts. One
    # assignment over everything would give it away wherever that lets two doubtful pairs come about.
    sure = allowed & prompted & (overlap >= _SURE_OVERLAP)
    if detections.scores is not None:
        sure &= detections.scores[None] >= _SURE_SCORE
    pairs = _assign(affinity, sure)
    # Then the rest, in one best assignment, so that no early choice takes a later track's only match.
    for row, column in pairs:
        allowed[row], allowed[:, column] = False, False
    return pairs + _assign(affinity, allowed)


def recognise(
    dormant: Candidates, detections: Candidates, options: AssociationOptions
) -> list[tuple[int, int]]:
    """Pairs (dormant track, detection) that look alike enough to be the same thing come back, wherever it is.

    `dormant.boxes`: where each was last seen; only their size counts.
    """
    if not len(dormant) or not len(detections):
        return []
    # Looks decide alone here, so they must agree much better than where the place speaks as well.
    similarity = dormant.features @ detections.features.T
    allowed = (similarity >= options.reentry_similarity) & _comparable(dormant, detections)
    return _assign(similarity, allowed)


def _assign(affinity: np.ndarray, allowed: np.ndarray) -> list[tuple[int, int]]:
    import lap  # whoever only reads settings does without; scipy's solver takes a second of a processor to import

    # The solver must assign something to every row: a forbidden pair costs more than all allowed ones together can
    # save, so it is taken only where a row has nothing else, and is dropped afterwards.
    forbidden = 1e3 + np.abs(affinity).max() * len(affinity)
    _, column_of, _ = lap.lapjv(np.where(allowed, -affinity, forbidden).astype(np.float64), extend_cost=True)
    return [(row, int(c)) for row, c in enumerate(column_of) if c >= 0 and allowed[row, c]]


def _distance(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Distance of centres (N, M) in units of the first box's size (root of its area), so that it holds for near and far."""
    centres = [(boxes[:, :2] + boxes[:, 2:]) / 2 for boxes in (first, second)]
    size = np.sqrt(np.maximum(box_area(first), 1.0))
    return np.linalg.norm(centres[0][:, None] - centres[1][None], axis=-1) / size[:, None]


def _comparable(first: Candidates, second: Candidates) -> np.ndarray:
    """Whether the areas of each pair (N, M) allow that both are one thing; below a pixel all are alike."""
    ratio = np.maximum(box_area(first.boxes), 1.0)[:, None] / np.maximum(box_area(second.boxes), 1.0)[None]
    return (ratio <= _MAX_GROWTH) & (ratio >= 1 / _MAX_GROWTH)
