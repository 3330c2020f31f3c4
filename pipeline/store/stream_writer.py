"""The one writer of a stream: claims it, commits batches durably, and knows where to go on."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from pipeline.core.errors import StoreRefused
from pipeline.core.records import Batch, ResumePoint
from pipeline.store.compaction import Compaction, Compactor, forget_by
from pipeline.store.damage import SegmentDamaged
from pipeline.store.durable_files import is_full, refusal
from pipeline.store.erasing import ErasedRows, erase
from pipeline.store.place import Hold, PlaceHeld, StorePlace
from pipeline.store.retention import forget
from pipeline.store.rewriting import upgrade
from pipeline.store.row_query import StoredSegment, open_segment
from pipeline.store.segment import SegmentAttributes, encode_segment, resume_of
from pipeline.store.segment_name import AHEAD_NS, SegmentName, Visible
from pipeline.store.segment_rows import SegmentRows, last_end
from pipeline.store.stream_directory import (
    FOLDERS,
    EpochClaim,
    list_epochs,
    list_visible,
    newest_epoch,
    next_epoch,
    prune_epochs,
    remove_temporaries,
)

log = logging.getLogger(__name__)


class StreamWriter:
    """Appends to one stream. Use as a context manager; made by `CaptionStore.writer`. `clock`: wall ns.

    Raises `StoreRefused` when another process writes this stream (its pid is named) or the directory refuses.
    """

    def __init__(
        self,
        place: StorePlace,
        *,
        model: str = "",
        compaction: Compaction | None = None,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self.stream = place.where.rpartition("/")[2]
        self._place = place
        self._model = model
        self.identity = ""  # of the stream, as its description has it
        self._mutex = threading.Lock()
        self._closed = False
        self._uncertain = self._committed = False
        self._told_of_numbers = False
        self._clock = clock
        settings = compaction or Compaction()
        try:
            for folder in (*FOLDERS, "epoch"):
                place.prepare(folder)
            place.settle()
            self._lock = hold_stream(place)
            try:
                remove_temporaries(place)
                if settings.enabled:  # on a full disk nothing can be written before it
                    forget_by(place, settings, clock())
                try:
                    self._epoch, self._seq, self._resume = self._claim()
                except OSError as error:
                    if not (settings.enabled and settings.forgets and is_full(error)):
                        raise
                    forget_by(place, settings, clock(), full=True)
                    self._epoch, self._seq, self._resume = self._claim()
                self._start_seq = self._seq
                prune_epochs(place)
            except BaseException:
                self._lock.release()
                raise
        except OSError as error:
            raise refusal(error, place.where, "write to") from error
        self._compactor = Compactor(place, self._epoch, settings, clock)

    @property
    def resume(self) -> ResumePoint:
        """How far the stream is stored. Go on from here, never from memory: a commit may have become durable
        although the process died before it heard of it."""
        return self._resume

    @property
    def epoch(self) -> int:
        return self._epoch

    def commit(self, batch: Batch) -> None:
        """Store a batch. When this returns, its rows are on disk and visible to readers, all of them.

        A batch without rows still moves the resume point; a default resume point leaves it where it was. Raises
        StoreRefused when the batch cannot be stored (also for a time more than a day ahead of the writer's clock, which no
        retention would ever reach) or the disk refuses; then nothing of it is visible and the same
        batch can be committed again.
        """
        told: list[str] = []
        rows = SegmentRows.of(batch, self._clock() + AHEAD_NS, told)
        if told and not self._told_of_numbers:
            self._told_of_numbers = True
            log.warning("stream %s: %s; this is told once", self.stream, ", ".join(told))
        with self._mutex:
            if self._closed or self._uncertain:
                state = "closed" if self._closed else "unsure of its last commit"
                raise StoreRefused(f"the writer of stream {self.stream} is {state}: open a new one")
            resume = batch.resume if batch.resume != ResumePoint() else self._resume
            span = rows.time_range
            if span is None and not len(rows.trk) and resume == self._resume:
                return
            t_min, t_max = span or (resume.wall_ns if resume.wall_ns > 0 else last_end(rows.trk),) * 2
            name = SegmentName.hot(self._seq, self._seq + 1, self._epoch, t_min, t_max, 0)
            attributes = SegmentAttributes(
                stream=self.stream,
                lo=name.lo,
                hi=name.hi,
                epoch=name.epoch,
                level=0,
                t_min=t_min,
                t_max=t_max,
                created_ns=time.time_ns(),
                resume=resume,
                model=self._model,
                stream_id=self.identity,
            )
            self._put(name, encode_segment(rows, attributes))
            self._seq += 1
            self._committed = True
            self._resume = resume
        self._compactor.committed(name.lo)

    def compact(self) -> None:
        """Do now what the background thread would do: merge what is due, delete what was replaced long enough ago.

        A damaged segment is left as it is, and a warning names it. Raises `StoreRefused` when the disk refuses.
        """
        try:
            self._compactor.run_once()
        except OSError as error:
            raise refusal(error, self._place.where, "write to") from error

    def archive_closed_days(self, now_ns: int) -> list[Path]:
        """Turn every UTC day before that of `now_ns` into a day archive. Returns the archives made.

        Commits go on meanwhile. A damaged segment is left as it is, and a warning names it. Raises `StoreRefused` when the
        disk refuses.
        """
        try:
            made = self._compactor.archive(now_ns)
        except OSError as error:
            raise refusal(error, f"{self._place.where}/day", "write") from error
        assert self._place.folder is not None
        return [self._place.folder / name.path for name in made]

    def forget_before(self, cutoff_ns: int) -> int:
        """Delete what was stored before wall ns `cutoff_ns`, in whole segments and days. Returns how many went.

        A segment that reaches past the moment stays. Raises `StoreRefused` when the disk refuses.
        """
        try:
            return self._compactor.forget(cutoff_ns)
        except OSError as error:
            raise refusal(error, self._place.where, "delete from") from error

    def erase(self, erased: ErasedRows) -> int:
        """Take rows out of every file of the stream. Returns how many went.

        Raises `StoreRefused` when the disk refuses, and for a damaged segment, which may hold some of them.
        """
        try:
            with self._mutex, self._compactor.mutex:
                self._begin_anew()
                return erase(self._place, self._epoch, erased)
        except OSError as error:
            raise refusal(error, self._place.where, "erase from") from error

    def upgrade(self) -> int:
        """Write every segment and archive of an earlier schema anew in this one. Returns how many there were.

        Raises `StoreRefused` when the disk refuses, and for a damaged one.
        """
        try:
            with self._mutex, self._compactor.mutex:
                self._begin_anew()
                return upgrade(self._place, self._epoch)
        except OSError as error:
            raise refusal(error, self._place.where, "write to") from error

    def close(self) -> None:
        """Stop merging and give the stream free. Committed rows need no closing."""
        with self._mutex:
            if self._closed:
                return
            self._closed = True
        self._compactor.close()
        self._tell_the_end()
        self._lock.release()

    def __enter__(self) -> StreamWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _put(self, name: SegmentName, data: bytes) -> None:
        """Make a segment durable. Raises `StoreRefused`; then nobody sees it, unless this writer is unsure of that."""
        try:
            with contextlib.suppress(FileNotFoundError):
                if newest_epoch(self._place) > self._epoch:
                    raise self._taken_over()
            if self._is_gone():
                raise self._removed()
            self._place.put(name.path, data)
            if self._is_gone():
                self._take_back(name)
                raise self._removed()
            with contextlib.suppress(FileNotFoundError):
                if newest_epoch(self._place) > self._epoch:
                    self._take_back(name)
                    raise self._taken_over()
        except OSError as error:
            # The rename may have come before the failure: a batch that was refused must not be seen.
            self._take_back(name)
            self._compactor.refused(error)
            if self._is_gone():
                raise self._removed() from error
            raise refusal(error, f"{self._place.where}/{name.path}", "write") from error

    def _is_gone(self) -> bool:
        """Whether this writer's claim is no longer there, as when the folder was removed, moved or put back from a copy.

        Not asked over a network, where each write is refused to a writer that has lost its lease.
        """
        if self._place.far:
            return False
        key, stamp = self._claimed
        try:
            return self._place.stamp(key) != stamp
        except (FileNotFoundError, NotADirectoryError):
            return True

    def _removed(self) -> StoreRefused:
        self._uncertain = True
        where = self._place.where.removesuffix(f"/streams/{self.stream}")
        return StoreRefused(
            f"{where} was removed, moved or replaced while stream {self.stream} was written to it: what was stored there is where "
            "it went, the rows since are stored nowhere; put it back, or run again with another --store"
        )

    def _take_back(self, name: SegmentName) -> None:
        try:
            with contextlib.suppress(FileNotFoundError):
                self._place.delete(name.path)
        except OSError:
            self._uncertain = True

    def _taken_over(self) -> StoreRefused:
        self._uncertain = True
        return StoreRefused(
            f"stream {self.stream} was taken over by another writer: stop this process, the other one goes on"
        )

    def _begin_anew(self) -> None:
        """Claim another epoch: an archive that this writer has built would be written anew under its own name, and no folder replaces another in one step."""
        self._epoch, self._seq, _ = self._claim()
        self._start_seq = self._seq
        self._compactor.epoch = self._epoch

    def _tell_the_end(self) -> None:
        """Add to the claim how far it came, so that a copy that lacks the last commits can be told from one that never had them."""
        if (
            self._place.far or self._uncertain or not self._committed
        ):  # what is uploaded later would be missing until then
            return
        try:
            if newest_epoch(self._place) == self._epoch:
                claim = EpochClaim(self._epoch, self._start_seq, socket.gethostname(), os.getpid(), self._seq)
                self._place.put(f"epoch/{self._epoch:04d}.json", claim.document())
        except OSError as error:  # a full disk must not end a run that has stored all it could
            log.warning("stream %s: its end could not be written down: %s", self.stream, error)

    def _claim(self) -> tuple[int, int, ResumePoint]:
        """Create the next epoch, then see what is stored: whoever commits with an older epoch now is fenced off.

        Numbers of commits that are missing at the end are not given again: files that are put back count, and a feed that
        was told of them passes by none that is new.
        """
        epoch = next_epoch(self._place)
        key = f"epoch/{epoch:04d}.json"
        self._place.claim(key)
        shown = list_visible(self._place)
        start = shown.reached
        claim = EpochClaim(epoch, start, socket.gethostname(), os.getpid())
        self._place.put(key, claim.document())
        if not self._place.far:
            self._claimed = key, self._place.stamp(key)
        return epoch, start, newest_resume(self._place, shown)


def newest_resume(place: StorePlace, shown: Visible) -> ResumePoint:
    """Where the stream goes on after the newest segment that can be read; what comes after it is seen again."""
    damaged: set[str] = set()
    while shown.segments:
        name = shown.segments[-1]
        try:
            last = _opened(place, name)
        except SegmentDamaged as error:
            log.warning("going on from before it: %s", error)
            damaged.add(name.path)
            shown = list_visible(place, without=damaged)  # what it was made from may be there
            continue
        last.close()
        return resume_of(last.attrs)
    return ResumePoint()


def _opened(place: StorePlace, name: SegmentName) -> StoredSegment:
    """A segment, looked at twice where the disk failed: if it only stumbled, what it holds must not be written again."""
    try:
        return open_segment(place, name)
    except SegmentDamaged as error:
        if not isinstance(error.__cause__, OSError):
            raise
    return open_segment(place, name)


def hold_stream(place: StorePlace) -> Hold:
    """Become the only one who changes a stream. Raises `StoreRefused` naming who does."""
    try:
        return place.hold("writer.lock")
    except PlaceHeld:
        claims = list_epochs(place)
        holder = f"process {claims[-1].pid} on {claims[-1].host}" if claims else "another process"
        stream = place.where.rpartition("/")[2]
        raise StoreRefused(
            f"stream {stream} in {place.where.removesuffix(f'/streams/{stream}')} is being written by {holder}: "
            "wait for it, stop it, or write under another stream name"
        ) from None


def forget_unwritten(place: StorePlace, cutoff_ns: int, clock_ns: int) -> int:
    """`forget` in a stream that nobody writes. Raises `StoreRefused` where somebody does, OSError."""
    lock = hold_stream(place)
    try:
        return forget(place, cutoff_ns, clock_ns)
    finally:
        lock.release()


def keep_numbers(place: StorePlace) -> None:
    """See to it that numbers of commits which are stored now are not given again, though their files go: cursors know them.

    A run that writes the stream does so by itself. Where nothing can be written it is left.
    """
    with contextlib.suppress(StoreRefused):
        StreamWriter(place, compaction=Compaction(enabled=False)).close()
