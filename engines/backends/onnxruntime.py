"""ONNX Runtime on CPU or CUDA: the second opinion on every exported graph, and a fallback that installs anywhere."""

from __future__ import annotations

from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from engines.backends.interface import Engine, EngineBuildError, Report
from engines.devices import Device, Precision
from engines.onnx_export import OPSET, export_onnx
from engines.typed_module import in_precision
from sca.stages.spec import Stage

RECIPE = 1
_NUMPY = {torch.float32: np.float32, torch.int64: np.int64, torch.int32: np.int32, torch.bool: np.bool_}


class OnnxRuntimeBackend:
    """torch.export to ONNX, run by ONNX Runtime; on CUDA inputs and outputs are bound where they lie."""

    name = "onnxruntime"

    def unavailable(self, device: Device) -> str | None:
        if find_spec("onnxruntime") is None:
            return "package onnxruntime is not installed"
        if device.kind == "cuda":
            import onnxruntime

            if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
                return "this build of onnxruntime has no CUDA provider (package onnxruntime-gpu has)"
        return None

    def cannot_build(self, device: Device) -> str | None:
        return None

    def version(self, device: Device) -> str:
        names = {distribution.metadata["Name"] for distribution in metadata.distributions()}
        package = "onnxruntime-gpu" if "onnxruntime-gpu" in names else "onnxruntime"
        return f"{package} {metadata.version(package)} opset {OPSET} recipe {RECIPE}"

    def target(self, device: Device) -> str:
        return device.capability

    def build(
        self, stage: Stage, precision: Precision, device: Device, folder: Path, report: Report
    ) -> tuple[str, ...]:
        report("exporting to ONNX")
        export_onnx(in_precision(stage, precision), folder / "engine.onnx")
        return ()

    def load(self, stage: Stage, precision: Precision, device: Device, folder: Path) -> Engine:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        on_gpu = [("CUDAExecutionProvider", {"device_id": device.index})]
        providers = on_gpu if device.kind == "cuda" else ["CPUExecutionProvider"]
        try:
            session = onnxruntime.InferenceSession(folder / "engine.onnx", options, providers=providers)
        except Exception as error:  # its exceptions share no base class but Exception
            raise EngineBuildError(
                f"ONNX Runtime cannot load the engine: {str(error).splitlines()[0]}"
            ) from error
        names = [spec.name for spec in stage.inputs]

        def run_on_cpu(*inputs: Tensor) -> tuple[Tensor, ...]:
            feed = {
                name: value.detach().contiguous().numpy() for name, value in zip(names, inputs, strict=True)
            }
            return tuple(torch.from_numpy(value) for value in session.run(None, feed))

        def run_on_cuda(*inputs: Tensor) -> tuple[Tensor, ...]:
            binding = session.io_binding()
            held = [value.detach().contiguous() for value in inputs]
            for name, value in zip(names, held, strict=True):
                binding.bind_input(
                    name, "cuda", device.index, _NUMPY[value.dtype], tuple(value.shape), value.data_ptr()
                )
            for output in stage.outputs:
                binding.bind_output(output.name, "cuda", device.index)
            torch.cuda.current_stream(device.torch_device).synchronize()
            session.run_with_iobinding(binding)
            return tuple(torch.from_dlpack(value) for value in binding.get_outputs())

        return run_on_cuda if device.kind == "cuda" else run_on_cpu
