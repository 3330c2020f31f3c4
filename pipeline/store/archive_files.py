"""The files of a day archive, held against the sizes and checksums that were written last."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import stat
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import zarr
from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import LocalStore

from pipeline.store.durable_files import open_regular, raise_it, read_regular

CHECKSUMS = "checksums.json"
_NO_CHUNK = 2**64 - 1


class ArchiveFileWrong(RuntimeError):
    """A file of an archive is missing, or not what was written. To Zarr a missing one would be zeros."""


FileSums = Mapping[str, tuple[int, int]]
"""Size in bytes and CRC-32 of each file, by its path in the archive."""


def write_checksums(folder: Path, name: str, stream: str) -> None:
    """Add the list of all files that lie in `folder`, which is to be called `name`. Raises OSError."""
    files = {}
    for where, _, entries in os.walk(folder, onerror=raise_it):
        for entry in entries:
            path = Path(where, entry)
            data = path.read_bytes()
            files[path.relative_to(folder).as_posix()] = [len(data), zlib.crc32(data)]
    document: dict[str, Any] = {"archive": name, "stream": stream, "files": dict(sorted(files.items()))}
    document["crc32"] = _own_checksum(document)
    (folder / CHECKSUMS).write_bytes(json.dumps(document).encode())


def read_checksums(folder: Path, stream: str) -> FileSums | None:
    """The list of `write_checksums`, and every file in it there in its full size; None where there is no list.

    Raises `ArchiveFileWrong`. Checksums of the files themselves are held against them as they are read.
    """
    try:
        raw = read_regular(folder / CHECKSUMS)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ArchiveFileWrong(f"{CHECKSUMS} cannot be read: {error.strerror}") from error
    try:
        document = json.loads(raw)
        if document.pop("crc32") != _own_checksum(document):
            raise ArchiveFileWrong(f"{CHECKSUMS} has another checksum than it was written with")
        sums = {path: (int(size), int(crc)) for path, (size, crc) in document["files"].items()}
        whose = (document["archive"], document["stream"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArchiveFileWrong(f"{CHECKSUMS} cannot be read: {error}") from error
    if whose != (folder.name, stream):
        raise ArchiveFileWrong(f"{CHECKSUMS} is that of {whose[0]} of stream {whose[1]!r}")
    for path, (size, _) in sums.items():
        there = _size(folder / path)
        if there != size:
            raise ArchiveFileWrong(
                f"{path} is missing" if there is None else f"{path} has {there} of {size} bytes"
            )
    return sums


def check_file(folder: Path, path: str, sums: FileSums) -> None:
    """Raise `ArchiveFileWrong` unless a file is as it was written."""
    if path not in sums:
        raise ArchiveFileWrong(f"{path} is not one of its files")
    try:
        # No longer than it was written, whatever it has become.
        data = read_regular(folder / path, sums[path][0])
    except FileNotFoundError:
        raise ArchiveFileWrong(f"{path} is missing") from None
    except OSError as error:
        raise ArchiveFileWrong(f"{path} is not what was written ({error.strerror})") from error
    if (len(data), zlib.crc32(data)) != sums[path]:
        raise ArchiveFileWrong(f"{path} is not what was written")


class ArchiveFiles(LocalStore):
    """An archive as zarr-python reads it: a missing file raises, and a whole file is checked before its first byte counts.

    Raises `ArchiveFileWrong`, which zarr-python lets pass. What was checked once is not checked again: chunks and indexes
    of chunks carry checksums of their own, so what changes later is found by them.
    """

    def __init__(self, root: Path | str, *, read_only: bool = True, sums: FileSums | None = None) -> None:
        super().__init__(root, read_only=True)
        self._sums = sums
        self._checked: set[str] = set()

    def with_read_only(self, read_only: bool = False) -> ArchiveFiles:
        return ArchiveFiles(self.root, sums=self._sums)

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        if self._sums is not None and key not in self._checked:
            await asyncio.to_thread(check_file, self.root, key, self._sums)
            self._checked.add(key)
        elif self._sums is None:
            _check_regular(self.root / key)
        return _there(key, await super().get(key, prototype, byte_range))

    def get_sync(
        self, key: str, *, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        if self._sums is not None and key not in self._checked:
            check_file(self.root, key, self._sums)
            self._checked.add(key)
        elif self._sums is None:
            _check_regular(self.root / key)
        return _there(key, super().get_sync(key, prototype=prototype, byte_range=byte_range))

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        return [await self.get(key, prototype, part) for key, part in key_ranges]


def _check_regular(path: Path) -> None:
    """Raise `ArchiveFileWrong` for what zarr-python would wait for, or read without end."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ArchiveFileWrong(f"{path.name} is not a regular file")


def _there(key: str, data: Buffer | None) -> Buffer:
    if data is None:
        raise ArchiveFileWrong(f"{key} is missing")
    return data


# Archives of versions that wrote no checksums: what their metadata demand must be there, in its full size.


def check_unlisted(folder: Path, arrays: Mapping[str, zarr.Array]) -> None:
    """Raise `ArchiveFileWrong` unless metadata and shards of all `arrays` (by path) are there and whole.

    Each shard ends with an index of its chunks, which has a checksum: it tells how long the file must be.
    """
    try:
        root = json.loads(read_regular(folder / "zarr.json"))["consolidated_metadata"]["metadata"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArchiveFileWrong(f"zarr.json cannot be read: {error}") from error
    for path, array in arrays.items():
        try:
            own = json.loads(read_regular(folder / path / "zarr.json"))
        except (OSError, ValueError) as error:
            raise ArchiveFileWrong(f"{path}/zarr.json cannot be read: {error}") from error
        if own != root.get(path):
            raise ArchiveFileWrong(f"{path}/zarr.json and zarr.json differ")
        if 0 not in array.shape:
            _check_shards(folder, path, array)


def _check_shards(folder: Path, path: str, array: zarr.Array) -> None:
    shard_rows, rows = (array.shards or array.chunks)[0], array.chunks[0]
    chunks, left = shard_rows // rows, -(-array.shape[0] // rows)
    for number in range(-(-array.shape[0] // shard_rows)):
        key = f"{path}/c/{number}{'/0' * (array.ndim - 1)}"
        length = 16 * chunks + 4
        size = _size(folder / key)
        if size is None:
            raise ArchiveFileWrong(f"{key} is missing")
        if size < length:
            raise ArchiveFileWrong(f"{key} is cut off")
        with open_regular(folder / key) as file:
            file.seek(size - length)
            index = file.read(length)
        if google_crc32c.value(index[:-4]) != int.from_bytes(index[-4:], "little"):
            raise ArchiveFileWrong(f"the index of {key} is not what was written, or the file is cut off")
        parts = np.frombuffer(index[:-4], "<u8").reshape(chunks, 2)[: min(chunks, left - number * chunks)]
        if (parts == _NO_CHUNK).any() or int(parts.sum(axis=1).max()) > size - length:
            raise ArchiveFileWrong(f"{key} lacks chunks")


def _own_checksum(document: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(document, sort_keys=True, separators=(",", ":")).encode())


def _size(path: Path) -> int | None:
    try:
        return os.stat(path).st_size
    except (FileNotFoundError, NotADirectoryError):
        return None
