"""Parquet: one column a field, for tables and databases (https://parquet.apache.org)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import BinaryIO

from pipeline.query.rows import CaptionRow


class ParquetTable:
    """Captions as Parquet, compressed with zstd, times in UTC with nanoseconds; masks where they were asked for."""

    one_stream = False
    holds_masks = True

    def write(self, rows: Iterable[CaptionRow], out: BinaryIO) -> None:
        import pyarrow.parquet

        from pipeline.export.arrow_rows import SCHEMA, AppendedBytes, batches_of

        with pyarrow.parquet.ParquetWriter(AppendedBytes(out), SCHEMA, compression="zstd") as file:
            for batch in batches_of(rows):
                file.write_batch(batch)
