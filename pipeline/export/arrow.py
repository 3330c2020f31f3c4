"""Arrow's file format (Feather 2), which is mapped into memory as it is (https://arrow.apache.org/docs/format/Columnar.html)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import BinaryIO

from pipeline.query.rows import CaptionRow


class ArrowTable:
    """Captions as an Arrow file, times in UTC with nanoseconds; masks where they were asked for."""

    one_stream = False
    holds_masks = True

    def write(self, rows: Iterable[CaptionRow], out: BinaryIO) -> None:
        import pyarrow as pa

        from pipeline.export.arrow_rows import SCHEMA, AppendedBytes, batches_of

        options = pa.ipc.IpcWriteOptions(emit_dictionary_deltas=True)
        with pa.ipc.new_file(AppendedBytes(out), SCHEMA, options=options) as file:
            for batch in batches_of(rows):
                file.write_batch(batch)
