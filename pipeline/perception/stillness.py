"""What stood still since it was looked at is what it was: a track by its own pixels, a picture by all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from pipeline.core.masks import decode_mask
from pipeline.core.regions import Expected, box_area, box_iou
from pipeline.perception.remembered import Remembered, TrackMemory, pixels_of

# How much pixels of a scene that stands differ: noise of four grey levels, once a camera's picture is reduced to the grey
# one here, and the breathing of compression leave two on average. A thing with any contrast that moves by a tenth of its
# size changes its outline by more, and more than so many of its pixels by more than so many levels.
_MEAN_LEVELS = 3.0
_LEVELS = 16
_SHARE = 0.01
# A picture is compared in cells of so many pixels a side: what is smaller than one is too small for a region.
_CELL = 8
_CELL_LEVELS = 5.0
# A picture that stands is looked at so often, at other points and in other windows each time; then it holds no more news.
_LOOKS = 6
# Tracks that were found together would be looked for together again: their turns are spread over half of the time.
_TURNS = 8
# A track whose box is expected elsewhere (IoU) has moved, whatever the pixels there say. A guess.
_STAYED = 0.8


def stood_still(then: np.ndarray, now: np.ndarray) -> bool:
    """Whether two small grey pictures (h, w) uint8 of one place show the same."""
    if then.shape != now.shape:
        return False
    apart = cv2.absdiff(then, now)
    return bool(apart.mean() <= _MEAN_LEVELS and (apart > _LEVELS).mean() <= _SHARE)


def same_picture(then: np.ndarray, now: np.ndarray) -> bool:
    """Whether two grey pictures (h, w) uint8 show the same everywhere, down to things of a few pixels."""
    if then.shape != now.shape:
        return False
    size = (max(1, then.shape[1] // _CELL), max(1, then.shape[0] // _CELL))
    # Signed, so that noise cancels out within a cell and a thing that came does not.
    apart = np.abs(cv2.resize(now.astype(np.float32) - then, size, interpolation=cv2.INTER_AREA))
    return bool(apart.max() <= _CELL_LEVELS)


def is_due(key: int, age_ns: int, still_ns: int) -> bool:
    """Whether a track that stands is to be looked at again `age_ns` after its last look; a clock that went back says yes."""
    turn = 0.5 + 0.5 * (key % _TURNS + 1) / _TURNS
    return not 0 <= age_ns < turn * still_ns


@dataclass(slots=True)
class StillPicture:
    """How often the picture that a stream shows now was looked at.

    `grey`: how it looked then, `looked_ns`: and when. `looks`: how often since it changed.
    """

    grey: np.ndarray | None = None
    looked_ns: int = 0
    looks: int = 0

    def needs_look(self, grey: np.ndarray, wall_ns: int, still_ns: int) -> bool:
        """Whether there may be news in a picture, (h, w) uint8 grey; wall clock in ns UTC."""
        if self.grey is None or not same_picture(self.grey, grey):
            self.looks = 0
            return True
        return self.looks < _LOOKS or not 0 <= wall_ns - self.looked_ns < still_ns

    def looked(self, grey: np.ndarray, wall_ns: int) -> None:
        """It was looked at now."""
        if self.grey is None or self.looks == 0:
            # What creeps, as daylight does, is compared with what was there when the looks began.
            self.grey = grey
        self.looked_ns = wall_ns
        self.looks += 1


@dataclass(frozen=True, slots=True)
class Standing:
    """Tracks that stand where they were looked at last, by their keys, and what is known of each."""

    keys: tuple[int, ...] = ()
    known: tuple[Remembered, ...] = ()

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def boxes(self) -> np.ndarray:
        """(N, 4) float32 xyxy pixels of the picture."""
        return np.array([one.box for one in self.known], np.float32).reshape(-1, 4)

    def keep(self, rows: Sequence[int]) -> Standing:
        return Standing(tuple(self.keys[row] for row in rows), tuple(self.known[row] for row in rows))

    def cover(self, covered: np.ndarray, hidden: np.ndarray, large: float, picture: tuple[int, int]) -> None:
        """Mark their masks in small pictures (h, w) bool, in place: `hidden` where they take more than a share `large`."""
        rows, columns = covered.shape
        for one, box in zip(self.known, self.boxes, strict=True):
            small = covered if box_area(box[None])[0] <= large * picture[0] * picture[1] else hidden
            if one.mask is not None:
                mask = decode_mask(one.mask).astype(np.uint8)
                small |= cv2.resize(mask, (columns, rows), interpolation=cv2.INTER_NEAREST).astype(bool)


def standing(expected: Expected, memory: TrackMemory, grey: np.ndarray, picture: tuple[int, int]) -> Standing:
    """Of the tracks that are expected in a picture of size (H, W), those that stand where the model saw them last.

    `grey`: the picture as `grey_of` makes it.
    """
    scale = np.array([*grey.shape[::-1]] * 2) / np.array([*picture[::-1]] * 2)
    found: list[tuple[int, Remembered]] = []
    for key, box in zip(expected.keys, expected.boxes, strict=True):
        known = memory.get(key)
        # The tracker, who follows points through the pictures in between, must not have seen it go either.
        if known is None or known.pixels is None or box_iou(box[None], known.box[None])[0, 0] < _STAYED:
            continue
        now = pixels_of(grey, known.box * scale)
        if now is not None and stood_still(known.pixels, now):
            found.append((key, known))
    if not found:
        return Standing()
    return Standing(tuple(key for key, _ in found), tuple(known for _, known in found))
