"""Training captions for what they are scored by: self-critical sequence training (arXiv 1612.00563) on regions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from math import exp, log, sqrt
from typing import NamedTuple

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from sca.data.text import clean_phrase, head_noun, token_batch
from sca.modeling.language_model import embed_tokens
from sca.modeling.region_reader import RegionReadings
from sca.modeling.sca import IGNORED_LABEL, Sca
from sca.modeling.timm_encoder import TimmEncoder
from sca.training.config import LossConfig, StageConfig
from sca.training.region_features import (
    _DROPOUT,
    _NOISE,
    _TOKEN_DROPOUT,
    RegionFeatures,
    TokenBatch,
    half_precision,
)
from sca.training.steps import StepLosses


def region_prefix(model: Sca, features: RegionFeatures) -> Tensor:
    """The language model's prefix (R, n, H) of regions; in training with noise and dropout."""
    tokens = features.tokens
    if model.training:
        tokens = F.dropout(tokens, _TOKEN_DROPOUT) + _NOISE * torch.randn_like(tokens)
    encoder = model.image_encoder
    if model.region_reader is not None:
        assert isinstance(encoder, TimmEncoder)
        assert encoder.caption_map is not None
        cells = encoder.caption_map.of_pooled(features.cells, _DROPOUT)
        scene = encoder.caption_map.of_pooled(features.scene, _DROPOUT)
        tokens = model.region_reader(tokens, RegionReadings(cells, scene, features.place))
    return model.language_prefix(tokens)


def language_losses(
    model: Sca,
    tokenizer: Tokenizer,
    batch: TokenBatch,
    *,
    weights: LossConfig,
    max_tokens: int,
) -> StepLosses:
    """Teacher-forced loss of phrases, given their regions' features."""
    device = batch.features.tokens.device
    ids, mask = (part.to(device) for part in token_batch(tokenizer, batch.phrases, max_tokens))
    with half_precision(device):
        prefix = region_prefix(model, batch.features)
        caption = model.caption_loss(prefix, ids, mask, label_smoothing=weights.label_smoothing)
    with torch.no_grad():
        real = caption.labels[:, 1:] != IGNORED_LABEL
        right = caption.logits[:, :-1].argmax(-1) == caption.labels[:, 1:]
    return StepLosses(caption.loss, caption=caption.loss.item(), accuracy=right[real].float().mean().item())


def consensus_losses(
    model: Sca,
    tokenizer: Tokenizer,
    batch: TokenBatch,
    reward: ConsensusReward,
    *,
    stage: StageConfig,
    weights: LossConfig,
    max_tokens: int,
) -> StepLosses:
    """Policy gradient of sampled captions' scores (self-critical training), and a share of the likelihood."""
    language = model.language_model
    device = batch.features.tokens.device
    with half_precision(device):
        prefix = region_prefix(model, batch.features)
        language.eval()
        ids = sample_captions(language, prefix.detach(), stage.samples, max_tokens)
        language.train()
        better, mean_reward = advantages(reward, tokenizer, ids, batch.references, weights.head)
        better = better.to(device)
        phrases, known = (part.to(device) for part in token_batch(tokenizer, batch.phrases, max_tokens))
        # The end mark is said, what stands behind it is not.
        said = torch.cat([torch.ones_like(ids[:, :1]), (ids[:, :-1] != 0).long()], dim=1)
        length = max(ids.shape[1], phrases.shape[1])
        padded = [F.pad(part, (0, length - part.shape[1])) for part in (ids, said, phrases, known)]
        ids, said, phrases, known = (part.unflatten(0, (len(phrases), -1)) for part in padded)
        captions, real = torch.cat([ids, phrases], dim=1), torch.cat([said, known], dim=1)
        logits = continuation_logits(language, prefix, captions, real).float()
    # Which of the continuations each logit is of; the last of a region is the annotators' phrase.
    region, which, _ = real.nonzero(as_tuple=True)
    annotated = which == stage.samples
    wanted = captions[real == 1]
    sampled = F.cross_entropy(logits[~annotated], wanted[~annotated], reduction="none")
    policy = (better.unflatten(0, (-1, stage.samples))[region[~annotated], which[~annotated]] * sampled).sum()
    likely = F.cross_entropy(logits[annotated], wanted[annotated], label_smoothing=weights.label_smoothing)
    total = policy / better.numel() + weights.likelihood * likely
    return StepLosses(total, caption=likely.item(), reward=mean_reward)


_LONGEST = 4  # n-grams
_SIGMA = 6.0  # of the penalty for another length


class _Weighted(NamedTuple):
    """Term weights of one phrase by n, their norms, and the phrase's number of bigrams (as the reference code has it)."""

    weights: tuple[dict[tuple[str, ...], float], ...]
    norms: tuple[float, ...]
    length: int


class ConsensusReward:
    """CIDEr-D (arXiv 1411.5726) of single phrases, with the document frequencies of a fixed corpus.

    pycocoevalcap, which measures the model, takes its frequencies from the phrases that it is given at once, and so
    cannot score a batch; on a whole corpus the two agree. `documents`: the references of each region.
    """

    def __init__(self, documents: Iterable[Sequence[str]]) -> None:
        self._frequency: Counter[tuple[str, ...]] = Counter()
        count = 0
        for references in documents:
            self._frequency.update({gram for reference in references for gram in _grams(reference)})
            count += 1
        self._log_count = log(max(count, 1))
        self._known: dict[str, _Weighted] = {}

    def score(self, phrase: str, references: Sequence[str]) -> float:
        """CIDEr-D of one phrase, 0 to 10."""
        said = self._weighted(phrase)
        total = 0.0
        for reference in references:
            wanted = self._weighted(reference)
            penalty = exp(-((said.length - wanted.length) ** 2) / (2 * _SIGMA**2))
            for n in range(_LONGEST):
                norm = said.norms[n] * wanted.norms[n]
                if norm > 0:
                    other = wanted.weights[n]
                    agreed = sum(
                        min(weight, other[gram]) * other[gram]
                        for gram, weight in said.weights[n].items()
                        if gram in other
                    )
                    total += penalty * agreed / norm
        return 10.0 * total / (_LONGEST * max(len(references), 1))

    def _weighted(self, phrase: str) -> _Weighted:
        if phrase not in self._known:
            weights: tuple[dict[tuple[str, ...], float], ...] = tuple({} for _ in range(_LONGEST))
            for gram, count in _grams(phrase).items():
                rarity = self._log_count - log(max(1.0, self._frequency[gram]))
                weights[len(gram) - 1][gram] = count * rarity
            norms = tuple(sqrt(sum(weight**2 for weight in part.values())) for part in weights)
            self._known[phrase] = _Weighted(weights, norms, max(len(phrase.split()) - 1, 0))
        return self._known[phrase]


def _grams(phrase: str) -> Counter[tuple[str, ...]]:
    words = phrase.split()
    return Counter(
        tuple(words[start : start + n]) for n in range(1, _LONGEST + 1) for start in range(len(words) - n + 1)
    )


@torch.no_grad()
def sample_captions(model: PreTrainedModel, prefix: Tensor, count: int, max_tokens: int) -> Tensor:
    """`count` random continuations of each prefix (P, n, H): ids (P * count, T), each ending in EOS (id 0) or cut."""
    cache = DynamicCache(config=model.config)
    output = model(inputs_embeds=prefix, past_key_values=cache, use_cache=True, logits_to_keep=1)
    cache.batch_repeat_interleave(count)
    logits = output.logits[:, -1].repeat_interleave(count, dim=0)
    ids = torch.zeros(len(logits), max_tokens, dtype=torch.int64, device=prefix.device)
    running = torch.arange(len(logits), device=prefix.device)
    for step in range(max_tokens):
        token = torch.multinomial(logits.float().softmax(-1), 1)[:, 0]
        ids[running, step] = token
        # Most captions are over after three words: the others go on without them.
        left = token.nonzero()[:, 0]
        if len(left) == 0 or step + 1 == max_tokens:
            return ids[:, : step + 1]
        if len(left) < len(token):
            cache.batch_select_indices(left)
        running, embeds = running[left], embed_tokens(model, token[left].unsqueeze(1))
        logits = model(inputs_embeds=embeds, past_key_values=cache, use_cache=True).logits[:, -1]
    raise AssertionError("max_tokens must be positive")


def continuation_logits(model: PreTrainedModel, prefix: Tensor, ids: Tensor, said: Tensor) -> Tensor:
    """Logits (N, V) of the N tokens of `ids` (P, K, T) that are `said` (1 or 0), in their order, with gradients.

    K continuations of each prefix (P, n, H), which is read once for all of them: it is several times as long as what is
    said of it. Short and long continuations are read apart, so that little is computed for padding.
    """
    count, length = ids.shape[1:]
    cache = DynamicCache(config=model.config)
    output = model(inputs_embeds=prefix, past_key_values=cache, use_cache=True, logits_to_keep=1)
    lengths = said.flatten(0, 1).sum(dim=1)
    short = lengths <= int(lengths.float().quantile(0.75))
    found, places = [], []
    for rows in (short.nonzero()[:, 0], (~short).nonzero()[:, 0]):
        if len(rows) == 0:
            continue
        width = int(lengths[rows].max())
        logits = output.logits[rows // count]
        if width > 1:
            read = DynamicCache(config=model.config)
            for index, layer in enumerate(cache.layers):
                assert isinstance(layer, DynamicLayer)
                assert layer.keys is not None
                assert layer.values is not None
                read.update(layer.keys[rows // count], layer.values[rows // count], index)
            embeds = embed_tokens(model, ids.flatten(0, 1)[rows, : width - 1]).to(prefix.dtype)
            rest = model(inputs_embeds=embeds, past_key_values=read, use_cache=True).logits
            logits = torch.cat([logits, rest], dim=1)
        at = said.flatten(0, 1)[rows, :width].nonzero()
        found.append(logits[at[:, 0], at[:, 1]])
        places.append(rows[at[:, 0]] * length + at[:, 1])
    return torch.cat(found)[torch.cat(places).argsort()]


def advantages(
    reward: ConsensusReward,
    tokenizer: Tokenizer,
    ids: Tensor,
    references: Sequence[Sequence[str]],
    head_bonus: float,
) -> tuple[Tensor, float]:
    """How much better each sample (P * K, T) is than the others of its region: (P * K,), and the mean reward.

    The reward is CIDEr-D, and `head_bonus` for a right head noun.
    """
    count = len(ids) // len(references)
    texts = [clean_phrase(text) for text in tokenizer.decode_batch(ids.tolist(), skip_special_tokens=True)]
    found = []
    for index, text in enumerate(texts):
        own = references[index // count]
        right = head_noun(text) in {head_noun(reference) for reference in own}
        found.append(reward.score(text, own) + head_bonus * right)
    rewards = torch.tensor(found).unflatten(0, (-1, count))
    others = (rewards.sum(dim=1, keepdim=True) - rewards) / max(count - 1, 1)
    return (rewards - others).flatten(), float(rewards.mean())
