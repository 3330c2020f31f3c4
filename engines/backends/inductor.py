"""PyTorch's own compiler, ahead of time: an AOTInductor package that loads without Dynamo, CUDA-graphed on GPUs."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engines.backends.interface import Engine, EngineBuildError, Report
from engines.cuda_graphs import GraphedEngine
from engines.devices import Device, Precision
from engines.onnx_export import export_program, quiet_exporters
from engines.typed_module import in_precision
from sca.stages.spec import Stage

RECIPE = 1


class InductorBackend:
    """torch.export program to an AOTInductor package (`.pt2`): shared library and weights, nothing pickled."""

    name = "inductor"

    def unavailable(self, device: Device) -> str | None:
        return None

    def cannot_build(self, device: Device) -> str | None:
        if shutil.which("g++") is None and shutil.which("clang++") is None:
            return "no C++ compiler (g++) was found"
        return None

    def version(self, device: Device) -> str:
        return f"inductor recipe {RECIPE}"

    def target(self, device: Device) -> str:
        return device.capability

    def build(
        self, stage: Stage, precision: Precision, device: Device, folder: Path, report: Report
    ) -> tuple[str, ...]:
        typed = in_precision(stage, precision)
        on_device = replace(typed, module=typed.module.to(device.torch_device))
        report("exporting")
        program = export_program(on_device, device=device.torch_device)
        report("compiling with Inductor")
        configs: dict[str, Any] = {"max_autotune": device.kind == "cuda"}
        try:
            with quiet_exporters():
                torch._inductor.aoti_compile_and_package(
                    program, package_path=str(folder / "engine.pt2"), inductor_configs=configs
                )
        except Exception as error:
            raise EngineBuildError(
                f"Inductor cannot compile {stage.name}: {str(error).splitlines()[0]}"
            ) from error
        return ()

    def load(self, stage: Stage, precision: Precision, device: Device, folder: Path) -> Engine:
        path = str(folder / "engine.pt2")
        try:
            package = torch._inductor.aoti_load_package(
                path,
                run_single_threaded=device.kind == "cuda",
                device_index=device.index if device.kind == "cuda" else -1,
            )
        except Exception as error:
            raise EngineBuildError(
                f"Inductor cannot load the engine: {str(error).splitlines()[0]}"
            ) from error

        @torch.inference_mode()
        def run(*inputs: Tensor) -> tuple[Tensor, ...]:
            given = package(*inputs)
            return (given,) if isinstance(given, Tensor) else tuple(given)

        return GraphedEngine(run, stage) if device.kind == "cuda" else run
