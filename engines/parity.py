"""The gate that every engine passes before it serves: its outputs against those of the eager float32 module."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sca.stages.spec import OutputKind, Stage, StageOutput

# How long an engine takes beside the eager module: an engine that is slower has no reason to serve.

ROUNDS = 5
_SLOWER = 1.25
_TOO_SHORT_TO_TELL_S = 0.001


@dataclass(frozen=True)
class Timing:
    """Seconds for the same inputs, the best of several rounds. On a CPU they are processor seconds over all threads.

    Those hardly change when something else wants the machine, which wall time does, and the verdict is kept.
    """

    eager_s: float
    engine_s: float

    @property
    def speedup(self) -> float:
        return self.eager_s / self.engine_s

    def failures(self) -> tuple[str, ...]:
        """Why the engine is refused; empty unless it is clearly slower."""
        lost = self.engine_s - self.eager_s
        if self.engine_s > _SLOWER * self.eager_s and lost > _TOO_SHORT_TO_TELL_S:
            return (f"slower than eager ({self.engine_s * 1e3:.1f} ms, eager {self.eager_s * 1e3:.1f} ms)",)
        return ()

    def __str__(self) -> str:
        return f"{self.speedup:.1f}x eager"


def time_beside(
    eager: Callable[..., object],
    engine: Callable[..., object],
    inputs: Sequence[Tensor],
    *,
    rounds: int = ROUNDS,
) -> Timing:
    """Runs both in turn on the same inputs, so that other work on the machine disturbs both alike."""
    device = inputs[0].device

    clock = time.perf_counter if device.type == "cuda" else time.process_time

    def once(run: Callable[..., object]) -> float:
        started = clock()
        run(*inputs)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return clock() - started

    with torch.inference_mode():
        pairs = [(once(eager), once(engine)) for _ in range(rounds)]
    return Timing(min(pair[0] for pair in pairs), min(pair[1] for pair in pairs))


GATE_VERSION = 2
"""Grows when the gate becomes stricter, so that engines passed by an older gate are checked again."""

MIN_COSINE = 0.999
MIN_MASK_IOU = 0.99
MAX_SCORE_ERROR = 0.02


ReadTokens = Callable[[Sequence[Sequence[Tensor]]], Tensor]
"""From a stage's outputs for all probes to the greedy tokens that the rest of the model makes of them, (R, T) int64."""


@dataclass(frozen=True)
class Probes:
    """What an engine is checked on: inputs of the stage from real frames, and how its outputs become captions."""

    inputs: Sequence[Sequence[Tensor]]
    read_tokens: ReadTokens | None = None


@dataclass(frozen=True)
class ParityReport:
    """How far an engine is from eager float32, at its worst over all inputs.

    `cosine` is the smallest cosine similarity of a feature output, `mask_iou` the mean IoU of the masks, `score_error`
    the largest difference of a score, `max_error` the largest absolute difference of any output, `same_tokens`
    whether every greedy token is the same: of the stage itself, or of the captions that the eager rest of the model makes
    of its outputs. What does not apply to a stage is None.
    """

    inputs: int
    max_error: float
    cosine: float | None = None
    mask_iou: float | None = None
    score_error: float | None = None
    same_tokens: bool | None = None

    def failures(self) -> tuple[str, ...]:
        """Why the engine is refused, one reason each; empty when it passes."""
        found = []
        if not math.isfinite(self.max_error):
            found.append("output is not finite")
        if self.cosine is not None and not self.cosine >= MIN_COSINE:
            found.append(f"cosine {self.cosine:.5f} < {MIN_COSINE}")
        if self.mask_iou is not None and not self.mask_iou >= MIN_MASK_IOU:
            found.append(f"mask IoU {self.mask_iou:.4f} < {MIN_MASK_IOU}")
        if self.score_error is not None and not self.score_error <= MAX_SCORE_ERROR:
            found.append(f"score error {self.score_error:.4f} > {MAX_SCORE_ERROR}")
        if self.same_tokens is False:
            found.append("another greedy token than eager")
        return tuple(found)

    @property
    def passed(self) -> bool:
        return not self.failures()

    def __str__(self) -> str:
        parts = [f"max error {self.max_error:.1e}"]
        if self.cosine is not None:
            parts.append(f"cosine {self.cosine:.6f}")
        if self.mask_iou is not None:
            parts.append(f"mask IoU {self.mask_iou:.4f}")
        if self.score_error is not None:
            parts.append(f"score error {self.score_error:.1e}")
        if self.same_tokens is not None:
            parts.append("same tokens" if self.same_tokens else "other tokens")
        return ", ".join(parts)


def cosine(expected: Tensor, got: Tensor) -> float:
    """Smallest cosine similarity over the first axis (frames or prompts), in float64."""
    left, right = expected.flatten(1).double(), got.flatten(1).double()
    similar = torch.nn.functional.cosine_similarity(left, right, dim=1, eps=1e-12)
    both_empty = (left.norm(dim=1) == 0) & (right.norm(dim=1) == 0)
    return float(torch.where(both_empty, torch.ones_like(similar), similar).min())


def mask_iou(expected: Tensor, got: Tensor) -> float:
    """Mean IoU of masks given as logits (..., H, W). Masks empty in both count as equal."""
    left, right = (expected > 0).flatten(0, -3).flatten(1), (got > 0).flatten(0, -3).flatten(1)
    union = (left | right).sum(1)
    same = (left & right).sum(1)
    return float(torch.where(union == 0, 1.0, same / union.clamp(min=1)).mean())


def compare(
    outputs: Sequence[StageOutput],
    expected: Sequence[Sequence[Tensor]],
    got: Sequence[Sequence[Tensor]],
    read_tokens: ReadTokens | None = None,
) -> ParityReport:
    """Compares what eager and an engine gave for the same inputs.

    Args:
        outputs: the outputs of the stage, which say how each is compared.
        expected, got: per input, the tensors of eager float32 and of the engine.
        read_tokens: makes captions of them, which then have to be the same.
    """
    assert expected
    assert len(expected) == len(got)
    worst = 0.0
    cosines, ious, errors, tokens = [], [], [], []
    if read_tokens is not None:
        tokens.append(torch.equal(read_tokens(expected), read_tokens(got)))
    for ours, theirs in zip(expected, got, strict=True):
        for output, left, right in zip(outputs, ours, theirs, strict=True):
            left, right = left.detach().float().cpu(), right.detach().float().cpu()
            assert left.shape == right.shape, (
                f"{output.name}: {tuple(right.shape)} instead of {tuple(left.shape)}"
            )
            error = float((left - right).abs().max()) if left.numel() else 0.0
            worst = error if math.isnan(error) else max(worst, error)
            match output.kind:
                case OutputKind.FEATURES:
                    cosines.append(cosine(left, right))
                case OutputKind.MASK_LOGITS:
                    ious.append(mask_iou(left, right))
                case OutputKind.SCORES:
                    errors.append(error)
                case OutputKind.TOKEN_LOGITS:
                    tokens.append(bool((left.argmax(-1) == right.argmax(-1)).all()))
    return ParityReport(
        inputs=len(expected),
        max_error=worst,
        cosine=min(cosines) if cosines else None,
        mask_iou=sum(ious) / len(ious) if ious else None,
        score_error=max(errors) if errors else None,
        same_tokens=all(tokens) if tokens else None,
    )


def reference_outputs(stage: Stage, inputs: Sequence[Sequence[Tensor]]) -> list[tuple[Tensor, ...]]:
    """What the eager module gives for each input."""
    with torch.inference_mode():
        return [tuple(stage.module(*tensors)) for tensors in inputs]
