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
from engines.openvino_blob import BLOB_NAME, Runner, core, load_blob, properties, section_name
from sca.stages.spec import DynamicAxis, Stage, StageInput, StageOutput

RECIPE = 4


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
        report("tracing and converting")
        # Sections in one precision are one graph; the plugin computes a graph in one precision.
        if precision is Precision.FLOAT32 or not stage.sections:
            (folder / BLOB_NAME).write_bytes(_compiled(stage, precision, report))
            return ()
        parts = _sections(stage, precision)
        for place, (part, kind) in enumerate(parts):
            (folder / section_name(place, kind)).write_bytes(_compiled(part, kind, report))
        return (f"sections in {', '.join(kind for _, kind in parts)}",)

    def load(self, stage: Stage, precision: Precision, device: Device, folder: Path) -> Engine:
        try:
            return _Runner(load_blob(folder, precision, torch.get_num_threads()))
        except RuntimeError as error:
            raise EngineBuildError(f"OpenVINO cannot load the engine: {_first_line(error)}") from error


def _compiled(stage: Stage, precision: Precision, report: Report) -> bytes:
    """What the plugin makes of a stage. EngineBuildError if it cannot."""
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    example, _ = export_shapes(stage, torch.device("cpu"))
    frontend = FrontEndManager().load_by_framework("pytorch")
    try:
        with torch.no_grad(), quiet_exporters():
            # By tracing, because torch.export needs ten times as long for the same graph, and a stage has no branch
            # that a trace could miss. Through the frontend itself, because `openvino.convert_model` reports every
            # call to its maker's telemetry.
            traced = torch.jit.trace(stage.module.eval(), example, check_trace=False)
            decoder = TorchScriptPythonDecoder(traced)  # lends the model its weights: alive until it is saved
            model = frontend.convert(frontend.load(decoder))
    except Exception as error:  # tracer and frontend raise their own classes, by version
        raise EngineBuildError(f"OpenVINO cannot convert {stage.name}: {_first_line(error)}") from error
    _name_ports(model, stage)
    report(f"compiling in {precision}")
    try:
        # What the plugin made of the graph, not the graph: loading it again takes a fifth of the time.
        compiled = core().compile_model(model, "CPU", properties(precision, torch.get_num_threads()))
        content = _as_bytes(compiled.export_model())
    except RuntimeError as error:
        raise EngineBuildError(f"OpenVINO cannot compile {stage.name}: {_first_line(error)}") from error
    del decoder
    return content


@torch.no_grad()
def _sections(stage: Stage, precision: Precision) -> list[tuple[Stage, Precision]]:
    """The sections of a stage as stages, each with what it is computed in."""
    parts: list[tuple[Stage, Precision]] = []
    first = stage.inputs[0].shape[0]
    inputs, values = stage.inputs, stage.example()
    for place, section in enumerate(stage.sections):
        values = section.module.eval()(*values)
        last = place == len(stage.sections) - 1
        outputs = (
            stage.outputs
            if last
            else tuple(StageOutput(f"section_{place}_{row}") for row in range(len(values)))
        )
        part = Stage(stage.name, section.module, inputs, outputs)
        parts.append((part, Precision.FLOAT32 if section.delicate else precision))
        inputs = tuple(
            StageInput(f"section_{place}_{row}", (first, *value.shape[1:]))
            for row, value in enumerate(values)
        )
    return parts


def _as_bytes(exported: Any) -> bytes:
    """Releases give either bytes or a stream."""
    return exported if isinstance(exported, bytes) else bytes(exported.getvalue())


class _Runner:
    """Runs a compiled model on torch CPU tensors without copying inputs."""

    def __init__(self, run: Runner) -> None:
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
