"""A zip whose entries are stored, not deflated, made and read without what the general way costs an entry."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Iterable

# As `zipfile` writes them: version 2.0, made on Unix, rw for its owner, the first date that there is, so that equal rows are equal bytes.
_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s4B4H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_DATE = 1 << 5 | 1
_MODE = 0o600 << 16
# What has no room in the fields of 16 and 32 bits is left to `zipfile`.
_MOST_ENTRIES, _MOST_BYTES = (1 << 16) - 2, (1 << 31) - 1


def stored_zip(entries: Iterable[tuple[str, bytes]]) -> bytes:
    """The bytes of a zip with these names (ASCII) and contents, in order."""
    found = list(entries)
    if (
        len(found) > _MOST_ENTRIES
        or sum(len(data) + 2 * len(name) + 76 for name, data in found) > _MOST_BYTES
    ):
        return _large_zip(found)
    parts: list[bytes] = []
    directory: list[bytes] = []
    at = 0
    for name, data in found:
        key, crc, size = name.encode("ascii"), zlib.crc32(data), len(data)
        parts += (
            _LOCAL.pack(b"PK\3\4", 20, 0, 0, 0, _DATE, crc, size, size, len(key), 0),
            key,
            data,
        )
        directory += (
            _CENTRAL.pack(
                b"PK\1\2", 20, 3, 20, 0, 0, 0, 0, _DATE, crc, size, size, len(key), 0, 0, 0, 0, _MODE, at
            ),
            key,
        )
        at += _LOCAL.size + len(key) + size
    length = sum(map(len, directory))
    return b"".join((*parts, *directory, _END.pack(b"PK\5\6", 0, 0, len(found), len(found), length, at, 0)))


def _large_zip(entries: Iterable[tuple[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in entries:
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data)
    return buffer.getvalue()


def stored_entry(data: bytes, info: zipfile.ZipInfo) -> bytes | None:
    """An entry of a zip that is held in memory, its bytes held against their CRC; None for one that only `zipfile` can read.

    Raises `zipfile.BadZipFile` where the entry is not what the directory tells.
    """
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits or info.compress_size != info.file_size:
        return None
    name, at = info.orig_filename.encode(), info.header_offset
    head = data[at : at + _LOCAL.size] if at >= 0 else b""
    if len(head) < _LOCAL.size or not head.startswith(b"PK\3\4"):
        raise zipfile.BadZipFile(f"no entry where {info.filename} should be")
    length, extra = _LOCAL.unpack(head)[9:]
    begin = at + _LOCAL.size + length + extra
    if data[at + _LOCAL.size : at + _LOCAL.size + length] != name:
        raise zipfile.BadZipFile(f"another entry lies where {info.filename} should be")
    found = data[begin : begin + info.file_size]
    if len(found) != info.file_size or zlib.crc32(found) != info.CRC:
        raise zipfile.BadZipFile(f"bad CRC-32 for file {info.filename!r}")
    return found
