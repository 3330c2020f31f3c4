"""Wall-clock cost of the stages of a predictor on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from sca.predictor import Predictor


@dataclass(frozen=True)
class Speed:
    """Medians in milliseconds on `threads` threads of the device: one image; one region's mask; one caption, of a
    batch of 16 regions."""

    encode_ms: float
    region_ms: float
    caption_ms: float
    threads: int


def measure_speed(predictor: Predictor, rgb: np.ndarray, repeats: int = 5, regions: int = 16) -> Speed:
    """Time `predictor` on one picture, uint8 (H, W, 3), and `regions` boxes in it."""
    height, width = rgb.shape[:2]
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 0.5, size=(regions, 2))
    boxes = np.concatenate([corners, corners + 0.4], axis=1) * [width, height, width, height]
    encoding = predictor.encode(rgb)
    segmentation = predictor.segment(encoding, boxes=boxes)
    features = predictor.region_features(encoding, segmentation)
    return Speed(
        encode_ms=_median_ms(lambda: predictor.encode(rgb), repeats),
        region_ms=_median_ms(lambda: predictor.segment(encoding, boxes=boxes), repeats) / regions,
        caption_ms=_median_ms(
            lambda: predictor.caption(predictor.region_features(encoding, segmentation)), repeats
        )
        / len(features),
        threads=torch.get_num_threads(),
    )


def _median_ms(action: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return float(np.median(times[1:]) * 1e3)
