"""Forgetting the past."""

import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from pipeline.core.clock import TimeSpan
from pipeline.core.records import Batch, Gap, ResumePoint
from pipeline.store import CaptionStore, Compaction
from pipeline.store.compaction import merge
from pipeline.store.place import LocalPlace, StorePlace
from pipeline.store.retention import expired, over_size, size_on_disk
from pipeline.store.segment_name import SegmentName, visible
from pipeline.store.stream_directory import list_visible
from tests.store_samples import BY_HAND, INFO, T0, S, batch, filled_store

DAY = 86_400 * S


def tracks(store: CaptionStore) -> list[int]:
    return sorted(track - 100 for track in store.captions()["track"].to_pylist() if track >= 100)


@pytest.mark.parametrize("archived", [False, True])
def test_what_is_older_goes_and_the_rest_stays(tmp_path: Path, archived: bool) -> None:
    store = filled_store(tmp_path / "a.zarr", 6)
    with store.writer("cam", INFO, compaction=BY_HAND) as writer:
        if archived:
            writer.archive_closed_days(T0 + 2 * DAY)
        else:
            writer.compact()  # two segments of three batches
        for number in range(6, 9):
            writer.commit(batch(number))
        assert writer.forget_before(T0 + 5 * S) == (0 if archived else 1)
        assert tracks(store) == list(range(0 if archived else 3, 9))
        assert writer.forget_before(T0 + 7 * S) == 1
        assert tracks(store) == [6, 7, 8]
        writer.commit(batch(9))
    (gap,) = store.gaps().to_pylist()
    assert (gap["reason"], gap["t_start"].value, gap["t_end"].value) == ("forgotten", T0, T0 + 5 * S - 1)
    assert store.span("cam") == TimeSpan(T0 + 5 * S, T0 + 10 * S)
    assert store.coverage() == 1
    assert not list((tmp_path / "a.zarr/streams/cam/day").iterdir())


def kept_gaps(store: CaptionStore) -> list[int]:
    gaps = store.gaps().to_pylist()
    return [gap["frames"] for gap in gaps if gap["reason"] == "dropped"]


def test_a_writer_archives_and_forgets_by_itself_while_it_commits(tmp_path: Path) -> None:
    days = Compaction(fan_in=2, grace_s=0.0, archive_days=True, keep_s=2.5 * 86_400, housekeeping_s=0.0)
    store = CaptionStore.create(tmp_path / "a.zarr")
    start = time.time_ns() - 5 * DAY
    with store.writer("cam", INFO, compaction=days) as writer:
        for number in range(12):  # two a day, from five days ago until today
            at = start + number * DAY // 2
            gap = Gap(at, at + S, "dropped", number)
            writer.commit(Batch(gaps=(gap,), resume=ResumePoint(number * S, number, 0, at, 1)))
        until = time.monotonic() + 30
        while kept_gaps(store)[0] < 4 or not list((tmp_path / "a.zarr/streams/cam/day").iterdir()):
            assert time.monotonic() < until
            time.sleep(0.05)
            number += 1
            writer.commit(
                Batch(gaps=(Gap(at + number, at + number + 1, "dropped", number),), resume=ResumePoint())
            )
    kept = kept_gaps(store)
    assert kept == list(range(kept[0], number + 1))
    assert 4 <= kept[0] <= 6


def test_a_writer_that_never_pauses_starves_no_archiving(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whenever segments have been merged, as many new ones are there already."""
    days = Compaction(fan_in=2, grace_s=0.0, archive_days=True, housekeeping_s=0.0)
    store = CaptionStore.create(tmp_path / "a.zarr")
    start = time.time_ns() - 3 * DAY
    archives = tmp_path / "a.zarr/streams/cam/day"

    with store.writer("cam", INFO, compaction=days) as writer:
        number, turns = 0, threading.Lock()

        def commit_two() -> None:
            nonlocal number
            with turns:  # here, and beside the merges
                for _ in range(2):
                    at = start + number * DAY // 2 if number < 6 else start + 3 * DAY + number
                    writer.commit(Batch(gaps=(Gap(at, at + 1, "dropped", number),), resume=ResumePoint()))
                    number += 1

        def busy_merge(place: StorePlace, inputs: Sequence[SegmentName], epoch: int) -> SegmentName:
            merged = merge(place, inputs, epoch)
            if number < 2000:
                commit_two()
            return merged

        monkeypatch.setattr("pipeline.store.compaction.merge", busy_merge)
        for _ in range(4):
            commit_two()
        until = time.monotonic() + 60
        while not list(archives.iterdir()):
            assert time.monotonic() < until
            time.sleep(0.05)
        assert number < 2000, "archived only when the writer paused"
    kept = store.gaps()["frames"].to_pylist()
    assert kept == list(range(number))


def test_the_last_segment_stays_because_it_tells_where_to_go_on(tmp_path: Path) -> None:
    store = filled_store(tmp_path / "a.zarr", 4)
    assert store.forget_before(T0 + DAY) == 3
    assert tracks(store) == [3]
    with store.writer("cam", INFO, compaction=BY_HAND) as writer:
        assert writer.resume == batch(3).resume


def test_replaced_segments_go_before_what_replaced_them() -> None:
    small = [SegmentName.hot(n, n + 1, 0, n, n, 0) for n in range(4)]
    merged = SegmentName.hot(0, 2, 0, 0, 1, 1)
    names = [merged, *small]
    order = expired(names, visible(names, {0: 0}), 2)
    assert order == [small[0], small[1], merged]
    for gone in range(len(order) + 1):  # a crash at any point brings nothing back
        left = [name for name in names if name not in order[:gone]]
        assert set(visible(left, {0: 0}).segments) in ({merged, *small[2:]}, set(small[2:]))


def test_as_few_of_the_oldest_go_as_make_the_rest_fit() -> None:
    small = [SegmentName.hot(n, n + 1, 0, n, n, 0) for n in range(6)]
    merged = SegmentName.hot(0, 2, 0, 0, 1, 1)
    names = [merged, *small]
    shown = visible(names, {0: 0})
    sizes = {merged: 50, **{name: 10 for name in small}}
    assert over_size(names, shown, sizes.__getitem__, 90) == []
    assert over_size(names, shown, sizes.__getitem__, 89) == [small[0], small[1], merged]
    assert over_size(names, shown, sizes.__getitem__, 40) == [small[0], small[1], merged]
    assert over_size(names, shown, sizes.__getitem__, 39) == [small[0], small[1], merged, small[2]]
    # The last one tells where to go on, however large it is.
    assert over_size(names, shown, sizes.__getitem__, 0)[-1] == small[4]


@pytest.mark.parametrize("archived", [False, True])
def test_a_writer_keeps_a_stream_below_a_size(tmp_path: Path, archived: bool) -> None:
    store = filled_store(tmp_path / "a.zarr", 12, Compaction(enabled=False))
    place = LocalPlace(tmp_path / "a.zarr/streams/cam")
    if archived:
        with store.writer("cam", INFO, compaction=BY_HAND) as writer:
            writer.archive_closed_days(T0 + 2 * DAY)
            for number in range(12, 16):
                writer.commit(batch(number))
    before = tracks(store)
    sizes = [size_on_disk(place, name) for name in list_visible(place).segments]
    most = sum(sizes[-2:])
    assert sizes[0] > 1000 or not archived
    with store.writer("cam", INFO, compaction=Compaction(keep_bytes=most)):
        assert [size_on_disk(place, name) for name in list_visible(place).segments] == sizes[-2:]
        assert tracks(store) == before[-2:]
    assert "lost" not in store.gaps()["reason"].to_pylist()
