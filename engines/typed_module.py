"""A stage in lower precision: 16-bit body, float32 norms, inputs and outputs, written into the graph itself.

Back ends that are strongly typed (TensorRT since version 11) compute in what the graph says, so the types are set here
and nowhere else.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from engines.devices import Precision
from sca.stages.spec import Stage

# Batch norms folded into the convolutions before them: exact in evaluation mode, and best done in float32.


@torch.no_grad()
def fold_batch_norms(module: nn.Module, example: Sequence[Tensor]) -> int:
    """Folds, in place, every batch norm whose input is the output of a convolution; returns how many.

    Which convolution feeds which norm is seen by running the module once on an example. An activation that a norm
    carries with it (timm's `BatchNormAct2d`) stays in its place.
    """
    producers: dict[int, nn.Conv2d] = {}
    fed_by: dict[nn.BatchNorm2d, nn.Conv2d] = {}
    outputs: list[Tensor] = []  # kept, so that no identity is used twice

    def after_convolution(conv: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(conv, nn.Conv2d)
        producers[id(output)] = conv
        outputs.append(output)

    def before_norm(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, nn.BatchNorm2d)
        if id(inputs[0]) in producers:
            fed_by[norm] = producers[id(inputs[0])]

    hooks = [
        part.register_forward_hook(after_convolution)
        if isinstance(part, nn.Conv2d)
        else part.register_forward_pre_hook(before_norm)
        for part in module.modules()
        if isinstance(part, nn.Conv2d | nn.BatchNorm2d)
    ]
    try:
        module(*example)
    finally:
        for hook in hooks:
            hook.remove()
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d) and child in fed_by:
                conv = fed_by[child]
                fused = fuse_conv_bn_eval(conv, child)
                conv.weight, conv.bias = fused.weight, fused.bias
                activation = getattr(child, "act", None)
                setattr(parent, name, activation if activation is not None else nn.Identity())
    return len(fed_by)


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
