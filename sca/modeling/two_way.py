"""The two-way transformer of SAM, spared from copying what the prompts of one image have in common."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from segment_anything.modeling import TwoWayTransformer
from segment_anything.modeling.transformer import Attention, TwoWayAttentionBlock
from torch import Tensor, nn


class FusedAttention(Attention):
    """`segment_anything`'s attention with PyTorch's fused kernel; the same parameters and the same result."""

    def split_heads(self, x: Tensor) -> Tensor:
        """(..., n, c) to (..., heads, n, c / heads)."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(-3, -2)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q (B, n, C), k and v (B, m, C) to (B, n, C)."""
        out = F.scaled_dot_product_attention(
            self.split_heads(self.q_proj(q)),
            self.split_heads(self.k_proj(k)),
            self.split_heads(self.v_proj(v)),
        )
        return self.out_proj(out.transpose(1, 2).flatten(2))


class SharedImageTwoWayTransformer(TwoWayTransformer):
    """SAM's two-way transformer for P = B * M prompts on B images, image-major (spec section 1.2).

    Until the first image-to-token attention all M prompts see the same image, so the first block projects the image
    once per image instead of once per prompt, and the positional encoding is never repeated.

    layer_norm_eps: eps of the norms inside the blocks; final_layer_norm_eps: of the last one. The package fixes both
    at 1e-5, the released models use 1e-6 inside the blocks.
    """

    def __init__(
        self,
        *,
        depth: int,
        embedding_dim: int,
        num_heads: int,
        mlp_dim: int,
        attention_downsample_rate: int,
        layer_norm_eps: float,
        final_layer_norm_eps: float,
    ) -> None:
        super().__init__(
            depth=depth,
            embedding_dim=embedding_dim,
            num_heads=num_heads,
            mlp_dim=mlp_dim,
            activation=nn.ReLU,
            attention_downsample_rate=attention_downsample_rate,
        )

        def cross_attention() -> FusedAttention:
            return FusedAttention(embedding_dim, num_heads, downsample_rate=attention_downsample_rate)

        for layer in self.layers:
            layer.self_attn = FusedAttention(embedding_dim, num_heads)
            layer.cross_attn_token_to_image = cross_attention()
            layer.cross_attn_image_to_token = cross_attention()
            for norm in (layer.norm1, layer.norm2, layer.norm3, layer.norm4):
                norm.eps = layer_norm_eps
        self.final_attn_token_to_image = cross_attention()
        self.norm_final_attn.eps = final_layer_norm_eps

    def forward(self, image: Tensor, image_pe: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """image (B, C, g, g), image_pe (1, C, g, g), tokens (B * M, T, C).

        Returns the tokens (B * M, T, C) and the image (B * M, g * g, C), both updated.
        """
        keys = image.flatten(2).transpose(1, 2)
        pe = image_pe.flatten(2).transpose(1, 2)
        queries = tokens
        for index, layer in enumerate(self.layers):
            if index == 0 and image.shape[0] != tokens.shape[0]:
                queries, keys = _first_block(layer, tokens, keys, pe)
            else:
                queries, keys = layer(queries=queries, keys=keys, query_pe=tokens, key_pe=pe)
        attended = self.final_attn_token_to_image(q=queries + tokens, k=keys + pe, v=keys)
        return self.norm_final_attn(queries + attended), keys


def _first_block(
    block: TwoWayAttentionBlock, tokens: Tensor, image: Tensor, pe: Tensor
) -> tuple[Tensor, Tensor]:
    """The first block: tokens (B * M, T, C) on images (B, N, C), projected once per image."""
    images, prompts = image.shape[0], tokens.shape[0] // image.shape[0]
    image_pe = image + pe

    queries = block.norm1(block.self_attn(q=tokens, k=tokens, v=tokens))

    # All tokens of an image query its one set of keys: fold the prompts into the token axis.
    attention = block.cross_attn_token_to_image
    folded = (queries + tokens).reshape(images, -1, queries.shape[-1])
    attended = attention(q=folded, k=image_pe, v=image)
    queries = block.norm2(queries + attended.reshape(queries.shape))

    queries = block.norm3(queries + block.mlp(queries))

    attention = block.cross_attn_image_to_token
    q = attention.split_heads(attention.q_proj(image_pe)).unsqueeze(1)
    k = attention.split_heads(attention.k_proj(queries + tokens)).unflatten(0, (images, prompts))
    v = attention.split_heads(attention.v_proj(queries)).unflatten(0, (images, prompts))
    weights = torch.softmax(q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5, dim=-1)
    attended = attention.out_proj((weights @ v).transpose(2, 3).flatten(3))
    keys = block.norm4(image.unsqueeze(1) + attended)
    return queries, keys.flatten(0, 1)
