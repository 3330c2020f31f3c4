""" "Anything mode": find and caption every region of an image (spec section 3).

Masks are filtered before any caption is made, and only survivors are captioned. Captions do not influence the filters,
so the result is that of captioning every point of the grid.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
import torch
from pycocotools import mask as coco_mask
from segment_anything.utils.amg import (
    batched_mask_to_box,
    build_all_layer_point_grids,
    calculate_stability_score,
    generate_crop_boxes,
    is_box_near_crop_edge,
    remove_small_regions,
)
from torch import Tensor
from torchvision.ops import box_area, nms

from sca.config import AutomaticSettings
from sca.decoding.reference import RELEASED_BEAMS
from sca.predictor import Caption, ImageEncoding, Predictor

__all__ = ["AutomaticMaskGenerator", "AutomaticSettings", "RegionRecord"]

Box = tuple[int, int, int, int]

# Full-resolution logits are large: 16 of a 1080p image are 130 MB.
_MASKS_AT_A_TIME = 16


@dataclass(frozen=True, slots=True)
class RegionRecord:
    """One region of an image, in its pixels.

    `segmentation`: bool (H, W); `area`: its pixels; `bbox`: XYWH with inclusive corners (W = x1 - x0); `point`: xy of
    the grid point that found it; `crop_box`: XYWH of the crop it was found in; `caption`: None if not asked for.
    """

    segmentation: np.ndarray
    area: int
    bbox: Box
    predicted_iou: float
    stability_score: float
    point: tuple[float, float]
    crop_box: Box
    caption: Caption | None


@dataclass(frozen=True, slots=True)
class _Candidates:
    """N masks of one crop that passed the filters. `boxes` xyxy and `points` xy in the pixels of the image."""

    masks: list[dict[str, object]]
    boxes: Tensor
    iou: Tensor
    stability: Tensor
    points: Tensor
    crop_boxes: Tensor
    captions: list[Caption | None]

    def __len__(self) -> int:
        return len(self.masks)

    def select(self, indices: Tensor) -> _Candidates:
        chosen = indices.tolist()
        return _Candidates(
            [self.masks[i] for i in chosen],
            self.boxes[indices],
            self.iou[indices],
            self.stability[indices],
            self.points[indices],
            self.crop_boxes[indices],
            [self.captions[i] for i in chosen],
        )

    @staticmethod
    def join(parts: list[_Candidates]) -> _Candidates:
        return _Candidates(
            list(chain.from_iterable(part.masks for part in parts)),
            torch.cat([part.boxes for part in parts]),
            torch.cat([part.iou for part in parts]),
            torch.cat([part.stability for part in parts]),
            torch.cat([part.points for part in parts]),
            torch.cat([part.crop_boxes for part in parts]),
            list(chain.from_iterable(part.captions for part in parts)),
        )


class AutomaticMaskGenerator:
    """Anything mode over a predictor. `settings`: by default the model's own; `beams`: of the caption decoding."""

    def __init__(
        self, predictor: Predictor, settings: AutomaticSettings | None = None, *, beams: int = RELEASED_BEAMS
    ) -> None:
        self.predictor = predictor
        self.settings = settings or predictor.automatic
        self.beams = beams
        self.point_grids = build_all_layer_point_grids(
            self.settings.points_per_side, self.settings.crop_layers, self.settings.crop_points_downscale
        )

    @torch.inference_mode()
    def generate(self, rgb: np.ndarray, *, captions: bool = True) -> list[RegionRecord]:
        """Regions of an RGB image, uint8 (H, W, 3), best first; without crops that is by predicted IoU."""
        crops, layers = generate_crop_boxes(
            rgb.shape[:2], self.settings.crop_layers, self.settings.crop_overlap_ratio
        )
        found = _Candidates.join(
            [self._crop(rgb, crop, layer, captions) for crop, layer in zip(crops, layers, strict=True)]
        )
        if len(crops) > 1:
            # Crops overlap and find the same things again. Smaller crops saw more detail, so theirs stay.
            scores = 1 / box_area(found.crop_boxes.float())
            found = found.select(nms(found.boxes.float(), scores, self.settings.crop_nms_thresh))
        if self.settings.min_mask_region_area:
            found = self._without_small_regions(found)
        return [self._record(found, i) for i in range(len(found))]

    def _crop(self, rgb: np.ndarray, crop: list[int], layer: int, captions: bool) -> _Candidates:
        """Candidates of one crop (x0, y0, x1, y1), captioned, in the pixels of the image."""
        x0, y0, x1, y1 = crop
        encoding = self.predictor.encode(np.ascontiguousarray(rgb[y0:y1, x0:x1]))
        points = torch.from_numpy(self.point_grids[layer] * np.array([[x1 - x0, y1 - y0]]))
        batches = points.split(self.settings.points_per_batch)
        found = _Candidates.join([self._batch(encoding, batch, crop, rgb.shape[:2]) for batch in batches])
        # Many points find one thing: of boxes that overlap, the one that the model trusts most stays.
        found = found.select(nms(found.boxes.float(), found.iou, self.settings.box_nms_thresh))
        # Only survivors are captioned, which cannot change who survives.
        if captions and len(found):
            found = replace(found, captions=self._captions(encoding, found.points))
        offset = torch.tensor([x0, y0])
        return replace(found, boxes=found.boxes + offset.repeat(2), points=found.points + offset)

    def _batch(
        self, encoding: ImageEncoding, points: Tensor, crop: list[int], image_size: tuple[int, ...]
    ) -> _Candidates:
        """The masks of some points (P, 2) that pass every filter but suppression, boxes in crop pixels."""
        settings = self.settings
        segmentation = self.predictor.segment(encoding, points=points.unsqueeze(1))
        # 1. Masks that the model trusts; this one is nearly free, so it goes before masks are made in full size.
        prompt, mask = (segmentation.iou > settings.pred_iou_thresh).nonzero(as_tuple=True)
        binary, stability = self._full_masks(encoding, segmentation.low_res_logits[prompt, mask])
        # 2. Masks that do not hang on the exact threshold.
        stable = stability >= settings.stability_score_thresh
        binary = binary[stable]
        boxes = batched_mask_to_box(binary)
        height, width = image_size
        x0, y0, x1, y1 = crop
        # 3. Masks that the crop has cut are parts of something that a neighbouring crop sees whole.
        inner = ~is_box_near_crop_edge(boxes, crop, [0, 0, width, height])
        chosen_prompt, chosen_mask = prompt[stable][inner], mask[stable][inner]
        # Kept as run lengths over the whole image: a dense grid finds thousands, as pixels they would fill the memory.
        frame = np.zeros((height, width), dtype=np.uint8, order="F")
        rles = []
        for binary_mask in binary[inner].cpu().numpy():
            frame[y0:y1, x0:x1] = binary_mask
            rles.append(coco_mask.encode(frame))
        return _Candidates(
            rles,
            boxes[inner].cpu(),
            segmentation.iou[chosen_prompt, chosen_mask].cpu(),
            stability[stable][inner].cpu(),
            points[chosen_prompt.cpu()],
            torch.tensor([crop]).expand(len(rles), -1),
            [None] * len(rles),
        )

    def _full_masks(self, encoding: ImageEncoding, low_res_logits: Tensor) -> tuple[Tensor, Tensor]:
        """Low-resolution logits (N, 4g, 4g) to masks bool (N, H, W) and stability scores (N,), a few at a time."""
        masks, scores = [], []
        for part in low_res_logits.split(_MASKS_AT_A_TIME):
            logits = self.predictor.mask_logits(encoding, part.unsqueeze(1)).squeeze(1)
            scores.append(calculate_stability_score(logits, 0.0, self.settings.stability_score_offset))
            masks.append(logits > 0)
        return torch.cat(masks), torch.cat(scores)

    def _captions(self, encoding: ImageEncoding, points: Tensor) -> list[Caption | None]:
        """One caption per point (N, 2) in crop pixels; masks of the same point share theirs.

        Survivors are few, so decoding their points once more is cheaper than keeping image features of every prompt.
        """
        unique, position = points.unique(dim=0, return_inverse=True)
        features = torch.cat([self._features(encoding, part) for part in self._batches(unique)])
        captions = self.predictor.caption_all(features, beams=self.beams)
        return [captions[i] for i in position.tolist()]

    def _batches(self, points: Tensor) -> Iterator[Tensor]:
        yield from points.split(self.settings.points_per_batch)

    def _features(self, encoding: ImageEncoding, points: Tensor) -> Tensor:
        segmentation = self.predictor.segment(encoding, points=points.unsqueeze(1))
        return self.predictor.region_features(encoding, segmentation)

    def _without_small_regions(self, found: _Candidates) -> _Candidates:
        """Fill small holes, drop small islands; among masks that became alike prefer those that were left unchanged."""
        if not len(found):
            return found
        area = self.settings.min_mask_region_area
        cleaned, unchanged = [], []
        for rle in found.masks:
            mask = coco_mask.decode(rle).astype(bool)
            mask, filled = remove_small_regions(mask, area, mode="holes")
            mask, dropped = remove_small_regions(mask, area, mode="islands")
            cleaned.append(mask)
            unchanged.append(float(not (filled or dropped)))
        boxes = batched_mask_to_box(torch.from_numpy(np.stack(cleaned)))
        threshold = max(self.settings.box_nms_thresh, self.settings.crop_nms_thresh)
        kept = nms(boxes.float(), torch.tensor(unchanged), threshold)
        rles = [coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8)) for mask in cleaned]
        return replace(found, masks=rles, boxes=boxes).select(kept)

    def _record(self, found: _Candidates, index: int) -> RegionRecord:
        mask = coco_mask.decode(found.masks[index]).astype(bool)
        x, y = found.points[index].tolist()
        return RegionRecord(
            segmentation=mask,
            area=int(mask.sum()),
            bbox=_xywh(found.boxes[index]),
            predicted_iou=float(found.iou[index]),
            stability_score=float(found.stability[index]),
            point=(x, y),
            crop_box=_xywh(found.crop_boxes[index]),
            caption=found.captions[index],
        )


def _xywh(box: Tensor) -> Box:
    x0, y0, x1, y1 = (int(value) for value in box.tolist())
    return x0, y0, x1 - x0, y1 - y0
