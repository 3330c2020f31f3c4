"""A deliberate bug: in a stage it restarts that stage and leaves a traceback in the log, in a command it ends it with 1."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from pipeline.cli import main
from pipeline.core.errors import StageFailed
from pipeline.core.frame import Frame
from pipeline.core.regions import AnalysedKeyframe, CaptionRequest, RegionCaption
from pipeline.runtime.driver.messages import StepReport
from pipeline.runtime.inline import run_inline
from pipeline.runtime.on_ray import actors as ray_actors
from pipeline.runtime.on_ray.actors import CaptionerActor, PerceptionActor, RecorderActor, SourceActor
from pipeline.runtime.on_ray.driver import run_on_ray
from pipeline.runtime.plan import plan_run
from pipeline.runtime.progress import RunObserver, StopRequest
from pipeline.runtime.stream_analysis import StreamAnalysis
from pipeline.settings.config import load_config
from pipeline.store import CaptionStore
from tests.tiny_checkpoint import LENIENT
from tests.videos import write_video

SETTINGS = (
    *LENIENT,
    "keyframes.interval_s=0.2",
    "keyframes.change=0",
    "recording.commit_s=0.1",
    "restarts.first_delay_s=0.1",
)


def stumble(folder: str, where: str, after: int) -> None:
    """Raise numpy's own error at the call after so many others, and never again, in whatever process that is."""
    calls = Path(folder) / f"{where}-calls"
    done = len(calls.read_bytes()) if calls.exists() else 0
    with calls.open("ab") as file:
        file.write(b".")
    if done == after:
        np.zeros((2, 3)) @ np.zeros((2, 3))


class BuggySource(SourceActor):
    folder = ""

    def step(self, wait_s: float, interval_factor: float) -> tuple[StepReport, Frame | None]:
        stumble(self.folder, "source", 4)
        return super().step(wait_s, interval_factor)


class BuggyPerception(PerceptionActor):
    folder = ""

    def _analysis(self, stream: str, attempt: int) -> StreamAnalysis:
        stumble(self.folder, "perception", 12)
        return super()._analysis(stream, attempt)


class BuggyCaptioner(CaptionerActor):
    folder = ""

    def caption(self, requests: tuple[CaptionRequest, ...]) -> list[RegionCaption | None]:
        stumble(self.folder, "captioner", 1)
        return super().caption(requests)


class BuggyRecorder(RecorderActor):
    folder = ""

    def record(self, stream: str, attempt: int, *record: Any) -> Any:
        stumble(self.folder, "recorder", 20)
        return super().record(stream, attempt, *record)


def test_a_bug_in_any_stage_restarts_its_stream_and_leaves_a_traceback_in_the_log(
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    shared_ray: None,
) -> None:
    clip = write_video(tmp_path / "clip.mp4", frames=300, width=96, height=64)
    store = tmp_path / "s.zarr"
    config = load_config("default", SETTINGS, changes={"model": str(tiny_checkpoint)})
    # By value: the workers of Ray do not import the tests.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    for name, buggy in (
        ("SourceActor", BuggySource),
        ("PerceptionActor", BuggyPerception),
        ("CaptionerActor", BuggyCaptioner),
        ("RecorderActor", BuggyRecorder),
    ):
        monkeypatch.setattr(ray_actors, name, type(name, (buggy,), {"folder": str(tmp_path)}))
    try:
        (progress,) = run_on_ray(plan_run([str(clip)], config, store=store), RunObserver(), StopRequest())
    finally:
        ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    assert progress.finished
    assert progress.restarts == 4
    check_whole(store, 300)
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    traces = [record.getMessage() for record in errors if record.name.startswith("pipeline.")]
    assert len(traces) == 4
    assert all("ValueError: matmul" in trace for trace in traces)
    assert all("np.zeros((2, 3)) @ np.zeros((2, 3))" in trace for trace in traces)


def check_whole(store: Path, frames: int) -> None:
    """Every keyframe of the clip is there, and none twice."""
    with CaptionStore.open(store) as opened:
        table = opened.observations().to_pandas()
        assert opened.coverage() == pytest.approx(1.0)
        assert opened.resume("clip").frame == frames - 1
    rows = list(zip(table["frame"], table["track"], strict=True))
    assert len(set(rows)) == len(rows)


def break_analysis(monkeypatch: pytest.MonkeyPatch, folder: Path, *, always: bool) -> None:
    analyse = StreamAnalysis.keyframe

    def keyframe(self: StreamAnalysis, frame: Frame, **options: Any) -> tuple[AnalysedKeyframe, Any]:
        if always:
            np.zeros((2, 3)) @ np.zeros((2, 3))
        stumble(str(folder), "analysis", 6)
        return analyse(self, frame, **options)

    monkeypatch.setattr(StreamAnalysis, "keyframe", keyframe)


def test_inline_too_a_bug_restarts_the_stream_and_leaves_a_traceback(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clip = write_video(tmp_path / "clip.mp4", frames=100, width=96, height=64)
    store = tmp_path / "s.zarr"
    config = load_config("default", SETTINGS, changes={"model": str(tiny_checkpoint)})
    break_analysis(monkeypatch, tmp_path, always=False)
    (progress,) = run_inline(plan_run([str(clip)], config, store=store), RunObserver(), StopRequest())
    assert progress.finished
    assert progress.restarts == 1
    check_whole(store, 100)
    (trace,) = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert "Traceback (most recent call last)" in trace
    assert "ValueError: matmul" in trace


def test_a_bug_that_stays_ends_the_run_when_its_policy_is_used_up(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clip = write_video(tmp_path / "clip.mp4", frames=20, width=96, height=64)
    settings = (*SETTINGS, "restarts.max_restarts=2")
    config = load_config("default", settings, changes={"model": str(tiny_checkpoint)})
    break_analysis(monkeypatch, tmp_path, always=True)
    with pytest.raises(
        StageFailed, match=r"clip failed: ValueError: matmul.* after 2 restarts; run the same"
    ):
        run_inline(plan_run([str(clip)], config, store=tmp_path / "s.zarr"), RunObserver(), StopRequest())
    assert sum("Traceback" in record.getMessage() for record in caplog.records) == 3


def call(arguments: list[str], directory: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.chdir(directory)
    monkeypatch.setattr(sys, "argv", ["sca", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_a_run_that_ends_by_a_bug_shows_its_traceback_and_exits_with_1(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_video(tmp_path / "clip.mp4", frames=20, width=96, height=64)
    break_analysis(monkeypatch, tmp_path, always=True)
    chosen = [part for setting in (*SETTINGS, "restarts.policy=never") for part in ("--set", setting)]
    arguments = ["run", "clip.mp4", "--model", str(tiny_checkpoint), "--runtime", "inline", *chosen]
    assert call(arguments, tmp_path, monkeypatch) == 1
    shown = capsys.readouterr()
    assert "np.zeros((2, 3)) @ np.zeros((2, 3))" in shown.out + shown.err
    assert shown.err.strip().splitlines()[-1].startswith("sca: clip failed: ValueError: matmul")


def test_a_bug_in_a_command_prints_its_traceback_and_exits_with_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    CaptionStore.create(tmp_path / "s.zarr")

    def broken(*arguments: object, **options: object) -> None:
        np.zeros((2, 3)) @ np.zeros((2, 3))

    monkeypatch.setattr(CaptionStore, "open", broken)
    assert call(["query", "s.zarr"], tmp_path, monkeypatch) == 1
    shown = capsys.readouterr().err
    assert "Traceback (most recent call last)" in shown
    assert "ValueError: matmul" in shown
    assert "please report it" in shown
