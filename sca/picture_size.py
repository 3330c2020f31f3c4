"""How large a picture says it is, before it is decoded: a small file may unpack to gigabytes."""

from __future__ import annotations

import warnings
from pathlib import Path

from PIL import Image

MOST_PIXELS = 1 << 27
"""Telephones make pictures of up to 108 megapixels. Decoded and turned into RGB, so many take 800 MB."""


def says_it_is(path: Path) -> tuple[int, int] | None:
    """(width, height) as the head of a picture file says; None where Pillow does not know the format, or finds no head."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                return image.size
    except Image.DecompressionBombError:
        return MOST_PIXELS, MOST_PIXELS
    except Exception:  # whatever a damaged head makes of the library: who decodes it will say what is wrong
        return (0, 0) if _is_png(path) else None


def _is_png(path: Path) -> bool:
    """Whether it is a PNG: where Pillow finds no size in one, libpng would only complain on standard error."""
    try:
        with path.open("rb") as file:
            return file.read(8) == b"\x89PNG\r\n\x1a\n"
    except OSError:
        return False


def can_be_decoded(path: Path, most: int = MOST_PIXELS) -> bool:
    """Whether nothing in the head of a picture speaks against decoding it: it has pixels, and no more than `most`."""
    size = says_it_is(path)
    return size is None or 0 < size[0] * size[1] <= most
