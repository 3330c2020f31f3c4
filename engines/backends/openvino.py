"""OpenVINO on CPU: the fastest of what was measured on x86, from traced module to running engine in seconds."""

from __future__ import annotations

from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engines.backends.interface import Engine, EngineBuildError, Report
from engines.devices import Device, Precision
from engines.onnx_export import export_shapes, quiet_exporters
from engines.openvino_blob import BLOB_NAME, ArrayRunner, core, load_blob, properties
from sca.stages.spec import DynamicAxis, Stage

RECIPE = 3


class OpenVinoBackend:
    """Traced module to a compiled model of the CPU plugin, with an explicit precision hint."""

    name = "openvino"

    def unavailable(self, device: Device) -> str | None:
        if device.kind != "cpu":
            return "OpenVINO is used on CPU only"
        if find_spec("openvino") is None:
            return "package openvino is not installed"
        return None

    def cannot_build(self, device: Device) -> str | None:
        return "package openvino is not installed" if find_spec("openvino") is None else None

    def version(self, device: Device) -> str:
        return f"openvino {metadata.version('openvino')} recipe {RECIPE}"

    def target(self, device: Device) -> str:
        return device.capability

    def build(
        self, stage: Stage, precision: Precision, device: Device, folder: Path, report: Report
    ) -> tuple[str, ...]:
        from openvino.frontend import FrontEndManager
        from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

        report("tracing and converting")
        example, _ = export_shapes(stage, torch.device("cpu"))
        frontend = FrontEndManager().load_by_framework("pytorch")
        try:
            with torch.no_grad(), quiet_exporters():
                # By tracing, because torch.export needs ten times as long for the same graph, and a stage has no branch
                # that a trace could miss. Through the frontend itself, because `openvino.convert_model` reports every
                # call to its maker's telemetry.
                traced = torch.jit.trace(stage.module.eval(), example, check_trace=False)
                decoder = TorchScriptPythonDecoder(
                    traced
                )  # lends the model its weights: alive until it is saved
                model = frontend.convert(frontend.load(decoder))
        except Exception as error:  # tracer and frontend raise their own classes, by version
            raise EngineBuildError(f"OpenVINO cannot convert {stage.name}: {_first_line(error)}") from error
        _name_ports(model, stage)
        report("compiling")
        try:
            # What the plugin made of the graph, not the graph: loading it again takes a fifth of the time.
            compiled = core().compile_model(model, "CPU", properties(precision, torch.get_num_threads()))
            (folder / BLOB_NAME).write_bytes(_as_bytes(compiled.export_model()))
        except RuntimeError as error:
            raise EngineBuildError(f"OpenVINO cannot compile {stage.name}: {_first_line(error)}") from error
        del decoder
        return ()

    def load(self, stage: Stage, precision: Precision, device: Device, folder: Path) -> Engine:
        try:
            return _Runner(load_blob(folder, precision, torch.get_num_threads()))
        except RuntimeError as error:
            raise EngineBuildError(f"OpenVINO cannot load the engine: {_first_line(error)}") from error


def _as_bytes(exported: Any) -> bytes:
    """Releases give either bytes or a stream."""
    return exported if isinstance(exported, bytes) else bytes(exported.getvalue())


class _Runner:
    """Runs a compiled model on torch CPU tensors without copying inputs."""

    def __init__(self, run: ArrayRunner) -> None:
        self._run = run

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(
            torch.from_numpy(one) for one in self._run(*(value.detach().numpy() for value in inputs))
        )


def _name_ports(model: Any, stage: Stage) -> None:
    """Gives inputs and outputs the stage's names and bounds on their dynamic axes."""
    import openvino

    shapes = {}
    for port, spec in zip(model.inputs, stage.inputs, strict=True):
        port.get_tensor().set_names({spec.name})
        shapes[port] = openvino.PartialShape(
            [
                openvino.Dimension(length.minimum, length.maximum)
                if isinstance(length, DynamicAxis)
                else length
                for length in spec.shape
            ]
        )
    for port, output in zip(model.outputs, stage.outputs, strict=True):
        port.get_tensor().add_names({output.name})
    model.reshape(shapes)


def _first_line(error: BaseException) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
