"""Decoding in slots over a static cache gives the tokens of plain decoding, whoever joins when."""

from __future__ import annotations

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from sca.decoding.reference import decode
from sca.decoding.slots import EagerSteps, SlotDecoder, StagedSteps
from sca.decoding.static_cache import CacheShape
from sca.stages.language import PrefillStage, StepStage

PREFIX = 6
EOS = 1


def language_model(family: str) -> PreTrainedModel:
    torch.manual_seed(0)
    if family == "gpt2":
        config = GPT2Config(
            n_embd=32, n_layer=2, n_head=2, vocab_size=7, n_positions=40, bos_token_id=0, eos_token_id=EOS
        )
        model: PreTrainedModel = GPT2LMHeadModel(config).eval()
    else:
        model = LlamaForCausalLM(
            LlamaConfig(
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2 if family == "llama-grouped" else 4,
                vocab_size=7,
                bos_token_id=0,
                eos_token_id=EOS,
            )
        ).eval()
    with torch.no_grad():  # sharper logits: captions of different lengths, no ties
        model.get_output_embeddings().weight.mul_(30)
    return model


@pytest.fixture(scope="module", params=["gpt2", "llama", "llama-grouped"])
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    return language_model(request.param)


def prefixes(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, PREFIX, 32, generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def test_slots_give_the_tokens_of_plain_decoding(model: PreTrainedModel) -> None:
    given = prefixes(11)
    expected = decode(model, given)
    assert len({len(ids) for ids in expected.sequences()}) > 1, (
        "captions must differ in length to test anything"
    )
    got = SlotDecoder(model, PREFIX, slots=4).decode(given)
    assert got.sequences() == expected.sequences()
    torch.testing.assert_close(got.logprobs, expected.logprobs, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_who_joins_late_changes_nothing_for_those_under_way(model: PreTrainedModel) -> None:
    given = prefixes(9, seed=1)
    expected = decode(model, given).sequences()
    decoder, found = SlotDecoder(model, PREFIX, slots=8), {}
    for part in given.split(2):  # two more after every second step
        decoder.submit(part)
        found |= {caption.ticket: list(caption.token_ids) for caption in decoder.advance(steps=2)}
    while decoder.busy:
        found |= {caption.ticket: list(caption.token_ids) for caption in decoder.advance(steps=1)}
    assert [found[ticket] for ticket in range(9)] == expected


@torch.inference_mode()
def test_finished_captions_are_not_computed_again(model: PreTrainedModel) -> None:
    given = prefixes(12, seed=2)
    lengths = [len(ids) for ids in decode(model, given).sequences()]
    rows: list[int] = []

    class Counting(EagerSteps):
        def step(self, token_ids: torch.Tensor, positions: torch.Tensor, cache: torch.Tensor) -> torch.Tensor:
            rows.append(len(token_ids))
            return super().step(token_ids, positions, cache)

    SlotDecoder(model, PREFIX, slots=12, steps=Counting(model)).decode(given)
    # The first token of a caption comes of its prefix.
    assert rows == [sum(length > done for length in lengths) for done in range(1, max(lengths))]


@torch.inference_mode()
def test_the_exportable_stages_give_the_same_logits_as_the_model(model: PreTrainedModel) -> None:
    given = prefixes(3)
    length = PREFIX + 5
    steps = StagedSteps(PrefillStage(model), StepStage(model))
    logits, filled = steps.prefill(given)
    cache = CacheShape.of(model, length).empty(3, torch.float32, torch.device("cpu"))
    cache[..., :PREFIX, :] = filled
    ids = torch.zeros(3, 0, dtype=torch.int64)
    for offset in range(5):
        token = logits.argmax(-1)
        ids = torch.cat([ids, token.unsqueeze(1)], dim=1)
        logits = steps.step(token, torch.full((3,), PREFIX + offset), cache)
        embeds = torch.cat([given, model.get_input_embeddings()(ids)], dim=1)
        expected = model(inputs_embeds=embeds, use_cache=False).logits[:, -1]
        torch.testing.assert_close(logits, expected, atol=1e-3, rtol=1e-3)


def test_a_prefix_of_another_length_is_refused(model: PreTrainedModel) -> None:
    with pytest.raises(ValueError, match=str(PREFIX)):
        SlotDecoder(model, PREFIX).submit(torch.zeros(1, PREFIX + 1, 32))


def test_more_tokens_than_positions_are_refused() -> None:
    with pytest.raises(ValueError, match="40 positions"):
        SlotDecoder(language_model("gpt2"), PREFIX, max_new_tokens=60)
