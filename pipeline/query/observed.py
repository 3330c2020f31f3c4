"""Where tracked regions were in each keyframe, as far as the captions that were asked for name them."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from pipeline.core.masks import RleMask
from pipeline.core.records import CaptionEvent
from pipeline.query.rows import RowMask
from pipeline.query.windows import MaskReading, StreamWindow
from pipeline.store import CaptionStore
from pipeline.store.row_filter import RowFilter
from pipeline.store.row_query import Selection


@dataclass(frozen=True, slots=True)
class ObservedRow:
    """A track in a keyframe: wall ns UTC, number of the picture in its stream, `box` xyxy in pixels, `score` of the mask 0..1.

    `text`, `text_score`: of the caption event that it falls into. `mask`: None where there is none, or none was asked for.
    `picture`: (H, W) of the stream.
    """

    stream: str
    track: int
    t_ns: int
    frame: int
    box: tuple[float, float, float, float]
    score: float
    text: str
    text_score: float
    picture: tuple[int, int]
    mask: RowMask | None = None


def observed_rows(
    store: CaptionStore, windows: list[StreamWindow], asked: RowFilter, masks: MaskReading | None = None
) -> Iterator[ObservedRow]:
    """Observations of each stream, one stream behind the other and each by time, that fall into a caption event that matches.

    `asked`: all but the time, of the captions. Events are read for some thousand observations at a time. `masks`: rows have theirs, and it hears of
    those that are none.
    """
    infos = store.streams([window.stream for window in windows])
    pictures = {name: (info.height, info.width) for name, info in infos.items()}
    for window in windows:
        seen = RowFilter(start=window.start, end=window.end, track=asked.track)

        def made(found: list[Selection], stream: str = window.stream) -> list[_Seen]:
            times = [one.column("t") for one in found if len(one)]
            if not times:
                return []
            first, last = int(min(t.min() for t in times)), int(max(t.max() for t in times))
            events = store.matching(stream, replace(asked, start=first, end=last))
            return _rows(found, _NamedTimes(event for event, _ in events), masks is not None)

        for block in store.observation_blocks(window.stream, seen, made):
            for track, t_ns, frame, box, score, mask, text, text_score in block:
                row = None if masks is None or mask is None else masks.read_mask(
                    window.stream, track, RleMask(*mask), (t_ns - window.recording.start_ns) / 1e9
                )  # fmt: skip
                yield ObservedRow(
                    window.stream, track, t_ns, frame, box, score, text, text_score, pictures[window.stream], row
                )  # fmt: skip


class _NamedTimes:
    """When each track was called what, for looking that up."""

    def __init__(self, events: Iterable[CaptionEvent]) -> None:
        numbers: dict[str, int] = {}
        whole = {name: array("q") for name in ("track", "start", "end", "text")}
        scores = array("d")
        for event in events:
            whole["track"].append(event.track)
            whole["start"].append(event.start_ns)
            whole["end"].append(event.end_ns)
            whole["text"].append(numbers.setdefault(event.text, len(numbers)))
            scores.append(event.score)
        arrays: dict[str, np.ndarray] = {name: np.array(values, np.int64) for name, values in whole.items()}
        arrays["score"] = np.array(scores, np.float64)
        order = np.lexsort((arrays["start"], arrays["track"]))
        self._columns = {name: values[order] for name, values in arrays.items()}
        self.tracks, self._first = np.unique(self._columns["track"], return_index=True)
        self._stop = np.append(self._first[1:], len(order))
        self.texts = list(numbers)

    def events_at(self, tracks: np.ndarray, times: np.ndarray) -> np.ndarray:
        """The event that each row falls into, (n,) int64; -1 where there is none."""
        found = np.full(len(tracks), -1, np.int64)
        for track in np.unique(tracks).tolist():
            place = int(np.searchsorted(self.tracks, track))
            if place == len(self.tracks) or self.tracks[place] != track:
                continue
            first, stop = int(self._first[place]), int(self._stop[place])
            rows = np.flatnonzero(tracks == track)
            at = np.searchsorted(self._columns["start"][first:stop], times[rows], "right") - 1
            inside = (at >= 0) & (times[rows] <= self._columns["end"][first:stop][np.maximum(at, 0)])
            found[rows[inside]] = at[inside] + first
        return found

    def named(self, events: np.ndarray) -> list[tuple[str, float]]:
        """Text and score of events."""
        numbers, scores = self._columns["text"][events].tolist(), self._columns["score"][events].tolist()
        return [(self.texts[int(number)], score) for number, score in zip(numbers, scores, strict=True)]


_Seen = tuple[
    int, int, int, tuple[float, float, float, float], float, tuple[tuple[int, int], bytes] | None, str, float
]


def _rows(found: list[Selection], named: _NamedTimes, masks: bool) -> list[_Seen]:
    rows: list[_Seen] = []
    for one in found:
        events = named.events_at(one.column("track").astype(np.int64), one.column("t"))
        kept = one.where(events >= 0)
        if not len(kept):
            continue
        columns = [kept.column(name).tolist() for name in ("track", "t", "frame", "box", "score")]
        stored = kept.masks() if masks else [None] * len(kept)
        for track, t, frame, box, score, mask, (text, sure) in zip(
            *columns, stored, named.named(events[events >= 0]), strict=True
        ):
            rows.append((track, t, frame, (box[0], box[1], box[2], box[3]), score, mask, text, sure))
    return sorted(rows, key=lambda row: (row[1], row[0]))
