"""The files of a checkpoint directory in Hugging Face layout: which are there, and which it needs. Reads no weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sca.errors import UserError
from sca.small_files import parsed_json, read_small

MOST_JSON_BYTES = 64 << 20
"""Of a configuration, or of an index of the shards of a model of thousands of layers."""

# In the order of preference: safetensors needs no unpickler at all.
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. UserError if the file is absent or holds something else."""
    try:
        value = parsed_json(read_small(path, MOST_JSON_BYTES))
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist: name a directory that holds a checkpoint") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not readable JSON ({error}): fetch the checkpoint again") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} is not a JSON object: fetch the checkpoint again")
    return value


def check_digests(directory: Path, digests: Mapping[str, str], remedy: str) -> None:
    """UserError unless each of the files is there with this SHA-256 (hexadecimal)."""
    for name, wanted in digests.items():
        path = directory / name
        if not path.is_file():
            raise UserError(f"{path} is missing. {remedy}")
        if sha256(path) != wanted:
            raise UserError(f"{path} is damaged: its SHA-256 is not the one in config.json. {remedy}")


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weights_file(directory: Path) -> Path:
    """The file of weights of a checkpoint directory, or the index of its shards. UserError if there is none."""
    path = next((directory / name for name in WEIGHT_FILES if (directory / name).is_file()), None)
    if path is None:
        raise UserError(f"{directory} holds no weights: expected one of {', '.join(WEIGHT_FILES)}")
    return path


def shards_of(index: Path) -> list[str]:
    """The files that an index names, which lie beside it. UserError if it lists none, or one elsewhere."""
    places = read_json(index).get("weight_map")
    if not isinstance(places, Mapping) or not places or not all(isinstance(v, str) for v in places.values()):
        raise UserError(f"{index} has no weight_map of tensors to files: fetch the checkpoint again")
    names = sorted(set(places.values()))
    outside = next((name for name in names if not name or Path(name).name != name or "\\" in name), None)
    if outside is not None:
        raise UserError(
            f"{index} names a file outside its directory, {outside!r}: do not use this checkpoint"
        )
    return names


def missing_files(directory: Path) -> list[str]:
    """Names of the files without which a checkpoint directory cannot be loaded."""
    missing = [] if (directory / "config.json").is_file() else ["config.json"]
    try:
        path = weights_file(directory)
        shards = shards_of(path) if path.name.endswith(".index.json") else []
        missing += [name for name in shards if not (directory / name).is_file()]
    except UserError:
        missing.append("model.safetensors or pytorch_model.bin")
    return missing
