"""The tables of a segment as typed columns, and how records become columns."""

# ruff: noqa: RUF009 - `_column` returns a dataclass field
from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from enum import Enum
from functools import cache
from typing import Any, ClassVar

import numpy as np

from pipeline.core.errors import StoreRefused
from pipeline.core.masks import RleMask
from pipeline.core.records import CaptionEvent, ClockReading, ClosedTrack, Cut, EffortStep, Gap, Observation

ROW_CHUNK = 4096
BYTE_CHUNK = 262_144


class Codec(Enum):
    """How the chunks of a column are compressed. SHUFFLED: blosc, zstd 5 over transposed bits."""

    SHUFFLED = "shuffled"
    ZSTD = "zstd"
    ZSTD_FAST = "zstd-fast"


@dataclass(frozen=True, slots=True)
class ColumnSpec:
    """Type of one column on disk. `width`: None for (n,), else (n, width), 0 meaning any width.

    `since`: number of the first schema that has it; a segment of an earlier one holds nothing there.
    """

    dtype: str
    width: int | None = None
    codec: Codec = Codec.SHUFFLED
    wall_clock: bool = False
    byte_string: bool = False
    since: int = 1

    def absent(self, rows: int) -> np.ndarray:
        """What a segment of an earlier schema than `since` has in this column."""
        if self.byte_string:
            return np.empty(0, self.dtype)
        return np.zeros((rows,) if self.width is None else (rows, self.width), self.dtype)


def _column(dtype: str, width: int | None = None, **spec: Any) -> Any:
    kind = ColumnSpec(dtype, width, **spec)
    shape = (0,) if width is None else (0, width)
    return field(default_factory=lambda: np.empty(shape, dtype), metadata={"spec": kind})


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """Base of the tables: equally long arrays, one row a record. Times are int64 ns."""

    group: ClassVar[str] = ""

    @classmethod
    @cache
    def specs(cls) -> dict[str, ColumnSpec]:
        """The columns by name; not to be changed."""
        return {f.name: f.metadata["spec"] for f in fields(cls) if "spec" in f.metadata}

    def arrays(self) -> dict[str, np.ndarray]:
        return {name: getattr(self, name) for name in self.specs()}

    def __len__(self) -> int:
        return len(getattr(self, next(iter(self.specs()))))


@dataclass(frozen=True, slots=True, eq=False)
class ObservationColumns(Columns):
    """Table `obs`: one row per tracked region per keyframe, sorted by `t`. Masks as in `cap`; those of observations came with
    schema 2.
    """

    group: ClassVar[str] = "obs"
    t: np.ndarray = _column("<i8", wall_clock=True)
    pts: np.ndarray = _column("<i8")
    frame: np.ndarray = _column("<i8")
    track: np.ndarray = _column("<u4")
    box: np.ndarray = _column("<f4", 4)
    score: np.ndarray = _column("<f4")
    mask_size: np.ndarray = _column("<u4", 2, since=2)
    mask_off: np.ndarray = _column("<u4", since=2)
    mask_bytes: np.ndarray = _column("|u1", codec=Codec.ZSTD, byte_string=True, since=2)

    @classmethod
    def of(cls, rows: Sequence[Observation]) -> ObservationColumns:
        size, off, data = _masks([row.mask for row in rows])
        return cls(
            t=_ints(row.wall_ns for row in rows),
            pts=_ints(row.pts_ns for row in rows),
            frame=_ints(row.frame for row in rows),
            track=_tracks(row.track for row in rows),
            box=_boxes([row.box for row in rows]),
            score=_floats(row.score for row in rows),
            mask_size=size,
            mask_off=off,
            mask_bytes=data,
        )


@dataclass(frozen=True, slots=True, eq=False)
class CaptionColumns(Columns):
    """Table `cap`: one row per caption event, sorted by `t_start`.

    `text`: index into the segment's text dictionary. `emb`: (n, D) half floats, a row of NaN where there is none.
    `mask_off`: end of each row's COCO run lengths in `mask_bytes`; `mask_size`: (n, 2) rows and columns of its grid, which
    covers the whole picture; 0 without.
    """

    group: ClassVar[str] = "cap"
    t_start: np.ndarray = _column("<i8", wall_clock=True)
    t_end: np.ndarray = _column("<i8", wall_clock=True)
    start_pts: np.ndarray = _column("<i8")
    end_pts: np.ndarray = _column("<i8")
    frame: np.ndarray = _column("<i8")
    track: np.ndarray = _column("<u4")
    box: np.ndarray = _column("<f4", 4)
    score: np.ndarray = _column("<f4")
    logprob: np.ndarray = _column("<f4")
    text: np.ndarray = _column("<u4")
    emb: np.ndarray = _column("<f2", 0, codec=Codec.ZSTD_FAST)
    mask_size: np.ndarray = _column("<u4", 2)
    mask_off: np.ndarray = _column("<u4")
    mask_bytes: np.ndarray = _column("|u1", codec=Codec.ZSTD, byte_string=True)

    @classmethod
    def of(cls, rows: Sequence[CaptionEvent], texts: TextDictionary) -> CaptionColumns:
        size, off, data = _masks([row.mask for row in rows])
        return cls(
            t_start=_ints(row.start_ns for row in rows),
            t_end=_ints(row.end_ns for row in rows),
            start_pts=_ints(row.start_pts_ns for row in rows),
            end_pts=_ints(row.end_pts_ns for row in rows),
            frame=_ints(row.frame for row in rows),
            track=_tracks(row.track for row in rows),
            box=_boxes([row.box for row in rows]),
            score=_floats(row.score for row in rows),
            logprob=_floats(row.logprob for row in rows),
            text=np.array([texts.index(row.text) for row in rows], "<u4"),
            emb=_embeddings([row.embedding for row in rows]),
            mask_size=size,
            mask_off=off,
            mask_bytes=data,
        )


@dataclass(frozen=True, slots=True, eq=False)
class TrackColumns(Columns):
    """Table `trk`: one row per closed track. `text`: index of its best text in the text dictionary."""

    group: ClassVar[str] = "trk"
    t_first: np.ndarray = _column("<i8", wall_clock=True)
    t_last: np.ndarray = _column("<i8", wall_clock=True)
    track: np.ndarray = _column("<u4")
    n_obs: np.ndarray = _column("<u4")
    text: np.ndarray = _column("<u4")

    @classmethod
    def of(cls, rows: Sequence[ClosedTrack], texts: TextDictionary) -> TrackColumns:
        return cls(
            t_first=_ints(row.first_ns for row in rows),
            t_last=_ints(row.last_ns for row in rows),
            track=_tracks(row.track for row in rows),
            n_obs=np.array([row.observations for row in rows], "<u4"),
            text=np.array([texts.index(row.best_text) for row in rows], "<u4"),
        )


@dataclass(frozen=True, slots=True, eq=False)
class GapColumns(Columns):
    """Table `gap`: stretches that were not watched. `reason`: index into the text dictionary."""

    group: ClassVar[str] = "gap"
    t_start: np.ndarray = _column("<i8", wall_clock=True)
    t_end: np.ndarray = _column("<i8", wall_clock=True)
    reason: np.ndarray = _column("<u4")
    frames: np.ndarray = _column("<u4")

    @classmethod
    def of(cls, rows: Sequence[Gap], texts: TextDictionary) -> GapColumns:
        return cls(
            t_start=_ints(row.start_ns for row in rows),
            t_end=_ints(row.end_ns for row in rows),
            reason=np.array([texts.index(str(row.reason)) for row in rows], "<u4"),
            frames=np.array([row.frames for row in rows], "<u4"),
        )


@dataclass(frozen=True, slots=True, eq=False)
class EffortColumns(Columns):
    """Table `eff`: from `t` on the stream gets this much work. `effort`: index into the text dictionary."""

    group: ClassVar[str] = "eff"
    t: np.ndarray = _column("<i8", wall_clock=True)
    effort: np.ndarray = _column("<u4")

    @classmethod
    def of(cls, rows: Sequence[EffortStep], texts: TextDictionary) -> EffortColumns:
        return cls(
            t=_ints(row.wall_ns for row in rows),
            effort=np.array([texts.index(row.effort.value) for row in rows], "<u4"),
        )


@dataclass(frozen=True, slots=True, eq=False)
class CutColumns(Columns):
    """Table `cut`: a shot begins at `t`. `pts`: the same on the stream's own clock."""

    group: ClassVar[str] = "cut"
    t: np.ndarray = _column("<i8", wall_clock=True)
    pts: np.ndarray = _column("<i8")

    @classmethod
    def of(cls, rows: Sequence[Cut]) -> CutColumns:
        return cls(t=_ints(row.wall_ns for row in rows), pts=_ints(row.pts_ns for row in rows))


@dataclass(frozen=True, slots=True, eq=False)
class ClockColumns(Columns):
    """Table `clk`: which clock held from `t` on. `clock`: index into the text dictionary; `drift`: ppm or NaN."""

    group: ClassVar[str] = "clk"
    t: np.ndarray = _column("<i8", wall_clock=True)
    pts: np.ndarray = _column("<i8")
    epoch: np.ndarray = _column("<u4")
    clock: np.ndarray = _column("<u4")
    drift: np.ndarray = _column("<f4")

    @classmethod
    def of(cls, rows: Sequence[ClockReading], texts: TextDictionary) -> ClockColumns:
        return cls(
            t=_ints(row.wall_ns for row in rows),
            pts=_ints(row.pts_ns for row in rows),
            epoch=np.array([row.epoch for row in rows], "<u4"),
            clock=np.array([texts.index(row.clock.value) for row in rows], "<u4"),
            drift=_floats(math.nan if row.drift_ppm is None else row.drift_ppm for row in rows),
        )


@dataclass(frozen=True, slots=True, eq=False)
class TextColumns(Columns):
    """Table `text`: the distinct strings of a segment. `off`: end of each in `bytes` (UTF-8)."""

    group: ClassVar[str] = "text"
    off: np.ndarray = _column("<u4")
    bytes: np.ndarray = _column("|u1", codec=Codec.ZSTD, byte_string=True)

    @classmethod
    def of(cls, texts: Iterable[str]) -> TextColumns:
        encoded = [text.encode() for text in texts]
        return cls(
            off=np.cumsum([len(e) for e in encoded], dtype="<u4"),
            bytes=np.frombuffer(b"".join(encoded), "|u1"),
        )

    def strings(self) -> list[str]:
        """The texts in order of their index."""
        raw, ends = self.bytes.tobytes(), self.off.tolist()
        return [raw[a:b].decode() for a, b in zip([0, *ends], ends, strict=False)]


@dataclass(frozen=True, slots=True, eq=False)
class CaptionCommitColumns(Columns):
    """Table `cap_commit`: row i tells which commit row i of `cap` came with. Only where a segment holds several commits."""

    group: ClassVar[str] = "cap_commit"
    commit: np.ndarray = _column("<i8")


@dataclass(frozen=True, slots=True, eq=False)
class GapCommitColumns(Columns):
    """Table `gap_commit`: the same of `gap`."""

    group: ClassVar[str] = "gap_commit"
    commit: np.ndarray = _column("<i8")


COMMITS: dict[type[Columns], type[Columns]] = {
    CaptionColumns: CaptionCommitColumns,
    GapColumns: GapCommitColumns,
}
"""Of the tables whose rows are told as they come, the table that says which commit each came with."""

TABLES: tuple[type[Columns], ...] = (
    ObservationColumns,
    CaptionColumns,
    TextColumns,
    TrackColumns,
    GapColumns,
    ClockColumns,
    EffortColumns,
    CutColumns,
    *COMMITS.values(),
)


class TextDictionary:
    """Numbers distinct texts in order of first use."""

    def __init__(self) -> None:
        self._index: dict[str, int] = {}

    def index(self, text: str) -> int:
        return self._index.setdefault(text, len(self._index))

    def columns(self) -> TextColumns:
        return TextColumns.of(self._index)


def _ints(values: Iterable[int]) -> np.ndarray:
    return np.fromiter(values, "<i8")


def _floats(values: Iterable[float]) -> np.ndarray:
    with np.errstate(over="ignore"):  # becomes an infinity, which whoever made the rows looks for
        return np.fromiter(values, "<f4")


def _tracks(values: Iterable[int]) -> np.ndarray:
    ids = np.fromiter(values, "<i8")
    if len(ids) and not 0 <= ids.min() <= ids.max() < 2**32:
        raise StoreRefused(f"track ids {ids.min()}..{ids.max()}: must be 0 or more and below 2**32")
    return ids.astype("<u4")


def _boxes(boxes: Sequence[tuple[float, float, float, float]]) -> np.ndarray:
    return np.array(boxes, "<f4").reshape(-1, 4)


def _masks(masks: Sequence[RleMask | None]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Columns `mask_size`, `mask_off` and `mask_bytes`."""
    counts = [mask.counts if mask else b"" for mask in masks]
    sizes = np.array([mask.size if mask else (0, 0) for mask in masks], "<u4").reshape(-1, 2)
    return sizes, np.cumsum([len(c) for c in counts], dtype="<u4"), np.frombuffer(b"".join(counts), "|u1")


def _embeddings(rows: Sequence[np.ndarray]) -> np.ndarray:
    """(n, D) half floats. Shorter rows (another model, or none at all) are filled up with NaN."""
    if any(row.ndim != 1 for row in rows):
        raise StoreRefused("an embedding is no vector: give one dimension")
    lengths = {len(row) for row in rows}
    width = max(lengths, default=0)
    if len(lengths) == 1 and width:
        with np.errstate(over="ignore"):
            return np.stack(rows).astype("<f2")
    table = np.full((len(rows), width), np.nan, "<f2")
    with np.errstate(over="ignore"):  # becomes an infinity, which whoever made the rows looks for
        for line, row in zip(table, rows, strict=True):
            line[: len(row)] = row
    return table
