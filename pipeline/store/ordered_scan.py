"""Caption events of one stream in order of time, a few thousand at a time: who wants the first few reads no more than these.

A segment tells in its name the time of its rows. What begins before the first moment of all segments that were not opened yet
is complete, all versions of each event included, since a later version covers the earlier one's time. Going backwards the same
holds with their last moments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.store.columns import CaptionColumns
from pipeline.store.row_query import (
    RowFilter,
    RowSource,
    Selection,
    caption_candidates,
    matching_captions,
    newest_events,
)
from pipeline.store.segment_name import SegmentName

# Rows of the first block and of the largest: a few are told at once, many cost little each.
FIRST_ROWS = 256
MOST_ROWS = 8192

ScanKey = tuple[int, int]
"""Where a scan is: start in wall ns (negative when going backwards), and track, of the last event told."""


@dataclass(frozen=True, slots=True, eq=False)
class OrderedRows:
    """Rows of several segments and the order of all of them together. `last`: key of the last that was looked at."""

    found: list[Selection]
    order: np.ndarray
    last: ScanKey


@dataclass(slots=True, eq=False)
class _Run:
    """What one segment may add: `keys` ascending, `rows` beside them, and how many were taken."""

    name: SegmentName
    source: RowSource
    keys: np.ndarray
    rows: np.ndarray
    taken: int = 0


def scan_captions(
    names: Sequence[SegmentName],
    opened: Callable[[SegmentName], RowSource],
    wanted: RowFilter,
    *,
    newest: bool = False,
    after: ScanKey | None = None,
) -> Iterator[OrderedRows]:
    """Events that match, by start and track; `newest`: the latest start first. `after`: go on behind this one.

    Raises what opening and reading segments raises.
    """
    waiting = sorted(names, key=lambda n: -n.t_max if newest else n.t_min)
    runs: list[_Run] = []
    size = FIRST_ROWS
    while waiting or runs:
        limit = (-waiting[0].t_max if newest else waiting[0].t_min) if waiting else None
        ready = [(r, _count(r, limit)) for r in runs]
        if limit is not None and not any(count for _, count in ready):
            runs.append(_run(waiting[0], opened(waiting[0]), wanted, newest, after))
            del waiting[0]
            continue
        first = min((int(r.keys[r.taken]) for r, count in ready if count), default=None)
        if first is None:
            break
        # Whole moments only: versions of an event begin at the same one.
        cut = min(int(r.keys[r.taken + size]) if count > size else int(r.keys[r.taken + count - 1]) + 1
                  for r, count in ready if count)  # fmt: skip
        cut = max(cut, first + 1)
        found = []
        for run in sorted(runs, key=lambda r: r.name.lo):
            stop = int(np.searchsorted(run.keys, cut, "left"))
            if stop > run.taken:
                rows = run.rows[run.taken : stop]
                found.append(Selection(run.source, CaptionColumns, rows[::-1] if newest else rows))
                run.taken = stop
        yield from _block(found, wanted, newest, after, cut)
        runs = [r for r in runs if r.taken < len(r.keys)]
        size = min(2 * size, MOST_ROWS)


def _run(
    name: SegmentName, source: RowSource, wanted: RowFilter, newest: bool, after: ScanKey | None
) -> _Run:
    found = caption_candidates(source, wanted)
    starts = found.column("t_start")
    keys, rows = (-starts[::-1], found.rows[::-1]) if newest else (starts, found.rows)
    begin = 0 if after is None else int(np.searchsorted(keys, after[0], "left"))
    return _Run(name, source, keys, rows, begin)


def _count(run: _Run, limit: int | None) -> int:
    stop = len(run.keys) if limit is None else int(np.searchsorted(run.keys, limit, "left"))
    return max(0, stop - run.taken)


def _block(
    found: list[Selection], wanted: RowFilter, newest: bool, after: ScanKey | None, cut: int
) -> Iterator[OrderedRows]:
    kept = matching_captions(newest_events(found), wanted)
    if not kept:
        return
    keys = np.concatenate([f.column("t_start") for f in kept])
    keys = -keys if newest else keys
    tracks = np.concatenate([f.column("track") for f in kept])
    order = np.lexsort((tracks, keys))
    if after is not None:
        ordered, beside = keys[order], tracks[order]
        order = order[(ordered > after[0]) | ((ordered == after[0]) & (beside > after[1]))]
    if len(order):
        last = int(order[-1])
        yield OrderedRows(kept, order, (int(keys[last]), int(tracks[last])))
