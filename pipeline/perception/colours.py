"""Which colour words a region's pixels bear out."""

from __future__ import annotations

import cv2
import numpy as np

COLOURS = (
    "black", "white", "gray", "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown",
)  # fmt: skip
"""The basic colour terms of English (Berlin and Kay 1969)."""

# What a pixel may be called, in CIELAB: least and most lightness, least and most chroma, hue from and to (degrees, a circle).
# They overlap, since people do: what one calls orange is brown or red to another, and shade makes everything darker.
_ANY = 1000.0
_RANGES: dict[str, tuple[float, float, float, float, float, float]] = {
    "black": (0, 38, 0, 22, 0, 360),
    "white": (58, 101, 0, 24, 0, 360),
    "gray": (20, 85, 0, 14, 0, 360),
    "red": (10, 75, 18, _ANY, 335, 52),
    "orange": (35, 90, 25, _ANY, 30, 85),
    "yellow": (40, 101, 18, _ANY, 62, 118),
    "green": (8, 95, 7, _ANY, 95, 205),
    "blue": (5, 95, 6, _ANY, 195, 315),
    "purple": (8, 80, 8, _ANY, 285, 350),
    "pink": (40, 95, 10, _ANY, 320, 45),
    "brown": (8, 70, 7, 60, 25, 95),
}
# Pixels of a region that are looked at: enough to tell a tenth of it, and few.
_SIDE = 32
# Below this share of its pixels a region does not have a colour. Of 245 colours said of validation regions (true boxes, masks of the
# model) whose annotators name one, 72 % are theirs; this refuses 27, of which 3 were theirs, and 80 % of what is left is.
_LEAST = 0.15


def colours_of(rgb: np.ndarray, box: np.ndarray, mask: np.ndarray | None) -> frozenset[str]:
    """The words of `COLOURS` that a region may be given: what enough of its pixels may be called.

    `rgb`: (H, W, 3) uint8, the picture. `box`: (4,) xyxy pixels. `mask`: (h, w) bool on any grid over the whole picture; without one,
    or with one that has no cell in the box, all of the box counts.
    """
    height, width = rgb.shape[:2]
    left, top = (
        int(np.clip(np.floor(v), 0, side - 1)) for v, side in zip(box[:2], (width, height), strict=True)
    )
    right, bottom = (
        int(np.clip(np.ceil(v), least + 1, side))
        for v, least, side in zip(box[2:], (left, top), (width, height), strict=True)
    )
    part = rgb[top:bottom, left:right]
    size = (min(_SIDE, part.shape[1]), min(_SIDE, part.shape[0]))
    part = cv2.resize(part, size, interpolation=cv2.INTER_AREA)
    lab = cv2.cvtColor(part.astype(np.float32) / 255, cv2.COLOR_RGB2LAB).reshape(-1, 3)
    if mask is not None:
        columns = (left + (np.arange(size[0]) + 0.5) * (right - left) / size[0]) * mask.shape[1] / width
        rows = (top + (np.arange(size[1]) + 0.5) * (bottom - top) / size[1]) * mask.shape[0] / height
        inside = mask[rows.astype(int)[:, None], columns.astype(int)[None]].reshape(-1)
        lab = lab[inside] if inside.any() else lab
    light, chroma = lab[:, 0], np.hypot(lab[:, 1], lab[:, 2])
    hue = np.degrees(np.arctan2(lab[:, 2], lab[:, 1])) % 360
    return frozenset(name for name, limits in _RANGES.items() if _share(light, chroma, hue, limits) >= _LEAST)


def _share(light: np.ndarray, chroma: np.ndarray, hue: np.ndarray, limits: tuple[float, ...]) -> float:
    darkest, lightest, dullest, purest, first, last = limits
    around = (hue >= first) & (hue <= last) if first <= last else (hue >= first) | (hue <= last)
    here = (light >= darkest) & (light <= lightest) & (chroma >= dullest) & (chroma <= purest) & around
    return float(here.mean())
