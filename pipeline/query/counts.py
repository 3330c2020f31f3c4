"""How many captions and things there are, by hour of a clock, track, text or stream."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import tzinfo
from enum import StrEnum

from pipeline.core.clock import to_datetime
from pipeline.query.windows import StreamWindow
from pipeline.store import CaptionStore
from pipeline.store.counting import QUARTER_NS, CountedBy
from pipeline.store.row_filter import RowFilter


class CountBy(StrEnum):
    """What `sca query --count-by` takes."""

    HOUR = "hour"
    TRACK = "track"
    TEXT = "text"
    STREAM = "stream"


_ASKED = {
    CountBy.HOUR: CountedBy.QUARTER,
    CountBy.TRACK: CountedBy.TRACK,
    CountBy.TEXT: CountedBy.TEXT,
    CountBy.STREAM: CountedBy.STREAM,
}


@dataclass(frozen=True, slots=True)
class CountRow:
    """`captions` that match, of `tracks` different things. `key`: the hour they begin in (ISO 8601), a track, a text, a stream."""

    key: str
    captions: int
    tracks: int

    def document(self, by: CountBy) -> dict[str, object]:
        return {by.value: self.key, "captions": self.captions, "tracks": self.tracks}

    def cells(self) -> tuple[str, int, int]:
        return self.key, self.captions, self.tracks


def count_rows(
    store: CaptionStore, windows: list[StreamWindow], asked: RowFilter, by: CountBy, zone: tzinfo
) -> list[CountRow]:
    """Counts of all windows together: hours in order, everything else most captions first."""
    captions: dict[str, int] = {}
    tracks: dict[str, int] = {}
    several = len(windows) > 1
    for window in windows:
        wanted = replace(asked, start=window.start, end=window.end)
        found = store.count(window.stream, wanted, _ASKED[by], lambda quarter: _hour_of(quarter, zone))
        for one, count in found.items():
            key = _label(one, window.stream, by, zone, several)
            captions[key] = captions.get(key, 0) + count.events
            tracks[key] = tracks.get(key, 0) + count.tracks  # those of two streams are never the same
    rows = [CountRow(key, count, tracks[key]) for key, count in captions.items()]
    order = (lambda r: r.key) if by is CountBy.HOUR else (lambda r: (-r.captions, r.key))
    return sorted(rows, key=order)


def _hour_of(quarter: int, zone: tzinfo) -> int:
    """The quarter with which the clock's hour began."""
    return quarter - to_datetime(quarter * QUARTER_NS, zone).minute // 15


def _label(found: int | str, stream: str, by: CountBy, zone: tzinfo, several: bool) -> str:
    if by is CountBy.HOUR:
        return to_datetime(int(found) * QUARTER_NS, zone).isoformat(timespec="minutes")
    if by is CountBy.STREAM:
        return stream
    return f"{stream}:{found}" if by is CountBy.TRACK and several else str(found)
