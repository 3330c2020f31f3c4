"""A camera that is faster than the machine: load is shed step by step, stored, and given back when it gets calm."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.keyframes.shedding import EFFORTS
from pipeline.runtime.on_ray.driver import run_on_ray
from pipeline.runtime.plan import plan_run
from pipeline.runtime.progress import RunObserver, StopRequest
from pipeline.settings.config import load_config
from pipeline.store import CaptionStore
from tests.tiny_checkpoint import LENIENT
from tests.videos import write_video

# Sixteen hundred prompts a keyframe: seconds of work, while keyframes come ten times a second.
HEAVY = (
    "perception.probing.grid=40",
    "perception.probing.budget=1600",
    "perception.probing.first_budget=1600",
    "perception.max_regions=8",
    "keyframes.interval_s=0.1",
    "keyframes.change=0",
    "recording.commit_s=0.1",
    "flow.real_time=true",
    "flow.shedding.staleness_s=0.5",
    "flow.shedding.hold_s=0.1",
    "flow.shedding.calm_s=1000",
)


class StopWhenShed(RunObserver):
    """Asks for a stop once the deepest step is reached."""

    def __init__(self, stop: StopRequest) -> None:
        self.steps: list[int] = []
        self.latencies: list[float] = []
        self._stop = stop

    def shed(self, stream: str, step: int) -> None:
        self.steps.append(step)

    def queryable(self, stream: str, latency_s: float) -> None:
        self.latencies.append(latency_s)
        if self.steps and self.steps[-1] == len(EFFORTS) - 1:
            self._stop.set()


@pytest.mark.slow
@pytest.mark.usefixtures("shared_ray")
def test_a_stream_that_falls_behind_sheds_in_order_and_every_step_can_be_queried(
    tmp_path: Path, tiny_checkpoint: Path
) -> None:
    clip = write_video(tmp_path / "clip.mp4", frames=25 * 240, width=96, height=64)
    store = tmp_path / "s.zarr"
    config = load_config("default", (*LENIENT, *HEAVY), changes={"model": str(tiny_checkpoint)})
    stop = StopRequest()
    watch = StopWhenShed(stop)
    (progress,) = run_on_ray(plan_run([str(clip)], config, store=store), watch, stop)

    assert watch.steps == list(range(1, len(EFFORTS)))
    with CaptionStore.open(store) as opened:
        gaps = opened.gaps().to_pandas()
        steps = opened.efforts()["effort"].to_pylist()
        assert opened.coverage() < 1
    assert steps == [effort.name for effort in EFFORTS[1:]]
    dropped = gaps[gaps["reason"] == "dropped"]
    assert dropped["frames"].sum() == progress.dropped > 0
    assert (dropped["t_end"] >= dropped["t_start"]).all()
