"""The regions that perception and tracking found in one keyframe."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.frame import FrameTime


@dataclass(frozen=True, slots=True)
class RleMask:
    """A binary mask as COCO compressed run lengths. `size`: (H, W) in pixels, `counts`: the COCO byte string."""

    size: tuple[int, int]
    counts: bytes


@dataclass(frozen=True, slots=True)
class Regions:
    """N regions of one keyframe, in the pixels of that frame.

    `boxes`: (N, 4) float32 xyxy. `masks`: N run-length masks, None where only the box is known. `scores`: (N,) float32, the model's predicted IoU.
    `features`: (N, D) float32, L2-normalised region features. `track_ids`: (N,) int64, -1 where no track is
    confirmed yet.
    """

    stream: str
    frame_index: int
    time: FrameTime
    frame_size: tuple[int, int]
    boxes: np.ndarray
    masks: tuple[RleMask | None, ...]
    scores: np.ndarray
    features: np.ndarray
    track_ids: np.ndarray

    def __post_init__(self) -> None:
        count = len(self.boxes)
        assert self.boxes.shape == (count, 4)
        assert len(self.masks) == count
        assert self.scores.shape == self.track_ids.shape == (count,)
        assert self.features.ndim == 2
        assert len(self.features) == count

    def __len__(self) -> int:
        return len(self.boxes)
