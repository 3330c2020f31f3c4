"""AutoConfig, AutoModel and AutoProcessor of transformers, told of this model: `sca.register_auto_classes()`."""

from __future__ import annotations

import os
from typing import Any, Self

import torch
from transformers import AutoConfig, AutoModel, AutoProcessor, PretrainedConfig

from sca.errors import UserError
from sca.pretrained import Sca
from sca.processor import ScaProcessor

# What the Auto classes hand on of themselves; where a model comes from is settled by its name and revision.
_HANDED_ON = {
    "config",
    "trust_remote_code",
    "_from_auto",
    "adapter_kwargs",
    "code_revision",
    "token",
    "cache_dir",
}
_HANDED_ON |= {
    "force_download",
    "local_files_only",
    "proxies",
    "subfolder",
    "_commit_hash",
    "quantization_config",
}


class ScaAutoConfig(PretrainedConfig):
    """A released config.json as transformers holds one. The model itself reads it as `ScaConfig`."""

    model_type = "sca"


class _AutoSca(Sca):
    config_class = ScaAutoConfig

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        name_or_path: str | os.PathLike[str],
        *_: Any,
        dtype: Any = None,
        revision: str | None = None,
        **more: Any,
    ) -> Sca:
        wanted = torch.float32 if dtype in (None, "auto") else dtype
        return Sca.from_pretrained(name_or_path, dtype=wanted, revision=_branch(revision, more))


class _AutoScaProcessor(ScaProcessor):
    @classmethod
    def from_pretrained(
        cls, name_or_path: str | os.PathLike[str], *, revision: str | None = None, **more: Any
    ) -> Self:
        return super().from_pretrained(name_or_path, revision=_branch(revision, more))


def _branch(revision: str | None, more: dict[str, Any]) -> str | None:
    strange = sorted(name for name, value in more.items() if name not in _HANDED_ON and value is not None)
    if strange:
        raise UserError(
            f"{', '.join(strange)}: this model takes dtype and revision only; move it with .to(device)"
        )
    return None if revision == "main" else revision


def register_auto_classes() -> None:
    """Let transformers' AutoConfig, AutoModel and AutoProcessor load released SCA folders and hub repositories.

    AutoModel gives a `sca.Sca`, AutoProcessor a `sca.ScaProcessor`. May be called more than once.
    """
    AutoConfig.register("sca", ScaAutoConfig, exist_ok=True)
    AutoModel.register(ScaAutoConfig, _AutoSca, exist_ok=True)
    AutoProcessor.register(ScaAutoConfig, _AutoScaProcessor, exist_ok=True)
