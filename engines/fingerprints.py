"""Fingerprints of a stage's weights, code and shapes: what makes two engines the same engine."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import torch
from torch import nn

from engines.manifest import digest_file
from sca.stages.spec import DynamicAxis, Stage


def digest_weights(module: nn.Module) -> str:
    """SHA-256 over names, shapes, dtypes and bytes of all parameters and buffers, persistent or not."""
    sha = hashlib.sha256()
    tensors = [*module.named_parameters(), *module.named_buffers()]
    for name, tensor in sorted(tensors, key=lambda item: item[0]):
        plain = tensor.detach().cpu().contiguous()
        sha.update(f"{name}|{tuple(plain.shape)}|{plain.dtype}|".encode())
        sha.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def digest_code(module: nn.Module) -> str:
    """SHA-256 over the structure of a module and the source files that its submodules come from.

    Only files outside torch are read: torch's version is a part of the key by itself.
    """
    files = set()
    for part in module.modules():
        home = sys.modules.get(type(part).__module__)
        file = getattr(home, "__file__", None)
        if file and not type(part).__module__.startswith("torch."):
            files.add(file)
    sha = hashlib.sha256(repr(module).encode())
    # By content, because two files may share a name and their folders differ from machine to machine.
    for content in sorted(digest_file(Path(file)) for file in files):
        sha.update(content.encode())
    return sha.hexdigest()


def signature(stage: Stage) -> str:
    """Inputs and outputs of a stage as one line, dynamic axes with their planned lengths."""

    def axis(length: int | DynamicAxis) -> str:
        if isinstance(length, int):
            return str(length)
        return f"{length.name}:{length.minimum}..{length.typical}..{length.maximum}"

    inputs = ", ".join(
        f"{spec.name}[{','.join(axis(length) for length in spec.shape)}]{str(spec.dtype).removeprefix('torch.')}"
        for spec in stage.inputs
    )
    return f"({inputs}) -> ({', '.join(output.name for output in stage.outputs)})"
