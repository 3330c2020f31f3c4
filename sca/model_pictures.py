"""An RGB image to the model's square input, as arrays: what every way of computing a model begins with."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image

from sca.config import ScaConfig
from sca.errors import UserError

Size = tuple[int, int]


def resized_size(original: Size, side: int) -> Size:
    """(height, width) of an image whose longer side becomes `side`, rounded half up, at least 1 pixel."""
    height, width = original
    scale = side / max(height, width)
    return max(int(height * scale + 0.5), 1), max(int(width * scale + 0.5), 1)


def check_image(rgb: np.ndarray) -> None:
    """ValueError unless `rgb` is a non-empty uint8 array (H, W, 3)."""
    if not isinstance(rgb, np.ndarray) or rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        found = f"{rgb.dtype} {rgb.shape}" if isinstance(rgb, np.ndarray) else type(rgb).__name__
        raise UserError(f"expected an RGB image as a uint8 array (H, W, 3), got {found}: convert it first")
    if rgb.shape[0] == 0 or rgb.shape[1] == 0:
        raise UserError(
            f"the image is empty ({rgb.shape[1]} x {rgb.shape[0]} pixels): give at least one pixel"
        )


def resize_image(rgb: np.ndarray, size: Size, method: str) -> np.ndarray:
    """uint8 (H, W, 3) to uint8 (*size, 3), by "pil-bilinear" (antialiased) or "area"."""
    height, width = size
    if rgb.shape[:2] == size:
        return rgb
    if method == "area":
        shrinks = height <= rgb.shape[0] and width <= rgb.shape[1]
        return cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    assert method == "pil-bilinear", method
    return np.asarray(Image.fromarray(rgb).resize((width, height), Image.Resampling.BILINEAR))


def to_model_array(images: Sequence[np.ndarray], config: ScaConfig) -> tuple[np.ndarray, list[Size]]:
    """Images uint8 (H, W, 3) to normalised pixels (B, 3, S, S) float32, and each one's size within the square.

    Padding, bottom and right, is zero after normalisation (spec section 3).
    """
    side = config.image_size
    canvas = np.zeros((len(images), 3, side, side), np.float32)
    mean, std = np.array(config.pixel_mean, np.float32), np.array(config.pixel_std, np.float32)
    sizes = []
    for index, rgb in enumerate(images):
        check_image(rgb)
        height, width = resized_size((rgb.shape[0], rgb.shape[1]), side)
        resized = resize_image(rgb, (height, width), config.resize).astype(np.float32)
        canvas[index, :, :height, :width] = ((resized / np.float32(255) - mean) / std).transpose(2, 0, 1)
        sizes.append((height, width))
    return canvas, sizes
