"""Masks as COCO writes them, run lengths and polygons, read without trust: what does not fit its picture is refused.

pycocotools leaves the cells that no count reaches as they happen to lie in memory, and ends the process on polygons of
a million pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# A mask with more cells than this is none of ours: a picture of 16k x 8k has as many.
_MOST_CELLS = 2**27
# A count of COCO run lengths has at most seven characters of five bits.
_MOST_CHARACTERS = 7
# Of a polygon's outline, in pixels: it is drawn with five points a pixel, which cost 60 bytes.
_LONGEST_OUTLINE = 1 << 20
_LEAST_CORNERS = 3


class MaskMalformed(ValueError):
    """Run lengths or polygons that are those of no picture of the stated size."""


def decoded_mask(entry: Any, size: tuple[int, int]) -> np.ndarray:
    """Bool (H, W): a list of polygons [x, y, x, y, ...], or run lengths `size` and `counts`, a text or a list. Raises `MaskMalformed`."""
    if isinstance(entry, Mapping):
        told = entry.get("size")
        if not isinstance(told, list | tuple) or tuple(told) != size:
            raise MaskMalformed(f"its size is {str(told)[:40]}, the picture's {list(size)}")
        counts = entry.get("counts")
        if isinstance(counts, str | bytes):
            raw = counts if isinstance(counts, bytes) else counts.encode("utf-8", "surrogateescape")
            return filled(run_lengths(raw, size), size)
        return filled(_listed(counts, size), size)
    if isinstance(entry, list | tuple) and entry:
        return _drawn(entry, size)
    raise MaskMalformed("neither polygons nor run lengths")


def filled(counts: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Run lengths that fill a picture of `size` (H, W), as bool (H, W)."""
    height, width = size
    values = np.zeros(len(counts), bool)
    values[1::2] = True
    return np.repeat(values, counts).reshape(width, height).T


def run_lengths(text: bytes, size: tuple[int, int]) -> np.ndarray:
    """(n,) int64: cells outside, inside, outside, ... down the columns. Raises `MaskMalformed` unless they fill the grid."""
    height, width = size
    if not (height > 0 and width > 0 and height * width <= _MOST_CELLS):
        raise MaskMalformed(f"a mask of {height} x {width} cells")
    # Each character carries five bits of a count, the lowest first, and whether more follow (COCO API, maskApi.c).
    raw = np.frombuffer(text, np.uint8).astype(np.int64) - 48
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
    return _filling(counts, size)


def _filling(counts: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    height, width = size
    # Each by itself first: a sum of huge ones may come round to the right one.
    if counts.min() < 0 or counts.max() > height * width or int(counts.sum()) != height * width:
        raise MaskMalformed(f"run lengths that do not fill {height} x {width} cells")
    return counts


def _listed(counts: Any, size: tuple[int, int]) -> np.ndarray:
    if not isinstance(counts, list | tuple) or not all(isinstance(one, int) for one in counts) or not counts:
        raise MaskMalformed("counts that are no list of whole numbers")
    try:
        return _filling(np.array(counts, np.int64), size)
    except OverflowError:
        raise MaskMalformed(f"run lengths that do not fill {size[0]} x {size[1]} cells") from None


def _drawn(polygons: Sequence[Any], size: tuple[int, int]) -> np.ndarray:
    """The union of polygons, as COCO draws them."""
    outline = 0.0
    drawn: list[list[float]] = []
    for polygon in polygons:
        if not isinstance(polygon, list | tuple):
            raise MaskMalformed("a polygon that is no list of numbers")
        try:
            corners = [float(value) for value in polygon]
        except (TypeError, ValueError, OverflowError):
            raise MaskMalformed("a polygon that is no list of numbers") from None
        if len(corners) < 2 * _LEAST_CORNERS or len(corners) % 2 or not all(map(math.isfinite, corners)):
            raise MaskMalformed(f"a polygon of {len(corners)} numbers, or of some that are none")
        points = np.array(corners).reshape(-1, 2)
        outline += float(np.abs(points - np.roll(points, 1, axis=0)).max(axis=1).sum())
        if outline > _LONGEST_OUTLINE or float(np.abs(points).max()) > _LONGEST_OUTLINE:
            raise MaskMalformed(f"polygons with an outline of more than {_LONGEST_OUTLINE} pixels")
        drawn.append(corners)
    from pycocotools import mask as coco  # whoever reads run lengths does without

    return np.asarray(coco.decode(coco.merge(coco.frPyObjects(drawn, *size)))).astype(bool)
