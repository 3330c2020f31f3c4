"""What stays bounded however long and busy a stream is, and numbers and times that no store should hold."""

import builtins
import contextlib
import errno
import io
import math
import os
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.core.clock import DAY_NS
from pipeline.core.errors import StoreRefused
from pipeline.core.records import Batch, CaptionEvent, Observation, ResumePoint
from pipeline.store import CaptionStore, Compaction
from pipeline.store.compaction import merge
from pipeline.store.place import LocalPlace, Stamp
from pipeline.store.stream_directory import KEPT_EPOCHS, list_epochs, list_names, list_visible
from tests.duration import by_day
from tests.store_samples import BY_HAND, EVERYTHING, INFO, T0, S, batch, check_everything, filled_store

ROWS = by_day(10_000, otherwise=1_000_000)


def wide_batch(first: int, count: int) -> Batch:
    """Captions as wide as real ones: masks of 300 bytes, embeddings of 64 numbers."""
    random = np.random.default_rng(first)
    return Batch(
        captions=tuple(
            CaptionEvent(
                n, T0 + n * S // 10, T0 + n * S // 10 + S, 0, 0, n, (0, 0, 1, 1), f"thing {n % 97}", 0.5, 0,
                random.normal(size=64).astype(np.float32),
                mask=None if n % 3 else _mask(random.bytes(300)),
            )
            for n in range(first, first + count)
        ),
        resume=ResumePoint(first, first, 0, T0 + first * S // 10, first),
    )  # fmt: skip


def _mask(counts: bytes) -> Any:
    from pipeline.core.masks import RleMask

    return RleMask((36, 64), counts)


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("busy") / "a.zarr"
    with CaptionStore.create(path).writer("cam", INFO, compaction=BY_HAND) as writer:
        for first in range(0, ROWS, 2000):
            writer.commit(wide_batch(first, 2000))
    return path


def peak_bytes(work: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_merging_and_archiving_hold_no_day_in_memory(busy: Path, tmp_path: Path) -> None:
    rows = CaptionStore.open(busy).captions(columns=EVERYTHING)
    held = rows.nbytes
    path = tmp_path / "a.zarr"
    shutil.copytree(busy, path)
    cam = path / "streams/cam"
    inputs = list_visible(LocalPlace(cam)).segments
    assert peak_bytes(lambda: merge(LocalPlace(cam), inputs, 9)) < max(2.5 * held, 16 << 20)
    assert CaptionStore.open(path).captions(columns=EVERYTHING).equals(rows)
    # The shard that is written is what is held: the whole of a small day, a part of a large one.
    late = T0 + 40 * DAY_NS
    assert peak_bytes(lambda: CaptionStore.open(path).archive_closed_days(late)) < max(4 * held, 500 << 20)
    assert CaptionStore.open(path).captions(columns=EVERYTHING).equals(rows)


def test_segments_become_no_larger_than_may_be_merged(
    busy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = CaptionStore.open(busy).captions(columns=EVERYTHING)
    path = tmp_path / "a.zarr"
    shutil.copytree(busy, path)
    sizes = [file.stat().st_size for file in (path / "streams/cam/hot").iterdir()]
    monkeypatch.setattr("pipeline.store.compaction.MERGED_BYTES", 4 * max(sizes))
    with CaptionStore.open(path).writer(
        "cam", INFO, compaction=Compaction(fan_in=8, grace_s=0, enabled=False)
    ) as writer:
        writer.compact()
    merged = [file.stat().st_size for file in (path / "streams/cam/hot").iterdir()]
    assert len(merged) <= len(sizes) / 2 + 1
    assert max(merged) <= 4 * max(sizes)
    assert CaptionStore.open(path).captions(columns=EVERYTHING).equals(rows)


def test_files_stay_few_through_days_and_restarts(tmp_path: Path) -> None:
    store = CaptionStore.create(tmp_path / "a.zarr")
    fan_in, days, seconds = 4, 3, by_day(14, otherwise=400)
    settings = Compaction(fan_in=fan_in, grace_s=0, enabled=False)
    number = 0
    for day in range(days):
        for _ in range(seconds):
            now = T0 // DAY_NS * DAY_NS + day * DAY_NS + number * S
            with store.writer("cam", INFO, compaction=settings, clock=lambda now=now: now) as writer:
                event = CaptionEvent(number, now, now + S, 0, 0, 0, (0, 0, 1, 1), "x", 0.5, 0)
                writer.commit(Batch(captions=(event,), resume=ResumePoint(number, number, 0, now, number)))
                writer.compact()
            number += 1
    place = LocalPlace(tmp_path / "a.zarr/streams/cam")
    assert len(list_names(place)) <= 3 * fan_in + days
    assert len(list_epochs(place)) <= KEPT_EPOCHS + 1
    assert store.captions()["track"].to_pylist() == list(range(number))


def test_a_reader_is_not_disturbed_by_a_writer_that_prunes_claims(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The claim is listed, and gone when it is read."""
    store = filled_store(tmp_path / "a.zarr", 3)
    for number in range(3, 3 + KEPT_EPOCHS + 2):
        with store.writer("cam", INFO, compaction=BY_HAND) as writer:
            writer.commit(batch(number))
    stamp = LocalPlace.stamp
    gone = []

    def stamp_late(place: LocalPlace, key: str) -> Stamp:
        if key.startswith("epoch/") and not gone:
            gone.append(key)
            (place.folder / key).unlink()
        return stamp(place, key)

    monkeypatch.setattr(LocalPlace, "stamp", stamp_late)
    shown = list_visible(LocalPlace(store.path / "streams/cam"))
    assert len(gone) == 1
    assert [(name.lo, name.hi) for name in shown.segments] == [(n, n + 1) for n in range(number + 1)]
    assert not shown.holes
    with CaptionStore.open(store.path) as again:
        check_everything(again, number + 1)


def test_what_a_writer_commits_after_many_others_took_over_never_counts(tmp_path: Path) -> None:
    store = filled_store(tmp_path / "a.zarr", 3)
    frozen = store.writer("cam", INFO, compaction=BY_HAND)
    frozen.commit(batch(3))
    for number in range(4, 4 + KEPT_EPOCHS + 5):
        (tmp_path / "a.zarr/streams/cam/writer.lock").unlink()
        with store.writer("cam", INFO, compaction=BY_HAND) as writer:
            writer.commit(batch(number))
    with pytest.raises(StoreRefused, match="taken over by another writer"):
        frozen.commit(batch(99))
    frozen.close()
    check_everything(store, number + 1)
    assert not [n for n in list_names(LocalPlace(tmp_path / "a.zarr/streams/cam")) if n.hi > number + 1]


def test_a_time_far_ahead_of_the_clock_is_refused_and_named(tmp_path: Path) -> None:
    store = CaptionStore.create(tmp_path / "a.zarr")
    with store.writer("cam", INFO, compaction=BY_HAND, clock=lambda: T0 - DAY_NS - S) as writer:
        with pytest.raises(
            StoreRefused, match=r"at 2026-.*: more than a day ahead of this machine's clock; set the clock"
        ):
            writer.commit(batch(1))
        with pytest.raises(StoreRefused, match="more than a day ahead"):
            writer.commit(Batch(observations=(Observation(2**62 * 2 - 1, 0, 0, 0, (0, 0, 1, 1), 0.5),)))
    assert store.captions().num_rows == 0


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_numbers_that_cannot_be_stored_are_clamped_and_told(
    tmp_path: Path, wrong: float, caplog: pytest.LogCaptureFixture
) -> None:
    store = CaptionStore.create(tmp_path / "a.zarr")
    embedding = np.array([1e6, wrong, 0.5], np.float32)
    good = CaptionEvent(6, T0, T0 + S, 0, 0, 0, (1, 2, 3, 4), "fine", 0.5, -1, np.array([0.5], np.float32))
    bad = CaptionEvent(7, T0, T0 + S, 0, 0, 0, (wrong, 2, 3, 4), "odd", wrong, wrong, embedding)
    with store.writer("cam", INFO, compaction=BY_HAND) as writer:
        writer.commit(Batch(captions=(good, bad)))
        writer.commit(Batch(observations=(Observation(T0, 0, 0, 7, (0, wrong, 1, 1), wrong),)))
    fine, odd = store.captions(columns=(*EVERYTHING,)).to_pylist()
    assert fine["embedding"] == [0.5]
    assert fine["x0"] == 1
    numbers = [
        odd["score"],
        odd["logprob"],
        odd["x0"],
        *odd["embedding"],
        *store.observations()["score"].to_pylist(),
    ]
    assert np.isfinite(numbers).all()
    assert len(odd["embedding"]) == 3
    assert odd["embedding"][0] == pytest.approx(65504)
    assert 0 <= odd["score"] <= 1
    told = [record.getMessage() for record in caplog.records if "cannot be stored" in record.getMessage()]
    assert len(told) == 1
    assert "of track 7" in told[0]


# --- input/output errors, at each call of a commit ---

CALLS = ("open", "fsync", "replace", "listdir", "close", "builtins.open")


@pytest.mark.parametrize("call", CALLS)
def test_rows_that_are_acknowledged_are_those_that_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    store = CaptionStore.create(tmp_path / "a.zarr")
    module, name = (builtins, "open") if call == "builtins.open" else (os, call)
    real = getattr(module, name)
    acknowledged, refused, at = 0, 0, 0
    writer = store.writer("cam", INFO, compaction=BY_HAND)
    while at < 8:
        seen = 0

        def failing(*given: Any, at: int = at, **named: Any) -> Any:
            nonlocal seen
            seen += 1
            if seen - 1 == at:
                if name in ("replace", "close"):  # it was done, and the answer got lost
                    real(*given, **named)
                raise OSError(errno.EIO, "Input/output error")
            return real(*given, **named)

        monkeypatch.setattr(module, name, failing)
        try:
            writer.commit(batch(acknowledged))
            failed = False
        except StoreRefused:
            failed = True
        finally:
            monkeypatch.setattr(module, name, real)
        acknowledged += not failed
        refused += failed
        check_everything(CaptionStore.open(tmp_path / "a.zarr"), acknowledged)
        try:
            writer.commit(batch(acknowledged))
        except StoreRefused:
            writer.close()
            writer = store.writer("cam", INFO, compaction=BY_HAND)
            acknowledged = writer.resume.frame + 1
            writer.commit(batch(acknowledged))
        acknowledged += 1
        check_everything(CaptionStore.open(tmp_path / "a.zarr"), acknowledged)
        if not failed:
            break
        at += 1
    writer.close()
    assert refused or call == "close"


def test_a_question_takes_no_longer_after_many_restarts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a question reads besides segments: the claims, of which few are left."""
    store = CaptionStore.create(tmp_path / "a.zarr")
    touched: list[str] = []
    for call in ("read", "open", "stamp"):
        real = getattr(LocalPlace, call)

        def counting(place: LocalPlace, key: str, real: Any = real) -> Any:
            touched.append(key)
            return real(place, key)

        monkeypatch.setattr(LocalPlace, call, counting)

    def files_of_a_question() -> set[str]:
        touched.clear()
        assert CaptionStore.open(store.path).captions(T0, T0 + S).num_rows
        return set(touched)

    for number in range(by_day(30, otherwise=10_000)):
        with store.writer("cam", INFO, compaction=Compaction(fan_in=10, grace_s=0, enabled=False)) as writer:
            writer.commit(batch(number))
            if number % 10 == 9:
                writer.compact()
        if number == 19:
            early = files_of_a_question()
    late = files_of_a_question()
    assert len([key for key in late if "epoch/" in key]) <= KEPT_EPOCHS + 1
    assert len(late) <= len(early)
    assert len(list((store.path / "streams/cam/epoch").iterdir())) <= KEPT_EPOCHS + 1


def test_a_disk_that_stumbles_over_the_newest_segment_lets_nothing_be_written_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What could not be read once would be seen again as new, and then be there twice when it can be read."""
    store = filled_store(tmp_path / "a.zarr", 4)
    real, failed = LocalPlace.open, []

    class Stumbling(io.BytesIO):
        def read(self, *_: Any) -> bytes:
            raise OSError(errno.EIO, "Input/output error")

    def opening(place: LocalPlace, key: str) -> Any:
        if key.startswith("hot/") and not failed:
            failed.append(key)
            return Stumbling()
        return real(place, key)

    monkeypatch.setattr(LocalPlace, "open", opening)
    with store.writer("cam", INFO, compaction=BY_HAND) as writer:
        assert failed
        assert writer.resume == batch(3).resume


def test_a_folder_that_cannot_be_listed_leaves_no_file_out_of_an_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = filled_store(tmp_path / "a.zarr", 4)
    real = os.scandir

    def failing(path: Any) -> Any:
        if str(path).endswith("cap/box"):
            raise OSError(errno.EIO, "Input/output error")
        return real(path)

    with store.writer("cam", INFO, compaction=BY_HAND) as writer:
        monkeypatch.setattr(os, "scandir", failing)
        with contextlib.suppress(StoreRefused):
            writer.archive_closed_days(T0 + 2 * DAY_NS)
        monkeypatch.setattr(os, "scandir", real)
    check_everything(CaptionStore.open(store.path, strict=True), 4)
