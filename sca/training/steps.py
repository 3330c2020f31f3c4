"""The two kinds of training step: captions of regions, and their masks."""

from __future__ import annotations

import math
from copy import deepcopy
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from sca.data.batches import Batch
from sca.data.text import token_batch
from sca.modeling.image_encoder import ImageFeatures
from sca.modeling.sca import IGNORED_LABEL, Sca
from sca.modeling.timm_encoder import TimmEncoder
from sca.training.config import LossConfig, StageConfig
from sca.training.mask_losses import (
    MaskLosses,
    box_supervised_losses,
    error_click,
    sam_mask_losses,
    similar_neighbours,
)
from sca.training.word_probe import WordProbe

# From a batch's pictures and prompts to the mask decoder's tokens and features, as every training step begins.


def normalise(pixels: Tensor, model: Sca) -> Tensor:
    """uint8 (B, S, S, 3) to normalised float (B, 3, S, S), channels last in memory."""
    mean, std = pixels.new_tensor(model.config.pixel_mean, dtype=torch.float32), model.config.pixel_std
    scaled = (pixels.float() / 255.0 - mean) / pixels.new_tensor(std, dtype=torch.float32)
    return scaled.permute(0, 3, 1, 2)


def encode(
    model: Sca, pixels: Tensor, *, frozen_backbone: bool, with_caption_backbone: bool = False
) -> ImageFeatures:
    """Image features of normalised pixels, float32; a frozen backbone keeps no graph.

    Without what a caption backbone sees unless asked: it is the costliest part, and nothing else in the model depends on it.
    """
    encoder = model.image_encoder
    assert isinstance(encoder, TimmEncoder)
    with torch.set_grad_enabled(not frozen_backbone and torch.is_grad_enabled()):
        maps = encoder.backbone_maps(pixels)
    if encoder.caption_backbone is not None and not with_caption_backbone:
        pyramid = encoder.neck(*maps)
    else:
        pyramid = encoder.join(pixels, maps)
    # Pooling places its samples in the precision of the maps: half of it would move them by half a pixel.
    return ImageFeatures(*(part.float() for part in pyramid))


def pool_grid(grid: Tensor, factor: int) -> Tensor:
    """Averages over factor x factor cells of (B, C, g, g)."""
    return grid if factor == 1 else F.avg_pool2d(grid, factor)


def fuse_prompts(
    model: Sca, embedding: Tensor, image_pe: Tensor, batch: Batch, clicks: bool
) -> tuple[Tensor, Tensor]:
    """The mask decoder's tokens and image features for all of the batch's prompts."""
    points = batch.points.unsqueeze(1)
    foreground = torch.ones(points.shape[:2], dtype=torch.int64, device=points.device)
    sparse, dense = model.prompt_encoder(
        (points, foreground) if clicks else None, None if clicks else batch.prompt_boxes
    )
    side = embedding.shape[-1]
    return model.mask_decoder.fuse(embedding, image_pe, sparse, dense[..., :side, :side])


# Masks that get better under a language model that stays as it is: caption tokens are held to what they were.


class KeptTokens:
    """A model as it was when a stage began, for what its mixer says of any region ("learning without forgetting")."""

    def __init__(self, model: Sca) -> None:
        self._model = deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def of(self, batch: Batch, clicks: bool) -> Tensor:
        """The mixer's caption tokens (P, Nc, C) of a batch's prompts."""
        model = self._model
        image = encode(model, normalise(batch.pixels, model), frozen_backbone=True)
        tokens, features = fuse_prompts(model, image.embedding, model.image_pe(), batch, clicks)
        return mixed_tokens(model, image, tokens, features, batch)

    @property
    def state(self) -> dict[str, Tensor]:
        return self._model.state_dict()

    def load(self, state: dict[str, Any]) -> None:
        self._model.load_state_dict(state)


def mixed_tokens(model: Sca, image: ImageFeatures, tokens: Tensor, features: Tensor, batch: Batch) -> Tensor:
    """The mixer's caption tokens (P, Nc, C) from the mask decoder's tokens and image features."""
    regions = model.region_tokens(image, batch.prompt_boxes)
    mixed: Tensor = model.mixer(tokens, features, model.image_pe(), regions)
    return mixed


def token_drift(mixed: Tensor, kept: Tensor) -> Tensor:
    """Mean squared distance of caption tokens (P, Nc, C) from what they were, in units of their variance."""
    return F.mse_loss(mixed, kept) / kept.var().clamp(min=1e-6)


class StepLosses(NamedTuple):
    """total: what is minimised; the others are for the log (NaN where the step did not train it)."""

    total: Tensor
    caption: float = math.nan
    words: float = math.nan
    accuracy: float = math.nan
    reward: float = math.nan
    fits: float = math.nan
    sides: float = math.nan
    outline: float = math.nan
    extent_iou: float = math.nan
    mask: float = math.nan
    iou_error: float = math.nan
    best_iou: float = math.nan
    refined_iou: float = math.nan
    drift: float = math.nan


def caption_losses(
    model: Sca,
    tokenizer: Tokenizer,
    batch: Batch,
    *,
    stage: StageConfig,
    weights: LossConfig,
    max_tokens: int,
    clicks: bool,
    probe: WordProbe,
) -> StepLosses:
    """Teacher-forced loss of a batch's phrases, prompted by boxes or by one click each.

    As in the paper, captions do not train the mask decoder; they reach the encoder through the region tokens.
    """
    image = encode(
        model,
        normalise(batch.pixels, model),
        frozen_backbone=stage.backbone == "frozen",
        with_caption_backbone=stage.caption_backbone != "frozen",
    )
    pe = pool_grid(model.image_pe(), stage.key_pool)
    with torch.no_grad():
        tokens, features = fuse_prompts(model, pool_grid(image.embedding, stage.key_pool), pe, batch, clicks)
    regions = model.region_tokens(image, batch.prompt_boxes)
    mixed = model.mixer(tokens, features, pe, regions)
    _, caption_map = model.split_region_map(image.region_map)
    read = caption_map is not None
    caption_tokens = model.with_readings(mixed, image, batch.prompt_boxes) if read else mixed
    ids, mask = (part.to(batch.boxes.device) for part in token_batch(tokenizer, batch.phrases, max_tokens))
    caption = model.caption_loss(
        model.language_prefix(caption_tokens), ids, mask, label_smoothing=weights.label_smoothing
    )
    words = probe(mixed.mean(dim=1), ids)
    if regions is not None:
        words = words + probe(regions.mean(dim=1), ids)
    with torch.no_grad():
        real = caption.labels[:, 1:] != IGNORED_LABEL
        right = caption.logits[:, :-1].argmax(-1) == caption.labels[:, 1:]
    return StepLosses(
        weights.caption * caption.loss + weights.words * words,
        caption=caption.loss.item(),
        words=words.item(),
        accuracy=right[real].float().mean().item(),
    )


def mask_losses(
    model: Sca,
    batch: Batch,
    *,
    stage: StageConfig,
    weights: LossConfig,
    clicks: bool,
    generator: torch.Generator,
    kept: Tensor | None = None,
) -> StepLosses:
    """SAM's losses where a region's mask is known, for the first prompt and after a correcting click; else its box's.

    kept (P, Nc, C): caption tokens that the model is not to move away from.
    """
    image = encode(model, normalise(batch.pixels, model), frozen_backbone=stage.backbone == "frozen")
    tokens, features = fuse_prompts(model, image.embedding, model.image_pe(), batch, clicks)
    logits = model.mask_decoder.predict_mask_logits(tokens, features, slice(0, None)).float()
    iou = model.mask_decoder.iou_prediction_head(tokens[:, 0]).float()
    total, outline = _box_losses(model, batch, logits, iou, weights, clicks)
    drift = total.new_tensor(math.nan)
    if kept is not None:
        drift = token_drift(mixed_tokens(model, image, tokens, features, batch), kept)
        total = total + weights.drift * drift
    rows, target = batch.mask_rows, batch.masks
    if len(rows) == 0:
        return StepLosses(
            total, outline=outline.mask.item(), extent_iou=outline.best_iou.item(), drift=drift.item()
        )
    share = len(rows) / len(logits)
    logits, iou = logits[rows], iou[rows]
    first = sam_mask_losses(logits, iou, target, focal=weights.focal, dice=weights.dice, ambiguous=clicks)
    few = torch.randperm(len(rows), generator=generator)[: stage.refined_masks].to(rows.device)
    again = _refine(model, image, batch, few, logits.detach(), iou.detach(), clicks, generator)
    refined = sam_mask_losses(*again, target[few], focal=weights.focal, dice=weights.dice, ambiguous=False)
    total = total + share * (first.mask + weights.iou * first.iou)
    total = total + len(few) / len(batch.phrases) * (refined.mask + weights.iou * refined.iou)
    return StepLosses(
        total,
        outline=outline.mask.item(),
        extent_iou=outline.best_iou.item(),
        mask=first.mask.item(),
        iou_error=first.iou.item(),
        best_iou=first.best_iou.item(),
        refined_iou=refined.best_iou.item(),
        drift=drift.item(),
    )


def _box_losses(
    model: Sca, batch: Batch, logits: Tensor, iou: Tensor, weights: LossConfig, clicks: bool
) -> tuple[Tensor, MaskLosses]:
    """What the boxes of the regions without a mask teach: its share of the batch's loss, and the losses."""
    known = torch.zeros(len(logits), dtype=torch.bool, device=logits.device)
    known[batch.mask_rows] = True
    rows = (~known).nonzero()[:, 0]
    if len(rows) == 0:
        nothing = logits.new_zeros(())
        return nothing, MaskLosses(nothing, nothing, nothing)
    cells = batch.boxes[rows] * (logits.shape[-1] / model.config.image_size)
    similar = similar_neighbours(batch.pixels, logits.shape[-1])
    regions = len(batch.phrases) // len(batch.pixels)
    losses = box_supervised_losses(
        logits[rows],
        iou[rows],
        cells,
        similar[rows // regions],
        projection=weights.projection,
        pairwise=weights.pairwise,
        ambiguous=clicks,
    )
    share = len(rows) / len(logits)
    return share * (losses.mask + weights.iou * losses.iou), losses


def _refine(
    model: Sca,
    image: ImageFeatures,
    batch: Batch,
    few: Tensor,
    logits: Tensor,
    iou: Tensor,
    clicks: bool,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Mask logits and IoU of some mask rows after a correcting click, with the previous mask as a prompt."""
    rows, logits, iou = batch.mask_rows[few], logits[few], iou[few]
    best = iou[:, 1:].argmax(1) + 1 if clicks else torch.zeros_like(rows)
    previous = logits[torch.arange(len(rows), device=rows.device), best]
    cells, labels = error_click(previous, batch.masks[few], generator)
    points = ((cells + 0.5) * (model.config.image_size / logits.shape[-1])).unsqueeze(1)
    point_labels = labels.unsqueeze(1)
    boxes = None
    if clicks:
        points = torch.cat([batch.points[rows].unsqueeze(1), points], dim=1)
        point_labels = torch.cat([torch.ones_like(point_labels), point_labels], dim=1)
    else:
        boxes = batch.prompt_boxes[rows]
    regions = len(batch.phrases) // len(batch.pixels)
    sparse, dense = model.prompt_encoder((points, point_labels), boxes, previous.unsqueeze(1))
    tokens, features = model.mask_decoder.fuse(
        image.embedding[rows // regions], model.image_pe(), sparse, dense
    )
    masks = model.mask_decoder.predict_mask_logits(tokens, features, slice(0, None))
    return masks.float(), model.mask_decoder.iou_prediction_head(tokens[:, 0]).float()
