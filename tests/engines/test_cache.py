"""Stored engines: built once, found again, refused with a reason when they are damaged, stale or foreign."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engines.backends import backend_named
from engines.backends.openvino import BLOB_NAME
from engines.cache import EngineCache
from engines.devices import Precision, probe
from engines.manifest import MANIFEST_NAME, EngineRejected
from engines.parity import Probes
from engines.workshop import BuildPolicy, MakeProbes, ReadyEngine, Workshop, digest_code
from sca.predictor import Predictor
from sca.stages.spec import Stage
from sca.stages.vision import mask_decoder_stage
from tests.engine_fixtures import small_stage

ROOT = Path(__file__).resolve().parents[2]


class Bench:
    """A workshop on a folder, with what it reported."""

    def __init__(self, root: Path) -> None:
        self.lines: list[str] = []
        self.cache = EngineCache(root)
        self.workshop = Workshop(self.cache, probe("cpu"), self.lines.append)

    def obtain(
        self, stage: Stage, make_probes: MakeProbes, policy: BuildPolicy = BuildPolicy.IF_NEEDED
    ) -> ReadyEngine:
        return self.workshop.obtain(stage, make_probes, precision="float32", policy=policy)

    def built(self) -> int:
        return sum("built in" in line for line in self.lines)

    def folder(self, stage: Stage) -> Path:
        key = self.workshop.key(stage, backend_named("openvino"), Precision.FLOAT32)
        return self.cache.folder(key)


def probes(stage: Stage) -> Probes:
    return Probes([stage.example(prompts=5)])


@pytest.fixture(scope="module")
def built_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("engines")
    stage = small_stage()
    Bench(root).workshop.obtain(stage, lambda: probes(stage), backend="openvino", precision="float32")
    return root


@pytest.fixture
def bench(built_root: Path, tmp_path: Path) -> Bench:
    """A private copy of a cache that holds one engine."""
    shutil.copytree(built_root, tmp_path / "engines")
    return Bench(tmp_path / "engines")


def no_probes() -> Probes:
    raise AssertionError("an engine that was checked on this machine is not checked again")


def test_a_stored_engine_is_found_and_not_checked_again(bench: Bench) -> None:
    stage = small_stage()
    ready = bench.obtain(stage, no_probes, policy=BuildPolicy.NEVER)
    assert ready.backend == "openvino"
    assert bench.built() == 0
    inputs = stage.example(prompts=7)
    with torch.inference_mode():
        expected = stage.module(*inputs)
    for ours, theirs in zip(expected, ready.engine(*inputs), strict=True):
        torch.testing.assert_close(theirs, ours, atol=1e-4, rtol=1e-4)


def test_the_side_car_tells_what_was_built_and_how_well_it_does(bench: Bench) -> None:
    content = json.loads((bench.folder(small_stage()) / MANIFEST_NAME).read_text())
    assert content["key"]["backend"] == "openvino"
    assert content["build_seconds"] > 0
    assert content["verifications"][0]["report"]["cosine"] > 0.999
    assert content["verifications"][0]["report"]["mask_iou"] > 0.99


def test_an_engine_checked_on_another_machine_is_checked_here(bench: Bench) -> None:
    stage = small_stage()
    path = bench.folder(stage) / MANIFEST_NAME
    path.write_text(path.read_text().replace(probe("cpu").fingerprint, "another machine"))
    bench.obtain(stage, lambda: probes(stage))
    assert bench.built() == 0
    machines = {check["machine"] for check in json.loads(path.read_text())["verifications"]}
    assert machines == {"another machine", probe("cpu").fingerprint}


def damage(folder: Path, kind: str) -> None:
    weights, side_car = folder / BLOB_NAME, folder / MANIFEST_NAME
    match kind:
        case "flipped byte":
            content = bytearray(weights.read_bytes())
            content[len(content) // 2] ^= 1
            weights.write_bytes(content)
        case "cut short":
            weights.write_bytes(weights.read_bytes()[:-10])
        case "file gone":
            weights.unlink()
        case "side-car gone":
            side_car.unlink()
        case "side-car cut":
            side_car.write_text(side_car.read_text()[:100])


@pytest.mark.parametrize("kind", ["flipped byte", "cut short", "file gone", "side-car gone", "side-car cut"])
def test_a_damaged_engine_is_not_loaded_and_the_list_says_why(bench: Bench, kind: str) -> None:
    stage = small_stage()
    damage(bench.folder(stage), kind)
    ready = bench.obtain(stage, no_probes, policy=BuildPolicy.NEVER)
    assert ready.backend == "eager"
    problems = [entry.problem for entry in bench.cache.entries()]
    assert len(problems) == 1
    assert problems[0]


def test_a_damaged_engine_is_explained_and_built_again(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    stage = small_stage()
    damage(bench.folder(stage), "flipped byte")
    ready = bench.obtain(stage, lambda: probes(stage))
    assert ready.backend == "openvino"
    assert bench.built() == 1
    assert "checksum differs" in caplog.text
    assert [entry.problem for entry in bench.cache.entries()] == [None]


def test_an_engine_under_a_wrong_key_is_refused(bench: Bench) -> None:
    ours, foreign = small_stage(), small_stage(seed=1)
    bench.folder(ours).rename(bench.folder(foreign))
    key = bench.workshop.key(foreign, backend_named("openvino"), Precision.FLOAT32)
    with pytest.raises(EngineRejected, match="other weights"):
        bench.cache.find(key)


def test_a_side_car_that_was_edited_is_refused(bench: Bench) -> None:
    stage = small_stage()
    path = bench.folder(stage) / MANIFEST_NAME
    path.write_text(path.read_text().replace('"precision": "float32"', '"precision": "bfloat16"'))
    with pytest.raises(EngineRejected, match="altered"):
        bench.cache.find(bench.workshop.key(stage, backend_named("openvino"), Precision.FLOAT32))


def test_an_engine_that_once_failed_the_gate_stays_refused(bench: Bench) -> None:
    stage = small_stage()
    path = bench.folder(stage) / MANIFEST_NAME
    content = json.loads(path.read_text())
    content["verifications"][0]["report"]["cosine"] = 0.5
    path.write_text(json.dumps(content))
    ready = bench.obtain(stage, no_probes, policy=BuildPolicy.NEVER)
    assert ready.backend == "eager"
    assert any("cosine 0.5" in reason for reason in ready.refused)


def test_an_engine_that_was_slower_than_eager_here_stays_refused(bench: Bench) -> None:
    stage = small_stage()
    path = bench.folder(stage) / MANIFEST_NAME
    content = json.loads(path.read_text())
    content["verifications"][0]["timing"] = {"eager_s": 0.010, "engine_s": 0.020}
    path.write_text(json.dumps(content))
    ready = bench.obtain(stage, no_probes, policy=BuildPolicy.NEVER)
    assert ready.backend == "eager"
    assert any("slower than eager (20.0 ms, eager 10.0 ms)" in reason for reason in ready.refused)


NAMESAKES = """
import sys
from torch import nn
from engines.workshop import digest_code
from one.layers import First
from other.layers import Second
print(digest_code(nn.Sequential(First(), Second())))
"""


def test_source_files_of_one_name_have_one_order_in_every_process(tmp_path: Path) -> None:
    """They once swapped places from run to run, and engines were built again."""
    for folder, name in (("one", "First"), ("other", "Second")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "layers.py").write_text(
            f"from torch import nn\n\nclass {name}(nn.Linear):\n"
            f"    def __init__(self):\n        super().__init__(2, 2)\n"
        )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", NAMESAKES],
            env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}", "PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("0", "1", "2")
    ]
    found = {process.communicate(timeout=300)[0] for process in processes}
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert len(found) == 1
    assert len(found.pop().strip()) == 64


def test_the_shipped_model_has_the_same_key_in_every_process(demo: Predictor) -> None:
    """This process hashes strings in its own random order, the other one in that of a fixed seed."""
    code = """
import sca
from engines.workshop import digest_code
from sca.stages.vision import mask_decoder_stage
print(digest_code(mask_decoder_stage(sca.load("demo").model, 4).module))
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "1"}
    there = subprocess.check_output([sys.executable, "-c", code], env=environment, cwd=ROOT, text=True)
    assert there.strip() == digest_code(mask_decoder_stage(demo.model, 4).module)


@pytest.mark.parametrize("setting", ["eps", "num_heads"])
def test_a_setting_that_no_weight_shows_is_another_engine(demo: Predictor, setting: str) -> None:
    """Pictures brought to another size before the same weights once had the answers of the first one's engine."""
    module = mask_decoder_stage(demo.model, 4).module
    before = digest_code(module)
    part = next(part for part in module.modules() if hasattr(part, setting))
    kept = getattr(part, setting)
    try:
        setattr(part, setting, kept * 2)
        assert digest_code(module) != before
    finally:
        setattr(part, setting, kept)
    assert digest_code(module) == before


def test_new_weights_make_the_old_engine_stale_and_the_flag_refuses_to_build(bench: Bench) -> None:
    stage = small_stage(seed=1)
    ready = bench.obtain(stage, lambda: probes(stage), policy=BuildPolicy.NEVER)
    assert ready.backend == "eager"
    assert any("stale (other weights)" in reason for reason in ready.refused)


def test_more_prompts_make_another_engine(bench: Bench) -> None:
    stage = small_stage(maximum=256)
    ready = bench.obtain(stage, lambda: probes(stage), policy=BuildPolicy.NEVER)
    assert any("stale (other shapes)" in reason for reason in ready.refused)


def test_an_engine_that_computes_something_else_is_refused_and_eager_serves(tmp_path: Path) -> None:
    """The gate sees a wrong engine: here the module changes after its engine was made under the same key."""
    bench, stage = Bench(tmp_path), small_stage()
    bench.workshop.build(stage, "openvino", Precision.FLOAT32, policy=BuildPolicy.IF_NEEDED)
    right_key = bench.workshop.key(stage, backend_named("openvino"), Precision.FLOAT32)
    manifest = bench.cache.find(right_key)
    assert manifest is not None
    with torch.no_grad():
        stage.module.out.weight.neg_()  # type: ignore[union-attr, operator]
    assert bench.workshop.verify(stage, manifest, probes(stage)).failures()
    after = bench.cache.find(right_key)
    assert after is not None
    check = after.verified_on(probe("cpu").fingerprint)
    assert check is not None
    assert not check.report.passed


def test_whatever_a_compiler_raises_the_next_back_end_serves(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no memory left on the device\nat some line")

    monkeypatch.setattr(type(backend_named("openvino")), "load", fail)
    stage = small_stage()
    ready = bench.obtain(stage, lambda: probes(stage))
    assert ready.backend != "openvino"
    assert any("RuntimeError: no memory left on the device" in reason for reason in ready.refused)
    with pytest.raises(ValueError, match="no memory left on the device"):
        bench.workshop.build_and_verify(
            small_stage(maximum=96), lambda: probes(stage), "openvino",
            precision="float32", policy=BuildPolicy.IF_NEEDED,
        )  # fmt: skip


def test_a_named_back_end_goes_down_to_float32_by_itself_but_not_against_a_wish(tmp_path: Path) -> None:
    """As on a processor with bfloat16 where the gate has refused that engine."""
    new = replace(probe("cpu"), native_bf16=True)
    said: list[str] = []
    workshop, stage = Workshop(EngineCache(tmp_path), new, said.append), small_stage()
    low = workshop.build(stage, "openvino", Precision.BFLOAT16, policy=BuildPolicy.IF_NEEDED)
    path = workshop.cache.folder(low.key) / MANIFEST_NAME
    content = json.loads(path.read_text())
    report = {"inputs": 1, "max_error": 1.0, "cosine": 0.5}
    timing = {"eager_s": 1.0, "engine_s": 0.5}
    content["verifications"] = [{"machine": new.fingerprint, "at": "", "report": report, "timing": timing}]
    path.write_text(json.dumps(content))

    def build(precision: str) -> str:
        made = workshop.build_and_verify(
            stage, lambda: probes(stage), "openvino", precision=precision, policy=BuildPolicy.IF_NEEDED
        )
        return made.key.precision

    assert build("auto") == "float32"
    assert any("float32 instead of bfloat16: it differs" in line for line in said)
    with pytest.raises(ValueError, match=r"cosine 0\.5"):
        build("bfloat16")


def test_a_killed_build_leaves_nothing_that_is_taken_for_an_engine(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path)
    left = cache.working_folder()
    (left / BLOB_NAME).write_bytes(b"half")
    assert list(cache.entries()) == []
    assert cache.sweep(now=time.time() + 10) == 0, "a build may still be at work"
    assert cache.sweep(now=time.time() + 7200) == 1
    assert not left.exists()


BUILD_ONE = """
import sys
from pathlib import Path
from engines.cache import EngineCache
from engines.devices import probe
from engines.parity import Probes
from engines.workshop import Workshop
from tests.engine_fixtures import small_stage
workshop = Workshop(EngineCache(Path(sys.argv[1])), probe("cpu"), lambda line: print(line, flush=True))
stage = small_stage()
ready = workshop.obtain(stage, lambda: Probes([stage.example(prompts=5)]), precision="float32")
assert ready.backend == "openvino", ready.refused
"""


def test_two_processes_that_want_the_same_engine_build_and_check_it_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", BUILD_ONE, str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    both = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum("built in" in text for text in said) == 1
    assert sum("comparing" in text for text in said) == 1
    assert len(list(EngineCache(tmp_path).entries())) == 1


def test_a_cache_that_cannot_be_written_says_what_to_set(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(ValueError, match="SCA_ENGINE_CACHE"):
        EngineCache(blocker / "engines")


def test_the_environment_chooses_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCA_ENGINE_CACHE", str(tmp_path / "mine"))
    assert EngineCache().root == tmp_path / "mine"
