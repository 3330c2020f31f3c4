"""Whole pictures described: every region with its box, mask, score and caption."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from pycocotools import mask as coco_mask

from sca.automatic import AutomaticMaskGenerator
from sca.errors import UserError
from sca.predictor import Predictor
from sca.prompts import Prompts
from sca.regions import Caption

# One caption belongs to the three masks of a point; a mask that shares so much of its box with a better one of the same
# words is the same thing again.
_SAME = 0.6


@dataclass(frozen=True, slots=True)
class DescribedRegion:
    """A region of an image in its pixels. `box`: xyxy, the prompt's where it was a box, else around the mask; `mask`:
    COCO's compressed run lengths {"size": [H, W], "counts": bytes}; `iou`: predicted, of that mask.
    """

    box: tuple[float, float, float, float]
    mask: dict[str, object]
    iou: float
    caption: Caption

    @property
    def area(self) -> int:
        """Pixels of the mask."""
        return int(coco_mask.area(self.mask))

    def pixels(self) -> np.ndarray:
        """The mask, bool (H, W)."""
        return np.asarray(coco_mask.decode(self.mask)).astype(bool)


def describe_prompts(
    predictor: Predictor, rgb: np.ndarray, prompts: Prompts, *, task: str = "caption", beams: int = 1
) -> list[DescribedRegion]:
    """The regions that the prompts point at, in their order, in an image uint8 (H, W, 3). The mask is the surest of each."""
    encoding = predictor.encode(rgb)
    masks: list[dict[str, object]] = []
    boxes: list[tuple[float, float, float, float]] = []
    ious: list[float] = []
    captions: list[Caption] = []
    for segmentation, features in predictor.prompted(encoding, prompts):
        found = predictor.masks(encoding, segmentation).cpu().numpy()
        rles = [coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8)) for mask in found]
        masks += rles
        ious += segmentation.iou.amax(dim=1).tolist()
        given = None if segmentation.boxes is None else segmentation.boxes.tolist()
        boxes += [tuple(box) for box in given] if given is not None else [_box_of(rle) for rle in rles]
        captions += predictor.caption_all(features, task=task, beams=beams)
    return [DescribedRegion(*parts) for parts in zip(boxes, masks, ious, captions, strict=True)]


def describe_everything(
    predictor: Predictor, rgb: np.ndarray, *, task: str = "caption", beams: int = 1
) -> list[DescribedRegion]:
    """Every region that the model finds in an image uint8 (H, W, 3), the surest captions first.

    Left out: what a surer region with the same words has said of mostly the same place.
    """
    if task != "caption":
        raise UserError("anything mode makes captions: leave --task out, or give boxes, points or masks")
    records = AutomaticMaskGenerator(predictor, beams=beams).generate(rgb)
    regions = []
    for record in records:
        assert record.caption is not None
        x, y, width, height = record.bbox
        rle = coco_mask.encode(np.asfortranarray(record.segmentation, dtype=np.uint8))
        box = (float(x), float(y), float(x + width + 1), float(y + height + 1))
        regions.append(DescribedRegion(box, rle, record.predicted_iou, record.caption))
    regions.sort(key=lambda region: -region.caption.score)
    return list(_without_repeats(regions))


def _without_repeats(regions: list[DescribedRegion]) -> Iterator[DescribedRegion]:
    kept: list[DescribedRegion] = []
    for region in regions:
        said = [other for other in kept if other.caption.text == region.caption.text]
        if not any(_shared(region.box, other.box) > _SAME for other in said):
            kept.append(region)
            yield region


def _shared(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Overlap of two boxes as a share of the smaller one."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return max(width, 0.0) * max(height, 0.0) / max(smaller, 1e-9)


def _box_of(rle: dict[str, object]) -> tuple[float, float, float, float]:
    x, y, width, height = (float(value) for value in coco_mask.toBbox(rle))
    return x, y, x + width, y + height
