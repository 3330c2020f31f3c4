"""Where a box will be: constant velocity with growing doubt."""

from __future__ import annotations

import numpy as np

from pipeline.core.clock import NS

# Standard deviations as shares of the box's size, guessed from how masks and things behave at a keyframe or two a
# second; what matters is their order. Of one measured side: masks of one thing flicker by a few per cent.
_MEASUREMENT = 0.04
# What a second may add to the place beyond what the speed explains, and to the speed: people start and stop within one.
_PLACE_PER_S = 0.15
_SPEED_PER_S = 0.6
# Of a speed that nobody has seen yet: most things cross less than their own size in a second.
_INITIAL_SPEED = 0.8
# Below this many pixels a side, the noise no longer shrinks with the box: edges are no surer than a few pixels.
_LEAST_SIDE = 4.0
# How much of a change of size goes on: growing or shrinking rarely lasts, and following it blindly turns boxes inside
# out. A guess between none and all.
_GROWTH_KEPT = 0.5


class BoxMotion:
    """A Kalman filter over (centre x, centre y, width, height) and their speeds, in pixels and seconds.

    Times are ns of stream time and need not be evenly spaced; noise scales with the size of the box.
    """

    def __init__(self, box: np.ndarray, time_ns: int) -> None:
        self.restart(box, time_ns)

    def restart(self, box: np.ndarray, time_ns: int) -> None:
        """Forget the past motion: the object is at `box` (4,) xyxy at `time_ns`, and its speed is unknown."""
        import cv2  # whoever only reads settings does without

        self._filter = cv2.KalmanFilter(8, 4, 0, cv2.CV_64F)
        self._filter.measurementMatrix = np.eye(4, 8)
        state = np.zeros((8, 1))
        state[:4, 0] = _to_centre(box)
        self._filter.statePost = state
        place, speed = self._scale(_MEASUREMENT), self._scale(_INITIAL_SPEED)
        self._filter.errorCovPost = np.diag(np.concatenate([place, speed]) ** 2)
        self._time_ns = time_ns

    def predict(self, time_ns: int) -> np.ndarray:
        """The expected box at `time_ns`, (4,) xyxy; the filter itself does not move."""
        transition = self._transition(time_ns)
        return _to_corners((transition @ self._filter.statePost)[:4, 0])

    def correct(self, box: np.ndarray, time_ns: int) -> None:
        """Move the filter to `time_ns` and take the measured `box` (4,) xyxy in."""
        # Doubt grows like a random walk, with the root of the time since the last measurement; a moment is added so
        # that two measurements at one time do not make the filter certain.
        seconds = max(0.0, (time_ns - self._time_ns) / NS)
        self._filter.transitionMatrix = self._transition(time_ns)
        doubt = np.concatenate([self._scale(_PLACE_PER_S), self._scale(_SPEED_PER_S)]) * np.sqrt(
            seconds + 1e-3
        )
        self._filter.processNoiseCov = np.diag(doubt**2)
        self._filter.measurementNoiseCov = np.diag(self._scale(_MEASUREMENT) ** 2)
        self._filter.predict()
        self._filter.correct(_to_centre(box).reshape(4, 1))
        self._time_ns = time_ns

    def _transition(self, time_ns: int) -> np.ndarray:
        matrix = np.eye(8)
        matrix[:4, 4:] = np.eye(4) * ((time_ns - self._time_ns) / NS)
        matrix[2:4, 6:] *= _GROWTH_KEPT
        return matrix

    def _scale(self, share: float) -> np.ndarray:
        _, _, width, height = np.maximum(np.abs(self._filter.statePost[:4, 0]), _LEAST_SIDE)
        return share * np.array([width, height, width, height])


def _to_centre(box: np.ndarray) -> np.ndarray:
    x1, y1, x2, y2 = (float(value) for value in box)
    return np.array([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1])


def _to_corners(state: np.ndarray) -> np.ndarray:
    x, y, width, height = state
    width, height = max(width, 1.0), max(height, 1.0)
    return np.array([x - width / 2, y - height / 2, x + width / 2, y + height / 2], np.float32)
