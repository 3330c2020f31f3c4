"""Values of Python and numpy as arrays of Arrow, by way of buffers.

To find out whether what it is given is of pandas `pyarrow.array` imports all of that, which takes a second and 70 MB: a few rows are
found, and written, in less.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

_LONGEST = 2**31 - 1
_DTYPES = {pa.int32(): np.int32, pa.int64(): np.int64, pa.float32(): np.float32, pa.float64(): np.float64}
_KINDS = {np.dtype(dtype): kind for kind, dtype in _DTYPES.items()}


def numbers_array(numbers: np.ndarray, valid: np.ndarray | None = None) -> pa.Array:
    """An array (n,) of 32 or 64 bits or bool; without copying where it can be. `valid`: (n,) bool, None: all."""
    buffers = [None if valid is None or valid.all() else _bits(valid)]
    if numbers.dtype == bool:
        return pa.Array.from_buffers(pa.bool_(), len(numbers), [*buffers, _bits(numbers)])
    data = pa.py_buffer(np.ascontiguousarray(numbers))
    return pa.Array.from_buffers(_KINDS[numbers.dtype], len(numbers), [*buffers, data])


def moments_array(wall_ns: np.ndarray, kind: pa.DataType) -> pa.Array:
    """Wall ns (n,) int64 as moments in UTC, of nanoseconds."""
    data = pa.py_buffer(np.ascontiguousarray(wall_ns, np.int64))
    return pa.Array.from_buffers(kind, len(wall_ns), [None, data])


def int64_of(column: pa.ChunkedArray) -> np.ndarray:
    """A column of int64, or of moments as their number, without nulls (n,)."""
    parts = [
        np.frombuffer(chunk.buffers()[1], np.int64)[chunk.offset : chunk.offset + len(chunk)]
        for chunk in column.chunks
        if len(chunk)
    ]
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


def array_of(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """Values, some of which may be None: numbers, wall ns as moments, strings, bytes, lists and structures of these."""
    valid = np.fromiter((value is not None for value in values), bool, len(values))
    if pa.types.is_struct(kind):
        fields = [kind.field(number) for number in range(kind.num_fields)]
        parts = [array_of([None if v is None else v[f.name] for v in values], f.type) for f in fields]
        return pa.StructArray.from_arrays(parts, fields=fields, mask=numbers_array(~valid))
    if pa.types.is_fixed_size_list(kind):
        empty = [0] * kind.list_size
        flat = [one for value in values for one in (empty if value is None else value)]
        return pa.FixedSizeListArray.from_arrays(array_of(flat, kind.value_type), type=kind)
    if pa.types.is_list(kind):
        ends = np.cumsum([0, *(0 if value is None else len(value) for value in values)], dtype=np.int64)
        numbers = np.concatenate([np.empty(0), *(value for value in values if value is not None)])
        items = numbers_array(numbers.astype(_DTYPES[kind.value_type]))
        return pa.ListArray.from_arrays(
            numbers_array(ends.astype(np.int32)), items, type=kind, mask=numbers_array(~valid)
        )
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        return _bytes(values, kind, valid)
    moments = pa.types.is_timestamp(kind)
    plain = (0 if value is None else value for value in values)
    found = np.fromiter(plain, np.int64 if moments else _DTYPES[kind], len(values))
    return moments_array(found, kind) if moments else numbers_array(found, valid)


def _bytes(values: Sequence[Any], kind: pa.DataType, valid: np.ndarray) -> pa.Array:
    parts = [b"" if v is None else v.encode() if isinstance(v, str) else bytes(v) for v in values]
    ends = np.cumsum([0, *map(len, parts)], dtype=np.int64)
    if ends[-1] > _LONGEST:
        return pa.array(values, kind)  # told by Arrow, in its own words
    validity = None if valid.all() else _bits(valid)
    buffers = [validity, pa.py_buffer(ends.astype(np.int32)), pa.py_buffer(b"".join(parts))]
    return pa.Array.from_buffers(kind, len(parts), buffers)


def _bits(flags: np.ndarray) -> pa.Buffer:
    return pa.py_buffer(np.packbits(flags, bitorder="little"))
