"""An object as a file that is read in ranges: what a question needs of it is fetched, and little more."""

from __future__ import annotations

import io
from collections import OrderedDict
from collections.abc import Callable

BLOCK = 64 << 10
"""Fetched in whole blocks: a request costs as much time as some hundred thousand bytes."""
# Of an object this much is kept while it is open: its end and beginning, which are read again and again, and the chunks asked for last.
_KEPT_BLOCKS = 64
TAIL = 4 * BLOCK
"""What is fetched first: the table of contents of a segment of 64 MiB takes less."""

Fetch = Callable[[int, int], bytes]
"""Bytes [start, stop) of the object."""


class RangeFile(io.RawIOBase):
    """`size` bytes behind `fetch`. For one thread at a time. Raises what `fetch` does, OSError where it gives too few.

    `tail`: the last bytes of it, which are there already.
    """

    def __init__(self, size: int, fetch: Fetch, tail: bytes = b"") -> None:
        self._size, self._fetch, self._at = size, fetch, 0
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        begin = size - len(tail)
        for number in range(-(-begin // BLOCK), -(-size // BLOCK)):
            self._blocks[number] = tail[number * BLOCK - begin : (number + 1) * BLOCK - begin]

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise OSError(22, "a negative position")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        return self.read(-1)

    def read(self, count: int | None = -1) -> bytes:
        """The next `count` bytes, or all that are left."""
        if self.closed:
            raise ValueError("the file is closed")
        left = max(0, self._size - self._at)
        count = left if count is None or count < 0 else min(count, left)
        if not count:
            return b""
        start, self._at = self._at, self._at + count
        if count > _KEPT_BLOCKS * BLOCK // 2:  # the whole, or nearly: read once
            return self._fetched(start, start + count)
        first, last = start // BLOCK, (start + count - 1) // BLOCK
        self._load(first, last)
        data = b"".join(self._blocks[number] for number in range(first, last + 1))
        while len(self._blocks) > _KEPT_BLOCKS:
            self._blocks.popitem(last=False)
        return data[start - first * BLOCK : start - first * BLOCK + count]

    def _load(self, first: int, last: int) -> None:
        """See to it that blocks `first` to `last` are there, in as few requests as they lie apart."""
        number = first
        while number <= last:
            if number in self._blocks:
                self._blocks.move_to_end(number)
                number += 1
                continue
            stop = number
            while stop <= last and stop not in self._blocks:
                stop += 1
            data = self._fetched(number * BLOCK, min(stop * BLOCK, self._size))
            for each in range(number, stop):
                self._blocks[each] = data[(each - number) * BLOCK : (each - number + 1) * BLOCK]
            number = stop

    def _fetched(self, start: int, stop: int) -> bytes:
        data = self._fetch(start, stop)
        if len(data) != stop - start:
            raise OSError(121, f"{len(data)} of {stop - start} bytes came")
        return data
