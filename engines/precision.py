"""Which number format an engine computes in: a pure policy over what was asked and what the device has."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import torch

from engines.devices import Device


class Precision(StrEnum):
    """The format of an engine's body. Norms, inputs and outputs stay float32 in all of them."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"

    @property
    def dtype(self) -> torch.dtype:
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[self.value]


@dataclass(frozen=True)
class PrecisionChoice:
    """The precision to build in and, where it is not what was asked for, why."""

    precision: Precision
    reason: str | None = None


def choose_precision(requested: str, backend: str, device: Device) -> PrecisionChoice:
    """Settles the precision of an engine.

    `auto` takes bfloat16 where the device computes it natively and float32 elsewhere; float16 is never chosen by
    itself, because the activations of SAM's image encoder overflow it.

    Raises:
        ValueError: `requested` is not a precision.
    """
    if requested != "auto" and requested not in set(Precision):
        known = ", ".join(["auto", *Precision])
        raise ValueError(f"Precision {requested!r} is unknown. Remedy: use one of {known}.")
    if backend in AHEAD_OF_TIME_FOR_GPU:
        # The plan is made for GPUs (SM80 and newer) whatever machine makes it.
        return PrecisionChoice(Precision.BFLOAT16 if requested == "auto" else Precision(requested))
    if requested == "auto":
        # Eager on a CPU is what is left when everything else was refused: exact, and in need of no check at each start.
        plain = device.kind == "cpu" and backend in ("onnxruntime", "eager")
        return PrecisionChoice(Precision.BFLOAT16 if device.native_bf16 and not plain else Precision.FLOAT32)
    wanted = Precision(requested)
    if wanted is Precision.FLOAT32:
        return PrecisionChoice(wanted)
    if device.kind == "cpu" and backend == "onnxruntime":
        return PrecisionChoice(Precision.FLOAT32, f"ONNX Runtime has no {wanted} kernels on CPU")
    if device.kind == "cpu" and wanted is Precision.FLOAT16:
        return PrecisionChoice(Precision.FLOAT32, "a CPU gains nothing from float16")
    if wanted is Precision.BFLOAT16 and not device.native_bf16:
        return PrecisionChoice(Precision.FLOAT32, f"{device.name} does not compute bfloat16 natively")
    return PrecisionChoice(wanted)


AHEAD_OF_TIME_FOR_GPU = frozenset({"tensorrt"})
