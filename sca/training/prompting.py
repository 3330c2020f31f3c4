"""From a batch's pictures and prompts to the mask decoder's tokens and features, as every training step begins."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sca.data.batches import Batch
from sca.modeling.image_encoder import ImageFeatures
from sca.modeling.sca import Sca
from sca.modeling.timm_encoder import TimmEncoder


def normalise(pixels: Tensor, model: Sca) -> Tensor:
    """uint8 (B, S, S, 3) to normalised float (B, 3, S, S), channels last in memory."""
    mean, std = pixels.new_tensor(model.config.pixel_mean, dtype=torch.float32), model.config.pixel_std
    scaled = (pixels.float() / 255.0 - mean) / pixels.new_tensor(std, dtype=torch.float32)
    return scaled.permute(0, 3, 1, 2)


def encode(model: Sca, pixels: Tensor, *, frozen_backbone: bool) -> ImageFeatures:
    """Image features of normalised pixels; a frozen backbone keeps no graph.

    Without what a caption backbone sees, which only the stage of the language model learns to read: it is the
    costliest part, and nothing else in the model depends on it.
    """
    encoder = model.image_encoder
    assert isinstance(encoder, TimmEncoder)
    with torch.set_grad_enabled(not frozen_backbone and torch.is_grad_enabled()):
        maps = encoder.backbone_maps(pixels)
    if encoder.caption_backbone is not None:
        return ImageFeatures(*encoder.neck(*maps))
    return ImageFeatures(*encoder.join(pixels, maps))


def pool_grid(grid: Tensor, factor: int) -> Tensor:
    """Averages over factor x factor cells of (B, C, g, g)."""
    return grid if factor == 1 else F.avg_pool2d(grid, factor)


def fuse_prompts(
    model: Sca, embedding: Tensor, image_pe: Tensor, batch: Batch, clicks: bool
) -> tuple[Tensor, Tensor]:
    """The mask decoder's tokens and image features for all of the batch's prompts."""
    points = batch.points.unsqueeze(1)
    foreground = torch.ones(points.shape[:2], dtype=torch.int64)
    sparse, dense = model.prompt_encoder(
        (points, foreground) if clicks else None, None if clicks else batch.prompt_boxes
    )
    side = embedding.shape[-1]
    return model.mask_decoder.fuse(embedding, image_pe, sparse, dense[..., :side, :side])
