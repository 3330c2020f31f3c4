"""Pictures of more than 8 bits: how their values become the 8 bits that the model sees."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

# Some hot or dead pixels must not set the range: so much of a picture may lie outside it at either end.
_OUTSIDE = 0.001
# A picture that fills so much of what its type can hold is an ordinary photograph, and keeps its brightness.
_FILLED = 0.25


@dataclass(frozen=True, slots=True)
class ValueRange:
    """The values that become black and white."""

    black: float
    white: float

    def to_eight_bits(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels of any numeric type as uint8; what is outside the range, or no number, is black or white."""
        values = np.nan_to_num(
            pixels.astype(np.float32), nan=self.black, posinf=self.white, neginf=self.black
        )
        scaled = (values - self.black) * (255.0 / max(self.white - self.black, 1e-12))
        return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)

    def text(self) -> str:
        return f"{self.black:g} to {self.white:g} became 0 to 255"


def value_range(pictures: Iterable[np.ndarray]) -> ValueRange | None:
    """One range for the pictures of a stream, so that their brightness can be compared; None: they are 8 bits deep.

    Photographs that use their type's range (of integers, or 0 to 1) keep it. Thermal, depth and raw pictures fill a
    small part of it: theirs becomes the whole, without the outermost thousandth at either end.
    """
    deep = [picture for picture in pictures if picture.dtype != np.uint8]
    if not deep:
        return None
    ends = [end for picture in deep if (end := _ends(picture)) is not None]
    if not ends:
        return ValueRange(0.0, 1.0)
    black, white = min(end[0] for end in ends), max(end[1] for end in ends)
    dtype = deep[0].dtype
    full = float(np.iinfo(dtype).max) if np.issubdtype(dtype, np.integer) else 1.0
    if black >= 0 and white <= full and white - black >= _FILLED * full:
        return ValueRange(0.0, full)
    return ValueRange(black, white if white > black else black + 1.0)


def _ends(picture: np.ndarray) -> tuple[float, float] | None:
    values = picture[np.isfinite(picture)] if np.issubdtype(picture.dtype, np.floating) else picture.ravel()
    if not values.size:
        return None
    black, white = np.quantile(values, (_OUTSIDE, 1 - _OUTSIDE))
    return float(black), float(white)
