"""Reading a store without Arrow: which streams it has, how far they go, what is damaged, and rows as plain values.

Arrow takes longer to import than a small store to answer, so who asks for a few rows does without.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from pipeline.core.clock import NS, Moment, TimeSpan, share_watched, time_window
from pipeline.core.errors import StoreRefused
from pipeline.core.records import CaptionEvent, GapReason, ResumePoint
from pipeline.store.columns import CaptionColumns
from pipeline.store.counting import Counted, CountedBy, counted
from pipeline.store.durable_files import refusal
from pipeline.store.open_segments import Answer, DamagedFile, OpenSegments
from pipeline.store.ordered_scan import OrderedRows
from pipeline.store.place import StorePlace
from pipeline.store.plain_rows import plain_captions, plain_gaps
from pipeline.store.row_query import (
    RowFilter,
    Selection,
    StoredSegment,
    find_captions,
    find_gaps,
    find_observations,
    searched_texts,
)
from pipeline.store.stream_directory import FOLDERS, list_visible, lost_spans
from pipeline.store.stream_info import StreamInfo
from pipeline.store.stream_writer import newest_resume
from pipeline.store.text_index import TextIndex, TextModel
from sca.setting_errors import did_you_mean
from sca.small_files import parsed_json

_NAMED = 12
_SLICE_NS = 60 * NS
_SLICE_ROWS = 32_768


class StoreReader:
    """What a store tells without Arrow; `CaptionStore` is one."""

    def __init__(self, place: StorePlace, *, strict: bool = False) -> None:
        self._place = place
        # Where it lies on a local disk; elsewhere its address, which names no file.
        self.path: Path | str = place.folder or place.where
        self._open = OpenSegments(strict)

    def streams(self, named: Sequence[str] = ()) -> dict[str, StreamInfo]:
        """Every stream of the store by name, or those that are `named`: what is wrong with others is no matter then.

        Raises `StoreRefused` for an unknown name.
        """
        if named:
            chosen = [name for one in named for name in self._chosen(one)]
            return {name: info for name in chosen if (info := self._info(name)) is not None}
        try:
            entries = self._place.list("streams")
            names = sorted(name for name in entries if name != "zarr.json")
            if not entries:  # it has a description of its own from the first moment on
                raise StoreRefused(
                    f"{self._place.where}/streams is missing or empty, where the streams of a store lie: restore it from a copy"
                )
        except OSError as error:
            raise refusal(error, self._place.where, "read") from error
        return {name: info for name in names if (info := self._info(name)) is not None}

    def resume(self, stream: str) -> ResumePoint:
        """How far a stream is stored."""
        self._chosen(stream)
        place = self._stream_place(stream)
        try:
            return newest_resume(place, list_visible(place))
        except OSError as error:
            raise refusal(error, place.where, "read") from error

    def span(self, stream: str) -> TimeSpan | None:
        """Wall ns of what is stored, from the stream's start unless that was forgotten; None when nothing is."""
        self._chosen(stream)
        place = self._stream_place(stream)
        try:
            shown = self._open.shown(place)
        except OSError as error:
            raise refusal(error, place.where, "read") from error
        if not shown.segments:
            return None
        info = self._info(stream)
        first = min(name.t_min for name in shown.segments)
        if info is not None and info.start_wall_ns > 0 and shown.segments[0].lo == 0:  # nothing forgotten yet
            first = min(first, info.start_wall_ns)
        begun = info.start_wall_ns if info is not None else 0
        last = max(begun, *(name.t_max for name in shown.segments))
        return TimeSpan(first, max(first, last, self.resume(stream).wall_ns))

    def events(
        self,
        stream: str,
        start: Moment | None = None,
        end: Moment | None = None,
        *,
        track: int | None = None,
        text: str | None = None,
        min_score: float | None = None,
        masks: bool = False,
        newest: bool = False,
    ) -> Iterator[tuple[CaptionEvent, int]]:
        """What `captions` finds in one stream as plain values without embeddings, and the numbers of their shots.

        By start, then track; `newest`: the latest start first. Only what is taken is read.
        """
        wanted = RowFilter(*time_window(start, end), track, text, min_score)
        return self.matching(stream, wanted, masks=masks, newest=newest)

    def matching(
        self,
        stream: str,
        wanted: RowFilter,
        *,
        masks: bool = False,
        embeddings: bool = False,
        newest: bool = False,
    ) -> Iterator[tuple[CaptionEvent, int]]:
        """The same for everything that can be asked of a caption."""
        blocks = self.caption_blocks(
            stream, wanted, lambda block: plain_captions(block, masks, embeddings), newest=newest
        )
        return itertools.chain.from_iterable(blocks)

    def caption_blocks(
        self,
        stream: str,
        wanted: RowFilter,
        made: Callable[[OrderedRows], Answer],
        *,
        newest: bool = False,
    ) -> Iterator[Answer]:
        """What `made` makes of the events that match, some thousand at a time, in order."""
        self._chosen(stream)
        return self._open.scan(self._stream_place(stream), wanted, made, newest=newest)

    def observation_blocks(
        self, stream: str, wanted: RowFilter, made: Callable[[list[Selection]], Answer]
    ) -> Iterator[Answer]:
        """What `made` makes of the observations that match, some ten thousand at a time, by time."""
        span = self.span(stream)
        if span is None:
            return
        place, counts = self._stream_place(stream), [0]

        def answer(part: RowFilter, sources: list[StoredSegment]) -> Answer:
            found = find_observations(sources, part)
            counts[0] = sum(len(one) for one in found)
            return made(found)

        first = span.start if wanted.start is None else max(wanted.start, span.start)
        last = span.end if wanted.end is None else wanted.end
        length = _SLICE_NS
        while first <= last:
            part = replace(wanted, start=first, end=min(first + length - 1, last))
            counts[0] = 0
            yield self._open.ask(place, part.start, part.end, partial(answer, part))
            first = first + length
            # Slices are as long as it takes for their rows to be many, and not too many.
            length = (
                2 * length
                if counts[0] < _SLICE_ROWS // 4
                else max(length // 2, 1)
                if counts[0] > _SLICE_ROWS
                else length
            )

    def count(
        self,
        stream: str,
        wanted: RowFilter,
        by: CountedBy,
        hour_of: Callable[[int], int] = lambda quarter: quarter,
    ) -> dict[int | str, Counted]:
        """How many events match in one stream, and of how many tracks, by what `by` says; see `counted`."""
        place = self._stream_place(stream)
        return self._open.ask(
            place, wanted.start, wanted.end, lambda s: counted(find_captions(s, wanted), by, hour_of)
        )

    def alike_texts(
        self, stream: str, wanted: str, model: TextModel, least: float, window: RowFilter | None = None
    ) -> dict[str, float]:
        """Captions of a stream that mean about the same as `wanted`, and how much (cosine, `least` or more).

        Of the time of `window`, or all. What texts mean is computed once and kept beside the stream's segments.
        """

        def texts_of(sources: list[StoredSegment]) -> list[str]:
            distinct: dict[str, None] = {}
            for source in sources:
                used = np.flatnonzero(np.bincount(source.column(CaptionColumns, "text")))
                distinct.update(dict.fromkeys(searched_texts(source).strings(used)))
            return list(distinct)

        place, asked = self._stream_place(stream), window or RowFilter()
        texts = self._open.ask(place, asked.start, asked.end, texts_of)
        (vector,) = model.vectors([wanted])
        found = TextIndex(place, model).similarities(texts, vector)
        return {text: value for text, value in zip(texts, found.tolist(), strict=True) if value >= least}

    def embedding_of(self, stream: str, track: int) -> tuple[float, ...]:
        """Mean embedding of a track's events, of length one. Raises `StoreRefused` where it has none."""
        events = self.matching(stream, RowFilter(track=track), embeddings=True)
        rows = [event.embedding for event, _ in events if len(event.embedding)]
        rows = [row for row in rows if len(row) == len(rows[-1])]
        if not rows:
            raise StoreRefused(f"track {track} of {stream} has no embedding: choose another track")
        mean = np.mean([row / max(float(np.linalg.norm(row)), 1e-9) for row in rows], axis=0)
        return tuple((mean / max(float(np.linalg.norm(mean)), 1e-9)).tolist())

    def unwatched(
        self, stream: str, start: Moment | None = None, end: Moment | None = None
    ) -> list[tuple[TimeSpan, GapReason | str]]:
        """What `gaps` finds in one stream as plain values: when, and why; by start."""
        wanted = RowFilter(*time_window(start, end))
        (found,) = self._ask(stream, wanted, lambda _, s: plain_gaps(find_gaps(s, wanted)))
        told = [*found, *self._missing(stream)]
        return sorted(
            (gap for gap in told if gap[0].overlaps(wanted.start, wanted.end)), key=lambda gap: gap[0].start
        )

    def verify(
        self, start: Moment | None = None, end: Moment | None = None, *, stream: str | None = None
    ) -> list[DamagedFile]:
        """Read every byte of the segments that may hold rows of [start, end]. Returns the damage, as `damage` does, and with it
        files of which no row is missing, since what they were merged from is still there (`covered`).
        """

        def verify(_: str, sources: list[StoredSegment]) -> None:
            for source in sources:
                source.verify()

        self._ask(stream, RowFilter(*time_window(start, end)), verify)
        return self._open.damage(covered=True)

    def damage(self) -> list[DamagedFile]:
        """What no question so far could read, and therefore left out of its answer."""
        return self._open.damage()

    def coverage(
        self, start: Moment | None = None, end: Moment | None = None, *, stream: str | None = None
    ) -> float:
        """Share of [start, end] that was watched, 0..1: recorded and not in a gap. The mean over streams.

        Without `start` or `end`, from the beginning or to the end of what each stream has recorded.
        """
        first, last = time_window(start, end)
        shares = []
        for name in self._chosen(stream):
            span = self.span(name)
            if span is None:
                shares.append(0.0)
                continue
            window = TimeSpan(span.start if first is None else first, span.end if last is None else last)
            missed = [gap for gap, _ in self.unwatched(name, first, last)]
            shares.append(share_watched(window, span, missed))
        return sum(shares) / len(shares) if shares else 0.0

    def close(self) -> None:
        """Forget what is cached. The store can be used again."""
        self._open.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def place_of_stream(self, stream: str) -> StorePlace:
        """Where a stream lies. Raises `StoreRefused` for an unknown one."""
        self._chosen(stream)
        return self._stream_place(stream)

    def ask_stream(self, stream: str, question: Callable[[list[StoredSegment]], Answer]) -> Answer:
        """What a question makes of all segments of a stream that can be read, in order of commit."""
        return self._open.ask(self.place_of_stream(stream), None, None, question)

    def _stream_place(self, stream: str) -> StorePlace:
        return self._place.below(f"streams/{stream}")

    def _info(self, stream: str) -> StreamInfo | None:
        try:
            document = parsed_json(self._stream_place(stream).read("zarr.json"))
            return StreamInfo.from_attributes(document["attributes"], stream)
        except (FileNotFoundError, NotADirectoryError):
            self._refuse_undescribed(stream)
            return None
        except OSError as error:
            raise refusal(error, f"{self._stream_place(stream).where}/zarr.json", "read") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StoreRefused(
                f"{self._stream_place(stream).where}/zarr.json is damaged ({error}): restore that file from a copy"
            ) from error

    def _refuse_undescribed(self, stream: str) -> None:
        """Raise `StoreRefused` where something of a stream is left that nothing describes: no row comes before its description."""
        place = self._stream_place(stream)
        try:
            left = [folder for folder in FOLDERS if place.list(folder)]
        except (FileNotFoundError, NotADirectoryError):  # a stray file
            return
        except OSError as error:
            raise refusal(error, place.where, "read") from error
        if left:
            raise StoreRefused(
                f"{place.where}/zarr.json is missing, which describes what lies beside it: restore that file from a copy"
            )

    def _chosen(self, stream: str | None) -> list[str]:
        """The named stream, or all of them. Raises `StoreRefused` with the nearest name."""
        # A name is that of one folder: none, "." or one with a slash would be another place.
        named = stream is not None and stream not in ("", ".", "..") and "/" not in stream
        if stream is not None and named and self._stream_place(stream).exists("zarr.json"):
            return [stream]
        known = list(self.streams())
        if stream is None:
            return known
        streams = ", ".join(known[:_NAMED]) + (", ..." if len(known) > _NAMED else "") or "none yet"
        raise StoreRefused(
            f"no stream {stream!r} in {self.path}{did_you_mean(stream, known)}; it has {streams}"
        )

    def _ask(
        self, stream: str | None, wanted: RowFilter, question: Callable[[str, list[StoredSegment]], Answer]
    ) -> list[Answer]:
        """The answers of the named stream, or of each, from the segments that may hold rows of that time."""
        return [
            self._open.ask(self._stream_place(name), wanted.start, wanted.end, partial(question, name))
            for name in self._chosen(stream)
        ]

    def _missing(self, stream: str) -> list[tuple[TimeSpan, GapReason]]:
        """When segments of a stream are not there any more, and when those that a question so far could not read."""
        place = self._stream_place(stream)
        shown = list_visible(place)
        found = [(span, GapReason.LOST) for span in lost_spans(shown)]
        if shown.segments and shown.segments[0].lo > 0:
            info, first = self._info(stream), shown.segments[0].t_min
            begun = info.start_wall_ns if info is not None else 0
            found.append((TimeSpan(min(max(begun, 0), first - 1), first - 1), GapReason.FORGOTTEN))
        self._open.recheck(place)
        return found + [(file.span, GapReason.DAMAGED) for file in self._open.damage(place)]
