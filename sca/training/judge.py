"""Fitting a caption judge, and what its logits mean."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import minimize

from sca.evaluation.region_captions import RegionCaption
from sca.modeling.caption_judge import CaptionJudge
from sca.training.judge_examples import JudgeExamples

# Ten times as much, or a tenth, ranks the captions of videos that were looked at no better (see the model card).
_RIDGE = 0.03


@torch.no_grad()
def fit_judge(examples: JudgeExamples) -> CaptionJudge:
    """The judge, by logistic regression on standardised evidence, that ranks right captions before wrong ones.

    The hidden state bears a ridge, the log-probability none. ValueError if all of the captions are right, or none.
    """
    if not 0 < int(examples.right.sum()) < len(examples):
        raise ValueError("the caption judge needs right captions and wrong ones: give more pictures")
    evidence = examples.evidence.numpy().astype(np.float64)
    mean, deviation = evidence.mean(axis=0), evidence.std(axis=0) + 1e-4
    columns = np.concatenate([np.ones((len(evidence), 1)), (evidence - mean) / deviation], axis=1)
    penalty = np.full(columns.shape[1], _RIDGE)
    penalty[[0, -1]] = 0.0
    weights = _logistic_regression(columns, examples.right.numpy(), np.zeros(len(penalty)), penalty)
    bias, slopes = weights[0], weights[1:] / deviation
    judge = CaptionJudge(evidence.shape[1] - 1)
    judge.head.weight.copy_(torch.from_numpy(slopes)[None])
    judge.head.bias.fill_(float(bias - slopes @ mean))
    return judge.eval()


@torch.no_grad()
def calibrate_judge(judge: CaptionJudge, captions: Sequence[RegionCaption]) -> None:
    """Scale and shift the judge's logits so that its probabilities hold for `captions`, whose scores it gave.

    The order of captions stays what it was. ValueError below 50 captions, or if the judge ranks them backwards.
    """
    if len(captions) < 50:
        raise ValueError(f"calibration needs at least 50 captions, got {len(captions)}: use more images")
    scores = np.clip([caption.score for caption in captions], 1e-6, 1 - 1e-6)
    columns = np.stack([np.ones(len(scores)), np.log(scores) - np.log1p(-scores)], axis=1)
    right = np.array([caption.head_right for caption in captions])
    shift, scale = _logistic_regression(columns, right, np.array([0.0, 1.0]), np.zeros(2))
    if scale <= 0:
        raise ValueError("the caption judge ranks captions backwards: give it more pictures to learn from")
    judge.head.weight.mul_(scale)
    judge.head.bias.mul_(scale).add_(shift)


def _logistic_regression(
    columns: np.ndarray, right: np.ndarray, start: np.ndarray, penalty: np.ndarray
) -> np.ndarray:
    """Weights of the columns (N, D) that make `right` (N,) likeliest under a ridge `penalty` (D,)."""
    truth = right.astype(np.float64)

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        z = columns @ weights
        error = 1 / (1 + np.exp(-z)) - truth
        value = (np.logaddexp(0, z) - truth * z).mean() + (penalty * weights**2).sum() / 2
        return float(value), columns.T @ error / len(truth) + penalty * weights

    best: np.ndarray = minimize(loss, start, jac=True, method="L-BFGS-B").x
    return best
