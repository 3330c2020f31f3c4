"""The image encoder's maps of one picture after another, when nothing of it learns any more: compiled, three times as fast."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from sca.modeling.caption_map import CaptionSources
from sca.modeling.sca import Sca
from sca.modeling.timm_encoder import Pyramid, TimmEncoder


class EncoderMaps(NamedTuple):
    """The neck's two maps, without the caption map, and what the caption map is made of."""

    pyramid: Pyramid
    sources: CaptionSources


class FrozenMaps:
    """Calls take normalised pixels (1, 3, S, S). Uses as many threads as torch does."""

    def __init__(self, model: Sca) -> None:
        import openvino

        encoder = model.image_encoder
        assert isinstance(encoder, TimmEncoder)
        size = model.config.image_size
        modes = [(part, part.training) for part in encoder.modules()]
        try:
            converted = openvino.convert_model(
                _Maps(encoder).eval(),
                example_input=torch.zeros(1, 3, size, size),
                input=[1, 3, size, size],
            )
        finally:
            for part, training in modes:
                part.training = training
        options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
        self._network = openvino.Core().compile_model(converted, "CPU", options)

    def __call__(self, pixels: Tensor) -> EncoderMaps:
        found = self._network(pixels.contiguous().numpy())
        embedding, fine, x16, x32, head = (torch.from_numpy(found[i]) for i in range(5))
        return EncoderMaps(Pyramid(embedding, fine), CaptionSources(x16, x32, head))


class _Maps(nn.Module):
    def __init__(self, encoder: TimmEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        maps = self.encoder.backbone_maps(pixels)
        pyramid: Pyramid = self.encoder.neck(*maps)
        return (*pyramid, *self.encoder.caption_sources(pixels, maps))
