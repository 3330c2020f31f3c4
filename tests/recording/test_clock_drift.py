"""How a stream's clock runs against the wall clock: estimated in spite of jitter, stored, read back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.frame import ClockSource, FrameTime
from pipeline.core.records import Batch, ClockReading
from pipeline.recording.clock_drift import ClockLog, drift_ppm
from pipeline.store import CaptionStore, StreamInfo

NS = 1_000_000_000
NOON = 1_800_000_000 * NS


def samples(ppm: float, minutes: float = 10, jitter_s: float = 0.0, seed: int = 0) -> list[tuple[int, int]]:
    """A sample every five seconds of a clock that is `ppm` fast, each up to `jitter_s` late."""
    late = np.random.default_rng(seed).uniform(0, jitter_s, round(minutes * 12) + 1)
    times = [5 * NS * n for n in range(len(late))]
    return [(t, NOON + round(t * (1 + ppm / 1e6) + d * NS)) for t, d in zip(times, late, strict=True)]


@given(st.floats(-500, 500), st.integers(0, 5))
def test_drift_is_found_through_network_jitter(ppm: float, seed: int) -> None:
    assert drift_ppm(samples(ppm)) == pytest.approx(ppm, abs=0.01)
    # Forty milliseconds over ten minutes: 67 ppm from end to end, a fraction of that over all pairs.
    assert drift_ppm(samples(ppm, jitter_s=0.04, seed=seed)) == pytest.approx(ppm, abs=30)


def test_a_quarter_of_late_samples_does_not_move_it() -> None:
    disturbed = samples(50, jitter_s=0.01)
    for place in range(0, len(disturbed), 4):
        disturbed[place] = (disturbed[place][0], disturbed[place][1] + 3 * NS)
    assert drift_ppm(disturbed) == pytest.approx(50, abs=30)


def test_less_than_a_minute_tells_nothing() -> None:
    assert drift_ppm([]) is None
    assert drift_ppm(samples(100, minutes=0.9)) is None
    assert drift_ppm(samples(100, minutes=1)) == pytest.approx(100, abs=0.1)


def test_readings_come_at_each_change_and_once_a_minute() -> None:
    clocks = ClockLog()
    times = [
        FrameTime(
            n * NS, NOON + n * (NS + 20_000), n // 150, ClockSource.ARRIVAL if n < 3 else ClockSource.RTCP
        )
        for n in range(300)
    ]
    readings = [reading for time in times if (reading := clocks.note(time)) is not None]
    assert [r.pts_ns // NS for r in readings] == [0, 3, 63, 123, 150, 210, 270]
    assert [(r.epoch, r.clock) for r in readings[:2]] == [(0, ClockSource.ARRIVAL), (0, ClockSource.RTCP)]
    assert [r.drift_ppm is None for r in readings] == [True, True, False, False, True, False, False]
    assert readings[3].drift_ppm == pytest.approx(20, abs=0.1)


def test_a_files_clock_is_read_once() -> None:
    clocks = ClockLog()
    readings = [clocks.note(FrameTime(n * NS, NOON + n * NS)) for n in range(600)]
    assert [reading is not None for reading in readings] == [True] + [False] * 599


def test_readings_are_stored_and_survive_merging(tmp_path: Path) -> None:
    info = StreamInfo("rtsp://cam/1", ClockSource.ARRIVAL, NOON, 320, 192)
    given = [
        ClockReading(NOON, 0, 0, ClockSource.ARRIVAL),
        ClockReading(NOON + 9 * NS, 8 * NS, 0, ClockSource.RTCP, 21.5),
        ClockReading(NOON + 90 * NS, 89 * NS, 1, ClockSource.ARRIVAL),
    ]
    store = CaptionStore.create(tmp_path / "s.zarr")
    with store.writer("cam", info, clock=lambda: NOON) as writer:
        for number in range(70):
            batch = Batch(clocks=tuple(given[number : number + 1]))
            writer.commit(replace(batch, resume=replace(batch.resume, pts_ns=number)))
        writer.compact()
    table = store.clocks(stream="cam").to_pandas()
    assert table["t"].astype("int64").tolist() == [reading.wall_ns for reading in given]
    assert table["pts_s"].tolist() == [0, 8, 89]
    assert table["epoch"].tolist() == [0, 0, 1]
    assert table["clock"].tolist() == ["arrival", "rtcp", "arrival"]
    assert table["drift_ppm"].isna().tolist() == [True, False, True]
    assert table["drift_ppm"][1] == pytest.approx(21.5)
    later = store.clocks(NOON + 10 * NS, stream="cam")
    assert later["epoch"].to_pylist() == [1]
