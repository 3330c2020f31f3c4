"""An RGB image to the model's square input, and prompts from image pixels to that square and back."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sca.config import ScaConfig
from sca.model_pictures import Size, check_image, resized_size, to_model_array


def to_model_input(
    images: Sequence[np.ndarray], config: ScaConfig, device: torch.device | str = "cpu"
) -> tuple[Tensor, list[Size]]:
    """`to_model_array`, as a tensor on `device`."""
    canvas, sizes = to_model_array(images, config)
    return torch.from_numpy(canvas).to(device), sizes


def scale_points(points: Tensor, source: Size, target: Size) -> Tensor:
    """xy coordinates (..., 2) from pixels of an image of size `source` to one of size `target`, per axis."""
    factors = [target[1] / source[1], target[0] / source[0]]
    return points * torch.tensor(factors, dtype=points.dtype, device=points.device)


def scale_boxes(boxes: Tensor, source: Size, target: Size) -> Tensor:
    """xyxy boxes (..., 4), as `scale_points`."""
    return scale_points(boxes.unflatten(-1, (2, 2)), source, target).flatten(-2)


# An RGB image to the model's square input on the device that will compute on it: the picture crosses the bus once.
#
# Pixels travel as the bytes they are, through page-locked memory and without a wait; resizing and normalising happen there.
# The result is that of `sca.preprocessing.to_model_input` up to one grey level, by which libraries round differently.


@torch.inference_mode()
def to_model_input_on(
    images: Sequence[np.ndarray], config: ScaConfig, device: torch.device | str
) -> tuple[Tensor, list[Size]]:
    """Images uint8 (H, W, 3) to normalised pixels (B, 3, S, S) float32 on `device`, and each one's size in the square."""
    side, device = config.image_size, torch.device(device)
    canvas = torch.zeros((len(images), 3, side, side), device=device)
    mean = torch.tensor(config.pixel_mean, device=device).reshape(3, 1, 1)
    std = torch.tensor(config.pixel_std, device=device).reshape(3, 1, 1)
    sizes = []
    for index, rgb in enumerate(images):
        check_image(rgb)
        size = resized_size((rgb.shape[0], rgb.shape[1]), side)
        pixels = resize_on_device(upload(rgb, device), size, config.resize)
        canvas[index, :, : size[0], : size[1]] = (pixels / 255 - mean) / std
        sizes.append(size)
    return canvas, sizes


def upload(rgb: np.ndarray, device: torch.device) -> Tensor:
    """uint8 (H, W, 3) to the device, behind the work that is queued there; the caller does not wait."""
    pixels = torch.from_numpy(np.ascontiguousarray(rgb).copy())
    if device.type != "cuda":
        return pixels.to(device)
    return pixels.pin_memory().to(device, non_blocking=True)


def resize_on_device(pixels: Tensor, size: Size, method: str) -> Tensor:
    """uint8 (H, W, 3) to whole grey levels, float32 (3, *size), by "pil-bilinear" (antialiased) or "area"."""
    planes = pixels.permute(2, 0, 1).float()
    height, width = planes.shape[1:]
    if (height, width) == size:
        return planes
    if method == "area" and size[0] <= height and size[1] <= width:
        rows = area_weights(height, size[0], pixels.device)
        columns = area_weights(width, size[1], pixels.device)
        resized = rows @ planes @ columns.T
    else:
        assert method in ("area", "pil-bilinear"), method
        resized = F.interpolate(
            planes[None], size, mode="bilinear", align_corners=False, antialias=method == "pil-bilinear"
        )[0]
    return resized.round().clamp(0, 255)


@lru_cache(maxsize=64)
def area_weights(source: int, target: int, device: torch.device) -> Tensor:
    """(target, source) weights: each target cell is the mean of what it covers, cells at its edges in part."""
    edges = torch.linspace(0, source, target + 1, dtype=torch.float64)
    cells = torch.arange(source, dtype=torch.float64)
    covered = torch.minimum(edges[1:, None], cells + 1) - torch.maximum(edges[:-1, None], cells)
    weights = covered.clamp(min=0)
    return (weights / weights.sum(1, keepdim=True)).float().to(device)
