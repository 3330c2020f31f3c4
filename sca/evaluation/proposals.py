"""Average recall of anything mode: how many annotated boxes its best regions find."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sca.automatic import AutomaticMaskGenerator
from sca.data.annotations import AnnotatedImage
from sca.evaluation.region_captions import upright


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
