"""Augmented views of a picture: one affine map into the model's input square, and camera-like degradation."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class View:
    """An affine map from pixels of the stored picture to the S x S input: x' = ax * x + bx, y' = ay * y + by.

    ax is negative for a mirrored view. The part outside the picture is padding.
    """

    size: int
    ax: float
    bx: float
    ay: float
    by: float

    def boxes(self, boxes: np.ndarray) -> np.ndarray:
        """(N, 4) xyxy boxes of the stored picture to input pixels, unclipped."""
        x = boxes[:, [0, 2]] * self.ax + self.bx
        y = boxes[:, [1, 3]] * self.ay + self.by
        return np.stack([x.min(1), y.min(1), x.max(1), y.max(1)], axis=1)

    def warp(self, picture: np.ndarray, fill: float = 0.0, side: int | None = None) -> np.ndarray:
        """The stored picture or mask in the input square, or in a square of `side` cells that covers it."""
        shrink = 1.0 if side is None else side / self.size
        ax, ay = self.ax * shrink, self.ay * shrink
        # Pixel centres lie at .5: without the shift a mirrored or scaled picture moves by a part of a pixel.
        bx = self.bx * shrink + 0.5 * ax - 0.5
        by = self.by * shrink + 0.5 * ay - 0.5
        target = side or self.size
        matrix = np.array([[ax, 0.0, bx], [0.0, ay, by]])
        return cv2.warpAffine(
            picture, matrix, (target, target), flags=cv2.INTER_LINEAR, borderValue=(fill, fill, fill)
        )


def plain_view(width: int, height: int, aspect: float, size: int) -> View:
    """What inference does: undo the squash, longest side to `size`, padding at the right or the bottom."""
    true_width, true_height = (size, size / aspect) if aspect >= 1 else (size * aspect, size)
    return View(size, true_width / width, 0.0, true_height / height, 0.0)


def random_view(
    rng: np.random.Generator, width: int, height: int, aspect: float, size: int, zoom: tuple[float, float]
) -> View:
    """A mirrored (half of the time), zoomed and shifted view; a tenth keep the plain placement.

    `zoom`: range of scales relative to the plain view, drawn log-uniformly.
    """
    plain = plain_view(width, height, aspect, size)
    scale = 1.0 if rng.random() < 0.1 else float(np.exp(rng.uniform(*np.log(zoom))))
    stretch = float(np.exp(rng.uniform(-0.1, 0.1)))
    ax, ay = plain.ax * scale * stretch, plain.ay * scale / stretch
    bx, by = _offset(rng, ax * width, size, scale), _offset(rng, ay * height, size, scale)
    if rng.random() < 0.5:
        ax, bx = -ax, bx + ax * width
    return View(size, ax, bx, ay, by)


def _offset(rng: np.random.Generator, extent: float, size: int, scale: float) -> float:
    slack = size - extent
    if scale == 1.0:
        return 0.0
    return float(rng.uniform(min(slack, 0.0), max(slack, 0.0)))


def degrade(rng: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    """Colour, contrast and sharpness as cameras vary them: uint8 (h, w, 3) to the same."""
    gain, offset = rng.uniform(0.7, 1.35), rng.uniform(-25, 25)
    gamma = float(np.exp(rng.uniform(-0.3, 0.3)))
    levels = np.arange(256, dtype=np.float32)
    tables = []
    for tint in rng.uniform(0.93, 1.07, size=3):
        curve = ((levels / 255.0) ** gamma * 255.0 - 128.0) * gain * tint + 128.0 + offset
        tables.append(np.clip(curve, 0, 255).astype(np.uint8))
    picture = cv2.LUT(picture, np.stack(tables, axis=-1)[None])
    choice = rng.random()
    if choice < 0.05:
        picture = cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    elif choice < 0.5:
        grey = cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        saturation = float(rng.uniform(0.5, 1.4))
        picture = cv2.addWeighted(picture, saturation, grey, 1.0 - saturation, 0)
    choice = rng.random()
    if choice < 0.1:
        picture = cv2.GaussianBlur(picture, (0, 0), float(rng.uniform(0.4, 1.5)))
    elif choice < 0.2:
        side = picture.shape[1], picture.shape[0]
        factor = float(rng.uniform(0.35, 0.8))
        small = cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        picture = cv2.resize(small, side, interpolation=cv2.INTER_LINEAR)
    if rng.random() < 0.1:
        noise = rng.normal(0, rng.uniform(2, 10), size=picture.shape)
        picture = np.clip(picture + noise, 0, 255).astype(np.uint8)
    return picture
