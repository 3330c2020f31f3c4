"""What is erased is in no file any more, and everything else is as it was."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import zarr
from typer.testing import CliRunner

from pipeline.commands.store import store as commands
from pipeline.core.errors import StoreRefused, UserError
from pipeline.store import CaptionStore, Compaction
from pipeline.store.erasing import ErasedRows
from pipeline.store.text_filter import TextFilter
from tests.store_samples import BY_HAND, EVERYTHING, INFO, T0, S, batch, check_everything, filled_store

DAY = 86_400 * S


def kept_store(path: Path) -> CaptionStore:
    """A store with an archive, merged segments whose inputs wait for their grace, and single commits."""
    store = filled_store(path, 4, Compaction(fan_in=3, enabled=False))
    store.archive_closed_days(T0 + 2 * DAY)
    with store.writer("cam", INFO, compaction=Compaction(fan_in=3, enabled=False)) as writer:
        for number in range(4, 12):
            writer.commit(batch(number))
            if number == 8:
                writer.compact()
    check_everything(store, 12)
    return store


def everything_in(path: Path) -> list[tuple[Path, str, bytes]]:
    """Every array of every file, as bytes: what somebody finds who looks for a text or a number."""
    found = []
    for file in path.rglob("*.zarr.zip"):
        root = zarr.open_group(zarr.storage.ZipStore(file, mode="r"), mode="r")
        found += [
            (file, name, array[...].tobytes())
            for name, array in root.members(max_depth=None)
            if isinstance(array, zarr.Array)
        ]
        with zipfile.ZipFile(file) as archive:
            found.append((file, "metadata", archive.read("zarr.json")))
    for folder in path.glob("streams/*/day/*.zarr"):
        group = zarr.open_group(folder, mode="r")
        found += [
            (folder, name, array[...].tobytes())
            for name, array in group.members(max_depth=None)
            if isinstance(array, zarr.Array)
        ]
    return found


def files_with(path: Path, needle: bytes, name: str) -> list[Path]:
    return [file for file, array, data in everything_in(path) if array.endswith(name) and needle in data]


def rows_of(store: CaptionStore) -> tuple[list[dict[str, object]], ...]:
    return (
        store.captions(columns=EVERYTHING).to_pylist(),
        store.observations(columns=("t", "track", "mask")).to_pylist(),
        store.tracks().to_pylist(),
    )


def test_a_text_is_in_no_file_any_more(tmp_path: Path) -> None:
    store = kept_store(tmp_path / "a.zarr")
    captions, observations, tracks = rows_of(store)
    needle = "schöne Katze 2".encode()
    assert len(files_with(store.path, needle, "text/bytes")) >= 3
    gone = store.erase(ErasedRows(texts=TextFilter(phrases=("Katze 2",))))
    assert gone >= 2
    assert files_with(store.path, needle, "text/bytes") == []
    assert rows_of(store) == ([c for c in captions if c["text"] != "schöne Katze 2"], observations, tracks)
    assert rows_of(CaptionStore.open(store.path)) == rows_of(store)
    assert store.erase(ErasedRows(texts=TextFilter(phrases=("Katze 2",)))) == 0


@pytest.mark.parametrize("number", [1, 3, 7, 11])
def test_a_track_is_in_no_file_any_more(tmp_path: Path, number: int) -> None:
    store = kept_store(tmp_path / "a.zarr")
    captions, observations, tracks = rows_of(store)
    track = 100 + number
    assert store.erase(ErasedRows(track=track)) >= 1
    needle = track.to_bytes(4, "little")
    assert files_with(store.path, needle, "cap/track") == files_with(store.path, needle, "trk/track") == []
    left = [[row for row in rows if row["track"] != track] for rows in (captions, observations, tracks)]
    assert list(rows_of(store)) == left
    with store.writer("cam", INFO, compaction=BY_HAND) as writer:
        writer.compact()
        assert writer.resume == batch(11).resume
        writer.commit(batch(12))
    store.archive_closed_days(T0 + 2 * DAY)
    assert track not in CaptionStore.open(store.path).captions()["track"].to_pylist()


def test_a_time_is_erased_in_whole_rows(tmp_path: Path) -> None:
    store = kept_store(tmp_path / "a.zarr")
    captions, observations, _tracks = rows_of(store)
    start, end = T0 + 2 * S, T0 + 7 * S
    times = [r["t"] for r in observations]
    shown = store.captions(start, end).num_rows
    store.erase(ErasedRows(start, end))
    assert shown
    assert (
        store.captions(start, end).num_rows
        == store.observations(start, end).num_rows
        == store.tracks(start, end).num_rows
        == 0
    )
    assert store.captions().num_rows == len(captions) - shown
    assert store.observations()["t"].to_pylist() == [t for t in times if not start <= t.value <= end]
    assert store.gaps().num_rows == CaptionStore.open(store.path).gaps().num_rows


def test_a_damaged_file_may_hold_it_and_is_named(tmp_path: Path) -> None:
    store = kept_store(tmp_path / "a.zarr")
    (newest,) = (store.path / "streams/cam/hot").glob("000000000011-*")
    newest.write_bytes(newest.read_bytes()[:-50])
    with pytest.raises(StoreRefused, match=newest.name):
        store.erase(ErasedRows(track=101))


def run(*words: str) -> str:
    result = CliRunner().invoke(commands, list(words), catch_exceptions=False)
    return f"{result.exit_code} {result.output}"


def test_the_command_erases_checks_counts_and_sets_damage_aside(tmp_path: Path) -> None:
    store = kept_store(tmp_path / "a.zarr")
    path = str(store.path)
    assert run("check", path) == "0 Everything is whole.\n"
    with pytest.raises(UserError, match="say what is to be erased"):
        run("erase", path, "--yes")
    assert "rows erased" in run("erase", path, "--track", "105", "--yes")
    assert 105 not in CaptionStore.open(path).captions()["track"].to_pylist()
    assert run("compact", path).startswith("0")
    assert " 1 " in run("stats", path)
    (newest,) = (store.path / "streams/cam/hot").glob("000000000010-*")
    newest.write_bytes(newest.read_bytes()[:-50])
    told = run("check", path)
    assert told.startswith("3")
    assert f"{newest.name} is damaged" in told
    assert f"{newest.name} was moved to" in run("repair", path)
    assert (tmp_path / "a.zarr.damaged/streams/cam/hot" / newest.name).exists()
    assert "files are missing" in run("check", path)


def test_the_writer_that_built_an_archive_erases_from_it(tmp_path: Path) -> None:
    store = CaptionStore.create(tmp_path / "a.zarr")
    with store.writer("cam", INFO, compaction=BY_HAND) as writer:
        for number in range(4):
            writer.commit(batch(number))
        assert len(writer.archive_closed_days(T0 + 2 * 86_400 * S)) == 1
        assert writer.erase(ErasedRows(track=101)) > 0
        writer.commit(batch(4))
    tracks = CaptionStore.open(tmp_path / "a.zarr").captions()["track"].to_pylist()
    assert 101 not in tracks
    assert {1, 100, 102, 103, 104} == set(tracks)
