"""Masks and names on short clips with one annotated object each (DAVIS 2016), never used for training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from sca.data.annotations import Box, decode_mask
from sca.errors import UserError
from sca.small_files import json_lines

if TYPE_CHECKING:  # what is wrong with data is told before torch is imported
    from sca.predictor import Predictor

# What counts as naming the object shown, by the class that the annotations give it.
_NAMES: dict[str, frozenset[str]] = {
    "swan": frozenset({"swan", "bird", "duck", "goose"}),
    "person": frozenset({"man", "boy", "person", "guy", "dancer", "breakdancer", "skateboarder", "people", "woman"}),
    "car": frozenset({"car", "vehicle", "suv", "automobile"}),
    "cow": frozenset({"cow", "bull", "cattle", "calf"}),
    "dog": frozenset({"dog", "puppy", "retriever"}),
    "person on horse": frozenset({"horse", "rider", "jockey", "horseback", "pony"}),
    "person on motorcycle": frozenset(
        {"motorcycle", "scooter", "motorbike", "motorcyclist", "biker", "moped", "bike", "man", "person"}
    ),
}  # fmt: skip


@dataclass(frozen=True)
class ClipFrame:
    """One annotated frame: RGB uint8 (H, W, 3), the object's box and its mask (H, W) of 0 and 1."""

    rgb: np.ndarray
    box: Box
    mask: np.ndarray


@dataclass(frozen=True)
class ClipResult:
    """Mean IoU of one clip from the true box and from one click; the captions of its frames, commonest first.

    `named`: the commonest caption names the object; `score`: mean score of the frames with that caption.
    """

    clip: str
    category: str
    box_iou: float
    click_iou: float
    caption: str
    score: float
    named: bool
    named_share: float


def check_clips(data_dir: Path) -> None:
    """UserError where `read_clips` will not find what it reads: before a model loads, since clips are read last."""
    path = Path(data_dir) / "tracks.jsonl.gz"
    if not path.exists():
        raise UserError(f"{path} does not exist: give the folder that holds tracks.jsonl.gz")
    for number, clip in enumerate(json_lines(path), 1):
        try:
            rows = clip["tracks"][0]["frames"]
            str(clip["id"]), int(clip["frames"]), int(clip["h"]), int(clip["w"]), clip["tracks"][0]["cls"]
            for row in rows:
                int(row["f"]), tuple(float(value) for value in row["b"]), row["rle"].encode()
            file = Path(data_dir) / str(clip["file"])
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise UserError(
                f"{path}: clip {number} is not whole ({type(error).__name__}: {error}); write it again"
            ) from None
        if not file.is_file():
            raise UserError(f"{file} does not exist: is the data folder complete?")


def read_clips(data_dir: Path, every: int = 8) -> Iterator[tuple[str, str, list[ClipFrame]]]:
    """(id, class, every n-th annotated frame) of each clip in `data_dir`/tracks.jsonl.gz."""
    path = Path(data_dir) / "tracks.jsonl.gz"
    if not path.exists():
        raise UserError(f"{path} does not exist: give the folder that holds tracks.jsonl.gz")
    for clip in json_lines(path):
        track = clip["tracks"][0]
        wanted = {row["f"]: row for row in track["frames"][::every]}
        frames = []
        video = cv2.VideoCapture(str(Path(data_dir) / clip["file"]))
        for index in range(clip["frames"]):
            good, bgr = video.read()
            if not good:
                break
            if row := wanted.get(index):
                x0, y0, x1, y1 = (float(v) for v in row["b"])
                mask = decode_mask(row["rle"], clip["h"], clip["w"])
                rgb = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
                frames.append(ClipFrame(rgb, (x0, y0, x1, y1), mask))
        video.release()
        if not frames:
            raise UserError(f"no frame of {clip['file']} could be read: is the data folder complete?")
        yield clip["id"], track["cls"], frames


def inner_point(mask: np.ndarray) -> tuple[float, float]:
    """The pixel (x, y) of a mask that is farthest from its border: where a person would click."""
    distance = cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
    y, x = np.unravel_index(int(distance.argmax()), distance.shape)
    return float(x) + 0.5, float(y) + 0.5


def mask_iou(found: np.ndarray, wanted: np.ndarray) -> float:
    """IoU of two binary masks of one shape."""
    union = np.logical_or(found, wanted).sum()
    return float(np.logical_and(found, wanted).sum() / union) if union else 1.0


def evaluate_clip(predictor: Predictor, clip: str, category: str, frames: Sequence[ClipFrame]) -> ClipResult:
    """Masks from box and click (of three, the best by predicted IoU), and captions from the box, on every frame."""
    from sca.data.text import clean_phrase

    box_ious, click_ious, captions = [], [], []
    for frame in frames:
        encoding = predictor.encode(frame.rgb)
        from_box = predictor.segment(encoding, boxes=[frame.box])
        box_ious.append(mask_iou(predictor.masks(encoding, from_box)[0].cpu().numpy(), frame.mask))
        click = predictor.segment(encoding, points=[[inner_point(frame.mask)]])
        click_ious.append(mask_iou(predictor.masks(encoding, click)[0].cpu().numpy(), frame.mask))
        captions.append(predictor.caption(predictor.region_features(encoding, from_box))[0])
    names = _NAMES.get(category, frozenset({category}))
    named = [bool(names & set(clean_phrase(c.text).split())) for c in captions]
    common, _ = Counter(c.text for c in captions).most_common(1)[0]
    return ClipResult(
        clip=clip,
        category=category,
        box_iou=float(np.mean(box_ious)),
        click_iou=float(np.mean(click_ious)),
        caption=common,
        score=float(np.mean([c.score for c in captions if c.text == common])),
        named=bool(names & set(clean_phrase(common).split())),
        named_share=float(np.mean(named)),
    )
