"""Loading models by name or path."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from sca.checkpoints import fetch_from_hub, is_shipped, load_released, load_released_tokenizer, load_shipped
from sca.errors import UserError
from sca.model_names import find_model
from sca.predictor import Predictor


def model_directory(name_or_path: str | os.PathLike[str]) -> Path:
    """The directory of a model: of a name in `MODELS`, of a hub repository (owner/name), or the path itself.

    Only a name that stands for a hub repository may reach the network, and only if it is not cached. UserError for
    an unknown name, with the nearest known one.
    """
    found = find_model(name_or_path)
    if isinstance(found, Path):
        return found
    if found.repository is not None:
        return fetch_from_hub(found.repository)
    assert found.directory is not None
    if not (found.directory / "config.json").is_file():
        raise UserError(
            f"the model {found.name!r} is not installed at {found.directory}: "
            "install the package with its data files"
        )
    return found.directory


def load(
    name_or_path: str | os.PathLike[str] = "demo",
    device: torch.device | str = "cpu",
    *,
    image_size: int | None = None,
) -> Predictor:
    """A model ready to use, by name or path (see `model_directory`).

    image_size: another input side in pixels than a released model's 1024; smaller is faster and less exact.
    ValueError, with the remedy, for unknown names, unreachable or damaged checkpoints, and devices that are absent.
    """
    target = _checked_device(device)
    directory = model_directory(name_or_path)
    if is_shipped(directory):
        if image_size is not None:
            raise UserError(f"{directory} has a fixed input side: leave image_size out")
        shipped = load_shipped(directory)
        return Predictor(
            shipped.model,
            shipped.tokenizer,
            device=target,
            judge=shipped.judge,
            automatic=shipped.automatic,
        )
    model = load_released(directory, image_size=image_size)
    from_hub = not Path(os.fspath(name_or_path)).expanduser().is_dir()
    tokenizer = load_released_tokenizer(directory, model.config, offline=not from_hub)
    return Predictor(model, tokenizer, device=target)


def _checked_device(device: torch.device | str) -> torch.device:
    try:
        target = torch.device(device)
    except RuntimeError as error:
        raise UserError(f"unknown device {device!r}: use cpu, cuda or cuda:N") from error
    if target.type == "cuda" and not torch.cuda.is_available():
        raise UserError(
            f"device {device!r} is not available here: use cpu, or install a CUDA build of PyTorch"
        )
    if target.type == "cuda" and target.index is not None and target.index >= torch.cuda.device_count():
        raise UserError(
            f"device {device!r} does not exist, there are {torch.cuda.device_count()}: use cuda:0"
        )
    return target
