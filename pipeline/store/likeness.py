"""How alike the embeddings of stored rows are to one: cosines, over as many rows as a store has."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from pipeline.store.columns import ROW_CHUNK, CaptionColumns, Columns
from pipeline.store.decoded_cache import DECODED

# Rows that are made floats of at a time: half a megabyte, which stays in a processor's own cache.
_BLOCK = 1024
# Of the bits of a half float shifted left by 13 and its sign spread over the four highest ones: sign, exponent, fraction.
_HALF_BITS = np.int32(-0x70002000)
_EXPONENT = np.int16(0x7C00)


class EmbeddedRows(Protocol):
    """What has embeddings. `number`: its own in the caches."""

    number: int

    def count(self, table: type[Columns]) -> int: ...

    def column(self, table: type[Columns], name: str, rows: np.ndarray | None = None) -> np.ndarray: ...


def similarities(source: EmbeddedRows, rows: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Cosine (n,) float32 of the embeddings of ascending caption `rows` with (D,); NaN where a row has none, or of another length.

    Lengths of embeddings are kept between questions, and so are the embeddings, as half floats, while there is room.
    """
    count = source.count(CaptionColumns)
    if 4 * len(rows) < count:
        embeddings = source.column(CaptionColumns, "emb", rows)
        return cosines(embeddings, lengths(embeddings, len(like)), like)
    found = np.empty(count, np.float32)
    for first in range(0, count, ROW_CHUNK):
        block = source.column(CaptionColumns, "emb", np.arange(first, min(first + ROW_CHUNK, count)))
        key = ("lengths", first, len(like))
        known = DECODED.kept(source.number, key)
        if known is None:
            known = lengths(block, len(like))
            DECODED.keep(source.number, key, known, known.nbytes)
        found[first : first + len(block)] = cosines(block, known, like)
    return found[rows]


def lengths(embeddings: np.ndarray, width: int) -> np.ndarray:
    """Length (n,) float32 of rows (n, D) half floats that are of `width` numbers; NaN for all others. NaN fill up shorter rows."""
    found = np.full(len(embeddings), np.nan, np.float32)
    if not 0 < width <= embeddings.shape[1]:
        return found
    for first in range(0, len(embeddings), _BLOCK):
        block = embeddings[first : first + _BLOCK]
        whole = ((block[:, :width].view(np.int16) & _EXPONENT) != _EXPONENT).all(axis=1)
        if block.shape[1] > width:
            whole &= np.isnan(block[:, width])
        numbers = block[:, :width].astype(np.float32)
        with np.errstate(invalid="ignore"):
            own = np.sqrt(np.einsum("nd,nd->n", numbers, numbers))
        found[first : first + len(block)] = np.where(whole & (own > 0), own, np.nan)
    return found


def cosines(embeddings: np.ndarray, known: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Cosine (n,) float32 of rows (n, D) half floats, whose lengths are `known`, with (D,).

    NumPy makes a float of a half float in two nanoseconds. Moving its bits to where a float has them takes a tenth of that and
    gives the number times 2^-112, which is exact for all but infinities and NaN; those have no length.
    """
    width, length = len(like), float(np.linalg.norm(like))
    if not 0 < width <= embeddings.shape[1] or not length > 0:
        return np.full(len(embeddings), np.nan, np.float32)
    if embeddings.dtype != np.dtype("<f2"):
        embeddings = embeddings.astype("<f2")
    unit = (np.asarray(like, np.float64) / length * 2.0**100).astype(np.float32)
    found = np.empty(len(embeddings), np.float32)
    moved = np.empty((min(_BLOCK, len(embeddings)), width), np.int32)
    for first in range(0, len(embeddings), _BLOCK):
        bits = embeddings[first : first + _BLOCK, :width].view(np.int16)
        block = moved[: len(bits)]
        np.copyto(block, bits)
        np.left_shift(block, 13, out=block)
        np.bitwise_and(block, _HALF_BITS, out=block)
        np.matmul(block.view(np.float32), unit, out=found[first : first + len(bits)])
    found *= np.float32(2.0**12)
    with np.errstate(invalid="ignore"):
        found /= known
    return found
