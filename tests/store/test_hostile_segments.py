"""Segments that somebody else wrote: every answer is whole, or a gap, or one error; memory and time stay bounded."""

from __future__ import annotations

import copy
import io
import json
import resource
import struct
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.core.errors import UserError
from pipeline.store import CaptionStore
from tests.duration import by_day
from tests.store_samples import filled_store

pytestmark = pytest.mark.promise("segments-bounded")

LONGEST_S = 10
MOST_GROWTH_KIB = 1 << 20
WRONG = (
    None,
    -1,
    0,
    1,
    2**31,
    2**40,
    2**63,
    1e308,
    "",
    "x",
    "int8",
    "float64",
    "O",
    [],
    {},
    [2**40],
    [1] * 40,
    True,
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hostile") / "a.zarr"
    filled_store(path, 3)
    return path


def segment_of(store: Path) -> Path:
    return sorted((store / "streams/cam/hot").glob("*.zip"))[1]


def members(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def written(found: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, data in found.items():
            archive.writestr(name, data)
    return out.getvalue()


def ask_everything(store: Path) -> None:
    with CaptionStore.open(store) as opened:
        opened.captions(columns=("text", "score", "embedding", "mask", "x0")).to_pylist()
        for rows in (
            opened.observations,
            opened.tracks,
            opened.gaps,
            opened.efforts,
            opened.cuts,
            opened.clocks,
        ):
            rows()
        opened.coverage()
        opened.resume("cam")
        opened.damage()


def borne(store: Path, data: bytes) -> None:
    """Everything is asked of the store with this in place of a segment."""
    segment = segment_of(store)
    whole, before = segment.read_bytes(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun, told = time.process_time(), ""
    segment.write_bytes(data)
    try:
        ask_everything(store)
    except UserError as error:
        told = str(error)
    finally:
        segment.write_bytes(whole)
    assert "\n" not in told
    assert time.process_time() - begun < LONGEST_S
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MOST_GROWTH_KIB


def places(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    inside = (
        document.items()
        if isinstance(document, dict)
        else enumerate(document)
        if isinstance(document, list)
        else ()
    )
    for key, value in inside:
        yield from places(value, (*path, key))


def changed(document: Any, place: tuple[Any, ...], value: Any) -> Any:
    other = copy.deepcopy(document)
    inside = other
    for key in place[:-1]:
        inside = inside[key]
    inside[place[-1]] = value
    return other


@settings(max_examples=by_day(60, 2000), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_metadata_that_lie_are_borne(store: Path, data: st.DataObject) -> None:
    found = members(segment_of(store).read_bytes())
    root = json.loads(found["zarr.json"])
    interesting = [
        place
        for place in places(root)
        if place[0] == "attributes" or {"shape", "chunk_grid", "data_type", "codecs"} & set(place)
    ]
    place = data.draw(st.sampled_from(interesting))
    root = changed(root, place, data.draw(st.sampled_from(WRONG)))
    borne(store, written({**found, "zarr.json": json.dumps(root).encode()}))


@settings(max_examples=by_day(40, 2000), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1), cut=st.binary(max_size=12), length=st.integers(0, 40))
def test_bytes_that_changed_are_borne(store: Path, place: float, cut: bytes, length: int) -> None:
    whole = segment_of(store).read_bytes()
    at = int(place * len(whole))
    borne(store, whole[:at] + cut + whole[at + length :])


def test_a_chunk_that_says_it_unpacks_to_gigabytes_is_refused_before_it_does(store: Path) -> None:
    found = members(segment_of(store).read_bytes())
    for name, data in list(found.items()):
        if "/c/" not in name:
            continue
        if data[:4] == b"\x28\xb5\x2f\xfd":
            # A Zstandard frame that states a content of a TiB.
            data = data[:4] + bytes([0xE0]) + struct.pack("<Q", 1 << 40) + data[6:]
        else:
            data = data[:4] + struct.pack("<I", 2**31 - 1) + data[8:]
        borne(store, written({**found, name: data}))


def test_a_zip_bomb_is_not_unpacked(store: Path) -> None:
    found = members(segment_of(store).read_bytes())
    for name in ("zarr.json", next(name for name in found if "/c/" in name)):
        borne(store, written({**found, name: bytes(300 << 20)}, zipfile.ZIP_DEFLATED))
