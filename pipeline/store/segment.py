"""A segment: the rows of consecutive commits of one stream in one immutable file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.errors import StoreRefused
from pipeline.core.records import ResumePoint
from pipeline.store.columns import TABLES, Columns, ColumnSpec
from pipeline.store.damage import SegmentDamaged, SegmentRefused, hold_against_name
from pipeline.store.place import StorePlace
from pipeline.store.segment_rows import SegmentRows, check_masks
from pipeline.store.zarr_zip import ZarrZip, encode

SCHEMA = "region-captions/2"
# Schema 1 has no masks of observations, and in all else what it holds means the same in 2.
_SCHEMAS = {"region-captions/1": 1, SCHEMA: 2}


@dataclass(frozen=True, slots=True)
class SegmentAttributes:
    """Root attributes of a segment. Commits [lo, hi), wall ns, and where the stream goes on after it."""

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

    def document(self, rows: SegmentRows) -> dict[str, Any]:
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("lo", "hi", "resume")}
        tracks = [t for t in (rows.obs.track, rows.cap.track, rows.trk.track) if len(t)]
        return {
            "schema": SCHEMA,
            **own,
            "seq": [self.lo, self.hi],
            "rows": {table.group: len(rows.table(table.group)) for table in TABLES},
            "track_min": min((int(t.min()) for t in tracks), default=0),
            "track_max": max((int(t.max()) for t in tracks), default=0),
            "trk_t_min": int(rows.trk.t_first.min()) if len(rows.trk) else 0,
            "trk_t_max": int(rows.trk.t_last.max()) if len(rows.trk) else 0,
            "resume": asdict(self.resume),
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
            f"{what} has schema {schema!r}, this program reads {' and '.join(map(repr, _SCHEMAS))}: read it with the "
            "version that wrote it"
        )
    return _SCHEMAS[schema]


def encode_segment(rows: SegmentRows, attributes: SegmentAttributes) -> bytes:
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


class SegmentReader:
    """Columns of one segment file, read when asked for. Raises FileNotFoundError, `StoreRefused` when damaged."""

    def __init__(self, place: StorePlace, key: str) -> None:
        self._file = ZarrZip(place, key)
        self.attrs = self._file.attrs
        try:
            self._schema = schema_number(self.attrs, f"segment {self._file.path}")
        except StoreRefused:
            self._file.close()
            raise
        try:
            hold_against_name(self.attrs, place.where.rpartition("/")[2], key)
        except ValueError as error:
            self._file.close()
            raise SegmentDamaged("segment", self._file.path, key, error) from error
        self._key = key
        self._whole: dict[str, np.ndarray] = {}

    def verify(self) -> None:
        """Check every byte. Raises as reading does."""
        self._file.verify()

    def close(self) -> None:
        self._file.close()

    def count(self, table: type[Columns]) -> int:
        return int(self.attrs["rows"].get(table.group, 0))

    def candidates(self, table: type[Columns], start: int | None, end: int | None) -> np.ndarray | None:
        """Rows that may lie in wall ns [start, end]; None for all of them. A segment is small: all."""
        return None

    def column(self, table: type[Columns], name: str, rows: np.ndarray | None = None) -> np.ndarray:
        """A column of a table, whole (then kept for the next time) or at ascending `rows`."""
        path = f"{table.group}/{name}"
        if path in self._whole:
            return self._whole[path] if rows is None else self._whole[path][rows]
        if not self._file.has(table.group):
            return np.empty((0, *getattr(table(), name).shape[1:]), table.specs()[name].dtype)
        if table.specs()[name].since > self._schema:
            return table.specs()[name].absent(self.count(table) if rows is None else len(rows))
        if rows is not None and not worth_keeping(table.specs()[name], len(rows), self.count(table)):
            return self._file.take(path, rows)
        self._whole[path] = self._file.read(path)
        return self._whole[path] if rows is None else self._whole[path][rows]

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
            raise SegmentDamaged("segment", self._file.path, self._key, error) from error
        return SegmentRows(**tables)  # type: ignore[arg-type]

    def _read(self, table: type[Columns], name: str) -> np.ndarray:
        if table.specs()[name].since > self._schema:
            return table.specs()[name].absent(self.count(table))
        return self._file.read(f"{table.group}/{name}")
