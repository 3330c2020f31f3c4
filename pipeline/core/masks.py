"""Masks of regions as run lengths of the whole displayed picture, on a grid of bounded size.

A mask covers the same picture as the boxes: cell (row, column) of a (h, w) grid is the rectangle from
(column * W / w, row * H / h) on, W / w wide and H / h high, of a picture of H x W pixels. From which view of the picture it
came, and how fine that was, no longer matters.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Cells of the longer side of a stored mask. See docs/store-format.md for what other sizes cost and keep.
GRID = 128
# Of 255, and below rounding: what covers exactly half of each of many cells covers all of them or none.
_HALF = 127
# A mask with more cells than this is none of ours: a picture of 16k x 8k has as many.
_MOST_CELLS = 2**27
# A count of COCO run lengths has at most seven characters of five bits.
_MOST_CHARACTERS = 7


class MaskMalformed(ValueError):
    """Run lengths that are those of no picture of the stated size."""


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
    if not len(masks):
        return (), np.zeros((0, 4), np.float32)
    assert masks.shape[1:] == size
    import cv2  # whoever only reads a store does without
    from pycocotools import mask as coco

    grid = grid_of(size)
    cells = np.zeros((*grid, len(masks)), np.uint8, order="F")
    boxes = np.zeros((len(masks), 4), np.float32)
    for number, mask in enumerate(masks):
        pixels = np.ascontiguousarray(mask).view(np.uint8)
        left, top, width, height = cv2.boundingRect(pixels)
        boxes[number] = (left, top, left + width, top + height)
        cells[..., number] = _on_grid(pixels, grid) if width else 0
    return tuple(RleMask(grid, code["counts"]) for code in coco.encode(cells)), boxes


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
    counts = run_lengths(mask)
    height, width = mask.size
    values = np.zeros(len(counts), bool)
    values[1::2] = True
    return np.repeat(values, counts).reshape(width, height).T


def run_lengths(mask: RleMask) -> np.ndarray:
    """(n,) int64: cells outside, inside, outside, ... down the columns. Raises `MaskMalformed` unless they fill the grid."""
    height, width = mask.size
    if not (height > 0 and width > 0 and height * width <= _MOST_CELLS):
        raise MaskMalformed(f"a mask of {height} x {width} cells")
    # Each character carries five bits of a count, the lowest first, and whether more follow (COCO API, maskApi.c).
    raw = np.frombuffer(mask.counts, np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero((raw & 0x20) == 0)
    if not len(raw) or raw.min() < 0 or raw.max() > 0x3F or not len(ends) or ends[-1] != len(raw) - 1:
        raise MaskMalformed("run lengths with characters that none has")
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > _MOST_CHARACTERS:
        raise MaskMalformed("run lengths with a count that is too long")
    places = np.arange(len(raw)) - np.repeat(starts, lengths)
    counts = np.add.reduceat((raw & 0x1F) << (5 * places), starts)
    counts -= np.where(raw[ends] & 0x10, np.int64(1) << (5 * lengths), 0)
    # From the fourth on a count is told as its difference from the one two before.
    counts[1::2] = np.cumsum(counts[1::2])
    counts[2::2] = np.cumsum(counts[2::2])
    if counts.min() < 0 or int(counts.sum()) != height * width:
        raise MaskMalformed(f"run lengths that do not fill {height} x {width} cells")
    return counts


def drawn(mask: RleMask, size: tuple[int, int]) -> np.ndarray:
    """A mask as bool pixels (H, W) of the picture of `size` that it covers, its edges smooth. Raises `MaskMalformed`."""
    import cv2

    cells = decode_mask(mask)
    if cells.shape == size:
        return cells
    return np.asarray(cv2.resize(cells.astype(np.float32), size[::-1], interpolation=cv2.INTER_LINEAR) >= 0.5)
