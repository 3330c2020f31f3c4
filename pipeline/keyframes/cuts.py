"""Hard cuts: where a film or a switched camera shows another place from one picture to the next.

Nothing may be followed over a cut: what stands at the same place afterwards is another thing. The rule looks at thumbnails
only, of every decoded picture, and is a pure function of what it remembers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from statistics import median

import numpy as np

from pipeline.sources.standing import STANDS_NS

# Looks are compared at one size, slightly blurred: compression and noise live in single pixels.
_SIZE = (64, 36)
_BLUR = 1.0
# Mean grey level step (of 255) between two pictures below which no cut can hide: spares the comparison for the most.
_STILL = 3.0
# Things that move by up to two thumbnail pixels (a thirtieth of the picture) from picture to picture are no change.
_TOLERANCE = np.ones((5, 5), np.uint8)
# A pan that leaves less than this share of the picture in view cannot be told from a cut.
_LEAST_OVERLAP = 0.4
# Measured on 17 clips and 2,000 joins of them (`benchmarks/cuts.py`): within shots the remaining difference stays below
# 7.3 grey levels in 2,000 pictures at 10 to 30 a second; over joins it is above 10 in 99 of 100.
_LEAST_DIFFERENCE = 9.0
_LEAST_STRUCTURE_LOST = 0.25
# In a wild scene a cut must stand out against what the last pictures brought.
_OUTSTANDING = 4.0
_RECENT = 12
# A flash lasts a picture or two and then the old view is back; so a cut is certain after two more pictures, or after a tenth
# of a second where pictures come rarely.
_FLASH_PICTURES = 2
_FLASH_NS = 100_000_000
# Standard deviation of grey levels below which there is nothing to see: black, white, a covered lens.
_EMPTY = 4.0
# A picture with less contrast than this share of the shot's is on its way to black or white; one with so many times that of
# the picture before it is still on its way back.
_FADED = 0.7
_RISING = 1.03


@dataclass(frozen=True, slots=True)
class Look:
    """What is compared of a picture: (36, 64) float32 grey levels, blurred."""

    grey: np.ndarray

    @property
    def contrast(self) -> float:
        """Standard deviation of its grey levels."""
        return float(self.grey.std())

    @property
    def empty(self) -> bool:
        """Whether there is nothing to recognise a place by."""
        return self.contrast < _EMPTY


@dataclass(frozen=True, slots=True)
class Difference:
    """How far two looks differ. `levels`: grey levels that motion does not explain; `structure`: 0 (the same edges) to 2."""

    levels: float
    structure: float


@dataclass(frozen=True, slots=True)
class Suspicion:
    """A possible cut: the last look before it, when it was, and how many pictures have confirmed it."""

    before: Look
    pts_ns: int
    wall_ns: int
    pictures: int = 0


@dataclass(frozen=True, slots=True)
class ShotState:
    """What the rule remembers.

    `last`: the last look with something in it. `clear`: the last one that was not fading, `age` pictures ago. `earlier`:
    the looks before the last, as far back as a flash may reach. `recent`:
    differences from picture to picture. `dark`: contrast of the last picture since the view was empty; None: it is not.
    `pts_ns`: when the last picture was shown, None before the first.
    """

    last: Look | None = None
    clear: Look | None = None
    age: int = 0
    earlier: tuple[Look, ...] = ()
    recent: tuple[float, ...] = ()
    suspicion: Suspicion | None = None
    dark: float | None = None
    pts_ns: int | None = None


@dataclass(frozen=True, slots=True)
class FoundCut:
    """The first picture of a new shot: when it was shown."""

    pts_ns: int
    wall_ns: int


def look_at(thumbnail: np.ndarray) -> Look:
    """The look of a grey thumbnail (h, w) uint8 of any shape."""
    import cv2  # whoever only reads settings does without

    small = cv2.resize(thumbnail, _SIZE, interpolation=cv2.INTER_AREA).astype(np.float32)
    return Look(cv2.GaussianBlur(small, (0, 0), _BLUR))


def difference(before: Look, after: Look) -> Difference:
    """How far two looks differ beyond what moving things and a panning camera explain."""
    first, second = before.grey, after.grey
    if float(np.abs(first - second).mean()) < _STILL:
        return Difference(0.0, 0.0)
    levels = max(_unexplained(first, second), _unexplained(second, first))
    import cv2

    # The copies are needed: phaseCorrelate weights its inputs in place where their size is a good one for its transform.
    (dx, dy), _ = cv2.phaseCorrelate(first.copy(), second.copy(), _window())
    alike = max(_correlation(first, second, 0, 0), _correlation(first, second, round(dx), round(dy)))
    return Difference(levels, 1.0 - alike)


def is_cut(found: Difference, recent: Sequence[float]) -> bool:
    """Whether a difference is a cut, after pictures with `recent` differences in grey levels."""
    usual = median(recent) if recent else 0.0
    return found.structure >= _LEAST_STRUCTURE_LOST and found.levels >= max(
        _LEAST_DIFFERENCE, _OUTSTANDING * usual
    )


def next_shot_state(
    state: ShotState, look: Look, pts_ns: int, wall_ns: int
) -> tuple[ShotState, tuple[FoundCut, ...]]:
    """Take in the next picture. Cuts are told once they are certain, up to two pictures late, in order."""
    # Slides, folders of photos, cameras with two pictures a second or fewer: each may be a shot of its own.
    stands = state.pts_ns is not None and pts_ns - state.pts_ns >= STANDS_NS
    state = replace(state, pts_ns=pts_ns)
    # 1. An empty view shows no place: what comes after it is compared with what was before.
    if look.empty:
        return replace(state, dark=None if state.last is None else 0.0, suspicion=None), ()
    if state.last is None or state.clear is None:
        return ShotState(look, look, pts_ns=pts_ns), ()
    # 2. Back from black or white: once the picture has faded in, it is another place unless it looks as before.
    if state.dark is not None:
        if look.contrast > _RISING * state.dark and not stands:
            return replace(state, dark=look.contrast), ()
        found = difference(state.clear, look)
        changed = found.structure >= 2 * _LEAST_STRUCTURE_LOST and found.levels >= _LEAST_DIFFERENCE
        return ShotState(look, look, pts_ns=pts_ns), (FoundCut(pts_ns, wall_ns),) if changed else ()
    # 3. A suspicion ends when the old view is back (a flash), and is certain when it has not come back for long enough. Where
    # pictures come rarely, the one that makes it certain may be of yet another place.
    if (suspicion := state.suspicion) is not None:
        if not is_cut(difference(suspicion.before, look), state.recent):
            return replace(state, last=look, suspicion=None), ()
        held = replace(suspicion, pictures=suspicion.pictures + 1)
        if held.pictures >= _FLASH_PICTURES or pts_ns - held.pts_ns >= _FLASH_NS:
            begun = ShotState(state.last, state.last, pts_ns=pts_ns)
            after, more = _ordinary_step(begun, state.last, look, FoundCut(pts_ns, wall_ns), stands)
            return after, (FoundCut(held.pts_ns, held.wall_ns), *more)
        return replace(state, last=look, suspicion=held), ()
    return _ordinary_step(state, state.last, look, FoundCut(pts_ns, wall_ns), stands)


def _ordinary_step(
    state: ShotState, last: Look, look: Look, here: FoundCut, stands: bool
) -> tuple[ShotState, tuple[FoundCut, ...]]:
    """From picture to picture within a shot. What the stream has shown a moment ago is no new place: a flash may only be
    told from its end."""
    found = difference(last, look)
    earlier = (*state.earlier, last)[-_FLASH_PICTURES:]
    if is_cut(found, state.recent) and (
        stands or all(is_cut(difference(old, look), state.recent) for old in state.earlier)
    ):
        if stands:
            return ShotState(look, look, pts_ns=here.pts_ns), (here,)
        return replace(state, last=look, suspicion=Suspicion(last, here.pts_ns, here.wall_ns)), ()
    recent = (*state.recent, found.levels)[-_RECENT:]
    clear, age = state.clear, state.age + 1
    if clear is None or look.contrast >= _FADED * clear.contrast or age > 2 * _RECENT:
        clear, age = look, 0
    return ShotState(look, clear, age, earlier, recent, pts_ns=here.pts_ns), ()


def end_of_stream(state: ShotState) -> FoundCut | None:
    """The cut that was still uncertain when a film ended."""
    return None if state.suspicion is None else FoundCut(state.suspicion.pts_ns, state.suspicion.wall_ns)


@cache
def _window() -> np.ndarray:
    import cv2

    return cv2.createHanningWindow(_SIZE, cv2.CV_32F)


def _unexplained(before: np.ndarray, after: np.ndarray) -> float:
    """Mean grey levels by which `after` leaves the range that `before` has around the same place."""
    import cv2

    high, low = cv2.dilate(before, _TOLERANCE), cv2.erode(before, _TOLERANCE)
    return float(np.maximum(0.0, np.maximum(after - high, low - after)).mean())


def _correlation(before: np.ndarray, after: np.ndarray, right: int, down: int) -> float:
    """Correlation, -1 to 1, of what both show when `after` is `before` moved by whole pixels; -1 where too little is."""
    height, width = before.shape
    left, top = max(0, right), max(0, down)
    end, bottom = min(width, width + right), min(height, height + down)
    if end <= left or bottom <= top or (end - left) * (bottom - top) < _LEAST_OVERLAP * width * height:
        return -1.0
    first = before[top - down : bottom - down, left - right : end - right]
    second = after[top:bottom, left:end]
    first, second = first - first.mean(), second - second.mean()
    scale = float(np.sqrt((first * first).sum() * (second * second).sum()))
    return float((first * second).sum()) / (scale + 1e-3 * first.size)
