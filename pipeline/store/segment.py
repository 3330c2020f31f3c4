"""A segment: the rows of consecutive commits of one stream in one immutable file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from pipeline.core.errors import StoreRefused
from pipeline.core.records import ResumePoint
from pipeline.store.columns import ROW_CHUNK, TABLES, Columns, ColumnSpec
from pipeline.store.damage import SegmentDamaged, SegmentRefused, hold_against_name
from pipeline.store.place import StorePlace
from pipeline.store.segment_rows import SegmentRows, check_masks
from pipeline.store.zarr_zip import ColumnSource, ZarrZip, encode

SCHEMA = "region-captions/2"
# Schema 1 has no masks of observations, and in all else what it holds means the same in 2.
_SCHEMAS = {"region-captions/1": 1, SCHEMA: 2}


class TableRows(Protocol):
    """All tables of a segment by their group."""

    def table(self, group: str) -> ColumnSource: ...


@dataclass(frozen=True, slots=True)
class SegmentAttributes:
    """Root attributes of a segment. Commits [lo, hi), wall ns, and where the stream goes on after it. `stream_id`: its `identity`."""

    stream: str
    lo: int
    hi: int
    epoch: int
    level: int
    t_min: int
    t_max: int
    created_ns: int
    resume: ResumePoint
    model: str = ""
    stream_id: str = ""

    def document(self, rows: TableRows) -> dict[str, Any]:
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("lo", "hi", "resume")}
        tracks = [np.asarray(rows.table(g).arrays()["track"][:]) for g in ("obs", "cap", "trk")]
        tracks = [t for t in tracks if len(t)]
        closed = {name: np.asarray(rows.table("trk").arrays()[name][:]) for name in ("t_first", "t_last")}
        return {
            "schema": SCHEMA,
            **own,
            "seq": [self.lo, self.hi],
            "rows": {table.group: len(rows.table(table.group)) for table in TABLES},
            "track_min": min((int(t.min()) for t in tracks), default=0),
            "track_max": max((int(t.max()) for t in tracks), default=0),
            "trk_t_min": int(closed["t_first"].min()) if len(rows.table("trk")) else 0,
            "trk_t_max": int(closed["t_last"].max()) if len(rows.table("trk")) else 0,
            "resume": asdict(self.resume),
            "chunks": {
                group: index for group in TIMED if (index := _chunk_index(rows.table(group))) is not None
            },
        }


# First and last time of a row of the tables that may be large.
TIMED = {"obs": ("t", "t"), "cap": ("t_start", "t_end")}


def _chunk_index(table: ColumnSource) -> dict[str, list[int]] | None:
    """First and last time and track of each chunk of rows; None where there is one chunk."""
    if len(table) <= ROW_CHUNK:
        return None
    columns, edges = table.arrays(), np.arange(0, len(table), ROW_CHUNK)
    first, last = TIMED[table.group]
    track = np.asarray(columns["track"][:])
    return {
        "t_min": np.minimum.reduceat(np.asarray(columns[first][:]), edges).tolist(),
        "t_max": np.maximum.reduceat(np.asarray(columns[last][:]), edges).tolist(),
        "track_min": np.minimum.reduceat(track, edges).tolist(),
        "track_max": np.maximum.reduceat(track, edges).tolist(),
    }


def resume_of(attrs: Mapping[str, Any]) -> ResumePoint:
    """The resume point in the root attributes of a segment or day archive."""
    stored = attrs["resume"]
    return ResumePoint(**{f.name: stored[f.name] for f in fields(ResumePoint) if f.name in stored})


def schema_number(attrs: Mapping[str, Any], what: str) -> int:
    """Number of the schema that a store, segment or archive is of. Raises `StoreRefused` for one that is not read here."""
    schema = attrs.get("schema")
    if not isinstance(schema, str) or schema not in _SCHEMAS:
        raise StoreRefused(
            f"{what} has schema {str(schema)[:40]!r}, this program reads {' and '.join(map(repr, _SCHEMAS))}: read it with the "
            "version that wrote it"
        )
    return _SCHEMAS[schema]


def encode_segment(rows: TableRows, attributes: SegmentAttributes) -> bytes:
    """The bytes of a segment file."""
    return encode([rows.table(table.group) for table in TABLES], attributes.document(rows))


def refuse_unknown_tables(attrs: Mapping[str, Any], path: Path | str, key: str = "") -> None:
    """Raise `SegmentRefused` if a newer version wrote tables that this one would leave out of what it makes of the rows."""
    unknown = {name for name, count in attrs["rows"].items() if count} - {table.group for table in TABLES}
    if unknown:
        raise SegmentRefused(
            f"{path} holds tables that this version does not know ({', '.join(sorted(unknown))}): it is read, but merged "
            "and archived only by the version that wrote it, or a newer one",
            key,
        )


def worth_keeping(spec: ColumnSpec, wanted: int, rows: int) -> bool:
    """Whether to read a narrow column whole, and keep it, when most of its rows are asked for."""
    return spec.width is None and not spec.byte_string and 2 * wanted > rows


def rows_of_chunks(
    bounds: Mapping[str, np.ndarray], start: int | None, end: int | None, track: int | None, count: int
) -> np.ndarray | None:
    """Rows (n,) of the chunks that may hold some of wall ns [start, end] and of the track; None for all rows.

    `bounds`: t_min, t_max, track_min, track_max of each chunk. Raises ValueError unless these are as many as `count` rows have.
    """
    chunks = -(-count // ROW_CHUNK)
    if any(bounds[name].shape != (chunks,) for name in ("t_min", "t_max")):
        raise ValueError("it has another number of chunks")
    hit = np.ones(chunks, bool)
    if start is not None:
        hit &= bounds["t_max"] >= start
    if end is not None:
        hit &= bounds["t_min"] <= end
    if track is not None and "track_min" in bounds:
        hit &= (bounds["track_min"] <= track) & (track <= bounds["track_max"])
    if hit.all():
        return None
    rows = (np.flatnonzero(hit)[:, None] * ROW_CHUNK + np.arange(ROW_CHUNK)).ravel()
    return rows[rows < count]


class SegmentReader:
    """Columns of one segment file, read when asked for. Raises FileNotFoundError, `StoreRefused` when damaged."""

    def __init__(self, place: StorePlace, key: str) -> None:
        self._file = ZarrZip(place, key)
        self.attrs = self._file.attrs
        self.number = self._file.number
        try:
            self._schema = schema_number(self.attrs, f"segment {self._file.path}")
        except StoreRefused:
            self._file.close()
            raise
        try:
            hold_against_name(self.attrs, place, key)
        except ValueError as error:
            self._file.close()
            raise self._file.damaged(error) from error
        self._key = key

    def verify(self) -> None:
        """Check every byte. Raises as reading does."""
        self._file.verify()

    def close(self) -> None:
        self._file.close()

    def count(self, table: type[Columns]) -> int:
        return int(self.attrs["rows"].get(table.group, 0))

    def candidates(
        self, table: type[Columns], start: int | None, end: int | None, track: int | None = None
    ) -> np.ndarray | None:
        """Rows of the chunks that may hold some of wall ns [start, end] and of the track; None for all rows."""
        index = self.attrs.get("chunks", {}).get(table.group)
        if index is None or (start is None and end is None and track is None):
            return None
        try:
            bounds = {name: np.array(values, np.int64) for name, values in index.items()}
            return rows_of_chunks(bounds, start, end, track, self.count(table))
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError, IndexError) as error:
            raise self.damaged(ValueError(f"the index of {table.group} is none ({error})")) from error

    def column(self, table: type[Columns], name: str, rows: np.ndarray | None = None) -> np.ndarray:
        """A column of a table, whole (then kept for the next time) or at ascending `rows`."""
        path, spec = f"{table.group}/{name}", table.specs()[name]
        if not self._file.has(table.group):
            return np.empty((0, *getattr(table(), name).shape[1:]), spec.dtype)
        if spec.since > self._schema:
            return spec.absent(self.count(table) if rows is None else len(rows))
        self._check_layout(path, spec, self.count(table))
        if rows is None:
            return self._file.read(path, keep=True)
        if worth_keeping(spec, len(rows), self.count(table)):
            return self._file.read(path, keep=True)[rows]
        return self._file.take(path, rows)

    def _check_layout(self, path: str, spec: ColumnSpec, count: int) -> None:
        shape, dtype = self._file.layout(path)
        kinds = "iu" if spec.dtype[1] in "iu" else spec.dtype[1]
        if not spec.byte_string and shape[0] != count:
            raise self.damaged(ValueError(f"{path} has {shape[0]} rows, not {count}"))
        width = shape[1:] if spec.width == 0 else () if spec.width is None else (spec.width,)
        if dtype.kind not in kinds or shape[1:] != width or len(shape) != 1 + (spec.width is not None):
            raise self.damaged(ValueError(f"{path} is an array of another kind"))

    def damaged(self, error: Exception) -> SegmentDamaged:
        """What to raise where the rows cannot be those of a segment."""
        return self._file.damaged(error)

    def byte_count(self, table: type[Columns], name: str) -> int:
        """Length of a byte-string column."""
        if table.specs()[name].since > self._schema or not self._file.has(table.group):
            return 0
        return self._file.length(f"{table.group}/{name}")

    def byte_range(self, table: type[Columns], name: str, start: int, stop: int) -> bytes:
        """Bytes [start, stop) of a byte-string column."""
        if table.specs()[name].since > self._schema:
            return b""
        return self._file.slice(f"{table.group}/{name}", start, stop).tobytes()

    def rows(self) -> SegmentRows:
        """Everything in the segment, every byte checked. `StoreRefused` if it holds tables that this version does not know."""
        refuse_unknown_tables(self.attrs, self._file.path, self._key)
        tables = {
            table.group: table(**{name: self._read(table, name) for name in table.specs()})
            for table in TABLES
            if self._file.has(table.group)
        }
        try:
            for columns in tables.values():
                check_masks(columns)
        except ValueError as error:
            raise self.damaged(error) from error
        return SegmentRows(**tables)  # type: ignore[arg-type]

    def _read(self, table: type[Columns], name: str) -> np.ndarray:
        if table.specs()[name].since > self._schema:
            return table.specs()[name].absent(self.count(table))
        return self._file.read(f"{table.group}/{name}")
