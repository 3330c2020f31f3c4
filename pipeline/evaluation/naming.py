"""Whether captions name the things that a person sees: what each caption is right about, and what was left unsaid."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from pipeline.core.regions import box_area, box_iou
from pipeline.evaluation.annotations import AnnotatedFrame, Thing

# What the two readings ask of a box. They are those of the published annotations, whose verdicts were compared with the eye.
_FITS = 0.4  # IoU from which a box is the thing's
_OWN = 0.5  # IoU from which it is that thing's and no other's
_INSIDE = 0.7  # share of a box that lies in a thing, from which it says something of it
_HALF = 0.5  # the same, as a viewer takes it
_ENOUGH = 0.1  # share of the thing's area that such a box must have
_TOUCHES = 0.25  # IoU from which a viewer takes a loose box for the thing's
_AROUND = 0.3  # IoU of a box around several things with the smallest such box


@dataclass(frozen=True, slots=True)
class SaidRegion:
    """A region at an annotated moment: its box xyxy in pixels, what it was called then ("" for nothing yet), how surely.

    `repeated`: not shown, since another label says the same of the same thing.
    """

    track: int
    box: tuple[float, ...]
    text: str
    score: float
    repeated: bool = False


Reading = Literal["strict", "loose"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one region has to do with the T things of its picture, each (T,) bool.

    `matches`: its box is about the thing, so that its caption may be judged by it; `names`: and it says the thing;
    `true`: or at least a part of it.
    """

    matches: np.ndarray
    names: np.ndarray
    true: np.ndarray


@dataclass(frozen=True, slots=True)
class JudgedFrame:
    """The regions of one picture with their verdicts in both readings."""

    frame: AnnotatedFrame
    regions: tuple[SaidRegion, ...]
    verdicts: dict[Reading, tuple[Verdict, ...]]


@dataclass(frozen=True, slots=True)
class Tally:
    """Of `things`, `named` were named and `found` have a region of whatever name; of `judged` captions `right` are true."""

    things: int = 0
    named: int = 0
    found: int = 0
    judged: int = 0
    right: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.things + other.things,
            self.named + other.named,
            self.found + other.found,
            self.judged + other.judged,
            self.right + other.right,
        )

    @property
    def recall(self) -> float:
        return self.named / self.things if self.things else float("nan")

    @property
    def found_share(self) -> float:
        return self.found / self.things if self.things else float("nan")

    @property
    def precision(self) -> float:
        return self.right / self.judged if self.judged else float("nan")


def judge_frame(frame: AnnotatedFrame, regions: Sequence[SaidRegion]) -> JudgedFrame:
    """Both readings of every region of a picture.

    strict: a box is a thing's when it fits (IoU >= .4); stuff also when the box lies in it and is no thing's own.
    loose, as a viewer takes it: also a box half inside the thing, one that touches it well, and one around several things
    that the caption says; a loose match counts against a caption only where its box clearly lies in the thing.
    """
    things = frame.things
    scale = np.array([frame.width, frame.height] * 2, np.float64)
    boxes = np.array([region.box for region in regions], np.float64).reshape(-1, 4) / scale
    truth = frame.boxes()
    stuff = np.array([thing.stuff for thing in things], bool)
    iou = box_iou(boxes, truth)
    shared = _intersection(boxes, truth)
    inside = shared / np.maximum(box_area(boxes), 1e-9)[:, None]
    enough = box_area(boxes)[:, None] >= _ENOUGH * box_area(truth)[None]
    own = (iou >= _OWN) & ~stuff
    elsewhere = own.sum(1, keepdims=True) - own > 0  # it is some other thing's own box
    fits = (iou >= _FITS) | (stuff & ~own.any(1, keepdims=True) & (inside >= _INSIDE) & enough)
    half = ~elsewhere & (((inside >= _HALF) & enough) | (iou >= _TOUCHES))
    inner = half & (inside >= _INSIDE) & ~stuff
    says = np.array([[says_one_of(r.text, t.heads) for t in things] for r in regions], bool)
    part = np.array([[says_one_of(r.text, t.parts) for t in things] for r in regions], bool)
    says, part = says.reshape(iou.shape), part.reshape(iou.shape)
    around = says & ~stuff & (shared >= _INSIDE * box_area(truth)[None])
    for row in range(len(regions)):
        if around[row].any() and not _goes_around(boxes[row], truth[around[row]]):
            around[row] = False
    near = fits | half | around
    true = says | part
    strict = tuple(Verdict(f, f & s, f & t) for f, s, t in zip(fits, says, true, strict=True))
    loose = tuple(
        Verdict(f | i | ((h | a) & t), n & s, n & t)
        for f, i, h, a, n, s, t in zip(fits, inner, half, around, near, says, true, strict=True)
    )
    return JudgedFrame(frame, tuple(regions), {"strict": strict, "loose": loose})


def tally(
    frames: Iterable[JudgedFrame],
    reading: Reading,
    *,
    min_score: float = 0.0,
    repeats: bool = True,
    of: Callable[[Thing], bool] = lambda thing: True,
) -> Tally:
    """Count what captions of `min_score` or more are worth; `repeats`: those that are not shown as well.

    `of`: things that count. A caption is judged by the things that its box matches, if it matches any that count.
    """
    total = Tally()
    for judged in frames:
        counts = np.array([of(thing) for thing in judged.frame.things], bool)
        named = np.zeros(len(counts), bool)
        found = np.zeros(len(counts), bool)
        right = known = 0
        for region, verdict in zip(judged.regions, judged.verdicts[reading], strict=True):
            if region.repeated and not repeats:
                continue
            found |= verdict.matches
            if region.score < min_score or not region.text:
                continue
            named |= verdict.names
            if (verdict.matches & counts).any():
                known += 1
                right += bool((verdict.matches & verdict.true & counts).any())
        total += Tally(
            int(counts.sum()), int((named & counts).sum()), int((found & counts).sum()), known, right
        )
    return total


# Words.

_IRREGULAR = {
    "people": "person", "men": "man", "women": "woman", "children": "child", "feet": "foot", "teeth": "tooth",
    "mice": "mouse", "geese": "goose", "oxen": "ox", "leaves": "leaf", "calves": "calf", "knives": "knife",
}  # fmt: skip


@lru_cache(maxsize=4096)
def singulars(word: str) -> frozenset[str]:
    """A word and what it may be the plural of: "boxes" is "boxes", "boxe" and "box"."""
    forms = {word, _IRREGULAR.get(word, word)}
    if len(word) > 4 and word.endswith("men"):
        forms.add(f"{word[:-2]}an")
    if word.endswith("s") and not word.endswith("ss"):
        forms.add(word[:-1])
    if word.endswith("es"):
        forms.add(word[:-2])
    if word.endswith("ies"):
        forms.add(f"{word[:-3]}y")
    return frozenset(forms)


def says_one_of(text: str, nouns: Iterable[str]) -> bool:
    """Whether `text` has one of `nouns` (each a word or a run of words) among its words, in singular or plural."""
    words = [singulars(word) for word in re.findall(r"[a-z]+(?:-[a-z]+)*", text.lower())]
    for noun in nouns:
        run = noun.split()
        starts = range(len(words) - len(run) + 1)
        if any(all(part in words[start + k] for k, part in enumerate(run)) for start in starts):
            return True
    return False


def _intersection(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Areas that (N, 4) and (M, 4) xyxy boxes share, (N, M)."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    return np.asarray(np.prod(np.clip(high - low, 0, None), axis=-1))


def _goes_around(box: np.ndarray, things: np.ndarray) -> bool:
    """Whether a box (4,) is one around all of two or more boxes (N, 4)."""
    whole = np.concatenate([things[:, :2].min(0), things[:, 2:].max(0)])
    return len(things) > 1 and float(box_iou(box[None], whole[None])[0, 0]) >= _AROUND
