"""Reading a day archive, every file held against its size and checksum before its first byte counts."""

from __future__ import annotations

import weakref
import zlib
from typing import Any, BinaryIO

import numpy as np

from pipeline.store.archive_files import (
    CHECKSUMS,
    MOST_DOCUMENT,
    TIMES,
    check_file,
    check_unlisted,
    read_checksums,
)
from pipeline.store.columns import TABLES, Columns, ColumnSpec
from pipeline.store.damage import SegmentDamaged, hold_against_name, is_of_the_reader
from pipeline.store.decoded_cache import DECODED, drop_file, next_file_number
from pipeline.store.place import StorePlace
from pipeline.store.segment import refuse_unknown_tables, rows_of_chunks, schema_number, worth_keeping
from pipeline.store.segment_rows import SegmentRows, check_masks
from pipeline.store.sharded_array import ShardedArray
from pipeline.store.zarr_metadata import chunk_rows
from sca.small_files import parsed_json

_DAMAGE = (
    OSError,
    ValueError,
    LookupError,
    RuntimeError,
    TypeError,
    AttributeError,
    OverflowError,
    zlib.error,
)


class DayArchiveReader:
    """Columns of a day archive. Every file is held against its size and checksum when it is first read.

    Raises FileNotFoundError when it is not there (any more), `SegmentDamaged` when a part of it is missing or damaged.
    """

    def __init__(self, place: StorePlace, key: str) -> None:
        self._place, self._key = place, key
        self.path = f"{place.where}/{key}"
        if not self._there():
            raise FileNotFoundError(self.path)
        stream = place.where.rpartition("/")[2]
        self._arrays: dict[str, ShardedArray] = {}
        self._checked: set[str] = set()
        self.number = next_file_number()
        weakref.finalize(self, drop_file, self.number)
        try:
            self._sums = read_checksums(place, key, stream)
            self._check("zarr.json")
            root = parsed_json(place.read(f"{key}/zarr.json", MOST_DOCUMENT))
            self.attrs: dict[str, Any] = root["attributes"]
            self._members: dict[str, Any] = root["consolidated_metadata"]["metadata"]
            if not isinstance(self.attrs, dict) or not isinstance(self._members, dict):
                raise ValueError("its metadata are no objects")
        except _DAMAGE as error:
            raise self._failed(error) from error
        self._schema = schema_number(self.attrs, f"day archive {self.path}")
        try:
            hold_against_name(self.attrs, place, key)
            if self._sums is None:
                self._check_without_checksums()
        except _DAMAGE as error:
            raise self._failed(error) from error

    def close(self) -> None:
        drop_file(self.number)

    def count(self, table: type[Columns]) -> int:
        return int(self.attrs["rows"].get(table.group, 0))

    def candidates(
        self, table: type[Columns], start: int | None, end: int | None, track: int | None = None
    ) -> np.ndarray | None:
        """Rows of the chunks that may hold some of wall ns [start, end] and of the track; None for all rows."""
        if (start is None and end is None and track is None) or not self.count(table):
            return None
        names = {"t_min": "t_start_min", "t_max": "t_end_max"}
        if track is not None and "track" in table.specs():
            names |= {"track_min": "track_min", "track_max": "track_max"}
        bounds = {to: self._kept(f"index/{table.group}/{name}") for to, name in names.items()}
        try:
            return rows_of_chunks(bounds, start, end, track, self.count(table))
        except ValueError as error:
            raise self._failed(ValueError(f"the index of {table.group} is none ({error})")) from error

    def damaged(self, error: Exception) -> Exception:
        """What to raise where the rows cannot be those of an archive."""
        return self._failed(error)

    def byte_count(self, table: type[Columns], name: str) -> int:
        """Length of a byte-string column."""
        if table.specs()[name].since > self._schema or not self.count(table):
            return 0
        return int(self._array(f"{table.group}/{name}").shape[0])

    def column(self, table: type[Columns], name: str, rows: np.ndarray | None = None) -> np.ndarray:
        """A column of a table, whole (then kept for the next time) or at ascending `rows`."""
        path = f"{table.group}/{name}"
        if not self.count(table):
            return np.empty((0, *getattr(table(), name).shape[1:]), table.specs()[name].dtype)
        if table.specs()[name].since > self._schema:
            return table.specs()[name].absent(self.count(table) if rows is None else len(rows))
        if rows is None:
            return self._kept(path)
        if DECODED.kept(self.number, path) is not None or worth_keeping(
            table.specs()[name], len(rows), self.count(table)
        ):
            return self._kept(path)[rows]
        try:
            return self._array(path).take(rows)
        except _DAMAGE as error:
            raise self._failed(error) from error

    def byte_range(self, table: type[Columns], name: str, start: int, stop: int) -> bytes:
        """Bytes [start, stop) of a byte-string column."""
        if table.specs()[name].since > self._schema:
            return b""
        try:
            return self._array(f"{table.group}/{name}").slice(start, stop).tobytes()
        except _DAMAGE as error:
            raise self._failed(error) from error

    def rows(self) -> SegmentRows:
        """Everything in the archive, every byte checked. `StoreRefused` for tables that this version does not know."""
        refuse_unknown_tables(self.attrs, self.path, self._key)
        tables = {
            kind.group: kind(**{name: self._all(kind, name) for name in kind.specs()})
            for kind in TABLES
            if self.count(kind)
        }
        try:
            for columns in tables.values():
                check_masks(columns)
        except ValueError as error:
            raise self._failed(error) from error
        return SegmentRows(**tables)  # type: ignore[arg-type]

    def verify(self) -> None:
        """Check every file. Raises as reading does."""
        try:
            files = self._sums.files if self._sums is not None else {}
            for path in files:
                check_file(self._place, self._key, path, files)
        except _DAMAGE as error:
            raise self._failed(error) from error
        if self._sums is None:
            self.rows()

    def _all(self, table: type[Columns], name: str) -> np.ndarray:
        if table.specs()[name].since > self._schema:
            return table.specs()[name].absent(self.count(table))
        return self._read(f"{table.group}/{name}")

    def _array(self, path: str) -> ShardedArray:
        if path not in self._arrays:
            self._arrays[path] = ShardedArray(
                self._opened, path, self._members[path], self.number, self._chunk_sums
            )
        return self._arrays[path]

    def _check(self, path: str) -> None:
        """Hold a file against its checksum, once: chunks and indexes of chunks carry some of their own."""
        if self._sums is not None and path not in self._checked:
            check_file(self._place, self._key, path, self._sums.files)
            self._checked.add(path)

    def _opened(self, path: str) -> BinaryIO:
        """A shard, held against its checksum. Where reading it whole would mean a network, its chunks are, one by one."""
        if not self._place.far or self._sums is None or path not in self._sums.chunks:
            self._check(path)
        return self._place.open(f"{self._key}/{path}")

    def _chunk_sums(self, path: str) -> np.ndarray | None:
        return None if self._sums is None else self._sums.chunks.get(path)

    def _there(self) -> bool:
        """Of what lies in an object store the description is the first to go when it is deleted."""
        if self._place.far:
            return self._place.exists(f"{self._key}/zarr.json")
        folder, _, name = self._key.rpartition("/")
        return self._place.exists(self._key) or name in self._place.list(
            folder
        )  # a link to nothing is there too

    def _kept(self, path: str) -> np.ndarray:
        return DECODED.get(self.number, path, lambda: self._read(path))

    def _read(self, path: str) -> np.ndarray:
        try:
            return self._array(path).whole()
        except _DAMAGE as error:
            raise self._failed(error) from error

    def _check_without_checksums(self) -> None:
        """An archive of an older version: the rows that it tells must be there, and all files of them."""
        if "checksums" in self.attrs:
            raise ValueError(f"{CHECKSUMS} is missing")
        lengths: dict[str, int] = {}
        for kind in TABLES:
            count = self.count(kind)
            if bool(count) != (kind.group in self._members):
                raise ValueError(f"zarr.json tells of {count} rows of {kind.group}")
            if not count:
                continue
            for name, spec in kind.specs().items():
                if spec.since > self._schema:
                    continue
                lengths[f"{kind.group}/{name}"] = -1 if spec.byte_string else count
            if kind.group in TIMES:
                tracks = ("track_min", "track_max") if "track" in kind.specs() else ()
                chunks = -(-count // chunk_rows(ColumnSpec("<i8"), count))
                for name in ("t_start_min", "t_end_max", *tracks):
                    lengths[f"index/{kind.group}/{name}"] = chunks
        for path, length in lengths.items():
            if length >= 0 and self._array(path).shape[0] != length:
                raise ValueError(f"{path} has {self._array(path).shape[0]} rows, not {length}")
        check_unlisted(self._place, self._key, {path: self._array(path) for path in lengths})

    def _failed(self, error: Exception) -> Exception:
        """An archive that was deleted meanwhile is gone, not damaged. What the system refuses stays as it is."""
        if isinstance(error, OSError) and self._place.far and not isinstance(error, FileNotFoundError):
            return error  # a network that fails says nothing of what it leads to
        if not self._there():
            return FileNotFoundError(self.path)
        if isinstance(error, SegmentDamaged) or is_of_the_reader(error):
            return error
        return SegmentDamaged("day archive", self.path, self._key, error)
