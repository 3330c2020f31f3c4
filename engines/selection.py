"""Which back ends to try for which stage, in which order and precision: a pure policy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from engines.devices import Device, Precision, choose_precision
from sca.modeling import Sca
from sca.stages.language import fits, language_stages
from sca.stages.spec import Stage
from sca.stages.vision import model_stages

AUTO = "auto"
_ORDER = {
    "cuda": ("tensorrt", "torch-tensorrt", "inductor", "onnxruntime", "eager"),
    # Inductor brought nothing over eager on the CPUs that were measured, and its builds take minutes.
    "cpu": ("openvino", "onnxruntime", "eager"),
}


GPU_ONLY = frozenset({"tensorrt", "torch-tensorrt"})


def language_choice(backend: str, precision: str, device: Device) -> tuple[str, str]:
    """What to ask for where the stage is one of the language model's.

    On a GPU a whole step of all captions, the cache included, is one captured graph of the module itself, which leaves
    a compiler of single stages nothing to gain. On a CPU it stays in float32 unless asked: words that hang by a hair
    would change.
    """
    if device.kind == "cuda" or backend in GPU_ONLY:
        return "eager", precision
    return backend, Precision.FLOAT32 if precision == AUTO else precision


class ModelPart(StrEnum):
    """Which of a model's stages a process needs."""

    ALL = "all"
    VISION = "vision"
    LANGUAGE = "language"


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


def stages_for(
    model: Sca,
    backend: str,
    precision: str,
    device: Device,
    max_prompts: int,
    part: ModelPart = ModelPart.ALL,
) -> Iterator[tuple[Stage, str, str]]:
    """The compilable stages of (a part of) a model, each with the back end and the precision to ask for.

    Without those of a language model that has too few positions for a caption of the usual length.
    """
    if part is not ModelPart.LANGUAGE:
        for stage in model_stages(model, max_prompts):
            yield stage, backend, precision
    if part is ModelPart.VISION or not fits(model):
        return
    chosen = language_choice(backend, precision, device)
    for stage in language_stages(model, max_prompts):
        yield stage, *chosen
