"""What can be set: every setting with its type, default, range, meaning, and the presets that change it.

Read from the typed settings themselves, so that the documentation, `sca config explain` and the checks cannot disagree.
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from pipeline.core.errors import UserError
from pipeline.settings.config import RunConfig, load_config, preset_names
from sca.setting_errors import did_you_mean

_WORDS: dict[object, str] = {
    float: "number",
    int: "whole number",
    str: "text",
    bool: "true or false",
    dict: "mapping",
    Any: "anything",
}


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting. `key`: dotted, as `--set` takes it. `default`: of the default preset, as YAML; empty if it must be
    given. `presets`: the value in each preset that changes it. `allowed`: the range, empty where the type says it all.
    """

    key: str
    type: str
    default: str
    allowed: str
    meaning: str
    presets: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Group:
    """The settings that stand side by side. `key`: dotted, empty for the outermost ones."""

    key: str
    meaning: str
    settings: tuple[Setting, ...]


def run_settings() -> list[Group]:
    """All settings of `sca run`, group by group in the order of the stream."""
    presets = {name: load_config(name).model_dump(mode="json") for name in preset_names()}
    return list(groups_of(RunConfig, presets))


def groups_of(
    model: type[BaseModel], presets: Mapping[str, Any] | None = None, key: str = ""
) -> Iterator[Group]:
    """`model` and every group of settings inside it. `presets`: the plain values of each preset by its name."""
    inner: list[tuple[str, type[BaseModel]]] = []
    settings: list[Setting] = []
    for name, field in model.model_fields.items():
        dotted = f"{key}.{name}" if key else name
        below = _group_in(field.annotation)
        if below is None:
            settings.append(_setting(dotted, field, presets or {}))
        else:
            inner.append((dotted, below))
    yield Group(key, " ".join((model.__doc__ or "").split()), tuple(settings))
    for dotted, below in inner:
        yield from groups_of(below, presets, dotted)


def find_setting(key: str) -> Setting | Group:
    """The setting or group with this name; a last name suffices if only one has it.

    Raises `UserError` with the nearest name, or with all that a last name may mean.
    """
    groups = run_settings()
    settings = [setting for group in groups for setting in group.settings]
    by_key: dict[str, Setting | Group] = {group.key: group for group in groups if group.key}
    by_key |= {setting.key: setting for setting in settings}
    if key in by_key:
        return by_key[key]
    named = [setting for setting in settings if _last(setting.key) == key]
    if len(named) == 1:
        return named[0]
    if named:
        raise UserError(f"{key} may be {' or '.join(setting.key for setting in named)}: say which")
    hint = did_you_mean(key, by_key) or did_you_mean(_last(key), [_last(known) for known in by_key])
    raise UserError(f"unknown setting {key!r}{hint}; `sca config show` prints all of them")


def markdown(groups: list[Group], *, others: str | None = None) -> str:
    """Tables of `groups`, one heading each. `others`: heading of the column of presets, None for no such column."""
    lines: list[str] = []
    for group in groups:
        if not group.settings:
            continue
        lines += [f"### {group.key or 'at the top'}", "", group.meaning, ""]
        heading = ["setting", "type", "default", *([others] if others else []), "allowed", "meaning"]
        lines += [_row(heading), _row(["---"] * len(heading))]
        for setting in group.settings:
            changed = ", ".join(f"{name}: {value}" for name, value in setting.presets.items())
            cells = [f"`{setting.key}`", setting.type, setting.default or "must be given"]
            lines.append(_row([*cells, *([changed] if others else []), setting.allowed, setting.meaning]))
        lines.append("")
    return "\n".join(lines)


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _last(key: str) -> str:
    return key.rsplit(".", 1)[-1]


def _setting(key: str, field: FieldInfo, presets: Mapping[str, Any]) -> Setting:
    own = {name: _as_yaml(_value_at(values, key)) for name, values in presets.items()}
    default = own.get("default", _default(field))
    changed = {name: value for name, value in own.items() if value != default}
    return Setting(key, _type(field.annotation), default, _allowed(field), field.description or "", changed)


def _value_at(values: Any, key: str) -> Any:
    for part in key.split("."):
        values = values[part]
    return values


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    return "" if value is PydanticUndefined else _as_yaml(value)


def _as_yaml(value: Any) -> str:
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, tuple):
        value = list(value)
    if value is None:
        return "none"
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("\n...\n").strip()


def _group_in(annotation: Any) -> type[BaseModel] | None:
    """The group that a field holds, itself or in a list."""
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _type(annotation: Any) -> str:
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        named = [_type(part) for part in get_args(annotation) if part is not type(None)]
        return " or ".join([*named, *(["none"] if type(None) in get_args(annotation) else [])])
    if origin is Literal:
        return " or ".join(str(value) for value in get_args(annotation))
    if origin is tuple:
        parts = [part for part in get_args(annotation) if part is not Ellipsis]
        return (
            f"list of {_type(parts[0])}"
            if Ellipsis in get_args(annotation)
            else f"{len(parts)} × {_type(parts[0])}"
        )
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return " or ".join(str(member.value) for member in annotation)
    return _WORDS.get(origin or annotation, str(annotation))


def _allowed(field: FieldInfo) -> str:
    bounds: dict[str, Any] = {}
    for constraint in field.metadata:
        for name in ("ge", "gt", "le", "lt", "multiple_of", "min_length"):
            if getattr(constraint, name, None) is not None:
                bounds[name] = getattr(constraint, name)
    if "ge" in bounds and "le" in bounds:
        parts = [f"{bounds['ge']} to {bounds['le']}"]
    else:
        signs = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
        parts = [f"{word} {bounds[name]}" for name, word in signs.items() if name in bounds]
    if "multiple_of" in bounds:
        parts.append(f"a multiple of {bounds['multiple_of']}")
    if bounds.get("min_length"):
        parts.append(f"at least {bounds['min_length']} of them")
    return ", ".join(parts)
