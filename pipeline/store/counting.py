"""How many caption events there are, and of how many tracks, by hour, track, text or altogether."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import NamedTuple

import numpy as np

from pipeline.core.clock import NS
from pipeline.store.row_query import Selection, searched_texts, text_dictionary

QUARTER_NS = 900 * NS
"""Zones differ from UTC by whole quarters of an hour."""
# Marks of (what is counted by, track) up to so many are set in a table, more are sorted.
_MOST_MARKS = 1 << 26
# From so many texts on Arrow, which takes a tenth of a second to import, tells faster which are the same.
_MANY_TEXTS = 50_000


class CountedBy(StrEnum):
    """What events are counted by. QUARTER: quarters of an hour since 1970 UTC in which they begin."""

    QUARTER = "quarter"
    TRACK = "track"
    TEXT = "text"
    STREAM = "stream"


class Counted(NamedTuple):
    """`events`, and of how many `tracks` they are. A tuple: there is one of each of many thousand texts."""

    events: int
    tracks: int


def counted(
    found: Sequence[Selection], by: CountedBy, hour_of: Callable[[int], int] = lambda quarter: quarter
) -> dict[int | str, Counted]:
    """Events and tracks of each key: a quarter's number as `hour_of` makes it, a track, a text, or "" for the stream."""
    keys, names = _keys(found, by)
    if not len(keys):
        return {}
    least = int(keys.min())
    keys = keys - least
    if by is CountedBy.QUARTER:
        quarters, places = np.unique(keys, return_inverse=True)
        hours = np.array([hour_of(quarter + least) for quarter in quarters.tolist()], np.int64)
        least = int(hours.min())
        keys = (hours - least)[places]
    events = np.bincount(keys)
    tracks = _distinct(keys, np.concatenate([f.column("track") for f in found]).astype(np.int64), len(events))
    there = np.flatnonzero(events)
    told = zip(events[there].tolist(), tracks[there].tolist(), strict=True)
    keyed = (
        [names[number] for number in (there + least).tolist()]
        if names is not None
        else (there + least).tolist()
    )
    return dict(zip(keyed, map(Counted._make, told), strict=True))


def _distinct(keys: np.ndarray, tracks: np.ndarray, count: int) -> np.ndarray:
    """How many different tracks each key has, (count,)."""
    tracks = tracks - int(tracks.min())
    width = int(tracks.max()) + 1
    pairs = keys * width + tracks
    if count * width <= _MOST_MARKS:
        marks = np.zeros(count * width, bool)
        marks[pairs] = True
        return np.asarray(marks.reshape(count, width).sum(axis=1))
    pairs.sort()
    first = np.flatnonzero(np.diff(pairs, prepend=-1))
    return np.bincount(pairs[first] // width, minlength=count)


def _keys(found: Sequence[Selection], by: CountedBy) -> tuple[np.ndarray, list[str] | None]:
    if not found:
        return np.empty(0, np.int64), None
    if by is CountedBy.QUARTER:
        return np.concatenate([f.column("t_start") // QUARTER_NS for f in found]), None
    if by is CountedBy.TRACK:
        return np.concatenate([f.column("track").astype(np.int64) for f in found]), None
    if by is CountedBy.STREAM:
        return np.zeros(sum(len(f) for f in found), np.int64), [""]
    return _text_keys(found)


def _text_keys(found: Sequence[Selection]) -> tuple[np.ndarray, list[str]]:
    """Numbers (n,) of all rows' texts among the different ones of all segments, and these."""
    columns = [f.column("text") for f in found]
    used = [np.flatnonzero(np.bincount(ids)) for ids in columns]
    if len(found) > 1 and sum(map(len, used)) > _MANY_TEXTS:
        import pyarrow as pa

        parts = [text_dictionary(f.source).take(pa.array(u)) for f, u in zip(found, used, strict=True)]
        told = pa.chunked_array(parts).combine_chunks().dictionary_encode()
        numbers, names = told.indices.to_numpy(), told.dictionary.to_pylist()
    else:
        known: dict[str, int] = {}
        texts = [t for f, u in zip(found, used, strict=True) for t in searched_texts(f.source).strings(u)]
        numbers = np.array([known.setdefault(text, len(known)) for text in texts], np.int64)
        names = list(known)
    keys, at = [], 0
    for ids, one in zip(columns, used, strict=True):
        remap = np.zeros(int(one[-1]) + 1, np.int64)
        remap[one] = numbers[at : at + len(one)]
        at += len(one)
        keys.append(remap[ids])
    return np.concatenate(keys), names
