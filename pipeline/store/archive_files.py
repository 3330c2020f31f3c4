"""The files of a day archive, held against the sizes and checksums that were written last."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.store.durable_files import raise_it, read_regular
from pipeline.store.sharded_array import ArchiveFileWrong, ShardedArray
from sca.small_files import parsed_json

CHECKSUMS = "checksums.json"
# Of a day with a million rows they are 0.1 MiB.
MOST_DOCUMENT = 16 << 20
# First and last time of a row, by table: what the sparse index covers.
TIMES = {
    "obs": ("t", "t"),
    "cap": ("t_start", "t_end"),
    "trk": ("t_first", "t_last"),
    "gap": ("t_start", "t_end"),
    "clk": ("t", "t"),
    "eff": ("t", "t"),
    "cut": ("t", "t"),
}


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
        raw = read_regular(folder / CHECKSUMS, MOST_DOCUMENT)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ArchiveFileWrong(f"{CHECKSUMS} cannot be read: {error.strerror}") from error
    try:
        document = parsed_json(raw)
        if document.pop("crc32") != _own_checksum(document):
            raise ArchiveFileWrong(f"{CHECKSUMS} has another checksum than it was written with")
        sums = {path: (int(size), int(crc)) for path, (size, crc) in document["files"].items()}
        whose = (document["archive"], document["stream"])
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
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


# Archives of versions that wrote no checksums: what their metadata demand must be there, in its full size.


def check_unlisted(folder: Path, arrays: Mapping[str, ShardedArray]) -> None:
    """Raise `ArchiveFileWrong` unless metadata and shards of all `arrays` (by path) are there and whole.

    Each shard ends with an index of its chunks, which has a checksum: it tells how long the file must be.
    """
    try:
        root = parsed_json(read_regular(folder / "zarr.json", MOST_DOCUMENT))["consolidated_metadata"][
            "metadata"
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArchiveFileWrong(f"zarr.json cannot be read: {error}") from error
    for path, array in arrays.items():
        try:
            own = parsed_json(read_regular(folder / path / "zarr.json", MOST_DOCUMENT))
        except (OSError, ValueError) as error:
            raise ArchiveFileWrong(f"{path}/zarr.json cannot be read: {error}") from error
        if own != root.get(path):
            raise ArchiveFileWrong(f"{path}/zarr.json and zarr.json differ")
        if 0 not in array.shape:
            for number in range(-(-len(array) // array.shard_rows)):
                array.shard_index(number)


def _own_checksum(document: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(document, sort_keys=True, separators=(",", ":")).encode())


def _size(path: Path) -> int | None:
    try:
        return os.stat(path).st_size
    except (FileNotFoundError, NotADirectoryError):
        return None
