"""What lies between pixels and compiled stages: prompts to embeddings, and mask logits of a coarse grid to masks.

Arrays in, arrays out: the twins of `sca.modeling.prompt_encoder` and of `sca.predictor.Predictor.masks`, which they are held to.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from sca.compiled.essentials import Essentials
from sca.model_pictures import Size
from sca.regions import PlacedMask


def scaled(coordinates: np.ndarray, source: Size, target: Size) -> np.ndarray:
    """xy or xyxy coordinates (..., 2 or 4) from pixels of an image of size `source` to one of size `target`, per axis."""
    factors = [target[1] / source[1], target[0] / source[0]]
    return np.asarray(coordinates * np.array(factors * (coordinates.shape[-1] // 2)))


def embed_points(parts: Essentials, points: np.ndarray) -> np.ndarray:
    """Foreground points (P, n, 2) xy in input pixels, float64, to (P, n + 1, C) float32."""
    found = _encoded(parts, points) + parts.foreground
    end = np.broadcast_to(parts.no_point, (len(found), 1, found.shape[-1]))
    return np.concatenate([found, end], axis=1)


def embed_boxes(parts: Essentials, boxes: np.ndarray) -> np.ndarray:
    """Boxes (P, 4) xyxy in input pixels, float64, to (P, 2, C) float32."""
    return _encoded(parts, boxes.reshape(-1, 2, 2)) + parts.corners


def _encoded(parts: Essentials, points: np.ndarray) -> np.ndarray:
    """Fourier features (..., C) of the centres of pixels (..., 2)."""
    unit = (points + 0.5) / parts.config.image_size
    phases = np.float32(2 * np.pi) * ((2 * unit - 1).astype(np.float32) @ parts.gaussian)
    return np.concatenate([np.sin(phases), np.cos(phases)], axis=-1)


def placed_masks(logits: np.ndarray, side: int, inner: Size, size: Size) -> list[PlacedMask]:
    """Mask logits (P, h, w) over the square of `side` pixels to masks of the image of `size` (H, W) at `inner` in it.

    Enlarged bilinearly to the square, cut to the image, and brought to its size: two linear maps of rows and of columns, of
    which only those are multiplied out that reach a positive cell.
    """
    rows, columns = (
        _enlarged(logits.shape[1], side, inner[0], size[0]),
        _enlarged(logits.shape[2], side, inner[1], size[1]),
    )
    masks = []
    for cells in logits:
        positive = cells > 0
        y, x = np.flatnonzero(positive.any(axis=1)), np.flatnonzero(positive.any(axis=0))
        # A pixel is positive only if one of the cells that it is made of is; those reach a cell further each way.
        down = rows.reached(y[0], y[-1]) if len(y) else None
        across = columns.reached(x[0], x[-1]) if len(x) else None
        if down is None or across is None:
            masks.append(PlacedMask(np.zeros((0, 0), bool)))
            continue
        pixels = down.weights @ cells[down.cells, across.cells] @ across.weights.T > 0
        masks.append(PlacedMask(pixels, down.pixels.start, across.pixels.start))
    return masks


class _Part(NamedTuple):
    """A range of pixels, the range of cells that it is made of, and the weights of these in those."""

    pixels: slice
    cells: slice
    weights: np.ndarray


class _Enlarged:
    """The linear map (n, cells) of one axis from grid cells to pixels, and which pixels a range of cells reaches."""

    def __init__(self, weights: np.ndarray) -> None:
        self._weights = weights
        used = weights > 0
        self._first, self._last = used.argmax(axis=1), weights.shape[1] - 1 - used[:, ::-1].argmax(axis=1)

    def reached(self, first: int, last: int) -> _Part | None:
        """The pixels that are made of any of the cells first..last; None where the picture has too few for these."""
        start = int(np.searchsorted(self._last, first, "left"))
        end = int(np.searchsorted(self._first, last, "right"))
        if start >= end:
            return None
        cells = slice(int(self._first[start]), int(self._last[end - 1]) + 1)
        return _Part(slice(start, end), cells, self._weights[start:end, cells])


@lru_cache(maxsize=64)
def _enlarged(cells: int, side: int, inner: int, size: int) -> _Enlarged:
    return _Enlarged((_bilinear(inner, size) @ _bilinear(cells, side)[:inner]).astype(np.float32))


def _bilinear(source: int, target: int) -> np.ndarray:
    """(target, source) weights of a linear interpolation between centres of cells; the border goes on outside."""
    places = np.clip((np.arange(target) + 0.5) * (source / target) - 0.5, 0, source - 1)
    below = np.minimum(np.floor(places).astype(int), source - 1)
    above = np.minimum(below + 1, source - 1)
    weights = np.zeros((target, source))
    np.add.at(weights, (np.arange(target), below), 1 - (places - below))
    np.add.at(weights, (np.arange(target), above), places - below)
    return weights
