"""Steps of effort are rows of their own, those of earlier versions included, and gaps keep reasons nobody knows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pipeline.core.records import Batch, EffortName, EffortStep, Gap, GapReason
from pipeline.query.rows import gap_rows
from pipeline.store import CaptionStore
from pipeline.store.day_archive import DAY_NS
from tests.store_samples import BY_HAND, INFO, T0, S

STEPS = (
    EffortStep(T0 + S, EffortName.HALF_PROBES),
    EffortStep(T0 + 3 * S, EffortName.FEW_PROBES),
    EffortStep(T0 + 66 * S, EffortName.FULL),
)


def told(store: CaptionStore, *window: int) -> list[tuple[int, str]]:
    table = store.efforts(*window).to_pydict()
    return [(int(t.value), effort) for t, effort in zip(table["t"], table["effort"], strict=True)]


def write(path: Path, batches: list[Batch]) -> CaptionStore:
    store = CaptionStore.create(path)
    with store.writer("cam", INFO, compaction=BY_HAND) as writer:
        for number, batch in enumerate(batches):
            writer.commit(replace(batch, resume=replace(batch.resume, pts_ns=number)))
        writer.compact()
    return store


def test_steps_survive_merging_and_archiving_and_are_no_gaps(tmp_path: Path) -> None:
    batches = [Batch(efforts=tuple(s for s in STEPS if s.wall_ns == T0 + n * S)) for n in range(70)]
    batches[5] = Batch(gaps=(Gap(T0 + 5 * S, T0 + 6 * S, GapReason.SHED, 3),))
    store = write(tmp_path / "a.zarr", batches)
    expected = [(step.wall_ns, step.effort.value) for step in STEPS]
    for _ in range(2):
        assert told(store) == expected
        assert told(store, T0 + 2 * S, T0 + 5 * S) == expected[1:2]
        assert store.gaps()["reason"].to_pylist() == ["shed"]
        store.archive_closed_days(T0 + 2 * DAY_NS)
    assert list((tmp_path / "a.zarr/streams/cam/day").iterdir())


def test_steps_that_an_earlier_version_stored_as_gaps_are_read_as_steps(tmp_path: Path) -> None:
    old = [
        Batch(gaps=(Gap(s.wall_ns, s.wall_ns, f"effort:{s.effort}"), Gap(s.wall_ns, s.wall_ns + 9, "outage")))
        for s in STEPS[:2]
    ]
    store = write(tmp_path / "a.zarr", [*old, Batch(efforts=STEPS[2:])])
    assert told(store) == [(step.wall_ns, step.effort.value) for step in STEPS]
    assert store.gaps()["reason"].to_pylist() == ["outage", "outage"]


def test_a_reason_of_another_version_is_shown_as_its_text(tmp_path: Path) -> None:
    gaps = (Gap(T0, T0 + S, "hail"), Gap(T0 + S, T0 + 2 * S, "corrupt", 2))
    store = write(tmp_path / "a.zarr", [Batch(gaps=gaps)])
    rows = gap_rows(store.gaps())
    assert [row.reason for row in rows] == ["hail", GapReason.CORRUPT]
    assert [type(row.reason) for row in rows] == [str, GapReason]
    assert rows[0].document()["reason"] == "hail"
