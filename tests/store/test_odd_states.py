"""Stores in conditions that no run leaves: copied in part, with claims lost, laid on several disks, asked by a clock that is wrong."""

import errno
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.core.errors import StoreRefused
from pipeline.core.records import Batch, ClosedTrack, ResumePoint
from pipeline.store import CaptionStore, Compaction
from pipeline.store.damage import SegmentDamaged
from pipeline.store.erasing import ErasedRows
from pipeline.store.feed import NewCaption
from pipeline.store.place import LocalPlace
from pipeline.store.stream_directory import EpochClaim
from tests.store_samples import BY_HAND, INFO, T0, S, batch, check_everything, filled_store, opened_archive

DAY = 86_400 * S
WAITING = replace(BY_HAND, grace_s=1e9)


def written_by_several(path: Path) -> CaptionStore:
    store = CaptionStore.create(path)
    for _ in range(4):
        with store.writer("cam", INFO, compaction=BY_HAND) as writer:
            for _ in range(3):
                writer.commit(batch(writer.resume.frame + 1 if writer.resume != ResumePoint() else 0))
            writer.compact()
    return store


def test_what_is_written_anew_wins_where_all_claims_are_lost(tmp_path: Path) -> None:
    """Else what was erased would be read from the older files, which have higher numbers of writers."""
    store = written_by_several(tmp_path / "a.zarr")
    shutil.rmtree(tmp_path / "a.zarr/streams/cam/epoch")
    assert store.erase(ErasedRows(track=1)) > 0
    assert 1 not in CaptionStore.open(store.path).captions()["track"].to_pylist()
    assert len(store.archive_closed_days(T0 + 2 * DAY)) == 1
    assert store.archive_closed_days(T0 + 2 * DAY) == []


def spoil(path: Path) -> None:
    if path.is_dir():
        (path / "checksums.json").write_bytes(b"")
    else:
        path.write_bytes(path.read_bytes()[:-50])


@pytest.mark.parametrize("kind", ["merge", "archive"])
def test_what_was_merged_stays_while_the_merge_cannot_be_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.zarr"
    store = filled_store(path, 3)
    with store.writer("cam", INFO, compaction=WAITING) as writer:
        if kind == "merge":
            writer.compact()
        else:
            writer.archive_closed_days(T0 + 2 * DAY)
    (merged,) = (path / "streams/cam").glob("*/*000000000000-000000000003.*")
    spoil(merged)
    for number in (3, 4):
        with CaptionStore.open(path).writer("cam", INFO, compaction=BY_HAND) as writer:
            writer.commit(batch(number))
            writer.compact()
    check_everything(CaptionStore.open(path), 5)
    run = CliRunner()
    result = run.invoke(app, ["store", "check", str(path)])
    assert (result.exit_code, merged.name in result.output, "nothing is missing" in result.output) == (
        3,
        True,
        True,
    )
    assert run.invoke(app, ["query", str(path)]).exit_code == 0
    assert run.invoke(app, ["store", "repair", str(path)]).exit_code == 0
    assert not merged.exists()
    with CaptionStore.open(path).writer("cam", INFO, compaction=BY_HAND) as writer:
        writer.compact()
    check_everything(CaptionStore.open(path, strict=True), 5)


def test_repair_keeps_what_was_set_aside_before_and_follows_links(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    filled_store(path, 4)
    shutil.move(path / "streams/cam", tmp_path / "other disk")
    (path / "streams/cam").symlink_to(tmp_path / "other disk")
    segment = sorted((path / "streams/cam/hot").iterdir())[1]
    whole = segment.read_bytes()
    for size in (100, 200):
        segment.write_bytes(whole[:size])
        assert CliRunner().invoke(app, ["store", "repair", str(path)], catch_exceptions=False).exit_code == 0
        assert not segment.exists()
    aside = (tmp_path / "a.zarr.damaged").rglob("*.zip*")
    assert sorted(file.stat().st_size for file in aside) == [100, 200]


def followed(feed: object) -> list[int]:
    return [item.event.track for item in feed.poll() if isinstance(item, NewCaption)]  # type: ignore[attr-defined]


def test_a_feed_misses_nothing_where_the_newest_files_are_gone_or_set_aside(tmp_path: Path) -> None:
    for number, gone in enumerate(("repair", "unlink")):
        path = tmp_path / f"{number}.zarr"
        store = filled_store(path, 6)
        feed = store.follow(0)
        assert len(followed(feed)) == 8
        newest = sorted((path / "streams/cam/hot").iterdir())[-3:]
        for segment in newest:
            if gone == "repair":
                segment.write_bytes(b"")
            else:
                segment.unlink()
        if gone == "repair":
            assert CliRunner().invoke(app, ["store", "repair", str(path)]).exit_code == 0
        assert (
            followed(CaptionStore.open(path).follow(cursor=feed.cursor)) == []
        )  # as a stream that is no further
        with CaptionStore.open(path).writer("cam", INFO, compaction=BY_HAND) as writer:
            for added in range(10, 15):
                writer.commit(batch(added))
            writer.compact()
        again = CaptionStore.open(path).follow(cursor=feed.cursor)
        for one in (feed, again):
            assert [track for track in followed(one) if track > 100] == [110, 111, 112, 113, 114]
        gaps = CaptionStore.open(path).gaps()["reason"].to_pylist()
        assert "lost" in gaps


def test_files_that_are_put_back_count_though_another_writer_went_on(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    store = filled_store(path, 6)
    taken = sorted((path / "streams/cam/hot").iterdir())[-2:]
    for segment in taken:
        segment.rename(tmp_path / segment.name)
    with store.writer("cam", INFO, compaction=BY_HAND) as writer:
        assert writer.resume == batch(3).resume
        for number in range(6, 9):
            writer.commit(batch(number))
    assert "lost" in CaptionStore.open(path).gaps()["reason"].to_pylist()
    for segment in taken:
        (tmp_path / segment.name).rename(segment)
    check_everything(CaptionStore.open(path, strict=True), 9)


def test_a_clock_that_is_years_ahead_forgets_nothing_until_something_newer_is_stored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = filled_store(tmp_path / "a.zarr", 6)
    keeping = Compaction(grace_s=0, keep_s=30 * 86_400)
    ahead = T0 + 3650 * DAY
    store.writer("cam", INFO, compaction=keeping, clock=lambda: ahead).close()
    check_everything(CaptionStore.open(tmp_path / "a.zarr"), 6)
    assert "is the clock right?" in caplog.text
    claim, refused = LocalPlace.claim, []

    def full(place: LocalPlace, key: str) -> None:
        if not refused:
            refused.append(key)
            raise OSError(errno.ENOSPC, "No space left on device")
        claim(place, key)

    monkeypatch.setattr(LocalPlace, "claim", full)  # then there is no choice
    store.writer("cam", INFO, compaction=keeping, clock=lambda: ahead).close()
    assert len(list((tmp_path / "a.zarr/streams/cam/hot").iterdir())) == 1


def test_after_something_newer_was_stored_the_old_goes(tmp_path: Path) -> None:
    store = filled_store(tmp_path / "a.zarr", 6)
    now = T0 + 60 * DAY
    keeping = Compaction(grace_s=0, keep_s=30 * 86_400)
    with store.writer("cam", INFO, compaction=keeping, clock=lambda: now) as writer:
        writer.commit(Batch(tracks=(ClosedTrack(7, now, now, 1, "x"),), resume=ResumePoint(9, 9, 0, now, 9)))
    store.writer("cam", INFO, compaction=keeping, clock=lambda: now).close()
    assert len(list((tmp_path / "a.zarr/streams/cam/hot").iterdir())) == 1


def test_a_stream_of_closed_tracks_alone_has_their_time(tmp_path: Path) -> None:
    store = CaptionStore.create(tmp_path / "a.zarr")
    with store.writer("cam", INFO, compaction=BY_HAND) as writer:
        writer.commit(Batch(tracks=(ClosedTrack(1, T0, T0 + S, 1, "a dog"),)))
    span = store.span("cam")
    assert span is not None
    assert (span.start, span.end) == (T0, T0 + S)
    result = CliRunner().invoke(app, ["query", str(store.path), "--from", "14:00"], catch_exceptions=False)
    assert result.exit_code == 0


def caption_with(**changed: object) -> Batch:
    return Batch(captions=(replace(batch(0).captions[1], **changed),))


@pytest.mark.parametrize(
    "wrong",
    [
        caption_with(text="half a pair \ud800"),
        caption_with(frame=2**70),
        caption_with(start_pts=2**65) if hasattr(batch(0).captions[1], "start_pts") else caption_with(frame=-(2**70)),
        Batch(tracks=(ClosedTrack(1, T0, T0, 2**40, "x"),)),
        Batch(resume=ResumePoint(0, 1, 0, 2**70, 1)),
    ],
)  # fmt: skip
def test_rows_that_no_column_holds_are_refused_and_the_writer_goes_on(tmp_path: Path, wrong: Batch) -> None:
    store = CaptionStore.create(tmp_path / "a.zarr")
    with store.writer("cam", INFO, compaction=BY_HAND) as writer:
        with pytest.raises(StoreRefused):
            writer.commit(wrong)
        writer.commit(batch(0))
    check_everything(store, 1)


def test_names_that_no_writer_gives_are_no_segments(tmp_path: Path) -> None:
    store = filled_store(tmp_path / "a.zarr", 3)
    hot = tmp_path / "a.zarr/streams/cam/hot"
    for name in (
        f"{'9' * 23}-{'9' * 24}.e0000.1-2.L0.zarr.zip",
        f"000000000003-000000000004.e0000.{'9' * 20}-{'9' * 20}.L0.zarr.zip",
        "000000000005-000000000002.e0000.1-2.L0.zarr.zip",
        "000000000001-000000000001.e0000.1-2.L0.zarr.zip",
        "000000000003-000000000004.e0000.9-2.L0.zarr.zip",
    ):
        (hot / name).write_bytes(b"x")
    with store.writer("cam", INFO, compaction=BY_HAND) as writer:
        writer.commit(batch(3))
        writer.compact()
    check_everything(CaptionStore.open(tmp_path / "a.zarr", strict=True), 4)


@pytest.mark.parametrize("code", [errno.EMFILE, errno.EACCES])
def test_what_only_this_reader_cannot_read_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """`repair` would set a whole day aside that nothing is wrong with."""
    store = CaptionStore.create(tmp_path / "a.zarr")
    with store.writer("cam", INFO, compaction=BY_HAND) as writer:
        for number in range(4):
            writer.commit(batch(number))
        (archive,) = writer.archive_closed_days(T0 + 2 * DAY)
    read: Callable[..., bytes] = LocalPlace.read

    def refusing(place: LocalPlace, key: str, *most: int) -> bytes:
        if "score" in key or "checksums" in key:
            raise OSError(code, os.strerror(code))
        return read(place, key, *most)

    monkeypatch.setattr(LocalPlace, "read", refusing)
    with pytest.raises(OSError, match=os.strerror(code)):
        opened_archive(archive).verify()
    with pytest.raises(StoreRefused, match=r"too many open files|permission denied") as refused:
        CaptionStore.open(tmp_path / "a.zarr").captions()
    assert not isinstance(refused.value, SegmentDamaged)


def test_a_store_whose_files_are_all_gone_is_not_one_that_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    filled_store(path, 4)
    shutil.rmtree(path / "streams/cam/hot")
    (path / "streams/cam/hot").symlink_to(tmp_path / "a disk that is not mounted")
    for command in (["query", str(path)], ["store", "erase", str(path), "--track", "1", "--yes"]):
        refused = CliRunner().invoke(app, command).exception
        assert isinstance(refused, StoreRefused), command
        assert "holds nothing, though its writers left 4 commits" in str(refused)


def in_a_loop(path: Path) -> None:
    path.symlink_to(path.name)


def to_nothing(path: Path) -> None:
    path.symlink_to("nowhere")


@pytest.mark.parametrize("stands", [Path.mkdir, in_a_loop, to_nothing, os.mkfifo])
def test_what_stands_in_place_of_a_segment_is_damage_and_the_rest_is_answered(
    tmp_path: Path, stands: Callable[[Path], None]
) -> None:
    path = tmp_path / "a.zarr"
    filled_store(path, 4)
    segment = sorted((path / "streams/cam/hot").iterdir())[1]
    segment.unlink()
    stands(segment)
    store = CaptionStore.open(path)
    assert {100, 102, 103} <= set(store.captions()["track"].to_pylist())
    assert [file.path for file in store.damage()] == [str(segment)]
    with store.writer("cam", INFO, compaction=BY_HAND) as writer:
        writer.commit(batch(4))
        writer.compact()
    assert 104 in CaptionStore.open(path).captions()["track"].to_pylist()
    assert CliRunner().invoke(app, ["store", "repair", str(path)], catch_exceptions=False).exit_code == 0
    assert not os.path.lexists(segment)


@pytest.mark.parametrize("folder", ["hot", "day", "epoch"])
def test_a_file_in_place_of_a_folder_of_a_stream_is_one_error_and_other_streams_are_answered(
    tmp_path: Path, folder: str
) -> None:
    path = tmp_path / "a.zarr"
    store = filled_store(path, 3)
    with store.writer("yard", INFO, compaction=BY_HAND) as writer:
        writer.commit(batch(0))
    shutil.rmtree(path / "streams/cam" / folder)
    (path / "streams/cam" / folder).write_bytes(b"")
    for command in (["query"], ["store", "stats"], ["store", "check"]):
        refused = CliRunner().invoke(app, [*command, str(path)]).exception
        assert isinstance(refused, StoreRefused), command
        assert CliRunner().invoke(app, [*command, str(path), "--stream", "yard"]).exit_code == 0


def test_another_stream_whose_description_is_damaged_is_no_matter_to_one_that_is_named(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.zarr"
    filled_store(path, 3)
    (path / "streams/twin").symlink_to("cam")
    run = CliRunner()
    assert isinstance(run.invoke(app, ["query", str(path)]).exception, StoreRefused)
    for command in (["query", str(path)], ["export", str(path), str(tmp_path / "out.csv")]):
        assert run.invoke(app, [*command, "--stream", "cam"], catch_exceptions=False).exit_code == 0


@pytest.mark.parametrize("stands", [in_a_loop, to_nothing, os.mkfifo])
def test_what_stands_in_place_of_an_archive_is_damage_and_stops_neither_merging_nor_retention(
    tmp_path: Path, stands: Callable[[Path], None]
) -> None:
    path = tmp_path / "a.zarr"
    store = filled_store(path, 4)
    with store.writer("cam", INFO, compaction=BY_HAND) as writer:
        (archive,) = writer.archive_closed_days(T0 + 2 * DAY)
        for number in range(4, 8):
            writer.commit(batch(number))
    shutil.rmtree(archive)
    stands(archive)
    store = CaptionStore.open(path)
    assert {104, 105, 106, 107} <= set(store.captions()["track"].to_pylist())
    assert [file.path for file in store.damage()] == [str(archive)]
    keeping = replace(BY_HAND, enabled=True, keep_bytes=1)
    with store.writer("cam", INFO, compaction=keeping) as writer:
        writer.compact()
        writer.archive_closed_days(T0 + 2 * DAY)
    assert not os.path.lexists(archive)


def test_inputs_of_a_merge_go_though_a_wrong_clock_dated_it_years_ahead(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    store = filled_store(path, 3)
    minutes = replace(BY_HAND, grace_s=120)
    with store.writer("cam", INFO, compaction=minutes) as writer:
        writer.compact()
        hot = path / "streams/cam/hot"
        assert len(list(hot.iterdir())) == 4
        (merged,) = hot.glob("*.L1.*")
        os.utime(merged, (T0 / S + 3e8,) * 2)
        writer.compact()
        assert list(hot.iterdir()) == [merged]
    check_everything(CaptionStore.open(path, strict=True), 3)


def test_a_claim_that_counts_more_commits_than_there_can_be_is_damaged(tmp_path: Path) -> None:
    """Where somebody made it with its checksum: rows behind it would be acknowledged, and in no name that is read."""
    path = tmp_path / "a.zarr"
    filled_store(path, 3)
    (path / "streams/cam/epoch/0001.json").write_bytes(EpochClaim(1, 2**63 - 1, "here", 1).document())
    with pytest.raises(StoreRefused, match=r"0001\.json is damaged"):
        CaptionStore.open(path).writer("cam", INFO, compaction=BY_HAND)
