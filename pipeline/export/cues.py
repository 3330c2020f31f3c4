"""Subtitle cues: what is shown from when to when, in whole milliseconds."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.query.rows import CaptionRow, coalesce

# About what broadcasters ask for at least. A thing that was seen in one keyframe only is shown for so long.
LEAST_MS = 700


@dataclass(frozen=True, slots=True)
class Cue:
    """Milliseconds from the stream's start, `end_ms` > `start_ms`; one line of text, without markup or escapes."""

    start_ms: int
    end_ms: int
    text: str


def cues_of(rows: Iterable[CaptionRow]) -> list[Cue]:
    """One cue for what was said of a track without a pause. `rows`: of one stream, ordered by start.

    Each can be seen: it lasts `LEAST_MS`, or until its track is called otherwise, and never begins before 0.
    """
    joined = coalesce(rows)
    cues: list[Cue] = []
    following: dict[int, int] = {}
    for row in reversed(joined):
        start, end = (max(0, round(seconds * 1000)) for seconds in (row.start_s, row.end_s))
        next_ms = following.get(row.track)
        shown = start + LEAST_MS if next_ms is None else min(start + LEAST_MS, next_ms)
        cues.append(Cue(start, max(end, shown, start + 1), f"[{row.track}] {_line(row.text)}"))
        following[row.track] = start
    return cues[::-1]


def cue_time(milliseconds: int, point: str) -> str:
    """HH:MM:SS and milliseconds behind `point`; hours grow past 99."""
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d}{point}{rest % 1000:03d}"


def _line(text: str) -> str:
    """One line, for an empty one would end the cue; without control characters."""
    shown = (
        " " if unicodedata.category(char)[0] in "CZ" and char not in "\u200c\u200d" else char for char in text
    )
    return " ".join("".join(shown).split())
