"""One launch instead of hundreds: an engine captured as a CUDA graph per input shape and replayed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sca.errors import UserError
from sca.stages.spec import DynamicAxis, Stage

# Few shapes instead of many: a dynamic axis is padded up to the next of some lengths, and the result cut back.


def bucket_lengths(axis: DynamicAxis) -> tuple[int, ...]:
    """Powers of two from the axis' shortest length to its longest, both included."""
    lengths = [axis.minimum]
    step = 1
    while step < axis.maximum:
        step *= 2
        if lengths[-1] < step < axis.maximum:
            lengths.append(step)
    if axis.maximum > lengths[-1]:
        lengths.append(axis.maximum)
    return tuple(lengths)


def choose_bucket(length: int, lengths: Sequence[int]) -> int:
    """The smallest bucket that holds `length`.

    Raises:
        UserError: none does.
    """
    for bucket in lengths:
        if length <= bucket:
            return bucket
    raise UserError(
        f"{length} is more than the {lengths[-1]} that this engine was built for. "
        "Remedy: give fewer at a time, or build it again with a larger --max-prompts."
    )


def batch_axis(stage: Stage) -> DynamicAxis | None:
    """The dynamic axis along which the rows of a stage are independent: the first of some input, or None."""
    for spec in stage.inputs:
        if isinstance(spec.shape[0], DynamicAxis):
            return spec.shape[0]
    return None


def pad_to_bucket(stage: Stage, inputs: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], int | None]:
    """Repeats the last row of every batched input up to the bucket; gives the inputs and the true length.

    Repeated rows stay finite where zeros might not, and independent rows cannot change the others.
    """
    axis = batch_axis(stage)
    if axis is None:
        return tuple(inputs), None
    length = next(
        int(value.shape[0]) for spec, value in zip(stage.inputs, inputs, strict=True) if spec.shape[0] == axis
    )
    bucket = choose_bucket(length, bucket_lengths(axis))
    if bucket == length:
        return tuple(inputs), length
    padded = tuple(
        torch.cat([value, value[-1:].expand(bucket - length, *value.shape[1:])])
        if spec.shape[0] == axis
        else value
        for spec, value in zip(stage.inputs, inputs, strict=True)
    )
    return padded, length


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
