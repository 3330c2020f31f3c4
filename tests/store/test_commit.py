"""Committing, taking over, merging, and what happens when the disk or another writer is in the way."""

import errno
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zarr

from pipeline.core.clock import DAY_NS
from pipeline.core.errors import StoreRefused
from pipeline.core.frame import ClockSource
from pipeline.core.records import Batch, Gap, ResumePoint
from pipeline.store import CaptionStore, Compaction, StreamInfo, open
from pipeline.store.compaction import merge, next_merge
from pipeline.store.place import LocalPlace
from pipeline.store.segment_name import SegmentName, visible
from pipeline.store.stream_directory import list_visible
from tests.store_samples import BY_HAND, INFO, MERGING, T0, S, batch, check_everything, filled_store


def hot_files(store: CaptionStore) -> list[str]:
    return sorted(file.name for file in (store.path / "streams/cam/hot").iterdir())


# --- committing ---


def test_a_commit_is_synced_before_it_is_named_and_the_name_before_it_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with CaptionStore.create(tmp_path / "a.zarr").writer("cam", INFO, compaction=BY_HAND) as writer:
        calls: list[tuple[str, str]] = []
        sync, replace = os.fsync, os.replace

        def recording_sync(handle: int) -> None:
            calls.append(("fsync", Path(os.readlink(f"/proc/self/fd/{handle}")).name))
            sync(handle)

        def recording_replace(source: Path, target: Path) -> None:
            calls.append(("rename", Path(target).name))
            replace(source, target)

        monkeypatch.setattr(os, "fsync", recording_sync)
        monkeypatch.setattr(os, "replace", recording_replace)
        writer.commit(batch(0))
        (file,) = hot_files(CaptionStore.open(tmp_path / "a.zarr"))
        assert calls == [("fsync", f"{file}.tmp{os.getpid()}"), ("rename", file), ("fsync", "hot")]


def test_a_batch_without_rows_moves_the_resume_point_and_one_without_that_leaves_it(tmp_path: Path) -> None:
    store = CaptionStore.create(tmp_path / "a.zarr")
    point = ResumePoint(7, 8, 1, T0, 9)
    with store.writer("cam", INFO) as writer:
        assert writer.resume == ResumePoint()
        writer.commit(Batch(resume=point))
        writer.commit(Batch(gaps=(Gap(T0, T0 + S, "outage"),)))
        writer.commit(Batch())
        assert writer.resume == point
    assert store.resume("cam") == point
    assert len(hot_files(store)) == 2
    with store.writer("cam", INFO) as writer:
        assert writer.resume == point


def test_a_full_disk_refuses_the_batch_whole_and_takes_it_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = filled_store(tmp_path / "a.zarr", 3)
    sync = os.fsync
    for failing_call in (1, 2):  # the data, then the directory after the rename
        with store.writer("cam", INFO, compaction=BY_HAND) as writer:
            count = 0

            def full(handle: int, failing_call: int = failing_call) -> None:
                nonlocal count
                count += 1
                if count == failing_call:
                    raise OSError(errno.ENOSPC, "No space left on device")
                sync(handle)

            number = writer.resume.frame + 1
            monkeypatch.setattr(os, "fsync", full)
            with pytest.raises(ValueError, match=r"cannot write .*the disk is full: free some space"):
                writer.commit(batch(number))
            monkeypatch.setattr(os, "fsync", sync)
            check_everything(store, number)
            assert not [name for name in hot_files(store) if "tmp" in name]
            writer.commit(batch(number))
            check_everything(store, number + 1)


# --- who may write ---


def hold_stream(path: Path, ready: Any) -> None:
    with CaptionStore.open(path).writer("cam", INFO):
        ready.put(os.getpid())
        time.sleep(60)


def test_a_second_writer_is_refused_and_told_who_writes(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    CaptionStore.create(path)
    context = multiprocessing.get_context("forkserver")
    ready = context.Queue()
    holder = context.Process(target=hold_stream, args=(path, ready))
    holder.start()
    try:
        pid = ready.get(timeout=60)
        with pytest.raises(ValueError, match=rf"stream cam .* is being written by process {pid} "):
            CaptionStore.open(path).writer("cam", INFO)
        with CaptionStore.open(path).writer("other", INFO) as writer:
            writer.commit(batch(0))
    finally:
        holder.kill()
        holder.join()
    with CaptionStore.open(path).writer("cam", INFO) as writer:
        writer.commit(batch(0))


def test_a_second_writer_in_the_same_process_is_refused(tmp_path: Path) -> None:
    store = CaptionStore.create(tmp_path / "a.zarr")
    with (
        store.writer("cam", INFO),
        pytest.raises(ValueError, match=f"is being written by process {os.getpid()}"),
    ):
        store.writer("cam", INFO)


def test_a_writer_that_was_taken_over_is_told_so_and_its_late_rows_do_not_count(tmp_path: Path) -> None:
    """A frozen process may wake up after its lock was lost (a network disk, a copied directory)."""
    store = filled_store(tmp_path / "a.zarr", 3)
    zombie = store.writer("cam", INFO, compaction=BY_HAND)
    zombie.commit(batch(3))
    (tmp_path / "a.zarr/streams/cam/writer.lock").unlink()
    with store.writer("cam", INFO, compaction=BY_HAND) as writer:
        assert writer.resume == batch(3).resume
        with pytest.raises(ValueError, match="taken over by another writer"):
            zombie.commit(batch(77))
        with pytest.raises(ValueError, match="open a new one"):
            zombie.commit(batch(78))
        check_everything(store, 4)
        writer.commit(batch(4))
        check_everything(store, 5)
    zombie.close()
    with store.writer("cam", INFO, compaction=BY_HAND) as writer:
        assert writer.resume == batch(4).resume
    check_everything(store, 5)


def test_a_closed_writer_refuses(tmp_path: Path) -> None:
    writer = CaptionStore.create(tmp_path / "a.zarr").writer("cam", INFO)
    writer.close()
    writer.close()
    with pytest.raises(ValueError, match="is closed: open a new one"):
        writer.commit(batch(0))


# --- which segments count ---


def seg(lo: int, hi: int, epoch: int = 0, level: int = 0) -> SegmentName:
    return SegmentName.hot(lo, hi, epoch, lo, hi, level)


def test_names_read_back() -> None:
    for name in (seg(1, 2), seg(0, 3600, 12, 2), SegmentName.day("2026-11-22", 0, 9, 3, T0, T0 + S)):
        folder, _, file = name.path.partition("/")
        assert SegmentName.parse(folder, file) == name
    assert SegmentName.parse("hot", seg(1, 2).path.partition("/")[2] + ".tmp12") is None


@pytest.mark.parametrize(
    ("names", "starts", "shown", "holes"),
    [
        ([], {}, [], ()),
        ([seg(1, 2), seg(0, 1)], {0: 0}, [seg(0, 1), seg(1, 2)], ()),
        ([seg(0, 1), seg(1, 2), seg(0, 2, level=1)], {0: 0}, [seg(0, 2, level=1)], ()),
        ([seg(0, 1), seg(2, 3), seg(5, 6)], {0: 0}, [seg(0, 1), seg(2, 3), seg(5, 6)], ((1, 2), (3, 5))),
        ([seg(0, 1), seg(1, 2, 0), seg(1, 2, 1)], {0: 0, 1: 1}, [seg(0, 1), seg(1, 2, 1)], ()),
        ([seg(0, 1), seg(1, 2, 0)], {0: 0, 1: 1}, [seg(0, 1)], ()),
        ([seg(0, 1), seg(1, 3, 0, 1)], {0: 0, 1: 2}, [seg(0, 1)], ()),
        ([seg(8, 9), seg(9, 10)], {0: 0}, [seg(8, 9), seg(9, 10)], ()),
    ],
    ids=["none", "order", "merged", "holes", "newer-epoch", "zombie", "zombie-merge", "head-deleted"],
)
def test_the_segments_a_reader_counts(
    names: list[SegmentName],
    starts: dict[int, int],
    shown: list[SegmentName],
    holes: tuple[tuple[int, int], ...],
) -> None:
    assert list(visible(names, starts).segments) == shown
    assert visible(names, starts).holes == holes


def test_a_commit_missed_by_a_listing_is_found_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = filled_store(tmp_path / "a.zarr", 6)
    listdir, hidden = os.listdir, [hot_files(store)[2]]

    def listing(path: Any) -> list[str]:
        entries = listdir(path)
        if str(path).endswith("hot") and hidden:
            entries.remove(hidden.pop())
        return entries

    monkeypatch.setattr(os, "listdir", listing)
    assert not list_visible(LocalPlace(tmp_path / "a.zarr/streams/cam")).holes
    assert not hidden


def test_a_segment_that_was_removed_shows_as_a_lost_gap_and_the_rest_is_read(tmp_path: Path) -> None:
    store = filled_store(tmp_path / "a.zarr", 6)
    (tmp_path / "a.zarr/streams/cam/hot" / hot_files(store)[3]).unlink()
    assert 103 not in store.captions()["track"].to_pylist()
    assert 105 in store.captions()["track"].to_pylist()
    gaps = store.gaps().to_pylist()
    assert [gap["reason"] for gap in gaps] == ["lost", "dropped"]
    assert store.coverage() < 1
    with store.writer("cam", INFO, compaction=BY_HAND) as writer:
        writer.commit(batch(6))
    assert 106 in store.captions()["track"].to_pylist()


def test_a_damaged_segment_is_named_with_what_to_do(tmp_path: Path) -> None:
    store = filled_store(tmp_path / "a.zarr", 3)
    path = tmp_path / "a.zarr/streams/cam/hot" / hot_files(store)[1]
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match=f"segment .*{path.name} is damaged .*move it out of the store"):
        CaptionStore.open(store.path, strict=True).captions()
    path.rename(tmp_path / "set-aside")
    assert {100, 102} <= set(store.captions()["track"].to_pylist())


# --- merging ---


def test_merging_takes_the_oldest_run_of_one_level() -> None:
    hot = [seg(n, n + 1) for n in range(7)]
    assert next_merge(hot, 3) == tuple(hot[:3])
    assert next_merge(hot[:2], 3) == ()
    assert next_merge([seg(0, 3, level=1), *hot[3:6]], 3) == tuple(hot[3:6])
    assert next_merge([seg(n * 3, n * 3 + 3, level=1) for n in range(3)], 3)[0].level == 1
    hours = [seg(n * 9, n * 9 + 9, level=2) for n in range(3)]
    assert next_merge(hours, 3) == tuple(hours)
    assert next_merge(hours, 4) == ()
    tomorrow = SegmentName.hot(27, 36, 0, DAY_NS, DAY_NS + 1, 2)
    assert next_merge([*hours, tomorrow], 4) == tuple(hours)
    assert next_merge([hours[0], replace(tomorrow, lo=9)], 4) == ()
    assert next_merge([hot[0], hot[2], hot[3]], 3) == ()


def test_merging_counts_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.store.compaction.MERGED_BYTES", 100)
    hot = [seg(n, n + 1) for n in range(9)]
    sizes = dict(zip(hot, [30, 30, 30, 30, 10, 60, 10, 70, 10], strict=True))
    assert next_merge(hot, 8, size_of=sizes.__getitem__) == tuple(hot[:3])
    assert next_merge(hot[3:], 8, size_of=sizes.__getitem__) == tuple(hot[3:5])
    assert next_merge(hot[5:], 8, size_of=sizes.__getitem__) == ()


def test_merging_changes_no_answer_and_doing_it_again_changes_nothing(tmp_path: Path) -> None:
    store = filled_store(tmp_path / "a.zarr", 9)
    directory = tmp_path / "a.zarr/streams/cam"
    inputs = list_visible(LocalPlace(directory)).segments
    first = merge(LocalPlace(directory), inputs, 0)
    written = (directory / first.path).read_bytes()
    assert list_visible(LocalPlace(directory)).segments == (first,)
    check_everything(store, 9)
    assert merge(LocalPlace(directory), inputs, 0) == first
    assert (directory / first.path).read_bytes() == written


def test_the_writer_merges_and_tidies_up_by_itself(tmp_path: Path) -> None:
    store = CaptionStore.create(tmp_path / "a.zarr")
    with store.writer("cam", INFO, compaction=MERGING) as writer:
        for number in range(33):
            writer.commit(batch(number))
        wait_until(lambda: len(hot_files(store)) <= 1 + 2 + 4)
        levels = sorted(name.split(".L")[1][0] for name in hot_files(store))
        assert {"0", "1", "2"} >= set(levels)
        assert "2" in levels
        check_everything(store, 33)
    check_everything(CaptionStore.open(tmp_path / "a.zarr"), 33)


def test_replaced_segments_stay_for_slow_readers_and_go_after_the_grace(tmp_path: Path) -> None:
    store = filled_store(tmp_path / "a.zarr", 3)
    slow = Compaction(fan_in=3, grace_s=3600, enabled=False)
    with store.writer("cam", INFO, compaction=slow) as writer:
        writer.compact()
        assert len(hot_files(store)) == 4
    check_everything(store, 3)
    with store.writer("cam", INFO, compaction=BY_HAND) as writer:
        writer.compact()
    assert len(hot_files(store)) == 1
    check_everything(store, 3)


def test_a_damaged_segment_is_not_merged_away(tmp_path: Path) -> None:
    store = filled_store(tmp_path / "a.zarr", 3)
    path = tmp_path / "a.zarr/streams/cam/hot" / hot_files(store)[1]
    path.write_bytes(path.read_bytes()[:-40])
    with store.writer("cam", INFO, compaction=MERGING) as writer:
        for number in range(3, 12):
            writer.commit(batch(number))
        writer.compact()
    assert path.exists()
    others = {100, *range(102, 112)}
    path.rename(tmp_path / "set-aside")
    assert others <= set(store.captions()["track"].to_pylist())
    assert len(list_visible(LocalPlace(tmp_path / "a.zarr/streams/cam")).segments) < 12


def test_what_a_killed_writer_left_half_written_is_removed(tmp_path: Path) -> None:
    store = filled_store(tmp_path / "a.zarr", 2)
    cam = tmp_path / "a.zarr/streams/cam"
    (cam / "hot" / (hot_files(store)[0] + ".tmp123")).write_bytes(b"half")
    (cam / "day/2026-01-01.tmp123").mkdir()
    (cam / "epoch/0001.json").touch()
    check_everything(store, 2)
    with store.writer("cam", INFO, compaction=BY_HAND) as writer:
        assert writer.epoch == 2
        writer.commit(batch(2))
    assert not list(cam.glob("*/*.tmp*"))
    check_everything(store, 3)


# --- places that are no store ---


def occupied(path: Path) -> None:
    path.mkdir()
    (path / "holiday.jpg").touch()


def other_zarr(path: Path) -> None:
    zarr.create_group(path)


def other_schema(path: Path) -> None:
    zarr.create_group(path, attributes={"schema": "region-captions/9"})


def damaged_root(path: Path) -> None:
    path.mkdir()
    (path / "zarr.json").write_text("{")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.touch(), "file"),
        (occupied, "not empty and not a caption store: choose another place"),
        (other_zarr, "Zarr hierarchy of another kind"),
        (
            other_schema,
            "has schema 'region-captions/9', this program reads 'region-captions/1' and 'region-captions/2'",
        ),
        (damaged_root, "damaged zarr.json"),
    ],
)
def test_create_refuses_what_is_something_else(
    tmp_path: Path, make: Callable[[Path], None], message: str
) -> None:
    make(tmp_path / "a")
    before = sorted(p.name for p in tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=message):
        CaptionStore.create(tmp_path / "a")
    assert sorted(p.name for p in tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "make", [lambda path: None, lambda path: path.touch(), occupied, other_zarr, other_schema]
)
def test_open_refuses_what_is_no_store(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "a")
    with pytest.raises(
        ValueError, match=r"/a (does not exist|is not a caption store|has schema|is a Zarr).*: "
    ):
        open(tmp_path / "a")


def test_create_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="a part of the path is a file: choose another place"):
        CaptionStore.create(tmp_path / "file/a.zarr")


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_a_place_that_may_not_be_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    store = CaptionStore.create(tmp_path / "a.zarr")

    def refusing(path: Path, data: bytes) -> None:
        raise OSError(code, os.strerror(code), str(path))

    monkeypatch.setattr("pipeline.store.place.write_durably", refusing)
    with pytest.raises(ValueError, match=r"cannot write to .*/cam: .*choose (another place|a place)"):
        store.writer("cam", INFO)


def test_create_opens_what_is_there_unless_told_not_to(tmp_path: Path) -> None:
    filled_store(tmp_path / "a.zarr", 2)
    check_everything(CaptionStore.create(tmp_path / "a.zarr"), 2)
    with pytest.raises(ValueError, match="is a store already"):
        CaptionStore.create(tmp_path / "a.zarr", exist_ok=False)


def test_an_interrupted_create_can_be_repeated(tmp_path: Path) -> None:
    filled = filled_store(tmp_path / "a.zarr", 0)
    (filled.path / "zarr.json").rename(filled.path / "zarr.json.tmp9")
    shutil.rmtree(filled.path / "streams/cam")
    with CaptionStore.create(tmp_path / "a.zarr").writer("cam", INFO) as writer:
        writer.commit(batch(0))
    check_everything(open(tmp_path / "a.zarr"), 1)


# --- streams ---


def test_streams_are_listed_with_what_they_are(tmp_path: Path) -> None:
    store = CaptionStore.create(tmp_path / "a.zarr")
    info = StreamInfo(
        "rtsp://me:secret@cam:554/1?channel=2&token=abc", ClockSource.RTCP, T0, 640, 480, 25.0, "demo"
    )
    with store.writer("yard", info):
        assert list(store.streams()) == ["yard"]
    assert "secret" not in "".join(p.read_text() for p in tmp_path.rglob("*.json"))
    later = StreamInfo(info.uri, ClockSource.ARRIVAL, T0 + S, 1280, 720)
    with store.writer("yard", later):
        pass
    assert store.streams() == {
        "yard": StreamInfo("rtsp://cam:554/1?channel=2&token=***", ClockSource.ARRIVAL, T0, 1280, 720)
    }
    assert zarr.open_group(tmp_path / "a.zarr", mode="r")["streams/yard"].attrs["width"] == 1280


def test_a_stored_stream_keeps_no_secret_of_its_address() -> None:
    assert (
        replace(INFO, uri="rtsp://user:p%40ss@10.0.0.2:554/ch0?token=x").uri
        == "rtsp://10.0.0.2:554/ch0?token=***"
    )


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "x" * 200, "k\u00e4\u202ese", "-x"])
def test_stream_names_that_cannot_be_directories_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"stream name .*: use up to 100 bytes of letters"):
        CaptionStore.create(tmp_path / "a.zarr").writer(name, INFO)


def wait_until(condition: Callable[[], bool], timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _remove(path: Path) -> None:
    shutil.rmtree(path)


def _move(path: Path) -> None:
    path.rename(path.with_name("elsewhere.zarr"))


def _replace(path: Path) -> None:
    """As by another run, under the same stream and with a claim of the same number."""
    path.rename(path.with_name("elsewhere.zarr"))
    CaptionStore.create(path).writer("cam", INFO, compaction=BY_HAND).close()


@pytest.mark.promise("store-removed")
@pytest.mark.parametrize("change", [_remove, _move, _replace])
def test_a_store_that_goes_while_it_is_written_is_told_and_not_made_anew(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    path = tmp_path / "s.zarr"
    with CaptionStore.create(path).writer("cam", INFO, compaction=BY_HAND) as writer:
        writer.commit(batch(0))
        change(path)
        for number in (1, 2):
            with pytest.raises(StoreRefused, match=r"was removed, moved or replaced|open a new one"):
                writer.commit(batch(number))
    left = sorted(file.name for file in path.glob("streams/cam/hot/*"))
    assert left == []
    if not path.exists():
        with pytest.raises(StoreRefused, match="was removed or moved while the run went on"):
            CaptionStore.open_planned(path)
    elsewhere = path.with_name("elsewhere.zarr")
    if elsewhere.exists():
        with CaptionStore.open(elsewhere) as moved:
            check_everything(moved, 1)
