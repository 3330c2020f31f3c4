"""A small stage with everything that makes export hard: attention, norms, a dynamic axis and a shared input."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sca.stages.spec import DynamicAxis, OutputKind, Stage, StageInput, StageOutput


class SmallDecoder(nn.Module):
    """Tokens of P prompts attend to one shared image."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, width)

    def forward(self, image: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        keys = image.flatten(2).transpose(1, 2)
        query, key = self.query(tokens).unsqueeze(1), self.key(keys).unsqueeze(1)
        shape = (tokens.shape[0], -1, -1, -1)
        attended = F.scaled_dot_product_attention(query, key.expand(shape), keys.unsqueeze(1).expand(shape))
        tokens = self.norm(tokens + self.out(attended.squeeze(1)))
        masks = torch.einsum("ptc,chw->pthw", tokens, image[0])
        return masks, tokens


def small_stage(seed: int = 0, *, maximum: int = 64) -> Stage:
    torch.manual_seed(seed)
    prompts = DynamicAxis("prompts", 1, min(8, maximum), maximum)
    return Stage(
        "small-decoder",
        SmallDecoder().eval(),
        (StageInput("image", (1, 64, 16, 16)), StageInput("tokens", (prompts, 6, 64))),
        (StageOutput("mask_logits", OutputKind.MASK_LOGITS), StageOutput("updated_tokens")),
    )
