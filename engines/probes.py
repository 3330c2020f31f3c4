"""The inputs that engines are checked on: what the eager model computes for prompts on real photographs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from engines.parity import Probes
from engines.seen import SeenRegions, image_with
from sca.config import AutomaticSettings
from sca.decoding.reference import MAX_NEW_TOKENS, decode
from sca.decoding.slots import EagerSteps, SlotDecoder
from sca.modeling import ImageFeatures, Sca
from sca.preprocessing import scale_boxes, scale_points, to_model_input
from sca.stages.language import prefix_length

# What the language model's engines are checked on: every step of eager float32 decoding of real regions.

_CACHE_BYTES = 64_000_000
"""Of one step's cache: a recording holds the cache of every step."""


class _Recorder(EagerSteps):
    """Remembers the inputs of every step, which are those of captions under way alone."""

    def __init__(self, model: Sca) -> None:
        super().__init__(model.language_model)
        self.inputs: list[tuple[Tensor, ...]] = []

    def step(self, token_ids: Tensor, positions: Tensor, cache: Tensor) -> Tensor:
        parts = (part.clone() for part in cache.flatten(0, 1).unbind(0))
        self.inputs.append((token_ids.clone(), positions.clone(), *parts))
        return super().step(token_ids, positions, cache)


class _Given(EagerSteps):
    """Goes on from a prefill that somebody else computed."""

    def __init__(self, model: Sca, logits: Tensor, cache: Tensor) -> None:
        super().__init__(model.language_model)
        self._filled = logits, cache.permute(1, 2, 0, 3, 4, 5)

    def prefill(self, prefix: Tensor) -> tuple[Tensor, Tensor]:
        return self._filled


@torch.inference_mode()
def prefill_probes(model: Sca, prefixes: Sequence[Tensor]) -> Probes:
    """Prefixes (R, n, H) of real regions; the tokens are those of the whole captions that follow."""

    @torch.inference_mode()
    def read(outputs: Sequence[Sequence[Tensor]]) -> Tensor:
        rows = []
        for prefix, (logits, cache, _) in zip(prefixes, outputs, strict=True):
            steps = _Given(model, logits.to(prefix.device), cache.to(prefix.device))
            rows.append(_decoder(model, len(prefix), steps).decode(prefix).token_ids)
        return _stacked(rows)

    return Probes([(prefix,) for prefix in prefixes], read)


@torch.inference_mode()
def step_probes(model: Sca, prefixes: Sequence[Tensor]) -> Probes:
    """All steps of captions of prefixes (R, n, H). The same token in each means the same captions."""
    together = torch.cat(list(prefixes))
    few = _decoder(model, 1, EagerSteps(model.language_model))
    together = together[: max(4, _CACHE_BYTES // few.cache_bytes)]
    recorder = _Recorder(model)
    _decoder(model, len(together), recorder).decode(together)
    return Probes(recorder.inputs)


def _decoder(model: Sca, slots: int, steps: EagerSteps) -> SlotDecoder:
    return SlotDecoder(
        model.language_model,
        prefix_length(model),
        slots=slots,
        max_new_tokens=MAX_NEW_TOKENS,
        steps=steps,
        capture=False,
    )


def _stacked(rows: Sequence[Tensor]) -> Tensor:
    longest = max(row.shape[1] for row in rows)
    return torch.cat([torch.nn.functional.pad(row, (0, longest - row.shape[1]), value=-1) for row in rows])


REFERENCE_FRAMES = Path(__file__).parent / "reference_frames"
_PLACES = (0.2, 0.5, 0.8)
_BOXES = ((0.05, 0.05, 0.95, 0.95), (0.1, 0.3, 0.5, 0.9), (0.4, 0.1, 0.9, 0.6), (0.35, 0.35, 0.65, 0.65))


def reference_frames() -> list[np.ndarray]:
    """The photographs that come with the package, RGB uint8 (H, W, 3)."""
    return [np.asarray(Image.open(path).convert("RGB")) for path in sorted(REFERENCE_FRAMES.glob("*.jpg"))]


@dataclass(frozen=True)
class _Region:
    """One group of prompts on one frame, and what the eager stages make of it."""

    frame: int
    sparse: Tensor
    dense: Tensor
    boxes: Tensor
    tokens: Tensor
    features: Tensor


class ModelProbes:
    """Probes for every stage of a model. The eager model is run once, at the first question, in float32."""

    def __init__(
        self,
        model: Sca,
        frames: Sequence[np.ndarray] | None = None,
        limits: AutomaticSettings = AutomaticSettings(),
    ) -> None:
        self._model = model
        self._frames = list(frames) if frames is not None else reference_frames()
        assert self._frames
        self._seen = SeenRegions(model, self._frames, limits)

    def of(self, stage: str) -> Probes:
        """The probes of the stage with this name."""
        match stage:
            case "image-encoder":
                pixels = [(pixels,) for pixels in self._pixels]
                return Probes(pixels, self._captions_of_images, self._seen.with_image_encoder)
            case "caption-encoder":
                pixels = [(pixels,) for pixels in self._pixels]
                return Probes(pixels, self._captions_of_caption_maps, self._seen.with_caption_encoder)
            case "box-proposer":
                maps = []
                for image in self._images:
                    finer, _ = self._model.split_region_map(image.region_map)
                    assert finer is not None
                    maps.append((image.embedding, finer))
                return Probes(maps)
            case "mask-decoder":
                inputs = [
                    (self._images[region.frame].embedding, region.sparse, region.dense)
                    for region in self._regions
                ]
                return Probes(inputs, self._captions_of_masks)
            case "mixer":
                return Probes(
                    [self._mixer_inputs(region) for region in self._regions],
                    self._captions_of_mixer,
                    self._seen.with_mixer,
                )
            case "language-prefill":
                return prefill_probes(self._model, self._prefixes)
            case "language-step":
                return step_probes(self._model, self._prefixes)
        raise AssertionError(f"no probes for stage {stage}")

    @cached_property
    def _pixels(self) -> list[Tensor]:
        weight = next(self._model.parameters())
        return [to_model_input([frame], self._model.config, weight.device)[0] for frame in self._frames]

    @cached_property
    @torch.inference_mode()
    def _images(self) -> list[ImageFeatures]:
        return [self._model.encode_image(pixels) for pixels in self._pixels]

    @cached_property
    @torch.inference_mode()
    def _regions(self) -> list[_Region]:
        found = []
        for number, image in enumerate(self._images):
            boxes, points = self._prompts(number)
            around = torch.cat([points, points], dim=-1)
            around = around + around.new_tensor([-1, -1, 1, 1]) * self._model.config.image_size / 8
            for sparse_and_dense, where in (
                (self._model.prompt_encoder(None, boxes, None), boxes),
                (self._model.prompt_encoder((points.unsqueeze(1), None), None, None), around),
            ):
                sparse, dense = sparse_and_dense
                tokens, features = self._fuse(image, sparse, dense)
                found.append(_Region(number, sparse, dense, where.float(), tokens, features))
        return found

    @cached_property
    @torch.inference_mode()
    def _prefixes(self) -> list[Tensor]:
        """What the language model is told of each group of regions, (R, n, H)."""
        return [
            self._model.language_prefix(
                self._model.mix(self._images[region.frame], region.tokens, region.features, region.boxes)
            )
            for region in self._regions
        ]

    def _prompts(self, number: int) -> tuple[Tensor, Tensor]:
        """Boxes (4, 4) and points (9, 2) in the model's input square, spread over frame `number`."""
        height, width = self._frames[number].shape[:2]
        device = self._pixels[number].device
        _, (target,) = to_model_input([self._frames[number]], self._model.config)
        boxes = torch.tensor(_BOXES, dtype=torch.float64, device=device) * torch.tensor(
            [width, height, width, height], device=device
        )
        points = torch.tensor(
            [(x * width, y * height) for y in _PLACES for x in _PLACES], dtype=torch.float64, device=device
        )
        return scale_boxes(boxes, (height, width), target), scale_points(points, (height, width), target)

    def _fuse(self, image: ImageFeatures, sparse: Tensor, dense: Tensor) -> tuple[Tensor, Tensor]:
        return self._model.mask_decoder.fuse(image.embedding, self._model.image_pe(), sparse, dense)

    def _mixer_inputs(self, region: _Region) -> tuple[Tensor, ...]:
        image = self._images[region.frame]
        if not self._model.needs_boxes:
            return region.tokens, region.features
        maps = (image.embedding,) if image.region_map is None else (image.embedding, image.region_map)
        return region.tokens, region.features, *maps, region.boxes

    def _captions_of_images(self, outputs: Sequence[Sequence[Tensor]]) -> Tensor:
        return self._captions_with(
            [
                image_with(known, maps[0], maps[1] if len(maps) > 1 else None)
                for known, maps in zip(self._images, outputs, strict=True)
            ]
        )

    def _captions_of_caption_maps(self, outputs: Sequence[Sequence[Tensor]]) -> Tensor:
        return self._captions_with(
            [
                image_with(known, caption_map=caption_map)
                for known, (caption_map,) in zip(self._images, outputs, strict=True)
            ]
        )

    @torch.inference_mode()
    def _captions_with(self, images: Sequence[ImageFeatures]) -> Tensor:
        mixed = []
        for frame, image in enumerate(images):
            region = next(region for region in self._regions if region.frame == frame)
            tokens, features = self._fuse(image, region.sparse, region.dense)
            mixed.append(self._model.mix(image, tokens, features, region.boxes))
        return self._captions(mixed)

    @torch.inference_mode()
    def _captions_of_masks(self, outputs: Sequence[Sequence[Tensor]]) -> Tensor:
        return self._captions(
            [
                self._model.mix(self._images[region.frame], tokens, features, region.boxes)
                for region, (_, _, tokens, features) in zip(self._regions, outputs, strict=True)
            ]
        )

    @torch.inference_mode()
    def _captions_of_mixer(self, outputs: Sequence[Sequence[Tensor]]) -> Tensor:
        return self._captions([caption_tokens for (caption_tokens,) in outputs])

    def _captions(self, caption_tokens: Sequence[Tensor]) -> Tensor:
        prefix = self._model.language_prefix(torch.cat(list(caption_tokens)))
        return decode(self._model.language_model, prefix).token_ids
