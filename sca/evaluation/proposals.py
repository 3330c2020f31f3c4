"""Average recall of anything mode: how many annotated boxes its best regions find."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torchvision.ops import nms

from sca.automatic import AutomaticMaskGenerator
from sca.config import AutomaticSettings
from sca.data.annotations import AnnotatedImage
from sca.errors import UserError
from sca.evaluation.captions import upright
from sca.predictor import Predictor


def box_ious(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(N, 4) and (M, 4) xyxy boxes to IoU (N, M)."""
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    high = np.minimum(one[:, None, 2:], other[None, :, 2:])
    overlap = (high - low).clip(0).prod(-1)
    area_one, area_other = (one[:, 2:] - one[:, :2]).prod(-1), (other[:, 2:] - other[:, :2]).prod(-1)
    return overlap / np.maximum(area_one[:, None] + area_other[None] - overlap, 1e-9)


def recall_of_boxes(
    generator: AutomaticMaskGenerator,
    images: Sequence[AnnotatedImage],
    *,
    regions: int = 64,
    threshold: float = 0.5,
) -> tuple[float, float]:
    """(recall, mean number of regions per image).

    Recall: share of distinct annotated boxes (all regions, groups as their member boxes) that one of the `regions`
    best regions of anything mode meets at IoU >= `threshold`.
    """
    hits: list[bool] = []
    counts: list[int] = []
    for image in images:
        wanted = sorted({region.box for region in image.regions})
        if not wanted:
            continue
        rgb, to_upright = upright(image)
        found = generator.generate(rgb, captions=False)
        found = sorted(found, key=lambda record: -record.predicted_iou)[:regions]
        counts.append(len(found))
        if not found:
            hits += [False] * len(wanted)
            continue
        boxes = np.array([record.bbox for record in found], dtype=np.float64)
        boxes[:, 2:] += boxes[:, :2]
        hits += list(box_ious(to_upright(wanted), boxes).max(axis=1) >= threshold)
    return float(np.mean(hits)) if hits else float("nan"), float(np.mean(counts)) if counts else 0.0


# Choosing a model's thresholds for anything mode on annotated pictures.

_IOU = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7)
_STABILITY = (0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
_NMS = (0.5, 0.6, 0.7)
_COST_OF_A_REGION = (
    0.002  # recall that one more region per picture must bring: captions cost time, fragments annoy
)


@dataclass(frozen=True)
class ThresholdChoice:
    """The settings chosen, and the recall at 64 regions and mean number of regions they gave."""

    settings: AutomaticSettings
    recall: float
    regions: float


@dataclass(frozen=True)
class _Candidates:
    boxes: torch.Tensor
    iou: torch.Tensor
    stability: torch.Tensor
    wanted: np.ndarray


def choose_thresholds(
    predictor: Predictor, images: Sequence[AnnotatedImage], *, points_per_side: int = 14, regions: int = 64
) -> ThresholdChoice:
    """Search the thresholds of predicted IoU, stability and suppression for recall at few regions.

    Masks of every grid point are made once; the search filters them. UserError without annotated images.
    """
    loose = AutomaticSettings(
        points_per_side=points_per_side,
        pred_iou_thresh=min(_IOU),
        stability_score_thresh=min(_STABILITY),
        box_nms_thresh=0.95,
    )
    found = [
        _candidates(AutomaticMaskGenerator(predictor, loose), image) for image in images if image.regions
    ]
    if not found:
        raise UserError("no annotated image to choose thresholds on: give some with regions")
    best: ThresholdChoice | None = None
    for iou, stability, suppression in itertools.product(_IOU, _STABILITY, _NMS):
        recall, count = _measure(found, iou, stability, suppression, regions)
        if (
            best is None
            or recall - _COST_OF_A_REGION * count > best.recall - _COST_OF_A_REGION * best.regions
        ):
            settings = dataclasses.replace(
                loose, pred_iou_thresh=iou, stability_score_thresh=stability, box_nms_thresh=suppression
            )
            best = ThresholdChoice(settings, recall, count)
    assert best is not None
    return best


def _candidates(generator: AutomaticMaskGenerator, image: AnnotatedImage) -> _Candidates:
    rgb, to_upright = upright(image)
    records = generator.generate(rgb, captions=False)
    boxes = torch.tensor([record.bbox for record in records], dtype=torch.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return _Candidates(
        boxes,
        torch.tensor([record.predicted_iou for record in records]),
        torch.tensor([record.stability_score for record in records]),
        to_upright(sorted({region.box for region in image.regions})),
    )


def _measure(
    found: Sequence[_Candidates], iou: float, stability: float, suppression: float, regions: int
) -> tuple[float, float]:
    hits: list[bool] = []
    counts: list[int] = []
    for item in found:
        good = (item.iou > iou) & (item.stability >= stability)
        boxes, scores = item.boxes[good], item.iou[good]
        kept = boxes[nms(boxes, scores, suppression)[:regions]].numpy().astype(np.float64)
        counts.append(len(kept))
        if len(kept):
            hits += list(box_ious(item.wanted, kept).max(axis=1) >= 0.5)
        else:
            hits += [False] * len(item.wanted)
    return float(np.mean(hits)), float(np.mean(counts))
