"""A film that is read over a network by a thread of its own: whoever waits for it can stop waiting at any moment."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

from pipeline.core.leaving import READER_THREAD
from pipeline.core.records import Gap, ResumePoint
from pipeline.sources.picture import DecodedFrame
from pipeline.sources.source import Source, SourceCounts, SourceInfo, resumed_at

Made = TypeVar("Made")

_POLL_S = 0.2
# Pictures that are decoded ahead: enough to hand them over, few enough to keep memory small.
_AHEAD = 2
_LET_GO_S = 0.3


def unhurried(make: Callable[[], Made]) -> Made:
    """What `make` gives, or raises, made in a thread: no interrupt gets through to one that waits inside FFmpeg."""
    made: list[Made] = []
    failed: list[Exception] = []

    def run() -> None:
        try:
            made.append(make())
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=run, name=READER_THREAD + "opening", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(_POLL_S)
    if failed:
        raise failed[0]
    return made[0]


class FarFilm:
    """A source that yields None where nothing has come for a moment. `make` opens the film."""

    def __init__(self, make: Callable[[], Source]) -> None:
        self._source = unhurried(make)
        self._items: queue.Queue[DecodedFrame | Gap | Exception | None] = queue.Queue(_AHEAD)
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self._read, name=READER_THREAD + self._source.info.stream, daemon=True
        )

    @property
    def info(self) -> SourceInfo:
        return self._source.info

    @property
    def counts(self) -> SourceCounts:
        return self._source.counts

    @property
    def resumed_at(self) -> DecodedFrame | None:
        return resumed_at(self._source)

    def resume_after(self, point: ResumePoint) -> None:
        self._source.resume_after(point)

    def __iter__(self) -> Iterator[DecodedFrame | Gap | None]:
        self._thread.start()
        while not self._stop.is_set():
            try:
                item = self._items.get(timeout=_POLL_S)
            except queue.Empty:
                yield None
                continue
            if item is None:
                return
            if isinstance(item, Exception):
                raise item
            yield item

    def close(self) -> None:
        self._stop.set()
        if self._thread.ident is None:
            self._source.close()
        else:
            # Nobody closes a container that is being read; the thread does it when it comes back.
            self._thread.join(_LET_GO_S)

    def _read(self) -> None:
        try:
            for item in self._source:
                if item is not None and not self._put(item):
                    return
            self._put(None)
        except Exception as error:
            self._put(error)
        finally:
            self._source.close()

    def _put(self, item: DecodedFrame | Gap | Exception | None) -> bool:
        """Whether anybody still wants it."""
        while not self._stop.is_set():
            try:
                self._items.put(item, timeout=_POLL_S)
                return True
            except queue.Full:
                pass
        return False
