"""How long an engine takes beside the eager module: an engine that is slower has no reason to serve."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

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
