"""Where the time of a run goes: each nanosecond is counted once, in whatever process, and nothing is when nobody asked."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core import stage_times
from pipeline.core.errors import MalformedFile
from pipeline.core.stage_times import TimedStage, begin, end, read_times, timed, timed_keyframe

ROOT = Path(__file__).resolve().parents[2]
BLOCKS = st.recursive(
    st.just([]), lambda inner: st.lists(st.tuples(st.sampled_from(TimedStage), inner), max_size=3), max_leaves=12
)  # fmt: skip


class Ticks:
    """A clock that goes on by one at each look: what is counted is how often it was looked at."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        self.now += 1
        return self.now


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ticks]:
    ticks = Ticks()
    monkeypatch.setattr(stage_times.time, "perf_counter_ns", ticks)
    yield ticks
    end()


def go(blocks: list[tuple[TimedStage, list[object]]]) -> None:
    for stage, inner in blocks:
        with timed(stage):
            go(inner)  # type: ignore[arg-type]


@settings(max_examples=30)
@given(blocks=st.lists(st.tuples(st.sampled_from(TimedStage), BLOCKS), min_size=1, max_size=3))
def test_what_is_within_another_stage_is_counted_once(
    tmp_path_factory: pytest.TempPathFactory, blocks: list[tuple[TimedStage, list[object]]]
) -> None:
    folder = tmp_path_factory.mktemp("times")
    with pytest.MonkeyPatch.context() as patch:
        ticks = Ticks()
        patch.setattr(stage_times.time, "perf_counter_ns", ticks)
        begin(folder)
        try:
            go(blocks)
        finally:
            end()
    taken = read_times(folder).stages.values()
    # Each of the blocks on the outside spans its own ticks, less the one at which it begins.
    assert sum(one.wall_ns for one in taken) == ticks.now - len(blocks)
    assert 2 * sum(one.times for one in taken) == ticks.now


def test_every_process_of_a_run_is_counted_also_one_that_was_killed(tmp_path: Path) -> None:
    code = (
        "import os, signal\n"
        "from pipeline.core.stage_times import TimedStage, timed\n"
        "with timed(TimedStage.ENCODE): sum(range(10**6))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    begin(tmp_path)
    try:
        with timed(TimedStage.ENCODE):
            pass
        for _ in range(2):
            subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=os.environ, check=False)
    finally:
        end()
    times = read_times(tmp_path)
    assert times.stages[TimedStage.ENCODE].times == 3
    assert times.stages[TimedStage.ENCODE].cpu_ns > 0
    assert times.stages[TimedStage.START].cpu_ns > 0  # what they were at before they counted
    assert stage_times.FOLDER_VARIABLE not in os.environ


def test_what_threads_compute_side_by_side_is_counted_once(tmp_path: Path) -> None:
    """Of two threads one computes, the other waits for it; each has its own stage."""
    before = time.process_time_ns()
    begin(tmp_path)

    def decode() -> None:
        for _ in range(20):
            with timed(TimedStage.DECODE):
                sum(range(10**5))

    thread = threading.Thread(target=decode)
    with timed(TimedStage.ENCODE):
        thread.start()
        thread.join()
    with timed(TimedStage.ENCODE):
        sum(range(3 * 10**6))
    spent = time.process_time_ns() - before
    end()
    times = read_times(tmp_path)
    decoding, encoding = (times.stages[stage].cpu_ns for stage in (TimedStage.DECODE, TimedStage.ENCODE))
    start = times.stages[TimedStage.START].cpu_ns
    assert decoding > 0
    assert encoding > decoding
    assert decoding + encoding + times.other_cpu_ns <= spent + 1_000_000
    assert start <= before + 10_000_000


def test_the_first_keyframe_is_told_apart(tmp_path: Path, wall: Ticks) -> None:
    begin(tmp_path)
    for _ in range(4):
        with timed_keyframe():
            pass
    times = read_times(tmp_path)
    assert times.first_ns > 0
    assert (times.later.times, times.later.wall_ns) == (3, 3)


def test_nobody_counts_unless_asked(tmp_path: Path) -> None:
    assert timed(TimedStage.ENCODE) is timed(TimedStage.COMMIT) is timed_keyframe()
    assert read_times(tmp_path).first_ns == 0


def test_a_foreign_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "1.times").write_bytes(b"no times")
    with pytest.raises(MalformedFile, match=r"1\.times"):
        read_times(tmp_path)
