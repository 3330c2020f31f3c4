"""Binary masks as COCO run lengths."""

from __future__ import annotations

import numpy as np
from pycocotools import mask as coco

from pipeline.regions import RleMask


def encode_masks(masks: np.ndarray, size: tuple[int, int]) -> tuple[tuple[RleMask, ...], np.ndarray]:
    """Bool masks (N, H, W) of a picture of `size` (H, W) to run lengths and tight boxes (N, 4) float32 xyxy pixels."""
    if not len(masks):
        return (), np.zeros((0, 4), np.float32)
    assert masks.shape[1:] == size
    codes = [coco.encode(np.asfortranarray(mask.view(np.uint8))) for mask in masks]
    boxes = np.asarray(coco.toBbox(codes), np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return tuple(RleMask(size, code["counts"]) for code in codes), boxes


def decode_mask(mask: RleMask) -> np.ndarray:
    """Run lengths to a bool mask (H, W)."""
    return np.asarray(coco.decode({"size": list(mask.size), "counts": mask.counts}), bool)
