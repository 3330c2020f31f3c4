"""What the region reader reads: a linear map of a classifier's features; not in the paper."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from difflib import get_close_matches
from typing import NamedTuple

import timm
import torch
from timm.models import EfficientNet, FeatureInfo
from torch import Tensor, nn
from torch.nn import functional as F

from sca.errors import UserError


def imagenet_backbone(name: str, strides: Sequence[int]) -> tuple[nn.Module, nn.Module, tuple[int, ...]]:
    """An EfficientNet of timm's for features at `strides` (of 8, 16 and 32), random; its head; all channels.

    The head is the classifier's last convolution: its rectified features are what ImageNet's classes are linear in.
    """
    if not timm.is_model(name):
        near = get_close_matches(name, timm.list_models(), n=1)
        hint = f", did you mean {near[0]!r}?" if near else ""
        raise UserError(f"timm knows no backbone {name!r}{hint or ': name one of its models'}")
    backbone = timm.create_model(
        name,
        pretrained=False,
        features_only=True,
        out_indices=tuple({8: 2, 16: 3, 32: 4}[s] for s in strides),
    )
    info: FeatureInfo = backbone.feature_info  # type: ignore[assignment]
    whole = timm.create_model(name, pretrained=False)
    assert isinstance(whole, EfficientNet), f"{name} is not an EfficientNet: name one of timm's"
    head = nn.Sequential(OrderedDict(conv_head=whole.conv_head, bn2=whole.bn2))
    return backbone, head, (*info.channels(), whole.num_features)


class CaptionSources(NamedTuple):
    """Features at stride 16, at stride 32 and of the rectified head at stride 32, of one picture size."""

    x16: Tensor
    x32: Tensor
    head: Tensor


class CaptionBackbone(nn.Module):
    """A second backbone for captions alone, which keeps its ImageNet weights, on a picture of `size` x `size`.

    A backbone that learns masks and captions on a few thousand pictures forgets what it knew of other things; and
    names ask for finer pictures than outlines do.
    """

    def __init__(self, name: str, size: int) -> None:
        super().__init__()
        self.name, self.size = name, size
        self.backbone, self.head, self.channels = imagenet_backbone(name, (16, 32))

    def forward(self, pixels: Tensor) -> CaptionSources:
        """Normalised pixels (B, 3, S, S) of any side, brought to `size`."""
        x16, x32 = self.backbone(resized(pixels, self.size))
        return CaptionSources(x16, x32, self.head(x32))


class CaptionMap(nn.Module):
    """A linear map of `CaptionSources`, brought to the resolution of the finer map.

    Linear, so that pooling commutes with it: it can be trained on pooled features that are computed once.
    `mean`, `deviation` (c16 + c32 + c_head): of the features over training images.
    """

    mean: Tensor
    deviation: Tensor
    dropout = 0.0
    """Share of the channels that `forward` leaves out in training."""

    def __init__(self, channels: Sequence[int], out_dim: int) -> None:
        super().__init__()
        self.channels = list(channels)
        self.register_buffer("mean", torch.zeros(sum(channels)))
        self.register_buffer("deviation", torch.ones(sum(channels)))
        self.project = nn.Linear(sum(channels), out_dim)

    def forward(self, sources: CaptionSources, side: int) -> Tensor:
        """(B, out_dim, side, side)."""
        if self.training and self.dropout:
            # About the mean, so that a channel left out says "as usual" and not "nothing".
            middle = self.mean.split(self.channels)
            sources = CaptionSources(
                *(
                    F.dropout2d(source - at[:, None, None], self.dropout) + at[:, None, None]
                    for source, at in zip(sources, middle, strict=True)
                )
            )
        weight = self.project.weight / self.deviation
        bias = self.project.bias - weight @ self.mean
        w16, w32, w_head = (part[:, :, None, None] for part in weight.split(self.channels, dim=1))
        # Projected before they are enlarged, which is the same and much less work.
        coarse = F.conv2d(sources.x32, w32) + F.conv2d(sources.head, w_head, bias)
        return resized(F.conv2d(sources.x16, w16), side) + resized(coarse, side)

    def stacked(self, sources: CaptionSources, side: int) -> Tensor:
        """The features that `forward` is linear in, at its own resolution: (B, c16 + c32 + c_head, side, side)."""
        return torch.cat([resized(source, side) for source in sources], dim=1)

    def of_pooled(self, pooled: Tensor, dropout: float = 0.0) -> Tensor:
        """What `forward` would give where its `stacked` sources have been pooled to (..., c16 + c32 + c_head)."""
        normal = (pooled - self.mean) / self.deviation
        return self.project(F.dropout(normal, dropout, self.training))

    @torch.no_grad()
    def measure(self, stacked: Tensor) -> None:
        """Take mean and deviation from `stacked` sources (B, c16 + c32 + c_head, h, w) of training images."""
        self.mean.copy_(stacked.mean(dim=(0, 2, 3)))
        self.deviation.copy_(stacked.std(dim=(0, 2, 3)) + 1e-2)


def resized(x: Tensor, side: int) -> Tensor:
    """(B, C, h, w) as (B, C, side, side), bilinear."""
    return F.interpolate(x, size=(side, side), mode="bilinear", align_corners=False)
