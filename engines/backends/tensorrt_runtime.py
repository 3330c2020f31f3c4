"""Runs a serialized TensorRT plan on torch CUDA tensors: addresses handed over, nothing copied, any flavour."""

from __future__ import annotations

import threading
from types import ModuleType

import torch
from torch import Tensor

from engines.backends.interface import Engine, EngineBuildError
from engines.backends.tensorrt import quiet_logger
from engines.cuda_graphs import GraphedEngine
from sca.export_stages import Stage


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
                    raise ValueError(
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
