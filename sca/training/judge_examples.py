"""What a caption judge learns from: captions of the regions that anything mode finds, and whether they are right."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from sca.automatic import AutomaticMaskGenerator
from sca.data.annotations import AnnotatedImage
from sca.data.phrases import clean_phrase, head_noun
from sca.data.views import degrade
from sca.evaluation.proposals import box_ious
from sca.evaluation.region_captions import upright
from sca.modeling.caption_judge import caption_evidence
from sca.predictor import Predictor

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
    matters. ValueError if no picture has annotated regions.
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
        raise ValueError("no annotated picture for the caption judge to learn from: give some with regions")
    return JudgeExamples(torch.cat(evidence), torch.tensor(right))


def named_by(found: np.ndarray, annotated: np.ndarray) -> np.ndarray:
    """Which found boxes (N, 4) may bear the names of which annotated ones (M, 4), both xyxy: bool (N, M)."""
    low = np.maximum(found[:, None, :2], annotated[None, :, :2])
    high = np.minimum(found[:, None, 2:], annotated[None, :, 2:])
    overlap = (high - low).clip(0).prod(-1)
    area = (found[:, 2:] - found[:, :2]).prod(-1)[:, None]
    inside: np.ndarray = overlap / np.maximum(area, 1) >= _INSIDE
    return inside | (box_ious(found, annotated) >= _AGREEING)
