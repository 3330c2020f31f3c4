"""Stored gaps and steps of effort as plain rows, for printing."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa

from pipeline.clock_time import iso_text

EFFORT = "effort:"


@dataclass(frozen=True, slots=True)
class GapRow:
    """A stretch that was not watched, wall ns UTC, or a change of effort (`reason` begins with "effort:")."""

    stream: str
    start_ns: int
    end_ns: int
    reason: str
    frames: int

    @property
    def is_step(self) -> bool:
        """Whether this is a change of effort, which leaves nothing unwatched."""
        return self.reason.startswith(EFFORT)

    def document(self) -> dict[str, object]:
        """What the line formats show: times in ISO 8601 UTC."""
        return {
            "stream": self.stream,
            "t_start": iso_text(self.start_ns),
            "t_end": iso_text(self.end_ns),
            "reason": self.reason,
            "frames": self.frames,
        }


def gap_rows(table: pa.Table) -> list[GapRow]:
    """The rows of `CaptionStore.gaps(...)` in order."""
    columns = [table[name].to_pylist() for name in ("stream", "reason", "frames")]
    times = [table[name].cast(pa.int64()).to_pylist() for name in ("t_start", "t_end")]
    return [
        GapRow(stream, start, end, reason, frames)
        for stream, reason, frames, start, end in zip(*columns, *times, strict=True)
    ]


def gap_json_lines(rows: Iterable[GapRow]) -> Iterator[str]:
    """One JSON object a line."""
    for row in rows:
        yield json.dumps(row.document(), ensure_ascii=False) + "\n"


def gap_csv_lines(rows: Iterable[GapRow]) -> Iterator[str]:
    """A header and one line a row."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(("stream", "t_start", "t_end", "reason", "frames"))
    for row in rows:
        writer.writerow(row.document().values())
    yield buffer.getvalue()
