"""The regions that perception and tracking found in one keyframe."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.core.frame import FrameTime
from pipeline.core.masks import RleMask


@dataclass(frozen=True, slots=True, eq=False)
class RegionCaption:
    """A caption of one region of one keyframe. `box` xyxy pixels; `feature` (D,) float32, L2-normalised.

    `again`: a further reading of a track that looks as when it was captioned last.
    """

    track: int
    frame: int
    time: FrameTime
    box: tuple[float, float, float, float]
    mask: RleMask | None
    feature: np.ndarray
    text: str
    score: float
    logprob: float
    again: bool = False


@dataclass(frozen=True, slots=True)
class Expected:
    """Where the live tracks should be: `keys` (T,) of the tracker, predicted `boxes` (T, 4) xyxy pixels.

    `followed`: of these keys, those whose own pixels were followed there; the others' places are guesses.
    """

    keys: tuple[int, ...]
    boxes: np.ndarray
    followed: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class EndedTrack:
    """A track that will not come back. Wall clock in ns UTC."""

    track: int
    first_ns: int
    last_ns: int
    observations: int


def box_iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union of (N, 4) with (M, 4) xyxy boxes: (N, M) float64."""
    top_left = np.maximum(first[:, None, :2], second[None, :, :2])
    bottom_right = np.minimum(first[:, None, 2:], second[None, :, 2:])
    overlap = np.prod(np.clip(bottom_right - top_left, 0, None), axis=-1, dtype=np.float64)
    union = box_area(first)[:, None] + box_area(second)[None] - overlap
    return overlap / np.maximum(union, 1e-9)


def box_area(boxes: np.ndarray) -> np.ndarray:
    """Areas of (N, 4) xyxy boxes in square pixels, (N,) float64; inside-out boxes have none."""
    return np.prod(np.clip(boxes[:, 2:] - boxes[:, :2], 0, None), axis=-1, dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Regions:
    """N regions of one keyframe, in the pixels of that frame.

    `boxes`: (N, 4) float32 xyxy. `masks`: N run-length masks of the whole picture, None where only the box is known. `scores`: (N,) float32, the model's predicted IoU.
    `features`: (N, D) float32, L2-normalised region features. `track_ids`: (N,) int64, -1 where no track is
    confirmed yet.
    """

    stream: str
    frame_index: int
    time: FrameTime
    frame_size: tuple[int, int]
    boxes: np.ndarray
    masks: tuple[RleMask | None, ...]
    scores: np.ndarray
    features: np.ndarray
    track_ids: np.ndarray

    def __post_init__(self) -> None:
        count = len(self.boxes)
        assert self.boxes.shape == (count, 4)
        assert len(self.masks) == count
        assert self.scores.shape == self.track_ids.shape == (count,)
        assert self.features.ndim == 2
        assert len(self.features) == count

    def __len__(self) -> int:
        return len(self.boxes)


# What perception hands on: light, so that who only stores it need not load the model's libraries.


@dataclass(frozen=True, slots=True, eq=False)
class CaptionRequest:
    """A region that needs a caption. `tokens`: (Nc, C) float16 caption tokens; `box` xyxy pixels; `feature` (D,) float32.

    `colours`: the basic colour terms that its pixels bear out; None where nobody has looked. `fit`: how much its box looks like
    a thing's own, 0..1. `again`: it is asked for a further reading of the same looks.
    """

    track: int
    frame: int
    time: FrameTime
    box: tuple[float, float, float, float]
    mask: RleMask | None
    feature: np.ndarray
    tokens: np.ndarray
    colours: frozenset[str] | None = None
    fit: float = 0.0
    again: bool = False


@dataclass(frozen=True, slots=True)
class Avoided:
    """Work that a stream has done without so far.

    `captions`: observations that needed none. `prompts`: tracks that stood still and were not looked for. `looks`:
    keyframes that showed the same as the last ones and were not looked at.
    """

    captions: int = 0
    prompts: int = 0
    looks: int = 0

    def __add__(self, other: Avoided) -> Avoided:
        return Avoided(self.captions + other.captions, self.prompts + other.prompts, self.looks + other.looks)


NOTHING_AVOIDED = Avoided()


@dataclass(frozen=True, slots=True)
class AnalysedKeyframe:
    """What one keyframe brought; `avoided`: and what the stream has done without so far."""

    regions: Regions
    ended: tuple[EndedTrack, ...]
    next_track: int
    avoided: Avoided
