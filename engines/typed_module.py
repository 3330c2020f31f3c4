"""A stage in lower precision: 16-bit body, float32 norms, inputs and outputs, written into the graph itself.

Back ends that are strongly typed (TensorRT since version 11) compute in what the graph says, so the types are set here
and nowhere else.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor, nn

from engines.batch_norm_folding import fold_batch_norms
from engines.precision import Precision
from sca.export_stages import Stage

NORMS = (nn.LayerNorm, LayerNorm2d, nn.GroupNorm, nn.BatchNorm2d)


class Float32Norm(nn.Module):
    """Computes a norm in float32 and gives back the dtype that it was given."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm.float()

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.float()).to(x.dtype)


class TypedBody(nn.Module):
    """Casts floating-point inputs to the body's dtype and floating-point outputs back to float32."""

    def __init__(self, body: nn.Module, dtype: torch.dtype, keep_float32: tuple[bool, ...]) -> None:
        super().__init__()
        self.body = body
        self.dtype = dtype
        self.keep_float32 = keep_float32

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        cast = [
            value if kept or not value.is_floating_point() else value.to(self.dtype)
            for value, kept in zip(inputs, self.keep_float32, strict=True)
        ]
        return tuple(value.float() if value.is_floating_point() else value for value in self.body(*cast))


def in_precision(stage: Stage, precision: Precision) -> Stage:
    """The stage with its body in this precision; the very same object for float32.

    Inputs named `boxes` stay float32: they are coordinates in pixels, which 16 bits cannot hold.
    """
    if precision is Precision.FLOAT32:
        return stage
    body = copy.deepcopy(stage.module).eval()
    if any(isinstance(part, nn.BatchNorm2d) for part in body.modules()):
        fold_batch_norms(body, stage.example(device=next(body.parameters()).device))
    body = body.to(precision.dtype)
    _wrap_norms(body)
    kept = tuple(spec.name == "boxes" for spec in stage.inputs)
    return replace(stage, module=TypedBody(body, precision.dtype, kept).eval())


def _wrap_norms(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, NORMS):
            setattr(module, name, Float32Norm(child))
        else:
            _wrap_norms(child)
