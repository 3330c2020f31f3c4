"""The closed day: all its segments as one plain, sharded Zarr group that never changes again."""

from __future__ import annotations

import os
import shutil
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec

from pipeline.core.clock import DAY_NS, to_datetime
from pipeline.core.errors import StoreRefused
from pipeline.store.columns import TABLES, Codec, Columns, ColumnSpec
from pipeline.store.durable_files import TEMPORARY, fsync_directory
from pipeline.store.place import LocalPlace
from pipeline.store.segment import (
    SCHEMA,
    SegmentAttributes,
    SegmentReader,
    refuse_unknown_tables,
    resume_of,
    worth_keeping,
)
from pipeline.store.segment_name import DAY_LEVEL, SegmentName
from pipeline.store.segment_rows import SegmentRows
from pipeline.store.zarr_metadata import attributes, chunk_rows, dimension_names

CHUNKS_PER_SHARD = 32

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


def closed_days(segments: Sequence[SegmentName], now_ns: int) -> list[tuple[str, tuple[SegmentName, ...]]]:
    """UTC days before that of `now_ns` whose segments are not archived yet, each with consecutive segments.

    A segment belongs to the day of its last moment, and never to an earlier day than the one before it.
    """
    today = now_ns // DAY_NS
    days: list[tuple[int, list[SegmentName]]] = []
    for segment in segments:
        if segment.level == DAY_LEVEL:
            continue
        day = segment.t_max // DAY_NS
        if days and days[-1][1][-1].hi == segment.lo:
            day = max(day, days[-1][0])
        if day >= today:
            break
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

    The whole day is held in memory. Raises `StoreRefused` for a damaged input, OSError when the disk refuses.
    """
    parts: list[SegmentRows] = []
    attrs: dict[str, Any] = {}
    for name in inputs:
        reader = SegmentReader(LocalPlace(directory), name.path)
        parts.append(reader.rows())
        attrs = reader.attrs
        reader.close()
    rows = SegmentRows.join(parts)
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
        _write(temporary, rows, described)
        _fsync_tree(temporary)
        os.rename(temporary, final)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    fsync_directory(final.parent)
    return output


def _write(path: Path, rows: SegmentRows, attrs: dict[str, Any]) -> None:
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


def _write_index(group: zarr.Group, table: Columns, first: str, last: str) -> None:
    """One entry per chunk of rows: what times and tracks it holds."""
    edges = np.arange(0, len(table), chunk_rows(ColumnSpec("<i8"), len(table)))
    entries = {
        "t_start_min": np.minimum.reduceat(getattr(table, first), edges),
        "t_end_max": np.maximum.reduceat(getattr(table, last), edges),
    }
    if hasattr(table, "track"):
        entries["track_min"] = np.minimum.reduceat(table.track, edges)
        entries["track_max"] = np.maximum.reduceat(table.track, edges)
    for name, array in entries.items():
        _create(group, name, array, ColumnSpec(array.dtype.str), ["chunk"])


def _create(group: zarr.Group, name: str, array: np.ndarray, spec: ColumnSpec, dimensions: list[str]) -> None:
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
        created[...] = array


def _fsync_tree(path: Path) -> None:
    for folder, _, files in os.walk(path, topdown=False):
        for file in files:
            handle = os.open(os.path.join(folder, file), os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        fsync_directory(Path(folder))


class DayArchiveReader:
    """Columns of a day archive through zarr-python; chunks carry a CRC-32C.

    Raises FileNotFoundError, `StoreRefused` when a part of it is missing or damaged.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise FileNotFoundError(path)
        self.path = path
        try:
            self._group = zarr.open_group(path, mode="r", zarr_format=3)
            self.attrs: dict[str, Any] = dict(self._group.attrs)
        except (OSError, ValueError, KeyError) as error:
            raise self._damaged(error) from error
        if self.attrs.get("schema") != SCHEMA:
            raise StoreRefused(
                f"day archive {path} has schema {self.attrs.get('schema')!r}, this program reads {SCHEMA!r}"
            )
        self._arrays: dict[str, zarr.Array] = {}
        self._whole: dict[str, np.ndarray] = {}
        self._check_complete()

    def close(self) -> None:
        self._whole.clear()

    def count(self, table: type[Columns]) -> int:
        return int(self.attrs["rows"].get(table.group, 0))

    def candidates(self, table: type[Columns], start: int | None, end: int | None) -> np.ndarray | None:
        """Rows of the chunks that hold some of wall ns [start, end]; None for all rows."""
        if start is None and end is None:
            return None
        firsts = self._kept(f"index/{table.group}/t_start_min")
        lasts = self._kept(f"index/{table.group}/t_end_max")
        hit = np.ones(len(firsts), bool)
        if start is not None:
            hit &= lasts >= start
        if end is not None:
            hit &= firsts <= end
        count = self.count(table)
        size = chunk_rows(ColumnSpec("<i8"), count)
        rows = (np.flatnonzero(hit)[:, None] * size + np.arange(size)).ravel()
        return rows[rows < count]

    def column(self, table: type[Columns], name: str, rows: np.ndarray | None = None) -> np.ndarray:
        """A column of a table, whole (then kept for the next time) or at ascending `rows`."""
        path = f"{table.group}/{name}"
        if not self.count(table):
            return np.empty((0, *getattr(table(), name).shape[1:]), table.specs()[name].dtype)
        if rows is None:
            return self._kept(path)
        if path in self._whole or worth_keeping(table.specs()[name], len(rows), self.count(table)):
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
        return self._read(f"{table.group}/{name}", start, stop).tobytes()

    def rows(self) -> SegmentRows:
        """Everything in the archive, every byte checked. `StoreRefused` for tables that this version does not know."""
        refuse_unknown_tables(self.attrs, self.path)
        tables = {
            kind.group: kind(**{name: self._read(f"{kind.group}/{name}", 0, None) for name in kind.specs()})
            for kind in TABLES
            if self.count(kind)
        }
        return SegmentRows(**tables)  # type: ignore[arg-type]

    def _array(self, path: str) -> zarr.Array:
        if path not in self._arrays:
            array = self._group[path]
            assert isinstance(array, zarr.Array)
            self._arrays[path] = array
        return self._arrays[path]

    def _kept(self, path: str) -> np.ndarray:
        if path not in self._whole:
            self._whole[path] = self._read(path, 0, None)
        return self._whole[path]

    def _read(self, path: str, start: int, stop: int | None) -> np.ndarray:
        try:
            return np.asarray(self._array(path)[start:stop])
        except (OSError, ValueError, KeyError, RuntimeError, zlib.error) as error:
            raise self._damaged(error) from error

    def _check_complete(self) -> None:
        """To Zarr a missing chunk is one of zeros; here it is damage. Empty chunks were written as well."""
        for kind in TABLES:
            if not self.count(kind):
                continue
            for name in kind.specs():
                array = self._array(f"{kind.group}/{name}")
                shards = array.shards or array.chunks
                tail = "/0" * (array.ndim - 1)
                for number in range(-(-array.shape[0] // shards[0]) if 0 not in array.shape else 0):
                    key = f"{kind.group}/{name}/c/{number}{tail}"
                    if not (self.path / key).exists():
                        raise self._damaged(FileNotFoundError(f"{key} is missing"))

    def _damaged(self, error: Exception) -> StoreRefused:
        return StoreRefused(
            f"day archive {self.path} is damaged ({error}): restore it from a copy, or move it out of the store; "
            "the time it held then counts as a gap"
        )
