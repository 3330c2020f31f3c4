"""The text feature mixer: a region's tokens and image features to the caption tokens that a language model reads."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sca.config import ScaConfig
from sca.modeling.two_way import SharedImageTwoWayTransformer

_SAMPLES = 2  # along each side of a pooled cell


class Mixer(nn.Module):
    """Query-based text feature mixer (paper section 3.2, spec section 1.3): another two-way transformer."""

    def __init__(self, config: ScaConfig) -> None:
        super().__init__()
        mixer = config.mixer
        self.num_caption_tokens = mixer.num_caption_tokens
        self.caption_tokens = nn.Embedding(mixer.num_caption_tokens, config.width)
        self.transformer = SharedImageTwoWayTransformer(
            depth=mixer.depth,
            embedding_dim=config.width,
            num_heads=mixer.num_heads,
            mlp_dim=mixer.mlp_dim,
            attention_downsample_rate=mixer.attention_downsample_rate,
            layer_norm_eps=mixer.layer_norm_eps,
            final_layer_norm_eps=mixer.final_layer_norm_eps,
        )

    def forward(
        self, tokens: Tensor, image_features: Tensor, image_pe: Tensor, region_tokens: Tensor | None = None
    ) -> Tensor:
        """tokens (P, T, C) and image_features (P, C, g, g) of the mask decoder, image_pe (1, C, g, g).

        region_tokens (P, r * r, C) come from `RegionPooler`, None in the released architecture.
        Returns the caption tokens (P, Nc, C).
        """
        parts = [self.caption_tokens.weight.expand(tokens.shape[0], -1, -1), tokens]
        if region_tokens is not None:
            parts.append(region_tokens)
        mixed, _ = self.transformer(image_features, image_pe, torch.cat(parts, dim=1))
        return mixed[:, : self.num_caption_tokens]


class RegionPooler(nn.Module):
    """Tokens pooled from the image features inside a region's box; not in the paper.

    They hand the mixer what lies in the region without its having to learn where to look, so that a small model
    learns to caption from little data. Pooling is RoIAlign (2 x 2 bilinear samples per cell, borders repeated) by
    `grid_sample`, which exports everywhere and reads all regions of an image from one copy of its features.
    """

    samples = 2

    def __init__(self, config: ScaConfig) -> None:
        super().__init__()
        assert config.mixer.region_grid > 0
        self.grid = config.mixer.region_grid
        self.image_size = config.image_size
        self.project = nn.Linear(config.width + config.encoder.region_channels, config.width)
        self.norm = nn.LayerNorm(config.width)
        self.position = nn.Embedding(self.grid * self.grid, config.width)

    def forward(self, image_embedding: Tensor, region_map: Tensor | None, boxes: Tensor) -> Tensor:
        """image_embedding (B, C, g, g), region_map (B, Cr, h, h) or None, boxes (B, M, 4) xyxy in input pixels.

        Returns (B * M, r * r, C), image-major.
        """
        maps = [image_embedding] if region_map is None else [image_embedding, region_map]
        pooled = torch.cat([pool_boxes(map_, boxes, self.grid, self.image_size) for map_ in maps], dim=-1)
        return self.norm(self.project(pooled.to(image_embedding.dtype))) + self.position.weight


def pool_boxes(features: Tensor, boxes: Tensor, grid: int, image_size: int) -> Tensor:
    """RoIAlign of features (B, C, h, h) in boxes (B, M, 4) xyxy in input pixels: (B * M, grid * grid, C).

    Two times two bilinear samples per cell, borders repeated. By `grid_sample`, which exports everywhere and reads all
    regions of an image from one copy of its features.
    """
    count = grid * _SAMPLES
    steps = (torch.arange(count, device=boxes.device, dtype=torch.float32) + 0.5) / count
    corners = boxes.float() / image_size * 2 - 1
    start, extent = corners[..., :2], corners[..., 2:] - corners[..., :2]
    x = start[..., 0, None] + extent[..., 0, None] * steps
    y = start[..., 1, None] + extent[..., 1, None] * steps
    shape = (*x.shape, count)
    points = torch.stack([x.unsqueeze(-2).expand(shape), y.unsqueeze(-1).expand(shape)], dim=-1).flatten(1, 2)
    sampled = F.grid_sample(
        features, points.to(features.dtype), mode="bilinear", padding_mode="border", align_corners=False
    )
    cells = F.avg_pool2d(sampled, _SAMPLES)
    return cells.unflatten(2, (-1, grid)).permute(0, 2, 3, 4, 1).flatten(2, 3).flatten(0, 1)
