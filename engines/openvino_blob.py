"""Compiled models of OpenVINO's CPU plugin as files, and how they run: arrays in, arrays out, without torch."""

from __future__ import annotations

import mmap
import sys
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


def properties(precision: Precision, threads: int, lanes: int = 1) -> dict[str, Any]:
    """How the CPU plugin is to compute: `lanes` calls at once, which share `threads`."""
    return {
        "INFERENCE_PRECISION_HINT": _HINTS[precision],
        "NUM_STREAMS": lanes,
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,
    }


def section_name(place: int, precision: Precision) -> str:
    """The file of a section of an engine that computes in several precisions: which it is, and its own."""
    return f"section-{place}.{precision}.blob"


def load_blob(
    folder: Path, precision: Precision, threads: int, lanes: int = 1, *, warm: bool = False
) -> Runner:
    """The compiled model that lies in `folder`, mapped and not read. RuntimeError if this plugin cannot use it.

    `lanes`: of its calls are computed at once, with a share of `threads` each. `warm`: with its first call behind it, unless it is large and computes for seconds.
    """
    sections = sorted(folder.glob("section-*.blob"))
    if not sections:
        return _load(folder / BLOB_NAME, properties(precision, threads, lanes), warm)
    kinds = [Precision(path.name.split(".")[1]) for path in sections]
    return _Chain(
        [
            _load(path, properties(kind, threads, lanes), warm)
            for path, kind in zip(sections, kinds, strict=True)
        ]
    )


def _load(path: Path, how: dict[str, Any], warm: bool) -> ArrayRunner:
    # Copy on write, for the plugin asks for memory that it may write to; it never does, so nothing is copied.
    with open(path, "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    tensor = runtime().Tensor(np.frombuffer(mapped, np.uint8), shared_memory=True)
    runner = ArrayRunner(core().import_model(tensor, "CPU", how), mapped)
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
    """Runs a compiled model on arrays without copying inputs, for any number of threads at once."""

    def __init__(self, compiled: Any, blob: mmap.mmap) -> None:
        self._compiled = compiled
        self._blob = blob  # holds weights that the compiled model may read again
        self._fresh = True
        self._outputs = len(compiled.outputs)
        self._idle: list[Any] = []  # requests; as many as were ever needed at once

    def __call__(self, *inputs: np.ndarray) -> tuple[np.ndarray, ...]:
        try:
            request = self._idle.pop()
        except IndexError:
            request = self._compiled.create_infer_request()
        arrays = [np.ascontiguousarray(value) for value in inputs]
        results = request.infer(arrays, share_inputs=True, share_outputs=False)
        self._idle.append(request)
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
