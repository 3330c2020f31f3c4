"""What the language model's engines are checked on: every step of eager float32 decoding of real regions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from engines.parity import Probes
from sca.decoding import MAX_NEW_TOKENS
from sca.language_stages import prefix_length
from sca.language_steps import EagerSteps
from sca.modeling import Sca
from sca.slot_decoding import SlotDecoder

_CACHE_BYTES = 64_000_000
"""Of one step's cache: a recording holds the cache of every step."""


class _Recorder(EagerSteps):
    """Remembers the inputs of every step, which are those of captions under way alone."""

    def __init__(self, model: Sca) -> None:
        super().__init__(model.language_model)
        self.inputs: list[tuple[Tensor, ...]] = []

    def step(self, token_ids: Tensor, positions: Tensor, cache: Tensor) -> Tensor:
        parts = (part.clone() for part in cache.flatten(0, 1).unbind(0))
        self.inputs.append((token_ids.clone(), positions.clone(), *parts))
        return super().step(token_ids, positions, cache)


class _Given(EagerSteps):
    """Goes on from a prefill that somebody else computed."""

    def __init__(self, model: Sca, logits: Tensor, cache: Tensor) -> None:
        super().__init__(model.language_model)
        self._filled = logits, cache.permute(1, 2, 0, 3, 4, 5)

    def prefill(self, prefix: Tensor) -> tuple[Tensor, Tensor]:
        return self._filled


@torch.inference_mode()
def prefill_probes(model: Sca, prefixes: Sequence[Tensor]) -> Probes:
    """Prefixes (R, n, H) of real regions; the tokens are those of the whole captions that follow."""

    @torch.inference_mode()
    def read(outputs: Sequence[Sequence[Tensor]]) -> Tensor:
        rows = []
        for prefix, (logits, cache) in zip(prefixes, outputs, strict=True):
            steps = _Given(model, logits.to(prefix.device), cache.to(prefix.device))
            rows.append(_decoder(model, len(prefix), steps).decode(prefix).token_ids)
        return _stacked(rows)

    return Probes([(prefix,) for prefix in prefixes], read)


@torch.inference_mode()
def step_probes(model: Sca, prefixes: Sequence[Tensor]) -> Probes:
    """All steps of captions of prefixes (R, n, H). The same token in each means the same captions."""
    together = torch.cat(list(prefixes))
    few = _decoder(model, 1, EagerSteps(model.language_model))
    together = together[: max(4, _CACHE_BYTES // few.cache_bytes)]
    recorder = _Recorder(model)
    _decoder(model, len(together), recorder).decode(together)
    return Probes(recorder.inputs)


def _decoder(model: Sca, slots: int, steps: EagerSteps) -> SlotDecoder:
    return SlotDecoder(
        model.language_model,
        prefix_length(model),
        slots=slots,
        max_new_tokens=MAX_NEW_TOKENS,
        steps=steps,
        capture=False,
    )


def _stacked(rows: Sequence[Tensor]) -> Tensor:
    longest = max(row.shape[1] for row in rows)
    return torch.cat([torch.nn.functional.pad(row, (0, longest - row.shape[1]), value=-1) for row in rows])
