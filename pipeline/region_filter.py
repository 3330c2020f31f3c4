"""Which masks are regions, and which are the same region twice."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from pipeline.motion import box_iou


def mask_statistics(logits: Tensor, offset: float) -> tuple[np.ndarray, np.ndarray]:
    """Of mask logits (N, h, w): area as a share of the picture, and stability, both (N,) float32.

    Stability (segment-anything): IoU of the masks at thresholds `+offset` and `-offset`; 0 for an empty mask.
    """
    area = (logits > 0).flatten(1).float().mean(1)
    strict = (logits > offset).flatten(1).float().sum(1)
    loose = (logits > -offset).flatten(1).float().sum(1)
    stability = strict / loose.clamp_min(1)
    return area.cpu().numpy(), stability.cpu().numpy()


def masks_to_boxes(masks: Tensor) -> np.ndarray:
    """Tight boxes (N, 4) float32 xyxy, in cells, of masks (N, h, w) bool; zeros for an empty mask."""
    boxes = np.zeros((len(masks), 4), np.float32)
    rows, columns = masks.any(dim=2).cpu().numpy(), masks.any(dim=1).cpu().numpy()
    for index in range(len(masks)):
        y, x = np.flatnonzero(rows[index]), np.flatnonzero(columns[index])
        if len(y) and len(x):
            boxes[index] = (x[0], y[0], x[-1] + 1, y[-1] + 1)
    return boxes


def distinct(masks: Tensor, rank: np.ndarray, same_iou: float, same_box_iou: float = 1.0) -> np.ndarray:
    """Indices of `masks` (N, h, w) bool that differ from every better-ranked one, best first.

    Two masks are the same region when their IoU exceeds `same_iou`, or that of their boxes `same_box_iou`.
    """
    if not len(masks):
        return np.zeros(0, np.int64)
    flat = masks.flatten(1).float()
    shared = flat @ flat.T
    area = flat.sum(1)
    iou = (shared / (area[:, None] + area[None] - shared).clamp_min(1)).cpu().numpy()
    boxes = masks_to_boxes(masks)
    same = (iou > same_iou) | (box_iou(boxes, boxes) > same_box_iou)
    kept: list[int] = []
    for index in np.argsort(-rank, kind="stable"):
        if not same[index, kept].any():
            kept.append(int(index))
    return np.array(kept, np.int64)
