"""Region-caption annotations: images with boxes, phrases and, for some, masks."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as rle_codec

from sca.errors import UserError

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class RegionAnnotation:
    """One annotated box.

    `box`: (x0, y0, x1, y1) in pixels of the stored picture. `phrases`: most used first. `boxes_of_phrase`: how many
    boxes the same phrase covers (more than 1: a group such as "two dogs"). `chain`: entity id, equal for the members
    of a group. `types`: Flickr30k Entities types. `counts`: COCO compressed RLE of the stored picture, if a mask is
    known.
    """

    box: Box
    phrases: tuple[str, ...]
    boxes_of_phrase: int
    chain: str
    types: tuple[str, ...]
    category: str | None
    counts: str | None


@dataclass(frozen=True)
class AnnotatedImage:
    """One picture of the data folder. `width`, `height` are the stored size; `aspect` = width / height of the
    original (stored pictures may be squashed to a square)."""

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


@dataclass(frozen=True)
class Detection:
    """One box of the weak detector: class name, score, (x0, y0, x1, y1) in pixels of the stored picture."""

    category: str
    score: float
    box: Box


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with gzip.open(path, "rt", encoding="utf-8") as stream:
            for line in stream:
                yield json.loads(line)
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist: give the folder that holds {path.name}") from error


def read_annotations(data_dir: Path, split: str | None = None) -> list[AnnotatedImage]:
    """Every image of `split` ("train", "val"; None: all) in `data_dir`/annotations.jsonl.gz, in file order.

    UserError if the file is missing.
    """
    images = []
    for row in _lines(Path(data_dir) / "annotations.jsonl.gz"):
        if split is not None and row["split"] != split:
            continue
        width, height = row["w"], row["h"]
        regions = tuple(
            RegionAnnotation(
                box=_box(r["b"]),
                phrases=tuple(r["p"]),
                boxes_of_phrase=r["n"],
                chain=str(r.get("c", "")),
                types=tuple(r.get("t") or ()),
                category=r.get("cls"),
                counts=r.get("rle"),
            )
            for r in row["regions"]
        )
        images.append(
            AnnotatedImage(
                id=row["id"],
                path=Path(data_dir) / row["file"],
                source=row["src"],
                split=row["split"],
                width=width,
                height=height,
                aspect=(row.get("ow") or width) / (row.get("oh") or height),
                captions=tuple(row.get("captions") or ()),
                scene_phrases=tuple(row.get("scene") or ()),
                regions=regions,
            )
        )
    return images


def read_detections(data_dir: Path) -> dict[str, tuple[Detection, ...]]:
    """Weak detections by image id, from `data_dir`/pseudo_coco80.jsonl.gz."""
    return {
        row["id"]: tuple(Detection(name, score, _box(box)) for name, score, box in row["d"])
        for row in _lines(Path(data_dir) / "pseudo_coco80.jsonl.gz")
    }


def decode_mask(counts: str, height: int, width: int) -> np.ndarray:
    """COCO compressed RLE counts to a uint8 mask (height, width) of 0 and 1."""
    return np.asarray(rle_codec.decode({"size": [height, width], "counts": counts.encode()}), dtype=np.uint8)


def encode_mask(mask: np.ndarray) -> str:
    """A mask (H, W) to COCO compressed RLE counts; `decode_mask` is its inverse."""
    return rle_codec.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()


def _box(values: list[float]) -> Box:
    x0, y0, x1, y1 = (float(v) for v in values)
    return x0, y0, x1, y1
