"""What is asked of a store: a window of each stream, and the rows in it."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import tzinfo

from pipeline.core.clock import NS
from pipeline.core.errors import StoreRefused
from pipeline.core.masks import MaskMalformed, RleMask, run_lengths
from pipeline.core.records import CaptionEvent
from pipeline.query.rows import CaptionRow, RowMask
from pipeline.query.typed_times import Recording, parse_window, window_notes
from pipeline.store import CaptionStore
from pipeline.store.row_filter import RowFilter


@dataclass(frozen=True, slots=True)
class StreamWindow:
    """What is asked of one stream: wall ns, None for an open end, and the time that the stream was recorded.

    `notes`: what must be told of how the window was read.
    """

    stream: str
    start: int | None
    end: int | None
    recording: Recording
    notes: tuple[str, ...] = ()


def stream_windows(
    store: CaptionStore, stream: str | Sequence[str] | None, start: str | None, end: str | None, zone: tzinfo
) -> list[StreamWindow]:
    """The window in each stream: offsets count from each one's own start. Streams without rows are left out.

    Raises `UserError` for an unknown stream, an unreadable time, a start after the end.
    """
    windows = []
    infos = store.streams([stream] if isinstance(stream, str) else list(dict.fromkeys(stream or ())))
    for name in infos:
        span = store.span(name)
        if span is not None:
            recording = Recording(infos[name].start_wall_ns or span.start, span.end, zone)
            notes = tuple(window_notes(start, end, recording))
            windows.append(StreamWindow(name, *parse_window(start, end, recording), recording, notes))
    return windows


def told_notes(windows: list[StreamWindow]) -> list[str]:
    """The notes of all windows, each once; with the stream's name where they differ."""
    if len({window.notes for window in windows}) <= 1:
        return list(windows[0].notes) if windows else []
    return [f"{window.stream}: {note}" for window in windows for note in window.notes]


def window_rows(
    store: CaptionStore,
    windows: list[StreamWindow],
    asked: RowFilter | None = None,
    *,
    newest: bool = False,
    masks: MaskReading | None = None,
    embeddings: bool = False,
) -> Iterator[CaptionRow]:
    """What matches in all windows, ordered by start, then track; `newest`: the latest first. Only what is taken is read.

    `asked`: all but the time. `start_s` and `end_s` count from where each stream starts on the wall, as offsets in `--from` do.
    `masks`: rows have their masks, and it hears of those that are none.
    """
    streams = []
    for w in windows:
        wanted = replace(asked or RowFilter(), start=w.start, end=w.end)
        events = store.matching(
            w.stream, wanted, masks=masks is not None, embeddings=embeddings, newest=newest
        )
        streams.append(_rows_since(w.recording.start_ns, w.stream, events, masks))
    sign = -1 if newest else 1
    return heapq.merge(*streams, key=lambda row: (sign * row.start_ns, row.track))


class MaskReading:
    """Stored masks as rows have them, and what could not be read of them: `damaged` of them, `first` (stream, track, start in s).

    `strict`: such a mask is an error.
    """

    def __init__(self, store: CaptionStore, strict: bool = False) -> None:
        self._strict = strict
        self.damaged = 0
        self.first: tuple[str, int, float] | None = None
        self._pictures = {name: (info.height, info.width) for name, info in store.streams().items()}

    def read(self, stream: str, event: CaptionEvent, start_s: float) -> RowMask | None:
        """The mask of an event."""
        return None if event.mask is None else self.read_mask(stream, event.track, event.mask, start_s)

    def read_mask(self, stream: str, track: int, mask: RleMask, start_s: float) -> RowMask | None:
        """A mask of a track, where it is one."""
        try:
            run_lengths(mask)
        except MaskMalformed as error:
            if self._strict:
                raise StoreRefused(
                    f"the mask of track {track} at {start_s:.1f} s of {stream} is damaged: {error}"
                ) from error
            self.damaged += 1
            self.first = self.first or (stream, track, start_s)
            return None
        return RowMask(mask, self._pictures[stream])


def _rows_since(
    start_ns: int, stream: str, events: Iterable[tuple[CaptionEvent, int]], masks: MaskReading | None
) -> Iterator[CaptionRow]:
    # Stored PTS start at 0 again after a reset, and leave out how long a camera's program was down.
    for event, shot in events:
        yield caption_row(start_ns, stream, event, shot, masks)


def caption_row(
    start_ns: int, stream: str, event: CaptionEvent, shot: int, masks: MaskReading | None = None
) -> CaptionRow:
    """A stored event as a row. `start_ns`: where its stream starts on the wall."""
    start_s = (event.start_ns - start_ns) / NS
    return CaptionRow(
        stream=stream,
        track=event.track,
        start_ns=event.start_ns,
        end_ns=event.end_ns,
        start_s=start_s,
        end_s=(event.end_ns - start_ns) / NS,
        text=event.text,
        score=event.score,
        box=event.box,
        shot=shot,
        mask=masks.read(stream, event, start_s) if masks is not None else None,
        masks=masks is not None,
    )
