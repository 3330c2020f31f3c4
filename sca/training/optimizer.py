"""Which weights a stage trains, how fast, and how the rate falls."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from sca.modeling.sca import Sca
from sca.modeling.timm_encoder import TimmEncoder
from sca.training.config import StageConfig
from sca.training.word_probe import WordProbe

LANGUAGE = ("language_model.", "language_project.", "task_tokens.")
# What a stage of the language model trains with it: it reads features that nothing else does.
READER = ("image_encoder.caption_map.", "region_reader.")
# Strides 2 to 8: edges and textures, which transfer as they are; leaving them out saves half of the backward pass.
_EARLY = tuple(
    f"image_encoder.backbone.{part}." for part in ("conv_stem", "bn1", "blocks.0", "blocks.1", "blocks.2")
)
CAPTION_BACKBONE = ("image_encoder.caption_backbone.",)  # keeps its ImageNet weights
_PROBE_RATE = 5.0  # a linear probe learns fast and holds nothing that could be spoilt


def schedule(step: int, stage: StageConfig) -> float:
    """Learning-rate factor: linear warm-up, then cosine to `final_rate`."""
    if step < stage.warmup_steps:
        return (step + 1) / stage.warmup_steps
    share = (step - stage.warmup_steps) / max(stage.steps - stage.warmup_steps, 1)
    return stage.final_rate + (1 - stage.final_rate) * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))


def build_optimizer(model: Sca, stage: StageConfig, probe: WordProbe) -> torch.optim.Optimizer:
    """AdamW over what the stage trains; matrices decay, vectors (biases, norms, single tokens) do not."""
    encoder = model.image_encoder
    assert isinstance(encoder, TimmEncoder)
    kept = (*CAPTION_BACKBONE, *LANGUAGE, *READER) if stage.trains == "masks" else CAPTION_BACKBONE
    groups: dict[tuple[float, bool], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        in_backbone = name.startswith(("image_encoder.backbone.", "image_encoder.head."))
        trained = not in_backbone or stage.backbone == "full"
        if stage.trains == "language":
            trained = name.startswith((*LANGUAGE, *READER))
        elif name.startswith(kept):
            trained = False
        elif in_backbone and stage.backbone == "late":
            trained = not name.startswith(_EARLY)
        parameter.requires_grad_(trained)
        if trained:
            rate = stage.learning_rate
            if in_backbone:
                rate = stage.backbone_learning_rate
            elif name.startswith((*LANGUAGE, *READER)):
                rate = stage.language_learning_rate or rate
            groups.setdefault((rate, parameter.ndim > 1), []).append(parameter)
    probe_rate = _PROBE_RATE * stage.learning_rate
    settings: list[dict[str, Any]] = [
        {"params": list(probe.parameters()), "lr": probe_rate, "base_lr": probe_rate, "weight_decay": 0.0}
    ]
    for (rate, decays), parameters in groups.items():
        settings.append(
            {
                "params": parameters,
                "lr": rate,
                "base_lr": rate,
                "weight_decay": stage.weight_decay if decays else 0.0,
            }
        )
    return torch.optim.AdamW(settings, betas=(0.9, 0.99), foreach=True)
