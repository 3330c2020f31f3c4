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
    index: int = 0

    @property
    def torch_device(self) -> torch.device:
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


@cache
def probe(name: str) -> Device:
    """The device of this machine named `cpu`, `cuda` or `cuda:N`.

    Raises:
        ValueError: the device is not there, or is of another kind.
    """
    kind, _, number = name.partition(":")
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
        index = int(number) if number else torch.cuda.current_device()
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
    raise ValueError(f"Device {name!r} is unknown to the engines. Remedy: use 'cpu' or 'cuda'.")
