"""One launch instead of hundreds: an engine captured as a CUDA graph per input shape and replayed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from engines.buckets import pad_to_bucket
from sca.export_stages import Stage

_WARM_UP_RUNS = 3


@dataclass(frozen=True)
class _Captured:
    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


class GraphedEngine:
    """Wraps a capturable engine. Batched axes are padded to buckets, so that few graphs serve every length.

    Outputs are copies: a replay overwrites the graph's own buffers. CUDA only.
    """

    def __init__(self, engine: Callable[..., tuple[Tensor, ...]], stage: Stage) -> None:
        self._engine = engine
        self._stage = stage
        self._captured: dict[tuple[tuple[int, ...], ...], _Captured] = {}
        self._lock = threading.Lock()

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        padded, length = pad_to_bucket(self._stage, inputs)
        with self._lock, torch.inference_mode():
            shapes = tuple(tuple(value.shape) for value in padded)
            captured = self._captured.get(shapes)
            if captured is None:
                captured = self._captured[shapes] = self._capture(padded)
            for buffer, value in zip(captured.inputs, padded, strict=True):
                buffer.copy_(value)
            captured.graph.replay()
            return tuple(output[:length].clone() for output in captured.outputs)

    def _capture(self, inputs: tuple[Tensor, ...]) -> _Captured:
        buffers = tuple(value.clone(memory_format=torch.contiguous_format) for value in inputs)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM_UP_RUNS):
                self._engine(*buffers)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = self._engine(*buffers)
        return _Captured(graph, buffers, outputs)
