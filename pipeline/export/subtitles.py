"""Captions as subtitles, timed from the stream's start: SubRip and WebVTT."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pipeline.query.rows import CaptionRow

_VTT_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


def srt_lines(rows: Iterable[CaptionRow]) -> Iterator[str]:
    """SubRip: one numbered cue per caption. `rows`: of one stream, ordered by start."""
    for number, row in enumerate(rows, 1):
        yield f"{number}\n{_time(row.start_s, ',')} --> {_time(row.end_s, ',')}\n{_cue(row)}\n\n"


def vtt_lines(rows: Iterable[CaptionRow]) -> Iterator[str]:
    """WebVTT (https://www.w3.org/TR/webvtt1): one cue per caption. `rows`: of one stream, ordered by start."""
    yield "WEBVTT\n\n"
    for row in rows:
        yield f"{_time(row.start_s, '.')} --> {_time(row.end_s, '.')}\n{_cue(row).translate(_VTT_ESCAPES)}\n\n"


def _cue(row: CaptionRow) -> str:
    """One line, for an empty one would end the cue."""
    return f"[{row.track}] {' '.join(row.text.split())}"


def _time(seconds: float, point: str) -> str:
    milliseconds = max(0, round(seconds * 1000))
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d}{point}{rest % 1000:03d}"
