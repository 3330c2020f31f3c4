"""Regions as a video shows them: found by points and in proposed boxes, in a whole picture and in a window of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import masks_to_boxes, nms

from sca.predictor import Predictor

# As the video path looks: windows of this share of either side, and twins told by boxes.
_WINDOW = 0.6
_TWINS = 0.6
# A window's border that is not the picture's own cuts what touches it (share of the window's side).
_BORDER = 0.01
# What stability counts beside the predicted IoU when masks are ranked.
_STABILITY = 0.7
# And in crops around small regions: what the model's input shows with fewer pixels than these, in so many of its sides.
_SMALL, _ROOM, _LEAST_SIDE = 72, 2.5, 40
# Least score of a proposed box, as in a run.
_PROPOSED = 0.3
# Least and greatest share of the picture.
_AREAS = (0.0005, 0.9)


@dataclass(frozen=True)
class FoundRegions:
    """N regions of one view. `boxes` (N, 4) float64 xyxy in pixels of the picture; `tokens` (N, Nc, C) float32.

    `fits` (N,) float32: how much each box looks like a thing's own in that view (`Proposals.fits`).
    """

    boxes: np.ndarray
    tokens: Tensor
    fits: np.ndarray

    def __len__(self) -> int:
        return len(self.boxes)


def a_window(rng: np.random.Generator, height: int, width: int) -> tuple[int, int, int, int]:
    """One of the four overlapping windows, xyxy pixels."""
    high, wide = round(_WINDOW * height), round(_WINDOW * width)
    x0, y0 = int(rng.integers(2)) * (width - wide), int(rng.integers(2)) * (height - high)
    return x0, y0, x0 + wide, y0 + high


@torch.inference_mode()
def find_regions(
    predictor: Predictor,
    rgb: np.ndarray,
    window: tuple[int, int, int, int],
    side: int,
    most: int,
    rng: np.random.Generator,
) -> FoundRegions:
    """Up to `most` regions of a `window` (xyxy) of a picture (H, W, 3), drawn from what `side` x `side` points find.

    Every other one is asked for again by its box, as a track is that is known already.
    """
    x0, y0, x1, y1 = window
    width, height = x1 - x0, y1 - y0
    encoding = predictor.encode(np.ascontiguousarray(rgb[y0:y1, x0:x1]))
    grid = (np.arange(side) + rng.uniform(0.25, 0.75, 2)[:, None]) / side
    points = np.stack(np.meshgrid(grid[0] * width, grid[1] * height), -1).reshape(-1, 1, 2)
    found = predictor.segment(encoding, points=points)
    # 1. All masks of all points, as far as they are good enough and not cut by the window.
    cells = found.low_res_logits.shape[-1] / predictor.config.image_size
    rows, columns = (int(np.ceil(extent * cells)) for extent in encoding.input_size)
    logits = found.low_res_logits[:, :, :rows, :columns].flatten(0, 1)
    settings = predictor.automatic
    offset = settings.stability_score_offset
    inside = logits > 0
    area = inside.flatten(1).float().mean(1) * (width * height) / (rgb.shape[0] * rgb.shape[1])
    stability = (logits > offset).flatten(1).sum(1) / (logits > -offset).flatten(1).sum(1).clamp_min(1)
    iou = found.iou.flatten()
    good = (iou >= settings.pred_iou_thresh) & (stability >= settings.stability_score_thresh)
    good &= (area >= _AREAS[0]) & (area <= _AREAS[1])
    index = good.nonzero()[:, 0]
    if not len(index):
        return _nothing(predictor)
    edges = masks_to_boxes(inside[index])
    edges[:, 2:] += 1
    boxes = edges * torch.tensor([width / columns, height / rows] * 2)
    margin = torch.tensor([width, height]) * _BORDER
    whole = ((boxes[:, :2] >= margin) | (torch.tensor([x0, y0]) == 0)).all(1)
    far = torch.tensor([x1 == rgb.shape[1], y1 == rgb.shape[0]])
    whole &= ((boxes[:, 2:] <= torch.tensor([width, height]) - margin) | far).all(1)
    index, boxes = index[whole], boxes[whole]
    # 2. Each once, the better one of twins.
    kept = nms(boxes, (iou + _STABILITY * stability)[index], _TWINS)
    kept = kept[torch.from_numpy(rng.permutation(len(kept))[:most].copy())]
    index, boxes = index[kept], boxes[kept]
    # 3. What the captioner is told: half of them from a point, half from their box.
    kinds = found.iou.shape[1]
    half = len(index) // 2
    parts = [predictor.region_features(encoding, found.select(index[:half] // kinds), boxes[:half])]
    if len(index) > half:
        again = predictor.segment(encoding, boxes=boxes[half:])
        parts.append(predictor.region_features(encoding, again, boxes[half:]))
    own = boxes.numpy().astype(np.float64)
    fits = predictor.propose(encoding).fits(own)
    return FoundRegions(own + np.array([x0, y0, x0, y0]), torch.cat(parts), fits)


@torch.inference_mode()
def proposed_regions(
    predictor: Predictor,
    rgb: np.ndarray,
    window: tuple[int, int, int, int],
    most: int,
    rng: np.random.Generator,
) -> FoundRegions:
    """Up to `most` regions of a `window` (xyxy) of a picture (H, W, 3), drawn from the boxes that the model proposes there."""
    x0, y0, x1, y1 = window
    encoding = predictor.encode(np.ascontiguousarray(rgb[y0:y1, x0:x1]))
    proposed = predictor.propose(encoding)
    boxes = proposed.boxes[proposed.scores >= _PROPOSED]
    boxes = boxes[rng.permutation(len(boxes))[:most]]
    if not len(boxes):
        return _nothing(predictor)
    found = predictor.segment(encoding, boxes=boxes)
    tokens = predictor.region_features(encoding, found, boxes)
    return FoundRegions(boxes.astype(np.float64) + np.array([x0, y0, x0, y0]), tokens, proposed.fits(boxes))


@torch.inference_mode()
def look_closer(
    predictor: Predictor, rgb: np.ndarray, boxes: np.ndarray, most: int, rng: np.random.Generator
) -> FoundRegions:
    """Up to `most` small regions among `boxes` (N, 4) xyxy of a picture (H, W, 3), each as a crop around it shows it."""
    height, width = rgb.shape[:2]
    longest = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0.0)
    small = np.flatnonzero(longest * predictor.config.image_size / max(height, width) < _SMALL)
    small = small[rng.permutation(len(small))[:most]]
    crops, own = [], []
    for x0, y0, x1, y1 in boxes[small]:
        side = max(_ROOM * max(x1 - x0, y1 - y0), _LEAST_SIDE)
        wide, high = min(side, width), min(side, height)
        left = int(np.clip(round((x0 + x1 - wide) / 2), 0, width - wide))
        top = int(np.clip(round((y0 + y1 - high) / 2), 0, height - high))
        crops.append(np.ascontiguousarray(rgb[top : top + int(high), left : left + int(wide)]))
        own.append(np.array([[x0 - left, y0 - top, x1 - left, y1 - top]]))
    tokens, fits = [], []
    for encoding, box in zip(predictor.encode_batch(crops), own, strict=True):
        tokens.append(predictor.region_features(encoding, predictor.segment(encoding, boxes=box), box))
        fits.append(predictor.propose(encoding).fits(box))
    if not tokens:
        return _nothing(predictor)
    return FoundRegions(boxes[small], torch.cat(tokens), np.concatenate(fits))


def _nothing(predictor: Predictor) -> FoundRegions:
    shape = (0, predictor.config.num_region_tokens, predictor.config.width)
    return FoundRegions(np.zeros((0, 4)), torch.zeros(shape), np.zeros(0, np.float32))
