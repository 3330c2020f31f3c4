"""WebVTT subtitles, timed from the stream's start."""

from __future__ import annotations

from collections.abc import Iterable
from typing import BinaryIO

from pipeline.export.cues import AT_ONCE, cue_time, cues_of
from pipeline.query.rows import CaptionRow

_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


class WebVtt:
    """One cue for what was said without a pause, long enough to be read, of more than `at_once` at a time the surest (https://www.w3.org/TR/webvtt1)."""

    one_stream = True

    def __init__(self, at_once: int | None = AT_ONCE) -> None:
        self.at_once, self.left_out = at_once, 0

    def write(self, rows: Iterable[CaptionRow], out: BinaryIO) -> None:
        out.write(b"WEBVTT\n\n")
        cues = cues_of(rows, self.at_once)
        for cue in cues:
            times = f"{cue_time(cue.start_ms, '.')} --> {cue_time(cue.end_ms, '.')}"
            out.write(f"{times}\n{cue.text.translate(_ESCAPES)}\n\n".encode())
        self.left_out = cues.left_out
