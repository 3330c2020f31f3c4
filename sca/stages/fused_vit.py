"""SAM's vision transformer with fused attention and no work on window padding: the same weights, the same embedding."""

from __future__ import annotations

from typing import Literal

import torch
from segment_anything.modeling.image_encoder import Attention, Block, get_rel_pos
from torch import Tensor, nn
from torch.nn import functional as F

from sca.modeling.image_encoder import VitEncoder, resize_position_grid

RelativePosition = Literal["bias", "concatenated"]


class FusedVit(nn.Module):
    """Stands for a `VitEncoder` at one input side, and shares its parameters.

    Attention goes through `scaled_dot_product_attention`, whose kernels never write the attention matrix down.
    relative_position: how the decomposed relative position enters. "bias" adds it to the logits; "concatenated" makes it a
    part of the dot product (queries carry it, keys carry one-hot rows and columns), which needs no bias in memory but
    longer heads.
    """

    def __init__(
        self, encoder: VitEncoder, image_size: int, relative_position: RelativePosition = "bias"
    ) -> None:
        super().__init__()
        self.patch_embed = encoder.patch_embed
        grid = image_size // encoder.patch_embed.proj.stride[0]
        positions = None
        if encoder.pos_embed is not None:
            positions = resize_position_grid(encoder.pos_embed.detach(), grid, grid)
        self.register_buffer("positions", positions, persistent=False)
        self.blocks = nn.ModuleList(_FusedBlock(block, grid, relative_position) for block in encoder.blocks)
        self.neck = encoder.neck

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalised pixels (B, 3, S, S) to the image embedding (B, C, S / patch, S / patch)."""
        x = self.patch_embed(pixels)
        if self.positions is not None:
            x = x + self.positions
        for block in self.blocks:
            x = block(x)
        return self.neck(x.permute(0, 3, 1, 2))


class _FusedBlock(nn.Module):
    def __init__(self, block: Block, grid: int, relative_position: RelativePosition) -> None:
        super().__init__()
        self.norm1, self.norm2, self.mlp = block.norm1, block.norm2, block.mlp
        self.attention = _FusedAttention(block.attn, grid, block.window_size, relative_position)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class _FusedAttention(nn.Module):
    """Attention over windows (`window` > 0) or the whole grid; `side` is the side of what attends to itself."""

    row_table: Tensor
    column_table: Tensor
    one_hot: Tensor

    def __init__(
        self, attention: Attention, grid: int, window: int, relative_position: RelativePosition
    ) -> None:
        super().__init__()
        self.qkv, self.proj = attention.qkv, attention.proj
        self.heads = attention.num_heads
        self.grid, self.window = grid, window
        self.side = window or grid
        self.padding = -grid % window if window else 0
        self.relative_position = relative_position
        self.has_positions = attention.use_rel_pos
        if self.has_positions:
            rows = get_rel_pos(self.side, self.side, attention.rel_pos_h.detach())
            columns = get_rel_pos(self.side, self.side, attention.rel_pos_w.detach())
            # (query row, d, key row) and (query column, d, key column)
            self.register_buffer("row_table", rows.transpose(1, 2).contiguous(), persistent=False)
            self.register_buffer("column_table", columns.transpose(1, 2).contiguous(), persistent=False)
        if self.has_positions and relative_position == "concatenated":
            self.register_buffer("one_hot", _one_hot_positions(self.side), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        # Padding is zero before the projection, so its projection is the bias: pad the product, then add the bias.
        qkv = F.pad(F.linear(x, self.qkv.weight), (0, 0, 0, self.padding, 0, self.padding))
        if self.window:
            qkv = self._to_windows(qkv)
        if self.qkv.bias is not None:
            qkv = qkv + self.qkv.bias
        tokens = qkv.flatten(1, 2).unflatten(2, (3, self.heads, -1))
        q, k, v = tokens.permute(2, 0, 3, 1, 4).unbind(0)
        attended = self._attend(q, k, v).transpose(1, 2).flatten(2).unflatten(1, (self.side, self.side))
        if self.window:
            attended = self._from_windows(attended)
        return self.proj(attended[:, : self.grid, : self.grid])

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q, k, v (N, heads, side * side, d) to (N, heads, side * side, d)."""
        if not self.has_positions:
            return F.scaled_dot_product_attention(q, k, v)
        cells = q.unflatten(2, (self.side, self.side))
        rows = cells @ self.row_table
        columns = (cells.transpose(2, 3) @ self.column_table).transpose(2, 3)
        if self.relative_position == "bias":
            bias = rows.unsqueeze(-1) + columns.unsqueeze(-2)
            return F.scaled_dot_product_attention(q, k, v, attn_mask=bias.flatten(4, 5).flatten(2, 3))
        depth = q.shape[-1]
        query = torch.cat([q * depth**-0.5, rows.flatten(2, 3), columns.flatten(2, 3)], dim=-1)
        keys = torch.cat([k, self.one_hot.to(k.dtype).expand(*k.shape[:2], -1, -1)], dim=-1)
        # Kernels want values as long as keys.
        values = F.pad(v, (0, keys.shape[-1] - depth))
        return F.scaled_dot_product_attention(query, keys, values, scale=1.0)[..., :depth]

    def _to_windows(self, x: Tensor) -> Tensor:
        """(B, H, W, D) to (B * windows, window, window, D); H and W are multiples of the window."""
        split = x.unflatten(2, (-1, self.window)).unflatten(1, (-1, self.window))
        return split.transpose(2, 3).flatten(0, 2)

    def _from_windows(self, x: Tensor) -> Tensor:
        """The inverse of `_to_windows`."""
        count = (self.grid + self.padding) // self.window
        return x.unflatten(0, (-1, count, count)).transpose(2, 3).flatten(3, 4).flatten(1, 2)


def _one_hot_positions(side: int) -> Tensor:
    """(side * side, 2 * side): for each cell its row, then its column, as one-hot vectors."""
    identity = torch.eye(side)
    return torch.cat([identity.repeat_interleave(side, dim=0), identity.repeat(side, 1)], dim=1)
