"""What things are called, from a packaged detector: captions of the boxes in which nobody described anything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from sca.data.annotations import AnnotatedImage, Detection
from sca.data.targets import RegionTarget, TrainingImage, overlap, training_images
from sca.data.text import with_article

# From this score on its name is taken. A guess, between where it finds most and where it is seldom wrong.
_SURE = 0.45
# A box that overlaps a described one by more is the same thing, and people's words are better.
_SAME = 0.55
# Chance to be drawn, relative to what people wrote: of a name that it gave `_ORDINARY` times; more where it is rarer, so that
# cars and chairs do not drown out cows. People have better words for each other than its one.
_USUAL, _ORDINARY, _PERSON = 0.35, 1500, 0.06
# Where people's word is another than that of COCO.
_SPOKEN = {
    "couch": "a couch",
    "dining table": "a table",
    "potted plant": "a plant",
    "tv": "a television",
    "wine glass": "a glass",
    "sports ball": "a ball",
}


def with_detector_names(
    images: Sequence[AnnotatedImage], detections: Mapping[str, Sequence[Detection]]
) -> list[TrainingImage]:
    """People's regions of `images`, and beside them what the detector is sure of, by its name; captions of pictures as ever.

    What another, weaker detector had named before is left out where this one looked.
    """
    clean = [
        replace(image, regions=tuple(region for region in image.regions if not region.detected))
        if image.id in detections
        else image
        for image in images
    ]
    described = {entry.image.id: entry.targets for entry in training_images(clean, {}, {})}
    often = Counter(
        one.category for image in images for one in detections.get(image.id, ()) if one.score >= _SURE
    )
    found = []
    for image in clean:
        targets = list(described.get(image.id, ()))
        taken = [region.box for region in image.regions if not region.loose]
        for one in detections.get(image.id, ()):
            if one.score >= _SURE and all(overlap(one.box, box) < _SAME for box in taken):
                weight = min(1.0, _USUAL * (_ORDINARY / often[one.category]) ** 0.5)
                if one.category == "person":
                    weight = _PERSON
                name = _SPOKEN.get(one.category) or with_article(one.category)
                targets.append(RegionTarget(one.box, (name,), None, weight * min(1.0, one.score / 0.7), True))
        if targets:
            found.append(TrainingImage(image, tuple(targets)))
    return found
