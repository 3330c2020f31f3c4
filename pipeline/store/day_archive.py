"""The closed day: all its segments as one plain, sharded Zarr group that never changes again."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec

from pipeline.core.clock import DAY_NS, to_datetime
from pipeline.store.archive_files import (
    CHECKSUMS,
    TIMES,
    write_checksums,
)
from pipeline.store.columns import TABLES, Codec, ColumnSpec
from pipeline.store.durable_files import TEMPORARY, fsync_directory, fsync_tree
from pipeline.store.joined_segments import JoinedSegments
from pipeline.store.place import StorePlace
from pipeline.store.segment import (
    SegmentAttributes,
    SegmentReader,
    TableRows,
    refuse_unknown_tables,
    resume_of,
)
from pipeline.store.segment_name import DAY_LEVEL, SegmentName, is_ahead
from pipeline.store.zarr_metadata import attributes, chunk_rows, dimension_names
from pipeline.store.zarr_zip import ColumnSource

CHUNKS_PER_SHARD = 32


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


def build_day(
    place: StorePlace, directory: Path, date: str, inputs: Sequence[SegmentName], epoch: int
) -> SegmentName:
    """Write the archive of consecutive segments of `place` and put it into `directory`, its folder, in one step.

    A shard at a time is held in memory. Raises `StoreRefused` for a damaged input, OSError when the disk refuses.
    """
    readers: list[SegmentReader] = []
    try:
        for name in inputs:
            readers.append(SegmentReader(place, name.path))
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
        stream_id=attrs.get("stream_id", ""),
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
        if kind.group in TIMES:
            first, last = TIMES[kind.group]
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
