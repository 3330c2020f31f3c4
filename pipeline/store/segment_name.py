"""Segment file names: they are the index of a stream. Which of them a reader sees is decided here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

DAY_LEVEL = 3
AHEAD_NS = 86_400 * 10**9  # clocks of machines and cameras differ by a day where a zone was set wrong


def is_ahead(wall_ns: int, clock_ns: int | None) -> bool:
    """Whether a stored moment is so far ahead of the clock that it cannot be a date. Never without a clock."""
    return clock_ns is not None and wall_ns > clock_ns + AHEAD_NS


# In any case: some disks and archives of files change it.
_HOT = re.compile(r"(\d{12,})-(\d{12,})\.e(\d{4,})\.(\d+)-(\d+)\.L([012])\.zarr\.zip", re.IGNORECASE)
_DAY = re.compile(r"\d{4}-\d\d-\d\d\.(\d{12,})-(\d{12,})\.e(\d{4,})\.(\d+)-(\d+)\.zarr", re.IGNORECASE)

_MOST = 2**63 - 1  # what columns of commits and of times hold


@dataclass(frozen=True, slots=True)
class SegmentName:
    """What a name tells: commits [lo, hi), the writer's epoch, wall ns [t_min, t_max], level 0..2 or DAY_LEVEL.

    `path`: relative to the stream's directory.
    """

    lo: int
    hi: int
    epoch: int
    t_min: int
    t_max: int
    level: int
    path: str

    @classmethod
    def hot(cls, lo: int, hi: int, epoch: int, t_min: int, t_max: int, level: int) -> SegmentName:
        path = f"hot/{lo:012d}-{hi:012d}.e{epoch:04d}.{t_min}-{t_max}.L{level}.zarr.zip"
        return cls(lo, hi, epoch, t_min, t_max, level, path)

    @classmethod
    def day(cls, date: str, lo: int, hi: int, epoch: int, t_min: int, t_max: int) -> SegmentName:
        path = f"day/{date}.{lo:012d}-{hi:012d}.e{epoch:04d}.{t_min}-{t_max}.zarr"
        return cls(lo, hi, epoch, t_min, t_max, DAY_LEVEL, path)

    @classmethod
    @lru_cache(maxsize=16_384)  # the same listing is read at every question
    def parse(cls, folder: str, name: str) -> SegmentName | None:
        """The segment that a file name in `hot` or `day` stands for; None for any other file."""
        match = (_DAY if folder == "day" else _HOT).fullmatch(name)
        if match is None:
            return None
        numbers = [int(group) for group in match.groups()]
        level = numbers[5] if folder == "hot" else DAY_LEVEL
        lo, hi, epoch, t_min, t_max = numbers[:5]
        if not lo < hi <= _MOST or not t_min <= t_max <= _MOST or epoch > _MOST:
            return None
        return cls(lo, hi, epoch, t_min, t_max, level, f"{folder}/{name}")

    def overlaps(self, start: int | None, end: int | None) -> bool:
        return (start is None or self.t_max >= start) and (end is None or self.t_min <= end)


@dataclass(frozen=True, slots=True)
class Visible:
    """The segments that make up a stream, in order of commit, and the commits [lo, hi) that are missing.

    `ends`: those that were once there, as claims tell, and were gone from the end when the next writer came, or are now.
    """

    segments: tuple[SegmentName, ...]
    holes: tuple[tuple[int, int], ...] = ()
    ends: tuple[tuple[int, int], ...] = ()

    @property
    def next_seq(self) -> int:
        return self.segments[-1].hi if self.segments else 0

    @property
    def reached(self) -> int:
        """So many commits there were at least, those counted that went from the end."""
        return max([self.next_seq, *(hi for _, hi in self.ends)])


def visible(names: Iterable[SegmentName], epoch_starts: Mapping[int, int]) -> Visible:
    """Choose the segments that count among all that lie in a stream's directory.

    At equal first commit the wider one wins (it was merged from the others), then the newer epoch. What a writer
    committed after a newer writer had taken over (`epoch_starts`: first commit of each epoch) does not count.
    """
    names = list(names)
    limits = {
        epoch: min((start for newer, start in epoch_starts.items() if newer > epoch), default=None)
        for epoch in {name.epoch for name in names}
    }
    candidates = sorted(
        (n for n in names if (limit := limits[n.epoch]) is None or n.hi <= limit),
        key=lambda n: (n.lo, -n.hi, -n.epoch, -n.level),
    )
    chosen: list[SegmentName] = []
    holes: list[tuple[int, int]] = []
    for name in candidates:
        position = chosen[-1].hi if chosen else name.lo
        if name.lo < position:
            continue
        if name.lo > position:
            holes.append((position, name.lo))
        chosen.append(name)
    return Visible(tuple(chosen), tuple(holes))


def superseded(names: Iterable[SegmentName], shown: Visible) -> list[tuple[SegmentName, SegmentName]]:
    """Pairs (segment that a merge has replaced, the visible segment that covers it)."""
    counted = set(shown.segments)
    pairs = []
    for name in names:
        cover = next((s for s in shown.segments if s.lo <= name.lo and name.hi <= s.hi), None)
        # Of as many commits and of a lower level: the same again, from before an archive or an erasure.
        replaced = cover is not None and (name.hi - name.lo < cover.hi - cover.lo or name.level < cover.level)
        if name not in counted and cover is not None and replaced:
            pairs.append((name, cover))
    return pairs
