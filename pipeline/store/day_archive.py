"""The closed day: all its segments as one plain, sharded Zarr group that never changes again."""

from __future__ import annotations

import os
import shutil
import warnings
import weakref
import zlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec

from pipeline.core.clock import DAY_NS, to_datetime
from pipeline.store.archive_files import (
    CHECKSUMS,
    ArchiveFiles,
    check_file,
    check_unlisted,
    read_checksums,
    write_checksums,
)
from pipeline.store.columns import TABLES, Codec, Columns, ColumnSpec
from pipeline.store.damage import SegmentDamaged, hold_against_name
from pipeline.store.decoded_cache import DECODED, next_file_number
from pipeline.store.durable_files import TEMPORARY, fsync_directory, fsync_tree
from pipeline.store.joined_segments import JoinedSegments
from pipeline.store.place import LocalPlace
from pipeline.store.segment import (
    SegmentAttributes,
    SegmentReader,
    TableRows,
    refuse_unknown_tables,
    resume_of,
    rows_of_chunks,
    schema_number,
    worth_keeping,
)
from pipeline.store.segment_name import DAY_LEVEL, SegmentName, is_ahead
from pipeline.store.segment_rows import SegmentRows, check_masks
from pipeline.store.zarr_metadata import attributes, chunk_rows, dimension_names
from pipeline.store.zarr_zip import ColumnSource

CHUNKS_PER_SHARD = 32

_DAMAGE = (OSError, ValueError, LookupError, RuntimeError, TypeError, OverflowError, zlib.error)

# First and last time of a row, by table: what the sparse index covers.
_TIMES = {
    "obs": ("t", "t"),
    "cap": ("t_start", "t_end"),
    "trk": ("t_first", "t_last"),
    "gap": ("t_start", "t_end"),
    "clk": ("t", "t"),
    "eff": ("t", "t"),
    "cut": ("t", "t"),
}


def closed_days(
    segments: Sequence[SegmentName],
    now_ns: int,
    *,
    clock_ns: int | None = None,
    skip: Collection[str] = frozenset(),
) -> list[tuple[str, tuple[SegmentName, ...]]]:
    """UTC days before that of `now_ns` whose segments are not archived yet, each with consecutive segments.

    A segment belongs to the day of its last moment, and never to an earlier day than the one before it. Moments more
    than a day ahead of the clock (`clock_ns`) are no dates: such a segment belongs to the day of the one before it.
    `skip`: paths of segments that cannot be archived.
    """
    today = now_ns // DAY_NS
    days: list[tuple[int, list[SegmentName]]] = []
    known: int | None = None
    for segment in segments:
        ahead = is_ahead(segment.t_max, clock_ns)
        if segment.level == DAY_LEVEL or segment.path in skip:
            known = known if ahead else segment.t_max // DAY_NS
            continue
        if ahead and known is None:
            continue
        day = known if ahead and known is not None else segment.t_max // DAY_NS
        if days and days[-1][1][-1].hi == segment.lo:
            day = max(day, days[-1][0])
        if day >= today:
            break
        known = day
        if days and days[-1][0] == day and days[-1][1][-1].hi == segment.lo:
            days[-1][1].append(segment)
        else:
            days.append((day, [segment]))
    return [(date_of(day * DAY_NS), tuple(members)) for day, members in days]


def date_of(wall_ns: int) -> str:
    """UTC date as YYYY-MM-DD."""
    return to_datetime(wall_ns).date().isoformat()


def build_day(directory: Path, date: str, inputs: Sequence[SegmentName], epoch: int) -> SegmentName:
    """Write the archive of consecutive segments and put it in place in one step.

    A shard at a time is held in memory. Raises `StoreRefused` for a damaged input, OSError when the disk refuses.
    """
    readers: list[SegmentReader] = []
    try:
        for name in inputs:
            readers.append(SegmentReader(LocalPlace(directory), name.path))
            refuse_unknown_tables(readers[-1].attrs, directory / name.path, name.path)
        return write_day(directory, date, inputs, JoinedSegments(readers), readers[-1].attrs, epoch)
    finally:
        for reader in readers:
            reader.close()


def write_day(
    directory: Path,
    date: str,
    inputs: Sequence[SegmentName],
    rows: JoinedSegments,
    attrs: Mapping[str, Any],
    epoch: int,
) -> SegmentName:
    """Put the archive of `rows`, those of `inputs`, in place in one step. `attrs`: of the last of them. Raises OSError."""
    t_min, t_max = min(n.t_min for n in inputs), max(n.t_max for n in inputs)
    output = SegmentName.day(date, inputs[0].lo, inputs[-1].hi, epoch, t_min, t_max)
    described = SegmentAttributes(
        stream=attrs["stream"],
        lo=output.lo,
        hi=output.hi,
        epoch=epoch,
        level=DAY_LEVEL,
        t_min=t_min,
        t_max=t_max,
        created_ns=attrs["created_ns"],
        resume=resume_of(attrs),
        model=attrs["model"],
    ).document(rows)
    final = directory / output.path
    temporary = final.with_name(f"{final.name}{TEMPORARY}{os.getpid()}")
    try:
        _write(temporary, rows, {**described, "checksums": CHECKSUMS})
        write_checksums(temporary, final.name, attrs["stream"])
        fsync_tree(temporary)
        os.rename(temporary, final)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    fsync_directory(final.parent)
    return output


def _write(path: Path, rows: TableRows, attrs: dict[str, Any]) -> None:
    root = zarr.create_group(path, attributes=attrs)
    for kind in TABLES:
        table = rows.table(kind.group)
        if not len(table):
            continue
        group = root.create_group(kind.group)
        for name, array in table.arrays().items():
            _create(
                group, name, array, kind.specs()[name], dimension_names(kind.group, name, kind.specs()[name])
            )
        if kind.group in _TIMES:
            first, last = _TIMES[kind.group]
            _write_index(root.create_group(f"index/{kind.group}"), table, first, last)
    with warnings.catch_warnings():  # not in the v3 specification yet; harmless in a group that never changes
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(root.store)


def _write_index(group: zarr.Group, table: ColumnSource, first: str, last: str) -> None:
    """One entry per chunk of rows: what times and tracks it holds."""
    edges = np.arange(0, len(table), chunk_rows(ColumnSpec("<i8"), len(table)))
    columns = table.arrays()
    entries = {
        "t_start_min": np.minimum.reduceat(columns[first][:], edges),
        "t_end_max": np.maximum.reduceat(columns[last][:], edges),
    }
    if "track" in columns:
        entries["track_min"] = np.minimum.reduceat(columns["track"][:], edges)
        entries["track_max"] = np.maximum.reduceat(columns["track"][:], edges)
    for name, array in entries.items():
        _create(group, name, array, ColumnSpec(array.dtype.str), ["chunk"])


def _create(group: zarr.Group, name: str, array: Any, spec: ColumnSpec, dimensions: list[str]) -> None:
    rows = chunk_rows(spec, len(array))
    tail = tuple(max(1, n) for n in array.shape[1:])
    shard = min(CHUNKS_PER_SHARD, -(-len(array) // rows)) or 1
    compress = (
        BloscCodec(typesize=array.dtype.itemsize, cname="zstd", clevel=5, shuffle="bitshuffle")
        if spec.codec is Codec.SHUFFLED
        else ZstdCodec(level=3 if spec.codec is Codec.ZSTD else 1)
    )
    created = group.create_array(
        name,
        shape=array.shape,
        dtype=array.dtype,
        chunks=(rows, *tail),
        shards=(rows * shard, *tail),
        compressors=[compress, Crc32cCodec()],
        attributes=attributes(spec),
        dimension_names=dimensions,
        config={"write_empty_chunks": True},
    )
    if array.size:
        for begin in range(0, len(array), rows * shard):
            end = min(begin + rows * shard, len(array))
            created[begin:end] = np.asarray(array[begin:end])


class DayArchiveReader:
    """Columns of a day archive through zarr-python. Every file is held against its size and checksum when it is first read.

    Raises FileNotFoundError when it is not there (any more), `SegmentDamaged` when a part of it is missing or damaged.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise FileNotFoundError(path)
        self.path = path
        stream = path.absolute().parent.parent.name
        self._arrays: dict[str, zarr.Array] = {}
        self.number = next_file_number()
        weakref.finalize(self, DECODED.drop, self.number)
        try:
            self._sums = read_checksums(path, stream)
            self._group = zarr.open_group(ArchiveFiles(path, sums=self._sums), mode="r", zarr_format=3)
            self.attrs: dict[str, Any] = dict(self._group.attrs)
        except _DAMAGE as error:
            raise self._failed(error) from error
        self._schema = schema_number(self.attrs, f"day archive {path}")
        try:
            hold_against_name(self.attrs, stream, f"day/{path.name}")
            if self._sums is None:
                self._check_without_checksums()
        except _DAMAGE as error:
            raise self._failed(error) from error

    def close(self) -> None:
        DECODED.drop(self.number)

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
        array = self._array(path)
        size = array.chunks[0]
        if not len(rows):
            return np.empty((0, *array.shape[1:]), array.dtype)
        chunks = np.unique(rows // size)
        runs = np.split(chunks, np.flatnonzero(np.diff(chunks) > 1) + 1)
        parts, base = [], np.zeros(len(rows), np.int64)
        filled = 0
        for run in runs:
            first, stop = int(run[0]) * size, min((int(run[-1]) + 1) * size, array.shape[0])
            inside = (rows >= first) & (rows < stop)
            base[inside] = rows[inside] - first + filled
            parts.append(self._read(path, first, stop))
            filled += stop - first
        return (parts[0] if len(parts) == 1 else np.concatenate(parts))[base]

    def byte_range(self, table: type[Columns], name: str, start: int, stop: int) -> bytes:
        """Bytes [start, stop) of a byte-string column."""
        if table.specs()[name].since > self._schema:
            return b""
        return self._read(f"{table.group}/{name}", start, stop).tobytes()

    def rows(self) -> SegmentRows:
        """Everything in the archive, every byte checked. `StoreRefused` for tables that this version does not know."""
        refuse_unknown_tables(self.attrs, self.path, f"day/{self.path.name}")
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
            for path in self._sums or ():
                check_file(self.path, path, self._sums or {})
        except _DAMAGE as error:
            raise self._failed(error) from error
        if self._sums is None:
            self.rows()

    def _all(self, table: type[Columns], name: str) -> np.ndarray:
        if table.specs()[name].since > self._schema:
            return table.specs()[name].absent(self.count(table))
        return self._read(f"{table.group}/{name}", 0, None)

    def _array(self, path: str) -> zarr.Array:
        if path not in self._arrays:
            if not isinstance(array := self._group[path], zarr.Array):
                raise ValueError(f"{path} is no array")
            self._arrays[path] = array
        return self._arrays[path]

    def _kept(self, path: str) -> np.ndarray:
        return DECODED.get(self.number, path, lambda: self._read(path, 0, None))

    def _read(self, path: str, start: int, stop: int | None) -> np.ndarray:
        try:
            return np.asarray(self._array(path)[start:stop])
        except _DAMAGE as error:
            raise self._failed(error) from error

    def _check_without_checksums(self) -> None:
        """An archive of an older version: the rows that it tells must be there, and all files of them."""
        if "checksums" in self.attrs:
            raise ValueError(f"{CHECKSUMS} is missing")
        lengths: dict[str, int] = {}
        for kind in TABLES:
            count = self.count(kind)
            if bool(count) != (kind.group in self._group):
                raise ValueError(f"zarr.json tells of {count} rows of {kind.group}")
            if not count:
                continue
            for name, spec in kind.specs().items():
                if spec.since > self._schema:
                    continue
                lengths[f"{kind.group}/{name}"] = -1 if spec.byte_string else count
            if kind.group in _TIMES:
                tracks = ("track_min", "track_max") if "track" in kind.specs() else ()
                chunks = -(-count // chunk_rows(ColumnSpec("<i8"), count))
                for name in ("t_start_min", "t_end_max", *tracks):
                    lengths[f"index/{kind.group}/{name}"] = chunks
        for path, length in lengths.items():
            if length >= 0 and self._array(path).shape[0] != length:
                raise ValueError(f"{path} has {self._array(path).shape[0]} rows, not {length}")
        check_unlisted(self.path, {path: self._array(path) for path in lengths})

    def _failed(self, error: Exception) -> Exception:
        """An archive that was deleted meanwhile is gone, not damaged. What the system refuses stays as it is."""
        if not self.path.exists():
            return FileNotFoundError(self.path)
        if isinstance(error, SegmentDamaged | PermissionError):
            return error
        return SegmentDamaged("day archive", self.path, f"day/{self.path.name}", error)
