"""Whether a caption of a region that anything mode found is right, as far as annotations and a weak detector know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from sca.data.annotations import AnnotatedImage, Detection
from sca.data.naming import PARTS, STUFF, same_thing, thing_named
from sca.data.text import categories_of

# A region is an annotated thing when it agrees with its box, or lies in it and is no crumb of it.
_AGREES, _INSIDE, _CRUMB = 0.4, 0.6, 0.1
# From here on its box is that thing's own, and another name is wrong.
_OWN = 0.5
# It is elsewhere than everything that bears its name, or the ground around it, below these (IoU, share of it inside).
_APART, _OUTSIDE = 0.25, 0.5
# Share of the picture from which a loose name of the picture is that of a region, and from which a weak detector would
# have found what a region is called.
_PICTURE, _SEEN = 0.35, 0.03
# Detections that are believed, and those that say what else is there.
_BELIEVED, _SURE = 0.4, 0.5
_DETECTED = 0.6


class Truth(IntEnum):
    """What is known of a caption."""

    WRONG = 0
    RIGHT = 1
    UNKNOWN = 2


@dataclass(frozen=True)
class Overlaps:
    """Of a region's box with N others, each (N,): IoU; the shares of the region and of the other in both; its size to the other's."""

    iou: np.ndarray
    inside: np.ndarray
    covered: np.ndarray
    size: np.ndarray

    @staticmethod
    def of(box: np.ndarray, others: np.ndarray) -> Overlaps:
        low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
        shared = np.prod(np.clip(high - low, 0, None), axis=1)
        area = max(float(np.prod(box[2:] - box[:2])), 1e-9)
        areas = np.maximum(np.prod(others[:, 2:] - others[:, :2], axis=1), 1e-9)
        return Overlaps(shared / (area + areas - shared), shared / area, shared / areas, area / areas)

    def of_rows(self, rows: np.ndarray) -> Overlaps:
        return Overlaps(self.iou[rows], self.inside[rows], self.covered[rows], self.size[rows])


class PictureTruth:
    """What is known of one picture.

    `scale` (4,): from pixels of the stored picture to those of the regions, whose picture has `size` (H, W). `detections`: of
    the weak detector, None where it did not look.
    """

    def __init__(
        self,
        image: AnnotatedImage,
        scale: np.ndarray,
        size: tuple[int, int],
        detections: Sequence[Detection] | None,
    ) -> None:
        told = [region for region in image.regions if region.phrases and not region.detected]
        self._loose = any(region.loose for region in told)
        self._boxes = np.array([region.box for region in told], np.float64).reshape(-1, 4) * scale
        self._names = [frozenset(map(thing_named, region.phrases)) for region in told]
        self._area = float(size[0] * size[1])
        self._detections = None if detections is None else tuple(detections)
        found = self._detections or ()
        self._found = np.array([one.box for one in found], np.float64).reshape(-1, 4) * scale
        self._scores = np.array([one.score for one in found])

    def of(self, text: str, box: np.ndarray) -> Truth:
        """Whether `text` is right of the region in `box` (4,) xyxy.

        Right: it names what the region is, or lies in. Wrong: the region is another thing, or the thing of that name is
        elsewhere, most of all before it. Of what nobody annotated, nothing is known.
        """
        name = thing_named(text)
        if not name:
            return Truth.WRONG
        share = float(np.prod(box[2:] - box[:2])) / self._area
        if self._loose:
            return self._of_picture(name, share)
        people = self._as_annotated(name, Overlaps.of(box, self._boxes))
        if people is Truth.RIGHT:
            return people
        machine = self._as_detected(name, Overlaps.of(box, self._found), share)
        if {people, machine} == {Truth.WRONG, Truth.RIGHT}:
            return Truth.UNKNOWN
        return people if people is not Truth.UNKNOWN else machine

    def _of_picture(self, name: str, share: float) -> Truth:
        """By the one name that the whole picture has."""
        if share < _PICTURE:
            return Truth.UNKNOWN
        if any(same_thing(name, other) for names in self._names for other in names):
            return Truth.RIGHT
        return Truth.UNKNOWN if name in STUFF or name in PARTS else Truth.WRONG

    def _as_annotated(self, name: str, over: Overlaps) -> Truth:
        says = np.array([any(same_thing(name, other) for other in names) for names in self._names], bool)
        if not len(says):
            return Truth.UNKNOWN
        is_it = (over.iou >= _AGREES) | ((over.inside >= _INSIDE) & (over.size >= _CRUMB))
        if (is_it & says).any():
            return Truth.RIGHT
        if over.iou.max() >= _OWN and name not in PARTS:
            return Truth.WRONG
        if not says.any() or name in STUFF:
            return Truth.UNKNOWN
        named = over.of_rows(says)
        apart = named.iou.max() < _APART and named.inside.max() < _OUTSIDE
        return Truth.WRONG if apart else Truth.UNKNOWN

    def _as_detected(self, name: str, over: Overlaps, share: float) -> Truth:
        if self._detections is None:
            return Truth.UNKNOWN
        classes = categories_of(name)
        says = np.array([one.category in classes for one in self._detections], bool)
        if says.any():
            named = over.of_rows(says)
            is_it = (named.iou >= _OWN) | ((named.inside >= _INSIDE) & (named.size >= _CRUMB))
            if (is_it & (self._scores[says] >= _BELIEVED)).any():
                return Truth.RIGHT
            if named.iou.max() < _APART and named.inside.max() < _OUTSIDE:
                return Truth.WRONG
        elif classes and share > _SEEN:
            return Truth.WRONG
        sure = over.of_rows(self._scores >= _SURE)
        another = len(sure.iou) > 0 and sure.iou.max() >= _DETECTED
        return Truth.WRONG if another and name not in PARTS and name not in STUFF else Truth.UNKNOWN
