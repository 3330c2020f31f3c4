"""Cuts are rows of the store, and each row knows the number of its shot, through merging and archiving."""

from __future__ import annotations

from pathlib import Path

from pipeline.core.records import Batch, Cut, Observation, ResumePoint
from pipeline.store import CaptionStore
from pipeline.store.day_archive import DAY_NS
from tests.store_samples import BY_HAND, INFO, T0, S


def test_shots_are_numbered_over_segments_merges_and_archives(tmp_path: Path) -> None:
    cut_at = {7, 8, 40, 69}
    store = CaptionStore.create(tmp_path / "a.zarr")
    expected, shot = [], 0
    with store.writer("cam", INFO, compaction=BY_HAND) as writer:
        for second in range(75):
            shot += second in cut_at
            expected.append(shot)
            wall_ns = T0 + second * S
            seen = Observation(wall_ns, second * S, second, 1, (0.0, 0.0, 9.0, 9.0), 0.5)
            cuts = (Cut(wall_ns, second * S),) if second in cut_at else ()
            resume = ResumePoint(second * S, second, 0, wall_ns, 2, shot)
            writer.commit(Batch(observations=(seen,), cuts=cuts, resume=resume))
        writer.compact()
    for _ in range(2):
        assert store.observations()["shot"].to_pylist() == expected
        window = store.observations(T0 + 39 * S, T0 + 41 * S)
        assert window["shot"].to_pylist() == expected[39:42]
        assert [int(t.value) for t in store.cuts()["t"].to_pylist()] == [T0 + n * S for n in sorted(cut_at)]
        assert len(store.cuts(T0 + 8 * S, T0 + 40 * S)) == 2
        assert store.resume("cam").shot == len(cut_at)
        store.archive_closed_days(T0 + 2 * DAY_NS)
    assert list((tmp_path / "a.zarr/streams/cam/day").iterdir())
