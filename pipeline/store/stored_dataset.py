"""Tables of a store as data sets of Arrow, for whoever scans those: DuckDB, polars, pandas and Arrow itself.

Time, track, score and stream of a filter are looked up in the store, only the columns that are asked for are decoded, masks and
embeddings only of the rows that the filter has let through, and rows come a block at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from pipeline.core.errors import StoreRefused
from pipeline.store.arrow_arrays import int64_of, numbers_array
from pipeline.store.filter_bounds import AskedFilter, FilterBounds

_PLACE = "\0place"
LATE = frozenset({"mask", "embedding"})
"""Columns that are many times larger than the others."""

Decode = Callable[[np.ndarray, Sequence[str]], pa.Table]
"""Columns of a block's rows at some places."""

Finish = Callable[[int, Decode], list[pa.RecordBatch]]
"""Makes of a block of so many rows what is given out of it."""

BlockScan = Callable[[FilterBounds, Finish], Iterator[list[pa.RecordBatch]]]
"""Finishes blocks that together have all rows within bounds, and others if need be."""


class StoredRows:
    """What `ds.Scanner` offers, for rows that are read as they are taken: Arrow's own reads on to the end when it is let go."""

    def __init__(self, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> None:
        self.projected_schema = self.dataset_schema = schema
        self._batches = batches

    def to_reader(self) -> pa.RecordBatchReader:
        """The rows as a stream of Arrow."""
        return pa.RecordBatchReader.from_batches(self.projected_schema, self._batches)

    def to_batches(self) -> Iterator[pa.RecordBatch]:
        return self._batches

    def to_table(self) -> pa.Table:
        return pa.Table.from_batches(self._batches, self.projected_schema)

    def head(self, num_rows: int) -> pa.Table:
        """The first rows; no more are read than it takes."""
        taken: list[pa.RecordBatch] = []
        missing = num_rows
        while missing > 0 and (batch := next(self._batches, None)) is not None:
            taken.append(batch.slice(0, missing))
            missing -= len(taken[-1])
        return pa.Table.from_batches(taken, self.projected_schema)

    def count_rows(self) -> int:
        return sum(batch.num_rows for batch in self._batches)


class StoredDataset(ds.Dataset):
    """A table as a `pyarrow.dataset.Dataset`: `scanner`, `to_table`, `to_batches`, `head`, `count_rows`; it has no fragments.

    `times`: the columns of a row's first and last moment; none where the table is too small to be looked up by them.
    """

    def __init__(
        self,
        schema: pa.Schema,
        scan: BlockScan,
        streams: Callable[[], Sequence[str]],
        span: Callable[[], tuple[int, int]],
        times: tuple[str, str] | None,
    ) -> None:
        self._schema, self._scan, self._streams, self._span, self._times = schema, scan, streams, span, times
        # What a scan has raised: Arrow and DuckDB hand on no more than its text.
        self.failure: Exception | None = None

    @property
    def schema(self) -> pa.Schema:
        return self._schema

    def scanner(
        self,
        columns: Sequence[str] | dict[str, pc.Expression] | None = None,
        filter: pc.Expression | None = None,
        **options: Any,
    ) -> StoredRows | ds.Scanner:
        """Rows that `filter` lets through, a block at a time. `columns`: names, or new columns computed of them."""
        asked = AskedFilter(filter, self._schema)
        given = columns is None or isinstance(columns, dict)
        names = self._schema.names if given else list(columns or ())
        if unknown := [name for name in names if name not in self._schema.names]:
            raise StoreRefused(f"no column {unknown[0]!r}: choose from {', '.join(self._schema.names)}")
        if isinstance(columns, dict):
            names = [name for name in self._schema.names if _looked_at(name, columns, self._schema)]
        schema = pa.schema([self._schema.field(name) for name in names])
        batches = self._batches(asked, names, schema)
        if not isinstance(columns, dict):
            return StoredRows(schema, batches)
        # Nobody reads ahead: a thread of Arrow that waits for this generator would not let the process end.
        kept = {
            name: options[name] for name in ("batch_size", "memory_pool") if options.get(name) is not None
        }
        kept |= {"use_threads": False, "batch_readahead": 0}
        return ds.Scanner.from_batches(batches, schema=schema, columns=columns, **kept)

    def to_table(self, columns: Any = None, filter: pc.Expression | None = None, **options: Any) -> pa.Table:
        """All rows that `filter` lets through."""
        return self.scanner(columns, filter, **options).to_table()

    def to_batches(
        self, columns: Any = None, filter: pc.Expression | None = None, **options: Any
    ) -> Iterator[pa.RecordBatch]:
        """The same a block at a time."""
        return iter(self.scanner(columns, filter, **options).to_batches())

    def head(
        self, num_rows: int, columns: Any = None, filter: pc.Expression | None = None, **options: Any
    ) -> pa.Table:
        """The first rows; no more are read than it takes."""
        return self.scanner(columns, filter, **options).head(num_rows)

    def count_rows(self, filter: pc.Expression | None = None, **options: Any) -> int:
        """How many rows `filter` lets through."""
        return sum(batch.num_rows for batch in self.scanner(["stream"], filter, **options).to_batches())

    def _batches(
        self, asked: AskedFilter, names: Sequence[str], schema: pa.Schema
    ) -> Iterator[pa.RecordBatch]:
        bounds = self._bounds(asked)
        if not bounds.streams:
            return
        looked_at = asked.columns()
        early = [n for n in self._schema.names if n in looked_at or (n in names and n not in LATE)]
        late = [name for name in names if name not in early]

        def finish(count: int, decode: Decode) -> list[pa.RecordBatch]:
            places = np.arange(count)
            table = decode(places, ["stream", *(name for name in early if name != "stream")])
            if asked.expression is not None:
                kept = table.append_column(_PLACE, numbers_array(places)).filter(asked.expression)
                places = int64_of(kept[_PLACE])
                table = kept
            if not len(places):
                return []
            more = decode(places, late) if late else table
            columns = [(more if name in late else table)[name] for name in names]
            batches: list[pa.RecordBatch] = pa.table(columns, schema=schema).combine_chunks().to_batches()
            return batches

        try:
            for batches in self._scan(bounds, finish):
                yield from batches
        except Exception as error:
            self.failure = error
            raise

    def _bounds(self, asked: AskedFilter) -> FilterBounds:
        streams = tuple(self._streams())
        if self._times is None or not streams:
            return FilterBounds(streams or ("",))
        return asked.bounds(streams, *self._span(), self._times)

    def _refused(self, *_: Any, **__: Any) -> NoReturn:
        raise NotImplementedError(
            "a stored table has no files to hand out: use scanner, to_table or to_batches"
        )

    # Of the base class these look at data sets that are made of files.
    get_fragments = replace_schema = filter = sort_by = join = join_asof = take = _refused
    partition_expression = property(_refused)


def _looked_at(name: str, columns: dict[str, pc.Expression], schema: pa.Schema) -> bool:
    """Whether columns that are computed look at a stored one."""
    others = schema.empty_table().drop_columns([name])
    try:
        ds.dataset(others).to_table(columns=columns)
    except pa.ArrowInvalid:
        return True
    return False
