"""Caption rows as batches of Arrow, and a stream of bytes that Arrow may write to."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO

import pyarrow as pa

from pipeline.query.rows import CaptionRow
from pipeline.store.arrow_arrays import array_of

ROWS_AT_ONCE = 4096
SCHEMA = pa.schema(
    [
        ("stream", pa.dictionary(pa.int32(), pa.string())),
        ("track", pa.int64()),
        ("t_start", pa.timestamp("ns", "UTC")),
        ("t_end", pa.timestamp("ns", "UTC")),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("text", pa.string()),
        ("score", pa.float32()),
        *((edge, pa.float32()) for edge in ("x0", "y0", "x1", "y1")),
        ("shot", pa.int64()),
        (
            "mask",
            pa.struct(
                [
                    ("size", pa.list_(pa.int32(), 2)),
                    ("counts", pa.binary()),
                    ("picture", pa.list_(pa.int32(), 2)),
                ]
            ),
        ),
    ]
)
"""Of every file, so that files of several days can be joined. `mask`: COCO run lengths over `picture` (height, width), or null."""


def batches_of(rows: Iterable[CaptionRow]) -> Iterator[pa.RecordBatch]:
    """Rows in their order, some thousands a batch."""
    rows = iter(rows)
    streams: list[str] = []
    while part := list(itertools.islice(rows, ROWS_AT_ONCE)):
        # A dictionary may only grow from one batch to the next.
        streams += [name for name in dict.fromkeys(row.stream for row in part) if name not in streams]
        numbers = array_of([streams.index(row.stream) for row in part], pa.int32())
        columns: list[pa.Array] = [pa.DictionaryArray.from_arrays(numbers, array_of(streams, pa.string()))]
        named: tuple[tuple[str, Sequence[object]], ...] = (
            ("track", [row.track for row in part]),
            ("t_start", [row.start_ns for row in part]),
            ("t_end", [row.end_ns for row in part]),
            ("start_s", [row.start_s for row in part]),
            ("end_s", [row.end_s for row in part]),
            ("text", [row.text for row in part]),
            ("score", [row.score for row in part]),
            *((edge, [row.box[n] for row in part]) for n, edge in enumerate(("x0", "y0", "x1", "y1"))),
            ("shot", [row.shot for row in part]),
            ("mask", [_mask(row) for row in part]),
        )
        for name, values in named:
            columns.append(array_of(values, SCHEMA.field(name).type))
        yield pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


def _mask(row: CaptionRow) -> dict[str, object] | None:
    if row.mask is None:
        return None
    return {
        "size": list(row.mask.mask.size),
        "counts": row.mask.mask.counts,
        "picture": list(row.mask.picture),
    }


class AppendedBytes:
    """A stream of bytes that only counts what was written, for Arrow asks where it is and closes it."""

    closed = False

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._written = 0

    def write(self, data: bytes) -> int:
        self._out.write(data)
        self._written += len(data)
        return len(data)

    def tell(self) -> int:
        return self._written

    def flush(self) -> None:
        self._out.flush()

    def close(self) -> None:
        """The stream stays open."""

    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False
