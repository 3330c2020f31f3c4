"""What box proposals are taught by: boxes of things in whole pictures, from people and from a detector."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from sca.data.annotations import AnnotatedImage, Detection
from sca.data.image_cache import ImageCache
from sca.data.views import degrade, plain_view, random_view

# From this score on a detected box is a thing; below it nobody knows, and nothing is learnt there.
_SURE = 0.35
# A person's box of what the detector has found as well (IoU) is left to the detector, who knows its class.
_SAME = 0.6
# Of the picture: larger boxes are scenes.
_LARGEST = 0.85
# CamVid outlines the ground as well, which is no thing.
_GROUND = ("sky", "building", "road", "sidewalk", "tree", "fence", "lane", "wall", "pavement", "void")
_SCENE = "scene"
# Share of a box that a view must show, and its least side in input pixels; what is cut by more, or smaller, teaches nothing.
_SHOWN, _LEAST_SIDE, _SLIVER = 0.4, 5.0, 0.05
# How often a view is four pictures, for things as small as a film shows them, and the range of its zoom.
_FOUR = 0.35
_ZOOM, _FOUR_ZOOM = (0.6, 2.4), (0.9, 2.2)
_PADDING = 127.5


@dataclass(frozen=True)
class ThingPicture:
    """A picture's things: `boxes` (N, 4) xyxy pixels of the stored picture, `kinds` (N,) the detector's class or -1, `scores` (N,).

    `unknown` (M, 4): where there may be things that nobody tells.
    """

    image: AnnotatedImage
    boxes: np.ndarray
    kinds: np.ndarray
    scores: np.ndarray
    unknown: np.ndarray


@dataclass(frozen=True)
class Things:
    """Those of one view, in input pixels: as `ThingPicture`."""

    boxes: Tensor
    kinds: Tensor
    scores: Tensor
    unknown: Tensor


@dataclass(frozen=True)
class ThingBatch:
    """B views, uint8 (B, S, S, 3), and the things of each."""

    pixels: Tensor
    things: tuple[Things, ...]

    def to(self, device: torch.device) -> ThingBatch:
        """The same on `device`."""
        moved = tuple(Things(*(part.to(device) for part in vars(one).values())) for one in self.things)
        return replace(self, pixels=self.pixels.to(device), things=moved)


def thing_pictures(
    images: Sequence[AnnotatedImage], detections: Mapping[str, Sequence[Detection]], classes: Sequence[str]
) -> list[ThingPicture]:
    """The pictures with things in them: what the detector is sure of, and what people drew a box around."""
    found = []
    for image in images:
        boxes: list[tuple[float, ...]] = []
        kinds: list[int] = []
        scores: list[float] = []
        unknown: list[tuple[float, ...]] = []
        for one in detections.get(image.id, ()):
            if one.score < _SURE:
                unknown.append(one.box)
                continue
            boxes.append(one.box)
            kinds.append(classes.index(one.category))
            scores.append(one.score)
        detected = np.array(boxes, np.float64).reshape(-1, 4)
        for region in image.regions:
            box = np.array(region.box)
            if region.detected or _SCENE in region.types:
                continue
            if region.loose:
                unknown.append(region.box)
                continue
            ground = region.category is not None and any(word in region.phrases[0] for word in _GROUND)
            large = float(np.prod(box[2:] - box[:2])) > _LARGEST * image.width * image.height
            if ground or large or _overlaps(box, detected).max(initial=0) > _SAME:
                continue
            boxes.append(region.box)
            kinds.append(-1)
            scores.append(1.0)
        if boxes:
            found.append(
                ThingPicture(
                    image,
                    np.array(boxes, np.float64),
                    np.array(kinds),
                    np.array(scores),
                    np.array(unknown, np.float64).reshape(-1, 4),
                )
            )
    return found


def _overlaps(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=1)
    area = np.prod(box[2:] - box[:2]) + np.prod(others[:, 2:] - others[:, :2], axis=1)
    return np.asarray(shared / np.maximum(area - shared, 1e-9))


class ThingBatchMaker:
    """Batches of `images` augmented views of `size` x `size`. `make(step)` is a pure function of the seed and the step."""

    def __init__(
        self, data: Sequence[ThingPicture], pictures: ImageCache, *, seed: int, size: int, images: int
    ) -> None:
        self.data, self.pictures = data, pictures
        self.seed, self.size, self.images = seed, size, images

    def make(self, step: int) -> ThingBatch:
        rng = np.random.default_rng((self.seed, step))
        views = [self._view(rng) for _ in range(self.images)]
        pixels = np.stack([picture for picture, _ in views])
        return ThingBatch(torch.from_numpy(pixels), tuple(things for _, things in views))

    def _view(self, rng: np.random.Generator) -> tuple[np.ndarray, Things]:
        if rng.random() >= _FOUR:
            return self._one(rng, self.size, _ZOOM)
        half = self.size // 2
        picture = np.zeros((self.size, self.size, 3), np.uint8)
        parts = []
        for top, left in ((0, 0), (0, half), (half, 0), (half, half)):
            quarter, things = self._one(rng, half, _FOUR_ZOOM)
            picture[top : top + half, left : left + half] = quarter
            moved = torch.tensor([left, top, left, top], dtype=torch.float32)
            parts.append(replace(things, boxes=things.boxes + moved, unknown=things.unknown + moved))
        together = [torch.cat(rows) for rows in zip(*(vars(one).values() for one in parts), strict=True)]
        return picture, Things(*together)

    def _one(
        self, rng: np.random.Generator, size: int, zoom: tuple[float, float]
    ) -> tuple[np.ndarray, Things]:
        entry = self.data[int(rng.integers(len(self.data)))]
        image = entry.image
        view = random_view(rng, image.width, image.height, image.aspect, size, zoom)
        picture = view.warp(degrade(rng, self.pictures[image.id]), fill=_PADDING)
        return picture, things_of(entry, view.boxes, size)


def plain_things(entry: ThingPicture, size: int) -> Things:
    """The things of a picture as inference shows it."""
    image = entry.image
    return things_of(entry, plain_view(image.width, image.height, image.aspect, size).boxes, size)


def things_of(entry: ThingPicture, placed: Callable[[np.ndarray], np.ndarray], size: int) -> Things:
    """What is seen of a picture's things where `placed` moves boxes (N, 4) to input pixels."""
    boxes, shown = _cut(placed(entry.boxes), size)
    unknown, of_unknown = _cut(placed(entry.unknown), size)
    large = (boxes[:, 2:] - boxes[:, :2]).min(axis=1, initial=np.inf) >= _LEAST_SIDE
    good = (shown >= _SHOWN) & large
    sliver = ~good & (shown > _SLIVER)
    left = np.concatenate([boxes[sliver], unknown[of_unknown > _SLIVER]])
    return Things(
        torch.from_numpy(boxes[good]).float(),
        torch.from_numpy(entry.kinds[good]),
        torch.from_numpy(entry.scores[good]).float(),
        torch.from_numpy(left).float(),
    )


def _cut(boxes: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (N, 4) cut to the input square, and the share (N,) of each that is left."""
    cut = boxes.clip(0, size)
    area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    return cut, np.prod(cut[:, 2:] - cut[:, :2], axis=1) / np.maximum(area, 1e-6)
