"""Loading models by name or path."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from sca.errors import UserError
from sca.hub import CachedRepository
from sca.model_names import find_model

if TYPE_CHECKING:
    import torch

    from sca.predictor import Predictor

# torch, transformers and timm take ten seconds of a processor to import, and who only asks where a model lies, or how its
# shape reads, needs none of them: they are imported where a model is built.

_DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


def model_directory(name_or_path: str | os.PathLike[str], *, revision: str | None = None) -> Path:
    """The directory of a model: of a name in `MODELS`, of a hub repository (owner/name), or the path itself.

    Only a name that stands for a hub repository may reach the network, and only if it is not cached whole. revision: its
    branch, tag or commit. UserError for an unknown name, with the nearest known one, and for a revision of what has none.
    """
    found = find_model(name_or_path)
    if revision is not None and (isinstance(found, Path) or found.repository is None):
        raise UserError(
            f"{os.fspath(name_or_path)} is no hub repository and has no revisions: leave revision out"
        )
    if isinstance(found, Path):
        return found
    if found.repository is not None:
        cached = CachedRepository(found.repository, revision)
        snapshot = cached.snapshot()
        return snapshot if snapshot is not None and not cached.missing() else cached.pull()
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
    dtype: torch.dtype | str = "float32",
    revision: str | None = None,
    image_size: int | None = None,
) -> Predictor:
    """A model ready to use, by name or path (see `model_directory`).

    dtype: float32, float16 or bfloat16, which the model computes in; weights that are stored so are mapped, not copied.
    revision: of a hub repository. image_size: another input side in pixels than a released model's 1024; smaller is
    faster and less exact. UserError, with the remedy, for unknown names, unreachable or damaged checkpoints, and devices
    that are absent.
    """
    target, wanted = _checked_device(device), checked_dtype(dtype)
    directory = model_directory(name_or_path, revision=revision)
    from sca.checkpoints import is_shipped, load_released, load_released_tokenizer, load_shipped
    from sca.predictor import Predictor

    if is_shipped(directory):
        if image_size is not None:
            raise UserError(f"{directory} has a fixed input side: leave image_size out")
        shipped = load_shipped(directory, dtype=wanted)
        return Predictor(
            shipped.model,
            shipped.tokenizer,
            device=target,
            judge=shipped.judge,
            automatic=shipped.automatic,
        )
    from_hub = not Path(os.fspath(name_or_path)).expanduser().is_dir()
    model = load_released(directory, image_size=image_size, dtype=wanted)
    tokenizer = load_released_tokenizer(directory, model.config, offline=not from_hub)
    return Predictor(model, tokenizer, device=target)


def check_dtype_name(name: str) -> None:
    """UserError for the name of a dtype that models do not compute in. Imports no torch."""
    if name not in (*_DTYPES, *_DTYPES.values()):
        raise UserError(f"unknown dtype {name!r}: use float32, float16 or bfloat16")


def checked_dtype(dtype: torch.dtype | str) -> torch.dtype:
    """A dtype by name or as it is. UserError for one that models do not compute in."""
    import torch

    known = {name: getattr(torch, name) for name in _DTYPES.values()}
    wanted = known.get(_DTYPES.get(dtype, dtype)) if isinstance(dtype, str) else dtype
    if wanted not in known.values():
        raise UserError(f"unknown dtype {str(dtype)!r}: use float32, float16 or bfloat16")
    assert wanted is not None
    return wanted


def _checked_device(device: torch.device | str) -> torch.device:
    import torch

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
