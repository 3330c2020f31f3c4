"""A store in an object store: written on a disk first, whole in the bucket afterwards, whatever happens to process and network."""

from __future__ import annotations

import itertools
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.core.errors import StoreRefused
from pipeline.store import CaptionStore, Compaction
from pipeline.store import uploading as uploading_module
from pipeline.store.bucket_lease import LEASE_S
from pipeline.store.place import place_of
from pipeline.store.row_filter import RowFilter
from pipeline.store.segment_name import SegmentName
from pipeline.store.text_filter import TextFilter
from pipeline.store.uploading import LAG_S, due_uploads
from tests.duration import LONG, by_day
from tests.killed_writers import context
from tests.s3_server import Network, new_bucket
from tests.store_samples import BY_HAND, EVERYTHING, INFO, T0, S, batch, check_everything, write_forever

pytest.importorskip("obstore")

DAY = 86_400 * S
QUICK = Compaction(fan_in=4, grace_s=0)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploading_module, "CYCLE_S", 0.05)


def names(address: str) -> list[str]:
    """Segments and archives that lie in the bucket."""
    place = place_of(f"{address}/streams/cam")
    return [name for folder in ("hot", "day") for name in place.list(folder)]


def fill(address: str, count: int, compaction: Compaction = BY_HAND) -> CaptionStore:
    """Commit batches up to `count`, from where the store ends."""
    store = CaptionStore.create(address)
    with store.writer("cam", INFO, compaction=compaction) as writer:
        for number in range(writer.resume.frame + 1, count):
            writer.commit(batch(number))
            if (number + 1) % compaction.fan_in == 0:
                writer.compact()
    return store


def test_what_is_due_is_uploaded_in_order_and_never_over_a_hole() -> None:
    def seg(lo: int, hi: int, level: int) -> SegmentName:
        return SegmentName.hot(lo, hi, 0, 0, 1, level)

    hour, minute, second, third = seg(0, 60, 1), seg(60, 61, 0), seg(61, 62, 0), seg(62, 63, 0)
    shown = [hour, minute, second, third]
    ages = {name.path: 1.0 for name in shown}
    assert due_uploads(shown, set(), ages) == [hour]
    assert due_uploads(shown, {hour.path}, ages) == []
    assert due_uploads(shown, {hour.path}, {**ages, second.path: LAG_S}) == [minute, second]
    assert due_uploads(shown, {hour.path}, ages, everything=True) == [minute, second, third]
    del ages[second.path]
    assert due_uploads(shown, {hour.path}, ages, everything=True) == [minute]


def questions(store: CaptionStore) -> list[Any]:
    """Every kind of question, with every filter."""
    first, last = T0 + 5 * S, T0 + 9 * S
    embedding = tuple((np.array([0.5, -0.25, 3 / 16]) / np.linalg.norm([0.5, -0.25, 3 / 16])).tolist())
    wanted = [
        RowFilter(),
        RowFilter(first, last),
        RowFilter(track=103),
        RowFilter(text="katze 3"),
        RowFilter(texts=TextFilter(phrases=("schöne",))),
        RowFilter(min_score=0.5),
        RowFilter(box=(0.0, 0.0, 5.0, 5.0)),
        RowFilter(like=embedding, min_similarity=0.99),
    ]
    if not LONG:
        wanted = [RowFilter(), RowFilter(first, last, text="katze", min_score=0.25)]
    answers: list[Any] = [
        [
            (event, shot)
            for event, shot in store.matching("cam", each, masks=True, embeddings=True, newest=newest)
        ]
        for each in wanted
        for newest in (False, True)
    ]
    answers += [store.count("cam", each, by) for each in wanted for by in ("text", "track")]  # type: ignore[arg-type]
    answers += [
        store.captions(first, last, columns=EVERYTHING),
        store.observations(columns=("t", "x0", "mask")),
    ]
    answers += [store.tracks(), store.gaps(), store.cuts(), store.efforts(), store.clocks()]
    answers += [store.coverage(), store.span("cam"), store.resume("cam"), store.streams(), store.damage()]
    return answers


def test_every_question_has_the_same_answer_from_the_bucket(direct: int, tmp_path: Path) -> None:
    """Of commits, merged segments and an archive; written there, and copied there by other programs."""
    address = f"s3://{new_bucket(direct)}/yard"
    for where in (str(tmp_path / "local.zarr"), address):
        store = fill(where, 6)
        if LONG:  # some hundred objects
            assert len(store.archive_closed_days(T0 + DAY)) == 1
        fill(where, by_day(8, otherwise=26))
    here, there = CaptionStore.open(tmp_path / "local.zarr"), CaptionStore.open(address)
    assert there.verify() == []
    wanted = [str(each) for each in questions(here)]
    assert [str(each) for each in questions(there)] == wanted
    copied = f"s3://{new_bucket(direct)}"
    place = place_of(copied)
    for file in (tmp_path / "local.zarr").rglob("*"):
        if file.is_file():
            place.put(file.relative_to(tmp_path / "local.zarr").as_posix(), file.read_bytes())
    if LONG:
        check_everything(there, 26)
        assert any(name.endswith(".zarr") for name in names(address))
        assert [str(each) for each in questions(CaptionStore.open(copied))] == wanted
    for command in (
        ["query", copied, "--format", "json"],
        ["store", "check", copied],
        ["store", "stats", copied],
    ):
        ran = CliRunner().invoke(app, command)
        assert ran.exit_code == 0, ran.output
    out = tmp_path / "a.jsonl"
    assert CliRunner().invoke(app, ["export", copied, str(out)]).exit_code == 0
    assert len(out.read_text().splitlines()) == len(there.captions())


def test_a_minute_of_a_large_segment_fetches_little_of_it(
    server: int, network: Network, tmp_path: Path
) -> None:
    from pipeline.core.records import Batch, CaptionEvent

    address = f"s3://{new_bucket(server)}/yard"
    generator = np.random.default_rng(3)
    rows = 30_000
    noise = generator.standard_normal((rows, 128)).astype(np.float32)
    events = tuple(
        CaptionEvent(n, T0 + n * S, T0 + n * S + 1, n * S, n * S + 1, n, (0, 0, 1, 1), f"text {n}", 0.5, -1, noise[n])
        for n in range(rows)
    )  # fmt: skip
    with CaptionStore.create(address).writer("cam", INFO, compaction=Compaction(enabled=False)) as writer:
        writer.commit(Batch(captions=events))
    whole = sum(place_of(f"{address}/streams/cam").sizes("hot").values())
    assert whole > 5 << 20
    network.seen.clear()
    found = CaptionStore.open(address).captions(T0 + 9_000 * S, T0 + 9_059 * S)
    assert found["track"].to_pylist() == list(range(9_000, 9_060))
    fetched = sum(size for _, _, size in network.seen)
    assert fetched < whole / 4, (fetched, whole, network.seen)
    assert len(network.seen) < 30, network.seen


def test_a_dead_network_stops_no_recording_and_nothing_is_lost(
    server: int, network: Network, caplog: pytest.LogCaptureFixture
) -> None:
    address = f"s3://{new_bucket(server)}/yard"
    store = CaptionStore.create(address)
    with store.writer("cam", INFO, compaction=QUICK) as writer:
        for number in range(5):
            writer.commit(batch(number))
        network.fate = lambda method, path: "refuse"
        for number in range(5, 14):
            writer.commit(batch(number))
    assert "have not reached" in caplog.text
    assert "verysecretkey" not in caplog.text
    network.mend()
    before = CaptionStore.open(address).resume("cam").frame
    assert before < 13
    fill(address, 15)
    check_everything(CaptionStore.open(address), 15)


def test_a_second_writer_is_refused_and_one_that_slept_too_long_is_told(
    server: int, network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"s3://{new_bucket(server)}/yard"
    store = CaptionStore.create(address)
    first = store.writer("cam", INFO, compaction=QUICK)
    for number in range(6):
        first.commit(batch(number))
    monkeypatch.setenv("SCA_SPOOL", str(tmp_path / "another machine"))
    with pytest.raises(StoreRefused, match=f"is being written by process {os.getpid()} on"):
        store.writer("cam", INFO)
    # The first is cut off for as long as makes it count as gone; the server's clock cannot be set, so the limit is.
    network.fate = lambda method, path: "refuse"
    first.commit(batch(6))
    monkeypatch.setattr("pipeline.store.bucket_lease.LEASE_S", -1)
    network.mend()
    with store.writer("cam", INFO, compaction=QUICK) as second:
        begin = second.resume.frame + 1
        for number in range(begin, 12):
            second.commit(batch(number))
        refused: StoreRefused | None = None
        number = 7
        while refused is None:
            try:
                first.commit(batch(number))
            except StoreRefused as error:
                refused = error
            number += 1
            time.sleep(0.02)
        assert "taken over by another writer" in str(refused)
        first.close()
    check_everything(CaptionStore.open(address), 12)
    assert LEASE_S > 60


@pytest.mark.skipif(not LONG, reason="thousands of requests: make test-all")
def test_answers_that_get_lost_double_no_row(server: int, network: Network) -> None:
    address = f"s3://{new_bucket(server)}/yard"
    generator = random.Random(7)
    network.fate = lambda method, path: generator.choice(["pass", "pass", "cut", "503 SlowDown"])
    fill(address, 30, QUICK)
    network.mend()
    fill(address, 31, QUICK)
    check_everything(CaptionStore.open(address), 31)
    held = names(address)
    assert len(held) == len(set(held))


@pytest.mark.skipif(not LONG, reason="thousands of requests: make test-all")
def test_what_is_erased_is_in_no_object_and_on_no_disk(server: int, network: Network, tmp_path: Path) -> None:
    address = f"s3://{new_bucket(server)}/yard"
    fill(address, 14)
    ran = CliRunner().invoke(app, ["store", "erase", address, "--word", "Katze 3", "--yes"])
    assert ran.exit_code == 0, ran.output
    there = CaptionStore.open(address)
    assert not [text for text in there.captions()["text"].to_pylist() if text.endswith("Katze 3")]
    place = place_of(address)
    objects = {key: place.read(key) for key in place.sizes("")}
    assert not [key for key, data in objects.items() if b"Katze 3" in data]
    for file in (tmp_path / "spool").rglob("*"):
        assert not file.is_file() or b"Katze 3" not in file.read_bytes()
    network.fate = lambda method, path: "refuse" if method in ("POST", "DELETE", "PUT") else "pass"
    ran = CliRunner().invoke(app, ["store", "erase", address, "--word", "Katze 4", "--yes"])
    assert isinstance(ran.exception, StoreRefused), ran.output
    network.mend()
    assert CliRunner().invoke(app, ["store", "erase", address, "--word", "Katze 4", "--yes"]).exit_code == 0
    assert not [
        text for text in CaptionStore.open(address).captions()["text"].to_pylist() if text.endswith("e 4")
    ]


def _write(address: str, log: Path) -> None:
    uploading_module.CYCLE_S = 0.02
    write_forever(address, log, Compaction(fan_in=4, grace_s=0.05), 0.005)  # type: ignore[arg-type]


@pytest.mark.skipif(not LONG, reason="thousands of requests: make test-all")
def test_a_writer_that_is_killed_while_it_uploads_loses_nothing(
    server: int, network: Network, tmp_path: Path
) -> None:
    """Killed when so many objects were put, also inside a request whose answer it never hears."""
    address, log = f"s3://{new_bucket(server)}/yard", tmp_path / "acknowledged"
    CaptionStore.create(address)
    generator = random.Random(11)
    acknowledged = -1
    for _ in range(40):
        puts = itertools.count(1)
        deadly = generator.randint(6, 30)
        writer = context().Process(target=_write, args=(address, log))

        def fate(method: str, path: str, puts: Any = puts, deadly: int = deadly, writer: Any = writer) -> str:
            if method == "PUT" and "/hot/" in path and next(puts) == deadly:
                os.kill(writer.pid, signal.SIGKILL)
                return "cut"
            return "pass"

        network.fate = fate
        writer.start()
        writer.join(120)
        assert writer.exitcode == -signal.SIGKILL
        network.mend()
        acknowledged = max(map(int, log.read_text().split()))
        stored = CaptionStore.open(address)
        if stored.resume("cam").frame >= 0:  # the bucket never holds half of a commit, nor a hole
            check_everything(stored, stored.resume("cam").frame + 1)
    with CaptionStore.open(address).writer("cam", INFO, compaction=QUICK) as last:
        count = last.resume.frame + 1
    assert count >= acknowledged + 1
    check_everything(CaptionStore.open(address), count)


@pytest.mark.skipif(not LONG, reason="thousands of requests: make test-all")
@pytest.mark.parametrize("spoil", ["bit flip", "emptied", "halved", "deleted", "swapped"])
def test_a_damaged_object_is_told_or_its_rows_are_equal(direct: int, spoil: str) -> None:
    from tests.store.test_damage import DAMAGE

    address = f"s3://{new_bucket(direct)}/yard"
    store = fill(address, 3, Compaction(fan_in=99, grace_s=0, enabled=False))
    store.archive_closed_days(T0 + DAY)
    fill(address, 5, Compaction(fan_in=99, grace_s=0, enabled=False))
    wanted = str(store.captions(columns=EVERYTHING).to_pylist())
    place = place_of(f"{address}/streams/cam")
    keys = sorted(key for folder in ("hot", "day") for key in (f"{folder}/{k}" for k in place.sizes(folder)))
    first = len(spoil) % 4  # a quarter of an archive's objects for each kind, all of them over the kinds
    for number, key in list(enumerate(keys)):
        if key.startswith("day/") and number % 4 != first:
            continue
        data = place.read(key)
        other = place.read(keys[(number + 1) % len(keys)])
        spoiled = DAMAGE[spoil](data, other)
        place.delete(key)
        if spoiled is not None:
            place.put(key, spoiled)
        reader = CaptionStore.open(address)
        found = str(reader.captions(columns=EVERYTHING).to_pylist())
        told = reader.damage() or reader.verify() or reader.unwatched("cam")
        # The first may have been forgotten, and the last never written: nothing tells that they were deleted.
        untold = spoil == "deleted" and key in (keys[0], keys[-1])
        assert untold or found == wanted or any(told), key
        place.put(key, data)
    assert str(CaptionStore.open(address).captions(columns=EVERYTHING).to_pylist()) == wanted
