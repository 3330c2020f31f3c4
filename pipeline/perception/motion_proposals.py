"""Boxes around what moves in front of a still background."""

from __future__ import annotations

from collections import deque

import cv2
import numpy as np

# All of these are guesses. The width at which motion is looked for (in the gate's thumbnail small things would be single
# pixels, so this is a finer picture of its own), and how many past
# keyframes make up the background: enough that a passer-by is in less than half of them.
_WIDTH = 320
_HISTORY = 12
_LEAST_HISTORY = 2
# Grey levels (of 255) from the background that count as motion: above noise and compression at night.
_LEVELS = 22
# A larger moving share means that the camera moves.
_CAMERA_MOVES = 0.3
# Smaller parts (pixels at that width) are leaves and noise.
_LEAST_PIXELS = 40
_LEAST_SIDE = 5


class MotionProposals:
    """Proposes boxes where a keyframe differs from the median of the last keyframes.

    Nothing is proposed while the camera moves, or before there is any past. Objects that stand still for long become
    background, which is fine: the tracks that hold them live on.
    """

    def __init__(self) -> None:
        self._past: deque[np.ndarray] = deque(maxlen=_HISTORY)

    def propose(self, rgb: np.ndarray) -> np.ndarray:
        """Boxes (N, 4) float32 xyxy pixels of (H, W, 3) uint8 `rgb`, largest first; then `rgb` joins the past."""
        height, width = rgb.shape[:2]
        size = (_WIDTH, max(1, round(height * _WIDTH / width)))
        small = cv2.cvtColor(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
        small = cv2.GaussianBlur(small, (3, 3), 0)
        if self._past and self._past[0].shape != small.shape:
            self._past.clear()
        boxes = np.zeros((0, 4), np.float32)
        if len(self._past) >= _LEAST_HISTORY:
            difference = small - np.median(np.stack(self._past), axis=0)
            # Cameras adapt their exposure: what all of the picture does is no motion.
            difference -= np.median(difference)
            boxes = moving_boxes(np.abs(difference) > _LEVELS) * np.float32(width / _WIDTH)
        self._past.append(small)
        return boxes.astype(np.float32)


def moving_boxes(moving: np.ndarray) -> np.ndarray:
    """Boxes (N, 4) xyxy around the connected parts of a bool picture, largest first; none when too much moves."""
    if moving.mean() > _CAMERA_MOVES:
        return np.zeros((0, 4), np.float32)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 7))
    closed = cv2.morphologyEx(moving.astype(np.uint8), cv2.MORPH_CLOSE, kernel)
    count, _, statistics, _ = cv2.connectedComponentsWithStats(closed, connectivity=8)
    parts = [
        part
        for part in statistics[1:count]
        if part[cv2.CC_STAT_AREA] >= _LEAST_PIXELS
        and min(part[cv2.CC_STAT_WIDTH], part[cv2.CC_STAT_HEIGHT]) >= _LEAST_SIDE
    ]
    parts.sort(key=lambda part: -int(part[cv2.CC_STAT_AREA]))
    corners = [(left, top, left + width, top + height) for left, top, width, height, _ in parts]
    return np.array(corners, np.float32).reshape(-1, 4)
