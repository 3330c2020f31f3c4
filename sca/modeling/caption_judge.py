"""Whether a caption is right, told from what the language model knew when it had written it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sca.modeling.language_model import embed_tokens
from sca.proposals import USUAL_FIT


class CaptionJudge(nn.Module):
    """Logistic regression on a caption's evidence (see `caption_evidence`); a part of a model that ships one.

    On regions unlike those that it learnt from, a language model is as certain of wrong phrases as of right ones. The
    judge learns the difference from captions of regions that nobody chose. `width`: of the language model. `asks_fits`: it also
    asks how much a region's box looks like a thing's own. A dog has one, grass has none: what that says depends on the caption.
    """

    def __init__(self, width: int, *, asks_fits: bool = False) -> None:
        super().__init__()
        self.asks_fits = asks_fits
        self.head = nn.Linear(2 * width + 3 if asks_fits else width + 1, 1)

    def forward(self, evidence: Tensor, fits: Tensor | None = None) -> Tensor:
        """Evidence (P, H + 1) and fits (P,) 0..1 to the logits (P,) of the probability that each caption is right.

        No fits: the boxes are somebody's own choice.
        """
        if self.asks_fits:
            told = evidence.new_full((len(evidence),), USUAL_FIT) if fits is None else fits
            evidence = with_fits(evidence, told)
        logits: Tensor = self.head(evidence)
        return logits[:, 0]


def with_fits(evidence: Tensor, fits: Tensor) -> Tensor:
    """Evidence (P, H + 1) and fits (P,) to (P, 2 H + 3): the evidence, the fit, and their products."""
    fits = fits[:, None].to(evidence)
    return torch.cat([evidence, fits, fits * evidence], dim=1)


def caption_evidence(
    model: PreTrainedModel,
    prefix: Tensor,
    token_ids: Sequence[Sequence[int]],
    logprobs: Sequence[float],
) -> Tensor:
    """What the language model knew when a caption was complete: float32 (P, H + 1).

    That is the last hidden state from which it predicted the caption's end, and the mean log-probability of the tokens.
    prefix (P, n, H) is what it was told of the regions; token_ids: P captions with their end token.
    """
    return read_again(model, prefix, token_ids, logprobs)[0]


def read_again(
    model: PreTrainedModel,
    prefix: Tensor,
    token_ids: Sequence[Sequence[int]],
    logprobs: Sequence[float],
) -> tuple[Tensor, list[tuple[float, ...]]]:
    """The evidence of complete captions (see `caption_evidence`), and the natural log-probability of each token of each."""
    count, length = len(token_ids), max(map(len, token_ids))
    device = prefix.device
    ids = torch.zeros((count, length), dtype=torch.int64)
    for row, caption in zip(ids, token_ids, strict=True):
        row[: len(caption)] = torch.tensor(caption, dtype=torch.int64)
    # What follows a caption in its row is padding, which nothing before it attends to.
    embeds = torch.cat([prefix, embed_tokens(model, ids.to(device)).to(prefix.dtype)], dim=1)
    hidden = model.base_model(inputs_embeds=embeds, use_cache=False).last_hidden_state
    last = torch.tensor([prefix.shape[1] + len(caption) - 2 for caption in token_ids], device=device)
    state = hidden[torch.arange(count, device=device), last].float()
    certainty = torch.tensor(logprobs, dtype=torch.float32, device=device)
    begun = prefix.shape[1] - 1
    likely = model.get_output_embeddings()(hidden[:, begun : begun + length]).float().log_softmax(-1)
    each = likely.gather(2, ids.to(device)[:, :, None])[:, :, 0].tolist()
    sure = [tuple(row[: len(caption)]) for row, caption in zip(each, token_ids, strict=True)]
    return torch.cat([state, certainty[:, None]], dim=1), sure
