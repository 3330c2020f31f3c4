"""The Zarr v3 metadata documents of groups and arrays (https://zarr-specs.readthedocs.io, core 3.1)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from typing import Any

import numcodecs
import numpy as np

from pipeline.store.columns import BYTE_CHUNK, ROW_CHUNK, Codec, ColumnSpec

WALL_CLOCK_UNITS = "nanoseconds since 1970-01-01"

# One level of each codec, for writing with numcodecs and for telling readers what was used.
_ZSTD_LEVEL = {Codec.ZSTD: 3, Codec.ZSTD_FAST: 1}
_BLOSC_LEVEL = 5


@cache
def compressor(codec: Codec) -> Any:
    """The numcodecs compressor that writes chunks of this codec."""
    if codec is Codec.SHUFFLED:
        return numcodecs.Blosc(cname="zstd", clevel=_BLOSC_LEVEL, shuffle=numcodecs.Blosc.BITSHUFFLE)
    return numcodecs.Zstd(level=_ZSTD_LEVEL[codec])


def codec_documents(spec: ColumnSpec, dtype: np.dtype) -> list[dict[str, Any]]:
    """The `codecs` list of an array: bytes, then the compressor."""
    to_bytes: dict[str, Any] = {"name": "bytes"}
    if dtype.itemsize > 1:
        to_bytes["configuration"] = {"endian": "little"}
    if spec.codec is Codec.SHUFFLED:
        settings = {
            "typesize": dtype.itemsize,
            "cname": "zstd",
            "clevel": _BLOSC_LEVEL,
            "shuffle": "bitshuffle",
            "blocksize": 0,
        }
        return [to_bytes, {"name": "blosc", "configuration": settings}]
    return [
        to_bytes,
        {"name": "zstd", "configuration": {"level": _ZSTD_LEVEL[spec.codec], "checksum": False}},
    ]


def chunk_rows(spec: ColumnSpec, rows: int) -> int:
    """Rows of one chunk: the whole array when it is small."""
    return max(1, min(rows, BYTE_CHUNK if spec.byte_string else ROW_CHUNK))


def dimension_names(group: str, name: str, spec: ColumnSpec) -> list[str]:
    """Names under which xarray shares the rows of a table between its columns."""
    if spec.byte_string:
        return [f"{group}_{name}"]
    return [f"{group}_row"] if spec.width is None else [f"{group}_row", f"{group}_{name}_axis"]


def attributes(spec: ColumnSpec) -> dict[str, Any]:
    return {"units": WALL_CLOCK_UNITS} if spec.wall_clock else {}


def array_text(group: str, name: str, spec: ColumnSpec, array: np.ndarray) -> str:
    """`zarr.json` of one column."""
    chunk = (chunk_rows(spec, len(array)), *(max(1, n) for n in array.shape[1:]))
    before, between, after = _array_parts(group, name, spec, array.dtype)
    return f"{before}{_sizes(array.shape)}{between}{_sizes(chunk)}{after}"


@lru_cache(maxsize=512)  # of every commit only the sizes differ
def _array_parts(group: str, name: str, spec: ColumnSpec, dtype: np.dtype) -> tuple[str, str, str]:
    document = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": "\0",
        "data_type": dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": "\0"}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0.0 if dtype.kind == "f" else 0,
        "codecs": codec_documents(spec, dtype),
        "attributes": attributes(spec),
        "dimension_names": dimension_names(group, name, spec),
    }
    before, between, after = _text(document).split(json.dumps("\0"))
    return before, between, after


def _sizes(shape: Sequence[int]) -> str:
    return f"[{','.join(map(str, shape))}]"


def _text(document: Mapping[str, Any]) -> str:
    return json.dumps(document, separators=(",", ":"))


def root_text(attrs: Mapping[str, Any], members: Mapping[str, str]) -> str:
    """`zarr.json` of a root group, in which the texts of its members' metadata are consolidated."""
    before, after = _text(group_document(attrs, {"\0": {}})).rsplit(f"{json.dumps(chr(0))}:{{}}", 1)
    inside = ",".join(f"{json.dumps(path)}:{text}" for path, text in members.items())
    return f"{before}{inside}{after}"


def group_document(
    attrs: Mapping[str, Any], members: Mapping[str, Mapping[str, Any]] | None = None
) -> dict[str, Any]:
    """`zarr.json` of a group; with `members` their metadata is consolidated in it."""
    document: dict[str, Any] = {"zarr_format": 3, "node_type": "group", "attributes": dict(attrs)}
    if members is not None:
        document["consolidated_metadata"] = {
            "kind": "inline",
            "must_understand": False,
            "metadata": dict(members),
        }
    return document
