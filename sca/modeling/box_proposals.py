"""Boxes of things, proposed from the image encoder's own features: box prompts where a raster of clicks finds only parts.

Not in the paper. A dense head without classes, after the anchor-free detectors (FCOS; YOLOX for how it is taught): every
cell of the maps at strides 8, 16 and 32 says how far the sides of "its" thing are, and how well that box fits one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional as F

from sca.config import ScaConfig

STRIDES = (8, 16, 32)
# A fresh head calls a cell in a hundred a thing, so that the many empty ones do not drown the first steps (focal loss, RetinaNet).
_FRESH_LOGIT = -4.6


class ProposedBoxes(NamedTuple):
    """Of every cell, finest map first: `boxes` (B, N, 4) xyxy pixels of the input and `scores` (B, N), the IoU with a thing that is
    expected of it, 0..1."""

    boxes: Tensor
    scores: Tensor


class _Block(nn.Module):
    """Residual depthwise-separable convolution, 5 x 5, with channel layer norm."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 5, padding=2, groups=channels, bias=False)
        self.norm = LayerNorm2d(channels)
        self.wide = nn.Conv2d(channels, 2 * channels, 1)
        self.narrow = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.narrow(F.relu(self.wide(self.norm(self.depthwise(x)))))


class BoxProposals(nn.Module):
    """A small feature pyramid and a head over the encoder's two maps: the image embedding (stride 16) and the finer map (8)."""

    def __init__(self, config: ScaConfig) -> None:
        super().__init__()
        assert config.proposals is not None
        width, wide, fine = (
            config.proposals.width,
            config.encoder.out_channels,
            config.encoder.region_channels,
        )
        self.fine = nn.Sequential(nn.Conv2d(fine, width, 1), LayerNorm2d(width))
        self.middle = nn.Sequential(nn.Conv2d(wide, width, 1), LayerNorm2d(width))
        self.coarse = nn.Sequential(nn.Conv2d(wide, width, 2, stride=2), LayerNorm2d(width))
        self.down = nn.ModuleList(_Block(width) for _ in STRIDES)
        self.up = nn.ModuleList(_Block(width) for _ in STRIDES)
        self.tower = nn.Sequential(_Block(width), LayerNorm2d(width))
        self.fits = nn.Conv2d(width, 1, 1)
        self.sides = nn.Conv2d(width, 4, 1)
        nn.init.constant_(self.fits.bias, _FRESH_LOGIT)  # type: ignore[arg-type]

    def features(self, embedding: Tensor, fine: Tensor) -> list[Tensor]:
        """(B, width, S / stride, S / stride) of every stride: what the predictions are linear in."""
        coarse, middle, fine = self.coarse(embedding), self.middle(embedding), self.fine(fine)
        # 1. Meaning flows from the coarse map to the fine one, then place and detail back.
        coarse = self.down[2](coarse)
        middle = self.down[1](middle + F.interpolate(coarse, scale_factor=2.0, mode="nearest"))
        fine = self.down[0](fine + F.interpolate(middle, scale_factor=2.0, mode="nearest"))
        fine = self.up[0](fine)
        middle = self.up[1](middle + F.max_pool2d(fine, 2))
        coarse = self.up[2](coarse + F.max_pool2d(middle, 2))
        # 2. One head for all: a thing looks alike at any size.
        return [self.tower(part) for part in (fine, middle, coarse)]

    def predictions(self, features: Sequence[Tensor]) -> ProposedBoxes:
        """The boxes of all cells from their features."""
        boxes, scores = [], []
        for part, stride in zip(features, STRIDES, strict=True):
            rows, columns = part.shape[-2:]
            y = (torch.arange(rows, device=part.device, dtype=part.dtype) + 0.5) * stride
            x = (torch.arange(columns, device=part.device, dtype=part.dtype) + 0.5) * stride
            sides = F.softplus(self.sides(part)) * (2 * stride)
            left, top, right, bottom = sides.unbind(1)
            place = torch.stack([x - left, y[:, None] - top, x + right, y[:, None] + bottom], dim=-1)
            boxes.append(place.flatten(1, 2))
            scores.append(self.fits(part).sigmoid().flatten(1))
        return ProposedBoxes(torch.cat(boxes, dim=1), torch.cat(scores, dim=1))

    def forward(self, embedding: Tensor, fine: Tensor) -> ProposedBoxes:
        """embedding (B, C, S / 16, S / 16) and fine (B, C_fine, S / 8, S / 8) to the boxes of all cells."""
        return self.predictions(self.features(embedding, fine))
