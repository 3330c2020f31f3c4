"""The keyframe gate: dense while things move, sparse while nothing does, never by counting frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.frame import FrameTime
from pipeline.core.thumbnail import changed_places
from pipeline.keyframes.gate import (
    KeyframeGate,
    KeyframeOptions,
    KeyframeReason,
    keyframe_reason,
)
from pipeline.keyframes.reader import KeyframeReader
from pipeline.sources import open_source
from pipeline.sources.picture import DecodedFrame, from_array
from tests.videos import write_video

MS = 1_000_000
OPTIONS = KeyframeOptions(interval_s=0.5, max_interval_s=2.0, change=0.003)


def frame(at_ms: int, square: int | None = None, epoch: int = 0) -> DecodedFrame:
    pixels = np.full((180, 320, 3), 100, np.uint8)
    if square is not None:
        pixels[60:120, square : square + 60] = 255
    return from_array("s", 0, FrameTime(at_ms * MS, at_ms * MS, epoch), pixels)


def kept(frames: list[DecodedFrame]) -> list[int]:
    gate = KeyframeGate(OPTIONS)
    return [f.time.pts_ns // MS for f in frames if gate.consider(f) is not None]


def test_still_scene_gets_the_slow_rate() -> None:
    assert kept([frame(at) for at in range(0, 10_000, 40)]) == [0, 2000, 4000, 6000, 8000]


def test_moving_scene_gets_the_fast_rate() -> None:
    assert kept([frame(at, square=at // 20) for at in range(0, 3_000, 50)]) == [
        0,
        500,
        1000,
        1500,
        2000,
        2500,
    ]


def test_motion_after_stillness_is_seen_at_once() -> None:
    still = [frame(at) for at in range(0, 1_240, 40)]
    assert kept([*still, frame(1_240, square=20)]) == [0, 1_240]


def test_variable_frame_rate_is_judged_by_time() -> None:
    assert kept([frame(at, square=at // 20) for at in (0, 10, 20, 30, 498, 500, 501, 3000, 3001)]) == [
        0,
        500,
        3000,
    ]


def test_new_epoch_starts_with_a_keyframe() -> None:
    gate = KeyframeGate(OPTIONS)
    assert gate.consider(frame(5_000)) is KeyframeReason.FIRST
    assert gate.consider(frame(0, epoch=1)) is KeyframeReason.FIRST


def test_change_needs_more_than_noise() -> None:
    noise = np.random.default_rng(0).integers(0, 8, (36, 64)).astype(np.uint8)
    still = np.full((36, 64), 100, np.uint8)
    assert changed_places(still, still + noise).mean() == 0.0
    moved = still.copy()
    moved[:18] = 200
    assert changed_places(still, moved).mean() == 0.5


@given(
    st.lists(st.integers(0, 3_000), min_size=1, max_size=60),
    st.lists(st.floats(0, 1), min_size=60, max_size=60),
)
def test_keyframes_are_never_denser_than_the_interval_nor_sparser_than_the_limit(
    steps: list[int], changes: list[float]
) -> None:
    last: int | None = None
    now = 0
    for step, change in zip(steps, changes, strict=False):
        now += step * MS
        elapsed = None if last is None else now - last
        reason = keyframe_reason(elapsed, change, OPTIONS)
        if elapsed is not None:
            if elapsed < 499 * MS:
                assert reason is None
            if elapsed >= 2_000 * MS:
                assert reason is not None
        if reason is not None:
            last = now


def test_every_keyframe_carries_the_thumbnail_it_was_judged_by(tmp_path: Path) -> None:
    """The last one too, which the gate had found too early."""
    reader = KeyframeReader(open_source(str(write_video(tmp_path / "a.mp4", frames=30))), OPTIONS)
    frames = []
    while not (step := reader.step())[0].ended:
        frames.append(step[1])
    reader.close()
    assert [frame.index for frame in frames if frame is not None] == [0, 13, 26, 29]
    assert all(frame is not None and frame.thumbnail is not None for frame in frames)
