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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numcodecs
import numpy as np

from pipeline.store.columns import ColumnSpec
from pipeline.store.damage import SegmentDamaged
from pipeline.store.decoded_cache import DECODED, cache_of, drop_file, next_file_number
from pipeline.store.place import StorePlace
from pipeline.store.stored_zip import stored_entry, stored_zip
from pipeline.store.zarr_metadata import array_text, chunk_rows, compressor, group_document, root_text
from sca.small_files import parsed_json

_DAMAGE = (
    zipfile.BadZipFile, zlib.error, struct.error, RuntimeError, LookupError, ValueError, EOFError, TypeError, OverflowError,
)  # fmt: skip
# What we write is far below these; more is no segment but somebody's wish to fill this machine's memory.
_MOST_DOCUMENT = 16 << 20
_MOST_CHUNK = 64 << 20
_MOST_ARRAY = 1 << 30
# A position in the zip that cannot be one, and a sector that cannot be read.
_DAMAGE_CODES = (errno.EINVAL, errno.EIO, errno.EISDIR, errno.ELOOP)
# A file of less is read at once and needs no handle while it is open.
_SMALL = 1 << 20
_BLOSC, _ZSTD = numcodecs.Blosc(), numcodecs.Zstd()
_GROUP = json.dumps(group_document({}), separators=(",", ":"))


class ColumnSource(Protocol):
    """A table whose columns may be read only when they are sliced: each has `shape`, `dtype`, `size` and slices of rows."""

    @property
    def group(self) -> str: ...

    def specs(self) -> dict[str, ColumnSpec]: ...

    def arrays(self) -> Mapping[str, Any]: ...

    def __len__(self) -> int: ...


def encode(tables: Iterable[ColumnSource], attrs: Mapping[str, Any]) -> bytes:
    """The bytes of a `.zarr.zip` with a group per table that has rows. `attrs`: of the root group, JSON-like."""
    members: dict[str, str] = {}
    columns: list[tuple[str, ColumnSpec, Any]] = []
    for table in tables:
        if not len(table):
            continue
        members[table.group] = _GROUP
        specs = table.specs()
        for name, array in table.arrays().items():
            path = f"{table.group}/{name}"
            members[path] = array_text(table.group, name, specs[name], array)
            columns.append((path, specs[name], array))
    entries = [("zarr.json", root_text(attrs, members).encode())]
    entries += [(f"{path}/zarr.json", text.encode()) for path, text in members.items()]
    for path, spec, array in columns:
        for number, data in enumerate(_encoded_chunks(spec, array) if array.size else ()):
            entries.append((f"{path}/c/{number}{'/0' * (len(array.shape) - 1)}", data))
    return stored_zip(entries)


def _encoded_chunks(spec: ColumnSpec, array: Any) -> Iterator[bytes]:
    compress = compressor(spec.codec)
    rows, count = chunk_rows(spec, array.shape[0]), array.shape[0]
    for first in range(0, count, rows):
        part = np.ascontiguousarray(array[first : min(first + rows, count)])
        if len(part) < rows:  # Zarr stores the last chunk in full size
            part = np.concatenate([part, np.zeros((rows - len(part), *part.shape[1:]), part.dtype)])
        yield bytes(compress.encode(part))


class ZarrZip:
    """Reader of a file made by `encode`. Every byte read is checked against the zip's CRC.

    Raises FileNotFoundError when there is no file, `StoreRefused` naming it when it is damaged.
    """

    def __init__(self, place: StorePlace, key: str) -> None:
        self.path = f"{place.where}/{key}"
        self._key = key
        self.number = next_file_number()
        try:
            self._file = place.open(key)
        except OSError as error:
            if error.errno in _DAMAGE_CODES:  # a folder, a FIFO or a link to itself in its place
                raise self.damaged(error) from error
            raise
        self._data: bytes | None = None
        # A store lets a segment go while another thread may still read it: who drops it last closes the file.
        weakref.finalize(self, drop_file, self.number)
        weakref.finalize(self, self._file.close)
        try:
            if self._file.seek(0, io.SEEK_END) <= _SMALL:
                self._file.seek(0)
                self._data = self._file.read()
                self._file.close()
                self._file = io.BytesIO(self._data)
            self._zip = zipfile.ZipFile(self._file)
            root = parsed_json(self._bytes("zarr.json", _MOST_DOCUMENT))
            self.attrs: dict[str, Any] = root["attributes"]
            self._members: dict[str, dict[str, Any]] = root["consolidated_metadata"]["metadata"]
            if not isinstance(self.attrs, dict) or not isinstance(self._members, dict):
                raise ValueError("its metadata are no objects")
            self._layouts: dict[str, _Layout] = {}
        except _DAMAGE as error:
            self._file.close()
            raise self.damaged(error) from error
        except OSError as error:
            self._file.close()
            if error.errno in _DAMAGE_CODES:
                raise self.damaged(error) from error
            raise

    def close(self) -> None:
        drop_file(self.number)
        self._zip.close()
        self._file.close()

    def has(self, group: str) -> bool:
        return group in self._members

    def length(self, path: str) -> int:
        """Rows of the array at `path` ("group/name")."""
        return self._layout(path).shape[0]

    def layout(self, path: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Shape and type of the array at `path`."""
        found = self._layout(path)
        return found.shape, found.dtype

    def read(self, path: str, keep: bool = False) -> np.ndarray:
        """The whole array at `path`. `keep`: for the next time, while there is room."""
        if keep:
            return DECODED.get(self.number, path, lambda: self.read(path))
        return self._chunks(path, range(self._chunk_count(path)))[: self.length(path)]

    def take(self, path: str, rows: np.ndarray) -> np.ndarray:
        """The given rows, from the chunks that hold them. `rows`: (m,) int, ascending."""
        if not len(rows):
            return self._chunks(path, range(0))[:0]
        whole = DECODED.kept(self.number, path)
        if whole is not None:
            return np.asarray(whole[rows])
        size = self._chunk_shape(path)[0]
        if self.length(path) <= size:
            return self._kept_chunks(path, (0,))[rows]
        first, last = int(rows[0]), int(rows[-1])
        if last - first + 1 == len(rows):
            return self.slice(path, first, last + 1)
        needed, place = np.unique(rows // size, return_inverse=True)
        return self._kept_chunks(path, needed.tolist())[place * size + rows % size]

    def slice(self, path: str, start: int, stop: int) -> np.ndarray:
        """Rows [start, stop), from the chunks that hold them."""
        size = self._chunk_shape(path)[0]
        first = start // size
        chunks = self._kept_chunks(path, range(first, -(-stop // size)))
        return chunks[start - first * size : stop - first * size]

    def damaged(self, error: Exception) -> SegmentDamaged:
        """What to raise where the content cannot be that of a segment."""
        return SegmentDamaged("segment", self.path, self._key, error)

    def verify(self) -> None:
        """Check the CRC of every entry. Raises `StoreRefused`."""
        try:
            broken = self._zip.testzip()
        except _DAMAGE as error:
            raise self.damaged(error) from error
        except OSError as error:
            if error.errno in _DAMAGE_CODES:
                raise self.damaged(error) from error
            raise
        if broken is not None:
            raise self.damaged(ValueError(broken))

    def _layout(self, path: str) -> _Layout:
        if path not in self._layouts:
            try:
                self._layouts[path] = _layout_of(self._members[path])
            except _DAMAGE as error:
                raise self.damaged(error) from error
        return self._layouts[path]

    def _chunk_shape(self, path: str) -> tuple[int, ...]:
        return self._layout(path).chunk

    def _chunk_count(self, path: str) -> int:
        return -(-self.length(path) // self._chunk_shape(path)[0])

    def _bytes(self, name: str, most: int) -> bytes:
        """An entry of the zip. Raises ValueError where it would be larger than `most`."""
        info = self._zip.getinfo(name)
        if info.file_size > most:
            raise ValueError(f"{name} would take {info.file_size} bytes")
        found = None if self._data is None else stored_entry(self._data, info)
        return self._zip.read(name) if found is None else found

    def _chunks(self, path: str, numbers: Iterable[int]) -> np.ndarray:
        layout = self._layout(path)
        dtype, shape = layout.dtype, (layout.chunk[0], *layout.shape[1:])
        decoder = _BLOSC if layout.blosc else _ZSTD
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
            raise self.damaged(error) from error
        except OSError as error:
            if error.errno in _DAMAGE_CODES:
                raise self.damaged(error) from error
            raise
        if not parts:
            return np.empty((self.length(path) if 0 in shape else 0, *shape[1:]), dtype)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _kept_chunks(self, path: str, numbers: Sequence[int]) -> np.ndarray:
        def made(number: int) -> Callable[[], np.ndarray]:
            return lambda: self._chunks(path, (number,))

        cache = cache_of(self._layout(path).dtype)
        parts = [cache.get(self.number, (path, number), made(number)) for number in numbers]
        if not parts:
            return self._chunks(path, ())
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


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
