"""Which weights a stage trains, how fast, and how the rate falls."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sca.modeling.sca import Sca
from sca.modeling.timm_encoder import TimmEncoder
from sca.training.config import StageConfig
from sca.training.steps import StepLosses

# Exponential moving average of a model's weights.


class WeightAverage:
    """Averaged copy of every parameter and buffer; early steps average over fewer, so that it never lags a start."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.state = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        now = model.state_dict()
        learnt = [name for name, value in now.items() if value.is_floating_point()]
        # All at once: on a GPU one small kernel for each of a thousand tensors would cost more than the step.
        torch._foreach_lerp_([self.state[name] for name in learnt], [now[name] for name in learnt], 1 - decay)
        for name in now.keys() - set(learnt):
            self.state[name].copy_(now[name])

    def load(self, state: Mapping[str, Tensor], updates: int) -> None:
        assert state.keys() == self.state.keys()
        for name, value in state.items():
            self.state[name].copy_(value)
        self.updates = updates


# What the log says of the steps since its last line.


class Meter:
    """Means of the losses since the last line of the log, and images per second."""

    def __init__(self) -> None:
        self.rows: list[StepLosses] = []
        self.start = time.monotonic()

    def add(self, losses: StepLosses) -> None:
        self.rows.append(losses._replace(total=losses.total.detach()))

    def take(self, images: int) -> dict[str, float]:
        columns = {name: [float(getattr(row, name)) for row in self.rows] for name in StepLosses._fields}
        means = {
            name: round(float(np.nanmean(values)), 4)
            for name, values in columns.items()
            if not np.isnan(values).all()
        }
        means["images_per_s"] = round(images * len(self.rows) / (time.monotonic() - self.start), 2)
        self.rows, self.start = [], time.monotonic()
        return means


LANGUAGE = ("language_model.", "language_project.", "task_tokens.")
# What a stage of the language model trains with it: it reads features that nothing else does.
READER = ("image_encoder.caption_map.", "region_reader.")
# Strides 2 to 8: edges and textures, which transfer as they are; leaving them out saves half of the backward pass.
_EARLY = ("conv_stem.", "bn1.", "blocks.0.", "blocks.1.", "blocks.2.")
PROPOSALS = ("box_proposals.",)
CAPTION_BACKBONE = ("image_encoder.caption_backbone.",)  # keeps its ImageNet weights unless a stage trains it
_BACKBONES = ("image_encoder.backbone.", "image_encoder.head.")
_PROBE_RATE = 5.0  # a linear probe learns fast and holds nothing that could be spoilt


def schedule(step: int, stage: StageConfig) -> float:
    """Learning-rate factor: linear warm-up, then cosine to `final_rate`."""
    if step < stage.warmup_steps:
        return (step + 1) / stage.warmup_steps
    share = (step - stage.warmup_steps) / max(stage.steps - stage.warmup_steps, 1)
    return stage.final_rate + (1 - stage.final_rate) * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))


def build_optimizer(model: Sca, stage: StageConfig, probe: nn.Module) -> torch.optim.Optimizer:
    """AdamW over what the stage trains; matrices decay, vectors (biases, norms, single tokens) do not."""
    encoder = model.image_encoder
    assert isinstance(encoder, TimmEncoder)
    groups: dict[tuple[float, bool], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        trained = _trained(name, stage)
        parameter.requires_grad_(trained)
        if trained:
            rate = stage.learning_rate
            if name.startswith((*_BACKBONES, *CAPTION_BACKBONE)):
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


def _trained(name: str, stage: StageConfig) -> bool:
    """Whether a stage trains the parameter of this name."""
    if stage.trains == "proposals" or name.startswith(PROPOSALS):
        return stage.trains == "proposals" and name.startswith(PROPOSALS)
    if stage.trains == "language":
        return name.startswith((*LANGUAGE, *READER))
    if stage.trains == "masks" and name.startswith((*CAPTION_BACKBONE, *LANGUAGE, *READER)):
        return False
    for backbone, learns in ((_BACKBONES, stage.backbone), (CAPTION_BACKBONE, stage.caption_backbone)):
        if name.startswith(backbone):
            inner = name.split(".backbone.", 1)[-1]
            return learns == "full" or (learns == "late" and not inner.startswith(_EARLY))
    return True
