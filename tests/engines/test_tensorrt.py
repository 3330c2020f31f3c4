"""TensorRT plans, built on a machine without a GPU by tensorrt_rtx: whole, fused, and found by every GPU they serve."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engines.backends.interface import EngineBuildError
from engines.backends.tensorrt import PLAN_NAME, ParsedNetwork, TensorRtBackend
from engines.cache import EngineCache
from engines.devices import Device, Precision, probe
from engines.manifest import EngineRejected
from engines.onnx_export import export_onnx
from engines.typed_module import in_precision
from engines.workshop import BuildPolicy, Workshop
from sca.config import VitEncoderConfig
from sca.modeling.image_encoder import VitEncoder
from sca.predictor import Predictor
from sca.stages.fused_vit import FusedVit
from sca.stages.language import language_stages
from sca.stages.spec import Stage, StageInput, StageOutput
from sca.stages.vision import IMAGE_ENCODER, model_stages
from tests.duration import LONG
from tests.engine_fixtures import small_stage

trt = pytest.importorskip("tensorrt_rtx")


def quiet(line: str) -> None:
    """Progress is not looked at here."""


@pytest.fixture(scope="module")
def stages(demo: Predictor) -> dict[str, Stage]:
    return {stage.name: stage for stage in model_stages(demo.model, 64)}


# The decoder's by day; those of the larger stages in the long run, since a plan takes half a minute.
SHIPPED = [("mask-decoder", 6), *([("image-encoder", 0), ("mixer", 8)] if LONG else [])]


@pytest.mark.parametrize(("name", "attentions"), SHIPPED)
def test_a_plan_of_every_shipped_stage_is_built_without_a_gpu(
    name: str, attentions: int, stages: dict[str, Stage], tmp_path: Path
) -> None:
    notes = TensorRtBackend().build(stages[name], Precision.BFLOAT16, probe("cpu"), tmp_path, quiet)
    plan = (tmp_path / PLAN_NAME).read_bytes()
    weights = sum(value.numel() for value in stages[name].module.parameters())
    assert len(plan) > weights, "a bfloat16 plan holds two bytes per weight"
    assert [file.name for file in tmp_path.iterdir()] == [PLAN_NAME]
    fused = f"{attentions} attention operators, all fused" if attentions else "no attention operators"
    assert notes == (fused,)


@pytest.mark.slow
@pytest.mark.parametrize("which", [0, 1], ids=["prefill", "step"])
def test_the_language_model_s_stages_become_plans_too(which: int, tmp_path: Path, demo: Predictor) -> None:
    model = demo.model
    stage = language_stages(model, 64)[which]
    notes = TensorRtBackend().build(stage, Precision.BFLOAT16, probe("cpu"), tmp_path, quiet)
    layers = model.language_model.config.num_hidden_layers
    assert notes == (f"{layers} attention operators, all fused",)


@pytest.mark.skipif(not LONG, reason="half a minute; in the long run")
def test_a_plan_of_vit_b_at_1024_is_built_with_all_attention_fused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = VitEncoder(VitEncoderConfig.named("vit_b"), 1024).eval()
    stage = Stage(
        IMAGE_ENCODER,
        FusedVit(encoder, 1024).eval(),
        (StageInput("pixels", (1, 3, 1024, 1024)),),
        (StageOutput("image_embedding"),),
    )
    stage = Stage(stage.name, _AsTuple(stage.module), stage.inputs, stage.outputs)
    notes = TensorRtBackend().build(stage, Precision.BFLOAT16, probe("cpu"), tmp_path, quiet)
    assert notes == ("12 attention operators, all fused",)
    assert (tmp_path / PLAN_NAME).stat().st_size > 150e6


class _AsTuple(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, pixels: Tensor) -> tuple[Tensor]:
        return (self.module(pixels),)


class _LongHeads(nn.Module):
    """Attention with heads of 1,000 values, for which no kernel exists."""

    def forward(self, queries: Tensor, keys: Tensor) -> tuple[Tensor]:
        return (F.scaled_dot_product_attention(queries, keys, keys),)


def test_the_probe_for_unfused_attention_sees_one(tmp_path: Path) -> None:
    shape = (1, 2, 64, 1000)
    stage = Stage(
        "long-heads",
        _LongHeads().eval(),
        (StageInput("queries", shape), StageInput("keys", shape)),
        (StageOutput("attended"),),
    )
    graph = tmp_path / "graph.onnx"
    export_onnx(in_precision(stage, Precision.BFLOAT16), graph)
    lenient, strict = ParsedNetwork(trt, graph), ParsedNetwork(trt, graph)
    lenient.demand_fused_attention(False)
    lenient.build(stage, probe("cpu"), quiet)
    strict.demand_fused_attention(True)
    with pytest.raises(EngineBuildError, match="long-heads"):
        strict.build(stage, probe("cpu"), quiet)


def test_a_graph_that_is_none_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no graph at all")
    with pytest.raises(EngineBuildError, match="cannot read the graph") as refusal:
        ParsedNetwork(trt, tmp_path / "broken.onnx")
    assert "\n" not in str(refusal.value)


def test_a_stored_plan_is_found_again_and_a_damaged_one_is_not_used(tmp_path: Path) -> None:
    said: list[str] = []
    cache = EngineCache(tmp_path)
    workshop, stage = Workshop(cache, probe("cpu"), said.append), small_stage()

    def build(policy: BuildPolicy) -> Path:
        manifest = workshop.build(stage, "tensorrt", Precision.BFLOAT16, policy=policy)
        assert manifest.verifications == (), "without a GPU nothing was compared, and the side-car says so"
        return cache.folder(manifest.key)

    folder = build(BuildPolicy.IF_NEEDED)
    assert sum("built in" in line for line in said) == 1
    assert json.loads((folder / "manifest.json").read_text())["built_for"] == "sm86+sm89+sm120"
    build(BuildPolicy.NEVER)
    plan = bytearray((folder / PLAN_NAME).read_bytes())
    plan[len(plan) // 2] ^= 0xFF
    (folder / PLAN_NAME).write_bytes(plan)
    with pytest.raises(EngineRejected):
        build(BuildPolicy.NEVER)
    build(BuildPolicy.IF_NEEDED)
    assert sum("built in" in line for line in said) == 2


def test_a_plan_made_here_is_the_one_that_an_rtx_gpu_looks_for() -> None:
    backend = TensorRtBackend()
    here = probe("cpu")

    def gpu(capability: str) -> Device:
        return Device("cuda", "a GPU", capability, True, f"a GPU {capability}")

    for capability in ("sm86", "sm89", "sm120"):
        assert backend.target(gpu(capability)) == backend.target(here)
    assert backend.target(gpu("sm75")) == "sm75"


@pytest.mark.skipif(torch.cuda.is_available(), reason="only where there is no GPU")
def test_without_a_gpu_plans_are_built_but_not_run() -> None:
    backend = TensorRtBackend()
    assert backend.cannot_build(probe("cpu")) is None
    reason = backend.unavailable(probe("cpu"))
    assert reason
    assert "GPU" in reason
