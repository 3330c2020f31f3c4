"""The shapes of the two kinds of image encoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import ConfigDict

from sca.errors import UserError

_STRICT = ConfigDict(extra="forbid")
_VIT_SIZES = {
    # name: (width, layers, heads, global layers)
    "vit_b": (768, 12, 12, (2, 5, 8, 11)),
    "vit_l": (1024, 24, 16, (5, 11, 17, 23)),
    "vit_h": (1280, 32, 16, (7, 15, 23, 31)),
}


@dataclass(frozen=True)
class VitEncoderConfig:
    """SAM's vision transformer. Defaults: ViT-B."""

    __pydantic_config__ = _STRICT

    kind: Literal["vit"] = "vit"
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_dim: int = 3072
    patch_size: int = 16
    window_size: int = 14
    global_attn_indexes: tuple[int, ...] = (2, 5, 8, 11)
    out_channels: int = 256
    qkv_bias: bool = True
    use_abs_pos: bool = True
    use_rel_pos: bool = True
    layer_norm_eps: float = 1e-6

    @property
    def grid_stride(self) -> int:
        """Input pixels per cell of the image embedding."""
        return self.patch_size

    @property
    def size_multiple(self) -> int:
        """The input side must be a multiple of this."""
        return self.patch_size

    @property
    def region_channels(self) -> int:
        """Channels of the finer region map: a ViT has none."""
        return 0

    @property
    def caption_channels(self) -> int:
        """Channels of the map that a region reader reads: a ViT has none."""
        return 0

    @classmethod
    def named(cls, size: str) -> VitEncoderConfig:
        """The encoder of a published SAM: "vit_b", "vit_l" or "vit_h"."""
        if size not in _VIT_SIZES:
            raise UserError(f"unknown SAM encoder {size!r}: use one of {', '.join(_VIT_SIZES)}")
        width, depth, heads, global_layers = _VIT_SIZES[size]
        return cls(
            embed_dim=width,
            depth=depth,
            num_heads=heads,
            mlp_dim=4 * width,
            global_attn_indexes=global_layers,
        )


@dataclass(frozen=True)
class TimmEncoderConfig:
    """A timm backbone with a feature-pyramid neck.

    `feature_strides`: the backbone maps that the neck fuses, in input pixels per cell, as are `grid_stride` (the image
    embedding, `out_channels` wide) and `region_stride` (the finer map, `region_channels` wide, for region tokens).
    `caption_channels`: width of a linear map of features for the region reader, at the same stride. These are the
    backbone's, or those of a second one, `caption_backbone`, which sees a picture of `caption_size` x `caption_size`.
    """

    __pydantic_config__ = _STRICT

    kind: Literal["timm"] = "timm"
    backbone: str = "tf_efficientnet_lite0"
    feature_strides: tuple[int, ...] = (8, 16, 32)
    grid_stride: int = 16
    out_channels: int = 256
    region_stride: int = 8
    region_channels: int = 128
    caption_channels: int = 0
    caption_backbone: str = ""
    caption_size: int = 0

    @property
    def size_multiple(self) -> int:
        """The input side must be a multiple of this: the backbone's coarsest stride."""
        return max(self.feature_strides)
