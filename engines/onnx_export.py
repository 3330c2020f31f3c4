"""Stage to ONNX: torch.export, then opset 23, whose `Attention` operator lets compilers fuse attention whole."""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from sca.stages.spec import DynamicAxis, Stage

OPSET = 23
_EXTERNAL_DATA_LIMIT = 1_800_000_000
"""Bytes of weights above which they go to a file of their own: protobuf ends at 2 GiB."""


def export_shapes(
    stage: Stage, device: torch.device
) -> tuple[tuple[torch.Tensor, ...], tuple[dict[int, Any], ...]]:
    """Example inputs and torch.export's description of the dynamic axes.

    Dynamic axes get example lengths that are all different and never 1, so that torch.export neither takes two axes
    for one nor a broadcast for a fact.
    """
    lengths = {}
    for offset, (name, axis) in enumerate(sorted(stage.axes().items())):
        lengths[name] = max(3 + offset, axis.minimum) if axis.maximum > axis.minimum else axis.minimum
    dims = {
        name: torch.export.Dim(name, min=axis.minimum, max=axis.maximum)
        for name, axis in stage.axes().items()
    }
    described = tuple(
        {
            position: dims[axis.name]
            for position, axis in enumerate(spec.shape)
            if isinstance(axis, DynamicAxis)
        }
        for spec in stage.inputs
    )
    return stage.example(device=device, **lengths), described


def export_program(stage: Stage, *, device: torch.device | None = None) -> torch.export.ExportedProgram:
    """The stage, whose module lies on `device` (CPU by default), as a torch.export program with its dynamic axes."""
    example, shapes = export_shapes(stage, device or torch.device("cpu"))
    with torch.inference_mode(False), torch.no_grad(), quiet_exporters():
        return torch.export.export(
            stage.module.eval(), example, dynamic_shapes=_by_parameter(stage, shapes), strict=False
        )


def export_onnx(stage: Stage, path: Path) -> None:
    """Writes the stage as ONNX, with weights beside it (`<name>.data`) where one file cannot hold them."""
    program = export_program(stage)
    with torch.no_grad(), quiet_exporters():
        onnx_program = torch.onnx.export(
            program,
            (),
            dynamo=True,
            opset_version=OPSET,
            input_names=[spec.name for spec in stage.inputs],
            output_names=[output.name for output in stage.outputs],
            verbose=False,
        )
    assert onnx_program is not None
    size = sum(tensor.numel() * tensor.element_size() for tensor in stage.module.state_dict().values())
    onnx_program.save(str(path), external_data=size > _EXTERNAL_DATA_LIMIT)


def _by_parameter(stage: Stage, shapes: tuple[dict[int, Any], ...]) -> tuple[Any, ...]:
    """torch.export wants the description in the shape of the signature: one more level for `*inputs`."""
    named = [
        parameter
        for parameter in inspect.signature(stage.module.forward).parameters.values()
        if parameter.kind is not inspect.Parameter.VAR_POSITIONAL
    ]
    rest = shapes[len(named) :]
    return (*shapes[: len(named)], rest) if rest else shapes


@contextlib.contextmanager
def quiet_exporters() -> Iterator[None]:
    """Keeps the exporters' progress and warnings for developers off the user's terminal."""
    loggers = [
        logging.getLogger(name)
        for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir", "torch.fx")
    ]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
