"""One decoder for many callers: each gets its own captions, and a failure is told to all that it concerns."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
from transformers import PreTrainedModel

from sca.decoding.reference import decode
from sca.decoding.shared import SharedDecoding
from sca.decoding.slots import EagerSteps, SlotDecoder
from tests.sca.test_slot_decoding import PREFIX, language_model, prefixes


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return language_model("gpt2")


@torch.inference_mode()
def test_each_caller_gets_its_own_captions(model: PreTrainedModel) -> None:
    shared = SharedDecoding(lambda: SlotDecoder(model, PREFIX, slots=4), partial(decode, model))
    given = [prefixes(count, seed=count) for count in (5, 1, 3, 2, 7)]
    with ThreadPoolExecutor(5) as pool:
        got = list(pool.map(shared, given))
    for prefix, captions in zip(given, got, strict=True):
        expected = decode(model, prefix)
        assert captions.sequences() == expected.sequences()
        torch.testing.assert_close(captions.logprobs, expected.logprobs, atol=1e-4, rtol=1e-4)


def test_a_late_caller_joins_the_steps_of_an_early_one(model: PreTrainedModel) -> None:
    """The second caller arrives while the first is at its first step, and from then on both share every step."""
    first_step, joined = threading.Event(), threading.Event()
    rows: list[int] = []

    class Watched(EagerSteps):
        def step(self, token_ids: torch.Tensor, positions: torch.Tensor, cache: torch.Tensor) -> torch.Tensor:
            rows.append(len(token_ids))
            if not first_step.is_set():
                first_step.set()
                assert joined.wait(60)
            return super().step(token_ids, positions, cache)

    shared = SharedDecoding(lambda: SlotDecoder(model, PREFIX, steps=Watched(model)), partial(decode, model))
    early = next(
        prefix for prefix in prefixes(40, seed=3).split(1) if len(decode(model, prefix).sequences()[0]) > 3
    )
    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(shared, early)
        assert first_step.wait(60)
        two = pool.submit(shared, early.expand(4, -1, -1))
        while not shared.waiting:
            assert not two.done()
        joined.set()
        assert one.result(60).sequences() * 4 == two.result(60).sequences()
    assert rows[:2] == [1, 5]


def test_what_the_decoder_was_not_made_for_goes_to_plain_decoding(model: PreTrainedModel) -> None:
    shared = SharedDecoding(lambda: SlotDecoder(model, PREFIX), partial(decode, model))
    given = prefixes(3)
    for options in ({"beams": 3}, {"max_new_tokens": 4}):
        assert torch.equal(shared(given, **options).token_ids, decode(model, given, **options).token_ids)
    assert shared(given[:0]).token_ids.shape[0] == 0


def test_a_failure_is_raised_to_the_caller_and_the_next_one_is_served(model: PreTrainedModel) -> None:
    class Failing(EagerSteps):
        broken = True

        def step(self, token_ids: torch.Tensor, positions: torch.Tensor, cache: torch.Tensor) -> torch.Tensor:
            if Failing.broken:
                raise RuntimeError("the engine broke")
            return super().step(token_ids, positions, cache)

    shared = SharedDecoding(lambda: SlotDecoder(model, PREFIX, steps=Failing(model)), partial(decode, model))
    given = prefixes(9, seed=1)
    with pytest.raises(RuntimeError, match="the engine broke"):
        shared(given)
    Failing.broken = False
    assert shared(given).sequences() == decode(model, given).sequences()
