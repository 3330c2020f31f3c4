"""Masks learnt from boxes alone: BoxInst's projection and pairwise losses (arXiv 2012.02310, sections 3.1 and 3.2)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# Losses of the mask branch: SAM's focal and dice with a minimum over masks, IoU regression.


class MaskLosses(NamedTuple):
    """Scalars: the mask loss after the minimum over masks, the IoU head's loss; best_iou: mean IoU of the best mask."""

    mask: Tensor
    iou: Tensor
    best_iou: Tensor


def dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """1 - soft dice of (..., H, W) logits and targets in 0..1: (...)."""
    probability = logits.sigmoid()
    overlap = 2 * (probability * target).sum((-2, -1))
    return 1 - (overlap + 1) / (probability.sum((-2, -1)) + target.sum((-2, -1)) + 1)


def focal_loss(logits: Tensor, target: Tensor, gamma: float = 2.0, alpha: float = 0.25) -> Tensor:
    """Mean focal loss of (..., H, W) logits and targets in 0..1: (...)."""
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    probability = logits.sigmoid()
    miss = probability + target - 2 * probability * target
    balance = alpha * target + (1 - alpha) * (1 - target)
    return (balance * miss**gamma * entropy).mean((-2, -1))


def mask_iou(logits: Tensor, target: Tensor) -> Tensor:
    """IoU of the thresholded masks (logit > 0, target > 0.5): (...)."""
    found, wanted = logits > 0, target > 0.5
    overlap = (found & wanted).sum((-2, -1)).float()
    return overlap / (found | wanted).sum((-2, -1)).clamp(min=1).float()


def sam_mask_losses(
    logits: Tensor, iou: Tensor, target: Tensor, *, focal: float, dice: float, ambiguous: bool
) -> MaskLosses:
    """SAM's recipe on all four masks of R prompts.

    logits (R, 4, H, W), iou (R, 4), target (R, H, W) in 0..1. Mask 0 answers unambiguous prompts and is trained
    always (at a third for `ambiguous` ones); of masks 1..3 only the best one is.
    """
    wanted = target.unsqueeze(1).expand_as(logits)
    each = focal * focal_loss(logits, wanted) + dice * dice_loss(logits, wanted)
    with torch.no_grad():
        true_iou = mask_iou(logits, wanted)
    return least_of_masks(each, iou, true_iou, ambiguous=ambiguous)


def least_of_masks(each: Tensor, iou: Tensor, true_iou: Tensor, *, ambiguous: bool) -> MaskLosses:
    """SAM's minimum over masks. each (R, 4): loss of every mask; iou, true_iou (R, 4): predicted and reached."""
    best = each[:, 1:].min(dim=1).values.mean()
    single = each[:, 0].mean() * (1 / 3 if ambiguous else 1.0)
    return MaskLosses(best + single, F.mse_loss(iou, true_iou), true_iou[:, 1:].max(1).values.mean())


def error_click(logits: Tensor, target: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A correcting click per mask: a random cell where the mask and the target disagree.

    logits, target (R, H, W). Returns cells (R, 2) xy and labels (R,): 1 where foreground was missed, else 0.
    """
    found, wanted = logits > 0, target > 0.5
    wrong = (found ^ wanted).flatten(1).float()
    # A perfect mask gets one more click on its foreground.
    weights = torch.where(wrong.sum(1, keepdim=True) > 0, wrong, wanted.flatten(1).float()) + 1e-9
    index = torch.multinomial(weights.cpu(), 1, generator=generator).to(weights.device)
    labels = wanted.flatten(1).gather(1, index)[:, 0].long()
    return torch.cat([index % logits.shape[-1], index // logits.shape[-1]], dim=1).float(), labels


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
    places = torch.arange(length, device=low.device)
    centres = places + 0.5
    within = (centres >= low.unsqueeze(1)) & (centres <= high.unsqueeze(1))
    middle = ((low + high) / 2).long().clamp(0, length - 1).unsqueeze(1)
    return within | (places == middle)


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
    colours = rgb_to_lab(F.adaptive_avg_pool2d(pixels.permute(0, 3, 1, 2).float() / 255, side))
    exists = torch.ones(len(colours), 1, side, side, device=pixels.device)
    found = []
    for step in _DIRECTIONS:
        near = (colours - _neighbour(colours, step)).norm(dim=1) < _SIMILAR
        found.append(near & (_neighbour(exists, step)[:, 0] > 0))
    return torch.stack(found, dim=1)


def rgb_to_lab(rgb: Tensor) -> Tensor:
    """sRGB (B, 3, H, W) in 0..1 to CIELAB under D65 (IEC 61966-2-1, CIE 15)."""
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb.clamp(min=0) + 0.055) / 1.055) ** 2.4)
    # Rows: X, Y and Z as shares of the white point's.
    to_xyz = rgb.new_tensor(
        [
            [0.412453 / 0.950456, 0.357580 / 0.950456, 0.180423 / 0.950456],
            [0.212671, 0.715160, 0.072169],
            [0.019334 / 1.088754, 0.119193 / 1.088754, 0.950227 / 1.088754],
        ]
    )
    xyz = torch.einsum("ij,bjhw->bihw", to_xyz, linear)
    bent = torch.where(xyz > 0.008856, xyz.clamp(min=1e-6) ** (1 / 3), 7.787 * xyz + 16 / 116)
    x, y, z = bent.unbind(dim=1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=1)


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
