"""Compiled models of OpenVINO's CPU plugin as files, and how they run: arrays in, arrays out, without torch."""

from __future__ import annotations

import sys
import threading
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from engines.devices import Precision

BLOB_NAME = "engine.blob"
_HINTS = {Precision.FLOAT32: "f32", Precision.BFLOAT16: "bf16", Precision.FLOAT16: "f16"}


@cache
def core() -> Any:
    """OpenVINO with its plugins, which take a while to find."""
    return runtime().Core()


@cache
def runtime() -> Any:
    """The package without its converter of other formats, which takes as long to import as the rest: it does without."""
    absent = "openvino.tools.ovc"
    wanted = "openvino" not in sys.modules and absent not in sys.modules
    if wanted:
        sys.modules[absent] = None  # type: ignore[assignment]
    try:
        import openvino
    finally:
        if wanted:
            del sys.modules[absent]
    return openvino


def properties(precision: Precision, threads: int) -> dict[str, Any]:
    """How the CPU plugin is to compute."""
    return {
        "INFERENCE_PRECISION_HINT": _HINTS[precision],
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,
    }


def load_blob(folder: Path, precision: Precision, threads: int) -> ArrayRunner:
    """The compiled model that lies in `folder`, mapped and not read. RuntimeError if this plugin cannot use it."""
    # Copy on write, for the plugin asks for memory that it may write to; it never does, so nothing is copied.
    mapped = np.memmap(folder / BLOB_NAME, np.uint8, "c")
    tensor = runtime().Tensor(mapped, shared_memory=True)
    return ArrayRunner(core().import_model(tensor, "CPU", properties(precision, threads)), mapped)


class ArrayRunner:
    """Runs a compiled model on arrays without copying inputs; each thread has its own request."""

    def __init__(self, compiled: Any, blob: np.ndarray) -> None:
        self._compiled = compiled
        self._blob = blob  # may hold the weights of the compiled model
        self._outputs = len(compiled.outputs)
        self._local = threading.local()

    def __call__(self, *inputs: np.ndarray) -> tuple[np.ndarray, ...]:
        request = getattr(self._local, "request", None)
        if request is None:
            request = self._local.request = self._compiled.create_infer_request()
        arrays = [np.ascontiguousarray(value) for value in inputs]
        results = request.infer(arrays, share_inputs=True, share_outputs=False)
        return tuple(results[index] for index in range(self._outputs))
