"""Which detection continues which track: a pure decision."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydantic import Field
from scipy.optimize import linear_sum_assignment

from pipeline.core.options import Options
from pipeline.core.regions import box_area, box_iou


class AssociationOptions(Options):
    """When a detection may continue a track. Similarities are cosines of region features."""

    feature_weight: float = Field(default=0.5, ge=0)
    prompted_bonus: float = Field(default=0.3, ge=0, description="added when the track's own prompt found it")
    min_similarity: float = Field(default=0.4, ge=-1, le=1)
    min_overlap: float = Field(default=0.1, ge=0, le=1, description="least IoU with the predicted box")
    max_distance: float = Field(
        default=1.5, ge=0, description="or: centres this many box sizes apart at most"
    )
    max_growth: float = Field(default=4.0, ge=1, description="largest ratio of areas, either way")
    reentry_similarity: float = Field(default=0.8, ge=-1, le=1)


@dataclass(frozen=True, slots=True)
class Candidates:
    """N boxes xyxy pixels (N, 4) with their L2-normalised features (N, D)."""

    boxes: np.ndarray
    features: np.ndarray

    def __len__(self) -> int:
        return len(self.boxes)


def associate(
    tracks: Candidates, detections: Candidates, prompted_by: np.ndarray, options: AssociationOptions
) -> list[tuple[int, int]]:
    """Pairs (track, detection), each used once, of the greatest total affinity among the pairs that may match.

    `tracks.boxes` are predictions for this moment; `prompted_by` (M,) holds the track that prompted each detection,
    -1 for none. A pair may match when features agree, areas are comparable, and boxes overlap or lie close.
    """
    if not len(tracks) or not len(detections):
        return []
    overlap = box_iou(tracks.boxes, detections.boxes)
    similarity = tracks.features @ detections.features.T
    prompted = prompted_by[None, :] == np.arange(len(tracks))[:, None]
    affinity = overlap + options.feature_weight * similarity + options.prompted_bonus * prompted
    near = (overlap >= options.min_overlap) | (
        _distance(tracks.boxes, detections.boxes) <= options.max_distance
    )
    allowed = (
        near & (similarity >= options.min_similarity) & _comparable(tracks, detections, options.max_growth)
    )
    return _assign(affinity, allowed)


def recognise(
    dormant: Candidates, detections: Candidates, options: AssociationOptions
) -> list[tuple[int, int]]:
    """Pairs (dormant track, detection) that look alike enough to be the same thing come back, wherever it is."""
    if not len(dormant) or not len(detections):
        return []
    similarity = dormant.features @ detections.features.T
    allowed = (similarity >= options.reentry_similarity) & _comparable(
        dormant, detections, options.max_growth
    )
    return _assign(similarity, allowed)


def _assign(affinity: np.ndarray, allowed: np.ndarray) -> list[tuple[int, int]]:
    # A forbidden pair costs more than leaving every other pair unmatched can save.
    forbidden = 1e3 + np.abs(affinity).max() * len(affinity)
    rows, columns = linear_sum_assignment(np.where(allowed, -affinity, forbidden))
    return [(int(r), int(c)) for r, c in zip(rows, columns, strict=True) if allowed[r, c]]


def _distance(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Distance of centres in units of the first box's geometric size."""
    centres = [(boxes[:, :2] + boxes[:, 2:]) / 2 for boxes in (first, second)]
    size = np.sqrt(np.maximum(box_area(first), 1.0))
    return np.linalg.norm(centres[0][:, None] - centres[1][None], axis=-1) / size[:, None]


def _comparable(first: Candidates, second: Candidates, growth: float) -> np.ndarray:
    ratio = np.maximum(box_area(first.boxes), 1.0)[:, None] / np.maximum(box_area(second.boxes), 1.0)[None]
    return (ratio <= growth) & (ratio >= 1 / growth)
