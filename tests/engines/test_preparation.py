"""Engines are built before a run's workers start: once, in sight; and a run goes on where they cannot be built."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from engines.preparation import EngineRequest, PreparationFailed, Prepared, find_prepared, prepare
from pipeline.commands.run_steps import engines_for, with_engines
from pipeline.core.records import Batch, CaptionEvent
from pipeline.perception.candidates import on_host
from pipeline.perception.sightings import association_features
from pipeline.runtime.plan import RunPlan, plan_run
from pipeline.settings.config import load_config
from pipeline.store import CaptionStore
from sca.predictor import Predictor
from tests.duration import LONG
from tests.hostile_folder import LIBRARIES, OURS, fill_hostile, imported_from
from tests.store_samples import BY_HAND, INFO, T0, S
from tests.tiny_checkpoint import LENIENT
from tests.videos import picture, write_video


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


# No process of a run with engines imports torch and what comes with it.

HEAVY = ("torch", "torchvision", "transformers", "timm", "segment_anything")
SPY = """
import os, sys
def say(what):
    with open({log!r}, "a") as log:
        log.write(f"{{os.getpid()}} {{what}}\\n")
def spy(event, args):
    if event == "import" and args[0] in {heavy!r}:
        say(args[0])
sys.addaudithook(spy)
say("begun")
"""


def imported(folder: Path, command: list[str]) -> dict[str, list[str]]:
    """What every Python process of a command has imported of the heavy libraries, by process."""
    log = folder / "imports.log"
    (folder / "sitecustomize.py").write_text(SPY.format(heavy=HEAVY, log=str(log)))
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": path}, timeout=900)
    found: dict[str, list[str]] = {}
    for line in log.read_text().splitlines():
        process, what = line.split()
        found.setdefault(process, []).append(what)
    return found


STAGES = """
import sys
from pathlib import Path
from pipeline.runtime.on_ray.actors import CaptionerActor, PerceptionActor, RecorderActor, SourceActor
from pipeline.runtime.plan import plan_run
from pipeline.settings.config import load_config
from pipeline.store import CaptionStore
from sca.child_processes import leave_working_directory
clip, store, *settings = sys.argv[1:]
config = load_config("default", settings)
plan = plan_run([clip], config, store=Path(store))
source, eyes, words, recorder = SourceActor(), PerceptionActor(), CaptionerActor(), RecorderActor()
recorder.open(plan.store)
resume = recorder.open_stream(plan.streams[0], 0)
source.open(plan.streams[0], resume)
eyes.load(config)
words.load(config)
stream = plan.streams[0]
eyes.open_stream(stream.stream, stream.config, 0, resume.next_track)
from pipeline.runtime.driver.messages import Work
for number in range(2):
    report, frame = source.step(60.0, 1.0)
    (told,), analysed, requests = eyes.analyse((Work(plan.streams[0].stream, 0, 1.0, 1.0),), frame)
    assert told.fault is None, told
    recorder.record(plan.streams[0].stream, 0, number, (), analysed, words.caption(requests))
"""


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(
    "what", ["stages", "inline", pytest.param("ray", marks=pytest.mark.skipif(not LONG, reason="long"))]
)
def test_no_process_of_a_run_imports_torch(what: str, model: Path, tmp_path: Path) -> None:
    made = find_prepared(EngineRequest(str(model), "cpu"))
    assert made is not None
    if not made.essentials:
        pytest.skip(f"this machine computes otherwise than by OpenVINO alone: {made.origin}")
    clip = write_video(tmp_path / "clip.mp4", frames=30)
    settings = [f"model={model}", "runtime.device=cpu", *(one for one in LENIENT if "engine" not in one)]
    if what == "stages":
        command = [sys.executable, "-c", STAGES, str(clip), str(tmp_path / "run.zarr"), *settings]
    else:
        given = [part for one in settings for part in ("--set", one)]
        command = [
            sys.executable,
            "-m",
            "pipeline.cli",
            "run",
            str(clip),
            "--store",
            str(tmp_path / "run.zarr"),
            "-q",
        ]
        command += ["--runtime", what, *given]
    found = imported(tmp_path, command)
    assert len(found) >= {"stages": 1, "inline": 1, "ray": 5}[what]
    assert {process: names for process, names in found.items() if names != ["begun"]} == {}
    if what != "stages":
        assert CaptionStore.open(tmp_path / "run.zarr").observations().num_rows > 0


LIKE = f"""
import re, sys
from pathlib import Path
from pipeline.cli import main
sys.argv = ["sca", *sys.argv[1:]]
try:
    main()
finally:
    high = re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())
    print("MiB", int(high[1]) // 1024, *(set({HEAVY}) & set(sys.modules)), file=sys.stderr)
"""


@pytest.mark.usefixtures("cache")
@pytest.mark.promise("like-bounded")
def test_a_picture_is_looked_for_by_the_engines_of_the_run_without_torch(
    model: Path, tiny_predictor: Predictor, tmp_path: Path
) -> None:
    made = find_prepared(EngineRequest(str(model), "cpu"))
    assert made is not None
    if not made.essentials:
        pytest.skip(f"this machine computes otherwise than by OpenVINO alone: {made.origin}")
    pixels, store = picture(5, 160, 96), CaptionStore.create(tmp_path / "a.zarr")
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    boxes = np.array([[10.0, 10, 90, 80], [100, 5, 155, 60]])
    (encoding,) = tiny_predictor.encode_batch([pixels])
    tokens = tiny_predictor.region_features(encoding, tiny_predictor.segment(encoding, boxes=boxes), boxes)
    events = [
        CaptionEvent(track, T0, T0 + S, 0, 0, 0, (0, 0, 9, 9), f"thing {track}", 0.5, -1.0, vector)
        for track, vector in enumerate(association_features(on_host(tokens)))
    ]
    with store.writer("cam", replace(INFO, model=str(model)), compaction=BY_HAND) as writer:
        writer.commit(Batch(captions=tuple(events)))
    typed = (
        "--like",
        f"{tmp_path}/photo.png:10,10,90,80",
        "--min-similarity",
        "0.999",
        "--model",
        str(model),
    )
    done = subprocess.run(
        [sys.executable, "-c", LIKE, "query", str(store.path), *typed, "--format", "csv"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert [line.split(",")[6] for line in done.stdout.splitlines()[1:]] == ["thing 0"]
    mib, *heavy = done.stderr.rsplit("MiB ", 1)[1].split()
    assert heavy == []
    assert int(mib) < 1024
