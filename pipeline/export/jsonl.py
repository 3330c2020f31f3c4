"""JSON lines: one object a line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import BinaryIO

from pipeline.core.shown_text import json_text
from pipeline.query.rows import CaptionRow, CutRow, EffortRow, GapRow


class JsonLines:
    """Captions as JSON lines (https://jsonlines.org), UTF-8; with `mask` where masks were asked for."""

    one_stream = False
    holds_masks = True

    def write(self, rows: Iterable[CaptionRow], out: BinaryIO) -> None:
        out.writelines(line.encode() for line in json_lines(rows))


def json_lines(rows: Iterable[CaptionRow | GapRow | EffortRow | CutRow]) -> Iterator[str]:
    """One JSON object a line."""
    for row in rows:
        yield json_text(row.document()) + "\n"
