"""Decoded parts of segments and archives, kept between questions while they fit into a bounded memory."""

from __future__ import annotations

import itertools
import os
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np

MOST_BYTES = 72 << 20
next_file_number = itertools.count().__next__
"""A number that no other open file of this process has."""


def _memory() -> int:
    """Bytes of the machine's memory; a guess where it does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 4 << 30


class DecodedCache:
    """Arrays by the file that they are of and their name in it; those that were not asked for longest go first.

    An array that alone would take a quarter of `most_bytes` is not kept. Safe to use from several threads.
    """

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most = most_bytes
        self._held = 0
        self._arrays: OrderedDict[tuple[int, Hashable], tuple[Any, int]] = OrderedDict()
        self._files: dict[int, set[Hashable]] = {}
        # Closed files that are still to be forgotten. The collector of garbage says so at any moment, also to a thread that holds
        # the mutex: to wait for it there would be for ever.
        self._closed: deque[int] = deque()
        self._mutex = threading.Lock()

    def get(self, file: int, name: Hashable, make: Callable[[], np.ndarray]) -> np.ndarray:
        """The array of this name, made where it is not kept."""
        kept: np.ndarray | None = self.kept(file, name)
        if kept is None:
            kept = make()
            self.keep(file, name, kept, kept.nbytes)
        return kept

    def kept(self, file: int, name: Hashable) -> Any:
        """What is kept under the name, None without."""
        with self._mutex:
            self._forget_closed()
            found = self._arrays.get((file, name))
            if found is None:
                return None
            self._arrays.move_to_end((file, name))
            return found[0]

    def keep(self, file: int, name: Hashable, value: Any, size: int) -> None:
        """Keep a value of about `size` bytes."""
        if size > self._most // 4:
            return
        with self._mutex:
            self._forget_closed()
            if (file, name) in self._arrays:
                return
            self._arrays[file, name] = (value, size)
            self._files.setdefault(file, set()).add(name)
            self._held += size
            while self._held > self._most:
                (old_file, old_name), (_, old_size) = self._arrays.popitem(last=False)
                self._files[old_file].discard(old_name)
                self._held -= old_size

    def drop(self, file: int) -> None:
        """Forget everything of a file, at once or, where another call is under way, with the next."""
        self._closed.append(file)
        if self._mutex.acquire(blocking=False):
            try:
                self._forget_closed()
            finally:
                self._mutex.release()

    def _forget_closed(self) -> None:
        """The mutex is held."""
        while self._closed:
            file = self._closed.popleft()
            for name in self._files.pop(file, ()):
                self._held -= self._arrays.pop((file, name))[1]


DECODED = DecodedCache()
"""Shared by all open stores of this process."""

# A search by likeness goes through all embeddings: kept among the other columns they would drive these out each time.
VECTORS = DecodedCache(min(512 << 20, _memory() // 16))
"""The same for embeddings: up to 512 MiB, or a sixteenth of the machine's memory. Filled by searches by likeness only."""


def cache_of(dtype: np.dtype[Any]) -> DecodedCache:
    """Where chunks of an array are kept: embeddings are the only half floats."""
    return VECTORS if dtype == np.float16 else DECODED


def drop_file(file: int) -> None:
    """Forget everything of a file."""
    DECODED.drop(file)
    VECTORS.drop(file)
