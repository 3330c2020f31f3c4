"""Pictures that carry their own number, so that a test can read back which picture it was given."""

from __future__ import annotations

import numpy as np

COLUMNS, ROWS = 4, 3
MOST = 1 << (COLUMNS * ROWS - 2)
_DARK, _BRIGHT = 40, 215


def numbered(index: int, width: int = 64, height: int = 48) -> np.ndarray:
    """A picture of 4 x 3 dark and bright fields, (height, width, 3) uint8: ten bits of `index`, two of checksum."""
    assert 0 <= index < MOST
    bits = index << 2 | _checksum(index)
    fields = np.array([_BRIGHT if bits >> bit & 1 else _DARK for bit in range(COLUMNS * ROWS)], np.uint8)
    rows = np.arange(height) * ROWS // height
    columns = np.arange(width) * COLUMNS // width
    grey = fields.reshape(ROWS, COLUMNS)[rows][:, columns]
    return np.repeat(grey[..., None], 3, axis=2)


def number_of(rgb: np.ndarray) -> int | None:
    """The number in a picture that `numbered` drew, whatever its size; None for a picture that is damaged."""
    height, width = rgb.shape[:2]
    bits = 0
    for bit in range(COLUMNS * ROWS):
        row, column = divmod(bit, COLUMNS)
        top, left = (2 * row + 1) * height // (2 * ROWS), (2 * column + 1) * width // (2 * COLUMNS)
        reach_y, reach_x = max(1, height // (6 * ROWS)), max(1, width // (6 * COLUMNS))
        level = float(
            rgb[max(0, top - reach_y) : top + reach_y, max(0, left - reach_x) : left + reach_x].mean()
        )
        if 115 < level < 140:
            return None
        bits |= (level > 127) << bit
    index = bits >> 2
    return index if bits & 3 == _checksum(index) else None


def _checksum(index: int) -> int:
    folded = index ^ index >> 5
    return (folded ^ folded >> 2 ^ folded >> 4) & 3
