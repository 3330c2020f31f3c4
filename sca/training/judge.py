"""Fitting a caption judge, and what its logits mean."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from sca.data.annotations import AnnotatedImage, Detection
from sca.data.views import degrade
from sca.errors import UserError
from sca.evaluation.captions import upright
from sca.modeling.caption_judge import CaptionJudge, caption_evidence, with_fits
from sca.predictor import Predictor
from sca.training.caption_truth import PictureTruth, Truth
from sca.training.found_regions import a_window, find_regions, look_closer, proposed_regions

# What a caption judge learns from: captions of the regions that anything mode finds, and whether they are right.

log = logging.getLogger(__name__)

# Points a side and regions that are kept, of the whole picture and of one window of it.
_WHOLE, _WINDOW = (5, 10), (4, 6)
# Of these, so many small ones are looked at in crops as well, as a run does.
_CLOSER = 5
# Weight of a caption of which nothing is known, counted as wrong: most of them are of nothing that anybody would name. They are
# the most, and with a fifth each they taught more of what people annotate than of what is right (see the model card).
_UNKNOWN = 0.05


@dataclass(frozen=True)
class JudgeExamples:
    """N captions: `evidence` float32 (N, H + 1), `right` bool (N,), and what each counts for, `weight` float32 (N,).

    `fits` float32 (N,): how much each region's box looks like a thing's own, of a model that proposes boxes.
    """

    evidence: Tensor
    right: Tensor
    weight: Tensor | None = None
    fits: Tensor | None = None

    def __len__(self) -> int:
        return len(self.right)

    def weights(self) -> np.ndarray:
        """(N,) float64."""
        given = torch.ones(len(self)) if self.weight is None else self.weight
        return np.asarray(given.numpy(), np.float64)


def judge_pictures(images: Sequence[AnnotatedImage], count: int, seed: int) -> list[AnnotatedImage]:
    """Some of the training pictures: half described by people, region by region, half of the other collections.

    Of those a large one has more, by the root of its size.
    """
    rng = np.random.default_rng(seed)
    described = [image for image in images if image.described]
    others = [image for image in images if not image.described]
    half = min(count - count // 2, len(described)) if others else count
    chosen = [described[i] for i in rng.permutation(len(described))[:half]]
    size = {source: 0 for source in {image.source for image in others}}
    for image in others:
        size[image.source] += 1
    share = np.array([size[image.source] ** -0.5 for image in others])
    if len(others):
        rest = min(count // 2, len(others))
        chosen += [others[i] for i in rng.choice(len(others), rest, replace=False, p=share / share.sum())]
    return [chosen[i] for i in rng.permutation(len(chosen))]


@torch.inference_mode()
def judge_examples(
    predictor: Predictor,
    images: Sequence[AnnotatedImage],
    seed: int,
    detections: Mapping[str, Sequence[Detection]] | None = None,
) -> JudgeExamples:
    """Caption what anything mode finds in each picture, in a window and in crops of it, every other one degraded as cameras do.

    Right or wrong as `sca.training.caption_truth` has it: a region of ground that bears the name of the thing before it is
    wrong. `detections`: by image id. UserError if no picture has annotated regions.
    """
    evidence: list[Tensor] = []
    truths: list[Truth] = []
    fits: list[np.ndarray] = []
    for index, image in enumerate(images):
        if not image.regions:
            continue
        rgb, to_upright = upright(image)
        rng = np.random.default_rng((seed, index))
        if index % 2:
            rgb = degrade(rng, rgb)
        height, width = rgb.shape[:2]
        scale = to_upright([(1.0, 1.0, 1.0, 1.0)])[0]
        known = PictureTruth(image, scale, (height, width), (detections or {}).get(image.id))
        views = (((0, 0, width, height), _WHOLE), (a_window(rng, height, width), _WINDOW))
        looks = [find_regions(predictor, rgb, window, side, most, rng) for window, (side, most) in views]
        looks += [proposed_regions(predictor, rgb, window, most, rng) for window, (_, most) in views]
        small = np.concatenate([found.boxes for found in looks])
        for found in (*looks, look_closer(predictor, rgb, small, _CLOSER, rng)):
            if not len(found):
                continue
            captions = predictor.caption(found.tokens)
            prefix = predictor.model.language_prefix(found.tokens)
            ids, certainty = [c.token_ids for c in captions], [c.logprob for c in captions]
            evidence.append(caption_evidence(predictor.model.language_model, prefix, ids, certainty))
            truths += [known.of(c.text, box) for c, box in zip(captions, found.boxes, strict=True)]
            fits.append(found.fits)
        if index % 200 == 199:
            log.info(
                "captions for the judge: %d of %d pictures, %d captions", index + 1, len(images), len(truths)
            )
    if not evidence:
        raise UserError("no annotated picture for the caption judge to learn from: give some with regions")
    truth = torch.tensor(truths)
    return JudgeExamples(
        torch.cat(evidence),
        truth == Truth.RIGHT,
        torch.where(truth == Truth.UNKNOWN, _UNKNOWN, 1.0),
        None if predictor.stages.propose is None else torch.from_numpy(np.concatenate(fits)),
    )


# Of the evidence, of a judge that departs from another one, and of the products, which say how much a fit means. A tenth of the
# second ranks captions of validation pictures better and those of annotated clips worse (see the model card): it learns what
# photographs are like.
_RIDGE, _DEPARTURE_RIDGE, _FITS_RIDGE = 0.1, 0.3, 0.03


@torch.no_grad()
def fit_judge(examples: JudgeExamples, before: CaptionJudge | None = None) -> CaptionJudge:
    """The judge, by logistic regression on standardised evidence, that ranks right captions before wrong ones.

    The hidden state and its products with the fits bear a ridge; the log-probability, the fit and what the judge `before` says
    bear none, so that this one departs from that one only as far as the examples ask for. UserError if all of the captions are
    right, or none.
    """
    if not 0 < int(examples.right.sum()) < len(examples):
        raise UserError("the caption judge needs right captions and wrong ones: give more pictures")
    width = examples.evidence.shape[1] - 1
    asked = examples.evidence if examples.fits is None else with_fits(examples.evidence, examples.fits)
    evidence = asked.numpy().astype(np.float64)
    mean, deviation = evidence.mean(axis=0), evidence.std(axis=0) + 1e-4
    said = np.zeros((evidence.shape[1], 0))
    if before is not None:
        head = before.head.weight.numpy().astype(np.float64).T[: evidence.shape[1]]
        said = np.concatenate([head, np.zeros((evidence.shape[1] - len(head), 1))])
    columns = np.concatenate(
        [np.ones((len(evidence), 1)), (evidence - mean) / deviation, evidence @ said], axis=1
    )
    penalty = np.full(columns.shape[1], _RIDGE if before is None else _DEPARTURE_RIDGE)
    penalty[width + 3 : 1 + len(mean)] = _FITS_RIDGE
    penalty[[0, *range(width + 1, min(width + 3, 1 + len(mean)))]] = 0.0
    penalty[1 + len(mean) :] = 0.0
    weights = _logistic_regression(
        columns, examples.right.numpy(), np.zeros(len(penalty)), penalty, examples.weights()
    )
    bias, departures = weights[0], weights[1 : 1 + len(mean)] / deviation
    judge = CaptionJudge(width, asks_fits=examples.fits is not None)
    judge.head.weight.copy_(torch.from_numpy(departures + said @ weights[1 + len(mean) :])[None])
    judge.head.bias.fill_(float(bias - departures @ mean))
    return judge.eval()


@torch.no_grad()
def calibrate_judge(judge: CaptionJudge, examples: JudgeExamples) -> None:
    """Scale and shift the judge's logits so that its probabilities hold for `examples`, which it has not learnt from.

    The order of captions stays what it was. UserError below 50 captions, or if the judge ranks them backwards.
    """
    if len(examples) < 50:
        raise UserError(f"calibration needs at least 50 captions, got {len(examples)}: use more images")
    logits = judge(examples.evidence, examples.fits).numpy().astype(np.float64)
    columns = np.stack([np.ones(len(logits)), logits], axis=1)
    shift, scale = _logistic_regression(
        columns, examples.right.numpy(), np.array([0.0, 1.0]), np.zeros(2), examples.weights()
    )
    if scale <= 0:
        raise UserError("the caption judge ranks captions backwards: give it more pictures to learn from")
    judge.head.weight.mul_(scale)
    judge.head.bias.mul_(scale).add_(shift)


def _logistic_regression(
    columns: np.ndarray, right: np.ndarray, start: np.ndarray, penalty: np.ndarray, weight: np.ndarray
) -> np.ndarray:
    """Weights of the columns (N, D) that make `right` (N,), each counting `weight` (N,), likeliest under a ridge `penalty` (D,)."""
    truth = right.astype(np.float64)
    weight = weight / weight.sum()

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        z = columns @ weights
        error = 1 / (1 + np.exp(-z)) - truth
        value = ((np.logaddexp(0, z) - truth * z) * weight).sum() + (penalty * weights**2).sum() / 2
        return float(value), columns.T @ (error * weight) + penalty * weights

    best: np.ndarray = minimize(loss, start, jac=True, method="L-BFGS-B").x
    return best
