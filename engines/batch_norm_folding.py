"""Batch norms folded into the convolutions before them: exact in evaluation mode, and best done in float32."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


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
