"""Settings of `runtime` and `recording` reach what they are about: actors, their needs, and what writers do beside commits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from pipeline.runtime.on_ray import driver as ray_driver
from pipeline.runtime.plan import RunPlan, plan_run
from pipeline.runtime.stages import housekeeping
from pipeline.settings.stream_list import stream_requests
from pipeline.sources.source import SourceKind
from tests.videos import write_video


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return write_video(tmp_path / "a.mp4", frames=5)


def planned(video: Path, *settings: str) -> RunPlan:
    config, requests = stream_requests([str(video)], settings=settings)
    return plan_run(requests, config, store=video.parent / "a.zarr")


def test_days_of_cameras_are_archived_and_forgotten_as_told_and_those_of_files_never(video: Path) -> None:
    (stream,) = planned(
        video, "recording.keep_days=2", "recording.keep_gb=1.5", "recording.archive_days=true"
    ).streams
    camera = replace(stream, source=replace(stream.source, kind=SourceKind.LIVE))
    assert (housekeeping(camera).keep_s, housekeeping(camera).archive_days) == (2 * 86_400, True)
    assert (housekeeping(camera).keep_bytes, housekeeping(stream).keep_bytes) == (1_500_000_000, None)
    assert (housekeeping(stream).keep_s, housekeeping(stream).archive_days) == (None, False)
    (plain,) = planned(video, "recording.archive_days=false").streams
    camera = replace(plain, source=camera.source)
    assert (housekeeping(camera).keep_s, housekeeping(camera).archive_days) == (None, False)


@pytest.mark.parametrize("gpu", [False, True])
def test_actors_claim_what_the_settings_say_and_gpus_only_where_there_are_some(
    video: Path, gpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Here:
        def get_node_id(self) -> str:
            return "ab" * 28

    monkeypatch.setattr(ray, "get_runtime_context", Here)
    needs = {"perception_cpus": 3, "perception_gpus": 0.25, "captioning_cpus": 1.5, "captioning_gpus": 0.75}
    asked: list[dict[str, Any]] = []
    for shell in ("RayPerception", "RayCaptioner"):
        monkeypatch.setattr(ray_driver, shell, lambda cls, **options: asked.append(options))
    session = SimpleNamespace(watch=None, has_gpu=gpu)
    settings = [f"runtime.{key}={value}" for key, value in needs.items()]
    cluster = ray_driver.RayCluster(planned(video, *settings), session)  # type: ignore[arg-type]
    cluster.perception()
    cluster.captioner()
    eyes, words = asked
    assert (eyes["num_cpus"], eyes["num_gpus"]) == (3, 0.25 if gpu else 0)
    assert (words["num_cpus"], words["num_gpus"]) == (1.5, 0.75 if gpu else 0)
