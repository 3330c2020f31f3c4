"""Torch-TensorRT (dynamo): the second way to a plan, for stages that the ONNX parser refuses."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path

from engines.backends.interface import Engine, EngineBuildError, Report
from engines.backends.tensorrt import PLAN_NAME
from engines.devices import Device, Precision
from engines.onnx_export import export_program
from engines.typed_module import in_precision
from sca.stages.spec import Stage

RECIPE = 1


class TorchTensorRtBackend:
    """torch.export program to a whole-graph plan by `torch_tensorrt.dynamo`; runs like any other plan."""

    name = "torch-tensorrt"

    def unavailable(self, device: Device) -> str | None:
        if device.kind != "cuda":
            return "Torch-TensorRT runs on NVIDIA GPUs only"
        if find_spec("torch_tensorrt") is None:
            return "package torch-tensorrt is not installed"
        try:
            import_module("torch_tensorrt")
            import_module("tensorrt")
        except Exception as error:  # without libnvinfer it raises a bare Exception
            return f"torch-tensorrt cannot be imported ({str(error).splitlines()[0]})"
        return None

    def cannot_build(self, device: Device) -> str | None:
        return self.unavailable(device)

    def version(self, device: Device) -> str:
        return f"torch-tensorrt {metadata.version('torch-tensorrt')} recipe {RECIPE}"

    def target(self, device: Device) -> str:
        return device.capability

    def build(
        self, stage: Stage, precision: Precision, device: Device, folder: Path, report: Report
    ) -> tuple[str, ...]:
        torch_tensorrt = import_module("torch_tensorrt")
        typed = in_precision(stage, precision)
        on_device = replace(typed, module=typed.module.to(device.torch_device))
        report("exporting")
        program = export_program(on_device, device=device.torch_device)
        axes = stage.axes().values()
        shapes = [
            stage.shapes(**{axis.name: getattr(axis, which) for axis in axes})
            for which in ("minimum", "typical", "maximum")
        ]
        inputs = [
            torch_tensorrt.Input(
                min_shape=smallest, opt_shape=typical, max_shape=largest, dtype=spec.dtype, name=spec.name
            )
            for spec, smallest, typical, largest in zip(stage.inputs, *shapes, strict=True)
        ]
        report("building the plan with Torch-TensorRT")
        try:
            plan = torch_tensorrt.dynamo.convert_exported_program_to_serialized_trt_engine(
                program,
                arg_inputs=inputs,
                # By default it takes every square attention with a bias for a causal one, which drops SAM's relative
                # positions without a word.
                attn_bias_is_causal=False,
                disable_tf32=True,
                input_binding_names=[spec.name for spec in stage.inputs],
                output_binding_names=[output.name for output in stage.outputs],
            )
        except Exception as error:
            raise EngineBuildError(
                f"Torch-TensorRT cannot build {stage.name}: {str(error).splitlines()[0]}"
            ) from error
        (folder / PLAN_NAME).write_bytes(bytes(plan))
        return ()

    def load(self, stage: Stage, precision: Precision, device: Device, folder: Path) -> Engine:
        from engines.backends.tensorrt import load_plan

        return load_plan(import_module("tensorrt"), (folder / PLAN_NAME).read_bytes(), stage)
