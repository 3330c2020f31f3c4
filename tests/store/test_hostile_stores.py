"""Stores that somebody else wrote: archives that lie, names that lead elsewhere, what is no file in place of one."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pipeline.core.errors import UserError
from pipeline.export.interface import EXPORTERS
from pipeline.store import CaptionStore
from tests.duration import LONG, by_day
from tests.store.test_hostile_segments import WRONG, ask_everything, changed, places
from tests.store_samples import T0, filled_store

LONGEST_S = 10
MOST_GROWTH_KIB = 1 << 20
DAY_NS = 86_400 * 10**9


@pytest.fixture(scope="module")
def archived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hostile") / "a.zarr"
    filled_store(path, 10).archive_closed_days(T0 + 2 * DAY_NS)
    for segment in (path / "streams/cam/hot").glob("*.zip"):
        segment.unlink()
    return path


def files(store: Path) -> list[Path]:
    return sorted(path for path in store.rglob("*") if path.is_file())


@contextlib.contextmanager
def bounded() -> object:
    begun, before, told = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, ""
    try:
        yield
    except UserError as error:
        told = str(error)
    assert "\n" not in told
    assert time.process_time() - begun < LONGEST_S
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MOST_GROWTH_KIB


def borne(store: Path, file: Path, data: bytes) -> None:
    """Everything is asked of the store with this in place of one of its files."""
    whole = file.read_bytes()
    file.write_bytes(data)
    try:
        with bounded():
            ask_everything(store)
    finally:
        file.write_bytes(whole)


@pytest.mark.promise("archives-bounded")
@settings(max_examples=by_day(15, 2000), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_metadata_of_an_archive_that_lie_are_borne(archived: Path, data: st.DataObject) -> None:
    file = data.draw(st.sampled_from([path for path in files(archived) if path.name.endswith(".json")]))
    document = json.loads(file.read_bytes())
    place = data.draw(st.sampled_from(list(places(document))))
    wrong = changed(document, place, data.draw(st.sampled_from(WRONG)))
    borne(archived, file, json.dumps(wrong).encode())


BOMBS = {
    "nested lists": b"[" * 200_000,
    "nested objects": b'{"a":' * 200_000,
    "nested where attributes are": b'{"attributes":' + b"[" * 3000 + b"]" * 3000 + b"}",
    "nothing": b"null",
    "a list": b"[]",
    "a text": b'"x"',
    "a number": b"1e999",
    "no number": b"NaN",
    "a number of 10,000 digits": b'{"attributes":{"schema":' + b"9" * 10_000 + b"}}",
    "no end": b'{"attributes":{"schema":"',
    "UTF-16": '{"attributes":{}}'.encode("utf-16"),
    "no UTF-8": b"\xff\xfe\0",
    "blanks": b" " * (80 << 20),
}


@pytest.mark.promise("archives-bounded")
@pytest.mark.parametrize("bomb", BOMBS)
def test_any_json_in_place_of_what_a_store_is_told_by_is_borne(archived: Path, bomb: str) -> None:
    for file in {path.name: path for path in files(archived) if path.name.endswith(".json")}.values():
        borne(archived, file, BOMBS[bomb])
    borne(archived, archived / "streams/cam/zarr.json", BOMBS[bomb])


@pytest.mark.promise("archives-bounded")
@pytest.mark.parametrize("place", ["zarr.json", "streams/cam/zarr.json"])
def test_attributes_of_any_kind_are_borne(archived: Path, place: str) -> None:
    document = json.loads((archived / place).read_bytes())
    for name in document["attributes"]:
        for wrong in (*WRONG, True, [[]], {"a": None}, 2**70, "\x1b[2J"):
            attributes = {**document["attributes"], name: wrong}
            borne(archived, archived / place, json.dumps({**document, "attributes": attributes}).encode())


@pytest.mark.promise("archives-bounded")
@settings(max_examples=by_day(15, 2000), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    which=st.integers(0, 10**6), place=st.floats(0, 1), cut=st.binary(max_size=12), length=st.integers(0, 40)
)
@example(which=0, place=0.0, cut=b"", length=40)
def test_bytes_of_an_archive_that_changed_are_borne(
    archived: Path, which: int, place: float, cut: bytes, length: int
) -> None:
    found = files(archived)
    file = found[which % len(found)]
    whole = file.read_bytes()
    at = int(place * len(whole))
    borne(archived, file, whole[:at] + cut + whole[at + length :])


@pytest.mark.promise("archives-bounded")
@pytest.mark.parametrize("instead", ["fifo", "folder", "zero", "loop", "sparse"])
def test_what_is_no_file_is_not_waited_for(tmp_path: Path, archived: Path, instead: str) -> None:
    store = Path(shutil.copytree(archived, tmp_path / "a.zarr"))
    # By day one of each name: zarr.json of a group, a shard, the list of checksums.
    found = files(store)
    for place in found if LONG else {path.name: path for path in found}.values():
        whole = place.read_bytes()
        place.unlink()
        if instead == "fifo":
            os.mkfifo(place)
        elif instead == "folder":
            place.mkdir()
        elif instead == "zero":
            place.symlink_to("/dev/zero")
        elif instead == "loop":
            place.symlink_to(place)
        else:
            with place.open("wb") as sparse:
                sparse.truncate(1 << 40)
        with bounded():
            ask_everything(store)
        place.rmdir() if instead == "folder" else place.unlink()
        place.write_bytes(whole)


@pytest.mark.promise("archives-bounded")
@pytest.mark.parametrize("name", ["..", "../../b", "/etc", "a\nb", "a\x1b[2J", "\u202e", "x" * 200])
def test_a_stream_that_calls_itself_something_else_is_written_nowhere_else(tmp_path: Path, name: str) -> None:
    store = tmp_path / "in" / "a.zarr"
    filled_store(store, 3)
    for file in store.rglob("*.json"):
        text = file.read_text()
        file.write_text(text.replace('"cam"', json.dumps(name)))
    before = sorted(path for path in tmp_path.rglob("*") if not path.is_relative_to(store))
    with bounded(), CaptionStore.open(store) as opened:
        for stream in opened.streams():
            opened.captions(stream=stream).to_pylist()
    assert EXPORTERS.names()
    assert sorted(path for path in tmp_path.rglob("*") if not path.is_relative_to(store)) == before
