"""Windows of a picture that are looked at by themselves, larger than the whole picture shows them, and which are due."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.core.regions import box_area

# Each window is this share of either side; four of them overlap by a third, so that what is cut by one is whole in another.
_SHARE = 0.6
# A box that comes this near to a window's inner border (share of its side) goes on behind it.
_BORDER = 0.01
# What makes a window urgent, beside the keyframes since it was looked at. Guesses that only have to keep an order: what
# changed or moves may be something new, what is small is seen nowhere else, what was cut is waiting to be seen whole.
_CHANGED_WEIGHT = 4.0
_MOVING_WEIGHT = 1.0
_SMALL_WEIGHT = 0.2
_CUT_WEIGHT = 0.1


@dataclass(frozen=True, slots=True)
class Window:
    """A part of a picture in its pixels, xyxy."""

    x0: int
    y0: int
    x1: int
    y1: int

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.y1 - self.y0, self.x1 - self.x0

    @property
    def corner(self) -> np.ndarray:
        """(4,) float32: what is added to xyxy pixels of the window to make them pixels of the picture."""
        return np.array([self.x0, self.y0, self.x0, self.y0], np.float32)

    def crop(self, rgb: np.ndarray) -> np.ndarray:
        """Its part of (H, W, 3), contiguous."""
        return np.ascontiguousarray(rgb[self.y0 : self.y1, self.x0 : self.x1])

    def part(self, small: np.ndarray, picture: tuple[int, int]) -> np.ndarray:
        """Its part of a `small` picture (h, w) of a picture of size (H, W): a row and a column at least."""
        rows, columns = small.shape
        y0, x0 = int(self.y0 * rows / picture[0]), int(self.x0 * columns / picture[1])
        y1, x1 = round(self.y1 * rows / picture[0]), round(self.x1 * columns / picture[1])
        return small[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)]

    def cuts(self, boxes: np.ndarray, picture: tuple[int, int]) -> np.ndarray:
        """Which boxes (N, 4) xyxy pixels of a picture of size (H, W) its inner borders cut, (N,) bool.

        A border that is the picture's own cuts nothing.
        """
        height, width = picture
        margin_y, margin_x = (_BORDER * side for side in self.size)
        return np.asarray(
            ((boxes[:, 0] < self.x0 + margin_x) & (self.x0 > 0))
            | ((boxes[:, 1] < self.y0 + margin_y) & (self.y0 > 0))
            | ((boxes[:, 2] > self.x1 - margin_x) & (self.x1 < width))
            | ((boxes[:, 3] > self.y1 - margin_y) & (self.y1 < height))
        )

    def holds(self, boxes: np.ndarray, picture: tuple[int, int]) -> np.ndarray:
        """Which boxes (N, 4) it shows whole, (N,) bool."""
        return ~self.cuts(boxes, picture)


def whole_of(picture: tuple[int, int]) -> Window:
    """The window that is all of a picture of (height, width)."""
    return Window(0, 0, picture[1], picture[0])


def windows_of(picture: tuple[int, int]) -> tuple[Window, ...]:
    """Four overlapping windows of a picture of (height, width), row by row; none of a picture too small for them."""
    height, width = picture
    high, wide = round(_SHARE * height), round(_SHARE * width)
    if min(high, wide) < 2 or (high, wide) == (height, width):
        return ()
    corners = ((x, y) for y in (0, height - high) for x in (0, width - wide))
    return tuple(Window(x, y, x + wide, y + high) for x, y in corners)


@dataclass(frozen=True, slots=True)
class Needs:
    """Why windows may be due, one value a window, (V,).

    `age`: keyframes since each was looked at. `changed`: share of it that has changed since the last keyframe. `moving`:
    things in it that move and belong to no track. `small`: tracks in it that the whole picture hardly shows. `cut`:
    regions that another window's border cut and that it would show whole.
    """

    age: np.ndarray
    changed: np.ndarray
    moving: np.ndarray
    small: np.ndarray
    cut: np.ndarray

    def urgency(self) -> np.ndarray:
        """(V,) how much each is due: the longer ago the more, so that any window's turn comes."""
        interest = (
            1.0
            + _CHANGED_WEIGHT * self.changed
            + _MOVING_WEIGHT * np.minimum(self.moving, 4)
            + _SMALL_WEIGHT * np.minimum(self.small, 10)
            + _CUT_WEIGHT * np.minimum(self.cut, 10)
        )
        return np.asarray(self.age * interest)


def choose_views(needs: Needs, count: int) -> list[int]:
    """Indices of the `count` windows that are most due, in order of place."""
    return sorted(np.argsort(-needs.urgency(), kind="stable")[:count].tolist())


class ViewSchedule:
    """When each window of one stream's pictures was looked at, and what its borders cut then."""

    def __init__(self) -> None:
        self._windows: tuple[Window, ...] = ()
        self._age = np.zeros(0)
        self._cut = np.zeros((0, 4), np.float32)
        self._size = (0, 0)
        self._first = True

    def due(
        self,
        picture: tuple[int, int],
        count: int,
        changed: np.ndarray,
        moving: np.ndarray,
        tracks: np.ndarray,
    ) -> list[tuple[int, Window]]:
        """The windows to look at in this keyframe with their numbers: all in the first of a scene, else `count`.

        `changed` (h, w): 0..1 over the picture. `moving` (N, 4) and small `tracks` (M, 4): boxes xyxy pixels.
        """
        if picture != self._size:
            self._size, self._windows, self._first = picture, windows_of(picture), True
            self._age = np.ones(len(self._windows))
            self._cut = np.zeros((0, 4), np.float32)
        if not self._windows or count <= 0:
            return []
        needs = Needs(
            self._age,
            np.array([window.part(changed, picture).mean() for window in self._windows]),
            self._held(moving),
            self._held(tracks),
            self._held(self._cut),
        )
        most = len(self._windows)
        chosen = choose_views(needs, most if self._first else min(count, most))
        self._age += 1
        self._age[chosen] = 1
        self._first = False
        return [(index, self._windows[index]) for index in chosen]

    @property
    def picture(self) -> tuple[int, int]:
        """(height, width) of the last picture."""
        return self._size

    def note_cut(self, boxes: np.ndarray) -> None:
        """Boxes (N, 4) xyxy pixels that borders have cut in this keyframe."""
        self._cut = boxes

    def new_scene(self) -> None:
        """Everything may be different now: the next keyframe is looked at like a first one."""
        self._first = True

    def _held(self, boxes: np.ndarray) -> np.ndarray:
        return np.array([float(window.holds(boxes, self._size).sum()) for window in self._windows])


# In which of the views that are looked at a known thing is looked for.

# Above this share of the picture a thing is large enough in the whole picture, and steadier there: a guess.
_LARGE = 0.12
# Below it (the same as an input of 320 pixels with some 25 of them a side) the whole picture hardly shows it: of things
# under 1 % of the picture the whole picture found none, windows two in five.
SMALL = 0.01


def view_for(boxes: np.ndarray, views: list[Window], picture: tuple[int, int]) -> np.ndarray:
    """Index of the view to look in for each box (N, 4) xyxy pixels, (N,) int; -1: in none of them can it be seen.

    `views`: the first is the whole picture. What is large is looked for there, what is not in a window that shows it
    whole; what is small and in no window that is looked at now, nowhere.
    """
    share = box_area(boxes) / float(picture[0] * picture[1])
    found = np.where(share < SMALL, -1, 0)
    for index, window in enumerate(views[1:], 1):
        found = np.where((share < _LARGE) & window.holds(boxes, picture), index, found)
    return np.asarray(found)
