"""Taking rows out of a stream so that no file of it holds them any more."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.store.columns import CaptionColumns, Columns, ObservationColumns, TrackColumns
from pipeline.store.joined_segments import JoinedPart
from pipeline.store.place import StorePlace
from pipeline.store.rewriting import delete, rewrite
from pipeline.store.row_query import open_segment, searched_texts
from pipeline.store.segment import refuse_unknown_tables
from pipeline.store.stream_directory import list_names, list_visible
from pipeline.store.text_filter import TextFilter
from pipeline.store.text_index import forget_texts

# First and last time of what was seen of somebody. That nothing was watched, and which clock held, says nothing of anybody.
_TIMES: dict[type[Columns], tuple[str, str]] = {
    ObservationColumns: ("t", "t"),
    CaptionColumns: ("t_start", "t_end"),
    TrackColumns: ("t_first", "t_last"),
}


@dataclass(frozen=True, slots=True)
class ErasedRows:
    """What goes: observations, caption events and closed tracks of which all holds that is given.

    `start`, `end`: wall ns that they overlap, both included. `texts`: what they say; observations say nothing, so they stay then.
    """

    start: int | None = None
    end: int | None = None
    track: int | None = None
    texts: TextFilter | None = None

    def rows(self, part: JoinedPart, kind: type[Columns]) -> np.ndarray:
        """Which rows of a table are such, (n,) bool."""
        count = part.count(kind)
        if kind not in _TIMES or (self.texts is not None and kind is ObservationColumns):
            return np.zeros(count, bool)
        first, last = _TIMES[kind]
        goes = np.ones(count, bool)
        if self.start is not None:
            goes &= part.column(kind, last) >= self.start
        if self.end is not None:
            goes &= part.column(kind, first) <= self.end
        if self.track is not None:
            goes &= part.column(kind, "track") == self.track
        if self.texts is not None:
            goes &= self.texts.matching(searched_texts(part))[part.column(kind, "text")]
        return goes


class _WithAllVersions:
    """Such rows and every other version of the same events and tracks: an older one would be seen in place of what went."""

    def __init__(self, erased: ErasedRows) -> None:
        self._erased = erased
        self._keys: dict[type[Columns], set[tuple[int, ...]]] = {CaptionColumns: set(), TrackColumns: set()}

    def look_at(self, part: JoinedPart) -> None:
        """Remember what goes from one segment."""
        for kind, keys in self._keys.items():
            if part.count(kind):
                goes = self._erased.rows(part, kind)
                keys.update(zip(*(column[goes].tolist() for column in _key_columns(part, kind)), strict=True))

    def keep(self, part: JoinedPart, kind: type[Columns]) -> np.ndarray:
        """Which rows of a table stay, (n,) bool."""
        stays = ~self._erased.rows(part, kind)
        keys = self._keys.get(kind)
        if keys and len(stays):
            columns = (column.tolist() for column in _key_columns(part, kind))
            stays &= np.array([key not in keys for key in zip(*columns, strict=True)], bool)
        return stays


def _key_columns(part: JoinedPart, kind: type[Columns]) -> list[np.ndarray]:
    names = ("track", "t_start") if kind is CaptionColumns else ("track",)
    return [part.column(kind, name) for name in names]


def erase(place: StorePlace, epoch: int, erased: ErasedRows) -> int:
    """Write every segment and archive that holds such rows anew without them, and delete what held them. Returns how many rows went.

    Only for who holds the stream. What is replaced goes at once: a question that is being asked just then asks again. Cut off in
    between, it is done again. Raises `StoreRefused` for a damaged segment, which may hold some; OSError.
    """
    count = 0
    wanted = _WithAllVersions(erased)
    for name in list_visible(place).segments:
        segment = open_segment(place, name)
        try:
            segment.verify()  # what it was merged from goes too, and must not be missed
            wanted.look_at(segment)
        finally:
            segment.close()
    for name in list_visible(place).segments:
        segment = open_segment(place, name)
        try:
            gone = sum(int((~wanted.keep(segment, kind)).sum()) for kind in _TIMES if segment.count(kind))
            if gone:
                refuse_unknown_tables(segment.attrs, f"{place.where}/{name.path}", name.path)
                rewrite(place, name, segment, epoch, wanted.keep)
        finally:
            segment.close()
        count += gone
    forget_texts(place)
    # Inputs of merges that wait for their grace hold the same rows.
    counted = set(list_visible(place).segments)
    delete(place, [name for name in list_names(place) if name not in counted])
    return count
