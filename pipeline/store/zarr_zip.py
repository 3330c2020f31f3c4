"""Encode tables as a Zarr v3 hierarchy in one stored zip, and read columns back from it.

zarr-python and xarray read these files as they are. Writing and reading them directly costs a tenth of what
zarr-python's per-array overhead does, which is what makes a commit a second for weeks affordable.
"""

from __future__ import annotations

import errno
import io
import json
import struct
import weakref
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import numcodecs
import numpy as np

from pipeline.store.columns import Columns
from pipeline.store.damage import SegmentDamaged
from pipeline.store.place import StorePlace
from pipeline.store.zarr_metadata import array_document, chunk_rows, compressor, group_document

_DAMAGE = (
    zipfile.BadZipFile, zlib.error, struct.error, RuntimeError, LookupError, ValueError, EOFError, TypeError, OverflowError,
)  # fmt: skip
# A position in the zip that cannot be one, and a sector that cannot be read.
_DAMAGE_CODES = (errno.EINVAL, errno.EIO)


def encode(tables: Iterable[Columns], attrs: Mapping[str, Any]) -> bytes:
    """The bytes of a `.zarr.zip` with a group per table that has rows. `attrs`: of the root group, JSON-like."""
    members: dict[str, dict[str, Any]] = {}
    chunks: list[tuple[str, bytes]] = []
    for table in tables:
        if not len(table):
            continue
        members[table.group] = group_document({})
        specs = table.specs()
        for name, array in table.arrays().items():
            spec = specs[name]
            path = f"{table.group}/{name}"
            members[path] = array_document(table.group, name, spec, array)
            compress = compressor(spec.codec)
            rows = chunk_rows(spec, len(array))
            tail = "/0" * (array.ndim - 1)
            if not array.size:
                continue
            for number, first in enumerate(range(0, len(array), rows)):
                part = np.ascontiguousarray(array[first : first + rows])
                if len(part) < rows:  # Zarr stores the last chunk in full size
                    part = np.concatenate([part, np.zeros((rows - len(part), *part.shape[1:]), part.dtype)])
                chunks.append((f"{path}/c/{number}{tail}", bytes(compress.encode(part))))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(_entry("zarr.json"), _json(group_document(attrs, members)))
        for path, document in members.items():
            archive.writestr(_entry(f"{path}/zarr.json"), _json(document))
        for path, data in chunks:
            archive.writestr(_entry(path), data)
    return buffer.getvalue()


class ZarrZip:
    """Reader of a file made by `encode`. Every byte read is checked against the zip's CRC.

    Raises FileNotFoundError when there is no file, `StoreRefused` naming it when it is damaged.
    """

    def __init__(self, place: StorePlace, key: str) -> None:
        self.path = f"{place.where}/{key}"
        self._key = key
        self._file = place.open(key)
        # A store lets a segment go while another thread may still read it: who drops it last closes the file.
        weakref.finalize(self, self._file.close)
        try:
            self._zip = zipfile.ZipFile(self._file)
            root = json.loads(self._zip.read("zarr.json"))
            self.attrs: dict[str, Any] = root["attributes"]
            self._members: dict[str, dict[str, Any]] = root["consolidated_metadata"]["metadata"]
        except _DAMAGE as error:
            self._file.close()
            raise self._damaged(error) from error
        except OSError as error:
            self._file.close()
            if error.errno in _DAMAGE_CODES:
                raise self._damaged(error) from error
            raise

    def close(self) -> None:
        self._zip.close()
        self._file.close()

    def has(self, group: str) -> bool:
        return group in self._members

    def length(self, path: str) -> int:
        """Rows of the array at `path` ("group/name")."""
        return int(self._members[path]["shape"][0])

    def read(self, path: str) -> np.ndarray:
        """The whole array at `path`."""
        return self._chunks(path, range(self._chunk_count(path)))[: self.length(path)]

    def take(self, path: str, rows: np.ndarray) -> np.ndarray:
        """The given rows, from the chunks that hold them. `rows`: (m,) int, ascending."""
        if not len(rows):
            return self._chunks(path, range(0))[:0]
        size = self._chunk_shape(path)[0]
        needed, place = np.unique(rows // size, return_inverse=True)
        return self._chunks(path, needed.tolist())[place * size + rows % size]

    def slice(self, path: str, start: int, stop: int) -> np.ndarray:
        """Rows [start, stop), from the chunks that hold them."""
        size = self._chunk_shape(path)[0]
        first = start // size
        return self._chunks(path, range(first, -(-stop // size)))[start - first * size : stop - first * size]

    def verify(self) -> None:
        """Check the CRC of every entry. Raises `StoreRefused`."""
        try:
            broken = self._zip.testzip()
        except _DAMAGE as error:
            raise self._damaged(error) from error
        except OSError as error:
            if error.errno in _DAMAGE_CODES:
                raise self._damaged(error) from error
            raise
        if broken is not None:
            raise self._damaged(ValueError(broken))

    def _chunk_shape(self, path: str) -> list[int]:
        shape: list[int] = self._members[path]["chunk_grid"]["configuration"]["chunk_shape"]
        return shape

    def _chunk_count(self, path: str) -> int:
        return -(-self.length(path) // self._chunk_shape(path)[0])

    def _chunks(self, path: str, numbers: Iterable[int]) -> np.ndarray:
        document = self._members[path]
        dtype = np.dtype(document["data_type"]).newbyteorder("<")
        shape = [*self._chunk_shape(path)[:1], *document["shape"][1:]]
        codec = document["codecs"][1]
        decoder = numcodecs.Blosc() if codec["name"] == "blosc" else numcodecs.Zstd()
        tail = "/0" * (len(shape) - 1)
        parts = []
        try:
            for number in numbers if 0 not in shape else ():
                data = decoder.decode(self._zip.read(f"{path}/c/{number}{tail}"))
                parts.append(np.frombuffer(data, dtype).reshape(shape))
        except _DAMAGE as error:
            raise self._damaged(error) from error
        except OSError as error:
            if error.errno in _DAMAGE_CODES:
                raise self._damaged(error) from error
            raise
        if not parts:
            return np.empty((self.length(path) if 0 in shape else 0, *shape[1:]), dtype)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _damaged(self, error: Exception) -> SegmentDamaged:
        return SegmentDamaged("segment", self.path, self._key, error)


def _entry(name: str) -> zipfile.ZipInfo:
    """A fixed date makes equal rows equal bytes."""
    return zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))


def _json(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()
