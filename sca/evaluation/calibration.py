"""Fitting the caption score: from log-probability and length to the probability of a right head noun."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize

from sca.caption_score import CaptionCalibration
from sca.evaluation.region_captions import RegionCaption


def fit_calibration(captions: Sequence[RegionCaption], ridge: float = 1e-3) -> CaptionCalibration:
    """Logistic regression of `head_right` on mean log-probability and token count. ValueError below 50 captions."""
    if len(captions) < 50:
        raise ValueError(f"calibration needs at least 50 captions, got {len(captions)}: use more images")
    features = np.array([[1.0, c.logprob, c.tokens] for c in captions])
    right = np.array([c.head_right for c in captions], dtype=np.float64)

    def negative_log_likelihood(weights: np.ndarray) -> tuple[float, np.ndarray]:
        z = features @ weights
        loss = np.logaddexp(0, z) - right * z
        gradient = features.T @ (1 / (1 + np.exp(-z)) - right) / len(right)
        return float(loss.mean() + ridge * (weights**2).sum()), gradient + 2 * ridge * weights

    best = minimize(negative_log_likelihood, np.zeros(3), jac=True, method="L-BFGS-B")
    bias, logprob, length = (float(v) for v in best.x)
    return CaptionCalibration(bias, logprob, length)


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
