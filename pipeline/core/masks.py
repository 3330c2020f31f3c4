"""Masks of regions as run lengths of the whole displayed picture, on a grid of bounded size.

A mask covers the same picture as the boxes: cell (row, column) of a (h, w) grid is the rectangle from
(column * W / w, row * H / h) on, W / w wide and H / h high, of a picture of H x W pixels. From which view of the picture it
came, and how fine that was, no longer matters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sca.run_lengths import MaskMalformed as MaskMalformed
from sca.run_lengths import filled
from sca.run_lengths import run_lengths as text_run_lengths

if TYPE_CHECKING:
    from sca.regions import PlacedMask

# Cells of the longer side of a stored mask. See docs/store-format.md for what other sizes cost and keep.
GRID = 128
# Of 255, and below rounding: what covers exactly half of each of many cells covers all of them or none.
_HALF = 127


@dataclass(frozen=True, slots=True)
class RleMask:
    """A binary mask as COCO compressed run lengths. `size`: (h, w) of its grid, which covers the whole picture."""

    size: tuple[int, int]
    counts: bytes


def grid_of(size: tuple[int, int]) -> tuple[int, int]:
    """(h, w) of the grid for masks of a picture of `size` (H, W): its shape, `GRID` cells at most on the longer side."""
    scale = min(1.0, GRID / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def encode_masks(masks: np.ndarray, size: tuple[int, int]) -> tuple[tuple[RleMask, ...], np.ndarray]:
    """Bool masks (N, H, W) of a picture of `size` (H, W) to run lengths on its grid, and tight boxes (N, 4) float32 xyxy pixels.

    Boxes are of the masks as they are given. Of a mask that is not empty some cell is always left, however thin it is.
    """
    from sca.regions import PlacedMask  # whoever only reads a store does without

    assert not len(masks) or masks.shape[1:] == size
    return encode_placed([PlacedMask(mask) for mask in masks], size)


def encode_placed(
    masks: Sequence[PlacedMask], size: tuple[int, int]
) -> tuple[tuple[RleMask, ...], np.ndarray]:
    """The same of masks of which only the part is given that is not empty: a picture holds dozens, most of them small."""
    if not len(masks):
        return (), np.zeros((0, 4), np.float32)
    import cv2
    from pycocotools import mask as coco

    grid = grid_of(size)
    cells = np.zeros((*grid, len(masks)), np.uint8, order="F")
    boxes = np.zeros((len(masks), 4), np.float32)
    for number, mask in enumerate(masks):
        pixels = np.ascontiguousarray(mask.pixels).view(np.uint8)
        left, top, width, height = cv2.boundingRect(pixels) if pixels.size else (0, 0, 0, 0)
        if not width:
            continue
        pixels = pixels[top : top + height, left : left + width]
        left, top = left + mask.left, top + mask.top
        boxes[number] = (left, top, left + width, top + height)
        rows, columns = _cells(top, height, size[0], grid[0]), _cells(left, width, size[1], grid[1])
        around = _around(pixels, (top, left), (rows, columns), size, grid)
        cells[rows, columns, number] = _on_grid(
            around, (rows.stop - rows.start, columns.stop - columns.start)
        )
    return tuple(RleMask(grid, code["counts"]) for code in coco.encode(cells)), boxes


def _cells(start: int, length: int, side: int, cells: int) -> slice:
    """The cells of an axis that pixels lie in, where cells are whole pixels long; else all."""
    if side % cells:
        return slice(0, cells)
    pixels = side // cells
    return slice(start // pixels, -(-(start + length) // pixels))


def _around(
    pixels: np.ndarray,
    corner: tuple[int, int],
    cells: tuple[slice, slice],
    size: tuple[int, int],
    grid: tuple[int, int],
) -> np.ndarray:
    """The pixels from `corner` (row, column) on with what is empty around them, to the borders of these cells."""
    starts = [part.start * side // n for part, side, n in zip(cells, size, grid, strict=True)]
    ends = [part.stop * side // n for part, side, n in zip(cells, size, grid, strict=True)]
    around = np.zeros((ends[0] - starts[0], ends[1] - starts[1]), np.uint8)
    row, column = corner[0] - starts[0], corner[1] - starts[1]
    around[row : row + pixels.shape[0], column : column + pixels.shape[1]] = pixels
    return around


def _on_grid(pixels: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Cells (h, w) uint8 0 or 1 that are covered by half or more; where none is, by half of what is covered at most.

    So a line that is thinner than a cell stays a line, and ends where it ends.
    """
    import cv2

    if pixels.shape == grid:
        return pixels
    covered = cv2.resize(pixels * np.uint8(255), grid[::-1], interpolation=cv2.INTER_AREA)
    most = int(covered.max())
    least = _HALF if most >= _HALF else max(1, most // 2)
    # What a thing of one pixel covers of a cell may round to nothing.
    if not covered.any():
        rows, columns = np.nonzero(pixels)
        middle = len(rows) // 2
        covered[rows[middle] * grid[0] // pixels.shape[0], columns[middle] * grid[1] // pixels.shape[1]] = 255
    return np.asarray(covered >= least, np.uint8)


def decode_mask(mask: RleMask) -> np.ndarray:
    """Run lengths to a bool mask (h, w) on their grid. Raises `MaskMalformed`: whatever is stored may be hostile."""
    return filled(run_lengths(mask), mask.size)


def run_lengths(mask: RleMask) -> np.ndarray:
    """(n,) int64: cells outside, inside, outside, ... down the columns. Raises `MaskMalformed` unless they fill the grid."""
    return text_run_lengths(mask.counts, mask.size)


def drawn(mask: RleMask, size: tuple[int, int]) -> np.ndarray:
    """A mask as bool pixels (H, W) of the picture of `size` that it covers, its edges smooth. Raises `MaskMalformed`."""
    import cv2

    cells = decode_mask(mask)
    if cells.shape == size:
        return cells
    return np.asarray(cv2.resize(cells.astype(np.float32), size[::-1], interpolation=cv2.INTER_LINEAR) >= 0.5)
