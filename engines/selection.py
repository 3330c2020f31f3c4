"""Which back ends to try, in which order and precision: a pure policy."""

from __future__ import annotations

from dataclasses import dataclass

from engines.devices import Device
from engines.precision import Precision, choose_precision

AUTO = "auto"
_ORDER = {
    "cuda": ("tensorrt", "torch-tensorrt", "inductor", "onnxruntime", "eager"),
    # Inductor brought nothing over eager on the CPUs that were measured, and its builds take minutes.
    "cpu": ("openvino", "onnxruntime", "eager"),
}


@dataclass(frozen=True)
class Attempt:
    """One engine to try: back end, precision, and why the precision is not what was asked for."""

    backend: str
    precision: Precision
    reason: str | None = None


def attempts(requested: str, precision: str, device: Device) -> tuple[Attempt, ...]:
    """What to try, best first; the last is always eager float32, which needs no check.

    A named back end comes first and the automatic order follows it. An engine in 16 bits that fails is tried in
    float32 before the next back end is.
    """
    order = _ORDER[device.kind]
    if requested != AUTO:
        order = (requested, *(name for name in order if name != requested))
    if requested == "eager":
        order = ("eager",)
    tried: list[Attempt] = []
    for backend in order:
        choice = choose_precision(precision, backend, device)
        tried.append(Attempt(backend, choice.precision, choice.reason))
        if choice.precision is not Precision.FLOAT32:
            tried.append(Attempt(backend, Precision.FLOAT32, f"{choice.precision} was refused"))
    return tuple(tried)
