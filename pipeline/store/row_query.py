"""Find rows by time, track, text, score and place in the segments of one stream."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from pipeline.core.clock import TimeSpan
from pipeline.store.columns import (
    CaptionColumns,
    ClockColumns,
    Columns,
    CutColumns,
    EffortColumns,
    GapColumns,
    ObservationColumns,
    TextColumns,
    TrackColumns,
)
from pipeline.store.decoded_cache import DECODED
from pipeline.store.likeness import similarities
from pipeline.store.place import StorePlace
from pipeline.store.row_filter import RowFilter, inside_polygon
from pipeline.store.segment import SegmentReader
from pipeline.store.segment_name import DAY_LEVEL, SegmentName
from pipeline.store.segment_rows import SegmentRows, newest_versions
from pipeline.store.text_filter import SearchedTexts, TextFilter

if TYPE_CHECKING:
    import pyarrow as pa


class NumberedTexts(Protocol):
    """What has a dictionary of texts."""

    number: int

    def column(self, table: type[Columns], name: str, rows: np.ndarray | None = None) -> np.ndarray: ...

    def damaged(self, error: Exception) -> Exception: ...


class RowSource(Protocol):
    """Columns of one segment or one day archive. `number`: its own in `DECODED`."""

    attrs: dict[str, Any]
    number: int

    def count(self, table: type[Columns]) -> int: ...

    def candidates(
        self, table: type[Columns], start: int | None, end: int | None, track: int | None = None
    ) -> np.ndarray | None: ...

    def column(self, table: type[Columns], name: str, rows: np.ndarray | None = None) -> np.ndarray: ...

    def byte_range(self, table: type[Columns], name: str, start: int, stop: int) -> bytes: ...

    def damaged(self, error: Exception) -> Exception: ...


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """Ascending row numbers in one source."""

    source: RowSource
    table: type[Columns]
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def column(self, name: str) -> np.ndarray:
        return self.source.column(self.table, name, self.rows)

    def where(self, mask: np.ndarray) -> Selection:
        return Selection(self.source, self.table, self.rows[mask])

    def texts(self, name: str) -> pa.Array:
        """Strings of a column of text numbers, taken from the source's dictionary."""
        from pipeline.store.arrow_arrays import numbers_array

        return text_dictionary(self.source).take(numbers_array(self.column(name).astype(np.int64)))

    def strings(self, name: str) -> list[str]:
        """The same as plain strings."""
        ids = self.column(name)
        return searched_texts(self.source).strings(ids) if len(ids) else []

    def similarity(self, like: tuple[float, ...]) -> np.ndarray:
        """Cosine (n,) float32 of each row's embedding with `like`; NaN where it has none, or one of another length."""
        return similarities(self.source, self.rows, np.array(like, np.float32))

    def masks(self) -> list[tuple[tuple[int, int], bytes] | None]:
        """(height, width) and COCO run lengths of each row; None without a mask."""
        ends = self.column("mask_off").astype(np.int64)
        before = np.maximum(self.rows - 1, 0)
        previous = self.source.column(self.table, "mask_off", np.unique(before)).astype(np.int64)
        starts = np.where(self.rows > 0, previous[np.unique(before, return_inverse=True)[1]], 0)
        sizes = self.column("mask_size").tolist()
        if not len(ends) or not ends.max() > starts.min():
            return [None] * len(ends)
        base = int(starts.min())
        data = self.source.byte_range(self.table, "mask_bytes", base, int(ends.max()))
        return [
            ((size[0], size[1]), data[a - base : b - base]) if b > a else None
            for size, a, b in zip(sizes, starts.tolist(), ends.tolist(), strict=True)
        ]


def find_captions(sources: Sequence[RowSource], wanted: RowFilter) -> list[Selection]:
    """Caption events that match, the latest version of each. `sources` in order of commit."""
    found = _in_time(sources, CaptionColumns, "t_start", "t_end", wanted)
    return matching_captions(newest_events(_of_track(found, wanted.track)), wanted)


def caption_candidates(source: RowSource, wanted: RowFilter) -> Selection:
    """Rows of one source in the time and of the track, whatever else is asked: one of them may supersede another's."""
    found = _of_track(_in_time([source], CaptionColumns, "t_start", "t_end", wanted), wanted.track)
    return found[0] if found else Selection(source, CaptionColumns, np.empty(0, np.int64))


def matching_captions(found: Sequence[Selection], wanted: RowFilter) -> list[Selection]:
    """Of the latest versions those that match in all but time and track."""
    kept = [s for s in (_with_text(f, wanted) for f in found) if len(s)]
    kept = _by_place_and_score(kept, wanted)
    if wanted.shot is not None:
        kept = [f.where(shots_at(f.source, f.column("t_start")) == wanted.shot) for f in kept]
    if wanted.like is not None:
        kept = [f.where(f.similarity(wanted.like) >= wanted.min_similarity) for f in kept if len(f)]
    return [s for s in kept if len(s)]


def find_observations(sources: Sequence[RowSource], wanted: RowFilter) -> list[Selection]:
    """Observations that match."""
    found = _in_time(sources, ObservationColumns, "t", "t", wanted)
    return [s for s in _by_place_and_score(_of_track(found, wanted.track), wanted) if len(s)]


def find_tracks(sources: Sequence[RowSource], wanted: RowFilter) -> list[Selection]:
    """Closed tracks that match, the latest version of each."""
    found = _of_track(_in_time(sources, TrackColumns, "t_first", "t_last", wanted), wanted.track)
    return [s for s in (_with_text(f, wanted) for f in _newest(found, None, "t_last")) if len(s)]


OLD_EFFORT = "effort:"
"""Begins the reason of rows in `gap` that were steps of effort before these had a table of their own."""


def find_gaps(sources: Sequence[RowSource], wanted: RowFilter) -> list[Selection]:
    """Gaps that match."""
    found = _in_time(sources, GapColumns, "t_start", "t_end", wanted)
    return [s for f in found for s in gaps_among(f)]


def gaps_among(rows: Selection) -> list[Selection]:
    """Rows of the table of gaps without what was no gap; none where nothing is left."""
    kept = rows.where(~_old_efforts(rows)) if len(rows) else rows
    return [kept] if len(kept) else []


def find_efforts(sources: Sequence[RowSource], wanted: RowFilter) -> tuple[list[Selection], list[Selection]]:
    """Steps of effort that match, and those that are stored as gaps."""
    as_gaps = _in_time(sources, GapColumns, "t_start", "t_end", wanted)
    old = [s for s in (f.where(_old_efforts(f)) for f in as_gaps) if len(s)]
    return _in_time(sources, EffortColumns, "t", "t", wanted), old


def _old_efforts(found: Selection) -> np.ndarray:
    return np.array([text.startswith(OLD_EFFORT) for text in found.strings("reason")], bool)


def holds_tracks(source: RowSource, wanted: RowFilter) -> bool:
    """Whether closed tracks of that time may be in a source; its attributes tell, for its name's times leave tracks out."""
    if not source.count(TrackColumns):
        return False
    first, last = source.attrs["trk_t_min"], source.attrs["trk_t_max"]
    return TimeSpan(first, last).overlaps(wanted.start, wanted.end)


def find_cuts(sources: Sequence[RowSource], wanted: RowFilter) -> list[Selection]:
    """Cuts that match."""
    return _in_time(sources, CutColumns, "t", "t", wanted)


def shots_at(source: RowSource, times: np.ndarray) -> np.ndarray:
    """Numbers (n,) int64 of the shots in which rows of a segment begin, `times` (n,) wall ns.

    The segment's resume point tells the shot at its end; the cuts that it holds count down from there. So no row needs a
    number of its own, and no other segment is opened.
    """
    last = int(source.attrs["resume"].get("shot", 0))
    if not source.count(CutColumns):
        return np.full(len(times), last, np.int64)
    cuts = source.column(CutColumns, "t")
    return last - (len(cuts) - np.searchsorted(cuts, times, "right"))


def find_clocks(sources: Sequence[RowSource], wanted: RowFilter) -> list[Selection]:
    """Clock readings that match."""
    return _in_time(sources, ClockColumns, "t", "t", wanted)


def text_dictionary(source: RowSource) -> pa.Array:
    """The distinct texts of a source as an Arrow string array, without copying."""
    import pyarrow as pa

    ends = source.column(TextColumns, "off").astype(np.int64)
    data = np.ascontiguousarray(source.column(TextColumns, "bytes"))
    offsets = np.concatenate([[0], ends]).astype(np.int64)
    return pa.LargeStringArray.from_buffers(len(ends), pa.py_buffer(offsets), pa.py_buffer(data))


def searched_texts(source: NumberedTexts) -> SearchedTexts:
    """The same as plain strings, kept between questions."""
    kept: SearchedTexts | None = DECODED.kept(source.number, "texts")
    if kept is None:
        try:
            kept = SearchedTexts(source.column(TextColumns, "off"), source.column(TextColumns, "bytes"))
        except ValueError as error:
            raise source.damaged(error) from error
        DECODED.keep(source.number, "texts", kept, kept.nbytes)
    return kept


def _in_time(
    sources: Sequence[RowSource], table: type[Columns], first: str, last: str, wanted: RowFilter
) -> list[Selection]:
    found = []
    for source in sources:
        if not source.count(table):
            continue
        if wanted.track is not None and not _may_hold(source, wanted.track):
            continue
        rows = source.candidates(table, wanted.start, wanted.end, wanted.track)
        starts = source.column(table, first, rows)
        stop = len(starts) if wanted.end is None else int(np.searchsorted(starts, wanted.end, "right"))
        if wanted.start is None:
            hits = np.arange(stop)
        else:
            hits = np.flatnonzero(source.column(table, last, rows)[:stop] >= wanted.start)
        if len(hits):
            found.append(Selection(source, table, hits if rows is None else rows[hits]))
    return found


def _may_hold(source: RowSource, track: int) -> bool:
    first, last = source.attrs.get("track_min"), source.attrs.get("track_max")
    return not (isinstance(first, int) and isinstance(last, int)) or first <= track <= last


def _of_track(found: Sequence[Selection], track: int | None) -> list[Selection]:
    if track is None:
        return list(found)
    return [s for s in (f.where(f.column("track") == track) for f in found) if len(s)]


def newest_events(found: Sequence[Selection]) -> list[Selection]:
    """Leave out events that a later segment supersedes. `found`: in order of commit.

    Only where the times of segments overlap can one supersede another's, which is a small part of a long stream.
    """
    if len(found) < 2:
        return list(found)
    starts = [f.column("t_start") for f in found]
    spans = sorted((int(s[0]), int(s[-1])) for s in starts)
    shared: list[tuple[int, int]] = []
    latest = spans[0][1]
    for first, last in spans[1:]:
        if first <= latest:
            shared.append((first, min(last, latest)))
        latest = max(latest, last)
    if not shared:
        return list(found)
    contested = []
    for f, times in zip(found, starts, strict=True):
        marks = np.zeros(len(f) + 1, np.int64)
        for first, last in shared:
            marks[np.searchsorted(times, first, "left")] += 1
            marks[np.searchsorted(times, last, "right")] -= 1
        contested.append(np.cumsum(marks[:-1]) > 0)
    parts = [f.where(mask) for f, mask in zip(found, contested, strict=True)]
    columns = [np.concatenate([p.column(name) for p in parts]) for name in ("track", "t_start", "t_end")]
    keep = np.zeros(len(columns[0]), bool)
    keep[newest_versions(*columns)] = True
    stays = [~mask for mask in contested]
    position = 0
    for mask, stay in zip(contested, stays, strict=True):
        count = int(mask.sum())
        stay[mask] = keep[position : position + count]
        position += count
    kept = (f if stay.all() else f.where(stay) for f, stay in zip(found, stays, strict=True))
    return [s for s in kept if len(s)]


def _newest(found: Sequence[Selection], start: str | None, end: str) -> list[Selection]:
    """Leave out rows that a later segment supersedes. Within a segment that was done when it was written.

    A later version of an event covers the earlier one's time, so both are found by every query that finds the earlier.
    """
    if len(found) < 2:
        return list(found)
    tracks = np.concatenate([f.column("track") for f in found])
    starts = np.concatenate([f.column(start) for f in found]) if start else np.zeros(len(tracks), np.int64)
    ends = np.concatenate([f.column(end) for f in found])
    keep = np.zeros(len(tracks), bool)
    keep[newest_versions(tracks, starts, ends)] = True
    parts = np.split(keep, np.cumsum([len(f) for f in found])[:-1])
    return [s for s in (f.where(part) for f, part in zip(found, parts, strict=True)) if len(s)]


def _by_place_and_score(found: Sequence[Selection], wanted: RowFilter) -> list[Selection]:
    kept = list(found)
    if wanted.min_score is not None:
        kept = [f.where(f.column("score") >= np.float32(wanted.min_score)) for f in kept]
    if wanted.box is not None:
        x0, y0, x1, y1 = wanted.box
        boxes = [f.column("box") for f in kept]
        kept = [
            f.where((b[:, 0] < x1) & (b[:, 2] > x0) & (b[:, 1] < y1) & (b[:, 3] > y0))
            for f, b in zip(kept, boxes, strict=True)
        ]
    if wanted.zone is not None:
        kept = [f.where(inside_polygon(f.column("box"), wanted.zone)) for f in kept]
    return kept


def _with_text(found: Selection, wanted: RowFilter) -> Selection:
    asked = [TextFilter(wanted.text)] if wanted.text else []
    asked += [wanted.texts] if wanted.texts else []
    if not asked or not len(found):
        return found
    texts = searched_texts(found.source)
    hits = np.logical_and.reduce([one.matching(texts) for one in asked])
    return found.where(hits[found.column("text")])


# Open a segment file or a day archive, whichever a name stands for.


class StoredSegment(RowSource, Protocol):
    """The rows of consecutive commits."""

    def rows(self) -> SegmentRows: ...

    def byte_count(self, table: type[Columns], name: str) -> int: ...

    def damaged(self, error: Exception) -> Exception: ...

    def verify(self) -> None: ...

    def close(self) -> None: ...


def verify_segment(place: StorePlace, name: SegmentName) -> None:
    """Read every byte of a segment or archive. Raises as `open_segment` does."""
    segment = open_segment(place, name)
    try:
        segment.verify()
    finally:
        segment.close()


def open_segment(place: StorePlace, name: SegmentName) -> StoredSegment:
    """Open `name` in a stream's place. Raises FileNotFoundError; `StoreRefused` when damaged or of another schema."""
    if name.level != DAY_LEVEL:
        return SegmentReader(place, name.path)
    from pipeline.store.archive_reader import DayArchiveReader

    return DayArchiveReader(place, name.path)
