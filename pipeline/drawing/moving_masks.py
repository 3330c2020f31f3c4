"""A mask seen in one keyframe, moved and stretched with its box to where the thing is in the frames between."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from pipeline.core.masks import RleMask, decode_mask

# Decoded masks that are kept for the frames to come: two of each thing that is drawn.
_KEPT = 128
# Cells by which a mask may reach past its box: it is on a coarser grid than that, and a thin thing has a whole cell.
_MARGIN = 1.0

Box = tuple[float, ...]


@dataclass(frozen=True, slots=True, eq=False)
class PlacedMask:
    """A mask in a part of a picture. `inside`: (h, w) bool pixels; its first is pixel (`left`, `top`) of the picture."""

    left: int
    top: int
    inside: np.ndarray

    def shared_with(self, other: PlacedMask) -> int:
        """Pixels that lie in both."""
        top, left = max(self.top, other.top), max(self.left, other.left)
        parts = [mask.inside[top - mask.top :, left - mask.left :] for mask in (self, other)]
        height, width = (min(part.shape[axis] for part in parts) for axis in (0, 1))
        return int((parts[0][:height, :width] & parts[1][:height, :width]).sum())


@dataclass(frozen=True, slots=True)
class SeenMask:
    """A mask and the box xyxy pixels that it was seen with. `weight`: how much it says of the moment that is drawn, 0..1."""

    mask: RleMask
    box: Box
    weight: float = 1.0


def whole_mask(pixels: np.ndarray) -> PlacedMask:
    """A mask (H, W) bool of a whole picture."""
    return PlacedMask(0, 0, pixels)


def moved(seen: tuple[SeenMask, ...], box: Box, size: tuple[int, int]) -> PlacedMask | None:
    """What is inside at a moment between the ones in which `seen` (weights sum to 1) was seen, when the box is `box`.

    `size`: (H, W) of the picture. Each mask goes with its box, and where they differ the heavier one holds: from keyframe to keyframe one
    outline becomes the other. None where nothing is left. Raises `MaskMalformed`.
    """
    height, width = size
    cell = max(max(size) / max(each.mask.size) for each in seen) * _MARGIN
    x1, y1, x2, y2 = box
    left, top = max(0, int(np.floor(x1 - cell))), max(0, int(np.floor(y1 - cell)))
    right, bottom = min(width, int(np.ceil(x2 + cell))), min(height, int(np.ceil(y2 + cell)))
    if right <= left or bottom <= top or x2 <= x1 or y2 <= y1:
        return None
    share = sum(each.weight * _warped(each, box, size, (left, top, right, bottom)) for each in seen)
    inside = np.asarray(share) >= 0.5
    if not inside.any():  # two thin outlines that do not meet: the nearer one
        nearest = max(seen, key=lambda each: each.weight)
        whole = _warped(nearest, box, size, (left, top, right, bottom))
        # Of a thing smaller than half a cell, where most of it is.
        inside = whole >= min(0.5, max(float(whole.max()), 1e-6))
    return PlacedMask(left, top, inside) if inside.any() else None


def _warped(seen: SeenMask, box: Box, size: tuple[int, int], part: tuple[int, int, int, int]) -> np.ndarray:
    """The mask in pixels of `part` (left, top, right, bottom), (h, w) float32 0..1, when its box is `box`."""
    import cv2

    cells = _cells(seen.mask)
    left, top, right, bottom = part
    grid = np.array([cells.shape[1], cells.shape[0]]) / np.array([size[1], size[0]])
    was, now = np.array(seen.box, float), np.array(box, float)
    # From the middle of a pixel, to its place in the box, to the same place in the box that it was seen with, to cells.
    scale = (was[2:] - was[:2]) / (now[2:] - now[:2])
    shift = ((np.array([left, top]) + 0.5 - now[:2]) * scale + was[:2]) * grid - 0.5
    matrix = np.array([[scale[0] * grid[0], 0, shift[0]], [0, scale[1] * grid[1], shift[1]]])
    warped = cv2.warpAffine(
        cells,
        matrix,
        (right - left, bottom - top),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,  # what touches the picture's edge goes on behind it
    )
    return np.asarray(warped)


@lru_cache(maxsize=_KEPT)
def _cells(mask: RleMask) -> np.ndarray:
    return decode_mask(mask).astype(np.float32)
