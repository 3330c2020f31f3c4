"""Released SCA checkpoints: a directory in Hugging Face layout, or its name on the hub."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from sca.checkpoints.sam import IMAGE_POSITIONS, PROMPT_POSITIONS, hugging_face_name, is_derived_buffer
from sca.checkpoints.strict_loading import (
    build_without_weights,
    check,
    fill,
    resize_position_tables,
    tied_aliases,
)
from sca.checkpoints.tensor_files import read_json, read_weights
from sca.config import ScaConfig, with_image_size
from sca.errors import UserError
from sca.modeling import Sca

_REMEDY = (
    "Use an unmodified released checkpoint of the ScaMultitaskV2Model class, with the config.json beside it"
)
_HUB_FILES = ["*.json", "*.safetensors", "*.bin", "*.model", "*.txt"]


def load_released(
    directory: Path, *, image_size: int | None = None, dtype: torch.dtype = torch.float32
) -> Sca:
    """The model of a released checkpoint directory (spec section 2).

    image_size: another input side than the checkpoint's; positions are interpolated. UserError lists every tensor
    that is missing, unexpected or of the wrong shape.
    """
    config = ScaConfig.from_released(read_json(directory / "config.json"))
    if image_size is not None:
        config = with_image_size(config, image_size)
    model = build_without_weights(config)
    state = to_our_names(model, read_weights(directory), origin=str(directory), resize=image_size is not None)
    fill(model, state, dtype=dtype)
    return model


def to_our_names(
    model: Sca, released: dict[str, Tensor], *, origin: str, resize: bool = False
) -> dict[str, Tensor]:
    """Released tensors under the names of our model, checked strictly.

    Tolerated: derived buffers of the language model, and tied or shared tensors that were stored once.
    """
    given = {name: value for name, value in released.items() if not is_derived_buffer(name)}
    if IMAGE_POSITIONS in given:
        positions = given.pop(IMAGE_POSITIONS)
        given.setdefault(PROMPT_POSITIONS, positions)
    names = {name: hugging_face_name(name, model.config) for name in model.state_dict()}
    for alias, name in tied_aliases(model).items():
        theirs, original = names[alias], names[name]
        if theirs in given and original in given and not _same(given[theirs], given[original]):
            raise UserError(f"{origin}: {theirs} differs from {original}, to which it is tied. {_REMEDY}")
        if theirs in given:
            given.setdefault(original, given[theirs])
        elif original in given:
            given[theirs] = given[original]
    ours = {theirs: name for name, theirs in names.items()}
    state = {ours.get(name, name): value for name, value in given.items()}
    wanted = model.state_dict()
    if resize:
        resize_position_tables(state, wanted)
    check(origin, wanted, state, remedy=_REMEDY)
    return state


def load_released_tokenizer(
    directory: Path, config: ScaConfig, *, offline: bool = True
) -> PreTrainedTokenizerBase:
    """The tokenizer beside the weights, else that of the language model the config names.

    offline: look for the latter only in the local cache. UserError with the remedy if there is none.
    """
    sources = [(str(directory), True)]
    if config.language_model.name:
        sources.append((config.language_model.name, offline))
    for source, local in sources:
        try:
            # Said, not left out: otherwise it asks on the terminal whether to run the code that came with the files.
            return AutoTokenizer.from_pretrained(source, local_files_only=local, trust_remote_code=False)
        except (OSError, ValueError, KeyError, TypeError, ImportError):
            continue
    name = config.language_model.name or "its language model"
    raise UserError(
        f"{directory} has no tokenizer: copy the tokenizer files of {name} into that directory "
        "(tokenizer.json, tokenizer_config.json and, if there is one, tokenizer.model). One that brings code is not used"
    )


def fetch_from_hub(repository: str) -> Path:
    """The local copy of a hub repository: from the cache if it is there, else downloaded.

    UserError with the remedy if it is neither cached nor reachable.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, allow_patterns=_HUB_FILES, local_files_only=True))
    except HFValidationError as error:
        raise UserError(f"{repository!r} is not the name of a hub repository: write owner/name") from error
    except LocalEntryNotFoundError:
        pass
    try:
        return Path(snapshot_download(repository, allow_patterns=_HUB_FILES))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(
            f"cannot fetch {repository} from the Hugging Face hub ({type(error).__name__}): connect to the network, or "
            "download it elsewhere and name the directory instead"
        ) from error


def _same(one: Tensor, other: Tensor) -> bool:
    if one.is_meta or other.is_meta:
        return one.shape == other.shape
    return one.data_ptr() == other.data_ptr() or torch.equal(one, other)
