"""Putting tensors into a model so that nothing is missing, left over or of the wrong shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sca.config import ScaConfig
from sca.errors import UserError
from sca.modeling import Sca
from sca.modeling.image_encoder import resize_position_grid

_SHOWN = 8


class _WithoutStorage(TorchFunctionMode):
    """In this thread, inside the block, `torch.empty` gives tensors of the meta device: no memory, and nothing to fill.

    Modules make their weights with it. What they compute (buffers, tables of positions) is made by other functions and
    is real, which a device context for everything would lose.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if func is torch.empty and given.get("device") is None:
            given["device"] = "meta"
        return func(*args, **given)


def build_without_weights(config: ScaConfig, model_class: type[Sca] = Sca) -> Sca:
    """A model (`model_class`: `Sca` or a subclass) whose large parameters are still on the meta device, to be filled by `fill`. Its buffers are real."""
    with _WithoutStorage():
        model = model_class(config).eval()
    unfilled = [name for name, buffer in model.named_buffers() if buffer.is_meta]
    assert not unfilled, f"buffers that a module fills after torch.empty: {unfilled}"
    return model


def tied_aliases(model: nn.Module) -> dict[str, str]:
    """Names of parameters that are another one by another name: {alias: name}."""
    names: dict[int, str] = {}
    aliases: dict[str, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if id(parameter) in names:
            aliases[name] = names[id(parameter)]
        else:
            names[id(parameter)] = name
    return aliases


def check(origin: str, wanted: Mapping[str, Tensor], given: Mapping[str, Tensor], *, remedy: str) -> None:
    """ValueError listing every missing, unexpected and wrongly shaped tensor (the first few of each)."""
    missing = sorted(wanted.keys() - given.keys())
    extra = sorted(given.keys() - wanted.keys())
    shapes = [
        f"{name} {tuple(given[name].shape)} instead of {tuple(wanted[name].shape)}"
        for name in sorted(wanted.keys() & given.keys())
        if given[name].shape != wanted[name].shape
    ]
    problems = [
        f"{len(names)} {kind}: {', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''}"
        for kind, names in (("missing", missing), ("unexpected", extra), ("wrong shape", shapes))
        if names
    ]
    if problems:
        raise UserError(f"{origin} does not fit the model; {'; '.join(problems)}. {remedy}")


def check_finite(origin: str, state: Mapping[str, Tensor], *, remedy: str) -> None:
    """UserError naming the tensors with values that are no numbers or infinite. Copies nothing."""
    bad = []
    for name, tensor in state.items():
        if tensor.is_floating_point() and tensor.numel() and not tensor.is_meta:
            low, high = torch.aminmax(tensor)
            if not bool(low.isfinite() & high.isfinite()):
                bad.append(name)
    if bad:
        shown = ", ".join(bad[:_SHOWN]) + (", ..." if len(bad) > _SHOWN else "")
        raise UserError(f"{origin} holds weights that are no finite numbers, in {shown}. {remedy}")


def fill(model: nn.Module, state: Mapping[str, Tensor], *, dtype: torch.dtype = torch.float32) -> None:
    """Put tensors that `check` has passed into the model, floating ones as `dtype`.

    Tensors replace the model's own, so a model built without weights needs no second copy of them. Aliases of tied
    parameters follow. Float32 whatever `dtype` says: the positional matrix, whose phases reach 20 rad, and timm's
    encoders, whose batch norms lose a twelfth in bfloat16.
    """
    exact: tuple[str, ...] = ("prompt_encoder.pe_layer.",)
    if isinstance(model, Sca) and model.config.encoder.kind == "timm":
        exact = (*exact, "image_encoder.")
    aliases = tied_aliases(model)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, tensor in state.items():
        if name in aliases:
            continue
        wanted = torch.float32 if name.startswith(exact) else dtype
        value = tensor.to(wanted) if tensor.is_floating_point() else tensor
        module_name, _, leaf = name.rpartition(".")
        module = model.get_submodule(module_name)
        if name in parameters:
            setattr(module, leaf, nn.Parameter(value, requires_grad=parameters[name].requires_grad))
        else:
            module.register_buffer(leaf, value)
    for alias, name in aliases.items():
        module_name, _, leaf = alias.rpartition(".")
        setattr(model.get_submodule(module_name), leaf, model.get_parameter(name))


def resize_position_tables(state: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Bring a ViT's absolute and relative positions to the grid of the model, in place (our names).

    Absolute positions are interpolated bicubically, relative ones linearly, as SAM does for other input sides.
    """
    for name, target in wanted.items():
        value = state.get(name)
        if value is None or value.shape == target.shape or not name.startswith("image_encoder."):
            continue
        if name.endswith("pos_embed") and value.ndim == 4 and value.shape[-1] == target.shape[-1]:
            state[name] = resize_position_grid(value.float(), *target.shape[1:3])
        elif name.endswith(("rel_pos_h", "rel_pos_w")) and value.shape[-1] == target.shape[-1]:
            table = value.float().T.unsqueeze(0)
            state[name] = F.interpolate(table, size=target.shape[0], mode="linear").squeeze(0).T.contiguous()
