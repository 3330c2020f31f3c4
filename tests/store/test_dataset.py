"""Tables of a store as data sets of Arrow: what comes through is what a filter over all rows lets through, and less is read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.errors import StoreRefused
from pipeline.core.records import Batch, CaptionEvent
from pipeline.store import CaptionStore, row_query
from pipeline.store.filter_bounds import AskedFilter
from pipeline.store.row_query import Selection
from pipeline.store.store_tables import TABLES, stored_table
from tests.duration import by_day
from tests.store_samples import BY_HAND, EVERYTHING, INFO, T0, S, batch, filled_store

COUNT = 24


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> CaptionStore:
    path = tmp_path_factory.mktemp("dataset") / "a.zarr"
    store = filled_store(path, COUNT)
    with store.writer("gate", INFO, compaction=BY_HAND) as writer:
        for number in range(5):
            writer.commit(batch(number))
    return CaptionStore.open(path)


def moments(unit: str) -> st.SearchStrategy[pa.Scalar]:
    scale = {"ns": 1, "us": 1000}[unit]
    return st.integers(T0 - S, T0 + COUNT * S + S).map(
        lambda t: pa.scalar(t // scale, pa.timestamp(unit, "UTC"))
    )


def conditions(unit: str, begin: str, end: str) -> st.SearchStrategy[pc.Expression]:
    compared = st.sampled_from(["__lt__", "__le__", "__gt__", "__ge__", "__eq__"])
    return st.one_of(
        st.builds(lambda n, how, t: getattr(pc.field(n), how)(t), st.sampled_from([begin, end]), compared, moments(unit)),
        st.builds(lambda how, t: getattr(pc.field("track"), how)(t), compared, st.integers(-1, 130)),
        st.builds(lambda how, t: getattr(pc.field("score"), how)(t), compared, st.sampled_from([0.0, 0.25, 0.5, 0.51, 1.0, 2.0])),
        st.builds(lambda s: pc.field("stream") == s, st.sampled_from(["cam", "gate", "t_start == 0) and (track"])),
        st.builds(lambda t: pc.field("track").isin(pa.array(t, pa.int64())), st.lists(st.integers(0, 130), max_size=3)),
        st.just(pc.field("score").is_valid()),
    )  # fmt: skip


def filters(unit: str, begin: str, end: str) -> st.SearchStrategy[pc.Expression]:
    return st.recursive(
        conditions(unit, begin, end),
        lambda some: st.one_of(
            st.builds(lambda a, b: a & b, some, some), st.builds(lambda a, b: a | b, some, some), st.builds(lambda a: ~a, some)
        ),
        max_leaves=4,
    )  # fmt: skip


def in_order(table: pa.Table) -> list[dict[str, object]]:
    return sorted(table.to_pylist(), key=str)


@given(st.data())
@settings(max_examples=by_day(4, otherwise=1000), deadline=None)
def test_any_filter_lets_the_same_rows_through_as_one_over_all_rows(
    store: CaptionStore, data: st.DataObject
) -> None:
    unit = data.draw(st.sampled_from(["ns", "us"]))
    name, begin, end = data.draw(
        st.sampled_from([("captions", "t_start", "t_end"), ("observations", "t", "t")])
    )
    asked = data.draw(filters(unit, begin, end))
    table = stored_table(store, name, unit)
    columns = data.draw(st.lists(st.sampled_from(table.schema.names), min_size=1, unique=True))
    everything = table.to_table()
    assert in_order(table.to_table(columns, filter=asked)) == in_order(
        everything.filter(asked).select(columns)
    )


def test_all_rows_are_those_of_the_store(store: CaptionStore) -> None:
    names = list(EVERYTHING)
    found = store.dataset().to_table(names)
    assert in_order(found) == in_order(store.captions(columns=names))
    assert store.dataset().count_rows() == len(found)
    assert store.dataset().head(3).num_rows == 3
    for name in ("tracks", "gaps", "cuts", "efforts", "clocks"):
        assert in_order(store.dataset(name).to_table()) == in_order(getattr(store, name)())
    assert store.dataset("streams").to_table(["stream"]).to_pylist() == [
        {"stream": "cam"},
        {"stream": "gate"},
    ]


def test_a_filter_reads_no_more_than_it_needs_and_masks_only_of_what_is_left(
    store: CaptionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    masks = Selection.masks
    monkeypatch.setattr(Selection, "masks", lambda self: read.append(len(self)) or masks(self))
    opened: list[str] = []
    open_segment = row_query.open_segment
    monkeypatch.setattr(
        "pipeline.store.open_segments.open_segment",
        lambda place, name: opened.append(name.path) or open_segment(place, name),
    )
    moment = pa.scalar(T0 + 20 * S + S // 2, pa.timestamp("ns", "UTC"))
    fresh = CaptionStore.open(store.path)
    asked = (pc.field("t_start") == moment) & (pc.field("score") >= 0.5)
    found = fresh.dataset().to_table(["mask", "track"], filter=asked)
    assert found["track"].to_pylist() == [120]
    assert sum(read) == 1
    bounds = AskedFilter(asked, fresh.dataset().schema).bounds(
        ["cam"], T0, T0 + COUNT * S, ("t_start", "t_end")
    )
    assert bounds.start is not None
    assert bounds.end is not None
    assert abs(bounds.start - moment.value) < S
    assert abs(bounds.end - moment.value) < S
    assert bounds.min_score == 0.5
    everything: list[str] = [*opened]
    opened.clear()
    CaptionStore.open(store.path).dataset().to_table(["track"])
    assert len(set(everything)) < len(set(opened))


STOPPED_EARLY = """
import sys
from pipeline.store import CaptionStore
print(CaptionStore.open(sys.argv[1]).dataset().head(5, ["text"]).num_rows)
"""


def test_a_process_that_took_the_first_rows_only_ends_in_order(tmp_path: Path) -> None:
    store = CaptionStore.create(tmp_path / "a.zarr")
    with store.writer("cam", INFO, compaction=BY_HAND) as writer:
        for first in range(0, 20_000, 1000):  # many blocks are left unread
            times = [(n, T0 + n * S) for n in range(first, first + 1000)]
            events = tuple(
                CaptionEvent(n, t, t + S, 0, 0, 0, (0, 0, 9, 9), "a dog", 0.5, -1.0) for n, t in times
            )
            writer.commit(Batch(captions=events))
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", STOPPED_EARLY, str(store.path)],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stdout) == (0, "5\n"), done.stderr


def test_damage_leaves_the_rest_and_strict_raises(tmp_path: Path) -> None:
    store = filled_store(tmp_path / "a.zarr", 6, BY_HAND)
    segments = sorted((store.path / "streams/cam/hot").iterdir())
    damaged = segments[-1]
    damaged.write_bytes(damaged.read_bytes()[:-30])
    fresh = CaptionStore.open(store.path)
    left = fresh.dataset().to_table()
    assert 0 < len(left) < len(batch(0).captions) * 6
    assert [file.path for file in fresh.damage()] == [str(damaged)]
    with pytest.raises(StoreRefused):
        CaptionStore.open(store.path, strict=True).dataset().to_table()


def test_what_has_no_files_and_no_such_table_says_so(store: CaptionStore) -> None:
    table = store.dataset()
    assert isinstance(table, ds.Dataset)
    for call in (table.get_fragments, table.filter, lambda: table.take([0]), lambda: table.sort_by("track")):
        with pytest.raises(NotImplementedError, match="scanner"):
            call()
    with pytest.raises(StoreRefused, match="no column 'colour'"):
        table.to_table(["colour"])
    with pytest.raises(StoreRefused, match="no table 'people'"):
        store.dataset("people")
    assert set(TABLES) >= {"captions", "observations", "gaps"}


class TestExamplesOfThePage:
    """What `docs/querying.md` shows for other programs."""

    def test_duckdb(self, store: CaptionStore) -> None:
        duckdb = pytest.importorskip("duckdb")
        connection = duckdb.connect()
        connection.register("captions", store.dataset())
        found = connection.sql(
            "SELECT text, count(DISTINCT track) AS tracks FROM captions WHERE score >= 0.5 GROUP BY text ORDER BY ALL"
        ).fetchall()
        table = store.captions(min_score=0.5)
        expected: dict[str, set[tuple[str, int]]] = {}
        for row in table.to_pylist():
            expected.setdefault(row["text"], set()).add(row["track"])
        assert dict(found) == {text: len(tracks) for text, tracks in expected.items()}

    def test_polars(self, store: CaptionStore) -> None:
        polars = pytest.importorskip("polars")
        lazy = polars.scan_pyarrow_dataset(store.dataset())
        found = (
            lazy.filter((polars.col("track") == 103) & (polars.col("stream") == "cam"))
            .select("text")
            .collect()
        )
        assert found["text"].to_list() == ["schöne Katze 3"]

    def test_pandas(self, store: CaptionStore) -> None:
        pytest.importorskip("pandas")
        frame = store.dataset().to_table(["t_start", "score"], filter=pc.field("score") > 0.5).to_pandas()
        by_second = frame.set_index("t_start").resample("1s")["score"].max()
        assert np.nanmax(by_second) == 0.875

    def test_xarray(self, store: CaptionStore) -> None:
        xarray = pytest.importorskip("xarray")
        table = store.dataset("observations").to_table(
            ["t", "track", "x0", "x1"], filter=pc.field("stream") == "cam"
        )
        seen = xarray.Dataset.from_dataframe(table.to_pandas().set_index(["t", "track"]))
        widths = (seen["x1"] - seen["x0"]).groupby("track").max()
        assert set(widths["track"].values.tolist()) == {0, 1, 2}
        assert float(widths.max()) == pytest.approx(30.25)
