"""Captions decoded in slots: new ones join while others are under way, and the host looks only now and then.

One step of all slots is a fixed sequence of device operations (embedding, model, argmax, end test, cache write), so on
CUDA it is captured once as a graph and replayed: a step then costs one launch instead of hundreds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sca.decoding.reference import MAX_NEW_TOKENS, DecodedCaptions, end_of_text_ids
from sca.decoding.static_cache import CacheShape, RowCache, end_mask, prefill, step
from sca.errors import UserError

# What decoding asks of a language model: a prefix first, then one token per row and step, over a cache of fixed shape.


class LanguageSteps(Protocol):
    """The two computations of a decoder; a compiled engine may take their place."""

    def prefill(self, prefix: Tensor) -> tuple[Tensor, Tensor]:
        """Prefixes (R, n, H) to logits (R, V) and the cache (layers, 2, R, heads, n, head_dim)."""
        ...

    def step(self, token_ids: Tensor, positions: Tensor, cache: Tensor) -> Tensor:
        """Tokens (R,) at positions (R,) to logits (R, V); their keys and values are written into `cache`.

        cache: (layers, 2, R, heads, length, head_dim), possibly a part of a larger tensor.
        """
        ...


class EagerSteps:
    """The model itself."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model

    def prefill(self, prefix: Tensor) -> tuple[Tensor, Tensor]:
        return prefill(self._model, prefix.to(self._model.dtype))

    def step(self, token_ids: Tensor, positions: Tensor, cache: Tensor) -> Tensor:
        return step(self._model, token_ids, RowCache(cache, positions), positions)


class StagedSteps:
    """The exported stages `PrefillStage` and `StepStage` (see `sca.static_cache`), run by engines. Their states are not read."""

    def __init__(
        self,
        prefill_engine: Callable[..., tuple[Tensor, ...]],
        step_engine: Callable[..., tuple[Tensor, ...]],
    ) -> None:
        self._prefill, self._step = prefill_engine, step_engine

    def prefill(self, prefix: Tensor) -> tuple[Tensor, Tensor]:
        logits, cache, _ = self._prefill(prefix)
        return logits, cache.permute(1, 2, 0, 3, 4, 5)

    def step(self, token_ids: Tensor, positions: Tensor, cache: Tensor) -> Tensor:
        logits, added, _ = self._step(token_ids, positions, *cache.flatten(0, 1).unbind(0))
        rows = torch.arange(len(token_ids), device=cache.device)
        cache[:, :, rows, :, positions] = added.to(cache.dtype)
        return logits


READ_EVERY = 4
"""Steps on a GPU between two looks of the host at which slots have finished: each look waits for the device.

A guess: a finished caption idles for three steps at most.
"""


@dataclass(frozen=True)
class FinishedCaption:
    """One decoded caption: the ticket that `SlotDecoder.submit` gave, token ids with EOS, mean log-probability."""

    ticket: int
    token_ids: tuple[int, ...]
    logprob: float


class SlotDecoder:
    """Greedy decoding of any number of prefixes of one length over `slots` rows of a static cache.

    The same tokens as `sca.decoding.decode`. `steps`: what computes, by default the model itself; `capture`: whether a
    step becomes a CUDA graph, by default on a GPU. Not thread-safe. Raises `UserError` if the model has too few
    positions.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        prefix_length: int,
        *,
        slots: int = 64,
        max_new_tokens: int = MAX_NEW_TOKENS,
        steps: LanguageSteps | None = None,
        capture: bool | None = None,
    ) -> None:
        parameter = next(model.parameters())
        self._model, self._device = model, parameter.device
        self._steps = steps or EagerSteps(model)
        self._prefix_length, self._max_new = prefix_length, max_new_tokens
        self._ends = end_of_text_ids(model)
        shape = CacheShape.of(model, prefix_length + max_new_tokens - 1)
        self._cache = shape.empty(slots, parameter.dtype, self._device)

        def state(dtype: torch.dtype, *extent: int) -> Tensor:
            return torch.zeros((slots, *extent), dtype=dtype, device=self._device)

        self._tokens, self._positions = state(torch.int64), state(torch.int64)
        self._running, self._total = state(torch.bool), state(torch.float32)
        self._counts, self._written = state(torch.int64), state(torch.int64, max_new_tokens)
        self._tickets: list[int | None] = [None] * slots
        self._waiting: deque[tuple[int, Tensor]] = deque()
        self._next_ticket = 0
        self._capture = self._device.type == "cuda" if capture is None else capture
        self._read_every = READ_EVERY if self._device.type == "cuda" else 1
        self._replays: dict[int, Callable[[], None]] = {}

    @property
    def prefix_length(self) -> int:
        """Vectors in each prefix."""
        return self._prefix_length

    @property
    def cache_bytes(self) -> int:
        """Size of the cache of all slots."""
        return self._cache.nbytes

    @property
    def max_new_tokens(self) -> int:
        """Tokens of a caption at most."""
        return self._max_new

    def submit(self, prefixes: Tensor) -> list[int]:
        """Queues prefixes (P, n, H); they join at the next `advance`. Returns a ticket for each."""
        if prefixes.shape[1] != self._prefix_length:
            raise UserError(
                f"prefixes have {prefixes.shape[1]} vectors, this decoder was made for {self._prefix_length}: "
                "make another one"
            )
        tickets = list(range(self._next_ticket, self._next_ticket + len(prefixes)))
        self._next_ticket += len(prefixes)
        self._waiting.extend(zip(tickets, prefixes.unbind(0), strict=True))
        return tickets

    @property
    def busy(self) -> bool:
        """Whether captions are under way or waiting."""
        return bool(self._waiting) or any(ticket is not None for ticket in self._tickets)

    @torch.inference_mode()
    def advance(self, steps: int | None = None) -> list[FinishedCaption]:
        """Lets waiting prefixes join, makes `steps` steps of all slots, and returns what has finished."""
        # 1. Who waits gets a free slot. A caption may end with its first token, which comes of the prefix.
        finished = self._collect() if self._join() else []
        # 2. The busy slots stand at the front, so that a step computes them and nothing else.
        self._close_ranks()
        used = sum(ticket is not None for ticket in self._tickets)
        if not used:
            return finished
        rows = _bucket(used, len(self._tickets)) if self._capture else used
        replay = self._replays.get(rows)
        if replay is None:
            replay = self._replays[rows] = self._prepare(rows)
        # 3. Steps without a look; slots that finish meanwhile stand still.
        for _ in range(steps or self._read_every):
            replay()
        return finished + self._collect()

    def decode(self, prefixes: Tensor) -> DecodedCaptions:
        """All captions of prefixes (P, n, H), which must be the only ones in the decoder."""
        assert not self.busy
        tickets = self.submit(prefixes)
        found: dict[int, FinishedCaption] = {}
        while self.busy:
            found |= {caption.ticket: caption for caption in self.advance()}
        return self.as_batch([found[ticket] for ticket in tickets])

    def as_batch(self, captions: Sequence[FinishedCaption]) -> DecodedCaptions:
        """Finished captions as `sca.decoding.decode` gives them."""
        pad = self._model.config.pad_token_id
        filler = pad if pad is not None else (self._ends[0] if self._ends else 0)
        longest = max((len(caption.token_ids) for caption in captions), default=0)
        ids = [[*caption.token_ids, *[filler] * (longest - len(caption.token_ids))] for caption in captions]
        return DecodedCaptions(
            torch.tensor(ids, dtype=torch.int64, device=self._device).reshape(len(captions), longest),
            torch.tensor([len(caption.token_ids) for caption in captions], device=self._device),
            torch.tensor([caption.logprob for caption in captions], device=self._device),
        )

    def _join(self) -> int:
        """Puts waiting prefixes into free slots; returns how many."""
        free = [index for index, ticket in enumerate(self._tickets) if ticket is None]
        count = min(len(free), len(self._waiting))
        if not count:
            return 0
        joining = [self._waiting.popleft() for _ in range(count)]
        slots = torch.tensor(free[:count], device=self._device)
        for slot, (ticket, _) in zip(free, joining, strict=False):
            self._tickets[slot] = ticket
        prefixes = torch.stack([prefix for _, prefix in joining]).to(self._device)
        # The prefixes of all newcomers at once; their first token comes with it. What the slot held before lies behind the
        # row's position, where nobody looks.
        logits, cache = self._steps.prefill(prefixes)
        self._cache[:, :, slots, :, : self._prefix_length] = cache.to(self._cache.dtype)
        best, token = torch.log_softmax(logits, dim=-1).max(dim=-1)
        self._tokens[slots] = token
        self._positions[slots] = self._prefix_length
        self._total[slots] = best
        self._counts[slots] = 1
        self._written[slots, 0] = token
        self._running[slots] = ~end_mask(token, self._ends) & (self._max_new > 1)
        return count

    def _close_ranks(self) -> None:
        """Moves the last captions into the gaps that finished ones left, so that no step computes the finished."""
        used = [index for index, ticket in enumerate(self._tickets) if ticket is not None]
        gaps = [index for index in range(len(used)) if self._tickets[index] is None]
        if not gaps:
            return
        movers = used[len(used) - len(gaps) :]
        source = torch.tensor(movers, device=self._device)
        target = torch.tensor(gaps, device=self._device)
        for state in self._row_states():
            state[target] = state[source]
        self._cache[:, :, target] = self._cache[:, :, source]
        for mover, gap in zip(movers, gaps, strict=True):
            self._tickets[gap], self._tickets[mover] = self._tickets[mover], None

    def _row_states(self) -> tuple[Tensor, ...]:
        return self._tokens, self._positions, self._running, self._total, self._counts, self._written

    def _step(self, rows: int) -> None:
        """One step of the first `rows` slots, in place and without a look from the host."""
        tokens, positions = self._tokens[:rows], self._positions[:rows]
        running, counts = self._running[:rows], self._counts[:rows]
        logits = self._steps.step(tokens, positions, self._cache[:, :, :rows])
        best, token = torch.log_softmax(logits, dim=-1).max(dim=-1)
        written = self._written[:rows]
        places = torch.arange(self._max_new, device=self._device)
        written.copy_(
            torch.where((places == counts.unsqueeze(1)) & running.unsqueeze(1), token.unsqueeze(1), written)
        )
        self._total[:rows] += torch.where(running, best, 0.0)
        tokens.copy_(torch.where(running, token, tokens))
        # What has finished stays where it is: it writes the same place of its own row again, which nobody reads.
        positions.add_(running & (positions < self._cache.shape[-2] - 1))
        counts.add_(running)
        running.copy_(running & ~end_mask(token, self._ends) & (counts < self._max_new))

    def _prepare(self, rows: int) -> Callable[[], None]:
        if not self._capture:
            return lambda: self._step(rows)
        state = (*self._row_states(), self._cache)
        # Trial steps on a stream of their own make the libraries allocate what they need before the capture, which may
        # allocate nothing.
        saved = [tensor.clone() for tensor in state]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                self._step(rows)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._step(rows)
        for tensor, kept in zip(state, saved, strict=True):  # the trial steps must not count
            tensor.copy_(kept)
        return graph.replay

    def _collect(self) -> list[FinishedCaption]:
        running = self._running.tolist()
        done = [slot for slot, ticket in enumerate(self._tickets) if ticket is not None and not running[slot]]
        if not done:
            return []
        slots = torch.tensor(done, device=self._device)
        counts = self._counts[slots]
        means = (self._total[slots] / counts).tolist()
        finished = []
        for slot, ids, count, mean in zip(
            done, self._written[slots].tolist(), counts.tolist(), means, strict=True
        ):
            ticket = self._tickets[slot]
            assert ticket is not None
            finished.append(FinishedCaption(ticket, tuple(ids[:count]), mean))
            self._tickets[slot] = None
        return finished


def _bucket(rows: int, most: int) -> int:
    """The next power of two, so that few graphs serve every number of rows."""
    return min(1 << (rows - 1).bit_length(), most)
