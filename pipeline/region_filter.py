"""Which masks are regions, and which are the same region twice."""

from __future__ import annotations

import numpy as np
from torch import Tensor


def mask_statistics(logits: Tensor, offset: float) -> tuple[np.ndarray, np.ndarray]:
    """Of mask logits (N, h, w): area as a share of the picture, and stability, both (N,) float32.

    Stability (segment-anything): IoU of the masks at thresholds `+offset` and `-offset`; 0 for an empty mask.
    """
    area = (logits > 0).flatten(1).float().mean(1)
    strict = (logits > offset).flatten(1).float().sum(1)
    loose = (logits > -offset).flatten(1).float().sum(1)
    stability = strict / loose.clamp_min(1)
    return area.cpu().numpy(), stability.cpu().numpy()


def distinct(masks: Tensor, rank: np.ndarray, same_iou: float) -> np.ndarray:
    """Indices of `masks` (N, h, w) bool that differ from every better-ranked one, best first.

    Two masks are the same region when their IoU exceeds `same_iou`.
    """
    if not len(masks):
        return np.zeros(0, np.int64)
    flat = masks.flatten(1).float()
    shared = flat @ flat.T
    area = flat.sum(1)
    iou = (shared / (area[:, None] + area[None] - shared).clamp_min(1)).cpu().numpy()
    kept: list[int] = []
    for index in np.argsort(-rank, kind="stable"):
        if not kept or iou[index, kept].max() <= same_iou:
            kept.append(int(index))
    return np.array(kept, np.int64)
