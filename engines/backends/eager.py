"""No compiler: the module itself. Always there, and what everything else is compared with."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from engines.backends.interface import Engine, Report
from engines.devices import Device, Precision
from engines.typed_module import in_precision
from sca.stages.spec import Stage


class EagerBackend:
    """Runs the module under `torch.inference_mode`."""

    name = "eager"

    def unavailable(self, device: Device) -> str | None:
        return None

    def cannot_build(self, device: Device) -> str | None:
        return None

    def version(self, device: Device) -> str:
        return "torch"

    def target(self, device: Device) -> str:
        return device.capability

    def build(
        self, stage: Stage, precision: Precision, device: Device, folder: Path, report: Report
    ) -> tuple[str, ...]:
        return ()

    def load(self, stage: Stage, precision: Precision, device: Device, folder: Path) -> Engine:
        module = in_precision(stage, precision).module.to(device.torch_device).eval()

        @torch.inference_mode()
        def run(*inputs: Tensor) -> tuple[Tensor, ...]:
            return tuple(module(*inputs))

        return run
