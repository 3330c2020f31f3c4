"""What perception needs of a model, and what it hands on: regions of one keyframe, each once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pipeline.core.masks import RleMask, encode_placed
from pipeline.core.stage_times import TimedStage, timed
from pipeline.perception.candidates import (
    Candidates,
    array_namespace,
    distinct,
    joined,
    on_host,
    picture_grid,
)
from pipeline.perception.remembered import Description, TrackMemory, better_described
from sca.config import AutomaticSettings
from sca.lanes import Lanes
from sca.proposals import Proposals
from sca.regions import Array, ImageEncoding, LaterMap, PlacedMask, Segmentation

# Masks whose boxes agree better than this are one region, however their edges run. Measured on 36 annotated pictures: of
# 60 to 90 regions each, .5 to .6 find most things (.74 to .77 of 363; .7 with as many regions .65).
SAME_BOX_IOU = 0.6
# Two tracks are one from here on. Higher, or what was just told apart in one keyframe would flicker in the next. A guess.
SAME_TRACK_IOU = 0.75
# What stability counts beside the predicted IoU when masks are ranked. Measured there, 64 regions each: found by
# predicted IoU alone .68, by stability alone .68, by both .71.
_STABILITY_WEIGHT = 0.7
# What the agreement of other prompts counts, by the logarithm of their number. Measured there with all windows, the best 8, 16,
# 32 and 64 regions of a picture hold: with it .35, .47, .58 and .68 of the things, without .28, .42, .54 and .67. A small
# network on this and sixteen more numbers (sizes, edges, borders, logits) that was taught what people outlined holds .37, .46,
# .55 and .66, a logistic regression .34, .43, .56 and .66.
_SUPPORT_WEIGHT = 0.4
# Known tracks come before what moves, and that before what was found by points, whatever their quality.
_PLACES_APART = 4.0
# Of the regions of a keyframe this share is kept free for what is new, or a full house would never see anything again.
FRESH_SHARE = 0.15


class RegionModel(Protocol):
    """What perception needs of a model: `sca.predictor.Predictor`, or without torch `sca.compiled.predictor.CompiledPredictor`.

    `automatic`: the thresholds that suit the model. `lanes`: what of its work is worth doing side by side. Prompts are arrays of numpy, in pixels of the picture that was encoded.
    """

    automatic: AutomaticSettings
    lanes: Lanes

    def encode_batch(self, images: Sequence[np.ndarray]) -> list[ImageEncoding]: ...

    def propose(self, encoding: ImageEncoding) -> Proposals: ...

    def segment(
        self,
        encoding: ImageEncoding,
        *,
        points: np.ndarray | None = None,
        boxes: np.ndarray | None = None,
        multimask: bool = True,
    ) -> Segmentation: ...

    def placed_masks(self, encoding: ImageEncoding, segmentation: Segmentation) -> list[PlacedMask]: ...

    def region_features(
        self, encoding: ImageEncoding, segmentation: Segmentation, boxes: np.ndarray | None = None
    ) -> Array: ...


@dataclass(frozen=True, slots=True)
class Sightings:
    """N regions found in one keyframe, before anybody knows which track they belong to.

    `boxes`: (N, 4) float32 xyxy pixels. `masks`: run lengths of the whole picture, None where only the box is known: the
    mask is not good enough, or a track was found again by its own pixels. `scores`: (N,) predicted IoU. `features`:
    (N, D) float32, L2-normalised. `caption_tokens`: (N, Nc, C) float16, what the captioner needs. Both are of the view that
    shows the region largest, which `described` says. `prompted_by`: key of the expected track whose prompt found the
    region, -1 for others. `looked`: (N,) bool, the model has seen it in this keyframe.
    """

    boxes: np.ndarray
    masks: tuple[RleMask | None, ...]
    scores: np.ndarray
    features: np.ndarray
    caption_tokens: np.ndarray
    prompted_by: tuple[int, ...]
    looked: np.ndarray
    described: tuple[Description, ...]

    def __len__(self) -> int:
        return len(self.boxes)


@dataclass(frozen=True, slots=True)
class Group:
    """Candidates of one view with the keys of the tracks that they were looked for as, -1 for none.

    `place`: groups of a lower one go first: what they have found is the original.
    """

    found: Candidates
    keys: np.ndarray
    place: int

    def keep(self, index: np.ndarray) -> Group:
        return Group(self.found.keep(index), self.keys[index], self.place)


def quality(found: Candidates) -> np.ndarray:
    """How good the masks (N,) are: what decides which of two twins stays. By the model's word, their stability and support."""
    own = found.iou + _STABILITY_WEIGHT * found.stability + _SUPPORT_WEIGHT * np.log1p(found.support)
    return np.asarray(own / (1 + _STABILITY_WEIGHT))


def each_once(
    groups: Sequence[Group],
    same_iou: float,
    most: int,
    same_box_iou: float = SAME_BOX_IOU,
    *,
    told_apart: bool = True,
) -> list[Group]:
    """The regions of all groups, each once and `most` at most: twins are told by masks and boxes over all views.

    Known tracks (of place 0) leave room for what is new; of either kind the best stay. `told_apart`: known tracks are
    no twins of each other any more.
    """
    boxes = np.concatenate([group.found.mask_boxes() for group in groups])
    grid = picture_grid(groups[0].found.view.picture)
    parts = [group.found.on_picture(grid) for group in groups]
    masks = array_namespace(parts[0]).concat(parts)
    place = np.concatenate([np.full(len(group.found), group.place) for group in groups])
    good = np.concatenate([quality(group.found) for group in groups])
    kept = distinct(
        masks, good - _PLACES_APART * place, same_iou, same_box_iou, boxes, (place == 0) & told_apart
    )
    is_known = place[kept] == 0
    room = most - min(round(FRESH_SHARE * most), int((~is_known).sum()))
    kept = np.concatenate([kept[is_known][:room], kept[~is_known]])[:most]
    out = []
    start = 0
    for group in groups:
        own = np.sort(kept[(kept >= start) & (kept < start + len(group.found))]) - start
        start += len(group.found)
        out.append(group.keep(own))
    return out


@dataclass(frozen=True, slots=True)
class _Draft:
    """The regions of a group: `masks`, `boxes` (N, 4), `described` as known, and the rows that are described `anew`."""

    group: Group
    masks: list[RleMask | None]
    boxes: np.ndarray
    described: list[Description | None]
    anew: np.ndarray


def expect_words(lanes: Lanes, groups: Sequence[Group], tracks: TrackMemory, keyframe: int) -> None:
    """Begin what it takes to describe those of these regions that are to be described anew, beside what else is computed."""
    for group in groups:
        captions = group.found.view.encoding.captions
        if captions is None or captions.is_expected or not len(_anew(group, tracks, keyframe)):
            continue
        captions.is_expected = True
        lanes.later(_map, captions)


def _map(captions: LaterMap) -> None:
    with timed(TimedStage.ENCODE):
        captions.map()


def describe(
    model: RegionModel, groups: Sequence[Group], tracks: TrackMemory, keyframe: int
) -> list[Sightings]:
    """Masks at full size, boxes and descriptions of the regions of each group.

    A track that was described from a nearer view a moment ago keeps that description.
    """
    drafts = model.lanes.map(lambda group: _drafted(model, group, tracks, keyframe), groups)
    # All regions of one view in one call, whatever they were found by.
    of_view: dict[int, list[_Draft]] = {}
    for draft in drafts:
        of_view.setdefault(id(draft.group.found.view), []).append(draft)
    parts = [own for own in of_view.values() if any(len(draft.anew) for draft in own)] or [drafts[:1]]
    expect_words(model.lanes, groups, tracks, keyframe)
    begun = []
    for own in parts:
        captions = own[0].group.found.view.encoding.captions
        if captions is not None and any(len(draft.anew) for draft in own):
            _map(captions)
        # Of one view the regions, of the next the map.
        begun.append(model.lanes.later(lambda own: _describe_anew(model, own, keyframe), own))
    with timed(TimedStage.DESCRIBE):
        like = [one.results()[0] for one in begun][0]  # noqa: RUF015
    return [
        sightings_of(
            draft.boxes,
            draft.masks,
            draft.group.found.iou,
            [one for one in draft.described if one is not None],
            tuple(int(key) for key in draft.group.keys),
            np.ones(len(draft.group.found), bool),
            like,
        )
        for draft in drafts
    ]


def _drafted(model: RegionModel, group: Group, tracks: TrackMemory, keyframe: int) -> _Draft:
    masks, boxes = _full_masks(model, group.found)
    known = [tracks.get(int(key)) for key in group.keys]
    described = [None if one is None else one.description for one in known]
    return _Draft(group, masks, boxes, described, _anew(group, tracks, keyframe))


def _anew(group: Group, tracks: TrackMemory, keyframe: int) -> np.ndarray:
    """Rows of the regions that are to be described as they are seen now."""
    known = [tracks.get(int(key)) for key in group.keys]
    old = [None if one is None else one.description for one in known]
    scale = group.found.view.scale
    return np.flatnonzero([better_described(one, keyframe, scale) for one in old])


def _describe_anew(
    model: RegionModel, drafts: Sequence[_Draft], keyframe: int
) -> tuple[np.ndarray, np.ndarray]:
    """Fill in what is to be described anew of drafts of one view; gives their features (N, D) and tokens (N, Nc, C)."""
    view = drafts[0].group.found.view
    boxes = np.concatenate([draft.boxes[draft.anew] for draft in drafts]) - view.window.corner
    chosen = [draft.group.found.keep(draft.anew).chosen() for draft in drafts]
    tokens = on_host(model.region_features(view.encoding, joined(chosen), boxes)).astype(np.float32)
    features, halves, fits = (
        association_features(tokens),
        tokens.astype(np.float16),
        view.proposals.fits(boxes),
    )
    place = 0
    for draft in drafts:
        for row in draft.anew:
            draft.described[row] = Description(
                keyframe,
                view.scale,
                features[place],
                halves[place],
                float(draft.group.found.iou[row]),
                float(fits[place]),
            )
            place += 1
    return features, halves


def sightings_of(
    boxes: np.ndarray,
    masks: Sequence[RleMask | None],
    scores: np.ndarray,
    described: Sequence[Description],
    keys: tuple[int, ...],
    looked: np.ndarray,
    like: tuple[np.ndarray, np.ndarray],
) -> Sightings:
    """Sightings of regions with these descriptions; `like`: any features and tokens, whose shape those of none have."""
    features, tokens = (
        np.stack(values) if values else example[:0]
        for values, example in zip(
            ([one.feature for one in described], [one.tokens for one in described]), like, strict=True
        )
    )
    return Sightings(boxes, tuple(masks), scores, features, tokens, keys, looked, tuple(described))


def together(parts: Sequence[Sightings]) -> Sightings:
    """The regions of one or more parts."""
    return Sightings(
        np.concatenate([part.boxes for part in parts]),
        tuple(mask for part in parts for mask in part.masks),
        np.concatenate([part.scores for part in parts]),
        np.concatenate([part.features for part in parts]),
        np.concatenate([part.caption_tokens for part in parts]),
        tuple(key for part in parts for key in part.prompted_by),
        np.concatenate([part.looked for part in parts]),
        tuple(one for part in parts for one in part.described),
    )


def _full_masks(model: RegionModel, found: Candidates) -> tuple[list[RleMask | None], np.ndarray]:
    """Run lengths of the whole picture and tight boxes (N, 4) float32 xyxy pixels of it."""
    view = found.view
    corner = view.window
    made = [
        PlacedMask(one.pixels, one.top + corner.y0, one.left + corner.x0)
        for one in model.placed_masks(view.encoding, found.chosen())
    ]
    codes, boxes = encode_placed(made, view.picture)
    if found.boxes is not None:
        boxes[found.by_box] = found.boxes[found.prompts[found.by_box]]
    return [None if box else code for box, code in zip(found.by_box, codes, strict=True)], boxes


def association_features(tokens: np.ndarray) -> np.ndarray:
    """(N, Nc, C) caption tokens to (N, C) L2-normalised float32: their mean says what the region looks like."""
    mean = tokens.mean(axis=1, dtype=np.float32)
    return np.asarray(mean / np.maximum(np.linalg.norm(mean, axis=-1, keepdims=True), 1e-12), np.float32)
