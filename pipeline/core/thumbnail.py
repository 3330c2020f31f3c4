"""What of a picture has changed, told from small grey pictures: one each frame that may become a keyframe, made once."""

from __future__ import annotations

import cv2
import numpy as np

WIDTH = 64
# Grey levels (of 255) by which a thumbnail pixel must move to count as changed: above the flicker of compression and
# automatic exposure. A guess.
_CHANGED_LEVELS = 12


def thumbnail_of(grey: np.ndarray) -> np.ndarray:
    """A small picture of (H, W) uint8 `grey`, (h, 64) uint8, area-averaged: enough to tell whether something moved."""
    height = max(1, round(grey.shape[0] * WIDTH / grey.shape[1]))
    return np.asarray(cv2.resize(grey, (WIDTH, height), interpolation=cv2.INTER_AREA))


def changed_places(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """(h, w) bool: where the grey level of thumbnail `after` has moved visibly. Of another size, all has changed."""
    if before.shape != after.shape:
        return np.ones(after.shape, bool)
    return np.asarray(np.abs(before.astype(np.int16) - after) > _CHANGED_LEVELS)
