"""What every engine back end keeps, as a pytest class to subclass: see `engines.backends.interface.Backend`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engines.backends.interface import Backend, Engine, EngineBuildError
from engines.devices import Device, Precision, probe
from sca.stages.spec import DynamicAxis, OutputKind, Stage, StageInput, StageOutput


class _SmallDecoder(nn.Module):
    """Tokens of P prompts attend to one shared image."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.query = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, image: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        keys = image.flatten(2).transpose(1, 2).unsqueeze(1).expand(tokens.shape[0], -1, -1, -1)
        attended = F.scaled_dot_product_attention(self.query(tokens).unsqueeze(1), keys, keys)
        tokens = self.norm(tokens + attended.squeeze(1))
        return torch.einsum("ptc,chw->pthw", tokens, image[0]), tokens


def small_stage() -> Stage:
    """A stage with what makes export hard: attention, a norm, a dynamic axis and a shared input."""
    torch.manual_seed(0)
    return Stage(
        "small-decoder",
        _SmallDecoder().eval(),
        (
            StageInput("image", (1, 32, 8, 8)),
            StageInput("tokens", (DynamicAxis("prompts", 1, 4, 16), 3, 32)),
        ),
        (StageOutput("mask_logits", OutputKind.MASK_LOGITS), StageOutput("updated_tokens")),
    )


class BackendTests:
    """Subclass it and say `backend`. Skipped, with the reason, where it cannot run on this machine."""

    device = "cpu"

    def backend(self) -> Backend:
        """The back end."""
        raise NotImplementedError

    @pytest.fixture(scope="class")
    def target(self) -> Device:
        return probe(self.device)

    @pytest.fixture
    def engine(self, target: Device, tmp_path: Path) -> Engine:
        backend = self.backend()
        for reason in (backend.unavailable(target), backend.cannot_build(target)):
            if reason is not None:
                pytest.skip(reason)
        backend.build(small_stage(), Precision.FLOAT32, target, tmp_path, lambda line: None)
        return backend.load(small_stage(), Precision.FLOAT32, target, tmp_path)

    def test_it_says_what_it_is(self, target: Device) -> None:
        backend = self.backend()
        assert backend.name
        reasons = (backend.unavailable(target), backend.cannot_build(target))
        assert all(reason is None or reason.strip() for reason in reasons)
        if reasons == (None, None):
            assert backend.version(target) == backend.version(target) != ""
            assert backend.target(target)

    def test_an_engine_computes_what_the_module_does(self, engine: Engine, target: Device) -> None:
        stage = small_stage()
        module = stage.module.to(target.torch_device)
        for prompts in (1, 4, 16):
            inputs = stage.example(seed=prompts, device=target.torch_device, prompts=prompts)
            with torch.inference_mode():
                wanted = module(*inputs)
            given = engine(*inputs)
            assert isinstance(given, tuple)
            assert len(given) == len(stage.outputs)
            for ours, theirs in zip(given, wanted, strict=True):
                assert ours.dtype == torch.float32
                assert ours.device == theirs.device
                torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-3)

    def test_inputs_stay_as_they_are(self, engine: Engine, target: Device) -> None:
        inputs = small_stage().example(seed=3, device=target.torch_device)
        before = [value.clone() for value in inputs]
        engine(*inputs)
        assert all(torch.equal(value, kept) for value, kept in zip(inputs, before, strict=True))

    def test_results_outlive_the_next_call(self, engine: Engine, target: Device) -> None:
        stage = small_stage()
        first = engine(*stage.example(seed=1, device=target.torch_device))
        kept = [value.clone() for value in first]
        engine(*stage.example(seed=2, device=target.torch_device))
        assert all(torch.equal(value, copy) for value, copy in zip(first, kept, strict=True))

    def test_files_of_something_else_are_refused(self, target: Device, tmp_path: Path) -> None:
        backend = self.backend()
        if backend.unavailable(target) is not None or backend.cannot_build(target) is not None:
            pytest.skip("it cannot be used here")
        backend.build(small_stage(), Precision.FLOAT32, target, tmp_path, lambda line: None)
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        if not files:
            pytest.skip("it needs no files")
        for path in files:
            path.write_bytes(b"not an engine")
        with pytest.raises(EngineBuildError):
            backend.load(small_stage(), Precision.FLOAT32, target, tmp_path)
