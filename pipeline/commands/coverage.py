"""How much of what was asked for was watched: told beside every answer, so that "no captions" differs from "nothing happened"."""

from __future__ import annotations

from datetime import tzinfo

from pipeline.core.clock import to_datetime
from pipeline.query.windows import StreamWindow
from pipeline.store import CaptionStore


def coverage_lines(store: CaptionStore, windows: list[StreamWindow], found: bool, zone: tzinfo) -> list[str]:
    """Per stream: how much of the window was watched where that is not all of it, and when nothing was found."""
    lines = []
    for window in windows:
        gaps = store.unwatched(window.stream, window.start, window.end)
        share = store.coverage(window.start, window.end, stream=window.stream)
        if gaps and share < 1:
            reasons = ", ".join(sorted({str(reason) for _, reason in gaps}))
            lines.append(
                f"{window.stream}: {share:.1%} of the window was watched ({counted(len(gaps), 'gap')}: {reasons})"
            )
        if not found:
            first, last = (to_datetime(t, zone) for t in (window.recording.start_ns, window.recording.end_ns))
            summer = f" {first:%Z}" if first.utcoffset() != last.utcoffset() else ""
            lines.append(
                f"{window.stream} was recorded from {first:%Y-%m-%d %H:%M:%S}{summer} to {last:%Y-%m-%d %H:%M:%S %Z}"
            )
    return lines


def counted(number: int, thing: str) -> str:
    """A number of things in words."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
