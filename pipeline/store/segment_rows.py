"""All rows of a segment: made from a batch, or joined from smaller segments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np

from pipeline.core.clock import iso_text
from pipeline.core.errors import StoreRefused
from pipeline.core.records import Batch
from pipeline.store.columns import (
    CaptionColumns,
    CaptionCommitColumns,
    ClockColumns,
    Columns,
    CutColumns,
    EffortColumns,
    GapColumns,
    GapCommitColumns,
    ObservationColumns,
    TextColumns,
    TextDictionary,
    TrackColumns,
)

ColumnsT = TypeVar("ColumnsT", bound=Columns)
MaskedT = TypeVar("MaskedT", ObservationColumns, CaptionColumns)
_NO_DATE = 250_000_000_000 * 10**9  # beyond the year 9999


@dataclass(frozen=True, slots=True, eq=False)
class SegmentRows:
    """All tables of one segment, sorted by time, with at most one row per caption event and per track."""

    obs: ObservationColumns = field(default_factory=ObservationColumns)
    cap: CaptionColumns = field(default_factory=CaptionColumns)
    text: TextColumns = field(default_factory=TextColumns)
    trk: TrackColumns = field(default_factory=TrackColumns)
    gap: GapColumns = field(default_factory=GapColumns)
    clk: ClockColumns = field(default_factory=ClockColumns)
    eff: EffortColumns = field(default_factory=EffortColumns)
    cut: CutColumns = field(default_factory=CutColumns)
    cap_commit: CaptionCommitColumns = field(default_factory=CaptionCommitColumns)
    gap_commit: GapCommitColumns = field(default_factory=GapCommitColumns)

    @classmethod
    def of(cls, batch: Batch, latest_ns: int | None = None, told: list[str] | None = None) -> SegmentRows:
        """Columns of a batch. Raises `StoreRefused` for rows that cannot be stored as they are, as later than `latest_ns`.

        Numbers that no column can hold (NaN, infinities, embeddings beyond half floats) become the nearest that it can,
        NaN 0; `told` hears of it.
        """
        for name, start, end in (
            *(("caption event", r.start_ns, r.end_ns) for r in batch.captions),
            *(("gap", r.start_ns, r.end_ns) for r in batch.gaps),
            *(("closed track", r.first_ns, r.last_ns) for r in batch.tracks),
            *(("clock reading", r.wall_ns, r.wall_ns) for r in batch.clocks),
            *(("step of effort", r.wall_ns, r.wall_ns) for r in batch.efforts),
            *(("cut", r.wall_ns, r.wall_ns) for r in batch.cuts),
            *(("observation", r.wall_ns, r.wall_ns) for r in batch.observations),
        ):
            if not 0 <= start <= end:
                raise StoreRefused(
                    f"{name} from {start} to {end} ns: times must be 0 or later, the end not before the start"
                )
            if latest_ns is not None and end > latest_ns:
                raise StoreRefused(
                    f"{name} at {iso_text(end) if end < _NO_DATE else end}: more than a day ahead of this machine's clock; "
                    "set the clock of the machine or of the source"
                )
        if latest_ns is not None and batch.resume.wall_ns > latest_ns:
            raise StoreRefused(
                f"the stream goes on at {batch.resume.wall_ns} ns: more than a day ahead of this machine's clock; set the clock "
                "of the machine or of the source"
            )
        try:
            return cls._columns(batch, told)
        except (
            OverflowError,
            UnicodeError,
        ) as error:  # a number that no column holds, half of a surrogate pair
            raise StoreRefused(f"rows cannot be stored: {error}") from error

    @classmethod
    def _columns(cls, batch: Batch, told: list[str] | None) -> SegmentRows:
        texts = TextDictionary()
        rows = cls(
            obs=ObservationColumns.of(batch.observations),
            cap=CaptionColumns.of(batch.captions, texts),
            trk=TrackColumns.of(batch.tracks, texts),
            gap=GapColumns.of(batch.gaps, texts),
            clk=ClockColumns.of(batch.clocks, texts),
            eff=EffortColumns.of(batch.efforts, texts),
            cut=CutColumns.of(batch.cuts),
        )
        kept = replace(
            rows,
            obs=_storable(rows.obs, ("box", "score"), batch, told),
            cap=_storable(rows.cap, ("box", "score", "logprob", "emb"), batch, told),
            text=texts.columns(),
        )
        return kept._in_order()

    @classmethod
    def join(cls, parts: Sequence[SegmentRows]) -> SegmentRows:
        """The rows of consecutive segments as one: texts numbered anew, superseded events and tracks left out."""
        texts = TextDictionary()
        remaps = [np.array([texts.index(text) for text in part.text.strings()], "<u4") for part in parts]

        def remapped(part: Columns, name: str, remap: np.ndarray) -> Any:
            ids = getattr(part, name)
            return replace(part, **{name: remap[ids] if len(ids) else ids})

        return cls(
            obs=_concatenate(_masks_in_a_row([part.obs for part in parts])),
            cap=_concatenate_captions(
                [remapped(p.cap, "text", m) for p, m in zip(parts, remaps, strict=True)]
            ),
            text=texts.columns(),
            trk=_concatenate([remapped(p.trk, "text", m) for p, m in zip(parts, remaps, strict=True)]),
            gap=_concatenate([remapped(p.gap, "reason", m) for p, m in zip(parts, remaps, strict=True)]),
            clk=_concatenate([remapped(p.clk, "clock", m) for p, m in zip(parts, remaps, strict=True)]),
            eff=_concatenate([remapped(p.eff, "effort", m) for p, m in zip(parts, remaps, strict=True)]),
            cut=_concatenate([part.cut for part in parts]),
        )._in_order()

    def table(self, group: str) -> Columns:
        table: Columns = getattr(self, group)
        return table

    @property
    def time_range(self) -> tuple[int, int] | None:
        """First and last wall ns of observations, captions, gaps, clock readings, efforts and cuts; None without any.

        Tracks are left out: they may last for hours and would make the segment a candidate for every query.
        """
        moments = (self.obs.t, self.clk.t, self.eff.t, self.cut.t)
        starts = [int(t.min()) for t in (*moments, self.cap.t_start, self.gap.t_start) if len(t)]
        ends = [int(t.max()) for t in (*moments, self.cap.t_end, self.gap.t_end) if len(t)]
        return (min(starts), max(ends)) if starts else None

    def _in_order(self) -> SegmentRows:
        cap, trk = self.cap, self.trk
        newest = newest_versions(cap.track, cap.t_start, cap.t_end)
        last = newest_versions(trk.track, np.zeros(len(trk), "<i8"), trk.t_last)
        return replace(
            self,
            obs=_take(self.obs, np.argsort(self.obs.t, kind="stable")),
            cap=_take(cap, newest[np.argsort(cap.t_start[newest], kind="stable")]),
            trk=_take(trk, last[np.argsort(trk.t_first[last], kind="stable")]),
            gap=_take(self.gap, np.argsort(self.gap.t_start, kind="stable")),
            clk=_take(self.clk, np.argsort(self.clk.t, kind="stable")),
            eff=_take(self.eff, np.argsort(self.eff.t, kind="stable")),
            cut=_take(self.cut, np.argsort(self.cut.t, kind="stable")),
        )


def _storable(table: MaskedT, names: Sequence[str], batch: Batch, told: list[str] | None) -> MaskedT:
    """The table without NaN and infinities in these columns."""
    changed = {}
    for name in names:
        values: np.ndarray = getattr(table, name)
        given = np.ones(values.shape, bool)
        if name == "emb":  # NaN fills up shorter ones
            for row, event in zip(given, batch.captions, strict=True):
                row[len(event.embedding) :] = False
        wrong = given & ~np.isfinite(values)
        if not wrong.any():
            continue
        if told is not None:
            track = int(table.track[np.flatnonzero(wrong.reshape(len(wrong), -1).any(axis=1))[0]])
            told.append(f"{name} of track {track} cannot be stored, the nearest number that can is")
        most = 1.0 if name == "score" else float(np.finfo(values.dtype).max)
        least = 0.0 if name == "score" else -most
        changed[name] = np.where(wrong, np.nan_to_num(values, nan=0.0, posinf=most, neginf=least), values)
    return replace(table, **changed)


def newest_versions(track: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Positions, ascending, of the row that holds for each (track, start): latest end, then written last.

    `track`, `start`, `end`: (n,) in the order written.
    """
    if not len(track):
        return np.empty(0, np.int64)
    order = np.lexsort((np.arange(len(track)), end, start, track))
    last = np.ones(len(order), bool)
    last[:-1] = (track[order][1:] != track[order][:-1]) | (start[order][1:] != start[order][:-1])
    return np.sort(order[last])


def last_end(tracks: TrackColumns) -> int:
    """Wall ns at which the last of some tracks ended; 0 without any."""
    return int(tracks.t_last.max(initial=0))


def check_masks(table: Columns) -> None:
    """Raise ValueError where the ends of masks are not those of the masks' bytes: the rows would get each other's."""
    if isinstance(table, ObservationColumns | CaptionColumns):
        ends = table.mask_off.astype(np.int64)
        if (ends[-1] if len(ends) else 0) != len(table.mask_bytes) or (np.diff(ends, prepend=0) < 0).any():
            raise ValueError(f"the masks of {table.group} do not end where it tells")


def take_ragged(ends: np.ndarray, values: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a ragged column as (new ends, new values)."""
    if not len(rows):
        return np.empty(0, ends.dtype), values[:0]
    starts = np.concatenate([[0], ends[:-1]]).astype(np.int64)[rows]
    stops = ends[rows].astype(np.int64)
    # Rows that follow each other are copied together: a position for each byte would take eight times the bytes.
    breaks = np.flatnonzero(np.diff(rows) != 1) + 1
    pieces = zip(starts[[0, *breaks]].tolist(), stops[[*(breaks - 1), -1]].tolist(), strict=True)
    return np.cumsum(stops - starts).astype(ends.dtype), np.concatenate([values[a:b] for a, b in pieces])


def _take(columns: ColumnsT, rows: np.ndarray) -> ColumnsT:
    """The given rows of a table, masks included."""
    taken = {name: array[rows] for name, array in columns.arrays().items() if name != "mask_bytes"}
    if isinstance(columns, ObservationColumns | CaptionColumns):
        taken["mask_off"], taken["mask_bytes"] = take_ragged(columns.mask_off, columns.mask_bytes, rows)
    return replace(columns, **taken)


def _concatenate(parts: Sequence[ColumnsT]) -> ColumnsT:
    names = parts[0].specs()
    return replace(parts[0], **{name: np.concatenate([getattr(p, name) for p in parts]) for name in names})


def _concatenate_captions(parts: Sequence[CaptionColumns]) -> CaptionColumns:
    width = max(p.emb.shape[1] for p in parts)
    padded = []
    for part in parts:
        emb = np.full((len(part), width), np.nan, "<f2")
        emb[:, : part.emb.shape[1]] = part.emb
        padded.append(replace(part, emb=emb))
    return _concatenate(_masks_in_a_row(padded))


def _masks_in_a_row(parts: Sequence[MaskedT]) -> list[MaskedT]:
    """The parts with their masks' ends counted on from the first part's."""
    total = sum(len(part.mask_bytes) for part in parts)
    kind = "<u4" if total < 2**32 else "<i8"
    bases = np.cumsum([0, *(len(part.mask_bytes) for part in parts)])
    return [
        replace(part, mask_off=(part.mask_off.astype(np.int64) + base).astype(kind))
        for part, base in zip(parts, bases.tolist(), strict=False)
    ]
