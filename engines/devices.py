"""What the machine can compute on: the facts that decide back end, precision and cache key."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from sca.errors import UserError

if TYPE_CHECKING:
    import torch

NATIVE_BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})


@dataclass(frozen=True)
class Device:
    """One device as compilers see it.

    `capability` is what a compiled engine depends on: the instruction-set level of a CPU, the compute capability
    of a GPU. `fingerprint` names the machine for which a parity check was made.
    """

    kind: str
    name: str
    capability: str
    native_bf16: bool
    fingerprint: str
    index: int = 0

    @property
    def torch_device(self) -> torch.device:
        import torch

        return torch.device(self.kind, self.index) if self.kind == "cuda" else torch.device(self.kind)


def _cpu_flags() -> frozenset[str]:
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return frozenset()
    for line in info.read_text().splitlines():
        if line.startswith(("flags", "Features")):
            return frozenset(line.split(":", 1)[1].split())
    return frozenset()


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _instruction_level(flags: frozenset[str]) -> str:
    """The vector instructions that libraries of mathematics tell apart, named as torch names them."""
    if {"avx512f", "avx512bw", "avx512dq", "avx512vl", "fma"} <= flags:
        return "avx512"
    return "avx2" if {"avx2", "fma"} <= flags else "default"


@cache
def probe(name: str) -> Device:
    """The device of this machine named `cpu`, `cuda` or `cuda:N`.

    Raises:
        UserError: the device is not there, or is of another kind.
    """
    kind, _, number = name.partition(":")
    if kind == "cpu":
        flags = _cpu_flags()
        level = _instruction_level(flags)
        bf16 = sorted(flags & NATIVE_BF16_FLAGS)
        capability = "+".join([platform.machine(), level, *bf16])
        return Device("cpu", _cpu_name(), capability, bool(bf16), f"{_cpu_name()} {capability}")
    if kind == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise UserError(
                "Device 'cuda' was asked for, but no CUDA GPU is visible. Remedy: use device 'cpu'."
            )
        index = int(number) if number else torch.cuda.current_device()
        if index >= torch.cuda.device_count():
            raise UserError(
                f"Device {name!r} was asked for, but there are {torch.cuda.device_count()}. Remedy: use device 'cuda:0'."
            )
        properties = torch.cuda.get_device_properties(index)
        capability = f"sm{properties.major}{properties.minor}"
        return Device(
            "cuda",
            properties.name,
            capability,
            properties.major >= 8,
            f"{properties.name} {capability} cuda {torch.version.cuda}",
            index,
        )
    raise UserError(f"Device {name!r} is unknown to the engines. Remedy: use 'cpu' or 'cuda'.")


# Which number format an engine computes in: a pure policy over what was asked and what the device has.


class Precision(StrEnum):
    """The format of an engine's body. Norms, inputs and outputs stay float32 in all of them."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"

    @property
    def dtype(self) -> torch.dtype:
        import torch

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
        UserError: `requested` is not a precision.
    """
    if requested != "auto" and requested not in set(Precision):
        known = ", ".join(["auto", *Precision])
        raise UserError(f"Precision {requested!r} is unknown. Remedy: use one of {known}.")
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
