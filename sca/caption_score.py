"""How likely a caption is right, from how likely the language model found it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class CaptionCalibration:
    """Logistic map of a caption's mean token log-probability and length to the probability that it is right.

    probability = sigmoid(bias + logprob_weight * logprob + length_weight * tokens). Without weights (the default, and
    the released models) the probability is exp(logprob), uncalibrated. Fitted on held-out captions.
    """

    bias: float = 0.0
    logprob_weight: float = 0.0
    length_weight: float = 0.0

    def __post_init__(self) -> None:
        if not all(math.isfinite(value) for value in dataclasses.astuple(self)):
            raise ValueError("caption calibration has a value that is not finite: fit it again")

    def probability(self, logprob: float, tokens: int) -> float:
        """Probability in 0..1 for a mean token log-probability (natural, <= 0) over `tokens` tokens."""
        if self.logprob_weight == 0.0 and self.length_weight == 0.0:
            return math.exp(min(logprob, 0.0))
        x = self.bias + self.logprob_weight * logprob + self.length_weight * tokens
        return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))

    def to_dict(self) -> dict[str, float]:
        """Plain values, ready for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CaptionCalibration:
        """Read `to_dict`'s layout; ValueError for unknown or non-numeric entries."""
        try:
            return cls(**{str(key): float(value) for key, value in values.items()})
        except TypeError as error:
            raise ValueError(
                f"bad caption calibration ({error}): expected bias, logprob_weight, length_weight"
            ) from error
