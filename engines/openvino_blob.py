"""Compiled models of OpenVINO's CPU plugin as files, and how they run: arrays in, arrays out, without torch."""

from __future__ import annotations

import mmap
import sys
import threading
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from engines.devices import Precision

BLOB_NAME = "engine.blob"
# Bytes of an engine that computes in moments: its weights, since the plugin's own room comes on top. A guess.
_SMALL = 64 << 20
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


def section_name(place: int, precision: Precision) -> str:
    """The file of a section of an engine that computes in several precisions: which it is, and its own."""
    return f"section-{place}.{precision}.blob"


def load_blob(folder: Path, precision: Precision, threads: int, *, warm: bool = False) -> Runner:
    """The compiled model that lies in `folder`, mapped and not read. RuntimeError if this plugin cannot use it.

    `warm`: with its first call behind it, unless it is large and computes for seconds.
    """
    sections = sorted(folder.glob("section-*.blob"))
    if not sections:
        return _load(folder / BLOB_NAME, precision, threads, warm)
    return _Chain([_load(path, Precision(path.name.split(".")[1]), threads, warm) for path in sections])


def _load(path: Path, precision: Precision, threads: int, warm: bool) -> ArrayRunner:
    # Copy on write, for the plugin asks for memory that it may write to; it never does, so nothing is copied.
    with open(path, "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    tensor = runtime().Tensor(np.frombuffer(mapped, np.uint8), shared_memory=True)
    runner = ArrayRunner(core().import_model(tensor, "CPU", properties(precision, threads)), mapped)
    runner.give_back()
    if warm and len(mapped) <= _SMALL:
        runner.warm_up()
    return runner


Runner = Callable[..., tuple[np.ndarray, ...]]
"""Arrays in, arrays out."""


class _Chain:
    """Sections of an engine in different precisions, one after the other."""

    def __init__(self, sections: Sequence[ArrayRunner]) -> None:
        self._sections = sections

    def __call__(self, *values: np.ndarray) -> tuple[np.ndarray, ...]:
        for section in self._sections:
            values = section(*values)
        return values


class ArrayRunner:
    """Runs a compiled model on arrays without copying inputs; each thread has its own request."""

    def __init__(self, compiled: Any, blob: mmap.mmap) -> None:
        self._compiled = compiled
        self._blob = blob  # holds weights that the compiled model may read again
        self._fresh = True
        self._outputs = len(compiled.outputs)
        self._local = threading.local()

    def __call__(self, *inputs: np.ndarray) -> tuple[np.ndarray, ...]:
        request = getattr(self._local, "request", None)
        if request is None:
            request = self._local.request = self._compiled.create_infer_request()
        arrays = [np.ascontiguousarray(value) for value in inputs]
        results = request.infer(arrays, share_inputs=True, share_outputs=False)
        if self._fresh:
            self._fresh = False
            self.give_back()
        return tuple(results[index] for index in range(self._outputs))

    def warm_up(self) -> None:
        """Compute on zeros once, in the least shapes: only then does the plugin make of the blob what it computes with."""
        inputs = [
            np.zeros(port.partial_shape.get_min_shape(), port.element_type.to_dtype())
            for port in self._compiled.inputs
        ]
        self(*inputs)

    def give_back(self) -> None:
        """Let the kernel have the pages of the file, which the plugin has made its own weights of by now.

        Nobody has written to them, so what is read of them again is in the file as it was.
        """
        if hasattr(mmap, "MADV_DONTNEED"):
            self._blob.madvise(mmap.MADV_DONTNEED)
