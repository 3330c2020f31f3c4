"""Model names: the shipped model, the released ones, or a path."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from pathlib import Path

import torch

from sca.checkpoints import (
    fetch_from_hub,
    is_shipped,
    load_released,
    load_released_tokenizer,
    load_shipped,
)
from sca.predictor import Predictor

SHIPPED_ROOT = Path(__file__).parent / "shipped"


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model that can be named. `repository`: where it lies on the Hugging Face hub, None if it ships with us."""

    name: str
    summary: str
    repository: str | None = None

    @property
    def directory(self) -> Path | None:
        """Where a shipped model lies, None for others."""
        return None if self.repository else SHIPPED_ROOT / self.name


MODELS = (
    ModelEntry("demo", "small model trained for this project; works offline"),
    ModelEntry(
        "sca-gpt2-large-vg",
        "SAM ViT-H and GPT-2 large, Visual Genome",
        "xk-huang/segment-caption-anything-gpt2_large-vg",
    ),
    ModelEntry(
        "sca-ollm3bv2-vg",
        "SAM ViT-H and OpenLLaMA 3B v2, Visual Genome",
        "xk-huang/segment-caption-anything-ollm3bv2-vg",
    ),
    ModelEntry(
        "sca-gpt2-large-pt",
        "SAM ViT-H and GPT-2 large, Objects365 categories only",
        "xk-huang/segment-caption-anything-gpt2_large-pt",
    ),
    ModelEntry(
        "sca-gpt2-large-pt-vg",
        "SAM ViT-H and GPT-2 large, Objects365, then Visual Genome",
        "xk-huang/segment-caption-anything-gpt2_large-pt_vg",
    ),
)


def model_names() -> list[str]:
    """Every name that `load` knows."""
    return [entry.name for entry in MODELS]


def model_directory(name_or_path: str | os.PathLike[str]) -> Path:
    """The directory of a model: of a name in `MODELS`, of a hub repository (owner/name), or the path itself.

    Only a name that stands for a hub repository may reach the network, and only if it is not cached. ValueError for
    an unknown name, with the nearest known one.
    """
    name = os.fspath(name_or_path)
    entry = next((entry for entry in MODELS if entry.name == name), None)
    if entry is not None:
        if entry.repository is not None:
            return fetch_from_hub(entry.repository)
        assert entry.directory is not None
        if not (entry.directory / "config.json").is_file():
            raise ValueError(
                f"the model {name!r} is not installed at {entry.directory}: install the package with its data files"
            )
        return entry.directory
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        raise ValueError(
            f"{name} is a file: name the checkpoint's directory. A bare SAM file cannot caption; it can only start a "
            "training run (sca.checkpoints.load_sam_weights)"
        )
    if name.count("/") == 1 and not name.startswith((".", "/", "~")) and name.rpartition("/")[2]:
        return fetch_from_hub(name)
    known = model_names()
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.3)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ValueError(
        f"unknown model {name!r}: {hint}Use one of {', '.join(known)}, a hub repository or a directory"
    )


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
            raise ValueError(f"{directory} has a fixed input side: leave image_size out")
        shipped = load_shipped(directory)
        return Predictor(
            shipped.model,
            shipped.tokenizer,
            device=target,
            calibration=shipped.calibration,
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
        raise ValueError(f"unknown device {device!r}: use cpu, cuda or cuda:N") from error
    if target.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"device {device!r} is not available here: use cpu, or install a CUDA build of PyTorch"
        )
    if target.type == "cuda" and target.index is not None and target.index >= torch.cuda.device_count():
        raise ValueError(
            f"device {device!r} does not exist, there are {torch.cuda.device_count()}: use cuda:0"
        )
    return target
