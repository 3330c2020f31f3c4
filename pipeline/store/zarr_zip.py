"""Encode tables as a Zarr v3 hierarchy in one stored zip, and read columns back from it.

zarr-python and xarray read these files as they are. Writing and reading them directly costs a tenth of what
zarr-python's per-array overhead does, which is what makes a commit a second for weeks affordable.
"""

from __future__ import annotations

import errno
import io
import json
import math
import struct
import weakref
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
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
# What we write is far below these; more is no segment but somebody's wish to fill this machine's memory.
_MOST_DOCUMENT = 16 << 20
_MOST_CHUNK = 64 << 20
_MOST_ARRAY = 1 << 30
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
            root = json.loads(self._bytes("zarr.json", _MOST_DOCUMENT))
            self.attrs: dict[str, Any] = root["attributes"]
            self._members: dict[str, dict[str, Any]] = root["consolidated_metadata"]["metadata"]
            if not isinstance(self.attrs, dict) or not isinstance(self._members, dict):
                raise ValueError("its metadata are no objects")
            self._layouts: dict[str, _Layout] = {}
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
        return self._layout(path).shape[0]

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

    def _layout(self, path: str) -> _Layout:
        if path not in self._layouts:
            try:
                self._layouts[path] = _layout_of(self._members[path])
            except _DAMAGE as error:
                raise self._damaged(error) from error
        return self._layouts[path]

    def _chunk_shape(self, path: str) -> tuple[int, ...]:
        return self._layout(path).chunk

    def _chunk_count(self, path: str) -> int:
        return -(-self.length(path) // self._chunk_shape(path)[0])

    def _bytes(self, name: str, most: int) -> bytes:
        """An entry of the zip. Raises ValueError where it would be larger than `most`."""
        size = self._zip.getinfo(name).file_size
        if size > most:
            raise ValueError(f"{name} would take {size} bytes")
        return self._zip.read(name)

    def _chunks(self, path: str, numbers: Iterable[int]) -> np.ndarray:
        layout = self._layout(path)
        dtype, shape = layout.dtype, (layout.chunk[0], *layout.shape[1:])
        decoder = numcodecs.Blosc() if layout.blosc else numcodecs.Zstd()
        tail = "/0" * (len(shape) - 1)
        parts = []
        try:
            for number in numbers if 0 not in shape else ():
                data = self._bytes(f"{path}/c/{number}{tail}", layout.chunk_bytes * 2 + 4096)
                # Into a buffer of the right size: what says that it unpacks to more is refused before it does.
                part = np.empty(layout.chunk_bytes, np.uint8)
                decoder.decode(data, part)
                parts.append(part.view(dtype).reshape(shape))
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


@dataclass(frozen=True, slots=True)
class _Layout:
    """Of an array: its shape, that of its chunks, and whether Blosc packed them (else Zstd)."""

    shape: tuple[int, ...]
    chunk: tuple[int, ...]
    dtype: np.dtype[Any]
    blosc: bool

    @property
    def chunk_bytes(self) -> int:
        return self.chunk[0] * math.prod(self.shape[1:]) * self.dtype.itemsize


def _layout_of(document: Mapping[str, Any]) -> _Layout:
    """Raises ValueError and the like for one that we would not write."""
    shape = _sizes(document["shape"], 0)
    layout = _Layout(
        shape,
        _sizes(document["chunk_grid"]["configuration"]["chunk_shape"], 1),
        np.dtype(str(document["data_type"])).newbyteorder("<"),
        document["codecs"][1]["name"] == "blosc",
    )
    if len(layout.chunk) != len(shape) or layout.dtype.kind not in "biuf":
        raise ValueError("an array of another kind")
    array_bytes = math.prod(shape) * layout.dtype.itemsize
    if layout.chunk_bytes > _MOST_CHUNK or array_bytes > _MOST_ARRAY:
        raise ValueError(f"an array would take {max(array_bytes, layout.chunk_bytes)} bytes")
    return layout


def _sizes(found: object, least: int) -> tuple[int, ...]:
    if not isinstance(found, list) or not 1 <= len(found) <= 4:
        raise ValueError("no shape of an array")
    if not all(type(size) is int and size >= least for size in found):
        raise ValueError("no size of an array")
    return tuple(found)


def _entry(name: str) -> zipfile.ZipInfo:
    """A fixed date makes equal rows equal bytes."""
    return zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))


def _json(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()
