"""Masks that prompts gave, on their way to becoming regions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from pipeline.core.regions import box_iou
from sca.predictor import Segmentation

# Which masks are regions, and which are the same region twice.


def mask_statistics(logits: Tensor, offset: float) -> tuple[np.ndarray, np.ndarray]:
    """Of mask logits (N, h, w): area as a share of the picture, and stability, both (N,) float32.

    Stability (segment-anything): IoU of the masks at thresholds `+offset` and `-offset`; 0 for an empty mask.
    """
    # A mask whose size hangs on the exact threshold has no edge of its own: it is a guess of the decoder.
    area = (logits > 0).flatten(1).float().mean(1)
    strict = (logits > offset).flatten(1).float().sum(1)
    loose = (logits > -offset).flatten(1).float().sum(1)
    stability = strict / loose.clamp_min(1)
    return area.cpu().numpy(), stability.cpu().numpy()


def masks_to_boxes(masks: Tensor) -> np.ndarray:
    """Tight boxes (N, 4) float32 xyxy, in cells, of masks (N, h, w) bool; zeros for an empty mask."""
    boxes = np.zeros((len(masks), 4), np.float32)
    rows, columns = masks.any(dim=2).cpu().numpy(), masks.any(dim=1).cpu().numpy()
    for index in range(len(masks)):
        y, x = np.flatnonzero(rows[index]), np.flatnonzero(columns[index])
        if len(y) and len(x):
            boxes[index] = (x[0], y[0], x[-1] + 1, y[-1] + 1)
    return boxes


def distinct(masks: Tensor, rank: np.ndarray, same_iou: float, same_box_iou: float = 1.0) -> np.ndarray:
    """Indices of `masks` (N, h, w) bool that differ from every better-ranked one, best first.

    Two masks are the same region when their IoU exceeds `same_iou`, or that of their boxes `same_box_iou`.
    """
    if not len(masks):
        return np.zeros(0, np.int64)
    # Intersections of all pairs as one matrix product of the flattened masks.
    flat = masks.flatten(1).float()
    shared = flat @ flat.T
    area = flat.sum(1)
    iou = (shared / (area[:, None] + area[None] - shared).clamp_min(1)).cpu().numpy()
    # Ragged or holed masks of one thing may overlap badly and still fill one box.
    boxes = masks_to_boxes(masks)
    same = (iou > same_iou) | (box_iou(boxes, boxes) > same_box_iou)
    # Greedy, best first: a region goes only if a better one that stays says the same.
    kept: list[int] = []
    for index in np.argsort(-rank, kind="stable"):
        if not same[index, kept].any():
            kept.append(int(index))
    return np.array(kept, np.int64)


@dataclass(frozen=True, slots=True)
class Limits:
    """Least predicted IoU and stability, least and greatest share of the picture, that make a mask a region."""

    iou: float
    stability: float
    min_area: float
    max_area: float


@dataclass(frozen=True, slots=True)
class Candidates:
    """N masks of one batch of prompts, the best of each prompt.

    `prompts`: (N,) rows of `segmentation`. `boxes`: (P, 4) box prompts xyxy pixels, None for points. `by_box`: (N,)
    bool, the region is the prompt's box and not the mask. `best`: (P,) which of the K masks. `masks`: (N, h, w) bool
    on the decoder's grid, cut to the picture. `iou`, `area` (share of the picture), `stability`: (N,).
    """

    prompts: np.ndarray
    boxes: np.ndarray | None
    by_box: np.ndarray
    segmentation: Segmentation
    best: Tensor
    masks: Tensor
    iou: np.ndarray
    area: np.ndarray
    stability: np.ndarray

    def __len__(self) -> int:
        return len(self.prompts)

    def keep(self, index: np.ndarray) -> Candidates:
        """The candidates at `index` (ints)."""
        return replace(
            self,
            prompts=self.prompts[index],
            by_box=self.by_box[index],
            masks=self.masks[torch.as_tensor(index, device=self.masks.device)],
            iou=self.iou[index],
            area=self.area[index],
            stability=self.stability[index],
        )

    def passing(self, limits: Limits) -> Candidates:
        """Those whose masks are good enough."""
        return self.keep(np.flatnonzero(self._good(limits)))

    def or_boxes(self, limits: Limits, size: tuple[int, int]) -> Candidates:
        """All of them: where the mask is not good enough, the prompt's box takes its place.

        `size`: (H, W) of the picture that the boxes are in.
        """
        assert self.boxes is not None
        bad = ~self._good(limits)
        if not bad.any():
            return self
        masks = self.masks.clone()
        area = self.area.copy()
        # Something moves there, whatever the decoder makes of it: the box is a region without a mask.
        for row in np.flatnonzero(bad):
            masks[row] = False
            x1, y1, x2, y2 = self._grid_box(self.boxes[self.prompts[row]], size)
            masks[row, y1:y2, x1:x2] = True
            area[row] = float(masks[row].float().mean())
        return replace(self, masks=masks, by_box=bad, area=area)

    def mask_boxes(self, size: tuple[int, int]) -> np.ndarray:
        """Tight boxes (N, 4) float32 xyxy of the masks, in pixels of a picture of `size` (H, W)."""
        grid_height, grid_width = self.masks.shape[1:]
        return masks_to_boxes(self.masks) * np.array(
            [size[1] / grid_width, size[0] / grid_height] * 2, np.float32
        )

    def _good(self, limits: Limits) -> np.ndarray:
        """Which masks (N,) the model trusts, by its own word and by their stability, and which are of a sane size."""
        sure = (self.iou >= limits.iou) & (self.stability >= limits.stability)
        return np.asarray(sure & (self.area >= limits.min_area) & (self.area <= limits.max_area))

    def _grid_box(self, box: np.ndarray, size: tuple[int, int]) -> tuple[int, int, int, int]:
        """A box (4,) in pixels of a picture of `size` (H, W) as cells of the masks' grid: one cell at least."""
        grid_height, grid_width = self.masks.shape[1:]
        x1, y1, x2, y2 = box * np.array([grid_width / size[1], grid_height / size[0]] * 2)
        left, top = min(int(x1), grid_width - 1), min(int(y1), grid_height - 1)
        return left, top, max(left + 1, round(float(x2))), max(top + 1, round(float(y2)))


def coverage(groups: Sequence[Candidates], large: float) -> tuple[np.ndarray, np.ndarray]:
    """Bool pictures (h, w) of what regions cover: those up to a share `large` of the picture, and the larger ones."""
    # Small regions settle what they cover. Large ones (a street, a wall) have things on them that are still to be found.
    masks = torch.cat([group.masks for group in groups]).cpu().numpy()
    is_large = np.concatenate([group.area for group in groups]) > large
    nothing = np.zeros(masks.shape[1:], bool)
    small_cover = masks[~is_large].any(axis=0) if (~is_large).any() else nothing
    large_cover = masks[is_large].any(axis=0) if is_large.any() else nothing
    return np.asarray(small_cover), np.asarray(large_cover)
