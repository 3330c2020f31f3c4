"""Following points from frame to frame between two keyframes, where every frame is at hand: sparse optical flow."""

from __future__ import annotations

import numpy as np

from pipeline.core.motion import MotionField
from pipeline.core.thumbnail import changed_places
from pipeline.sources.picture import DecodedFrame

# Longer side in pixels of the grey picture that points are followed in, and the side of the cells of which each gets a
# point. Measured on ten DAVIS sequences, twelve frames on: boxes moved by the points in their mask overlap the truth by .67
# (IoU) at 192, 256 and 320 pixels alike; cost grows with the points.
_SIDE = 192
_CELL = 8
# Window and pyramid of Lucas and Kanade: windows of 11 to 21 do equally well there, and 11 costs half of 15; three
# halvings reach 40 pixels of 192 from frame to frame.
_WINDOW = (11, 11)
_LEVELS = 3
_STOP = (3, 10, 0.03)  # both criteria of cv2.TERM_CRITERIA: ten steps, or less than 0.03 pixels
# Least curvature of a point that can be told from its neighbours: below it (a clear sky) windows look alike everywhere.
_LEAST_TEXTURE = 1e-5
# Followed there and back, a point must come out where it began, in pixels: the usual check for what has been hidden.
_BACK = 1.0
# Frames closer than this are not followed one by one: at 60 frames a second every other.
_LEAST_STEP_NS = 25_000_000


class MotionFollower:
    """Points of the last keyframe on their way through the frames behind it.

    For each frame in stream order one of `passes` and `keyframe`; `forget` where the next frame does not go on from the
    last: a cut, a gap, another epoch.
    """

    def __init__(self) -> None:
        self._since = -1
        self._seeds: np.ndarray | None = None
        self._points = np.zeros((0, 2), np.float32)
        self._alive = np.zeros(0, np.int64)
        self._last: _Picture | None = None

    def forget(self) -> None:
        """Nobody knows how things moved from here on, until the next keyframe."""
        self._seeds = self._last = None

    def passes(self, frame: DecodedFrame) -> None:
        """A frame between two keyframes."""
        last = self._last
        if last is None or frame.held or frame.time.pts_ns - last.pts_ns < _LEAST_STEP_NS:
            return
        # A still scene costs nothing: what has not changed visibly since the last frame that was followed has not moved.
        if changed_places(last.thumbnail, frame.thumbnail()).any():
            self._step(_Picture(frame))

    def keyframe(self, frame: DecodedFrame) -> tuple[MotionField, ...]:
        """How things moved from the last keyframe to this one, one field, or none where that is not known."""
        now = _Picture(frame)
        fields: tuple[MotionField, ...] = ()
        if self._last is not None and self._seeds is not None:
            if not frame.held:
                self._step(now)
            fields = (self._field(now.grey.shape),)
        self._since, self._last = frame.index, now
        self._seeds = self._points = _corners(now.grey)
        self._alive = np.arange(len(self._seeds))
        return fields

    def _step(self, now: _Picture) -> None:
        """Follow the points that are left from the last picture to `now`."""
        assert self._last is not None
        before, after = self._last.grey, now.grey
        self._last = now
        if not len(self._points):
            return
        if before.shape != after.shape:
            self._points, self._alive = self._points[:0], self._alive[:0]
            return
        there, kept = _flow(before, after, self._points)
        back, kept_back = _flow(after, before, there)
        height, width = after.shape
        inside = ((there >= 0) & (there <= [width - 1, height - 1])).all(axis=1)
        good = kept & kept_back & inside & (np.abs(back - self._points) < _BACK).all(axis=1)
        self._points, self._alive = there[good], self._alive[good]

    def _field(self, shape: tuple[int, ...]) -> MotionField:
        assert self._seeds is not None
        # Pixel centres to shares of the picture: the tracker knows boxes in pixels of another size.
        scale = np.array([shape[1], shape[0]], np.float32)
        before = (self._seeds + 0.5) / scale
        after = before.copy()
        after[self._alive] = (self._points + 0.5) / scale
        found = np.zeros(len(before), bool)
        found[self._alive] = True
        return MotionField(self._since, before, after, found)


class _Picture:
    """What is kept of the last frame that was followed."""

    __slots__ = ("grey", "pts_ns", "thumbnail")

    def __init__(self, frame: DecodedFrame) -> None:
        self.grey = frame.grey(_SIDE)
        self.thumbnail = frame.thumbnail()
        self.pts_ns = frame.time.pts_ns


def _corners(grey: np.ndarray) -> np.ndarray:
    """The best point to follow of each cell of a picture (h, w) uint8: (N, 2) float32 xy, spread evenly.

    Taken over the whole picture the best corners crowd on its most textured part, and small things get none.
    """
    import cv2

    rows, columns = grey.shape[0] // _CELL, grey.shape[1] // _CELL
    if not rows or not columns:
        return np.zeros((0, 2), np.float32)
    strength = cv2.cornerMinEigenVal(grey, 3)[: rows * _CELL, : columns * _CELL]
    cells = strength.reshape(rows, _CELL, columns, _CELL).transpose(0, 2, 1, 3).reshape(rows * columns, -1)
    best = cells.argmax(axis=1)
    row, column = np.divmod(np.arange(rows * columns), columns)
    points = np.stack([column * _CELL + best % _CELL, row * _CELL + best // _CELL], axis=1)
    return points[cells.max(axis=1) > _LEAST_TEXTURE].astype(np.float32)


def _flow(before: np.ndarray, after: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where `points` (N, 2) of `before` are in `after`, and which of them were found (N,) bool."""
    import cv2

    moved, status, _ = cv2.calcOpticalFlowPyrLK(
        before, after, points, points.copy(), winSize=_WINDOW, maxLevel=_LEVELS, criteria=_STOP
    )
    return np.asarray(moved), status[:, 0] > 0
