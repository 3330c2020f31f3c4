"""Released SCA checkpoints: a directory in Hugging Face layout, or its name on the hub."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from sca.checkpoint_files import read_json, weights_file
from sca.checkpoints.sam import IMAGE_POSITIONS, PROMPT_POSITIONS, hugging_face_name, is_derived_buffer
from sca.checkpoints.strict_loading import (
    build_without_weights,
    check,
    check_finite,
    fill,
    resize_position_tables,
    tied_aliases,
    told_of,
)
from sca.checkpoints.tensor_files import read_weights
from sca.config import ScaConfig, with_image_size
from sca.errors import UserError
from sca.modeling import Sca

_REMEDY = (
    "Use an unmodified released checkpoint of the ScaMultitaskV2Model class, with the config.json beside it"
)


def load_released(
    directory: Path,
    *,
    image_size: int | None = None,
    dtype: torch.dtype = torch.float32,
    model_class: type[Sca] = Sca,
) -> Sca:
    """The model of a released checkpoint directory (spec section 2).

    image_size: another input side than the checkpoint's; positions are interpolated. dtype: what it computes in; weights
    that are stored so are not copied but mapped. UserError, naming the file, lists every tensor that is missing,
    unexpected, of the wrong shape, or not finite.
    """
    values = read_json(directory / "config.json")
    with told_of(directory / "config.json", _REMEDY[0].lower() + _REMEDY[1:]):
        config = ScaConfig.from_released(values)
    if image_size is not None:
        config = with_image_size(config, image_size)
    weights = weights_file(directory)
    with told_of(directory / "config.json", _REMEDY[0].lower() + _REMEDY[1:]):
        model = build_without_weights(config, model_class)
    state = to_our_names(model, read_weights(directory), origin=str(weights), resize=image_size is not None)
    check_finite(str(weights), state, remedy=_REMEDY)
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


def _same(one: Tensor, other: Tensor) -> bool:
    if one.is_meta or other.is_meta:
        return one.shape == other.shape
    return one.data_ptr() == other.data_ptr() or torch.equal(one, other)
