"""CSV: a header and one line a row."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO

from pipeline.core.shown_text import csv_cell
from pipeline.query.rows import CaptionRow, CutRow, EffortRow, GapRow

_NAMES = ("stream", "track", "t_start", "t_end", "start_s", "end_s", "text", "score")
_GAP_NAMES = ("stream", "t_start", "t_end", "reason", "frames")


class CsvTable:
    """Captions as CSV (RFC 4180 with plain line feeds), UTF-8, the box in four columns.

    What a spreadsheet would compute begins with an apostrophe, which spreadsheets take off again.
    """

    one_stream = False

    def write(self, rows: Iterable[CaptionRow], out: BinaryIO) -> None:
        out.writelines(line.encode() for line in csv_lines(rows))


def csv_lines(rows: Iterable[CaptionRow]) -> Iterator[str]:
    """A header and one line a caption."""
    return table_csv_lines((*_NAMES, "x0", "y0", "x1", "y1", "shot"), map(_cells, rows))


def gap_csv_lines(rows: Iterable[GapRow | EffortRow | CutRow]) -> Iterator[str]:
    """A header and one line a gap."""
    return table_csv_lines(_GAP_NAMES, ([row.document()[name] for name in _GAP_NAMES] for row in rows))


def _cells(row: CaptionRow) -> list[object]:
    document = row.document()
    return [*(document[name] for name in _NAMES), *(round(edge, 2) for edge in row.box), row.shot]


def table_csv_lines(header: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """A header and one line a row of any table."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    for row in rows:
        writer.writerow([csv_cell(cell) if isinstance(cell, str) else cell for cell in row])
        yield buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()
    yield buffer.getvalue()
