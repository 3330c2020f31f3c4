"""Uploading what a writer has put on its disk, in order of commit, and deleting in the bucket what it has deleted here.

Nothing counts as uploaded before it was seen that no other writer has taken the stream over; nothing is deleted in the bucket before
what replaces it is there. So whoever reads the bucket sees a stream without holes that ends a little earlier, and a process that is
killed leaves only work behind.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import threading
import time
from collections.abc import Collection, Sequence
from typing import Protocol

from pipeline.core.errors import StoreRefused
from pipeline.store.durable_files import FarPlaceRefused, files_below
from pipeline.store.place import FarPlace, LocalPlace, Stamp, StorePlace
from pipeline.store.segment_name import SegmentName
from pipeline.store.stream_directory import claimed_epoch, list_visible

log = logging.getLogger(__name__)

CYCLE_S = 15.0
LAG_S = 90.0
"""A commit that was not merged until then is uploaded by itself."""
KEPT_S = 26 * 3600.0
"""How long what is uploaded stays on the disk: merges of a day read it here and not over the network."""
_MOST_WAIT_S = 120.0
# A run that ends waits so often for a network that fails before it leaves the rest to the next one.
_LAST_TRIES = 3


def due_uploads(
    segments: Sequence[SegmentName],
    uploaded: Collection[str],
    ages_s: dict[str, float],
    *,
    everything: bool = False,
) -> list[SegmentName]:
    """What is to be uploaded now of the segments that count, in order: from the first that is missing to the last that is merged or older than LAG_S.

    `uploaded`: paths in the bucket; `ages_s`: of those on the disk. A segment that will soon be merged is left, unless
    `everything` is to go; one that is neither here nor there ends the list.
    """
    last = -1
    for number, segment in enumerate(segments):
        here = segment.path in ages_s
        if everything or segment.level > 0 or (here and ages_s[segment.path] >= LAG_S):
            last = number
    due: list[SegmentName] = []
    for segment in segments[: last + 1]:
        if segment.path in uploaded:
            continue
        if segment.path not in ages_s:
            break
        due.append(segment)
    return due


class Spool(StorePlace, Protocol):
    """What is uploaded from: see `SpoolPlace`."""

    local: LocalPlace
    remote: FarPlace
    mutex: threading.Lock
    uploaded: dict[str, dict[str, Stamp]]
    epochs: dict[str, Stamp]
    going: dict[str, None]
    again: set[str]
    own_epoch: int

    def look_for_epochs(self) -> None: ...


class Uploader:
    """A thread that makes the bucket follow the disk. A network that fails is tried again, and is told once."""

    def __init__(self, place: Spool) -> None:
        self._place = place
        self._stream = place.where.rpartition("/")[2]
        self._wake = threading.Event()
        self._stopping = False
        self._failures = 0
        self._overtaken = False
        self._thread = threading.Thread(target=self._run, name=f"upload-{self._stream}", daemon=True)
        self._thread.start()

    def put(self, key: str) -> None:
        """Tell of a segment on the disk; those of one commit wait to be merged."""
        name = SegmentName.parse(*key.split("/", 1))
        if name is not None and name.level > 0 and not self._failures:
            self._wake.set()

    def finish(self, at_once: bool = False) -> None:
        """Upload all that is left and stop. What a network that fails keeps back is told, and goes up at the next start.

        `at_once`: raise OSError for it instead.
        """
        self._stopping = True
        self._wake.set()
        self._thread.join()
        for attempt in range(1 if self._failures and not at_once else _LAST_TRIES):
            if self._cycled(everything=True) or self._overtaken:
                break
            time.sleep(min(2.0**attempt, 5.0) if attempt + 1 < _LAST_TRIES else 0)
        left = self.waiting()
        if at_once and (left or self._place.going):
            raise FarPlaceRefused(
                errno.EHOSTUNREACH, "not all that was changed has reached it: repeat this when the network is back", self._place.where
            )  # fmt: skip
        if left:
            log.warning(
                "stream %s: %d files have not reached %s; they lie in %s and go up when the stream is next written",
                self._stream, left, self._place.where, self._place.local.folder,
            )  # fmt: skip
        else:
            self._evict(0.0)

    def waiting(self) -> int:
        """How many files that count are on this disk alone."""
        shown = list_visible(self._place).segments
        with self._place.mutex:
            return sum(not self._is_there(name) for name in shown)

    def _run(self) -> None:
        while not self._stopping:
            wait = min(CYCLE_S * 2**self._failures, _MOST_WAIT_S) if self._failures else CYCLE_S
            self._wake.wait(wait)
            self._wake.clear()
            if not self._stopping and not self._overtaken:
                self._cycled()

    def _cycled(self, everything: bool = False) -> bool:
        """One round. Whether all of it was done."""
        try:
            done = self._cycle(everything)
        except (OSError, StoreRefused) as error:
            if not self._failures:
                why = getattr(error, "strerror", None) or str(error)
                log.warning(
                    "stream %s: %s is not reached (%s); recording goes on in %s", self._stream, self._place.where, why,
                    self._place.local.folder,
                )  # fmt: skip
            self._failures += 1
            return False
        if self._failures:
            log.warning("stream %s: %s is reached again", self._stream, self._place.where)
        self._failures = 0
        return done

    def _cycle(self, everything: bool) -> bool:
        place = self._place
        place.look_for_epochs()
        if self._taken_over():
            return False
        for name in self._due(everything):
            self._upload(name)
            if self._stopping and not everything:
                return False
        with place.mutex:
            going = list(place.going)
        for key in going:
            with contextlib.suppress(FileNotFoundError):
                place.remote.delete(key)
            folder, _, entry = key.partition("/")
            with place.mutex:
                if key in place.going:  # else it was put again meanwhile, over what is gone now
                    del place.going[key]
                if folder in place.uploaded:
                    place.uploaded[folder].pop(entry, None)
                place.again.discard(key)
        self._evict(KEPT_S)
        return True

    def _due(self, everything: bool) -> list[SegmentName]:
        place, now = self._place, time.time()
        segments = list_visible(place).segments
        ages = {}
        for name in segments:
            with contextlib.suppress(FileNotFoundError):
                ages[name.path] = now - place.local.stamp(name.path).modified_ns / 1e9
        with place.mutex:
            there = {name.path for name in segments if self._is_there(name)}
        return due_uploads(segments, there, ages, everything=everything)

    def _is_there(self, name: SegmentName) -> bool:
        folder, _, entry = name.path.partition("/")
        return entry in self._place.uploaded[folder] and name.path not in self._place.again

    def _upload(self, name: SegmentName) -> None:
        place = self._place
        local = place.local.folder / name.path
        try:
            if local.is_dir():
                self._upload_archive(name)
            else:
                data = place.local.read(name.path)
                with place.mutex:
                    again = name.path in place.again
                    place.again.discard(name.path)
                try:
                    (place.remote.put if again else place.remote.create)(name.path, data)
                except BaseException:
                    if again:
                        with place.mutex:
                            place.again.add(name.path)
                    raise
        except FileNotFoundError:
            return  # merged and deleted since it was listed
        except FileExistsError:
            self._overtaken = True
            log.error("%s/%s is there already and holds something else: another program writes this stream", place.where, name.path)  # fmt: skip
            raise
        # The next writer's claim may have come before this: then it does not count there, and must not go here.
        place.look_for_epochs()
        if self._taken_over():
            return
        folder, _, entry = name.path.partition("/")
        stamp = place.local.stamp(name.path) if local.exists() else None
        with place.mutex:
            if stamp is not None:
                place.uploaded[folder][entry] = stamp
            else:  # deleted here while it went up
                place.uploaded[folder].pop(entry, None)
                place.going[name.path] = None

    def _upload_archive(self, name: SegmentName) -> None:
        """File by file, the list of checksums last: without it, and beside what it replaces, an archive does not count."""
        from pipeline.store.archive_files import CHECKSUMS

        for path in sorted(
            files_below(self._place.local.folder / name.path), key=lambda p: (p == CHECKSUMS, p)
        ):
            key = f"{name.path}/{path}"
            self._place.remote.create(key, self._place.local.read(key))

    def _taken_over(self) -> bool:
        newest = max((claimed_epoch(f"epoch/{name}") for name in self._place.epochs), default=-1)
        if newest > self._place.own_epoch >= 0 and not self._overtaken:
            self._overtaken = True
            log.error(
                "stream %s was taken over by another writer; what it had not uploaded lies in %s",
                self._stream, self._place.local.folder,
            )  # fmt: skip
        return self._overtaken

    def _evict(self, age_s: float) -> None:
        """Delete from the disk what is in the bucket and older than `age_s`, but for the newest, where a writer goes on."""
        place, now = self._place, time.time()
        segments = list_visible(place).segments
        for name in segments[:-1]:
            with place.mutex:
                if not self._is_there(name):
                    continue
            with contextlib.suppress(FileNotFoundError):
                if now - place.local.stamp(name.path).modified_ns / 1e9 >= age_s:
                    place.local.delete(name.path)
