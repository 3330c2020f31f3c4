"""Weights of an earlier run or of a finished model, to start a training run from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from sca.checkpoints import load_shipped
from sca.modeling.sca import Sca
from sca.modeling.timm_encoder import TimmEncoder, load_caption_backbone
from sca.training.optimizer import CAPTION_BACKBONE, READER


def read_initial(path: Path) -> dict[str, Any]:
    """Weights and tokenizer to start from: a checkpoint.pt, or a model directory such as the shipped one."""
    if path.is_dir():
        shipped = load_shipped(path)
        return {"average": shipped.model.state_dict(), "tokenizer": shipped.tokenizer.to_str()}
    if not path.exists():
        raise ValueError(
            f"{path} does not exist: name the checkpoint.pt of an earlier run, or a model directory"
        )
    saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return saved


def load_initial(model: Sca, state: dict[str, Any]) -> None:
    """Weights of an earlier run; a region reader of another shape than its own begins anew."""
    encoder, mine = model.image_encoder, model.state_dict()
    assert isinstance(encoder, TimmEncoder)
    read = {name for name in mine.keys() | state.keys() if name.startswith((*READER, *CAPTION_BACKBONE))}
    same = all(name in mine and name in state and mine[name].shape == state[name].shape for name in read)
    if not same:
        load_caption_backbone(encoder)
        state = {name: value for name, value in state.items() if name not in read}
        state |= {name: value for name, value in model.state_dict().items() if name in read}
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()
        raise ValueError(
            f"the initial weights do not fit the model of the recipe ({reason}): start from the same architecture"
        ) from None
