"""Reading tensors from disk, without ever running code that a file carries."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sca.checkpoint_files import shards_of, weights_file
from sca.errors import UserError


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a .safetensors, .bin or .pth file, on the CPU and in their stored dtype.

    Pickled files are read with `weights_only`, memory-mapped where their format allows it. UserError names the file
    if it is absent, damaged, or holds more than tensors.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist: name a file of weights")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except (SafetensorError, UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise UserError(
            f"{path} cannot be read as weights ({_first_line(error)}): fetch it again from its origin"
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path} is not a flat dictionary of tensors: export the model's state_dict")
    return dict(state)


def read_weights(directory: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint directory in Hugging Face layout, in one file or in shards.

    UserError names the file that is absent, damaged, lists no shards, or names one outside the directory.
    """
    path = weights_file(directory)
    if not path.name.endswith(".index.json"):
        return read_tensors(path)
    state: dict[str, Tensor] = {}
    for shard in shards_of(path):
        tensors = read_tensors(directory / shard)
        if twice := state.keys() & tensors.keys():
            raise UserError(
                f"{directory / shard} repeats {min(twice)} of another shard: fetch the checkpoint again"
            )
        state.update(tensors)
    return state


def _is_zip(path: Path) -> bool:
    """Whether torch's present file format, which can be memory-mapped, was used."""
    with path.open("rb") as file:
        return file.read(2) == b"PK"


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0][:200] or type(error).__name__
