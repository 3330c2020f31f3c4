"""SubRip subtitles, timed from the stream's start."""

from __future__ import annotations

from collections.abc import Iterable
from typing import BinaryIO

from pipeline.query.rows import CaptionRow, coalesce


class SubRip:
    """One numbered cue for what was said without a pause."""

    one_stream = True

    def write(self, rows: Iterable[CaptionRow], out: BinaryIO) -> None:
        for number, row in enumerate(coalesce(rows), 1):
            times = f"{cue_time(row.start_s, ',')} --> {cue_time(row.end_s, ',')}"
            out.write(f"{number}\n{times}\n{cue_text(row)}\n\n".encode())


def cue_text(row: CaptionRow) -> str:
    """One line, for an empty one would end the cue."""
    return f"[{row.track}] {' '.join(row.text.split())}"


def cue_time(seconds: float, point: str) -> str:
    """HH:MM:SS and milliseconds behind `point`."""
    milliseconds = max(0, round(seconds * 1000))
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d}{point}{rest % 1000:03d}"
