"""The encoders of `sca.modeling.timm_encoder` cut where precision matters: sections one after the other, each a module.

Rounding to 16 bits at the beginning of a backbone is what changes masks and captions; later it hardly does. Shipped model on
bfloat16, worst of 15 pictures, cosine with float32 of the caption map: all of it .9942; stem in float32 .9965, and the first two
blocks as well .9994 (three .9995, four .9996); of the embedding: all .9963, all but these first layers .9999.
"""

from __future__ import annotations

from collections.abc import Iterable

from timm.models.efficientnet import EfficientNetFeatures
from torch import Tensor, nn

from sca.modeling.caption_map import CaptionBackbone, CaptionMap, CaptionSources, resized
from sca.modeling.timm_encoder import PyramidNeck, TimmEncoder
from sca.stages.spec import Section

DELICATE_BLOCKS = 2
"""So many blocks of a backbone belong to its beginning."""


class _Beginning(nn.Module):
    """Pixels (B, 3, S, S), brought to `side` where that is another, to what a backbone's first blocks make of them."""

    def __init__(self, backbone: EfficientNetFeatures, side: int | None = None) -> None:
        super().__init__()
        self.stem, self.norm = backbone.conv_stem, backbone.bn1
        self.blocks = nn.Sequential(*list(backbone.blocks)[:DELICATE_BLOCKS])
        self.side = side

    def forward(self, pixels: Tensor) -> tuple[Tensor]:
        if self.side is not None:
            pixels = resized(pixels, self.side)
        return (self.blocks(self.norm(self.stem(pixels))),)


class _Body(nn.Module):
    """From there to the backbone's maps and its head's."""

    def __init__(self, backbone: EfficientNetFeatures, head: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(list(backbone.blocks)[DELICATE_BLOCKS:])
        self.head = head
        taps = [int(name.rpartition(".")[2]) for name in backbone.feature_info.module_name()]
        self.taps = [tap - DELICATE_BLOCKS for tap in taps]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        maps = []
        for place, block in enumerate(self.blocks):
            x = block(x)
            if place in self.taps:
                maps.append(x)
        return (*maps, self.head(x))


class _Neck(nn.Module):
    """The backbone's maps to the image embedding and the finer map."""

    def __init__(self, neck: PyramidNeck) -> None:
        super().__init__()
        self.neck = neck

    def forward(self, *maps: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.neck(*maps))


class _Captions(nn.Module):
    """The caption backbone's maps to the caption map (B, Cc, side, side)."""

    def __init__(self, caption_map: CaptionMap, side: int) -> None:
        super().__init__()
        self.caption_map, self.side = caption_map, side

    def forward(self, *maps: Tensor) -> tuple[Tensor]:
        return (self.caption_map(CaptionSources(*maps), self.side),)


class Chain(nn.Module):
    """Modules as one: each takes what the one before it gave."""

    def __init__(self, parts: Iterable[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        for part in self.parts:
            values = part(*values)
        return values


def mask_sections(encoder: TimmEncoder) -> tuple[Section, ...]:
    """Pixels to the embedding and the finer map, without the caption backbone."""
    return (
        Section(_Beginning(_features(encoder.backbone)), delicate=True),
        Section(_Body(_features(encoder.backbone), encoder.head)),
        Section(_Neck(encoder.neck), delicate=True),
    )


def caption_sections(backbone: CaptionBackbone, caption_map: CaptionMap, side: int) -> tuple[Section, ...]:
    """Pixels to the caption map, at the finer map's `side`."""
    features = _features(backbone.backbone)
    return (
        Section(_Beginning(features, backbone.size), delicate=True),
        Section(Chain((_Body(features, backbone.head), _Captions(caption_map, side)))),
    )


def _features(backbone: nn.Module) -> EfficientNetFeatures:
    assert isinstance(backbone, EfficientNetFeatures)
    return backbone
