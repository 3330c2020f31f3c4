"""The parts of a model that can be compiled, each with named, typed, possibly dynamic inputs and outputs."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor, nn

from sca.errors import UserError


@dataclass(frozen=True)
class DynamicAxis:
    """An axis whose length varies from call to call, with the lengths a compiler should plan for."""

    name: str
    minimum: int
    typical: int
    maximum: int

    def __post_init__(self) -> None:
        if not 1 <= self.minimum <= self.typical <= self.maximum:
            raise UserError(
                f"Axis {self.name!r} needs 1 <= minimum <= typical <= maximum, "
                f"got {self.minimum}, {self.typical}, {self.maximum}."
            )


@dataclass(frozen=True)
class StageInput:
    """One input of a stage: its name, the length of each axis, and its dtype."""

    name: str
    shape: tuple[int | DynamicAxis, ...]
    dtype: torch.dtype = torch.float32


class OutputKind(StrEnum):
    """What an output means, which decides how two computations of it are compared."""

    FEATURES = "features"
    """Directions matter: compared by cosine similarity of the last-but-batch content."""
    MASK_LOGITS = "mask_logits"
    """The sign matters: compared by IoU of the masks where the logit is positive."""
    SCORES = "scores"
    """The value matters: compared by absolute difference."""
    TOKEN_LOGITS = "token_logits"
    """The winner matters: compared by the token with the largest logit."""


@dataclass(frozen=True)
class StageOutput:
    """One output of a stage."""

    name: str
    kind: OutputKind = OutputKind.FEATURES


@dataclass(frozen=True, eq=False)
class Section:
    """A part of a stage's computation, tensors in and a tuple of tensors out.

    `delicate`: it stays in float32 where the rest is computed in 16 bits, if the back end can do that.
    """

    module: nn.Module
    delicate: bool = False


@dataclass(frozen=True, eq=False)
class Stage:
    """A pure module together with what a compiler has to know of its inputs and outputs.

    The module takes its tensors by position, in the order of `inputs`, and returns a tuple in the order of `outputs`.
    No branch in it depends on the values or the dynamic lengths of its inputs. `sections`: the same computation in parts, each
    of which takes what the one before it gave; empty where it is one piece. Their tensors have the stage's first axis.
    """

    name: str
    module: nn.Module
    inputs: tuple[StageInput, ...]
    outputs: tuple[StageOutput, ...]
    sections: tuple[Section, ...] = ()

    def __post_init__(self) -> None:
        names = [spec.name for spec in self.inputs] + [output.name for output in self.outputs]
        assert len(set(names)) == len(names), f"{self.name}: inputs and outputs share a name: {names}"

    def axes(self) -> dict[str, DynamicAxis]:
        """The dynamic axes of all inputs, by name."""
        found: dict[str, DynamicAxis] = {}
        for spec in self.inputs:
            for axis in spec.shape:
                if isinstance(axis, DynamicAxis):
                    assert found.setdefault(axis.name, axis) == axis, f"axis {axis.name} is described twice"
        return found

    def shapes(self, **lengths: int) -> tuple[tuple[int, ...], ...]:
        """The shape of every input when the named axes have these lengths (default: the typical ones)."""
        chosen = {name: axis.typical for name, axis in self.axes().items()} | lengths
        return tuple(
            tuple(chosen[axis.name] if isinstance(axis, DynamicAxis) else axis for axis in spec.shape)
            for spec in self.inputs
        )

    def example(
        self, *, seed: int = 0, device: str | torch.device = "cpu", **lengths: int
    ) -> tuple[Tensor, ...]:
        """Standard-normal (or small whole-number) inputs of the right shapes, the same for the same seed."""
        generator = torch.Generator().manual_seed(seed)
        made = []
        for spec, shape in zip(self.inputs, self.shapes(**lengths), strict=True):
            if spec.dtype.is_floating_point:
                value = torch.randn(shape, generator=generator).to(spec.dtype)
            else:
                value = torch.randint(0, 2, shape, generator=generator).to(spec.dtype)
            made.append(value.to(device))
        return tuple(made)
