"""The models that can be named. Imports nothing heavy, so that a wrong name is answered before anything starts."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from sca.errors import UserError
from sca.setting_errors import did_you_mean

_LONGEST_SHOWN = 80
_DEVICE = re.compile(r"cpu|cuda(:[0-9]{1,3})?")

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


def check_device_name(name: str) -> None:
    """UserError unless `name` can be that of a device: cpu, cuda or cuda:N. Whether it is there, torch knows."""
    if _DEVICE.fullmatch(name) is None:
        raise UserError(f"unknown device {name[:_LONGEST_SHOWN]!r}: use cpu, cuda or cuda:N")


def find_model(name_or_path: str | os.PathLike[str]) -> ModelEntry | Path:
    """What a name means: an entry of `MODELS`, an existing directory, or a hub repository (owner/name).

    UserError for anything else, with the nearest known name.
    """
    name = os.fspath(name_or_path)
    entry = next((entry for entry in MODELS if entry.name == name), None)
    if entry is not None:
        return entry
    path = Path(name).expanduser()
    if name and os.path.isdir(path):
        return path
    if name and os.path.isfile(path):
        raise UserError(
            f"{name} is a file: name the checkpoint's directory. A bare SAM file cannot caption; with a language model it "
            "makes a new model to train (sca.Sca.from_parts)"
        )
    if name.count("/") == 1 and not name.startswith((".", "/", "~")) and name.rpartition("/")[2]:
        return ModelEntry(name, "a repository on the Hugging Face hub", name)
    known = model_names()
    shown = name if len(name) <= _LONGEST_SHOWN else f"{name[:_LONGEST_SHOWN]}..."
    raise UserError(
        f"unknown model {shown!r}{did_you_mean(name, known)}; use one of {', '.join(known)}, a hub repository or a directory"
    )
