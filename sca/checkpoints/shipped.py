"""Our own checkpoint directory: config.json, model.safetensors in fp16, tokenizer.json, perhaps judge.safetensors.

The head that proposes boxes has a file of its own, proposals.safetensors: it is small, and is trained when all else is done.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from sca.checkpoint_files import check_digests, read_json, sha256
from sca.checkpoints.strict_loading import build_without_weights, check, fill, tied_aliases, told_of
from sca.checkpoints.tensor_files import read_tensors
from sca.config import AutomaticSettings, ScaConfig
from sca.errors import UserError
from sca.modeling import Sca
from sca.modeling.caption_judge import CaptionJudge

FORMAT_VERSION = 2
CONFIG, WEIGHTS, TOKENIZER, JUDGE = "config.json", "model.safetensors", "tokenizer.json", "judge.safetensors"
PROPOSALS = "proposals.safetensors"
_HEAD = "box_proposals."
_REMEDY = "Restore the directory from its origin, or train the model again"
# The largest vocabulary and context; the layers and the side in pixels of more than anybody has trained: tables grow with the square of it.
_LARGEST_NUMBER, _MOST_LAYERS, _LARGEST_SIDE = 1 << 20, 512, 1 << 13
_LARGEST_TEXT = 64 << 20
_ENTRIES = {"format_version", "model", "automatic", "sha256"}


@dataclass(frozen=True)
class ShippedCheckpoint:
    """What a directory of our format holds."""

    model: Sca
    tokenizer: Tokenizer
    automatic: AutomaticSettings
    judge: CaptionJudge | None


def save_shipped(
    model: Sca,
    tokenizer: Tokenizer | PreTrainedTokenizerBase,
    directory: Path | str,
    automatic: AutomaticSettings | None = None,
    judge: CaptionJudge | None = None,
) -> None:
    """Write `model` to `directory`, which is made if need be.

    Parameters are stored in fp16, buffers (positional matrix, batch-norm statistics) and the judge as they are. UserError if a
    parameter does not fit fp16 or the tokenizer has no fast back end.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    parameters = dict(model.named_parameters())
    state: dict[str, Tensor] = {}
    for name, value in _stored(model).items():
        value = value.detach().cpu()
        if name in parameters:
            value = value.to(torch.float16)
            if not bool(value.isfinite().all()):
                raise UserError(
                    f"{name} does not fit fp16 (a value is not finite or exceeds 65504): check the training run"
                )
        state[name] = value.contiguous()
    head = {name: value for name, value in state.items() if name.startswith(_HEAD)}
    save_file({name: value for name, value in state.items() if name not in head}, directory / WEIGHTS)
    (directory / PROPOSALS).unlink(missing_ok=True)
    if head:
        save_file(head, directory / PROPOSALS)
    backend = tokenizer if isinstance(tokenizer, Tokenizer) else getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise UserError("the tokenizer has no tokenizers back end: use a fast tokenizer")
    backend.save(str(directory / TOKENIZER))
    (directory / JUDGE).unlink(missing_ok=True)
    if judge is not None:
        save_file(
            {n: v.detach().cpu().contiguous() for n, v in judge.state_dict().items()}, directory / JUDGE
        )
    files = [WEIGHTS, TOKENIZER]
    files += [PROPOSALS] if head else []
    files += [JUDGE] if judge is not None else []
    entries = {
        "format_version": FORMAT_VERSION,
        "model": model.config.to_dict(),
        "automatic": (automatic or AutomaticSettings()).to_dict(),
        "sha256": {name: sha256(directory / name) for name in files},
    }
    (directory / CONFIG).write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")


def is_shipped(directory: Path) -> bool:
    """Whether the directory has our format, by its config.json."""
    config = directory / CONFIG
    return config.is_file() and "format_version" in read_json(config)


def load_shipped(
    directory: Path | str, *, dtype: torch.dtype = torch.float32, model_class: type[Sca] = Sca
) -> ShippedCheckpoint:
    """Read what `save_shipped` wrote.

    UserError if the format is another one, a checksum fails, or any tensor is missing, unexpected or misshapen.
    """
    directory = Path(directory)
    entries = read_json(directory / CONFIG)
    if entries.get("format_version") != FORMAT_VERSION or set(entries) != _ENTRIES:
        raise UserError(
            f"{directory / CONFIG} is not of checkpoint format {FORMAT_VERSION} "
            f"(format_version {entries.get('format_version')!r}): use the release that wrote it, or restore the file"
        )
    if not isinstance(entries["sha256"], Mapping):
        raise UserError(f"{directory / CONFIG} has no checksums of its files. {_REMEDY}")
    judged = JUDGE in entries["sha256"]
    model = _built(directory / CONFIG, entries["model"], model_class)
    proposes = model.box_proposals is not None
    names = [WEIGHTS, TOKENIZER, *([PROPOSALS] if proposes else []), *([JUDGE] if judged else [])]
    automatic = _automatic(directory / CONFIG, entries["automatic"])
    for name in names:
        # Before a file is read as a whole that may have any length.
        most = _LARGEST_TEXT if name == TOKENIZER else _LARGEST_TEXT + 8 * _elements(model)
        if (path := directory / name).is_file() and path.stat().st_size > most:
            raise UserError(f"{path} is larger than any such file of this model. {_REMEDY}")
    check_digests(directory, {name: str(entries["sha256"].get(name)) for name in names}, _REMEDY)
    state = read_tensors(directory / WEIGHTS)
    if proposes:
        state = {**state, **read_tensors(directory / PROPOSALS)}
    check(str(directory / WEIGHTS), _stored(model), state, remedy=_REMEDY)
    fill(model, state, dtype=dtype)
    return ShippedCheckpoint(
        model=model,
        tokenizer=Tokenizer.from_file(str(directory / TOKENIZER)),
        automatic=automatic,
        judge=_read_judge(directory / JUDGE, int(model.language_model.config.hidden_size))
        if judged
        else None,
    )


def _built(path: Path, values: Any, model_class: type[Sca]) -> Sca:
    """The model that a configuration asks for. UserError naming `path` for one that nobody could have written."""
    remedy = f"{_REMEDY[0].lower()}{_REMEDY[1:]}"
    for name, number in _numbers(values):
        # Before anything is made of that size, or so many times.
        most = _LARGEST_NUMBER
        if any(word in name for word in ("layer", "depth", "blocks")):
            most = _MOST_LAYERS
        elif name in ("image_size", "caption_size") or "grid" in name:
            most = _LARGEST_SIDE
        if abs(number) > most:
            raise UserError(f"{path}: {name} is {number:.3g}, more than {most}: {remedy}")
    with told_of(path, remedy):
        return build_without_weights(ScaConfig.from_dict(values), model_class)


def _automatic(path: Path, values: Any) -> AutomaticSettings:
    try:
        return AutomaticSettings.from_dict(values)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _elements(model: Sca) -> int:
    return sum(value.numel() for value in model.state_dict().values())


def _numbers(values: Any, name: str = "model") -> Iterator[tuple[str, float]]:
    if isinstance(values, Mapping):
        for key, value in values.items():
            yield from _numbers(value, str(key))
    elif isinstance(values, list):
        for value in values:
            yield from _numbers(value, name)
    elif isinstance(values, int | float):
        yield name, values


def _read_judge(path: Path, width: int) -> CaptionJudge:
    state = read_tensors(path)
    told = state.get("head.weight")
    judge = CaptionJudge(width, asks_fits=told is not None and told.numel() > width + 1)
    check(str(path), judge.state_dict(), state, remedy=_REMEDY)
    judge.load_state_dict(state)
    return judge.eval()


def _stored(model: Sca) -> dict[str, Tensor]:
    """What a file holds: the state dict with each tied parameter once."""
    aliases = tied_aliases(model)
    return {name: value for name, value in model.state_dict().items() if name not in aliases}
