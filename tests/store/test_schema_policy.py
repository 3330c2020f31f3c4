"""Stores that earlier versions wrote stay readable, and a version that does not know all of a segment leaves it alone.

`tests/fixtures/stores` holds one small store for each schema that was ever shipped, as the first version of that schema
wrote it: fourteen commits of `tests.store_samples.batch`, of which nine are in an archive, three merged and two not.
"""

from __future__ import annotations

import errno
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.core.errors import StoreRefused
from pipeline.store import CaptionStore, Compaction, rewriting
from pipeline.store.columns import TABLES, Columns, _column
from pipeline.store.compaction import merge
from pipeline.store.day_archive import DAY_NS
from pipeline.store.place import LocalPlace
from pipeline.store.row_query import open_segment
from pipeline.store.segment import SCHEMA, SegmentReader
from pipeline.store.segment_name import SegmentName
from pipeline.store.stream_directory import list_names, list_visible
from pipeline.store.zarr_zip import encode
from tests.store_samples import BY_HAND, INFO, T0, S, batch, check_everything, filled_store

pytestmark = pytest.mark.promise("schema-1")

STORES = sorted((Path(__file__).parents[1] / "fixtures/stores").glob("*.tar.gz"))
COMMITS = 14
MORE = 4
# Schema 1 had no masks of observations.
MASKLESS = {"region-captions-1.tar.gz": COMMITS}


@dataclass(frozen=True)
class Earlier:
    """A kept store, unpacked. `maskless`: how many of its commits have no masks of observations."""

    store: CaptionStore
    maskless: int


@pytest.fixture(params=STORES, ids=lambda path: path.name)
def earlier(request: pytest.FixtureRequest, tmp_path: Path) -> Earlier:
    with tarfile.open(request.param) as archive:
        archive.extractall(tmp_path, filter="data")
    (path,) = tmp_path.glob("*.zarr")
    return Earlier(CaptionStore.open(path), MASKLESS.get(request.param.name, 0))


def test_the_schema_that_is_written_has_a_store_that_is_kept() -> None:
    assert SCHEMA.replace("/", "-") in {path.name.removesuffix(".tar.gz") for path in STORES}


def check(earlier: Earlier, more: int = 0) -> None:
    store = earlier.store
    check_everything(store, COMMITS + more, maskless=earlier.maskless)
    assert store.streams()["cam"] == INFO
    assert set(store.gaps()["reason"].to_pylist()) == {"dropped"}
    (step,) = store.efforts().to_pylist()
    assert (step["t"].value, step["effort"]) == (T0 + 12 * S, "half-probes")
    (clock,) = store.clocks().to_pylist()
    assert (clock["t"].value, clock["clock"]) == (T0 + 12 * S, "file")


def schema_of(store: CaptionStore) -> str:
    document = json.loads((Path(store.path) / "zarr.json").read_bytes())
    return str(document["attributes"]["schema"])


def test_a_store_of_an_earlier_version_answers_as_it_did_and_is_not_touched(earlier: Earlier) -> None:
    before = {path: path.read_bytes() for path in earlier.store.path.rglob("*") if path.is_file()}
    check(earlier)
    assert earlier.store.verify() == []
    assert {path: path.read_bytes() for path in earlier.store.path.rglob("*") if path.is_file()} == before


def test_a_store_of_an_earlier_version_is_gone_on_with_in_the_newest_schema_merged_and_archived(
    earlier: Earlier,
) -> None:
    store = earlier.store
    with store.writer("cam", INFO, compaction=BY_HAND) as writer:
        assert schema_of(store) == SCHEMA
        assert writer.resume == batch(COMMITS - 1).resume
        for number in range(COMMITS, COMMITS + MORE):
            writer.commit(batch(number))
        check(earlier, MORE)  # segments of both schemas, side by side
        writer.compact()
        check(earlier, MORE)  # and in one
        writer.archive_closed_days(T0 + 2 * DAY_NS)
    check(earlier, MORE)
    assert not list((store.path / "streams/cam/hot").iterdir())


def test_upgrading_writes_every_file_anew_and_changes_no_row(
    earlier: Earlier, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = earlier.store
    place = LocalPlace(store.path / "streams/cam")
    old = [n for n in list_visible(place).segments if _schema_of_file(place, n) != SCHEMA]
    real, writes = rewriting.rewrite, []

    def cut_off(*given: Any, **named: Any) -> None:
        writes.append(given)
        if len(writes) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(*given, **named)

    monkeypatch.setattr(rewriting, "rewrite", cut_off)
    if len(old) > 1:
        with pytest.raises(StoreRefused, match="the disk is full"):
            store.upgrade()
        check(earlier)
    again = CliRunner().invoke(app, ["store", "upgrade", str(store.path)])
    assert again.exit_code == 0, again.output
    assert ("were written anew" in again.output) == bool(old)
    assert {_schema_of_file(place, name) for name in list_names(place)} == {SCHEMA}
    assert schema_of(store) == SCHEMA
    with CaptionStore.open(store.path, strict=True) as fresh:
        check(Earlier(fresh, earlier.maskless))
        assert fresh.verify() == []
    assert "already" in CliRunner().invoke(app, ["store", "upgrade", str(store.path)]).output


def _schema_of_file(place: LocalPlace, name: SegmentName) -> str:
    segment = open_segment(place, name)
    try:
        return str(segment.attrs["schema"])
    finally:
        segment.close()


@dataclass(frozen=True, slots=True, eq=False)
class MoodColumns(Columns):
    """A table of a version that is still to come."""

    group: ClassVar[str] = "mood"
    t: np.ndarray = _column("<i8", wall_clock=True)  # noqa: RUF009 (a dataclass field)


def test_a_segment_of_a_newer_version_is_read_but_never_merged_without_what_it_holds(tmp_path: Path) -> None:
    store = filled_store(tmp_path / "a.zarr", 3, Compaction(fan_in=3, enabled=False))
    directory = tmp_path / "a.zarr/streams/cam"
    segments = list_visible(LocalPlace(directory)).segments
    newest = directory / segments[1].path
    reader = SegmentReader(LocalPlace(directory), segments[1].path)
    tables = [*(reader.rows().table(table.group) for table in TABLES), MoodColumns(t=np.array([T0], "<i8"))]
    attributes = {**reader.attrs, "rows": {**reader.attrs["rows"], "mood": 1}}
    reader.close()
    newest.write_bytes(encode(tables, attributes))
    check_everything(CaptionStore.open(store.path), 3)
    with pytest.raises(StoreRefused, match=r"tables that this version does not know \(mood\)"):
        merge(LocalPlace(directory), segments, 0)
    check_everything(CaptionStore.open(store.path), 3)
