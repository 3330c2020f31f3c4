"""Putting tensors into a model so that nothing is missing, left over or of the wrong shape."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
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
# The largest released model makes some 2,000 tensors and 30 MiB of positions and buffers: what asks for much more than that is none.
_MOST_TENSORS, _MOST_BYTES = 6_000, 256 << 20
_MAKES = frozenset({torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn, torch.arange})


class _WithoutStorage(TorchFunctionMode):
    """In this thread, inside the block, `torch.empty` gives tensors of the meta device: no memory, and nothing to fill.

    Modules make their weights with it. What they compute (buffers, tables of positions) is made by other functions and
    is real, which a device context for everything would lose. UserError for a model that nobody has: of more tensors
    than `_MOST_TENSORS`, or of more than `_MOST_BYTES` that are real, before these are allocated.
    """

    def __init__(self) -> None:
        super().__init__()
        self._tensors = self._bytes = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if func in _MAKES:
            self._tensors += 1
            if func is torch.empty and given.get("device") is None:
                given["device"] = "meta"
            else:
                self._bytes += _bytes_of(func, args, given)
            if self._tensors > _MOST_TENSORS:
                raise UserError(f"it asks for a model of more than {_MOST_TENSORS} tensors")
        made = func(*args, **given)
        if func not in _MAKES and isinstance(made, Tensor) and not made.is_meta and made._base is None:
            # Products of tables, such as those of rotary positions: each is told of when it is there.
            self._bytes += made.nbytes if made.nbytes > _MOST_BYTES else 0
        if self._bytes > _MOST_BYTES:
            raise UserError(f"it asks for tables of positions of more than {_MOST_BYTES >> 20} MiB")
        return made


def _bytes_of(func: Any, args: tuple[Any, ...], given: Mapping[str, Any]) -> int:
    """At most so many bytes are allocated for a tensor of these arguments; refused here, since the kernel may grant them."""
    sizes = [given.get("size", ()), *args[: 1 if func is torch.full else None]]
    if func is torch.arange:
        numbers = [abs(value) for value in (*args, given.get("end", 0)) if isinstance(value, int | float)]
        elements = math.ceil(max(numbers, default=0))
    else:
        flat = [n for size in sizes for n in (size if isinstance(size, tuple | list) else (size,))]
        elements = math.prod(max(int(n), 0) for n in flat)
    if elements * 8 > _MOST_BYTES:
        raise UserError(f"it asks for a table of {elements:.3g} numbers")
    return elements * 4


@contextmanager
def told_of(path: Path, remedy: str) -> Iterator[None]:
    """What goes wrong while a model is built as the file says is the file's fault: one UserError that names it."""
    try:
        yield
    except UserError as error:
        told = str(error)
        raise UserError(told if str(path) in told else f"{path}: {told}: {remedy}") from None
    except Exception as error:  # from torch, timm and transformers, in words of their own and of many kinds
        told = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{path}: no model can be built as it says ({told}): {remedy}") from error


def build_without_weights(config: ScaConfig, model_class: type[Sca] = Sca) -> Sca:
    """A model (`model_class`: `Sca` or a subclass) whose large parameters are still on the meta device, to be filled by `fill`. Its buffers are real."""
    # What torch and transformers find odd about a configuration is told by what comes of it, in one line.
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with _WithoutStorage(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = model_class(config).eval()
    finally:
        logger.setLevel(level)
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
