"""CHOTA: how well things are found, followed and named at once, over annotated moments."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from pipeline.core.regions import box_iou
from pipeline.evaluation.naming import JudgedFrame, says_one_of

# IoU of boxes from which a region is the thing: HOTA's own, .05 to .95. IDF1 asks for half.
_ALPHAS = np.arange(1, 20) * 0.05
_IDENTITY = 0.5
_EPSILON = float(np.finfo(float).eps)


@dataclass(frozen=True, slots=True, eq=False)
class Moment:
    """One picture: `things` (T,) identities with their boxes (T, 4), `tracks` (R,) with theirs (R, 4), all xyxy of one scale.

    `right` (T, R) bool: whether what the track is called then names the thing. Identities are the same number in every
    picture, and unique over clips.
    """

    things: np.ndarray
    thing_boxes: np.ndarray
    tracks: np.ndarray
    track_boxes: np.ndarray
    right: np.ndarray


@dataclass(frozen=True, slots=True)
class Chota:
    """Means over IoU from .05 to .95, 0..1; NaN where no thing is annotated.

    `deta` found, `assa` followed, `capa` named, of what was found; `hota` sqrt(deta assa) and `chota` their geometric mean,
    each by threshold. `idf1` at IoU .5.
    """

    deta: float
    assa: float
    capa: float
    hota: float
    chota: float
    idf1: float


def chota(moments: Sequence[Moment]) -> Chota:
    """HOTA (arXiv 2009.07736) with its caption accuracy (arXiv 2306.11729) of `moments`.

    A caption counts 1 if it names the thing and 0 if not, in place of the mean of METEOR, CIDEr and SPICE: things are annotated
    by the nouns that are true of them. A region that fits no annotated thing is a false positive.
    """
    if not sum(len(moment.things) for moment in moments):
        return Chota(*[math.nan] * 6)
    things, tracks, moments = _numbered(moments)
    overlaps = [box_iou(moment.thing_boxes, moment.track_boxes) for moment in moments]
    # 1. How well each track goes with each thing over all pictures: what decides between regions that fit alike.
    alike = np.zeros((things, tracks))
    thing_count, track_count = np.zeros((things, 1)), np.zeros((1, tracks))
    for moment, overlap in zip(moments, overlaps, strict=True):
        total = overlap.sum(0)[None] + overlap.sum(1)[:, None] - overlap
        share = np.where(total > _EPSILON, overlap / np.maximum(total, _EPSILON), 0.0)
        alike[np.ix_(moment.things, moment.tracks)] += share
        thing_count[moment.things] += 1
        track_count[:, moment.tracks] += 1
    alike /= np.maximum(thing_count + track_count - alike, _EPSILON)
    # 2. In each picture every thing has one region at most, and the other way round.
    matches = np.zeros((len(_ALPHAS), things, tracks))
    named = np.zeros(len(_ALPHAS))
    for moment, overlap in zip(moments, overlaps, strict=True):
        rows, columns = linear_sum_assignment(
            alike[np.ix_(moment.things, moment.tracks)] * overlap, maximize=True
        )
        fits = overlap[rows, columns][None] >= _ALPHAS[:, None] - _EPSILON
        for number, fit in enumerate(fits):
            matches[number, moment.things[rows[fit]], moment.tracks[columns[fit]]] += 1
        named += (fits & moment.right[rows, columns][None]).sum(1)
    # 3. Of what was found: how much of the thing's and of the track's way they went together, and how much is called rightly.
    found = matches.sum((1, 2))
    deta = found / (thing_count.sum() + track_count.sum() - found)
    together = matches / np.maximum(thing_count + track_count - matches, 1)
    assa = (matches * together).sum((1, 2)) / np.maximum(found, 1)
    capa = named / np.maximum(found, 1)
    return Chota(
        float(deta.mean()),
        float(assa.mean()),
        float(capa.mean()),
        float(np.sqrt(deta * assa).mean()),
        float(np.cbrt(deta * assa * capa).mean()),
        _idf1(moments, overlaps, thing_count.sum(), track_count.sum(), alike.shape),
    )


def moments_of(
    frames: Sequence[JudgedFrame], *, min_score: float = 0.0, repeats: bool = True
) -> list[Moment]:
    """Annotated pictures with their regions of `min_score` or more; `repeats`: those that are not shown as well.

    Things of one clip and name are one thing, if no picture of the clip has two of that name: else each is new in each
    picture.
    """
    several = {
        (judged.frame.clip, thing.name)
        for judged in frames
        for place, thing in enumerate(judged.frame.things)
        if any(other.name == thing.name for other in judged.frame.things[:place])
    }
    things: dict[tuple[str, str, int], int] = {}
    tracks: dict[tuple[str, int], int] = {}
    moments = []
    for picture, judged in enumerate(frames):
        frame = judged.frame
        said = [
            region
            for region in judged.regions
            if region.text and region.score >= min_score and (repeats or not region.repeated)
        ]
        keys = []
        for place, thing in enumerate(frame.things):
            one = (frame.clip, thing.name) not in several
            keys.append((frame.clip, thing.name, -1 if one else picture * 100_000 + place))
        scale = np.array([frame.width, frame.height] * 2, np.float64)
        moments.append(
            Moment(
                np.array([things.setdefault(key, len(things)) for key in keys], np.int64),
                frame.boxes(),
                np.array([tracks.setdefault((frame.clip, r.track), len(tracks)) for r in said], np.int64),
                np.array([region.box for region in said], np.float64).reshape(-1, 4) / scale,
                np.array(
                    [[says_one_of(r.text, thing.heads) for r in said] for thing in frame.things], bool
                ).reshape(len(frame.things), len(said)),
            )
        )
    return moments


def _numbered(moments: Sequence[Moment]) -> tuple[int, int, list[Moment]]:
    """How many things and tracks there are, and the moments with both numbered from 0."""
    things = np.unique(np.concatenate([moment.things for moment in moments]))
    tracks = np.unique(np.concatenate([moment.tracks for moment in moments]))
    return (
        len(things),
        len(tracks),
        [
            Moment(
                np.searchsorted(things, moment.things),
                moment.thing_boxes,
                np.searchsorted(tracks, moment.tracks),
                moment.track_boxes,
                moment.right,
            )
            for moment in moments
        ],
    )


def _idf1(
    moments: Sequence[Moment],
    overlaps: Sequence[np.ndarray],
    things: float,
    tracks: float,
    shape: tuple[int, int],
) -> float:
    """IDF1 (arXiv 1609.01775): each thing has one track over all pictures; how much of both goes together."""
    together = np.zeros(shape)
    for moment, overlap in zip(moments, overlaps, strict=True):
        together[np.ix_(moment.things, moment.tracks)] += overlap >= _IDENTITY
    rows, columns = linear_sum_assignment(together, maximize=True)
    return float(2 * together[rows, columns].sum() / (things + tracks))
