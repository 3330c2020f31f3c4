"""Merging of small segments into larger ones, beside the commits."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from pipeline.core.clock import DAY_NS, NS
from pipeline.core.errors import StoreRefused
from pipeline.store.damage import SegmentRefused
from pipeline.store.durable_files import is_full
from pipeline.store.joined_segments import JoinedSegments
from pipeline.store.place import StorePlace
from pipeline.store.retention import all_expired, forget, forget_to_fit
from pipeline.store.row_query import verify_segment
from pipeline.store.segment import (
    SegmentAttributes,
    SegmentReader,
    encode_segment,
    refuse_unknown_tables,
    resume_of,
)
from pipeline.store.segment_name import DAY_LEVEL, SegmentName, superseded, visible
from pipeline.store.stream_directory import list_epochs, list_names, list_visible

log = logging.getLogger(__name__)

RETRY_S = 60.0
# What a merge may read, and so what it may hold in memory: compressed twice, and the chunks that are open.
MERGED_BYTES = 64 << 20
_TOP = DAY_LEVEL - 1
# Merges in a row before the house is looked after: a writer that never pauses always has another one due.
_MERGES = 16
# How long a segment that cannot be merged is left alone: its owner may put a copy in its place.
SET_ASIDE_S = 3600.0


@dataclass(frozen=True, slots=True)
class Compaction:
    """When to merge. At one commit a second 60 make a minute, 60 minutes an hour.

    `grace_s`: how long merged segments stay for readers that have already listed them; longer than any query takes.
    `archive_days`: whether closed UTC days become archives, `keep_s`: how long rows are kept (None: for ever), `keep_bytes`: how
    much of them (None: all); these are looked after once in `housekeeping_s`. For streams of the present only: a recording's
    days close as they are read.
    """

    fan_in: int = 60
    grace_s: float = 120.0
    enabled: bool = True
    archive_days: bool = False
    keep_s: float | None = None
    keep_bytes: int | None = None
    housekeeping_s: float = 3600.0

    @property
    def forgets(self) -> bool:
        """Whether rows go by themselves."""
        return self.keep_s is not None or self.keep_bytes is not None


def next_merge(
    segments: Sequence[SegmentName],
    fan_in: int,
    skip: Collection[str] = frozenset(),
    size_of: Callable[[SegmentName], int] = lambda _: 0,
) -> tuple[SegmentName, ...]:
    """The oldest consecutive segments of one level that are due; empty when there is nothing to merge.

    `fan_in` of them are due, or fewer where as many would make more than MERGED_BYTES. Those of the highest level make
    one of the same level, of the same UTC day, also fewer when that day is over. A segment of half of MERGED_BYTES is
    full: it stays as it is, and what lies before it has nothing to wait for. `skip`: paths of segments that cannot be merged. `size_of`: bytes of a segment.
    """
    run: list[SegmentName] = []
    held = 0
    for segment in segments:
        alone = segment.path in skip or segment.level == DAY_LEVEL
        size = 0 if alone else size_of(segment)
        full = not alone and size >= MERGED_BYTES // 2
        follows = bool(run) and segment.lo == run[-1].hi
        # Hours of another day do not join: what is kept for days is forgotten in whole segments.
        over = full or (follows and segment.level == run[-1].level == _TOP and _day(segment) != _day(run[-1]))
        if over and follows and len(run) > 1:
            return tuple(run)
        if alone or full:
            run, held = [], 0
            continue
        if over or not follows or segment.level != run[-1].level:
            run, held = [], 0
        if held + size > MERGED_BYTES:
            return tuple(run)
        run.append(segment)
        held += size
        if len(run) == fan_in:
            return tuple(run)
    return ()


def _day(name: SegmentName) -> int:
    return name.t_max // DAY_NS


def merge(place: StorePlace, inputs: Sequence[SegmentName], epoch: int) -> SegmentName:
    """Write consecutive segments as one of the next level. Doing it again gives the same rows.

    Raises `SegmentRefused` for a damaged input, OSError when the disk refuses.
    """
    readers: list[SegmentReader] = []
    try:
        for name in inputs:
            readers.append(SegmentReader(place, name.path))
            refuse_unknown_tables(readers[-1].attrs, f"{place.where}/{name.path}", name.path)
        return _write_merged(place, inputs, readers, epoch)
    finally:
        for reader in readers:
            reader.close()


def _write_merged(
    place: StorePlace, inputs: Sequence[SegmentName], readers: Sequence[SegmentReader], epoch: int
) -> SegmentName:
    attrs = readers[-1].attrs
    level = min(inputs[0].level + 1, _TOP)
    t_min, t_max = min(n.t_min for n in inputs), max(n.t_max for n in inputs)
    output = SegmentName.hot(inputs[0].lo, inputs[-1].hi, epoch, t_min, t_max, level)
    attributes = SegmentAttributes(
        stream=attrs["stream"],
        lo=output.lo,
        hi=output.hi,
        epoch=epoch,
        level=level,
        t_min=t_min,
        t_max=t_max,
        created_ns=attrs["created_ns"],
        resume=resume_of(attrs),
        model=attrs["model"],
        stream_id=attrs.get("stream_id", ""),
    )
    place.put(output.path, encode_segment(JoinedSegments(readers), attributes))
    return output


def bury(
    place: StorePlace,
    grace_s: float,
    now: float,
    skip: Collection[str] = frozenset(),
    set_aside: Callable[[SegmentRefused], None] = lambda _: None,
) -> int:
    """Delete segments that were replaced more than `grace_s` ago. Returns how many are still waiting.

    Not before every byte of what replaced them was read: where that is damaged, they are all that is left, and `set_aside` hears
    of it. `skip`: paths of segments that were set aside.
    """
    names = list_names(place)
    shown = visible(names, {claim.epoch: claim.start_seq for claim in list_epochs(place)})
    waiting = 0
    whole: dict[str, bool] = {}
    for old, cover in superseded(names, shown):
        if cover.path in skip:
            continue
        with contextlib.suppress(FileNotFoundError):
            # A time to come was written by a clock that was wrong: it would be waited for.
            if abs(now - place.stamp(cover.path).modified_ns / NS) < grace_s:
                waiting += 1
                continue
            if cover.path not in whole:
                try:
                    verify_segment(place, cover)
                    whole[cover.path] = True
                except SegmentRefused as error:
                    whole[cover.path] = False
                    set_aside(error)
            if whole[cover.path]:
                place.delete(old.path)
    return waiting


def forget_by(place: StorePlace, settings: Compaction, clock_ns: int, full: bool = False) -> None:
    """Delete what is to be kept no longer, by age and then by size. Writes nothing. Raises OSError.

    Where all of it is too old either nothing was recorded for long, or the clock is wrong, as that of a machine without a battery is
    until it has asked for the time. Then nothing goes before something newer is stored, unless the disk is `full`.
    """
    if settings.keep_s is not None:
        cutoff_ns = clock_ns - round(settings.keep_s * NS)
        if full or not all_expired(list_visible(place), cutoff_ns):
            forget(place, cutoff_ns, clock_ns)
        else:
            log.warning(
                "all that is stored of stream %s is older than what is kept: it goes as soon as something newer is stored; is "
                "the clock right?",
                place.where.rpartition("/")[2],
            )
    if settings.keep_bytes is not None:
        forget_to_fit(place, settings.keep_bytes)


class Compactor:
    """Merges, buries, forgets and archives in its own thread. A failure is logged and tried again later; commits never see it.

    What cannot be merged or archived, because it is damaged, is left as it is and the rest goes on without it.
    `clock`: wall ns.
    """

    def __init__(
        self, place: StorePlace, epoch: int, settings: Compaction, clock: Callable[[], int] = time.time_ns
    ) -> None:
        self.mutex = threading.Lock()  # held while segments are being replaced
        self._place = place
        self._stream = place.where.rpartition("/")[2]
        self.epoch = epoch
        self._settings = settings
        self._clock = clock
        self._wake = threading.Event()
        self._kept_house = time.monotonic()
        self._short_of_space = self._full = False
        self._more_due = False
        self._set_aside_until: dict[str, float] = {}
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=f"compact-{self._stream}", daemon=True)
        if settings.enabled:
            self._thread.start()

    def committed(self, seq: int) -> None:
        """Tell of a commit; only every `fan_in` of them can make work."""
        if (seq + 1) % self._settings.fan_in == 0:
            self._wake.set()

    def refused(self, error: OSError) -> None:
        """Tell of a commit that the disk refused: what may be forgotten goes now."""
        self._short_of_space = True
        self._full |= is_full(error)
        self._wake.set()

    def close(self) -> None:
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()

    def run_once(self, most: int | None = None) -> int:
        """Do the merges that are due now, `most` at most. Returns the number of replaced segments that wait for their grace."""
        with self.mutex:
            self._more_due = False
            done = 0
            try:
                while not self._stopping:
                    if done == most:
                        self._more_due = True
                        break
                    shown = list_visible(self._place)
                    inputs = next_merge(shown.segments, self._settings.fan_in, self._skipped(), self._size_of)
                    if not inputs:
                        break
                    try:
                        merge(self._place, inputs, self.epoch)
                    except SegmentRefused as error:
                        self._set_aside(error)
                    done += 1
            finally:  # a full disk refuses the merge, and this is what frees it
                waiting = self._bury()
            return waiting

    def archive(self, now_ns: int) -> list[SegmentName]:
        """Build the archives of closed days, then bury what they replaced once its grace is over."""
        from pipeline.store.day_archive import build_day, closed_days

        folder = self._place.folder
        if folder is None:
            raise StoreRefused(
                f"{self._place.where}: day archives are made on local disks only; leave them out"
            )
        made: list[SegmentName] = []
        with self.mutex:
            try:
                again = True
                while again:
                    again = False
                    segments = list_visible(self._place).segments
                    days = closed_days(segments, now_ns, clock_ns=self._clock(), skip=self._skipped())
                    for date, inputs in days:
                        try:
                            made.append(build_day(self._place, folder, date, inputs, self.epoch))
                        except SegmentRefused as error:
                            self._set_aside(error)
                            again = True  # the rest of that day, without it
            finally:
                self._bury()
            return made

    def forget(self, cutoff_ns: int) -> int:
        """Delete segments that end before `cutoff_ns`. Returns how many of those that counted."""
        with self.mutex:
            return forget(self._place, cutoff_ns, self._clock())

    def _bury(self) -> int:
        return bury(self._place, self._settings.grace_s, time.time(), self._skipped(), self._set_aside)

    def _size_of(self, name: SegmentName) -> int:
        try:
            return self._place.stamp(name.path).size
        except OSError:  # a link to nothing or to itself: merging finds out, and sets it aside
            return 0

    def _set_aside(self, error: SegmentRefused) -> None:
        log.warning("stream %s is merged and archived without one segment: %s", self._stream, error)
        self._set_aside_until[error.key] = time.monotonic() + SET_ASIDE_S

    def _skipped(self) -> frozenset[str]:
        now = time.monotonic()
        return frozenset(key for key, until in self._set_aside_until.items() if until > now)

    def _run(self) -> None:
        timeout: float | None = 0.0
        while not self._stopping:
            self._wake.wait(timeout)
            self._wake.clear()
            if self._stopping:
                return
            timeout = self._work()

    def _work(self) -> float | None:
        """Everything that is due. Returns after how many s there is more to do; None when a commit will tell.

        What frees space comes first, and no step waits for another to succeed.
        """
        settings = self._settings
        due = time.monotonic() - self._kept_house >= settings.housekeeping_s
        failed, waiting = False, 0
        if settings.forgets and (due or self._short_of_space):
            self._short_of_space = False
            failed |= self._failed("forgotten", self._forget_old)
            self._full = False
        try:
            waiting = self.run_once(_MERGES)
        except (OSError, ValueError) as error:
            failed = self._short_of_space = True
            self._full |= is_full(error)
            log.warning("segments of %s not merged, trying again: %s", self._stream, error)
        if due and settings.archive_days and self._place.folder is not None:
            failed |= self._failed("archived", lambda: self.archive(self._clock()))
        if due and not failed:
            self._kept_house = time.monotonic()
        if failed:
            return RETRY_S
        if self._more_due:
            return 0.0
        return settings.grace_s if waiting else None

    def _forget_old(self) -> None:
        with self.mutex:
            forget_by(self._place, self._settings, self._clock(), self._full)

    def _failed(self, what: str, step: Callable[[], object]) -> bool:
        try:
            step()
        except (OSError, ValueError) as error:
            log.warning("segments of %s not %s, trying again: %s", self._stream, what, error)
            return True
        return False
