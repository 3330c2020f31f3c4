"""Captions of annotated boxes, and how well they agree with what people wrote."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from sca.data.annotations import AnnotatedImage, Box
from sca.data.image_cache import read_rgb
from sca.data.text import clean_phrase, head_noun
from sca.errors import UserError
from sca.evaluation.reference_scorers import java_scores
from sca.predictor import Predictor

_FUNCTION_WORDS = frozenset(
    ["a", "an", "the", "of", "two", "three", "in", "his", "her", "their", "its", "some", "on", "with", "and"]
)
_TYPES = ("people", "animals", "clothing", "scene", "vehicles", "other", "bodyparts")
_AREAS = ((0.0, 0.02), (0.02, 0.1), (0.1, 1.01))


@dataclass(frozen=True)
class RegionCaption:
    """A caption of one annotated region. `area`: share of the picture; `types`: Flickr30k Entities types;
    `logprob`, `tokens`, `score`: see `Caption`."""

    image_id: str
    region: int
    text: str
    references: tuple[str, ...]
    logprob: float
    tokens: int
    score: float
    area: float
    types: tuple[str, ...]

    @property
    def head_right(self) -> bool:
        """Whether the last word is the last word of a reference."""
        return head_noun(self.text) in {head_noun(reference) for reference in self.references}

    @property
    def content_right(self) -> bool:
        """Whether a word other than a function word occurs in a reference."""
        words = set(" ".join(self.references).split()) - _FUNCTION_WORDS
        return bool(words & set(clean_phrase(self.text).split()))


@dataclass(frozen=True)
class CaptionRow:
    """Scores of one group of regions; CIDEr takes its document frequencies from the group's references."""

    name: str
    count: int
    cider: float
    exact: float
    head: float
    content: float


def upright(image: AnnotatedImage) -> tuple[np.ndarray, Callable[[Sequence[Box]], np.ndarray]]:
    """The picture at its true aspect, and the map from boxes of the stored picture to it, (N, 4) xyxy."""
    rgb = read_rgb(image.path)
    height, width = image.height, image.width
    if width / height < image.aspect:
        size = round(height * image.aspect), height
    else:
        size = width, round(width / image.aspect)
    scale = np.array([size[0] / width, size[1] / height] * 2)
    if size != (width, height):
        rgb = cv2.resize(rgb, size, interpolation=cv2.INTER_LINEAR)
    return rgb, lambda boxes: np.asarray(boxes, dtype=np.float64).reshape(-1, 4) * scale


def caption_regions(
    predictor: Predictor, images: Sequence[AnnotatedImage], *, beams: int = 1
) -> Iterator[RegionCaption]:
    """Caption every single-box region (one box per phrase) of `images` from its annotated box."""
    for image in images:
        chosen = [i for i, r in enumerate(image.regions) if r.boxes_of_phrase == 1 and r.phrases]
        if not chosen:
            continue
        rgb, to_upright = upright(image)
        boxes = to_upright([image.regions[i].box for i in chosen])
        for index, caption in zip(chosen, predictor.describe(rgb, boxes, beams=beams), strict=True):
            region = image.regions[index]
            x0, y0, x1, y1 = region.box
            yield RegionCaption(
                image_id=image.id,
                region=index,
                text=clean_phrase(caption.text),
                references=tuple(map(clean_phrase, region.phrases)),
                logprob=caption.logprob,
                tokens=len(caption.token_ids),
                score=caption.score,
                area=(x1 - x0) * (y1 - y0) / (image.width * image.height),
                types=region.types,
            )


def score_captions(captions: Sequence[RegionCaption]) -> list[CaptionRow]:
    """Rows for all regions, by area, by type, and for the halves with the higher mean log-probability and score."""
    groups: dict[str, list[RegionCaption]] = {"all": list(captions)}
    for low, high in _AREAS:
        groups[f"area {low:.0%}-{min(high, 1):.0%}"] = [c for c in captions if low <= c.area < high]
    for kind in _TYPES:
        groups[kind] = [c for c in captions if kind in c.types]
    if captions:
        middle = statistics.median(c.logprob for c in captions)
        groups["confident half"] = [c for c in captions if c.logprob >= middle]
        middle = statistics.median(c.score for c in captions)
        groups["higher-scored half"] = [c for c in captions if c.score >= middle]
    return [_row(name, members) for name, members in groups.items() if len(members) > 1]


def frequent_mistakes(captions: Sequence[RegionCaption], most: int = 20) -> list[tuple[str, str, int]]:
    """(said, first reference's head, count) of the commonest wrong head nouns."""
    wrong = Counter((head_noun(c.text), head_noun(c.references[0])) for c in captions if not c.head_right)
    return [(said, wanted, count) for (said, wanted), count in wrong.most_common(most)]


def _row(name: str, members: Sequence[RegionCaption]) -> CaptionRow:
    try:
        from pycocoevalcap.cider.cider import Cider
    except ModuleNotFoundError as error:
        raise UserError("caption metrics need pycocoevalcap: pip install pycocoevalcap") from error
    references = {i: list(c.references) for i, c in enumerate(members)}
    cider, _ = Cider().compute_score(references, {i: [c.text] for i, c in enumerate(members)})
    return CaptionRow(
        name=name,
        count=len(members),
        cider=float(cider),
        exact=statistics.fmean(c.text in c.references for c in members),
        head=statistics.fmean(c.head_right for c in members),
        content=statistics.fmean(c.content_right for c in members),
    )


# METEOR and SPICE, which the paper reports as well: both are Java programs that pycocoevalcap carries or fetches.


@dataclass(frozen=True)
class PaperMetrics:
    """Over all regions, 0..1; None where a metric cannot run on this machine, with the reason in `missing`."""

    meteor: float | None
    spice: float | None
    missing: tuple[str, ...] = ()

    def text(self) -> str:
        """One line."""
        values = (("METEOR", self.meteor), ("SPICE", self.spice))
        known = [f"{name} {value:.3f}" for name, value in values if value is not None]
        return "; ".join([*known, *(f"not computed: {reason}" for reason in self.missing)])


def paper_metrics(captions: Sequence[RegionCaption]) -> PaperMetrics:
    """Score captions with METEOR 1.5 and SPICE 1.0 as coco-caption does, over whitespace tokens.

    Nothing is downloaded: SPICE runs only where Stanford CoreNLP 3.6.0 lies beside pycocoevalcap already.
    """
    values: dict[str, float] = {}
    missing: dict[str, str] = {}
    wanted = {i: list(caption.references) for i, caption in enumerate(captions)}
    java_scores(wanted, {i: [caption.text] for i, caption in enumerate(captions)}, values, missing)
    reasons = tuple(f"{name}: {reason}" for name, reason in missing.items())
    return PaperMetrics(values.get("METEOR"), values.get("SPICE"), reasons)


# How far caption scores are from the probabilities that they claim to be.


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
