"""Prompts for one image: boxes, points or masks, in pixels of the image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from sca.errors import UserError

if TYPE_CHECKING:  # what is wrong with a prompt is told before torch is imported, which takes seconds
    from torch import Tensor

    from sca.model_pictures import Size
    from sca.regions import Coordinates

# How sure a mask prompt is of each of its pixels, in logits. The mask decoder was trained on its own logits, most of
# which lie between 5 and 15 away from an edge; the value is a guess in that range.
_SURE = 8.0


@dataclass(frozen=True, slots=True)
class Prompts:
    """What to look at in one image of size (H, W), P prompts in its pixels.

    boxes (P, 4) xyxy; points (P, n, 2) xy with labels (P, n), see `Predictor.segment`; masks bool (P, H, W). A mask is
    a prompt by its box and by its shape, and stands alone.
    """

    boxes: Coordinates | None = None
    points: Coordinates | None = None
    labels: np.ndarray | Tensor | Sequence[Sequence[int]] | None = None
    masks: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.masks is not None and (self.boxes is not None or self.points is not None):
            raise UserError("masks stand alone: leave boxes and points out, a mask brings its own box")
        if self.boxes is None and self.points is None and self.masks is None:
            raise UserError("no prompt: give boxes, points or masks")

    def __len__(self) -> int:
        given = next(value for value in (self.masks, self.boxes, self.points) if value is not None)
        return len(given)

    def parts(self, size: int) -> Iterator[Prompts]:
        """The same prompts, `size` at a time."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        for start in range(0, len(self), size):
            cut = {name: value[start : start + size] for name, value in given.items() if value is not None}
            yield replace(self, **cut)

    def to_segment(self, original: Size, inner: Size, image_size: int, grid: int) -> dict[str, Any]:
        """The keyword arguments of `Predictor.segment` that mean these prompts.

        `original`, `inner`: (height, width) of the image and of its place in the input square of `image_size` pixels
        and `grid` cells a side. UserError for masks of another size than the image, and for empty ones.
        """
        if self.masks is None:
            return {"boxes": self.boxes, "points": self.points, "labels": self.labels}
        masks = np.asarray(self.masks)
        if masks.ndim != 3 or masks.shape[1:] != original:
            raise UserError(
                f"masks have shape {masks.shape}, the image is {original[1]} x {original[0]}: give (P, H, W) of its size"
            )
        masks = masks.astype(bool)
        return {"boxes": boxes_of_masks(masks), "mask_input": mask_logits(masks, inner, image_size, 4 * grid)}


def prompts_of_each(count: int, **given: Any) -> list[Prompts]:
    """The prompts of each of `count` images, from one sequence an image of every kind that is given."""
    for name, values in given.items():
        if values is not None and len(values) != count:
            raise UserError(f"{name} for {len(values)} images, but {count} images: give one entry an image")
    return [
        Prompts(**{name: None if values is None else values[i] for name, values in given.items()})
        for i in range(count)
    ]


def boxes_of_masks(masks: np.ndarray) -> np.ndarray:
    """Boxes float64 (P, 4) xyxy around bool masks (P, H, W), in pixels; x1 and y1 are behind the last pixel.

    UserError for an empty mask, which is nowhere.
    """
    boxes = np.zeros((len(masks), 4), np.float64)
    for index, mask in enumerate(masks):
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if not len(rows):
            raise UserError(f"mask {index} is empty: leave it out, or give one that covers a pixel")
        boxes[index] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return boxes


def mask_logits(masks: np.ndarray, inner: Size, image_size: int, side: int) -> Tensor:
    """Bool masks (P, H, W) as mask prompts (P, 1, side, side): logits over the whole input square.

    inner: (height, width) of the image's place in the input square of `image_size` pixels.
    """
    import torch
    import torch.nn.functional as F

    height, width = (max(round(extent * side / image_size), 1) for extent in inner)
    pixels = torch.from_numpy(masks).float().unsqueeze(1)
    shares = F.interpolate(pixels, (height, width), mode="bilinear", align_corners=False, antialias=True)
    square = F.pad(shares, (0, side - width, 0, side - height))
    return (2 * square - 1) * _SURE
