"""Training captions for what they are scored by: the reward, the samples, and what is said of them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocoevalcap.cider.cider import Cider
from transformers import PreTrainedModel

from sca.data.text import token_batch, train_tokenizer
from sca.decoding.reference import decode
from sca.modeling.language_model import build_language_model, embed_tokens
from sca.training.caption_losses import ConsensusReward, advantages, continuation_logits, sample_captions
from sca.training.config import LanguageConfig, StageConfig, TrainingConfig

_PHRASES = st.lists(
    st.sampled_from(["a", "red", "green", "big", "dog", "cat", "man"]), min_size=1, max_size=6
).map(" ".join)
_VOCABULARY = 300


def _language() -> PreTrainedModel:
    text = LanguageConfig(width=32, layers=1, heads=2, dropout=0.0)
    config = TrainingConfig(language=text, stages=(StageConfig(name="only", steps=1),))
    return build_language_model(config.model_config_for(_VOCABULARY).language_model).eval()


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(_PHRASES, st.lists(_PHRASES, min_size=1, max_size=3)),
        min_size=2,
        max_size=12,
    )
)
def test_the_reward_is_the_measure_of_the_captions(said: list[tuple[str, list[str]]]) -> None:
    references = {index: wanted for index, (_, wanted) in enumerate(said)}
    _, each = Cider().compute_score(references, {index: [text] for index, (text, _) in enumerate(said)})
    reward = ConsensusReward(references.values())
    ours = [reward.score(text, wanted) for text, wanted in said]
    assert ours == pytest.approx(each.tolist(), abs=1e-9)


def test_a_sample_is_judged_by_the_others_of_its_region() -> None:
    phrases = ["a red dog", "a green cat"]
    tokenizer = train_tokenizer(phrases * 3, 300)
    ids, _ = token_batch(tokenizer, ["a red dog", "a cat", "a red dog", "a green cat"], 40)
    reward = ConsensusReward([[phrase] for phrase in phrases])
    better, mean = advantages(reward, tokenizer, ids, [["a red dog"], ["a green cat"]], head_bonus=1.0)
    first, second = better.unflatten(0, (2, 2))
    assert first[0] > 0 > first[1]
    assert second[1] > 0 > second[0]
    assert better.unflatten(0, (2, 2)).sum(dim=1).abs().max() < 1e-5
    alone, _ = advantages(reward, tokenizer, ids, [["a red dog"], ["a green cat"]], head_bonus=0.0)
    assert first[0] - alone[0] == pytest.approx(1.0)
    assert mean > 0


@settings(max_examples=15, deadline=None)
@given(
    lengths=st.lists(st.lists(st.integers(1, 9), min_size=3, max_size=3), min_size=1, max_size=4),
    seed=st.integers(0, 999),
)
def test_continuations_are_read_as_whole_texts_would_be(lengths: list[list[int]], seed: int) -> None:
    torch.manual_seed(seed)
    language = _language()
    prefix = torch.randn(len(lengths), 5, 32)
    said = (torch.arange(9) < torch.tensor(lengths).unsqueeze(-1)).long()
    ids = torch.randint(1, _VOCABULARY, said.shape) * said
    logits = continuation_logits(language, prefix, ids, said)
    whole = torch.cat([prefix.repeat_interleave(3, dim=0), embed_tokens(language, ids.flatten(0, 1))], dim=1)
    expected = language(inputs_embeds=whole).logits[:, 4:-1][said.flatten(0, 1) == 1]
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-3)


def test_samples_follow_the_model_and_end_where_it_ends() -> None:
    """A model that is sure of its next word says what a greedy reader of it would."""
    torch.manual_seed(0)
    language = _language()
    with torch.no_grad():
        language.transformer.ln_f.weight.mul_(1e5)
        language.get_input_embeddings().weight[0].mul_(2.0)
    prefix = torch.randn(6, 5, 32)
    greedy = decode(language, prefix, max_new_tokens=7).sequences()
    assert len({len(ids) for ids in greedy}) > 1
    for row, ids in enumerate(sample_captions(language, prefix, 2, 7).unflatten(0, (6, 2))):
        for sample in ids.tolist():
            end = sample.index(0) if 0 in sample else len(sample)
            assert sample[end:] == [0] * (len(sample) - end)
            assert sample[:end] == [token for token in greedy[row] if token != 0]
