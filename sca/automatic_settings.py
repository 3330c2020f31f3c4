"""Thresholds of anything mode. They belong to a model: its predicted IoU and the sharpness of its masks set their scale."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class AutomaticSettings:
    """Thresholds of anything mode; the defaults are the released ones.

    `points_per_side`: grid points along a side of the image; a crop of layer n has
    `crop_points_downscale ** n` times fewer. `points_per_batch`: prompts decoded at a time. `pred_iou_thresh`
    (exceeded) and `stability_score_thresh` (reached) keep a mask, stability being the IoU of the mask at logits
    +-`stability_score_offset`. `box_nms_thresh`, `crop_nms_thresh`: IoU above which the lower-scored box goes, within
    and between crops. `crop_layers`: layer n adds (2 ** n) ** 2 crops that overlap by `crop_overlap_ratio`.
    `min_mask_region_area`: holes and islands below so many pixels are removed; 0 leaves masks as they are.
    """

    points_per_side: int = 32
    points_per_batch: int = 64
    pred_iou_thresh: float = 0.88
    stability_score_thresh: float = 0.95
    stability_score_offset: float = 1.0
    box_nms_thresh: float = 0.7
    crop_layers: int = 0
    crop_nms_thresh: float = 0.7
    crop_overlap_ratio: float = 512 / 1500
    crop_points_downscale: int = 1
    min_mask_region_area: int = 0

    def __post_init__(self) -> None:
        counts = {
            "points_per_side": self.points_per_side,
            "points_per_batch": self.points_per_batch,
            "crop_points_downscale": self.crop_points_downscale,
        }
        for name, value in counts.items():
            if value < 1:
                raise ValueError(f"{name} {value} must be at least 1: give a positive count")
        if self.crop_layers < 0 or self.min_mask_region_area < 0:
            raise ValueError("crop_layers and min_mask_region_area must not be negative: use 0 for none")

    def to_dict(self) -> dict[str, float]:
        """Plain values, ready for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> AutomaticSettings:
        """Read `to_dict`'s layout; ValueError for an unknown entry."""
        try:
            return cls(**values)
        except TypeError as error:
            raise ValueError(f"bad settings of anything mode ({error}): see AutomaticSettings") from error
