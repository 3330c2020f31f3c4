"""Stored masks as run lengths over the whole picture, for formats that know no coarser grid."""

from __future__ import annotations

import numpy as np

from pipeline.core.errors import UserError
from pipeline.core.masks import decode_mask
from pipeline.query.rows import RowMask


def full_mask(mask: RowMask) -> tuple[dict[str, object], float]:
    """Run lengths over the picture, and how many of its pixels they cover; each cell covers its rectangle.

    Raises `UserError` where pycocotools is not installed.
    """
    try:
        from pycocotools import mask as coco
    except ImportError:
        raise UserError(
            "--masks over whole pictures need pycocotools: install segment-caption-stream[run], or leave --masks out"
        ) from None
    pixels = _pixels(mask)
    code = coco.encode(np.asfortranarray(pixels, np.uint8))
    return {"size": list(mask.picture), "counts": code["counts"].decode("ascii")}, float(coco.area(code))


def full_runs(mask: RowMask) -> tuple[dict[str, object], float]:
    """The same with the runs as numbers, as annotations of videos have them: off and on in turn, down each column."""
    column_wise = _pixels(mask).ravel(order="F")
    edges = np.flatnonzero(np.diff(column_wise.astype(np.int8), prepend=0, append=column_wise[-1:]))
    runs = np.diff(edges, prepend=0, append=len(column_wise)).tolist()
    return {"size": list(mask.picture), "counts": runs}, float(column_wise.sum())


def _pixels(mask: RowMask) -> np.ndarray:
    """(H, W) bool."""
    cells = decode_mask(mask.mask)
    height, width = mask.picture
    rows = np.arange(height) * cells.shape[0] // height
    columns = np.arange(width) * cells.shape[1] // width
    return np.asarray(cells[rows][:, columns], bool)
