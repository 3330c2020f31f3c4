"""Image encoders: pixels to the image embedding that prompts are decoded against."""

from __future__ import annotations

from functools import partial

import torch.nn.functional as F
from segment_anything.modeling import ImageEncoderViT
from torch import Tensor, nn

from sca.config import ScaConfig, TimmEncoderConfig, VitEncoderConfig
from sca.regions import ImageFeatures


class VitEncoder(ImageEncoderViT):
    """SAM's ViT (spec section 1.1) that also takes other input sides than the one it was built for."""

    def __init__(self, config: VitEncoderConfig, image_size: int) -> None:
        super().__init__(
            img_size=image_size,
            patch_size=config.patch_size,
            embed_dim=config.embed_dim,
            depth=config.depth,
            num_heads=config.num_heads,
            # The package takes int(width * ratio): half a unit more keeps rounding from losing one.
            mlp_ratio=(config.mlp_dim + 0.5) / config.embed_dim,
            out_chans=config.out_channels,
            qkv_bias=config.qkv_bias,
            norm_layer=partial(nn.LayerNorm, eps=config.layer_norm_eps),
            use_abs_pos=config.use_abs_pos,
            use_rel_pos=config.use_rel_pos,
            window_size=config.window_size,
            global_attn_indexes=config.global_attn_indexes,
        )
        if self.pos_embed is not None:
            nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalised pixels (B, 3, S, S) to the image embedding (B, C, S / patch, S / patch)."""
        x = self.patch_embed(pixels)
        if self.pos_embed is not None:
            x = x + resize_position_grid(self.pos_embed, x.shape[1], x.shape[2])
        for block in self.blocks:
            x = block(x)
        return self.neck(x.permute(0, 3, 1, 2))


def resize_position_grid(positions: Tensor, height: int, width: int) -> Tensor:
    """Absolute positions (1, h, w, D) for another grid (1, height, width, D); unchanged if it is the same."""
    if positions.shape[1:3] == (height, width):
        return positions
    resized = F.interpolate(
        positions.permute(0, 3, 1, 2), size=(height, width), mode="bicubic", align_corners=False
    )
    return resized.permute(0, 2, 3, 1)


def build_image_encoder(config: ScaConfig) -> nn.Module:
    """The encoder that the config names: normalised pixels (B, 3, S, S) to the image embedding (B, C, g, g)."""
    if isinstance(config.encoder, TimmEncoderConfig):
        from sca.modeling.timm_encoder import TimmEncoder  # timm is heavy, and only these models need it

        return TimmEncoder(config.encoder)
    return VitEncoder(config.encoder, config.image_size)


def encode_image(encoder: nn.Module, pixels: Tensor, *, with_region_map: bool) -> ImageFeatures:
    """The embedding, and the finer map where it is wanted and the encoder has one."""
    finer = getattr(encoder, "forward_with_region_map", None)
    if with_region_map and finer is not None:
        return ImageFeatures(*finer(pixels))
    return ImageFeatures(encoder(pixels), None)
