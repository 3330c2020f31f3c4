"""Open a segment file or a day archive, whichever a name stands for."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from pipeline.store.row_query import RowSource
from pipeline.store.segment import SegmentReader
from pipeline.store.segment_name import DAY_LEVEL, SegmentName
from pipeline.store.segment_rows import SegmentRows


class StoredSegment(RowSource, Protocol):
    """The rows of consecutive commits, and the root attributes they were stored with."""

    attrs: dict[str, Any]

    def rows(self) -> SegmentRows: ...

    def close(self) -> None: ...


def open_segment(directory: Path, name: SegmentName) -> StoredSegment:
    """Open `name` in a stream's directory. Raises FileNotFoundError; ValueError when damaged or of another schema."""
    path = directory / name.path
    if name.level != DAY_LEVEL:
        return SegmentReader(path)
    from pipeline.store.day_archive import (
        DayArchiveReader,
    )  # zarr takes a second to import, segments do without

    return DayArchiveReader(path)
