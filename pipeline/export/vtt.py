"""WebVTT subtitles, timed from the stream's start."""

from __future__ import annotations

from collections.abc import Iterable
from typing import BinaryIO

from pipeline.export.srt import cue_text, cue_time
from pipeline.query.rows import CaptionRow, coalesce

_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


class WebVtt:
    """One cue for what was said without a pause (https://www.w3.org/TR/webvtt1)."""

    one_stream = True

    def write(self, rows: Iterable[CaptionRow], out: BinaryIO) -> None:
        out.write(b"WEBVTT\n\n")
        for row in coalesce(rows):
            times = f"{cue_time(row.start_s, '.')} --> {cue_time(row.end_s, '.')}"
            out.write(f"{times}\n{cue_text(row).translate(_ESCAPES)}\n\n".encode())
