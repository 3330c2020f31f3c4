"""Few shapes instead of many: a dynamic axis is padded up to the next of some lengths, and the result cut back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sca.export_stages import DynamicAxis, Stage


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
        ValueError: none does.
    """
    for bucket in lengths:
        if length <= bucket:
            return bucket
    raise ValueError(
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
