"""What a model is trained to say and to outline: one list of region targets per picture."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sca.data.annotations import AnnotatedImage, Box, Detection, RegionAnnotation
from sca.data.text import believable, clean_phrase, head_noun, with_article


@dataclass(frozen=True)
class RegionTarget:
    """A box with the phrases that people (or a weak teacher) gave it, and its mask where one is known.

    `box` in pixels of the stored picture; `phrases` cleaned, the most used first; `counts` COCO compressed RLE;
    `weight`: relative chance to be drawn; `weak`: not an annotator's own box and phrase; `outlined`: the box is drawn
    around one thing, so that a mask of it spans the box (not so for groups and whole scenes). `sentence`: the
    phrases are captions of the whole picture. `loose`: the thing lies somewhere in the box, and fills most of it.
    """

    box: Box
    phrases: tuple[str, ...]
    counts: str | None
    weight: float
    weak: bool
    outlined: bool = True
    sentence: bool = False
    loose: bool = False


@dataclass(frozen=True)
class TrainingImage:
    """A picture and all its targets (at least one)."""

    image: AnnotatedImage
    targets: tuple[RegionTarget, ...]


def training_images(
    images: Sequence[AnnotatedImage],
    detections: Mapping[str, Sequence[Detection]],
    pseudo_masks: Mapping[tuple[str, int], str],
) -> list[TrainingImage]:
    """Targets of every image that has any; see `_targets_of`."""
    result = []
    for image in images:
        targets = _targets_of(image, detections.get(image.id, ()), pseudo_masks)
        if targets:
            result.append(TrainingImage(image, tuple(targets)))
    return result


def outlined_regions(images: Sequence[TrainingImage]) -> list[TrainingImage]:
    """The images and targets that teach masks: by a known mask (drawn twice as often) or by their box alone."""
    kept = []
    for entry in images:
        targets = tuple(
            replace(target, weight=target.weight * (2.0 if target.counts is not None else 1.0))
            for target in entry.targets
            if target.outlined
        )
        if targets:
            kept.append(TrainingImage(entry.image, targets))
    return kept


def repeat_factors(images: Sequence[TrainingImage], threshold: float, cap: float) -> list[float]:
    """How often each image is shown per epoch: rare head nouns more often (repeat-factor sampling of LVIS).

    A noun on a share f < `threshold` of the images asks for sqrt(threshold / f), at most `cap`; an image is shown as
    often as its neediest noun asks, among nouns seen on at least three images.
    """
    nouns = [{head_noun(t.phrases[0]) for t in entry.targets} for entry in images]
    frequency = Counter(noun for found in nouns for noun in found)
    need = {
        noun: min(cap, max(1.0, (threshold * len(images) / count) ** 0.5))
        for noun, count in frequency.items()
        if count >= 3
    }
    return [max((need.get(noun, 1.0) for noun in found), default=1.0) for found in nouns]


def _targets_of(
    image: AnnotatedImage, detections: Sequence[Detection], pseudo_masks: Mapping[tuple[str, int], str]
) -> list[RegionTarget]:
    """Single boxes, unions of group boxes, believable detections, and scene phrases and captions on the whole picture."""
    targets: list[RegionTarget] = []
    groups: dict[str, list[int]] = defaultdict(list)
    for index, region in enumerate(image.regions):
        if region.boxes_of_phrase > 1:
            groups[region.chain].append(index)
        elif phrases := _clean_all(region.phrases):
            counts = region.counts or pseudo_masks.get((image.id, index))
            targets.append(
                RegionTarget(
                    region.box,
                    phrases,
                    counts,
                    _weight(region),
                    region.category is not None,
                    outlined=not region.loose,
                    loose=region.loose,
                )
            )
    for members in groups.values():
        boxes = [image.regions[i].box for i in members]
        phrases = _clean_all(image.regions[members[0]].phrases)
        if len(boxes) == image.regions[members[0]].boxes_of_phrase and phrases:
            targets.append(RegionTarget(_union(boxes), phrases, None, 0.6, False, outlined=False))
    annotated = [region.box for region in image.regions]
    for found in detections:
        free = all(overlap(found.box, box) < 0.55 for box in annotated)
        # People have better words for each other than the detector's one.
        if free and found.category != "person" and believable(found.category, found.score, image.captions):
            targets.append(RegionTarget(found.box, (with_article(found.category),), None, 0.5, True))
    whole = (0.0, 0.0, float(image.width), float(image.height))
    if image.scene_phrases and (phrases := _clean_all(image.scene_phrases)):
        targets.append(RegionTarget(whole, phrases, None, 0.3, True, outlined=False))
    if image.captions and (captions := _clean_all(image.captions)):
        targets.append(RegionTarget(whole, captions, None, 1.0, True, outlined=False, sentence=True))
    return targets


# A detector's name counts for less than a person's; and people have better words for each other than its one.
_DETECTED, _DETECTED_PERSON = 0.6, 0.1


def _weight(region: RegionAnnotation) -> float:
    if not region.detected:
        return 1.0
    return region.score * (_DETECTED_PERSON if region.category == "person" else _DETECTED)


def region_phrases(images: Sequence[TrainingImage]) -> list[TrainingImage]:
    """The images and targets without captions of whole pictures."""
    kept = []
    for entry in images:
        targets = tuple(target for target in entry.targets if not target.sentence)
        if targets:
            kept.append(TrainingImage(entry.image, targets))
    return kept


def _clean_all(phrases: Sequence[str]) -> tuple[str, ...]:
    return tuple(cleaned for phrase in phrases if (cleaned := clean_phrase(phrase)))


def _union(boxes: Sequence[Box]) -> Box:
    x0, y0, x1, y1 = zip(*boxes, strict=True)
    return min(x0), min(y0), max(x1), max(y1)


def overlap(a: Box, b: Box) -> float:
    """Intersection over union of two boxes (x0, y0, x1, y1)."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    overlap = width * height
    return overlap / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap)
