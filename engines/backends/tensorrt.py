"""TensorRT: torch.export -> ONNX -> OnnxParser -> serialized plan, the same code for `tensorrt` and `tensorrt_rtx`.

Both are strongly typed: precision lies in the graph (see `engines.typed_module`), no builder flag changes it.
`tensorrt` (data-centre GPUs) builds on the GPU that will run the plan. `tensorrt_rtx` (GeForce and RTX) also builds on a
machine without any GPU, for the architectures in `RTX_TARGETS`.
"""

from __future__ import annotations

import threading
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from engines.backends.interface import Engine, EngineBuildError, Report
from engines.cuda_graphs import GraphedEngine
from engines.devices import Device, Precision
from engines.onnx_export import OPSET, export_onnx
from engines.typed_module import in_precision
from sca.errors import UserError
from sca.stages.spec import Stage

RECIPE = 1
RTX_TARGETS = ("SM86", "SM89", "SM120")
"""Compute capabilities that one plan of `tensorrt_rtx` serves: RTX 30, 40 and 50 series."""
_RTX_CAPABILITIES = frozenset({"sm75", "sm80", "sm86", "sm89", "sm120", "sm121"})
PLAN_NAME = "engine.plan"


class TensorRtBackend:
    """Builds and runs serialized TensorRT plans."""

    name = "tensorrt"

    def unavailable(self, device: Device) -> str | None:
        if device.kind != "cuda":
            return "TensorRT plans run on NVIDIA GPUs only"
        flavour = flavour_for(device)
        if flavour is None:
            return "neither package tensorrt nor tensorrt_rtx can be imported"
        if flavour == "tensorrt_rtx" and device.capability not in _RTX_CAPABILITIES:
            return f"tensorrt_rtx does not support {device.capability}, and package tensorrt is not installed"
        return None

    def cannot_build(self, device: Device) -> str | None:
        if flavour_for(device) is None:
            return (
                "TensorRT is not installed: `pip install tensorrt_rtx` builds plans for RTX GPUs on any machine, "
                "`pip install tensorrt` those for the data-centre GPU in this machine"
            )
        return None

    def version(self, device: Device) -> str:
        flavour = flavour_for(device)
        return (
            f"{flavour} {metadata.version(flavour)} opset {OPSET} recipe {RECIPE}"
            if flavour
            else "tensorrt absent"
        )

    def target(self, device: Device) -> str:
        if flavour_for(device) == "tensorrt_rtx" and not _needs_own_plan(device):
            return "+".join(name.lower() for name in RTX_TARGETS)
        return device.capability

    def build(
        self, stage: Stage, precision: Precision, device: Device, folder: Path, report: Report
    ) -> tuple[str, ...]:
        flavour = flavour_for(device)
        assert flavour is not None, "cannot_build was not asked"
        trt = import_module(flavour)
        graph = folder / "engine.onnx"
        report(f"exporting to ONNX opset {OPSET} in {precision}")
        export_onnx(in_precision(stage, precision), graph)
        report(f"building the plan with {flavour} {trt.__version__} for {self.target(device)}")
        plan, note = self._plan(trt, graph, stage, precision, device, report)
        (folder / PLAN_NAME).write_bytes(plan)
        for left in folder.glob("engine.onnx*"):
            left.unlink()
        return (note,)

    def _plan(
        self, trt: ModuleType, graph: Path, stage: Stage, precision: Precision, device: Device, report: Report
    ) -> tuple[bytes, str]:
        network = ParsedNetwork(trt, graph)
        count = network.attentions
        if not count:
            return network.build(stage, device, report), "no attention operators"
        if precision is not Precision.FLOAT32:  # in float32 no fused kernel exists
            network.demand_fused_attention(True)
            try:
                return network.build(stage, device, report), f"{count} attention operators, all fused"
            except EngineBuildError:
                report("some attention has no fused kernel: building without that demand")
                network = ParsedNetwork(trt, graph)
        network.demand_fused_attention(False)
        return network.build(stage, device, report), f"{count} attention operators, not all fused"

    def load(self, stage: Stage, precision: Precision, device: Device, folder: Path) -> Engine:

        flavour = flavour_for(device)
        assert flavour is not None, "unavailable was not asked"
        return load_plan(import_module(flavour), (folder / PLAN_NAME).read_bytes(), stage)


class ParsedNetwork:
    """An ONNX file as a TensorRT network, ready to be built."""

    def __init__(self, trt: ModuleType, graph: Path) -> None:
        self._trt = trt
        self._logger = quiet_logger(trt)
        self._builder = trt.Builder(self._logger)
        self._network = self._builder.create_network()
        self._parser = trt.OnnxParser(self._network, self._logger)
        if not self._parser.parse_from_file(str(graph)):
            first = self._parser.get_error(0).desc() if self._parser.num_errors else "no reason given"
            raise EngineBuildError(f"TensorRT cannot read the graph: {first.splitlines()[0]}")

    @property
    def attentions(self) -> int:
        """How many attention operators the parser kept whole."""
        return len(self._attention_layers())

    def demand_fused_attention(self, demanded: bool) -> None:
        """Whether the build shall fail where an attention has no fused kernel, or take it apart."""
        for layer in self._attention_layers():
            layer.attention.decomposable = not demanded

    def build(self, stage: Stage, device: Device, report: Report) -> bytes:
        """The serialized plan, with one profile over the stage's dynamic axes.

        Raises:
            EngineBuildError: the builder gave none.
        """
        trt, config = self._trt, self._builder.create_builder_config()
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        config.clear_flag(trt.BuilderFlag.TF32)
        if hasattr(config, "set_compute_capability") and not _needs_own_plan(device):
            config.num_compute_capabilities = len(RTX_TARGETS)
            for index, name in enumerate(RTX_TARGETS):
                config.set_compute_capability(getattr(trt.ComputeCapability, name), index)
        if stage.axes():
            profile = self._builder.create_optimization_profile()
            axes = stage.axes().values()
            shapes = [
                stage.shapes(**{axis.name: getattr(axis, which) for axis in axes})
                for which in ("minimum", "typical", "maximum")
            ]
            for spec, smallest, typical, largest in zip(stage.inputs, *shapes, strict=True):
                profile.set_shape(spec.name, smallest, typical, largest)
            config.add_optimization_profile(profile)
        config.progress_monitor = _progress_monitor(trt, report)
        plan = self._builder.build_serialized_network(self._network, config)
        if plan is None:
            reason = next(iter(self._logger.errors), "no reason given").splitlines()[0]
            raise EngineBuildError(f"TensorRT cannot build {stage.name}: {reason}")
        return bytes(plan)

    def _attention_layers(self) -> list[Any]:
        kind = getattr(self._trt.LayerType, "ATTENTION_INPUT", None)
        layers = (self._network.get_layer(index) for index in range(self._network.num_layers))
        found = [layer for layer in layers if kind is not None and layer.type == kind]
        for layer in found:
            layer.__class__ = self._trt.IAttentionInputLayer  # the API's way from a layer to its kind
        return found


def flavour_for(device: Device) -> str | None:
    """The package to use: `tensorrt` on a machine with a GPU if it is there, else `tensorrt_rtx`, else None."""
    wanted = ("tensorrt", "tensorrt_rtx") if device.kind == "cuda" else ("tensorrt_rtx",)
    return next((name for name in wanted if _importable(name)), None)


def _needs_own_plan(device: Device) -> bool:
    """Whether a plan for `RTX_TARGETS` would not run on this GPU. One made for them runs on all, so it is shared."""
    return device.kind == "cuda" and device.capability not in {name.lower() for name in RTX_TARGETS}


def _importable(name: str) -> bool:
    if find_spec(name) is None:
        return False
    try:
        import_module(name)
    except Exception:  # without NVIDIA's libraries these packages raise what they like
        return False
    return True


def quiet_logger(trt: ModuleType) -> Any:
    """A logger that keeps errors for our own message instead of printing them.

    Without a driver TensorRT logs an error for every look at the GPU that is not there; those are left out.
    """

    class Logger(trt.ILogger):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR and "cudaError 35" not in message:
                self.errors.append(message)

    return Logger()


def _progress_monitor(trt: ModuleType, report: Report) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[name-defined]
        """Tells the user of each outermost phase of the build."""

        def __init__(self) -> None:
            super().__init__()

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if parent_phase is None:
                report(f"{phase_name} ({num_steps} steps)")

        def step_complete(self, phase_name: str, step: int) -> bool:
            return True

        def phase_finish(self, phase_name: str) -> None:
            pass

    return Monitor()


# Runs a serialized TensorRT plan on torch CUDA tensors: addresses handed over, nothing copied, any flavour.


def load_plan(trt: ModuleType, plan: bytes, stage: Stage) -> Engine:
    """Deserializes a plan and wraps it in CUDA graphs.

    Raises:
        EngineBuildError: the plan is damaged, or made by another version or for another GPU.
    """
    logger = quiet_logger(trt)
    runtime = trt.Runtime(logger)
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        reason = next(iter(logger.errors), "it was made by another version or for another GPU").splitlines()[
            0
        ]
        raise EngineBuildError(f"TensorRT refuses the plan: {reason}")
    return GraphedEngine(_PlanRunner(trt, runtime, engine, stage), stage)


class _PlanRunner:
    """One execution context; calls are serialized, because a context holds the shapes of one call."""

    def __init__(self, trt: ModuleType, runtime: object, engine: object, stage: Stage) -> None:
        self._runtime = runtime  # must outlive the engine
        self._engine = engine
        self._context = engine.create_execution_context()  # type: ignore[attr-defined]
        self._inputs = [spec.name for spec in stage.inputs]
        self._outputs = [output.name for output in stage.outputs]
        kinds = {
            trt.DataType.FLOAT: torch.float32,
            trt.DataType.HALF: torch.float16,
            trt.DataType.BF16: torch.bfloat16,
            trt.DataType.INT32: torch.int32,
            trt.DataType.INT64: torch.int64,
            trt.DataType.BOOL: torch.bool,
        }
        self._dtypes = {
            name: kinds[engine.get_tensor_dtype(name)]  # type: ignore[attr-defined]
            for name in (*self._inputs, *self._outputs)
        }
        self._lock = threading.Lock()

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        with self._lock:
            held = [
                value.to(self._dtypes[name]).contiguous()
                for name, value in zip(self._inputs, inputs, strict=True)
            ]
            for name, value in zip(self._inputs, held, strict=True):
                if not self._context.set_input_shape(name, tuple(value.shape)):
                    raise UserError(
                        f"Shape {tuple(value.shape)} of {name} is outside what this engine was built for. "
                        "Remedy: build it again with a larger --max-prompts."
                    )
                self._context.set_tensor_address(name, value.data_ptr())
            given = []
            for name in self._outputs:
                shape = tuple(self._context.get_tensor_shape(name))
                value = torch.empty(shape, dtype=self._dtypes[name], device=held[0].device)
                self._context.set_tensor_address(name, value.data_ptr())
                given.append(value)
            if not self._context.execute_async_v3(torch.cuda.current_stream().cuda_stream):
                raise RuntimeError("TensorRT could not start the engine")
            return tuple(given)
