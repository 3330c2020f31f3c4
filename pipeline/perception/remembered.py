"""What is known of each track between the looks of the model: what it looked like, and where its own pixels are now."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from pipeline.core.masks import RleMask

# Grey pictures in which tracks are found again have at most this many pixels a side.
_SIDE = 640
# Sides of a patch, and how far around its expected place it is looked for (share of its size, and pixels of that picture).
_PATCH = 24
_LEAST_PATCH = 4
_REACH = 0.4
_LEAST_REACH = 3.0
# Normalised correlation from which a patch is the same place of the same thing: below .6 a fence's post is the next one. Seen.
_ALIKE = 0.7
# Standard deviation (grey levels) below which a patch has nothing to know it by.
_LEAST_CONTRAST = 4.0
# Keyframes after which a description from a nearer view gives way to a newer one: as long as a caption lasts, at two a
# second. Few views are near, and words for what is seen from afar are worse than words that are old.
_KEPT = 40
# And after which it is time for another near view, where there is one to be had.
_RECENT = 16
# A view counts as nearer from this ratio of scales on, and as far as near within it.
_NEARER = 1.1
# Keyframes after which a view that is as near describes a track anew: describing costs more than finding.
_FRESH = 2


@dataclass(frozen=True, slots=True)
class Description:
    """How the model described a track: in which keyframe, `scale` in input pixels a pixel of the picture.

    `feature`: (D,) float32, L2-normalised. `tokens`: (Nc, C) float16, what the captioner needs. `score`: the mask's
    predicted IoU. `fit`: how much its box looked like a thing's own (`sca.proposals.Proposals.fits`).
    """

    keyframe: int
    scale: float
    feature: np.ndarray
    tokens: np.ndarray
    score: float
    fit: float = 0.0


def is_nearer(scale: float, old: Description) -> bool:
    """Whether a view at `scale` shows a track larger than that in which it was described."""
    return scale > _NEARER * old.scale


def is_recent(old: Description, keyframe: int) -> bool:
    """Whether what is known is so new that nothing nearer need be looked for."""
    return keyframe - old.keyframe < _RECENT


def better_described(old: Description | None, keyframe: int, scale: float) -> bool:
    """Whether a track that is seen now at `scale` should be described anew: its view is nearer, or the old one is old."""
    if old is None or is_nearer(scale, old):
        return True
    age = keyframe - old.keyframe
    return age >= (_FRESH if scale * _NEARER >= old.scale else _KEPT)


@dataclass(frozen=True, slots=True)
class Remembered:
    """One track: its description, and what it was when the model saw it last.

    `looked`, `looked_ns`: in which keyframe, and when (wall clock, ns UTC). `box`: (4,) xyxy pixels of the picture; `mask`: of
    the picture, where one was good enough. `pixels`: its own, None of what is too small to have any.
    """

    description: Description
    looked: int
    looked_ns: int
    box: np.ndarray
    mask: RleMask | None
    pixels: np.ndarray | None

    @property
    def patch(self) -> np.ndarray | None:
        """Its pixels where it can be found again by them: there is something to know it by."""
        if self.pixels is None or float(self.pixels.std()) < _LEAST_CONTRAST:
            return None
        return self.pixels


def grey_of(rgb: np.ndarray) -> np.ndarray:
    """The grey picture (h, w) uint8 in which tracks of (H, W, 3) uint8 are found again, `_SIDE` a side at most."""
    height, width = rgb.shape[:2]
    scale = min(1.0, _SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    if size != (width, height):
        rgb = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY))


def pixels_of(grey: np.ndarray, box: np.ndarray) -> np.ndarray | None:
    """The pixels of `box` (4,) xyxy pixels of `grey`, a square of few; None of what is too small to have any."""
    x0, y0, x1, y1 = (round(float(v)) for v in box)
    part = grey[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)]
    if min(part.shape) < _LEAST_PATCH:
        return None
    return _resized(part, (_PATCH, _PATCH))


def find_again(grey: np.ndarray, patch: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, float] | None:
    """Where `patch` is in `grey` near `box` (4,) xyxy pixels: its box there and the correlation; None if not there."""
    width, height = float(box[2] - box[0]), float(box[3] - box[1])
    if min(width, height) < 1:
        return None
    # 1. The neighbourhood, brought to the patch's own scale.
    reach_x, reach_y = max(_REACH * width, _LEAST_REACH), max(_REACH * height, _LEAST_REACH)
    x0, y0 = max(0, round(float(box[0]) - reach_x)), max(0, round(float(box[1]) - reach_y))
    x1, y1 = round(float(box[2]) + reach_x), round(float(box[3]) + reach_y)
    part = grey[y0 : max(y1, 0), x0 : max(x1, 0)]
    if not part.size:
        return None
    scale_x, scale_y = _PATCH / width, _PATCH / height
    size = (round(part.shape[1] * scale_x), round(part.shape[0] * scale_y))
    if min(size) < _PATCH:
        return None  # most of it has left the picture
    near = _resized(part, size)
    # 2. The place that is most alike, if it is alike enough.
    alike = cv2.matchTemplate(near, patch, cv2.TM_CCOEFF_NORMED)
    _, best, _, (left, top) = cv2.minMaxLoc(alike)
    if not np.isfinite(best) or best < _ALIKE:
        return None
    corner = np.array([x0 + left / scale_x, y0 + top / scale_y], np.float32)
    opposite = corner + np.array([width, height], np.float32)
    # The neighbourhood was resized to whole pixels, so a place at its border can lie a fraction outside.
    inside = np.clip(np.concatenate([corner, opposite]), 0, np.array([*grey.shape[1::-1]] * 2, np.float32))
    return inside, float(best)


def _resized(part: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    smaller = size[0] < part.shape[1]
    return np.asarray(cv2.resize(part, size, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR))


class TrackMemory:
    """The tracks of one stream, by the tracker's keys."""

    def __init__(self) -> None:
        self._tracks: dict[int, Remembered] = {}

    def get(self, key: int) -> Remembered | None:
        return self._tracks.get(key)

    def keep(self, key: int, track: Remembered) -> None:
        """What is known of the track now."""
        self._tracks[key] = track

    def forget_all_but(self, keys: set[int]) -> None:
        """Tracks that nobody expects any more."""
        self._tracks = {key: track for key, track in self._tracks.items() if key in keys}
