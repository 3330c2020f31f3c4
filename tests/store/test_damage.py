"""A damaged store gives the rows that were written, or says what it lacks; it never gives another answer."""

import errno
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.core.errors import StoreRefused
from pipeline.core.records import Batch, CaptionEvent, Gap, GapReason, ResumePoint
from pipeline.store import CaptionStore, Compaction
from pipeline.store.damage import SegmentDamaged
from pipeline.store.place import LocalPlace
from tests.store_samples import BY_HAND, EVERYTHING, INFO, T0, S, batch, filled_store, opened_archive

DAY = 86_400 * S


def flipped(data: bytes, other: bytes) -> bytes:
    place = len(data) // 8  # of a segment: its root metadata
    return data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :]


DAMAGE: dict[str, Callable[[bytes, bytes], bytes | None]] = {
    "bit flip": flipped,
    "emptied": lambda data, other: b"",
    "halved": lambda data, other: data[: len(data) // 2],
    "deleted": lambda data, other: None,
    "swapped": lambda data, other: other,
}


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two streams of the same times and other rows, in segments and in archives."""
    made = {}
    for kind in ("segments", "archive"):
        path = tmp_path_factory.mktemp("damage") / f"{kind}.zarr"
        store = CaptionStore.create(path)
        for shift, name in enumerate(("cam", "yard")):
            with store.writer(name, INFO, compaction=Compaction(enabled=False, grace_s=0)) as writer:
                for number in range(3):
                    own = batch(5 + number)
                    writer.commit(replace(own, captions=elsewhere(own)) if shift else own)
                if kind == "archive":
                    writer.archive_closed_days(T0 + 2 * DAY)
        made[kind] = path
    return made


def elsewhere(own: Batch) -> tuple[CaptionEvent, ...]:
    """Other captions at the same times, so that the segments of both streams have the same names."""
    return tuple(replace(caption, text="another stream", score=0.125) for caption in own.captions)


def answers(path: Path) -> tuple[Any, ...]:
    with CaptionStore.open(path) as store:
        whole = store.captions(stream="cam", columns=EVERYTHING).to_pylist()
        window = store.captions(T0 + 6 * S, T0 + 6 * S + 1, stream="cam").to_pylist()
        seen = store.observations(stream="cam").to_pylist(), store.tracks(stream="cam").to_pylist()
        reasons = set(store.gaps(stream="cam")["reason"].to_pylist())
        return whole, window, *seen, reasons


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("kind", ["segments", "archive"])
def test_each_file_damaged_gives_the_same_rows_or_is_told(
    stores: dict[str, Path], kind: str, damage: str
) -> None:
    path = stores[kind]
    whole = answers(path)
    assert whole[4] == {"dropped"}
    cam = path / "streams/cam"
    files = sorted(f for f in (cam / ("hot" if kind == "segments" else "day")).rglob("*") if f.is_file())
    told = 0
    for number, file in enumerate(files[1:2] if kind == "segments" else files):
        data = file.read_bytes()
        changed = DAMAGE[damage](data, (path / "streams/yard" / file.relative_to(cam)).read_bytes())
        if changed == data:
            continue
        if changed is None:
            file.unlink()
        else:
            file.write_bytes(changed)
        try:
            if kind == "archive":
                with pytest.raises(SegmentDamaged, match="restore it from a copy"):
                    opened_archive(next((cam / "day").iterdir())).verify()
            # Asking takes longer than opening: it is done for some of the files of an archive, with each damage for others.
            asked = kind == "segments" or file.name == "checksums.json" or number % 9 == len(damage) % 9
            found = answers(path) if asked else whole
        finally:
            file.write_bytes(data)
        if found != whole:
            told += 1
            assert found[4] & {"damaged", "lost"}, file
            for rows, good in zip(found[:4], whole[:4], strict=True):
                assert all(row in good for row in rows), file
    assert told
    assert answers(path) == whole


def test_an_archive_without_checksums_never_reads_as_zeros(stores: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "old.zarr"
    shutil.copytree(stores["archive"], path)
    (archive,) = (path / "streams/cam/day").iterdir()
    (archive / "checksums.json").unlink()
    root = (archive / "zarr.json").read_text()
    (archive / "zarr.json").write_text(root.replace('"checksums": "checksums.json"', '"older": "yes"'))
    whole = answers(path)
    assert whole == answers(stores["archive"])
    arrays = ("cap/score", "cap/box", "text/bytes", "index/cap/t_start_min", "index/cap/t_end_max")
    for array in arrays:
        (file,) = (f for f in (archive / array / "c").rglob("*") if f.is_file())
        data = file.read_bytes()
        for changed in (b"", data[: len(data) // 2], data[:-1], None):
            if changed is None:
                file.unlink()
            else:
                file.write_bytes(changed)
            with pytest.raises(SegmentDamaged):
                opened_archive(archive)
        assert CaptionStore.open(path).captions(stream="cam").num_rows == 0
        file.write_bytes(data)


def test_the_rest_is_answered_and_the_command_names_the_file(tmp_path: Path) -> None:
    store = filled_store(tmp_path / "a.zarr", 5)
    path = sorted((tmp_path / "a.zarr/streams/cam/hot").iterdir())[2]
    path.write_bytes(path.read_bytes()[:-40])
    tracks = set(store.captions()["track"].to_pylist())
    assert {100, 101, 103, 104} <= tracks
    assert 102 not in tracks
    (gap,) = [row for row in store.gaps().to_pylist() if row["reason"] == "damaged"]
    assert gap["t_start"].value <= T0 + 2 * S <= gap["t_end"].value
    assert store.coverage() < 1
    run = CliRunner()
    for command in (["query", str(store.path)], ["export", str(store.path), str(tmp_path / "o.csv")]):
        result = run.invoke(app, command)
        assert result.exit_code == 3
        told = result.stderr.strip().splitlines()
        assert len([line for line in told if path.name in line]) == 1
        assert [line for line in told if path.name not in line] == [
            "cam: 40.0% of the window was watched (1 gap: damaged)"
        ][: command[0] == "export"], "a table says so itself"
        strict = run.invoke(app, [*command, "--strict"], standalone_mode=False)
        assert path.name in str(strict.exception)


def test_a_writer_starts_beside_a_damaged_newest_segment(tmp_path: Path) -> None:
    store = filled_store(tmp_path / "a.zarr", 4)
    newest = sorted((tmp_path / "a.zarr/streams/cam/hot").iterdir())[-1]
    newest.write_bytes(b"")
    with store.writer("cam", INFO, compaction=BY_HAND) as writer:
        assert writer.resume == batch(2).resume
        writer.commit(batch(3))
    assert 103 in store.captions()["track"].to_pylist()


def minute(number: int, at: int) -> Batch:
    return Batch(gaps=(Gap(at, at + S, "dropped", number),), resume=ResumePoint(number * S, number, 0, at, 1))


def frames(store: CaptionStore) -> list[int]:
    return sorted(row["frames"] for row in store.gaps().to_pylist() if row["reason"] == "dropped")


def test_merging_archiving_and_retention_go_on_beside_a_damaged_segment(tmp_path: Path) -> None:
    store = CaptionStore.create(tmp_path / "a.zarr")
    with store.writer("cam", INFO, compaction=BY_HAND, clock=lambda: T0 + 9 * DAY) as writer:
        for number in range(12):
            writer.commit(minute(number, T0 + number * DAY // 2))
        hot = tmp_path / "a.zarr/streams/cam/hot"
        damaged = sorted(hot.iterdir())[4]
        damaged.write_bytes(damaged.read_bytes()[:100])
        assert len(writer.archive_closed_days(T0 + 4 * DAY)) >= 4
        writer.compact()
        assert damaged.exists()
        assert len(list(hot.iterdir())) <= 4
        assert writer.forget_before(T0 + 3 * DAY) >= 4
    assert frames(store) == list(range(frames(store)[0], 12))
    assert frames(store)[0] >= 5
    assert not damaged.exists()


def test_a_row_ten_years_ahead_blocks_neither_retention_nor_archiving(tmp_path: Path) -> None:
    store = CaptionStore.create(tmp_path / "a.zarr")
    now = T0 + 3650 * DAY  # earlier versions stored whatever time a source told
    with store.writer("cam", INFO, compaction=BY_HAND, clock=lambda: now) as writer:
        for number in range(10):
            writer.commit(minute(number, T0 + (3650 * DAY if number == 1 else number * DAY // 2)))
        now = T0 + 6 * DAY
        assert len(writer.archive_closed_days(now)) == 6
        assert writer.forget_before(now - 3 * DAY) >= 2
        assert frames(store) == [5, 6, 7, 8, 9]  # 5 shares a day with 6


def test_a_full_disk_frees_itself_and_needs_no_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CaptionStore.create(tmp_path / "a.zarr")
    with store.writer("cam", INFO, compaction=BY_HAND) as writer:
        for number in range(8):
            writer.commit(minute(number, T0 + number * DAY))
        keeping = Compaction(grace_s=0, keep_s=5 * 86_400)
    with store.writer("cam", INFO, compaction=keeping, clock=lambda: T0 + 8 * DAY) as writer:
        assert frames(store)[0] == 3  # at the start already

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(LocalPlace, "put", full)
        monkeypatch.setattr(LocalPlace, "claim", full)
        with pytest.raises(ValueError, match="the disk is full"):
            writer.commit(minute(8, T0 + 8 * DAY))
        assert writer.forget_before(T0 + 5 * DAY) >= 1
        assert frames(store) == [5, 6, 7]
    assert store.forget_before(T0 + 6 * DAY) == 1
    assert frames(store) == [6, 7]


def test_an_archive_deleted_under_a_reader_is_listed_again(stores: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    shutil.copytree(stores["archive"], path)
    store = CaptionStore.open(path)
    window = (T0 + 6 * S, T0 + 6 * S)
    assert len(store.captions(*window, stream="cam"))
    (archive,) = (path / "streams/cam/day").iterdir()
    whole = store.captions(stream="cam", columns=EVERYTHING).to_pylist()
    shutil.copytree(archive, tmp_path / "copy")
    LocalPlace(path / "streams/cam").delete(f"day/{archive.name}")
    for _ in range(2):
        with pytest.raises(StoreRefused, match="holds nothing, though its writers left 3 commits"):
            store.captions(stream="cam", columns=EVERYTHING)
    shutil.copytree(tmp_path / "copy", archive)
    assert store.captions(stream="cam", columns=EVERYTHING).to_pylist() == whole


def test_stray_files_change_nothing_and_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    store = filled_store(tmp_path / "a.zarr", 3)
    cam = tmp_path / "a.zarr/streams/cam"
    whole = store.captions().to_pylist()
    for name in (
        "epoch/._0000.json",
        "epoch/.DS_Store",
        "epoch/0000 copy.json",
        "hot/.DS_Store",
        "day/notes",
    ):
        (cam / name).write_bytes(b"x")
    (tmp_path / "a.zarr/streams/.DS_Store").write_bytes(b"x")
    assert CaptionStore.open(store.path).captions().to_pylist() == whole
    store.writer("cam", INFO, compaction=BY_HAND).close()
    (cam / "epoch/0001.json").write_bytes(b'{"start')
    with pytest.raises(ValueError, match=r"0001\.json is damaged .*restore it from a copy"):
        CaptionStore.open(store.path).captions()
    (cam / "epoch/0001.json").unlink()
    (cam / "zarr.json").write_text('{"zarr_format":3,"node_type":"group","attributes":{}}')
    with pytest.raises(ValueError, match=r"zarr\.json is damaged .*restore that file from a copy"):
        CaptionStore.open(store.path).streams()


def test_a_claim_with_another_digit_or_of_another_writer_is_told(tmp_path: Path) -> None:
    """It says from where on its writer's commits count: with a wrong number rows would go in silence."""
    store = filled_store(tmp_path / "a.zarr", 2)
    for _ in range(2):
        with store.writer("cam", INFO, compaction=BY_HAND) as writer:
            writer.commit(batch(writer.resume.frame + 1))
    epochs = tmp_path / "a.zarr/streams/cam/epoch"
    claim = epochs / "0002.json"
    whole = claim.read_bytes()
    assert b'"start_seq": 3' in whole
    for spoiled in (whole.replace(b'"start_seq": 3', b'"start_seq": 1'), (epochs / "0001.json").read_bytes()):
        claim.write_bytes(spoiled)
        with pytest.raises(StoreRefused, match=r"0002\.json is damaged"):
            CaptionStore.open(tmp_path / "a.zarr").captions()
    # As earlier versions wrote it.
    claim.write_bytes(b'{"start_seq": 3, "host": "here", "pid": 7}')
    assert CaptionStore.open(tmp_path / "a.zarr").resume("cam").frame == 3


def lost(store: CaptionStore) -> bool:
    return GapReason.LOST in store.gaps()["reason"].to_pylist()


def test_commits_that_are_missing_at_the_end_are_told_before_and_after_another_writer(tmp_path: Path) -> None:
    """As in a copy that was cut off: folders are copied in order of their names, claims before segments."""
    path = tmp_path / "a.zarr"
    store = filled_store(path, 6)
    whole = store.captions()
    for segment in sorted((path / "streams/cam/hot").iterdir())[-2:]:
        segment.unlink()
    store = CaptionStore.open(path)
    assert lost(store)
    assert 0 < len(store.captions()) < len(whole)
    with store.writer("cam", INFO, compaction=BY_HAND) as writer:
        assert lost(store)
        writer.commit(batch(9))
    assert lost(CaptionStore.open(path))
    for segment in (path / "streams/cam/hot").iterdir():
        segment.unlink()
    with pytest.raises(StoreRefused, match="holds nothing, though its writers left"):
        CaptionStore.open(path).captions()


def test_a_segment_of_another_store_is_not_taken_for_one_of_these(tmp_path: Path) -> None:
    store, other = (filled_store(tmp_path / name, 4) for name in ("a.zarr", "b.zarr"))
    whole = store.captions().to_pylist()
    ours, theirs = (sorted((s.path / "streams/cam/hot").iterdir()) for s in (store, other))
    shutil.copy(theirs[1], ours[1])
    store = CaptionStore.open(tmp_path / "a.zarr")
    rows = store.captions().to_pylist()
    assert all(row in whole for row in rows)
    assert len(rows) < len(whole)
    assert ["another store" in file.reason for file in store.damage()] == [True]
    # Nor in a newer writer's name, nor by a merge.
    shutil.copy(theirs[2], ours[2].with_name(ours[2].name.replace(".e0000.", ".e0007.")))
    with store.writer("cam", INFO, compaction=BY_HAND) as writer:
        writer.compact()
    rows = CaptionStore.open(tmp_path / "a.zarr").captions().to_pylist()
    assert all(row in whole for row in rows)
    # A store that is copied or moved as a whole stays what it is.
    shutil.move(tmp_path / "b.zarr", tmp_path / "c.zarr")
    assert CaptionStore.open(tmp_path / "c.zarr").captions().to_pylist() == whole


def test_a_description_of_a_stream_with_another_digit_or_of_another_or_missing_is_told(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.zarr"
    store = filled_store(path, 2)
    with store.writer("yard", INFO, compaction=BY_HAND) as writer:
        writer.commit(batch(0))
    description = path / "streams/cam/zarr.json"
    whole = description.read_bytes()
    start = f'"start_wall_ns": {T0}'.encode()
    assert start in whole
    for spoiled in (
        whole.replace(start, start.replace(b"179", b"178")),
        whole.replace(b'"width": 640', b'"width": 740'),
        (path / "streams/yard/zarr.json").read_bytes(),
    ):
        description.write_bytes(spoiled)
        with pytest.raises(StoreRefused, match=r"cam/zarr\.json is damaged .*restore that file"):
            CaptionStore.open(path).streams()
    description.unlink()
    with pytest.raises(StoreRefused, match=r"cam/zarr\.json is missing"):
        CaptionStore.open(path).captions()
    description.write_bytes(whole)
    (path / "streams").rename(path / "STREAMS")
    with pytest.raises(StoreRefused, match="streams is missing or empty"):
        CaptionStore.open(path).captions()
    (path / "STREAMS").rename(path / "streams")
    # As earlier versions wrote it.
    document = json.loads(whole)
    for name in ("crc32", "stream", "identity"):
        del document["attributes"][name]
    description.write_text(json.dumps(document))
    assert CaptionStore.open(path).streams()["cam"] == INFO
    with CaptionStore.open(path).writer("cam", INFO, compaction=BY_HAND):
        assert CaptionStore.open(path).streams()["cam"].identity


def test_names_in_another_case_are_read(tmp_path: Path) -> None:
    store = filled_store(tmp_path / "a.zarr", 3)
    whole = store.captions().to_pylist()
    for segment in (tmp_path / "a.zarr/streams/cam/hot").iterdir():
        segment.rename(segment.with_name(segment.name.upper()))
    assert CaptionStore.open(tmp_path / "a.zarr").captions().to_pylist() == whole


def test_the_emptied_claim_of_a_writer_that_has_committed_is_told(tmp_path: Path) -> None:
    store = filled_store(tmp_path / "a.zarr", 2)
    with store.writer("cam", INFO, compaction=BY_HAND) as writer:
        writer.commit(batch(2))
    claims = sorted((tmp_path / "a.zarr/streams/cam/epoch").iterdir())
    claims[-1].write_bytes(b"")
    with pytest.raises(StoreRefused, match=r"json is damaged \(it is empty\)"):
        CaptionStore.open(tmp_path / "a.zarr").captions()
