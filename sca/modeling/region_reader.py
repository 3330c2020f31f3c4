"""Tokens that tell the language model what lies in a region, read from the backbone's own maps; not in the paper."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from sca.config import ScaConfig
from sca.modeling.mixer import pool_boxes
from sca.modeling.two_way import FusedAttention

SCENE_TOKENS = 3
"""Beside the region's cells: the region as a whole, the scene around it, and where in it the region lies."""


class RegionReadings(NamedTuple):
    """What is read of P regions: cells (P, r * r, Cm) and scene (P, Cm) of the caption map, place (P, 6)."""

    cells: Tensor
    scene: Tensor
    place: Tensor


class RegionReader(nn.Module):
    """Region tokens for the language model, beside the mixer's caption tokens.

    The mixer has to squeeze a region into few tokens, which takes more data to learn than the shipped model has. The
    reader is linear in the backbone's maps up to one attention block, so that it learns from little, and it can be
    trained on maps that are computed once.
    """

    def __init__(self, config: ScaConfig) -> None:
        super().__init__()
        reader, width, channels = config.reader, config.width, config.encoder.caption_channels
        assert reader is not None
        assert channels > 0
        self.grid, self.image_size = reader.grid, config.image_size
        self.cells = nn.Linear(channels, width)
        self.whole = nn.Linear(channels, width)
        self.scene = nn.Linear(channels, width)
        self.place = nn.Linear(6, width)
        self.position = nn.Embedding(reader.grid * reader.grid, width)
        self.norm = nn.LayerNorm(width)
        self.caption_norm = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(
            ReaderBlock(width, reader.num_heads, reader.mlp_dim, reader.dropout) for _ in range(reader.depth)
        )

    def read(self, caption_map: Tensor, boxes: Tensor) -> RegionReadings:
        """caption_map (B, Cm, h, h) and boxes (B, M, 4) xyxy in input pixels to readings of P = B * M regions."""
        cells = pool_boxes(caption_map, boxes, self.grid, self.image_size)
        scene = caption_map.mean(dim=(2, 3)).repeat_interleave(boxes.shape[1], dim=0)
        return RegionReadings(cells, scene, place_of(boxes.flatten(0, 1), self.image_size))

    def forward(self, caption_tokens: Tensor, readings: RegionReadings) -> Tensor:
        """Caption tokens (P, Nc, C) of the mixer and readings of P regions to (P, Nc + r * r + 3, C)."""
        tokens = [
            self.cells(readings.cells) + self.position.weight,
            self.whole(readings.cells.mean(dim=1)).unsqueeze(1),
            self.scene(readings.scene).unsqueeze(1),
            self.place(readings.place.to(readings.scene.dtype)).unsqueeze(1),
        ]
        x = torch.cat([self.caption_norm(caption_tokens), self.norm(torch.cat(tokens, dim=1))], dim=1)
        for block in self.blocks:
            x = block(x)
        return x


class ReaderBlock(nn.Module):
    """Attention among the tokens of one region and an MLP, norms first: (P, T, C) -> (P, T, C)."""

    def __init__(self, width: int, heads: int, mlp_dim: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = FusedAttention(width, heads)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, mlp_dim), nn.GELU(), nn.Linear(mlp_dim, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        y = self.attention_norm(x)
        x = x + self.dropout(self.attention(y, y, y))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))


def place_of(boxes: Tensor, image_size: int) -> Tensor:
    """Where boxes (P, 4) xyxy in input pixels lie: corners in 0..1 and the logarithms of their sides, (P, 6)."""
    corners = boxes.float() / image_size
    sides = (corners[:, 2:] - corners[:, :2]).clamp(min=1e-3)
    return torch.cat([corners, sides.log()], dim=1)
