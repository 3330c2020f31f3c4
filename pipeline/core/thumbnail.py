"""What of a picture has changed, told from small grey pictures: one each frame that may become a keyframe, made once."""

from __future__ import annotations

import numpy as np

WIDTH = 64
# A picture of one column is not blown up to thousands of rows.
_TALLEST = 8 * WIDTH
# Grey levels (of 255) by which a thumbnail pixel must move to count as changed: above the flicker of compression and
# automatic exposure. A guess.
_CHANGED_LEVELS = 12
# Standard deviation of grey levels below which there is nothing to see. The dullest picture of 17 clips has 9; noise of 40 levels
# in the dark leaves 1.7 of a small picture once it is smoothed.
_LEAST_CONTRAST = 2.5
_NOISE_SIZE = 1.0


def thumbnail_size(width: int, height: int) -> tuple[int, int]:
    """(width, height) of the thumbnail of a picture of that size."""
    return WIDTH, min(_TALLEST, max(1, round(height * WIDTH / width)))


def small_size(width: int, height: int, side: int) -> tuple[int, int]:
    """(width, height) of a picture of that shape whose longer side has `side` pixels."""
    longer = max(width, height)
    return max(1, round(width * side / longer)), max(1, round(height * side / longer))


def thumbnail_of(grey: np.ndarray) -> np.ndarray:
    """A small picture of (H, W) uint8 `grey`, (h, 64) uint8, area-averaged: enough to tell whether something moved."""
    size = thumbnail_size(grey.shape[1], grey.shape[0])
    if (grey.shape[1], grey.shape[0]) == size:
        return grey
    import cv2  # whoever only reads settings does without

    return np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA))


def is_empty(thumbnail: np.ndarray, rgb: np.ndarray) -> bool:
    """Whether a picture shows nothing: black, white, a covered lens, noise in the dark.

    `thumbnail`: (h, w) uint8 grey. `rgb`: (H, W, 3) uint8, asked only where the greys are alike: red on green may be. A
    network finds things in such pictures all the same, and is sure of them.
    """
    if _contrast(thumbnail) >= _LEAST_CONTRAST:
        return False
    import cv2

    small = cv2.resize(rgb, thumbnail.shape[::-1], interpolation=cv2.INTER_AREA)
    return max(_contrast(small[..., channel]) for channel in range(3)) < _LEAST_CONTRAST


def _contrast(plane: np.ndarray) -> float:
    """Standard deviation of the levels of a small plane (h, w) uint8 without its noise."""
    import cv2

    return float(cv2.GaussianBlur(plane.astype(np.float32), (0, 0), _NOISE_SIZE).std())


def changed_places(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """(h, w) bool: where the grey level of thumbnail `after` has moved visibly. Of another size, all has changed."""
    if before.shape != after.shape:
        return np.ones(after.shape, bool)
    return np.asarray(np.abs(before.astype(np.int16) - after) > _CHANGED_LEVELS)
