"""Losses of the mask branch: SAM's focal and dice with a minimum over masks, IoU regression."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


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
    index = torch.multinomial(weights, 1, generator=generator)
    labels = wanted.flatten(1).gather(1, index)[:, 0].long()
    return torch.cat([index % logits.shape[-1], index // logits.shape[-1]], dim=1).float(), labels
