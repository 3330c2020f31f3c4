"""How many caption events there are, and of how many tracks, by hour, track, text or altogether."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from pipeline.core.clock import NS
from pipeline.store.row_query import Selection, searched_texts

QUARTER_NS = 900 * NS
"""Zones differ from UTC by whole quarters of an hour."""
# Marks of (what is counted by, track) up to so many are set in a table, more are sorted.
_MOST_MARKS = 1 << 26


class CountedBy(StrEnum):
    """What events are counted by. QUARTER: quarters of an hour since 1970 UTC in which they begin."""

    QUARTER = "quarter"
    TRACK = "track"
    TEXT = "text"
    STREAM = "stream"


@dataclass(frozen=True, slots=True)
class Counted:
    """`events`, and the `tracks` that they are of."""

    events: int
    tracks: frozenset[int]


def counted(found: Sequence[Selection], by: CountedBy) -> dict[int | str, Counted]:
    """Events and tracks of each key: a quarter's number, a track, a text, or "" for the stream."""
    keys, names = _keys(found, by)
    if not len(keys):
        return {}
    tracks = np.concatenate([f.column("track") for f in found]).astype(np.int64)
    least_key, least_track = int(keys.min()), int(tracks.min())
    keys, tracks = keys - least_key, tracks - least_track
    events = np.bincount(keys)
    width = int(tracks.max()) + 1
    if len(events) * width <= _MOST_MARKS:
        marks = np.zeros((len(events), width), bool)
        marks[keys, tracks] = True
        pairs = [np.flatnonzero(row) for row in marks]
    else:
        unique = np.unique(keys * width + tracks)
        pairs = np.split(unique % width, np.searchsorted(unique, np.arange(1, len(events)) * width))
    return {
        names[number + least_key] if names is not None else number + least_key: Counted(
            int(events[number]), frozenset((pairs[number] + least_track).tolist())
        )
        for number in np.flatnonzero(events).tolist()
    }


def _keys(found: Sequence[Selection], by: CountedBy) -> tuple[np.ndarray, list[str] | None]:
    if not found:
        return np.empty(0, np.int64), None
    if by is CountedBy.QUARTER:
        return np.concatenate([f.column("t_start") // QUARTER_NS for f in found]), None
    if by is CountedBy.TRACK:
        return np.concatenate([f.column("track").astype(np.int64) for f in found]), None
    if by is CountedBy.STREAM:
        return np.zeros(sum(len(f) for f in found), np.int64), [""]
    numbers: dict[str, int] = {}
    parts = []
    for f in found:
        ids = f.column("text")
        used = np.unique(ids)
        remap = np.zeros(int(used[-1]) + 1, np.int64)
        texts = searched_texts(f.source).texts
        for one in used.tolist():
            remap[one] = numbers.setdefault(texts[one], len(numbers))
        parts.append(remap[ids])
    return np.concatenate(parts), list(numbers)
