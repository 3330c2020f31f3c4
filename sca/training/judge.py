"""Fitting a caption judge, and what its logits mean."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from sca.automatic import AutomaticMaskGenerator
from sca.data.annotations import AnnotatedImage
from sca.data.text import clean_phrase, head_noun
from sca.data.views import degrade
from sca.errors import UserError
from sca.evaluation.captions import RegionCaption, upright
from sca.evaluation.proposals import box_ious
from sca.modeling.caption_judge import CaptionJudge, caption_evidence
from sca.predictor import Predictor

# What a caption judge learns from: captions of the regions that anything mode finds, and whether they are right.

log = logging.getLogger(__name__)

_POINTS_PER_SIDE = 4
# A region inside an annotated box may bear its name: a man's back is a man. One that exceeds it must agree with it.
_INSIDE, _AGREEING = 0.6, 0.4


@dataclass(frozen=True)
class JudgeExamples:
    """N captions: `evidence` float32 (N, H + 1), `right` bool (N,)."""

    evidence: Tensor
    right: Tensor

    def __len__(self) -> int:
        return len(self.right)


@torch.inference_mode()
def judge_examples(predictor: Predictor, images: Sequence[AnnotatedImage], seed: int) -> JudgeExamples:
    """Caption what anything mode finds on each picture, every other one degraded as cameras do.

    Right: the caption's head noun is that of a phrase of an annotated region that the found one lies in or agrees
    with. What nobody annotated counts as wrong, so the share of right ones is an underestimate; their order is what
    matters. UserError if no picture has annotated regions.
    """
    settings = replace(predictor.automatic, points_per_side=_POINTS_PER_SIDE)
    generator = AutomaticMaskGenerator(predictor, settings)
    evidence: list[Tensor] = []
    right: list[bool] = []
    for index, image in enumerate(images):
        annotated = [region for region in image.regions if region.phrases]
        if not annotated:
            continue
        rgb, to_upright = upright(image)
        if index % 2:
            rgb = degrade(np.random.default_rng((seed, index)), rgb)
        records = generator.generate(rgb, captions=False)
        if not records:
            continue
        boxes = np.array([record.bbox for record in records], dtype=np.float64)
        boxes[:, 2:] += boxes[:, :2]
        encoding = predictor.encode(rgb)
        found = predictor.segment(encoding, points=[[record.point] for record in records])
        features = predictor.region_features(encoding, found, boxes)
        captions = predictor.caption(features)
        prefix = predictor.model.language_prefix(features)
        ids, certainty = [c.token_ids for c in captions], [c.logprob for c in captions]
        evidence.append(caption_evidence(predictor.model.language_model, prefix, ids, certainty))
        fitting = named_by(boxes, to_upright([region.box for region in annotated]))
        names = [{head_noun(phrase) for phrase in region.phrases} for region in annotated]
        for row, caption in zip(fitting, captions, strict=True):
            said = head_noun(clean_phrase(caption.text))
            right.append(any(said in names[i] for i in np.flatnonzero(row)))
        if index % 200 == 199:
            log.info(
                "captions for the judge: %d of %d pictures, %d captions", index + 1, len(images), len(right)
            )
    if not evidence:
        raise UserError("no annotated picture for the caption judge to learn from: give some with regions")
    return JudgeExamples(torch.cat(evidence), torch.tensor(right))


def named_by(found: np.ndarray, annotated: np.ndarray) -> np.ndarray:
    """Which found boxes (N, 4) may bear the names of which annotated ones (M, 4), both xyxy: bool (N, M)."""
    low = np.maximum(found[:, None, :2], annotated[None, :, :2])
    high = np.minimum(found[:, None, 2:], annotated[None, :, 2:])
    overlap = (high - low).clip(0).prod(-1)
    area = (found[:, 2:] - found[:, :2]).prod(-1)[:, None]
    inside: np.ndarray = overlap / np.maximum(area, 1) >= _INSIDE
    return inside | (box_ious(found, annotated) >= _AGREEING)


# Ten times as much, or a tenth, ranks the captions of videos that were looked at no better (see the model card).
_RIDGE = 0.03


@torch.no_grad()
def fit_judge(examples: JudgeExamples) -> CaptionJudge:
    """The judge, by logistic regression on standardised evidence, that ranks right captions before wrong ones.

    The hidden state bears a ridge, the log-probability none. UserError if all of the captions are right, or none.
    """
    if not 0 < int(examples.right.sum()) < len(examples):
        raise UserError("the caption judge needs right captions and wrong ones: give more pictures")
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
        raise UserError(f"calibration needs at least 50 captions, got {len(captions)}: use more images")
    scores = np.clip([caption.score for caption in captions], 1e-6, 1 - 1e-6)
    columns = np.stack([np.ones(len(scores)), np.log(scores) - np.log1p(-scores)], axis=1)
    right = np.array([caption.head_right for caption in captions])
    shift, scale = _logistic_regression(columns, right, np.array([0.0, 1.0]), np.zeros(2))
    if scale <= 0:
        raise UserError("the caption judge ranks captions backwards: give it more pictures to learn from")
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
