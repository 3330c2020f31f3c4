"""Merging of small segments into larger ones, beside the commits."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.core.clock import NS
from pipeline.core.errors import StoreRefused
from pipeline.store.place import StorePlace
from pipeline.store.segment import SegmentAttributes, SegmentReader, encode_segment, resume_of
from pipeline.store.segment_name import DAY_LEVEL, SegmentName, Visible, superseded, visible
from pipeline.store.segment_rows import SegmentRows
from pipeline.store.stream_directory import FOLDERS, list_epochs, list_names, list_visible

# Forgetting what is older than a moment: whole segments and days, by their names alone.


def expired(names: Iterable[SegmentName], shown: Visible, cutoff_ns: int) -> list[SegmentName]:
    """Segments that end before `cutoff_ns`, in the order in which they may be deleted one by one.

    Only from the stream's beginning on, so that no hole appears, and never the last one: it tells where to go on. What
    a merge has replaced goes before the merge, or it would count again.
    """
    end = 0
    for segment in shown.segments[:-1]:
        if segment.t_max >= cutoff_ns:
            break
        end = segment.hi
    return sorted((n for n in names if n.hi <= end), key=lambda n: (n in shown.segments, n.lo))


def delete_segments(place: StorePlace, names: Iterable[SegmentName]) -> None:
    """Delete in the given order. Raises OSError."""
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            place.delete(name.path)
    for folder in FOLDERS:
        place.settle(folder)


log = logging.getLogger(__name__)

RETRY_S = 60.0


@dataclass(frozen=True, slots=True)
class Compaction:
    """When to merge. At one commit a second 60 make a minute, 60 minutes an hour.

    `grace_s`: how long merged segments stay for readers that have already listed them; longer than any query takes.
    `archive_days`: whether closed UTC days become archives, `keep_s`: how long rows are kept (None: for ever); both are
    looked after once in `housekeeping_s`. For streams of the present only: a recording's days close as they are read.
    """

    fan_in: int = 60
    grace_s: float = 120.0
    enabled: bool = True
    archive_days: bool = False
    keep_s: float | None = None
    housekeeping_s: float = 3600.0


def next_merge(segments: Sequence[SegmentName], fan_in: int) -> tuple[SegmentName, ...]:
    """The oldest `fan_in` consecutive segments of one level below the top; empty when there is nothing to merge."""
    run: list[SegmentName] = []
    for segment in segments:
        if run and (segment.level != run[-1].level or segment.lo != run[-1].hi):
            run = []
        run.append(segment)
        if len(run) == fan_in and segment.level < DAY_LEVEL - 1:
            return tuple(run)
        if segment.level >= DAY_LEVEL - 1:
            run = []
    return ()


def merge(place: StorePlace, inputs: Sequence[SegmentName], epoch: int) -> SegmentName:
    """Write consecutive segments as one of the next level. Doing it again gives the same rows.

    Raises `StoreRefused` for a damaged input, OSError when the disk refuses.
    """
    parts: list[SegmentRows] = []
    attrs = {}
    for name in inputs:
        reader = SegmentReader(place, name.path)
        parts.append(reader.rows())
        attrs = reader.attrs
        reader.close()
    level = inputs[0].level + 1
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
    )
    place.put(output.path, encode_segment(SegmentRows.join(parts), attributes))
    return output


def bury(place: StorePlace, grace_s: float, now: float) -> int:
    """Delete segments that were replaced more than `grace_s` ago. Returns how many are still waiting."""
    names = list_names(place)
    shown = visible(names, {claim.epoch: claim.start_seq for claim in list_epochs(place)})
    waiting = 0
    for old, cover in superseded(names, shown):
        with contextlib.suppress(FileNotFoundError):
            if now - place.stamp(cover.path).modified_ns / NS < grace_s:
                waiting += 1
            else:
                place.delete(old.path)
    return waiting


class Compactor:
    """Merges and buries in its own thread. A failure is logged and tried again later; commits never see it."""

    def __init__(self, place: StorePlace, epoch: int, settings: Compaction) -> None:
        self.mutex = threading.Lock()  # held while segments are being replaced
        self._place = place
        self._stream = place.where.rpartition("/")[2]
        self._epoch = epoch
        self._settings = settings
        self._wake = threading.Event()
        self._kept_house = time.monotonic()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=f"compact-{self._stream}", daemon=True)
        if settings.enabled:
            self._thread.start()

    def committed(self, seq: int) -> None:
        """Tell of a commit; only every `fan_in` of them can make work."""
        if (seq + 1) % self._settings.fan_in == 0:
            self._wake.set()

    def close(self) -> None:
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()

    def run_once(self) -> int:
        """Do all merges that are due now. Returns the number of replaced segments that wait for their grace."""
        with self.mutex:
            while not self._stopping:
                inputs = next_merge(list_visible(self._place).segments, self._settings.fan_in)
                if not inputs:
                    break
                merge(self._place, inputs, self._epoch)
            return bury(self._place, self._settings.grace_s, time.time())

    def archive(self, now_ns: int) -> list[SegmentName]:
        """Build the archives of closed days, then bury what they replaced once its grace is over."""
        from pipeline.store.day_archive import build_day, closed_days

        folder = self._place.folder
        if folder is None:
            raise StoreRefused(
                f"{self._place.where}: day archives are made on local disks only; leave them out"
            )
        with self.mutex:
            days = closed_days(list_visible(self._place).segments, now_ns)
            made = [build_day(folder, date, inputs, self._epoch) for date, inputs in days]
            bury(self._place, self._settings.grace_s, time.time())
            return made

    def forget(self, cutoff_ns: int) -> int:
        """Delete segments that end before `cutoff_ns`. Returns how many of those that counted."""
        with self.mutex:
            shown = list_visible(self._place)
            old = expired(list_names(self._place), shown, cutoff_ns)
            delete_segments(self._place, old)
            return len(set(old) & set(shown.segments))

    def _run(self) -> None:
        timeout: float | None = 0.0
        while not self._stopping:
            self._wake.wait(timeout)
            self._wake.clear()
            if self._stopping:
                return
            try:
                timeout = self._settings.grace_s if self.run_once() else None
                self._keep_house()
            except (OSError, ValueError) as error:
                log.warning("segments of %s not merged, trying again: %s", self._stream, error)
                timeout = RETRY_S

    def _keep_house(self) -> None:
        """Archive closed days and forget what is too old, when it is time to."""
        settings = self._settings
        if time.monotonic() - self._kept_house < settings.housekeeping_s:
            return
        self._kept_house = time.monotonic()
        if settings.archive_days and self._place.folder is not None:
            self.archive(time.time_ns())
        if settings.keep_s is not None:
            self.forget(time.time_ns() - round(settings.keep_s * NS))
