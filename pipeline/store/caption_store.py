"""The store of captions: create it, write streams into it, ask it by time."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType

import pyarrow as pa

from pipeline.core.clock import Moment, TimeSpan, nanoseconds, share_watched, time_window
from pipeline.core.errors import StoreRefused
from pipeline.core.records import ResumePoint
from pipeline.store import arrow_tables
from pipeline.store.compaction import Compaction
from pipeline.store.durable_files import TEMPORARY, refusal
from pipeline.store.open_segments import Answer, DamagedFile, OpenSegments
from pipeline.store.place import StorePlace, place_of
from pipeline.store.row_query import (
    RowFilter,
    StoredSegment,
    find_captions,
    find_clocks,
    find_cuts,
    find_efforts,
    find_gaps,
    find_observations,
    find_tracks,
    holds_tracks,
)
from pipeline.store.segment import SCHEMA
from pipeline.store.stream_directory import list_visible, lost_spans
from pipeline.store.stream_info import StreamInfo, check_stream_id
from pipeline.store.stream_writer import StreamWriter, forget_unwritten, newest_resume
from pipeline.store.zarr_metadata import group_document
from sca.setting_errors import did_you_mean

Box = tuple[float, float, float, float]

_NAMED = 12


class CaptionStore:
    """A directory of streams. Any number of processes may read while one writer per stream writes.

    Times given may be ns UTC, `datetime` with a zone, or `numpy.datetime64` (UTC); both ends count. Every query
    raises StoreRefused when `start` is after `end` or the stream is unknown. A damaged segment is left out of the answer:
    `damage()` names it, and `gaps()` tells its time; opened `strict`, the store raises for it.
    """

    def __init__(self, place: StorePlace, *, strict: bool = False) -> None:
        self._place = place
        # Where it lies on a local disk; elsewhere its address, which names no file.
        self.path = place.folder or Path(place.where)
        self._open = OpenSegments(strict)

    @classmethod
    def create(cls, path: str | Path, *, exist_ok: bool = True) -> CaptionStore:
        """Make an empty store, or open the one that is there (unless `exist_ok` is False).

        Raises `StoreRefused` when the place holds something else or cannot be written.
        """
        place = place_of(path)
        try:
            if place.exists("zarr.json"):
                if not exist_ok:
                    raise StoreRefused(f"{path} is a store already: open it, or choose another name")
                return cls.open(path)
            place.prepare()
            foreign = [name for name in place.list() if TEMPORARY not in name]
            if foreign and foreign != ["streams"]:
                raise StoreRefused(f"{path} is not empty and not a caption store: choose another place")
            place.prepare("streams")
            place.put("streams/zarr.json", json.dumps(group_document({})).encode())
            place.put("zarr.json", json.dumps(group_document({"schema": SCHEMA})).encode())
        except OSError as error:
            raise refusal(error, path, "create a store at") from error
        return cls(place)

    @classmethod
    def open(cls, path: str | Path, *, strict: bool = False) -> CaptionStore:
        """Open an existing store. Raises `StoreRefused` when it is not one, or one of another schema."""
        place = place_of(path)
        try:
            attrs = json.loads(place.read("zarr.json")).get("attributes", {})
        except (FileNotFoundError, NotADirectoryError):
            what = "is not a caption store" if place.exists() else "does not exist"
            raise StoreRefused(f"{path} {what}: give the .zarr directory that `sca run` wrote") from None
        except OSError as error:
            raise refusal(error, path, "open") from error
        except ValueError:
            raise StoreRefused(f"{path} has a damaged zarr.json: restore that file from a copy") from None
        schema = attrs.get("schema")
        if schema != SCHEMA:
            told = f"has schema {schema!r}" if schema else "is a Zarr hierarchy of another kind"
            raise StoreRefused(
                f"{path} {told}, this program reads and writes {SCHEMA!r}: choose another store, or use the version "
                "that wrote it"
            )
        return cls(place, strict=strict)

    def writer(
        self,
        stream: str,
        info: StreamInfo,
        *,
        compaction: Compaction | None = None,
        clock: Callable[[], int] = time.time_ns,
    ) -> StreamWriter:
        """Become the writer of a stream, new or known. A known stream keeps its `start_wall_ns`. `clock`: wall ns.

        Raises `StoreRefused` when another process writes it (its pid is named) or the place cannot be written.
        """
        place = self._stream_place(check_stream_id(stream))
        try:
            place.prepare()
        except OSError as error:
            raise refusal(error, place.where, "write to") from error
        writer = StreamWriter(place, model=info.model, compaction=compaction, clock=clock)
        try:
            known = self._info(stream)
            if known is not None:
                info = StreamInfo.from_attributes({**info.attributes(), "start_wall_ns": known.start_wall_ns})
            if info != known:
                document = json.dumps(group_document(info.attributes())).encode()
                place.put("zarr.json", document)
        except OSError as error:
            writer.close()
            raise refusal(error, place.where, "write to") from error
        return writer

    def streams(self) -> dict[str, StreamInfo]:
        """Every stream of the store by name."""
        try:
            names = sorted(name for name in self._place.list("streams") if name != "zarr.json")
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
        shown = list_visible(self._stream_place(stream))
        if not shown.segments:
            return None
        info = self._info(stream)
        first = min(name.t_min for name in shown.segments)
        if info is not None and info.start_wall_ns > 0 and shown.segments[0].lo == 0:  # nothing forgotten yet
            first = min(first, info.start_wall_ns)
        last = max(name.t_max for name in shown.segments)
        return TimeSpan(first, max(first, last, self.resume(stream).wall_ns))

    def captions(
        self,
        start: Moment | None = None,
        end: Moment | None = None,
        *,
        stream: str | None = None,
        track: int | None = None,
        text: str | None = None,
        min_score: float | None = None,
        box: Box | None = None,
        limit: int | None = None,
        columns: Sequence[str] | None = None,
    ) -> pa.Table:
        """Caption events that overlap [start, end], ordered by start, then track.

        `text`: part of the caption, in any case. `box`: xyxy pixels, events whose box overlaps it. `columns`: which
        to return, from the default ones (stream, track, t_start, t_end: UTC; start_s, end_s: seconds of stream time;
        text as a dictionary, score, logprob, x0, y0, x1, y1: pixels; frame; shot: its number in the
        stream, from 0) and `mask` (COCO run lengths: `size`,
        `counts`) and `embedding`.
        """
        wanted = RowFilter(*time_window(start, end), track, text, min_score, box)
        names = tuple(columns or arrow_tables.CAPTION_COLUMNS)
        known = (*arrow_tables.CAPTION_COLUMNS, *arrow_tables.OPTIONAL_CAPTION_COLUMNS)
        if unknown := [name for name in names if name not in known]:
            raise StoreRefused(f"no column {unknown[0]!r} in captions: choose from {', '.join(known)}")
        needed = tuple(dict.fromkeys((*names, "t_start", "track")))
        tables = self._ask(
            stream, wanted, lambda n, s: arrow_tables.caption_table(n, find_captions(s, wanted), needed)
        )
        return arrow_tables.by_time(tables, "t_start", limit).select(names)

    def observations(
        self,
        start: Moment | None = None,
        end: Moment | None = None,
        *,
        stream: str | None = None,
        track: int | None = None,
        min_score: float | None = None,
        box: Box | None = None,
        limit: int | None = None,
    ) -> pa.Table:
        """Where each tracked region was in each keyframe of [start, end]: stream, track, t, t_s, score, box, frame, shot."""
        wanted = RowFilter(*time_window(start, end), track, None, min_score, box)
        tables = self._ask(
            stream, wanted, lambda n, s: arrow_tables.observation_table(n, find_observations(s, wanted))
        )
        return arrow_tables.by_time(tables, "t", limit)

    def tracks(
        self,
        start: Moment | None = None,
        end: Moment | None = None,
        *,
        stream: str | None = None,
        track: int | None = None,
        text: str | None = None,
        limit: int | None = None,
    ) -> pa.Table:
        """Tracks that have ended and overlap [start, end]: stream, track, t_first, t_last, observations, text."""
        wanted = RowFilter(*time_window(start, end), track, text)
        # The names' time ranges leave tracks out; the attributes tell which segments hold some of that time.
        tables = self._ask(
            stream,
            RowFilter(),
            lambda n, sources: arrow_tables.track_table(
                n, find_tracks([s for s in sources if holds_tracks(s, wanted)], wanted)
            ),
        )
        return arrow_tables.by_time(tables, "t_first", limit)

    def gaps(
        self, start: Moment | None = None, end: Moment | None = None, *, stream: str | None = None
    ) -> pa.Table:
        """Stretches that overlap [start, end] and were not watched: stream, t_start, t_end, reason, frames.

        Segments that are missing show with the reason "lost", those that a question so far could not read with "damaged".
        """
        wanted = RowFilter(*time_window(start, end))

        def told(name: str, sources: list[StoredSegment]) -> pa.Table:
            lost = lost_spans(list_visible(self._stream_place(name)))
            return arrow_tables.gap_table(name, find_gaps(sources, wanted), lost)

        tables = self._ask(stream, wanted, told)
        for name in self._chosen(stream):
            self._open.recheck(self._stream_place(name))
            damaged = [d.span for d in self._open.damage(self._stream_place(name))]
            tables.append(arrow_tables.damage_table(name, damaged))
        tables = [arrow_tables.overlapping(table, wanted.start, wanted.end) for table in tables]
        return arrow_tables.by_time(tables, "t_start", None)

    def verify(
        self, start: Moment | None = None, end: Moment | None = None, *, stream: str | None = None
    ) -> list[DamagedFile]:
        """Read every byte of the segments that may hold rows of [start, end]. Returns the damage, as `damage` does."""

        def verify(_: str, sources: list[StoredSegment]) -> None:
            for source in sources:
                source.verify()

        self._ask(stream, RowFilter(*time_window(start, end)), verify)
        return self.damage()

    def damage(self) -> list[DamagedFile]:
        """What no question so far could read, and therefore left out of its answer."""
        return self._open.damage()

    def efforts(
        self, start: Moment | None = None, end: Moment | None = None, *, stream: str | None = None
    ) -> pa.Table:
        """From when on each stream got how much work, in [start, end]: stream, t, effort."""
        wanted = RowFilter(*time_window(start, end))
        tables = self._ask(
            stream, wanted, lambda n, s: arrow_tables.effort_table(n, *find_efforts(s, wanted))
        )
        return arrow_tables.by_time(tables, "t", None)

    def cuts(
        self, start: Moment | None = None, end: Moment | None = None, *, stream: str | None = None
    ) -> pa.Table:
        """Where shots begin in [start, end]: stream, t, pts_s. Nothing is followed over a cut."""
        wanted = RowFilter(*time_window(start, end))
        tables = self._ask(stream, wanted, lambda n, s: arrow_tables.cut_table(n, find_cuts(s, wanted)))
        return arrow_tables.by_time(tables, "t", None)

    def clocks(
        self, start: Moment | None = None, end: Moment | None = None, *, stream: str | None = None
    ) -> pa.Table:
        """Which clock gave the wall times of [start, end]: stream, t, pts_s, epoch, clock, drift_ppm.

        Each row holds until the next one: for a new epoch, another source of time, or the drift of the last minutes.
        """
        wanted = RowFilter(*time_window(start, end))
        tables = self._ask(stream, wanted, lambda n, s: arrow_tables.clock_table(n, find_clocks(s, wanted)))
        return arrow_tables.by_time(tables, "t", None)

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
            gaps = self.gaps(first, last, stream=name)
            starts, ends = (gaps[c].cast(pa.int64()).to_pylist() for c in ("t_start", "t_end"))
            missed = [TimeSpan(a, b) for a, b in zip(starts, ends, strict=True)]
            shares.append(share_watched(window, span, missed))
        return sum(shares) / len(shares) if shares else 0.0

    def archive_closed_days(self, now: Moment, *, stream: str | None = None) -> list[Path]:
        """Move every UTC day before the one of `now` into plain sharded Zarr groups `day/...zarr`, and tidy up.

        Takes the writer's place meanwhile: raises StoreRefused for a stream that is being written (its writer has
        the same method). Returns the archives made.
        """
        made = []
        for name in self._chosen(stream):
            with StreamWriter(self._stream_place(name), compaction=Compaction(enabled=False)) as writer:
                made += writer.archive_closed_days(nanoseconds(now))
        return made

    def forget_before(self, moment: Moment, *, stream: str | None = None) -> int:
        """Delete what was stored before `moment`, in whole segments and days. Returns how many went.

        Writes nothing, so that it frees a full disk. Takes the writer's place meanwhile, as `archive_closed_days` does.
        """
        count = 0
        for name in self._chosen(stream):
            place = self._stream_place(name)
            try:
                count += forget_unwritten(place, nanoseconds(moment), time.time_ns())
            except OSError as error:
                raise refusal(error, place.where, "delete from") from error
        return count

    def close(self) -> None:
        """Forget what is cached. The store can be used again."""
        self._open.clear()

    def __enter__(self) -> CaptionStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _stream_place(self, stream: str) -> StorePlace:
        return self._place.below(f"streams/{stream}")

    def _info(self, stream: str) -> StreamInfo | None:
        try:
            document = json.loads(self._stream_place(stream).read("zarr.json"))
            return StreamInfo.from_attributes(document["attributes"])
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise refusal(error, f"{self._stream_place(stream).where}/zarr.json", "read") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StoreRefused(
                f"{self._stream_place(stream).where}/zarr.json is damaged ({error}): restore that file from a copy"
            ) from error

    def _chosen(self, stream: str | None) -> list[str]:
        """The named stream, or all of them. Raises `StoreRefused` with the nearest name."""
        if stream is not None and self._stream_place(stream).exists("zarr.json"):
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
