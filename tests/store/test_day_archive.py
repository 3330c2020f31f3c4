"""The archive of closed days answers like the segments that it replaced."""

from pathlib import Path

import numpy as np
import pytest
import xarray
import zarr

from pipeline.core.records import Batch, CaptionEvent, ResumePoint
from pipeline.store import CaptionStore, Compaction
from pipeline.store.day_archive import DAY_NS, closed_days
from pipeline.store.segment_name import SegmentName
from tests.store_samples import (
    BY_HAND,
    EVERYTHING,
    INFO,
    T0,
    S,
    batch,
    check_everything,
    filled_store,
    opened_archive,
)

MIDNIGHT = T0 // DAY_NS * DAY_NS + DAY_NS


def seg(lo: int, t_min: int, t_max: int) -> SegmentName:
    return SegmentName.hot(lo, lo + 1, 0, t_min, t_max, 0)


def test_a_segment_belongs_to_the_day_of_its_last_moment() -> None:
    segments = [
        seg(0, MIDNIGHT - 9, MIDNIGHT - 2),
        seg(1, MIDNIGHT - 1, MIDNIGHT + 1),
        seg(2, MIDNIGHT - 5, MIDNIGHT - 4),  # the clock was set back
        seg(3, MIDNIGHT + DAY_NS, MIDNIGHT + DAY_NS),
    ]
    days = closed_days(segments, MIDNIGHT + DAY_NS)
    assert [(date, [s.lo for s in members]) for date, members in days] == [
        ("2026-09-21", [0]),
        ("2026-09-22", [1, 2]),
    ]
    assert closed_days(segments, MIDNIGHT) == days[:1]
    assert closed_days(segments, MIDNIGHT - 1) == []


def test_an_archive_answers_like_the_segments_it_replaces(tmp_path: Path) -> None:
    store = filled_store(tmp_path / "a.zarr", 30)
    windows = [(None, None), (T0 + 7 * S, T0 + 9 * S), (None, T0), (T0 + 29 * S, None)]
    before = [store.captions(*window, columns=EVERYTHING).to_pylist() for window in windows]
    (archive,) = store.archive_closed_days(T0 + 2 * DAY_NS)
    assert archive.name.startswith("2026-09-21.")
    store.archive_closed_days(T0 + 2 * DAY_NS)
    for fresh in (store, CaptionStore.open(tmp_path / "a.zarr")):
        assert [fresh.captions(*window, columns=EVERYTHING).to_pylist() for window in windows] == before
        check_everything(fresh, 30)
    with store.writer("cam", INFO, compaction=BY_HAND) as writer:
        writer.compact()  # the segments go once their grace is over
        assert not list((tmp_path / "a.zarr/streams/cam/hot").iterdir())
        assert writer.resume == batch(29).resume
        writer.commit(batch(30))
    check_everything(CaptionStore.open(tmp_path / "a.zarr"), 31)
    store.archive_closed_days(T0 + 2 * DAY_NS)
    assert len(list((tmp_path / "a.zarr/streams/cam/day").iterdir())) == 2
    check_everything(store, 31)


def test_an_event_that_goes_on_after_midnight_is_one_event(tmp_path: Path) -> None:
    store = CaptionStore.create(tmp_path / "a.zarr")
    with store.writer("cam", INFO, compaction=Compaction(grace_s=0, enabled=False)) as writer:
        for end in (MIDNIGHT - S, MIDNIGHT + S):
            event = CaptionEvent(1, MIDNIGHT - 5 * S, end, 0, end - T0, 0, (0, 0, 1, 1), "a fox", 0.5, -1)
            writer.commit(Batch(captions=(event,), resume=ResumePoint(0, 0, 0, end, 2)))
        assert len(writer.archive_closed_days(MIDNIGHT + S)) == 1
    for window in ((None, None), (MIDNIGHT - 4 * S, MIDNIGHT - 3 * S), (MIDNIGHT, None)):
        assert store.captions(*window)["end_s"].to_pylist() == [(MIDNIGHT + S - T0) / 1e9]


def many(count: int) -> Batch:
    events = tuple(
        CaptionEvent(n % 50, T0 + n * S, T0 + n * S + S, n * S, n * S + S, n, (n % 600, 2, n % 600 + 9, 40),
                     f"thing {n % 97}", 0.5, -1, np.full(8, 0.5, np.float32))
        for n in range(count)
    )  # fmt: skip
    return Batch(captions=events, resume=ResumePoint(0, 0, 0, T0 + count * S, 2))


@pytest.fixture
def large(tmp_path: Path) -> CaptionStore:
    store = CaptionStore.create(tmp_path / "a.zarr")
    with store.writer("cam", INFO, compaction=Compaction(grace_s=0, enabled=False)) as writer:
        writer.commit(many(20_000))
        writer.archive_closed_days(T0 + 2 * DAY_NS)
        writer.compact()
    return store


def archive_of(store: CaptionStore) -> Path:
    (archive,) = (store.path / "streams/cam/day").iterdir()
    return archive


def test_a_minute_is_found_through_the_index_without_reading_the_day(large: CaptionStore) -> None:
    start = T0 + 15_000 * S
    table = large.captions(start, start + 60 * S)
    assert table["frame"].to_pylist() == list(range(14_999, 15_061))
    reader = opened_archive(archive_of(large))
    kind = type(reader.rows().cap)
    rows = reader.candidates(kind, start, start + 60 * S)
    assert rows is not None
    assert (int(rows[0]), int(rows[-1])) == (12_288, 16_383)
    # across the border of two chunks, and in chunks that are not neighbours
    picked = np.array([4095, 4096, 19_999])
    np.testing.assert_array_equal(reader.column(kind, "frame", picked), picked)


def test_zarr_and_xarray_open_an_archive(large: CaptionStore) -> None:
    group = zarr.open_group(archive_of(large), mode="r")
    assert group["cap/frame"].shards == (20_480,)
    assert group["cap/frame"].chunks == (4096,)
    np.testing.assert_array_equal(group["cap/frame"][...], np.arange(20_000))
    days = xarray.open_zarr(archive_of(large), group="cap", consolidated=False)
    assert days.t_start.values[0].astype("datetime64[ns]").astype(int) == T0


@pytest.mark.promise("archives-bounded")
@pytest.mark.parametrize("damage", ["missing", "flipped", "truncated"])
def test_damage_to_an_archive_is_named_and_never_read_as_zeros(large: CaptionStore, damage: str) -> None:
    path = archive_of(large) / "cap/score/c/0"
    data = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    elif damage == "flipped":
        data[40] ^= 1
        path.write_bytes(data)
    else:
        path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"day archive .* is damaged .*restore it"):
        CaptionStore.open(large.path, strict=True).captions()


def test_a_stream_that_is_being_written_is_not_archived_by_others(tmp_path: Path) -> None:
    store = filled_store(tmp_path / "a.zarr", 3)
    with (
        store.writer("cam", INFO, compaction=BY_HAND) as writer,
        pytest.raises(ValueError, match="is being written by process"),
    ):
        store.archive_closed_days(T0 + 2 * DAY_NS)
    with store.writer("cam", INFO, compaction=BY_HAND) as writer:
        assert len(writer.archive_closed_days(T0 + 2 * DAY_NS)) == 1
    check_everything(store, 3)
