"""The files of a day archive, held against the sizes and checksums that were written last."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.store.damage import is_of_the_reader
from pipeline.store.durable_files import files_below
from pipeline.store.place import StorePlace
from pipeline.store.sharded_array import ArchiveFileWrong, ShardedArray, chunk_sums
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


@dataclass(frozen=True, slots=True)
class Checksums:
    """`files`: of whole files. `chunks`: CRC-32C of each chunk (n,) <u4 of a shard, by its path; of archives that tell them."""

    files: FileSums
    chunks: Mapping[str, np.ndarray]


def write_checksums(folder: Path, name: str, stream: str) -> None:
    """Add the list of all files that lie in `folder`, which is to be called `name`. Raises OSError."""
    files, chunks = {}, {}
    for key in files_below(folder):
        data = (folder / key).read_bytes()
        files[key] = [len(data), zlib.crc32(data)]
        if (sums := chunk_sums(folder, key, data)) is not None:
            chunks[key] = base64.b64encode(sums.tobytes()).decode()
    document: dict[str, Any] = {
        "archive": name,
        "stream": stream,
        "files": dict(sorted(files.items())),
        # A file that lies far away is not read whole for one of its chunks: each is held against what it was.
        "chunks": dict(sorted(chunks.items())),
    }
    document["crc32"] = _own_checksum(document)
    (folder / CHECKSUMS).write_bytes(json.dumps(document).encode())


def read_checksums(place: StorePlace, key: str, stream: str) -> Checksums | None:
    """The list of `write_checksums`, and every file in it there in its full size; None where there is no list.

    Raises `ArchiveFileWrong`. Checksums of the files themselves are held against them as they are read.
    """
    try:
        raw = place.read(f"{key}/{CHECKSUMS}", MOST_DOCUMENT)
    except FileNotFoundError:
        return None
    except OSError as error:
        if place.far or is_of_the_reader(error):
            raise
        raise ArchiveFileWrong(f"{CHECKSUMS} cannot be read: {error.strerror}") from error
    try:
        document = parsed_json(raw)
        if document.pop("crc32") != _own_checksum(document):
            raise ArchiveFileWrong(f"{CHECKSUMS} has another checksum than it was written with")
        sums = {path: (int(size), int(crc)) for path, (size, crc) in document["files"].items()}
        whose = (document["archive"], document["stream"])
        chunks = {
            path: np.frombuffer(base64.b64decode(text), "<u4")
            for path, text in document.get("chunks", {}).items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArchiveFileWrong(f"{CHECKSUMS} cannot be read: {error}") from error
    if whose != (key.rpartition("/")[2], stream):
        raise ArchiveFileWrong(f"{CHECKSUMS} is that of {whose[0]} of stream {whose[1]!r}")
    sizes = place.sizes(key, sums)
    for path, (size, _) in sums.items():
        there = sizes.get(path)
        if there != size:
            raise ArchiveFileWrong(
                f"{path} is missing" if there is None else f"{path} has {there} of {size} bytes"
            )
    return Checksums(sums, chunks)


def check_file(place: StorePlace, key: str, path: str, sums: FileSums) -> None:
    """Raise `ArchiveFileWrong` unless a file of the archive `key` is as it was written."""
    if path not in sums:
        raise ArchiveFileWrong(f"{path} is not one of its files")
    try:
        # No longer than it was written, whatever it has become.
        data = place.read(f"{key}/{path}", sums[path][0])
    except FileNotFoundError:
        raise ArchiveFileWrong(f"{path} is missing") from None
    except OSError as error:
        if place.far or is_of_the_reader(error):
            raise
        raise ArchiveFileWrong(f"{path} is not what was written ({error.strerror})") from error
    if (len(data), zlib.crc32(data)) != sums[path]:
        raise ArchiveFileWrong(f"{path} is not what was written")


# Archives of versions that wrote no checksums: what their metadata demand must be there, in its full size.


def check_unlisted(place: StorePlace, key: str, arrays: Mapping[str, ShardedArray]) -> None:
    """Raise `ArchiveFileWrong` unless metadata and shards of all `arrays` (by path) are there and whole.

    Each shard ends with an index of its chunks, which has a checksum: it tells how long the file must be.
    """
    try:
        root = parsed_json(place.read(f"{key}/zarr.json", MOST_DOCUMENT))["consolidated_metadata"]["metadata"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArchiveFileWrong(f"zarr.json cannot be read: {error}") from error
    for path, array in arrays.items():
        try:
            own = parsed_json(place.read(f"{key}/{path}/zarr.json", MOST_DOCUMENT))
        except (OSError, ValueError) as error:
            raise ArchiveFileWrong(f"{path}/zarr.json cannot be read: {error}") from error
        if own != root.get(path):
            raise ArchiveFileWrong(f"{path}/zarr.json and zarr.json differ")
        if 0 not in array.shape:
            for number in range(-(-len(array) // array.shard_rows)):
                array.shard_index(number)


def _own_checksum(document: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(document, sort_keys=True, separators=(",", ":")).encode())
