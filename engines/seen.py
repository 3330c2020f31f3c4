"""What somebody would see change with an engine: masks and captions of the regions of photographs, against eager float32."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from segment_anything.utils.amg import batched_mask_to_box, calculate_stability_score
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import nms

from engines.verdicts import SAME_MASK_IOU, SeenReport
from sca.config import AutomaticSettings
from sca.decoding.reference import decode
from sca.modeling import ImageFeatures, Sca
from sca.preprocessing import scale_points, to_model_input

LEAST_REGIONS = 60
"""Of fewer, a share says nothing: one region of fifty is two per cent."""

_GRID = 6
"""Points a side, in each view: the three photographs have 96 regions so, in 3 s of a processor's eager computing."""
_SHARE = 0.6
_SMALLEST, _LARGEST = 0.001, 0.9
_Run = Callable[..., tuple[Tensor, ...]]


@dataclass(frozen=True)
class _View:
    """A picture as the model has it, the prompts that found a region in it, and what eager float32 makes of them.

    `best` (R,): which mask of each prompt is the region; `masks` (R, S, S) bool; `boxes` (R, 4) in the input square.
    """

    pixels: Tensor
    image: ImageFeatures
    sparse: Tensor
    dense: Tensor
    best: Tensor
    masks: Tensor
    tokens: Tensor
    features: Tensor
    boxes: Tensor


class SeenRegions:
    """The regions that a model finds in photographs and in parts of them, by what a run takes for a region."""

    def __init__(self, model: Sca, frames: Sequence[np.ndarray], limits: AutomaticSettings) -> None:
        self._model, self._frames, self._limits = model, frames, limits

    def with_image_encoder(self, engine: _Run) -> SeenReport | None:
        """What `engine`, in the place of the image encoder, changes. None if there are too few regions to tell."""
        if self._count < LEAST_REGIONS:
            return None
        same, mixed = [], []
        for view in self._views:
            maps = engine(view.pixels)
            image = image_with(view.image, maps[0], maps[1] if len(maps) > 1 else None)
            masks, tokens, features = self._decoded(image, view.sparse, view.dense, view.best)
            same.append(_iou(view.masks, masks) >= SAME_MASK_IOU)
            mixed.append(self._mixed(image, tokens, features, view.boxes))
        return self._report(mixed, float(torch.cat(same).float().mean()))

    def with_caption_encoder(self, engine: _Run) -> SeenReport | None:
        """The same of the caption encoder."""
        if self._count < LEAST_REGIONS:
            return None
        mixed = []
        for view in self._views:
            (caption_map,) = engine(view.pixels)
            image = image_with(view.image, caption_map=caption_map)
            mixed.append(self._mixed(image, view.tokens, view.features, view.boxes))
        return self._report(mixed)

    def with_mixer(self, engine: _Run) -> SeenReport | None:
        """The same of the mixer."""
        if self._count < LEAST_REGIONS:
            return None
        mixed = []
        for view in self._views:
            maps = [one for one in view.image if one is not None] if self._model.needs_boxes else []
            boxes = [view.boxes] if self._model.needs_boxes else []
            mixed.append(engine(view.tokens, view.features, *maps, *boxes)[0])
        return self._report(mixed)

    @property
    def _count(self) -> int:
        return sum(len(view.best) for view in self._views)

    def _report(self, mixed: Sequence[Tensor], same_masks: float | None = None) -> SeenReport:
        got = self._captions(mixed)
        same = sum(ours == theirs for ours, theirs in zip(self._expected, got, strict=True))
        return SeenReport(len(got), same_masks, same / len(got))

    @cached_property
    def _expected(self) -> list[tuple[int, ...]]:
        """Captions of all regions as tokens."""
        return self._captions(
            [self._mixed(view.image, view.tokens, view.features, view.boxes) for view in self._views]
        )

    @torch.inference_mode()
    def _captions(self, mixed: Sequence[Tensor]) -> list[tuple[int, ...]]:
        prefix = self._model.language_prefix(torch.cat(list(mixed)))
        return [tuple(one) for one in decode(self._model.language_model, prefix).sequences()]

    @torch.inference_mode()
    def _mixed(self, image: ImageFeatures, tokens: Tensor, features: Tensor, boxes: Tensor) -> Tensor:
        return self._model.mix(image, tokens, features, boxes)

    @torch.inference_mode()
    def _decoded(
        self, image: ImageFeatures, sparse: Tensor, dense: Tensor, best: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The best masks (R, S, S) bool at the size of the input square, and what the mixer reads of them."""
        made = self._model.mask_decoder(image.embedding, self._model.image_pe(), sparse, dense, True)
        logits = made.mask_logits[torch.arange(len(best), device=best.device), best]
        return _upscaled(logits, self._model.config.image_size) > 0, made.tokens, made.image_features

    @cached_property
    @torch.inference_mode()
    def _views(self) -> list[_View]:
        return [self._seen(part) for frame in self._frames for part in _parts(frame)]

    def _seen(self, part: np.ndarray) -> _View:
        """The regions at a raster of points of one picture (H, W, 3): good enough for the model's own limits, each once."""
        model, side = self._model, self._model.config.image_size
        device = next(model.parameters()).device
        pixels, (target,) = to_model_input([part], model.config, device)
        image = model.encode_image(pixels)
        size = (part.shape[0], part.shape[1])
        centres = (np.arange(_GRID) + 0.5) / _GRID
        points = [(x * size[1], y * size[0]) for y in centres for x in centres]
        where = scale_points(torch.tensor(points, dtype=torch.float64, device=device), size, target)
        sparse, dense = model.prompt_encoder((where.unsqueeze(1), None), None, None)
        made = model.mask_decoder(image.embedding, model.image_pe(), sparse, dense, True)
        rows = torch.arange(len(points), device=device)
        best = made.iou.argmax(dim=1)
        logits, quality = made.mask_logits[rows, best], made.iou[rows, best]
        masks = _upscaled(logits, side) > 0
        area = masks.float().mean((1, 2))
        stable = calculate_stability_score(logits, 0.0, self._limits.stability_score_offset)
        good = (quality >= self._limits.pred_iou_thresh) & (stable >= self._limits.stability_score_thresh)
        kept = (good & (area > _SMALLEST) & (area < _LARGEST)).nonzero()[:, 0]
        boxes = batched_mask_to_box(masks).float() + masks.new_tensor([0, 0, 1, 1], dtype=torch.float32)
        kept = kept[nms(boxes[kept], quality[kept].float(), self._limits.box_nms_thresh)]
        dense = dense if len(dense) == 1 else dense[kept]
        return _View(
            pixels,
            image,
            sparse[kept],
            dense,
            best[kept],
            masks[kept],
            made.tokens[kept],
            made.image_features[kept],
            boxes[kept],
        )


def image_with(
    known: ImageFeatures,
    embedding: Tensor | None = None,
    region_map: Tensor | None = None,
    caption_map: Tensor | None = None,
) -> ImageFeatures:
    """`known` with what an encoder has made anew: all of it, or all but the caption map, or that alone."""
    if embedding is not None and region_map is None:
        return ImageFeatures(embedding, None)
    assert known.region_map is not None
    old = known.region_map
    if embedding is not None and region_map is not None:
        return ImageFeatures(embedding, torch.cat([region_map, old[:, region_map.shape[1] :]], dim=1))
    assert caption_map is not None
    return ImageFeatures(known.embedding, torch.cat([old[:, : -caption_map.shape[1]], caption_map], dim=1))


def _parts(frame: np.ndarray) -> Iterator[np.ndarray]:
    """A photograph and two opposite corners of it, as a run looks at windows."""
    yield frame
    high, wide = round(_SHARE * frame.shape[0]), round(_SHARE * frame.shape[1])
    yield frame[:high, :wide]
    yield frame[-high:, -wide:]


def _upscaled(logits: Tensor, side: int) -> Tensor:
    return F.interpolate(logits[:, None].float(), (side, side), mode="bilinear", align_corners=False)[:, 0]


def _iou(expected: Tensor, got: Tensor) -> Tensor:
    """(R,) of masks (R, S, S)."""
    same, union = (expected & got).flatten(1).sum(1), (expected | got).flatten(1).sum(1)
    return torch.where(union == 0, 1.0, same / union.clamp(min=1))
