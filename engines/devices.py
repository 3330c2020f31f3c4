"""What the machine can compute on: the facts that decide back end, precision and cache key."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path

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

    @property
    def torch_device(self) -> torch.device:
        return torch.device(self.kind)


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


@cache
def probe(kind: str) -> Device:
    """The device of this machine named `cpu` or `cuda`.

    Raises:
        ValueError: the device is not there, or is of another kind.
    """
    kind = kind.split(":")[0]
    if kind == "cpu":
        flags = _cpu_flags()
        level = torch.backends.cpu.get_cpu_capability().lower()
        bf16 = sorted(flags & NATIVE_BF16_FLAGS)
        capability = "+".join([platform.machine(), level, *bf16])
        return Device("cpu", _cpu_name(), capability, bool(bf16), f"{_cpu_name()} {capability}")
    if kind == "cuda":
        if not torch.cuda.is_available():
            raise ValueError(
                "Device 'cuda' was asked for, but no CUDA GPU is visible. Remedy: use device 'cpu'."
            )
        properties = torch.cuda.get_device_properties(0)
        capability = f"sm{properties.major}{properties.minor}"
        return Device(
            "cuda",
            properties.name,
            capability,
            properties.major >= 8,
            f"{properties.name} {capability} cuda {torch.version.cuda}",
        )
    raise ValueError(f"Device {kind!r} is unknown to the engines. Remedy: use 'cpu' or 'cuda'.")
