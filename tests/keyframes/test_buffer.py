"""Keyframes that come too fast: who waits, who goes, and that nothing vanishes without a gap."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.dropping import BLOCK, DROP_OLDEST, KEEP_LATEST, DropPolicy
from pipeline.core.frame import Frame, FrameTime
from pipeline.core.records import Gap, ResumePoint
from pipeline.keyframes.buffer import FlowOptions, KeyframeBuffer, ReadStep
from pipeline.keyframes.reader import SourceStep
from pipeline.sources import SourceCounts
from tests.videos import write_video

NS = 1_000_000_000


def step(index: int, *, ended: bool = False, gaps: tuple[Gap, ...] = ()) -> tuple[SourceStep, Frame | None]:
    """The keyframe at second `index`, or the end of the stream there."""
    reached = ResumePoint(index * NS, index, 0, index * NS)
    told = SourceStep(not ended, gaps, SourceCounts(frames=index + 1), reached, ended)
    pixels = np.zeros((2, 2, 3), np.uint8)
    return told, None if ended else Frame("s", index, FrameTime(index * NS, index * NS), pixels)


def taken(buffer: KeyframeBuffer) -> ReadStep:
    item = buffer.take(5)
    assert item is not None
    return item


def test_the_default_policy_drops_only_what_cannot_wait() -> None:
    assert FlowOptions().policy_of(live=False) is BLOCK
    assert FlowOptions().policy_of(live=True) is KEEP_LATEST
    assert FlowOptions(real_time=True).policy_of(live=False) is KEEP_LATEST
    assert FlowOptions(policy="block").policy_of(live=True).name == "block"


def test_block_makes_the_source_wait_and_loses_nothing() -> None:
    buffer = KeyframeBuffer(BLOCK, 2)
    put = []

    def produce() -> None:
        for index in range(20):
            assert buffer.put(*step(index))
            put.append(index)
        buffer.put(*step(20, ended=True))

    thread = threading.Thread(target=produce)
    thread.start()
    items = []
    while not items or not items[-1].step.ended:
        items.append(taken(buffer))
        assert len(put) <= len(items) + 3
    thread.join(timeout=30)
    assert [item.frame.index for item in items if item.frame] == list(range(20))
    assert not any(item.step.gaps for item in items)


@given(
    policy=st.sampled_from([KEEP_LATEST, DROP_OLDEST]),
    capacity=st.integers(1, 5),
    bursts=st.lists(st.integers(0, 9), min_size=1, max_size=12),
)
def test_what_is_dropped_is_counted_and_becomes_gaps_between_neighbours(
    policy: DropPolicy, capacity: int, bursts: list[int]
) -> None:
    """Bursts of keyframes, one taken after each: seen and told missing add up, in order, with the right times."""
    buffer = KeyframeBuffer(policy, capacity)
    room = 1 if policy is KEEP_LATEST else capacity
    index = 0
    outside = Gap(-5, -4, "outage")
    items: list[ReadStep] = []
    for burst in bursts:
        for _ in range(burst):
            buffer.put(*step(index, gaps=(outside,) if index % 3 == 0 else ()))
            index += 1
        item = buffer.take(0)
        if item is not None:
            assert burst == 0 or item.step.reached.frame >= index - room
            items.append(item)
    buffer.put(*step(index, ended=True))
    while not items or not items[-1].step.ended:
        items.append(taken(buffer))
    seen = [item.frame.index for item in items if item.frame is not None]
    assert seen == sorted(set(seen))
    gaps = [(item, gap) for item in items for gap in item.step.gaps]
    dropped = [(item, gap) for item, gap in gaps if gap.reason == "dropped"]
    assert sum(gap.reason == "outage" for _, gap in gaps) == len(range(0, index, 3))
    assert len(seen) + sum(gap.frames for _, gap in dropped) == index == items[-1].step.reached.frame
    assert items[-1].step.counts.dropped == index - len(seen)
    for item, gap in dropped:
        assert gap.end_ns == item.step.reached.wall_ns
        assert gap.start_ns == (item.step.reached.frame - gap.frames) * NS


def test_an_error_of_the_reader_comes_after_what_was_read() -> None:
    buffer = KeyframeBuffer(KEEP_LATEST, 1)
    buffer.put(*step(0))
    buffer.fail(ValueError("gone"))
    assert taken(buffer).step.reached.frame == 0
    with pytest.raises(ValueError, match="gone"):
        buffer.take(5)


def test_closing_frees_a_source_that_waits() -> None:
    buffer = KeyframeBuffer(BLOCK, 1)
    buffer.put(*step(0))
    results: list[bool] = []
    thread = threading.Thread(target=lambda: results.append(buffer.put(*step(1))))
    thread.start()
    buffer.close()
    thread.join(timeout=30)
    assert results == [False]


def test_a_film_is_closed_when_nobody_decodes_it_any_more(tmp_path: Path) -> None:
    """FFmpeg that is closed while another thread decodes takes the whole process with it."""
    clip = write_video(tmp_path / "clip.mp4", frames=400, width=320, height=240)
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from pipeline.core.dropping import BLOCK\n"
        "from pipeline.core.records import ResumePoint\n"
        "from pipeline.keyframes.buffer import BufferedReader, KeyframeBuffer\n"
        "from pipeline.keyframes.gate import KeyframeOptions\n"
        "from pipeline.keyframes.reader import KeyframeReader\n"
        "from pipeline.sources import open_source\n"
        "for taken in range(12):\n"
        "    source = open_source(sys.argv[1], stream='clip')\n"
        "    reader = KeyframeReader(source, KeyframeOptions(interval_s=0.2, change=0), ResumePoint())\n"
        "    buffered = BufferedReader(reader, KeyframeBuffer(BLOCK, 4), 'clip')\n"
        "    for _ in range(taken % 3):\n"
        "        assert buffered.take(5) is not None\n"
        "    buffered.close()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(clip)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
