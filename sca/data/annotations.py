"""Region-caption annotations: images with boxes, phrases and, for some, masks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from pycocotools import mask as rle_codec

from sca.parts import Registry, registry
from sca.run_lengths import filled, run_lengths

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class RegionAnnotation:
    """One annotated box.

    `box`: (x0, y0, x1, y1) in pixels of the stored picture. `phrases`: most used first. `boxes_of_phrase`: how many
    boxes the same phrase covers (more than 1: a group such as "two dogs"). `chain`: entity id, equal for the members
    of a group. `types`: Flickr30k Entities types. `counts`: COCO compressed RLE of the stored picture, if a mask is
    known. `score`: how sure a weak detector was, 1 where people drew the box. `loose`: the name is that of the whole
    picture, and the box nothing but the picture's border.
    """

    box: Box
    phrases: tuple[str, ...]
    boxes_of_phrase: int
    chain: str
    types: tuple[str, ...]
    category: str | None
    counts: str | None
    score: float = 1.0
    loose: bool = False

    @property
    def detected(self) -> bool:
        """Whether a weak detector, and nobody else, says that this is here."""
        return self.score < 1.0


@dataclass(frozen=True)
class AnnotatedImage:
    """One picture of the data folder.

    `width`, `height` are the stored size; `aspect` = width / height of the original (stored pictures may be squashed to
    a square). `source`: where it comes from, for people. `described`: people described its regions one by one, so that
    captions are judged by it, and boxes without a mask are worth growing one.
    """

    id: str
    path: Path
    source: str
    split: str
    width: int
    height: int
    aspect: float
    captions: tuple[str, ...]
    scene_phrases: tuple[str, ...]
    regions: tuple[RegionAnnotation, ...]
    described: bool = True


@dataclass(frozen=True)
class Detection:
    """One box of the weak detector: class name, score, (x0, y0, x1, y1) in pixels of the stored picture."""

    category: str
    score: float
    box: Box


class AnnotationReader(Protocol):
    """Reads one kind of data folder."""

    def images(self, data_dir: Path, split: str | None = None) -> Iterable[AnnotatedImage]:
        """Every image of `split` ("train", "val"; None: all), in the same order each time.

        UserError, with the remedy, where the folder is not one of the kind.
        """
        ...

    def detections(self, data_dir: Path) -> Mapping[str, Sequence[Detection]]:
        """Weak detections by image id, for more regions to train on; empty where there are none."""
        ...


READERS: Registry[Callable[[], AnnotationReader]] = registry(
    "data reader", "data_readers", {"jsonl": "sca.data.jsonl_folder:JsonlFolder"}
)
"""Parts are called without arguments."""


def described_images(reader: str, data_dir: Path, split: str) -> list[AnnotatedImage]:
    """The images of `split` whose regions people described: what captions are measured on."""
    return [image for image in READERS.get(reader)().images(Path(data_dir), split) if image.described]


def decode_mask(counts: str, height: int, width: int) -> np.ndarray:
    """COCO compressed RLE counts to a uint8 mask (height, width) of 0 and 1."""
    return np.asarray(filled(run_lengths(counts.encode(), (height, width)), (height, width)), dtype=np.uint8)


def encode_mask(mask: np.ndarray) -> str:
    """A mask (H, W) to COCO compressed RLE counts; `decode_mask` is its inverse."""
    return rle_codec.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
