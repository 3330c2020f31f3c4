"""The tables of a store as data sets, one for each kind of row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import pyarrow as pa

from pipeline.core.errors import StoreRefused
from pipeline.store.arrow_arrays import array_of, numbers_array
from pipeline.store.arrow_tables import (
    CAPTION_COLUMNS,
    MASK,
    OBSERVATION_COLUMNS,
    OPTIONAL_CAPTION_COLUMNS,
    caption_table,
    observation_table,
)
from pipeline.store.filter_bounds import FilterBounds
from pipeline.store.ordered_scan import OrderedRows
from pipeline.store.row_filter import RowFilter
from pipeline.store.row_query import Selection
from pipeline.store.store_reader import StoreReader
from pipeline.store.stored_dataset import Finish, StoredDataset

_NUMBERS = {"track": pa.int64(), "frame": pa.int64(), "shot": pa.int64()}
_SECONDS = {name: pa.float64() for name in ("start_s", "end_s", "t_s", "pts_s")}
_EXACT = {name: pa.float32() for name in ("score", "logprob", "x0", "y0", "x1", "y1", "drift_ppm")}
_TEXTS = {name: pa.string() for name in ("stream", "text", "reason", "effort", "clock")}
_MOMENTS = ("t_start", "t_end", "t", "t_first", "t_last")
_TYPES = {
    **_NUMBERS, **_SECONDS, **_EXACT, **_TEXTS,
    "observations": pa.int64(), "frames": pa.int64(), "epoch": pa.int64(), "mask": MASK, "embedding": pa.list_(pa.float32()),
}  # fmt: skip
_SMALL = {
    "tracks": ("stream", "track", "t_first", "t_last", "observations", "text"),
    "gaps": ("stream", "t_start", "t_end", "reason", "frames"),
    "cuts": ("stream", "t", "pts_s"),
    "efforts": ("stream", "t", "effort"),
    "clocks": ("stream", "t", "pts_s", "epoch", "clock", "drift_ppm"),
}
_STREAMS = pa.schema(
    [
        ("stream", pa.string()),
        ("uri", pa.string()),
        ("clock", pa.string()),
        ("start_wall_ns", pa.int64()),
        ("width", pa.int64()),
        ("height", pa.int64()),
        ("model", pa.string()),
    ]
)
TABLES = ("captions", "observations", *_SMALL, "streams")
"""Names of all tables."""


def stored_table(store: StoreReader, name: str, unit: str = "ns") -> StoredDataset:
    """One of TABLES as a data set. `unit` of moments: ns, or us for programs that know no finer ones. `StoreRefused` for others."""
    streams: Callable[[], list[str]] = lambda: list(store.streams())  # noqa: E731
    span = partial(_span, store)
    if name == "captions":
        schema = _schema((*CAPTION_COLUMNS, *OPTIONAL_CAPTION_COLUMNS), unit)
        return StoredDataset(schema, partial(_captions, store, schema), streams, span, ("t_start", "t_end"))
    if name == "observations":
        schema = _schema((*OBSERVATION_COLUMNS, "mask"), unit)
        return StoredDataset(schema, partial(_observations, store, schema), streams, span, ("t", "t"))
    if name == "streams":
        return StoredDataset(_STREAMS, partial(_stream_rows, store), streams, span, None)
    if name not in _SMALL:
        raise StoreRefused(f"no table {name!r}: choose from {', '.join(TABLES)}")
    schema = _schema(_SMALL[name], unit)
    return StoredDataset(schema, partial(_whole, store, name, schema), streams, span, None)


def _schema(names: Sequence[str], unit: str) -> pa.Schema:
    moment = pa.timestamp(unit, tz="UTC")
    return pa.schema([(name, moment if name in _MOMENTS else _TYPES[name]) for name in names])


def _span(store: StoreReader) -> tuple[int, int]:
    spans = [span for name in store.streams() if (span := store.span(name)) is not None]
    return min((s.start for s in spans), default=0), max((s.end for s in spans), default=0)


def _in_schema(table: pa.Table, schema: pa.Schema) -> pa.Table:
    fields = [schema.field(name) for name in table.column_names]
    columns = [
        table[f.name].cast(f.type, safe=False) if table[f.name].type != f.type else table[f.name]
        for f in fields
    ]
    return pa.table(columns, schema=pa.schema(fields))


def _captions(
    store: StoreReader, schema: pa.Schema, bounds: FilterBounds, finish: Finish
) -> Iterator[list[pa.RecordBatch]]:
    wanted = RowFilter(bounds.start, bounds.end, bounds.track, min_score=bounds.min_score)

    def made(stream: str, block: OrderedRows) -> list[pa.RecordBatch]:
        def decode(places: np.ndarray, names: Sequence[str]) -> pa.Table:
            found, order = _at(block.found, block.order[places])
            return _in_schema(caption_table(stream, found, names).take(numbers_array(order)), schema)

        return finish(len(block.order), decode)

    for stream in bounds.streams:
        yield from store.caption_blocks(stream, wanted, partial(made, stream))


def _observations(
    store: StoreReader, schema: pa.Schema, bounds: FilterBounds, finish: Finish
) -> Iterator[list[pa.RecordBatch]]:
    wanted = RowFilter(bounds.start, bounds.end, bounds.track, min_score=bounds.min_score)

    def made(stream: str, found: Sequence[Selection]) -> list[pa.RecordBatch]:
        def decode(places: np.ndarray, names: Sequence[str]) -> pa.Table:
            kept, order = _at(found, places)
            return _in_schema(observation_table(stream, kept, names).take(numbers_array(order)), schema)

        return finish(sum(len(one) for one in found), decode)

    for stream in bounds.streams:
        yield from store.observation_blocks(stream, wanted, partial(made, stream))


def _at(found: Sequence[Selection], places: np.ndarray) -> tuple[list[Selection], np.ndarray]:
    """Of selections one behind the other, those with only the rows at `places`, and where each of these then is."""
    rows, back = np.unique(places, return_inverse=True)
    ends = np.cumsum([len(one) for one in found])
    kept = []
    for one, end in zip(found, ends.tolist(), strict=True):
        inside = rows[(rows >= end - len(one)) & (rows < end)] - (end - len(one))
        if len(inside):
            kept.append(Selection(one.source, one.table, one.rows[inside]))
    return kept, back


def _whole(
    store: StoreReader, name: str, schema: pa.Schema, _: FilterBounds, finish: Finish
) -> Iterator[list[pa.RecordBatch]]:
    if store.streams():
        table = _in_schema(getattr(store, name)(), schema)
        yield finish(len(table), lambda places, names: table.select(names).take(numbers_array(places)))


def _stream_rows(store: StoreReader, _: FilterBounds, finish: Finish) -> Iterator[list[pa.RecordBatch]]:
    rows = [
        {
            "stream": name, "uri": info.uri, "clock": info.clock.value, "start_wall_ns": info.start_wall_ns,
            "width": info.width, "height": info.height, "model": info.model,
        }
        for name, info in store.streams().items()
    ]  # fmt: skip
    columns = [array_of([row[field.name] for row in rows], field.type) for field in _STREAMS]
    table = pa.Table.from_arrays(columns, schema=_STREAMS)
    yield finish(len(table), lambda places, names: table.select(names).take(numbers_array(places)))
