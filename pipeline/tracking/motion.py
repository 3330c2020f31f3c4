"""Where a box will be: constant velocity with growing doubt."""

from __future__ import annotations

import cv2
import numpy as np

from pipeline.core.clock import NS

# Standard deviations as shares of the box's size: one measurement, and what a second may add to place and speed.
_MEASUREMENT = 0.04
_PLACE_PER_S = 0.15
_SPEED_PER_S = 0.6
_INITIAL_SPEED = 0.8


class BoxMotion:
    """A Kalman filter over (centre x, centre y, width, height) and their speeds, in pixels and seconds.

    Times are ns of stream time and need not be evenly spaced; noise scales with the size of the box.
    """

    def __init__(self, box: np.ndarray, time_ns: int) -> None:
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

    def restart(self, box: np.ndarray, time_ns: int) -> None:
        """Forget the past motion: the object was away and is now at `box`."""
        self.__init__(box, time_ns)  # type: ignore[misc]

    def _transition(self, time_ns: int) -> np.ndarray:
        matrix = np.eye(8)
        matrix[:4, 4:] = np.eye(4) * ((time_ns - self._time_ns) / NS)
        # Growing or shrinking rarely lasts; following it blindly turns boxes inside out.
        matrix[2:4, 6:] *= 0.5
        return matrix

    def _scale(self, share: float) -> np.ndarray:
        _, _, width, height = np.maximum(np.abs(self._filter.statePost[:4, 0]), 4.0)
        return share * np.array([width, height, width, height])


def _to_centre(box: np.ndarray) -> np.ndarray:
    x1, y1, x2, y2 = (float(value) for value in box)
    return np.array([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1])


def _to_corners(state: np.ndarray) -> np.ndarray:
    x, y, width, height = state
    width, height = max(width, 1.0), max(height, 1.0)
    return np.array([x - width / 2, y - height / 2, x + width / 2, y + height / 2], np.float32)
