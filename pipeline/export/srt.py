"""SubRip subtitles, timed from the stream's start."""

from __future__ import annotations

from collections.abc import Iterable
from typing import BinaryIO

from pipeline.export.cues import AT_ONCE, cue_time, cues_of
from pipeline.query.rows import CaptionRow

# SubRip has no escapes, and players take <...> for markup and {\...} for commands: look-alikes that none does.
_ESCAPES = str.maketrans({"<": "\u2039", ">": "\u203a", "{": "(", "}": ")"})


class SubRip:
    """One numbered cue for what was said without a pause, long enough to be read; of more than `at_once` at a time the surest."""

    one_stream = True

    def __init__(self, at_once: int | None = AT_ONCE) -> None:
        self.at_once, self.left_out = at_once, 0

    def write(self, rows: Iterable[CaptionRow], out: BinaryIO) -> None:
        cues = cues_of(rows, self.at_once)
        for number, cue in enumerate(cues, 1):
            times = f"{cue_time(cue.start_ms, ',')} --> {cue_time(cue.end_ms, ',')}"
            out.write(f"{number}\n{times}\n{cue.text.translate(_ESCAPES)}\n\n".encode())
        self.left_out = cues.left_out
