"""The stages behind Ray's actors, called as plain objects: batches over streams, and nothing twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.core.frame import Frame, FrameTime
from pipeline.core.records import Gap
from pipeline.runtime.driver.messages import Work
from pipeline.runtime.on_ray.actors import PerceptionActor, RecorderActor, StaleCall
from pipeline.runtime.plan import RunPlan, plan_run
from pipeline.settings.config import load_config
from pipeline.store import CaptionStore
from tests.tiny_checkpoint import LENIENT
from tests.videos import picture, write_video

NS = 1_000_000_000


@pytest.fixture
def plan(tmp_path: Path, tiny_checkpoint: Path) -> RunPlan:
    """Two streams of different picture sizes."""
    config = load_config("default", LENIENT, changes={"model": str(tiny_checkpoint)})
    clips = [
        write_video(tmp_path / "left.mp4", frames=5, width=160, height=96),
        write_video(tmp_path / "right.mp4", frames=5, width=96, height=128),
    ]
    return plan_run([str(clip) for clip in clips], config, store=tmp_path / "s.zarr")


def frame(plan: RunPlan, stream: int, index: int) -> Frame:
    info = plan.streams[stream].source
    pixels = picture(index * 5 + stream * 40, info.width, info.height)
    return Frame(info.stream, index, FrameTime(index * NS, index * NS), pixels)


def perception(plan: RunPlan) -> PerceptionActor:
    actor = PerceptionActor()
    actor.load(plan.config)
    for stream in plan.streams:
        actor.open_stream(stream.stream, stream.config, 1, 1)
    return actor


def test_keyframes_of_two_streams_in_one_batch_give_what_each_gives_alone(plan: RunPlan) -> None:
    together, alone = perception(plan), perception(plan)
    works = tuple(Work(stream.stream, 1, 1.0) for stream in plan.streams)
    for index in range(3):
        frames = [frame(plan, stream, index) for stream in (0, 1)]
        reports, *batched = together.analyse(works, *frames)
        single = [alone.analyse((work,), picture) for work, picture in zip(works, frames, strict=True)]
        assert [report.fault for report in reports] == [None, None]
        for place, ((own,), analysed, requests) in enumerate(single):
            assert reports[place] == own
            assert len(batched[2 * place + 1]) == len(requests) == own.requests
            assert batched[2 * place].regions.track_ids.tolist() == analysed.regions.track_ids.tolist()
            np.testing.assert_allclose(batched[2 * place].regions.boxes, analysed.regions.boxes, atol=1.0)
    assert any(own.requests for (own,), *_ in single) or reports[0].avoided.captions > 0


def test_a_keyframe_of_an_earlier_start_is_a_fault_of_its_stream_alone(plan: RunPlan) -> None:
    actor = perception(plan)
    first = plan.streams[0]
    actor.open_stream(first.stream, first.config, 2, 1)
    works = (Work("left", 1, 1.0), Work("right", 1, 1.0))
    reports, left, _, right, _ = actor.analyse(works, frame(plan, 0, 0), frame(plan, 1, 0))
    assert "start 1 is not the one" in reports[0].fault
    assert left is None
    assert reports[1].fault is None
    assert right is not None
    actor.forget("left", 1)
    assert actor.finish("left", 2) == ()


def test_the_recorder_refuses_what_is_late_or_overtook_and_commits_what_it_has(plan: RunPlan) -> None:
    eyes, recorder = perception(plan), RecorderActor()
    recorder.open(plan.store)
    (left, _) = plan.streams
    assert recorder.open_stream(left, 1).frame == -1
    keyframes = []
    for index in range(4):
        _, analysed, _ = eyes.analyse((Work("left", 1, 1.0),), frame(plan, 0, index))
        keyframes.append(analysed)
    recorder.record("left", 1, 0, (), keyframes[0], [])
    recorder.record("left", 1, 1, (Gap(0, NS, "corrupt", 1),), keyframes[1], [])
    with pytest.raises(StaleCall, match="record 2 was lost before record 3"):
        recorder.record("left", 1, 3, (), keyframes[3], [])
    with pytest.raises(StaleCall):
        recorder.record("left", 2, 0, (), keyframes[2], [])
    # Opened again: what had come is committed, and the next start goes on right behind it.
    point = recorder.open_stream(left, 2)
    assert point.frame == 1
    with pytest.raises(StaleCall):
        recorder.record("left", 1, 2, (), keyframes[2], [])
    recorder.record("left", 2, 0, (), keyframes[2], [])
    recorder.close_stream("left", 1)
    with pytest.raises(StaleCall, match="record 1 was lost before the end"):
        recorder.finish("left", 2, 2, (), None)
    done = recorder.finish("left", 2, 1, (), replace(point, pts_ns=9 * NS, frame=9, wall_ns=9 * NS))
    assert done.keyframes == 1
    with CaptionStore.open(plan.store) as opened:
        rows = opened.observations().to_pandas()
        assert not rows.duplicated(["frame", "track"]).any()
        assert set(rows["frame"]) == {0, 1, 2}
        assert opened.gaps().num_rows == 1
        assert opened.resume("left").frame == 9
        # The stream is free again.
        opened.writer("left", left.info).close()
