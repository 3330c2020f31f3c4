"""Greedy and beam decoding against transformers' own generation, on both language model families."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from sca.config import LanguageModelConfig
from sca.decoding.reference import decode
from sca.modeling.language_model import build_language_model, hidden_size
from tests.tiny_models import EOS, GPT2, LLAMA, VOCABULARY, stir

FAMILIES = pytest.mark.parametrize("family", [GPT2, LLAMA], ids=["gpt2", "llama"])
PREFIX, NEW = 5, 19


def _model(family: LanguageModelConfig, seed: int) -> PreTrainedModel:
    torch.manual_seed(seed)
    model = build_language_model(family).eval()
    stir(model, 0.25)
    with torch.no_grad():
        # Enough captions must end early for the ends to be tested.
        head = model.get_output_embeddings().weight
        head[EOS] *= 2.0
    return model


def _prefix(family: LanguageModelConfig, count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((count, PREFIX, hidden_size(family)), generator=generator)


def _until_end(ids: list[int]) -> list[int]:
    return ids[: ids.index(EOS) + 1] if EOS in ids else ids


def _log_likelihoods(model: PreTrainedModel, prefix: Tensor, ids: Tensor) -> Tensor:
    """Log-probability of each id (P, T), from one uncached pass."""
    embeds = torch.cat([prefix, model.get_input_embeddings()(ids)], dim=1)
    logits = model(inputs_embeds=embeds, use_cache=False).logits[:, PREFIX - 1 : -1]
    return torch.log_softmax(logits, dim=-1).gather(2, ids.unsqueeze(-1)).squeeze(-1)


@FAMILIES
@pytest.mark.parametrize(("beams", "seed"), [(1, 0), (1, 1), (2, 0), (3, 0), (3, 1), (5, 1)])
@torch.inference_mode()
def test_same_ids_as_transformers(family: LanguageModelConfig, beams: int, seed: int) -> None:
    model, prefix = _model(family, seed), _prefix(family, 7, seed)
    theirs = model.generate(
        inputs_embeds=prefix,
        attention_mask=torch.ones(prefix.shape[:2], dtype=torch.int64),
        max_new_tokens=NEW,
        num_beams=beams,
        do_sample=False,
    )
    ours = decode(model, prefix, beams=beams, max_new_tokens=NEW)
    assert ours.sequences() == [_until_end(ids) for ids in theirs.tolist()]


@torch.inference_mode()
def test_some_captions_end_early_and_some_do_not() -> None:
    """Otherwise the comparison above would not test where captions end."""
    lengths = torch.cat(
        [
            decode(_model(family, seed), _prefix(family, 7, seed), beams=beams).lengths
            for family in (GPT2, LLAMA)
            for seed in range(3)
            for beams in (1, 3)
        ]
    )
    assert len(lengths.unique()) > 3
    assert 1 <= int(lengths.min()) < int(lengths.max()) == NEW


@FAMILIES
@pytest.mark.parametrize("beams", [1, 3])
@torch.inference_mode()
def test_a_caption_does_not_depend_on_its_batch(family: LanguageModelConfig, beams: int) -> None:
    model, prefix = _model(family, 0), _prefix(family, 9, 3)
    together = decode(model, prefix, beams=beams)
    order = torch.tensor([4, 0, 8, 2, 6, 1, 7, 3, 5])
    shuffled = decode(model, prefix[order], beams=beams)
    for place, index in enumerate(order.tolist()):
        alone = decode(model, prefix[index : index + 1], beams=beams)
        assert together.sequences()[index] == alone.sequences()[0] == shuffled.sequences()[place]
        assert float(together.logprobs[index]) == pytest.approx(float(alone.logprobs[0]), abs=1e-4)


@FAMILIES
@pytest.mark.parametrize("beams", [1, 3])
@torch.inference_mode()
def test_logprob_is_the_mean_over_the_caption(family: LanguageModelConfig, beams: int) -> None:
    model, prefix = _model(family, 1), _prefix(family, 6, 5)
    decoded = decode(model, prefix, beams=beams)
    likelihoods = _log_likelihoods(model, prefix, decoded.token_ids)
    for row, length in enumerate(decoded.lengths.tolist()):
        assert float(decoded.logprobs[row]) == pytest.approx(
            float(likelihoods[row, :length].mean()), abs=1e-4
        )


@FAMILIES
@torch.inference_mode()
def test_the_end_is_repeated(family: LanguageModelConfig) -> None:
    model = _model(family, 0)
    decoded = decode(model, _prefix(family, 20, 7))
    for ids, length in zip(decoded.token_ids.tolist(), decoded.lengths.tolist(), strict=True):
        assert all(token != EOS for token in ids[: length - 1])
        assert length == decoded.token_ids.shape[1] or ids[length - 1] == EOS
        assert set(ids[length:]) <= {EOS}


@torch.inference_mode()
def test_no_prefixes_give_no_captions() -> None:
    decoded = decode(_model(GPT2, 0), _prefix(GPT2, 0, 0), beams=3)
    assert decoded.sequences() == []


@torch.inference_mode()
def test_impossible_requests() -> None:
    model, prefix = _model(GPT2, 0), _prefix(GPT2, 1, 0)
    with pytest.raises(ValueError, match="beams"):
        decode(model, prefix, beams=0)
    with pytest.raises(ValueError, match="at most 44"):
        decode(model, prefix, max_new_tokens=45)
    assert decode(model, prefix, max_new_tokens=44).token_ids.shape[1] <= 44
    assert int(decode(model, prefix).token_ids.max()) < VOCABULARY


@torch.inference_mode()
def test_beams_that_no_model_has_room_for_are_refused() -> None:
    model, prefix = _model(GPT2, 0), _prefix(GPT2, 1, 0)
    for beams in (0, -1, 62, 10**9):
        with pytest.raises(ValueError, match="beams"):
            decode(model, prefix, beams=beams)
    assert len(decode(model, prefix, beams=61, max_new_tokens=2).sequences()) == 1
