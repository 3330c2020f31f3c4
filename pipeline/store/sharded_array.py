"""Arrays of a day archive, read a chunk at a time without zarr-python, whose overhead for each array is a question's whole time.

Zarr v3, sharded: https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed. A shard is a file of chunks with an index at its
end; the index and every chunk end with their CRC-32C.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import google_crc32c
import numcodecs
import numpy as np

from pipeline.store.decoded_cache import cache_of

# What we write is far below this; more is no archive but somebody's wish to fill this machine's memory.
_MOST_CHUNK = 64 << 20
_NO_CHUNK = 2**64 - 1


class ArchiveFileWrong(RuntimeError):
    """A file of an archive is missing, or not what was written. To Zarr a missing one would be zeros."""


class ShardedArray:
    """The array at `path` in an archive. `document`: its metadata; `opened`: gives a file of the archive by its path.

    `sums`: CRC-32C of each chunk of a file (n,) <u4, where something tells them; else a chunk tells its own. `file`: number of the archive in the caches. Raises ValueError and the like for metadata that we would not write,
    `ArchiveFileWrong` for chunks that are not what was written, OSError.
    """

    def __init__(
        self,
        opened: Callable[[str], BinaryIO],
        path: str,
        document: Mapping[str, Any],
        file: int,
        sums: Callable[[str], np.ndarray | None] = lambda _: None,
    ) -> None:
        self._open, self._path, self._file, self._sums = opened, path, file, sums
        sharding = _configuration(document["codecs"], "sharding_indexed")
        names = [codec["name"] for codec in sharding["codecs"]]
        if (
            len(names) != 3
            or names[0] != "bytes"
            or names[1] not in ("blosc", "zstd")
            or names[2] != "crc32c"
        ):
            raise ValueError(f"{path} is packed in another way")
        if [codec["name"] for codec in sharding["index_codecs"]] != ["bytes", "crc32c"]:
            raise ValueError(f"{path} has another index")
        if sharding.get("index_location", "end") != "end":
            raise ValueError(f"{path} has its index elsewhere")
        self._blosc = names[1] == "blosc"
        self.shape = _sizes(document["shape"], 0)
        self.dtype = np.dtype(str(document["data_type"])).newbyteorder("<")
        shard = _sizes(document["chunk_grid"]["configuration"]["chunk_shape"], 1)
        chunk = _sizes(sharding["chunk_shape"], 1)
        self.chunk_rows, self.shard_rows = chunk[0], shard[0]
        whole = len(shard) == len(chunk) == len(self.shape) and shard[0] % chunk[0] == 0
        if not whole or shard[1:] != chunk[1:] or self.dtype.kind not in "biuf":
            raise ValueError(f"{path} is an array of another kind")
        if any(n != max(1, m) for n, m in zip(chunk[1:], self.shape[1:], strict=True)):
            raise ValueError(f"{path} is cut in another way")
        self._chunk_bytes = math.prod(chunk) * self.dtype.itemsize
        if self._chunk_bytes > _MOST_CHUNK:
            raise ValueError(f"a chunk of {path} would take {self._chunk_bytes} bytes")
        self._indices: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def chunks_per_shard(self) -> int:
        return self.shard_rows // self.chunk_rows

    def shard_key(self, number: int) -> str:
        """The file of a shard, relative to the archive."""
        return f"{self._path}/c/{number}{'/0' * (len(self.shape) - 1)}"

    def whole(self) -> np.ndarray:
        """All rows, every chunk checked."""
        return self._joined(range(-(-len(self) // self.chunk_rows)), self._chunk)[: len(self)]

    def slice(self, start: int, stop: int) -> np.ndarray:
        """Rows [start, stop), from the chunks that hold them."""
        first = start // self.chunk_rows
        numbers = range(first, -(-min(stop, len(self)) // self.chunk_rows))
        return self._joined(numbers, self._kept)[
            start - first * self.chunk_rows : stop - first * self.chunk_rows
        ]

    def take(self, rows: np.ndarray) -> np.ndarray:
        """The given rows. `rows`: (m,) int, ascending."""
        if len(rows) and int(rows[-1]) - int(rows[0]) + 1 == len(rows):
            return self.slice(int(rows[0]), int(rows[-1]) + 1)
        needed, place = np.unique(rows // self.chunk_rows, return_inverse=True)
        return self._joined(needed.tolist(), self._kept)[place * self.chunk_rows + rows % self.chunk_rows]

    def shard_index(self, number: int) -> np.ndarray:
        """(chunks, 2) uint64: where each chunk of a shard begins, and its bytes. Every one that is asked of is there."""
        with self._opened(self.shard_key(number)) as file:
            return self._index_in(file, number)

    def _index_in(self, file: BinaryIO, number: int) -> np.ndarray:
        key, entries = self.shard_key(number), self.chunks_per_shard
        length = 16 * entries + 4
        size = file.seek(0, io.SEEK_END)
        if size < length:
            raise ArchiveFileWrong(f"{key} is cut off")
        file.seek(size - length)
        raw = file.read(length)
        if google_crc32c.value(raw[:-4]) != int.from_bytes(raw[-4:], "little"):
            raise ArchiveFileWrong(f"the index of {key} is not what was written, or the file is cut off")
        left = -(-len(self) // self.chunk_rows) - number * entries
        index = np.frombuffer(raw[:-4], "<u8").reshape(entries, 2)[: min(entries, left)]
        if (index == _NO_CHUNK).any() or (index > size).any() or int(index.sum(axis=1).max()) > size - length:
            raise ArchiveFileWrong(f"{key} lacks chunks")
        return index

    def _opened(self, key: str) -> BinaryIO:
        try:
            return self._open(key)
        except FileNotFoundError:
            raise ArchiveFileWrong(f"{key} is missing") from None

    def _chunk(self, number: int) -> np.ndarray:
        shard, place = divmod(number, self.chunks_per_shard)
        key = self.shard_key(shard)
        with self._opened(key) as file:
            if shard not in self._indices:
                self._indices[shard] = self._index_in(file, shard)
            begin, size = (int(n) for n in self._indices[shard][place])
            file.seek(begin)
            data = file.read(size)
        if (
            len(data) != size
            or size < 4
            or google_crc32c.value(data[:-4]) != int.from_bytes(data[-4:], "little")
        ):
            raise ArchiveFileWrong(f"chunk {place} of {key} is not what was written")
        sums = self._sums(key)
        if sums is not None and (
            place >= len(sums) or int(sums[place]) != int.from_bytes(data[-4:], "little")
        ):
            raise ArchiveFileWrong(f"chunk {place} of {key} is another than was written")
        # Into a buffer of the right size: what says that it unpacks to more is refused before it does.
        part = np.empty(self._chunk_bytes, np.uint8)
        (numcodecs.Blosc() if self._blosc else numcodecs.Zstd()).decode(data[:-4], part)
        return part.view(self.dtype).reshape(self.chunk_rows, *(max(1, n) for n in self.shape[1:]))

    def _kept(self, number: int) -> np.ndarray:
        cache = cache_of(self.dtype)
        return cache.get(self._file, (self._path, number), lambda: self._chunk(number))

    def _joined(self, numbers: Sequence[int], read: Callable[[int], np.ndarray]) -> np.ndarray:
        if 0 in self.shape[1:]:
            return np.empty((len(self), *self.shape[1:]), self.dtype)
        parts = [read(number) for number in numbers]
        if not parts:
            return np.empty((0, *self.shape[1:]), self.dtype)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


def chunk_sums(folder: Path, key: str, data: bytes) -> np.ndarray | None:
    """CRC-32C of each chunk (n,) <u4 that `data`, a file of the archive `folder`, ends its chunks with; None for what is no shard."""
    path, found, _ = key.rpartition("/c/")
    if not found:
        return None
    document = json.loads((folder / path / "zarr.json").read_bytes())
    array = ShardedArray(lambda _: io.BytesIO(data), path, document, -1)
    number = int(key[len(path) + len("/c/") :].split("/")[0])
    ends = array.shard_index(number).sum(axis=1)
    return np.array([int.from_bytes(data[int(end) - 4 : int(end)], "little") for end in ends], "<u4")


def _configuration(codecs: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(codecs, list) or len(codecs) != 1 or codecs[0]["name"] != name:
        raise ValueError("an array that is not sharded")
    found: Mapping[str, Any] = codecs[0]["configuration"]
    return found


def _sizes(found: object, least: int) -> tuple[int, ...]:
    if not isinstance(found, list) or not 1 <= len(found) <= 4:
        raise ValueError("no shape of an array")
    if not all(type(size) is int and size >= least for size in found):
        raise ValueError("no size of an array")
    return tuple(found)
