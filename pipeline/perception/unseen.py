"""Tracks that the model has not seen in a keyframe, and that their own pixels show all the same."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.core.regions import Expected, box_iou
from pipeline.perception.remembered import Remembered, TrackMemory, find_again
from pipeline.perception.sightings import SAME_BOX_IOU, Group, Sightings, sightings_of

# Keyframes for which a track may be known by its own pixels alone; then the model must have seen it again. A guess.
_UNSEEN = 5


def found_again(
    expected: Expected,
    memory: TrackMemory,
    keyframe: int,
    grey: np.ndarray,
    picture: tuple[int, int],
    groups: Sequence[Group],
) -> tuple[list[int], np.ndarray]:
    """Tracks that the model has not seen now and did a moment ago, by their own pixels: keys and boxes (N, 4).

    `grey`: a picture of size (H, W) as `grey_of` makes it; `groups`: what the model has seen of the tracks in it.
    """
    scale = np.array([*grey.shape[::-1]] * 2) / np.array([*picture[::-1]] * 2)
    seen = {int(key) for group in groups for key in group.keys}
    taken = np.concatenate([group.found.mask_boxes() for group in groups])
    keys, boxes = [], []
    for key, box in zip(expected.keys, expected.boxes, strict=True):
        known = memory.get(key)
        if key in seen or known is None or keyframe - known.looked > _UNSEEN:
            continue
        found = None if known.patch is None else find_again(grey, known.patch, box * scale)
        # Its points went there, picture by picture: that is as good as its pixels, which may have turned since then.
        place = found[0] / scale if found is not None else box if key in expected.followed else None
        if place is None or box_iou(place[None], taken).max(initial=0) > SAME_BOX_IOU:
            continue  # not there, or another track by now
        keys.append(key)
        boxes.append(place)
    return keys, np.array(boxes, np.float32).reshape(-1, 4)


def recognised(group: Group, keys: Sequence[int], boxes: np.ndarray) -> Group:
    """The group with the keys of tracks that were found by their own pixels, where the model has found them as well."""
    if not len(group.found) or not keys or group.place == 0:
        return group
    iou = box_iou(group.found.mask_boxes(), boxes)
    best = iou.argmax(axis=1)
    same = iou[np.arange(len(best)), best] > SAME_BOX_IOU
    return Group(group.found, np.where(same, np.array(keys)[best], -1), group.place)


def as_they_were(
    keys: Sequence[int],
    known: Sequence[Remembered | None],
    boxes: np.ndarray,
    like: Sightings,
    *,
    masks: bool = False,
) -> Sightings:
    """Sightings of tracks that the model did not look at, described as they were; `masks`: with their masks."""
    found = [one for one in known if one is not None]
    described = [one.description for one in found]
    scores = np.array([one.score for one in described], np.float32)
    shapes = (like.features, like.caption_tokens)
    codes = [one.mask if masks else None for one in found]
    return sightings_of(boxes, codes, scores, described, tuple(keys), np.zeros(len(keys), bool), shapes)


def cover(covered: np.ndarray, boxes: np.ndarray, size: tuple[int, int]) -> None:
    """Mark boxes (N, 4) xyxy pixels of a picture of `size` in a small picture (h, w) of it, in place."""
    rows, columns = covered.shape
    for x0, y0, x1, y1 in boxes * np.array([columns / size[1], rows / size[0]] * 2):
        covered[round(max(y0, 0)) : round(max(y1, 0)), round(max(x0, 0)) : round(max(x1, 0))] = True
