"""Decoded pictures in memory-mapped arrays, so that training never waits for a JPEG decoder."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from sca.data.annotations import AnnotatedImage
from sca.errors import UserError
from sca.picture_size import can_be_decoded


class ImageCache:
    """RGB pictures by image id: uint8 (h, w, 3) in stored size, read from one array file per size.

    The files are built on first use in `folder` (about 150 KB a picture of 224 x 224) and reused when the list of
    images is the same.
    """

    def __init__(self, images: Sequence[AnnotatedImage], folder: Path) -> None:
        groups: dict[tuple[int, int], list[AnnotatedImage]] = defaultdict(list)
        for image in images:
            groups[image.height, image.width].append(image)
        self._place: dict[str, tuple[np.ndarray, int]] = {}
        Path(folder).mkdir(parents=True, exist_ok=True)
        for (height, width), members in groups.items():
            array = _load_or_build(Path(folder), height, width, members)
            for row, image in enumerate(members):
                self._place[image.id] = array, row

    def __getitem__(self, image_id: str) -> np.ndarray:
        array, row = self._place[image_id]
        return array[row]


def read_rgb(path: Path) -> np.ndarray:
    """One picture as RGB uint8 (h, w, 3). UserError if it cannot be read."""
    bgr = cv2.imread(os.fspath(path)) if can_be_decoded(path) else None
    if bgr is None:
        raise UserError(f"cannot read {path}: is the data folder complete?")
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def _load_or_build(folder: Path, height: int, width: int, images: Sequence[AnnotatedImage]) -> np.ndarray:
    shape = (len(images), height, width, 3)
    path, names = folder / f"pictures_{height}x{width}.npy", folder / f"pictures_{height}x{width}.txt"
    listing = "\n".join(image.id for image in images)
    if not (path.exists() and names.exists() and names.read_text() == listing):
        names.unlink(missing_ok=True)
        array = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
        for row, image in enumerate(images):
            array[row] = read_rgb(image.path)
        array.flush()
        names.write_text(listing)  # written last: its presence says that the array is whole
    return np.load(path, mmap_mode="r")
