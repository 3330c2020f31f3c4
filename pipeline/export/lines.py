"""Captions and gaps as lines: JSON lines and CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator

from pipeline.query.rows import CaptionRow, GapRow


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


def json_lines(rows: Iterable[CaptionRow]) -> Iterator[str]:
    """One JSON object a line."""
    for row in rows:
        yield json.dumps(row.document(), ensure_ascii=False) + "\n"


def csv_lines(rows: Iterable[CaptionRow]) -> Iterator[str]:
    """A header and one line a row, the box in four columns."""
    names = ("stream", "track", "t_start", "t_end", "start_s", "end_s", "text", "score")
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow((*names, "x0", "y0", "x1", "y1"))
    for row in rows:
        document = row.document()
        writer.writerow([*(document[name] for name in names), *(round(edge, 2) for edge in row.box)])
        yield buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()
    yield buffer.getvalue()
