"""The gate that every engine passes before it serves: its outputs against those of the eager float32 module."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engines.verdicts import ParityReport, SeenReport, Timing
from sca.stages.spec import OutputKind, Stage, StageOutput

ROUNDS = 5


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


See = Callable[[Callable[..., tuple[Tensor, ...]]], SeenReport | None]
"""From an engine to what somebody would see change with it; None where a model finds too few regions to tell."""

ReadTokens = Callable[[Sequence[Sequence[Tensor]]], Tensor]
"""From a stage's outputs for all probes to the greedy tokens that the rest of the model makes of them, (R, T) int64."""


@dataclass(frozen=True)
class Probes:
    """What an engine is checked on: inputs of the stage from real frames, and how its outputs become captions.

    `see`: how an engine in 16 bits is judged besides.
    """

    inputs: Sequence[Sequence[Tensor]]
    read_tokens: ReadTokens | None = None
    see: See | None = None


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
