"""How far caption scores are from the probabilities that they claim to be."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sca.evaluation.region_captions import RegionCaption


def calibration_error(captions: Sequence[RegionCaption], bins: int = 10) -> float:
    """Expected calibration error of `score` against `head_right`, over equally filled bins."""
    if not captions:
        return float("nan")
    ordered = sorted(captions, key=lambda c: c.score)
    parts = np.array_split(np.arange(len(ordered)), min(bins, len(ordered)))
    gaps = [
        len(part)
        * abs(np.mean([ordered[i].score for i in part]) - np.mean([ordered[i].head_right for i in part]))
        for part in parts
    ]
    return float(sum(gaps) / len(ordered))
