"""The store of captions: create it, write streams into it, ask it by time."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.core.clock import Moment, nanoseconds, time_window
from pipeline.core.errors import StoreRefused
from pipeline.store.compaction import Compaction
from pipeline.store.durable_files import TEMPORARY, refusal
from pipeline.store.erasing import ErasedRows
from pipeline.store.place import place_of
from pipeline.store.row_query import (
    RowFilter,
    find_captions,
    find_clocks,
    find_cuts,
    find_efforts,
    find_gaps,
    find_observations,
    find_tracks,
    holds_tracks,
)
from pipeline.store.segment import SCHEMA, schema_number
from pipeline.store.store_reader import StoreReader
from pipeline.store.stream_info import StreamInfo, check_stream_id
from pipeline.store.stream_writer import StreamWriter, forget_unwritten
from pipeline.store.zarr_metadata import group_document
from sca.small_files import parsed_json

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.store.feed import CaptionFeed
    from pipeline.store.stored_dataset import StoredDataset

# Arrow is imported by the methods that return its tables: a few rows are read in less time than that takes.

Box = tuple[float, float, float, float]


class CaptionStore(StoreReader):
    """A directory of streams. Any number of processes may read while one writer per stream writes.

    Times given may be ns UTC, `datetime` with a zone, or `numpy.datetime64` (UTC); both ends count. Every query
    raises StoreRefused when `start` is after `end` or the stream is unknown. A damaged segment is left out of the answer:
    `damage()` names it, and `gaps()` tells its time; opened `strict`, the store raises for it.
    """

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
    def open_planned(cls, path: str | Path) -> CaptionStore:
        """Open the store that a run made or found as it began. Raises `StoreRefused`, in other words where it has gone since."""
        if not (place := place_of(path)).far and not place.exists("zarr.json"):
            raise StoreRefused(
                f"{path} was removed or moved while the run went on: put it back, or run again with another --store"
            )
        return cls.open(path)

    @classmethod
    def open(cls, path: str | Path, *, strict: bool = False) -> CaptionStore:
        """Open an existing store. Raises `StoreRefused` when it is not one, or one of another schema."""
        place = place_of(path)
        try:
            document = parsed_json(place.read("zarr.json"))
        except (FileNotFoundError, NotADirectoryError):
            what = "is not a caption store" if place.exists() else "does not exist"
            raise StoreRefused(f"{path} {what}: give the .zarr directory that `sca run` wrote") from None
        except OSError as error:
            raise refusal(error, path, "open") from error
        except ValueError:
            raise StoreRefused(f"{path} has a damaged zarr.json: restore that file from a copy") from None
        attrs = document.get("attributes") if isinstance(document, dict) else None
        if not isinstance(attrs, dict) or "schema" not in attrs:
            raise StoreRefused(f"{path} is a Zarr hierarchy of another kind: choose another store")
        schema_number(attrs, str(path))
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

        A store of an earlier schema that is read goes on as one of this: see `docs/store-schema-policy.md`.
        Raises `StoreRefused` when another process writes it (its pid is named) or the place cannot be written.
        """
        place = self._stream_place(check_stream_id(stream))
        try:
            place.prepare()
        except OSError as error:
            raise refusal(error, place.where, "write to") from error
        self._go_on_in_this_schema()
        writer = StreamWriter(place.for_writer(), model=info.model, compaction=compaction, clock=clock)
        try:
            known = self._info(stream)
            info = info.going_on_from(known)
            if known is None or info != known or not known.identity:
                place.put("zarr.json", info.document(stream))
            writer.identity = info.identity
        except BaseException as error:
            writer.close()
            if isinstance(error, OSError):
                raise refusal(error, place.where, "write to") from error
            raise
        return writer

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
        `counts`; `size` is its grid over the whole picture, see `pipeline.core.masks`) and `embedding`.
        """
        from pipeline.store import arrow_tables

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
        columns: Sequence[str] | None = None,
    ) -> pa.Table:
        """Where each tracked region was in each keyframe of [start, end], ordered by time, then track.

        `columns`: which to return, from the default ones (stream, track, t, t_s, score, x0, y0, x1, y1, frame, shot) and
        `mask` (as in `captions`; none where `recording.masks` was not `all`).
        """
        from pipeline.store import arrow_tables

        wanted = RowFilter(*time_window(start, end), track, None, min_score, box)
        names = tuple(columns or arrow_tables.OBSERVATION_COLUMNS)
        known = (*arrow_tables.OBSERVATION_COLUMNS, "mask")
        if unknown := [name for name in names if name not in known]:
            raise StoreRefused(f"no column {unknown[0]!r} in observations: choose from {', '.join(known)}")
        needed = tuple(dict.fromkeys((*names, "t", "track")))
        tables = self._ask(
            stream,
            wanted,
            lambda n, s: arrow_tables.observation_table(n, find_observations(s, wanted), needed),
        )
        return arrow_tables.by_time(tables, "t", limit).select(names)

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
        from pipeline.store import arrow_tables

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

        Segments that are missing show with the reason "lost", those that a question so far could not read with "damaged", and what
        came before the first that is there with "forgotten".
        """
        from pipeline.store import arrow_tables

        wanted = RowFilter(*time_window(start, end))
        tables = self._ask(stream, wanted, lambda n, s: arrow_tables.gap_table(n, find_gaps(s, wanted)))
        for name in self._chosen(stream):
            tables.append(arrow_tables.missing_table(name, self._missing(name)))
        tables = [arrow_tables.overlapping(table, wanted.start, wanted.end) for table in tables]
        return arrow_tables.by_time(tables, "t_start", None)

    def efforts(
        self, start: Moment | None = None, end: Moment | None = None, *, stream: str | None = None
    ) -> pa.Table:
        """From when on each stream got how much work, in [start, end]: stream, t, effort."""
        from pipeline.store import arrow_tables

        wanted = RowFilter(*time_window(start, end))
        tables = self._ask(
            stream, wanted, lambda n, s: arrow_tables.effort_table(n, *find_efforts(s, wanted))
        )
        return arrow_tables.by_time(tables, "t", None)

    def cuts(
        self, start: Moment | None = None, end: Moment | None = None, *, stream: str | None = None
    ) -> pa.Table:
        """Where shots begin in [start, end]: stream, t, pts_s. Nothing is followed over a cut."""
        from pipeline.store import arrow_tables

        wanted = RowFilter(*time_window(start, end))
        tables = self._ask(stream, wanted, lambda n, s: arrow_tables.cut_table(n, find_cuts(s, wanted)))
        return arrow_tables.by_time(tables, "t", None)

    def clocks(
        self, start: Moment | None = None, end: Moment | None = None, *, stream: str | None = None
    ) -> pa.Table:
        """Which clock gave the wall times of [start, end]: stream, t, pts_s, epoch, clock, drift_ppm.

        Each row holds until the next one: for a new epoch, another source of time, or the drift of the last minutes.
        """
        from pipeline.store import arrow_tables

        wanted = RowFilter(*time_window(start, end))
        tables = self._ask(stream, wanted, lambda n, s: arrow_tables.clock_table(n, find_clocks(s, wanted)))
        return arrow_tables.by_time(tables, "t", None)

    def dataset(self, table: str = "captions") -> StoredDataset:
        """A table as a `pyarrow.dataset.Dataset`: captions, observations, tracks, gaps, cuts, efforts, clocks or streams.

        DuckDB, polars and Arrow scan it with their filters and columns, which are looked up in the store: see `StoredDataset`.
        Raises `StoreRefused` for another name.
        """
        from pipeline.store.store_tables import stored_table

        return stored_table(self, table)

    def follow(
        self,
        start: Moment | None = None,
        *,
        stream: str | Sequence[str] | None = None,
        wanted: RowFilter | None = None,
        cursor: str | None = None,
        poll_s: float = 0.5,
        masks: bool = False,
        embeddings: bool = False,
    ) -> CaptionFeed:
        """What is stored from now on, as it comes: iterate over it for `NewCaption` and `NewGap`, each told once.

        `cursor`: go on behind this one, of an earlier feed of this store. Without one begin now, or with what was seen from
        `start` on. `wanted`: which captions. `stream`: of which streams; all by default, those too that begin later.
        Raises `UserError` for a cursor that is none, or of another store.
        """
        from pipeline.store.feed import CaptionFeed
        from pipeline.store.feed_cursor import FeedCursor

        wanted = wanted or RowFilter()
        if start is not None:
            wanted = replace(wanted, start=nanoseconds(start))
        named = [stream] if isinstance(stream, str) else list(dict.fromkeys(stream or ()))
        known = None if cursor is None else FeedCursor.read(cursor)
        return CaptionFeed(
            self, self._open, named, wanted, known, poll_s=poll_s, masks=masks, embeddings=embeddings
        )

    def archive_closed_days(self, now: Moment, *, stream: str | None = None) -> list[Path]:
        """Move every UTC day before the one of `now` into plain sharded Zarr groups `day/...zarr`, and tidy up.

        Takes the writer's place meanwhile: raises StoreRefused for a stream that is being written (its writer has
        the same method). Returns the archives made.
        """
        made = []
        self._go_on_in_this_schema()
        for name in self._chosen(stream):
            with self._changing(name) as writer:
                made += writer.archive_closed_days(nanoseconds(now))
        return made

    def forget_before(self, moment: Moment, *, stream: str | None = None) -> int:
        """Delete what was stored before `moment`, in whole segments and days. Returns how many went.

        Writes nothing, so that it frees a full disk. Takes the writer's place meanwhile, as `archive_closed_days` does.
        """
        count = 0
        for name in self._chosen(stream):
            place = self._stream_place(name).for_writer(at_once=True)
            try:
                count += forget_unwritten(place, nanoseconds(moment), time.time_ns())
            except OSError as error:
                raise refusal(error, place.where, "delete from") from error
        return count

    def erase(self, erased: ErasedRows, *, stream: str | None = None) -> int:
        """Take rows out of every file, for good. Returns how many went. Takes the writer's place, as `archive_closed_days` does."""
        self._go_on_in_this_schema()
        count = 0
        for name in self._chosen(stream):
            with self._changing(name) as writer:
                count += writer.erase(erased)
        self._open.clear()
        return count

    def upgrade(self, *, stream: str | None = None) -> int:
        """Write all files of an earlier schema anew in this one. Returns how many. Takes the writer's place meanwhile."""
        self._go_on_in_this_schema()
        count = 0
        for name in self._chosen(stream):
            with self._changing(name) as writer:
                count += writer.upgrade()
        self._open.clear()
        return count

    def compact(self, *, stream: str | None = None) -> None:
        """Merge what is due and delete what was replaced. Takes the writer's place meanwhile."""
        self._go_on_in_this_schema()
        for name in self._chosen(stream):
            with self._changing(name) as writer:
                writer.compact()

    @contextlib.contextmanager
    def _changing(self, stream: str) -> Iterator[StreamWriter]:
        """The writer's place, without merging beside it. When it is left, all that was changed is where the store is."""
        place = self._stream_place(stream).for_writer(at_once=True)
        writer = StreamWriter(place, compaction=Compaction(enabled=False))
        try:
            yield writer
        finally:
            try:
                writer.close()
            except OSError as error:
                raise refusal(error, place.where, "write to") from error

    def _go_on_in_this_schema(self) -> None:
        """Mark a store of an earlier schema as one of this, before the first segment of this is in it.

        Its segments stay as they are until they are merged. Programs that do not know this schema refuse the whole store
        from now on, in one line, and not one segment of it at some later time.
        """
        try:
            document = parsed_json(self._place.read("zarr.json"))
            if document["attributes"]["schema"] != SCHEMA:
                document["attributes"]["schema"] = SCHEMA
                self._place.put("zarr.json", json.dumps(document).encode())
        except OSError as error:
            raise refusal(error, self._place.where, "write to") from error
