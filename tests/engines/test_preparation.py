"""Engines are built before a run's workers start: once, in sight; and a run goes on where they cannot be built."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from engines.preparation import EngineRequest, PreparationFailed, Prepared, find_prepared, prepare
from pipeline.commands.run_steps import engines_for, with_engines
from pipeline.runtime.plan import RunPlan, plan_run
from pipeline.settings.config import load_config
from tests.hostile_folder import LIBRARIES, OURS, fill_hostile, imported_from
from tests.videos import write_video


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path) -> Path:
    return tiny_checkpoint


@pytest.fixture(scope="module")
def prepared_root(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache in which the model's engines were prepared by the process that `sca run` starts, in a hostile folder."""
    root = tmp_path_factory.mktemp("prepared")
    beside = tmp_path_factory.mktemp("videos")
    fill_hostile(beside, *OURS, *LIBRARIES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCA_ENGINE_CACHE", str(root))
        patch.chdir(beside)
        request = EngineRequest(str(model), "cpu")
        assert find_prepared(request) is None
        said: list[str] = []
        made = prepare(request, said.append)
        assert said[0] == "starting"
        assert any("comparing" in line for line in said)
        assert find_prepared(request) == made
    assert imported_from(beside) == []
    return root


@pytest.fixture
def cache(prepared_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A private copy of that cache, which the program uses."""
    root = tmp_path / "engines"
    shutil.copytree(prepared_root, root)
    monkeypatch.setenv("SCA_ENGINE_CACHE", str(root))
    return root


def plan(model: Path, folder: Path, *settings: str) -> RunPlan:
    video = write_video(folder / "clip.mp4", frames=10)
    return plan_run(
        [str(video)],
        load_config("default", [f"model={model}", "runtime.device=cpu", *settings]),
        store=folder / "run.zarr",
    )


def no_progress(line: str) -> None:
    raise AssertionError(f"there is nothing to do, but it said {line}")


@pytest.mark.usefixtures("cache")
def test_a_prepared_run_builds_nothing_and_notes_what_computes_each_stage(
    model: Path, tmp_path: Path
) -> None:
    ready = with_engines(plan(model, tmp_path), no_progress)
    (stream,) = ready.streams
    for stage in ("image-encoder", "mask-decoder", "mixer", "language-prefill", "language-step"):
        assert f"{stage}: " in stream.info.engines


def test_an_engine_that_was_removed_is_missed(model: Path, cache: Path) -> None:
    request = EngineRequest(str(model), "cpu")
    found = find_prepared(request)
    assert found is not None
    shutil.rmtree(cache / found.folders[0])
    assert find_prepared(request) is None


@pytest.mark.usefixtures("cache")
def test_another_model_file_or_back_end_is_another_request(model: Path, tmp_path: Path) -> None:
    other = tmp_path / "model"
    shutil.copytree(model, other)
    (other / "config.json").touch()
    assert find_prepared(EngineRequest(str(other), "cpu")) is None
    assert find_prepared(EngineRequest(str(model), "cpu", "onnxruntime")) is None


@pytest.mark.usefixtures("cache")
def test_where_building_fails_the_run_computes_eagerly_and_the_stream_says_why(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures: list[PreparationFailed] = []

    def watched(request: EngineRequest, report: Callable[[str], None]) -> Prepared:
        try:
            return prepare(request, report)
        except PreparationFailed as failure:
            failures.append(failure)
            raise

    monkeypatch.setattr("pipeline.commands.run_steps.prepare", watched)
    broken = tmp_path / "model"
    shutil.copytree(model, broken)
    wanted = plan(broken, tmp_path)
    (broken / "model.safetensors").write_bytes(b"nothing")
    screen = StringIO()
    ready = engines_for(wanted, Console(file=screen, width=1000))
    said = screen.getvalue().splitlines()
    assert len(failures) == 1
    assert ready.config.runtime.engine == "eager"
    assert "eager" in ready.streams[0].info.engines
    assert "not built" in said[-2]
    assert "model.safetensors" in said[-2]
    assert "the next start tries again" in said[-1]


def test_who_asks_for_eager_gets_it_without_a_word(model: Path, tmp_path: Path) -> None:
    ready = with_engines(plan(model, tmp_path, "runtime.engine=eager"), no_progress)
    assert ready.streams[0].info.engines == "all model stages: eager"


def test_a_wrong_engine_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="openvino"):
        load_config("default", ["runtime.engine=openvina"])
