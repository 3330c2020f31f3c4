"""What a check of an engine gave, and when that means that it must not serve: numbers alone, which any process may read."""

from __future__ import annotations

import math
from dataclasses import dataclass

GATE_VERSION = 3
"""Grows when the gate becomes stricter, so that engines passed by an older gate are checked again."""

MIN_COSINE = 0.999
MIN_SAME_SHARE = 0.98
SAME_MASK_IOU = 0.98
"""Of what is seen: a region's mask is the same from this IoU on, and so many regions' masks and captions have to be."""
MIN_MASK_IOU = 0.99
MAX_SCORE_ERROR = 0.02

# How long an engine takes beside the eager module: an engine that is slower has no reason to serve.

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


@dataclass(frozen=True)
class SeenReport:
    """What somebody would see change with an engine: shares of the `regions` of a fixed set of pictures.

    `same_masks`: those whose mask has an IoU of `SAME_MASK_IOU` or more with that of eager float32, None where the stage has
    no part in masks; `same_captions`: those whose caption is the same, word for word.
    """

    regions: int
    same_masks: float | None
    same_captions: float

    def failures(self) -> tuple[str, ...]:
        """Why the engine is refused; empty when it passes."""
        found = []
        for name, share in (("masks", self.same_masks), ("captions", self.same_captions)):
            if share is not None and not share >= MIN_SAME_SHARE:
                found.append(
                    f"the same {name} of {share:.1%} of {self.regions} regions < {MIN_SAME_SHARE:.0%}"
                )
        return tuple(found)

    def __str__(self) -> str:
        masks = "" if self.same_masks is None else f"masks of {self.same_masks:.1%} and "
        return f"the same {masks}captions of {self.same_captions:.1%} of {self.regions} regions"


@dataclass(frozen=True)
class ParityReport:
    """How far an engine is from eager float32, at its worst over all inputs.

    `cosine` is the smallest cosine similarity of a feature output, `mask_iou` the mean IoU of the masks, `score_error`
    the largest difference of a score, `max_error` the largest absolute difference of any output, `same_tokens`
    whether every greedy token is the same: of the stage itself, or of the captions that the eager rest of the model makes
    of its outputs. `seen`: what is seen of it, in which case a few captions may change. What does not apply to a stage is None.
    """

    inputs: int
    max_error: float
    cosine: float | None = None
    mask_iou: float | None = None
    score_error: float | None = None
    same_tokens: bool | None = None
    seen: SeenReport | None = None

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
        if self.same_tokens is False and self.seen is None:
            found.append("another greedy token than eager")
        if self.seen is not None:
            found += self.seen.failures()
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
        if self.seen is not None:
            parts.append(str(self.seen))
        return ", ".join(parts)
