"""Masks learnt from boxes alone: BoxInst's projection and pairwise losses (arXiv 2012.02310, sections 3.1 and 3.2)."""

from __future__ import annotations

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sca.training.losses import MaskLosses, least_of_masks

_DILATION = 2  # cells between the two ends of an edge
_DIRECTIONS = (
    (0, 1),
    (1, 0),
    (1, 1),
    (1, -1),
)  # the other four of the eight neighbours are these, seen from there
_SIMILAR = 2.4  # CIELAB distance below which two cells most likely belong to one thing: exp(-2.4 / 2) = 0.3


def box_supervised_losses(
    logits: Tensor,
    iou: Tensor,
    boxes: Tensor,
    similar: Tensor,
    *,
    projection: float,
    pairwise: float,
    ambiguous: bool,
) -> MaskLosses:
    """Losses of R prompts whose true mask is unknown, but not its box.

    logits (R, 4, H, W), iou (R, 4); boxes (R, 4) xyxy in cells of the logits; similar (R, 4, H, W) from
    `similar_neighbours`. The IoU head learns the IoU of the mask's own box with the true one.
    """
    inside = box_cells(boxes, logits.shape[-2:])
    each = projection * projection_loss(logits, inside) + pairwise * pairwise_loss(logits, inside, similar)
    with torch.no_grad():
        true_iou = extent_iou(logits > 0, inside)
    return least_of_masks(each, iou, true_iou, ambiguous=ambiguous)


def box_cells(boxes: Tensor, shape: torch.Size | tuple[int, ...]) -> Tensor:
    """Boolean (R, H, W): the cells whose centre lies in boxes (R, 4) xyxy given in cells; at least one a box."""
    rows = _interval(boxes[:, 1], boxes[:, 3], shape[-2])
    columns = _interval(boxes[:, 0], boxes[:, 2], shape[-1])
    return rows.unsqueeze(2) & columns.unsqueeze(1)


def _interval(low: Tensor, high: Tensor, length: int) -> Tensor:
    centres = torch.arange(length) + 0.5
    within = (centres >= low.unsqueeze(1)) & (centres <= high.unsqueeze(1))
    middle = ((low + high) / 2).long().clamp(0, length - 1).unsqueeze(1)
    return within | (torch.arange(length) == middle)


def projection_loss(logits: Tensor, inside: Tensor) -> Tensor:
    """(R, N) of logits (R, N, H, W): dice between the mask's shadow on either axis and the box's (R, H, W)."""
    losses = []
    for axis in (-1, -2):
        shadow = logits.amax(axis).sigmoid()
        wanted = inside.any(axis).unsqueeze(1).float()
        overlap = 2 * (shadow * wanted).sum(-1)
        losses.append(1 - overlap / ((shadow**2).sum(-1) + (wanted**2).sum(-1)).clamp(min=1e-6))
    return losses[0] + losses[1]


def pairwise_loss(logits: Tensor, inside: Tensor, similar: Tensor) -> Tensor:
    """(R, N) of logits (R, N, H, W): neighbours of like colour in or at the box (R, H, W) should agree.

    Edges that cross the box's border carry in that the outside is background.
    """
    foreground, background = F.logsigmoid(logits), F.logsigmoid(-logits)
    total, count = logits.new_zeros(logits.shape[:2]), logits.new_zeros(logits.shape[0], 1)
    for direction, step in enumerate(_DIRECTIONS):
        fore, back = _neighbour(foreground, step), _neighbour(background, step)
        agree = torch.logaddexp(foreground + fore, background + back)
        touched = inside | (_neighbour(inside.float(), step) > 0)
        edges = (touched & similar[:, direction]).unsqueeze(1).float()
        total = total - (agree * edges).sum((-2, -1))
        count = count + edges.sum((-2, -1))
    return total / count.clamp(min=1)


def similar_neighbours(pixels: Tensor, side: int) -> Tensor:
    """Boolean (B, 4, side, side): whether a cell's neighbour in each direction exists and has nearly its colour.

    pixels uint8 (B, S, S, 3) RGB.
    """
    small = [cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA) for picture in pixels.numpy()]
    lab = [cv2.cvtColor(picture.astype(np.float32) / 255, cv2.COLOR_RGB2LAB) for picture in small]
    colours = torch.from_numpy(np.stack(lab)).permute(0, 3, 1, 2)
    exists = torch.ones(len(lab), 1, side, side)
    found = []
    for step in _DIRECTIONS:
        near = (colours - _neighbour(colours, step)).norm(dim=1) < _SIMILAR
        found.append(near & (_neighbour(exists, step)[:, 0] > 0))
    return torch.stack(found, dim=1)


def _neighbour(values: Tensor, step: tuple[int, int]) -> Tensor:
    """(..., H, W) moved so that each cell holds its neighbour's value, zero beyond the edge."""
    down, right = (_DILATION * part for part in step)
    padded = F.pad(values, (max(-right, 0), max(right, 0), 0, down))
    return padded[..., down:, max(right, 0) : max(right, 0) + values.shape[-1]]


def extent_iou(found: Tensor, inside: Tensor) -> Tensor:
    """(R, N): IoU of the bounding boxes of masks found (R, N, H, W) with boxes inside (R, H, W); 0 for no mask."""
    low_x, high_x = _extent(found.any(-2))
    low_y, high_y = _extent(found.any(-1))
    wanted = inside.unsqueeze(1)
    left, right = _extent(wanted.any(-2))
    top, bottom = _extent(wanted.any(-1))
    width = (torch.minimum(high_x, right) - torch.maximum(low_x, left) + 1).clamp(min=0)
    height = (torch.minimum(high_y, bottom) - torch.maximum(low_y, top) + 1).clamp(min=0)
    overlap = (width * height).float()
    area = (high_x - low_x + 1) * (high_y - low_y + 1)
    union = area + (right - left + 1) * (bottom - top + 1) - overlap
    return torch.where(found.flatten(2).any(-1), overlap / union.clamp(min=1), 0.0)


def _extent(present: Tensor) -> tuple[Tensor, Tensor]:
    """First and last true index of (..., L)."""
    marks = present.int()
    return marks.argmax(-1), present.shape[-1] - 1 - marks.flip(-1).argmax(-1)
