"""Wrong names and wrong settings, explained in one line: what is wrong, what is allowed, and the nearest right name.

What a setting was set to is shown only where it is a number, true, false or nothing: a text may be an address or hold a
password.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import typing
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

# Below this likeness (difflib's, 0..1) a name is more often another one than a slip of the hand.
_LIKENESS = 0.5
_TOLD = 3
_UNKNOWN = frozenset({"extra_forbidden", "unexpected_keyword_argument"})
_CHOICES = frozenset({"literal_error", "enum"})


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'X'?` for the known name nearest to `name`, or an empty string when none is near."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=_LIKENESS)
    return f"; did you mean {close[0]!r}?" if close else ""


def explain_settings(error: ValidationError, root: type, *, within: str = "") -> str:
    """The first problems of an error in one line. `root`: the pydantic model or dataclass that was to be read.

    `within`: what `root` itself is called among the settings, such as "tracking.options".
    """
    problems = error.errors(include_url=False)
    misspelt = {problem["loc"][:-1] for problem in problems if problem["type"] in _UNKNOWN}
    wrong = [problem["loc"] for problem in problems]
    # A misspelt name also misses the right one, a list of what is wrong counts as empty, and a choice of groups repeats what is
    # wrong for each of them.
    told = list(
        dict.fromkeys(
            _explain(problem, root, within)
            for problem in sorted(problems, key=lambda problem: problem["type"] not in _UNKNOWN)
            if not (problem["type"] == "missing" and problem["loc"][:-1] in misspelt)
            and not (problem["type"] == "too_short" and any(_inside(loc, problem["loc"]) for loc in wrong))
        )
    )
    more = [f"and {len(told) - _TOLD} more"] if len(told) > _TOLD else []
    return "; ".join([*told[:_TOLD], *more])


def _inside(loc: tuple[int | str, ...], above: tuple[int | str, ...]) -> bool:
    return len(loc) > len(above) and loc[: len(above)] == above


def _explain(problem: ErrorDetails, root: type, within: str) -> str:
    names, group = _place(root, problem["loc"])
    dotted = ".".join([within, *names] if within else names)
    if problem["type"] in _UNKNOWN:
        known = sorted(_fields(group)) if group is not None else []
        name = str(problem["loc"][-1])
        elsewhere = next((path for path in _paths(root) if path.rpartition(".")[2] == name), None)
        hint = f"; did you mean {elsewhere!r}?" if elsewhere else did_you_mean(name, known)
        above = ".".join([within, *names[:-1]] if within else names[:-1])
        where = f" in {above}" if above else ""
        return f"unknown setting {dotted!r}{hint}" + (f"; known{where}: {', '.join(known)}" if known else "")
    text = problem["msg"].removeprefix("Value error, ")
    said = text[:1].lower() + text[1:]
    if problem["type"] == "missing":
        return f"setting {dotted}: {said}"
    given = problem["input"]
    if problem["type"] in _CHOICES and isinstance(given, str):
        expected = re.findall(r"'([^']*)'", str(problem.get("ctx", {}).get("expected", "")))
        said += did_you_mean(given, expected)
    plain = given is None or isinstance(given, bool | float) or (isinstance(given, int) and _short(given))
    shown = f" = {given!r}" if plain else _kind(given)
    return f"setting {dotted}{shown}: {said}" if dotted else said


def _on_one_line(name: str) -> str:
    """A name as somebody wrote it, which may hold anything."""
    return name if name.isprintable() else ascii(name)[1:-1]


def _short(value: int) -> bool:
    return value.bit_length() <= 64


def _kind(value: object) -> str:
    """What a value is, where it is not shown."""
    kinds: tuple[tuple[type, str], ...] = ((str, "a text"), (dict, "a mapping"), (list, "a list"))
    return next((f" ({name})" for kind, name in kinds if isinstance(value, kind)), "")


def _place(root: type, loc: Sequence[int | str]) -> tuple[list[str], type | None]:
    """The names on the way to a problem, and the group of settings in which the last of them was looked for.

    Where a setting may be one of several groups, pydantic's place holds the name of the group's class too; it is left out.
    """
    names: list[str] = []
    groups: list[type] = [root]
    inside: type | None = root
    for part in loc:
        chosen = [group for group in groups if group.__name__ == part]
        if chosen and len(groups) > 1:
            groups = chosen
            continue
        inside = groups[0] if len(groups) == 1 else None
        names.append(_on_one_line(str(part)))
        if not isinstance(part, int):
            groups = _groups(_fields(inside).get(part)) if inside is not None else []
    return names, inside


def _fields(group: type | None) -> dict[str, Any]:
    """Names and types of a group's settings."""
    if group is None:
        return {}
    models = getattr(group, "model_fields", None)
    if models is not None:
        return {name: field.annotation for name, field in models.items()}
    if dataclasses.is_dataclass(group):
        types = typing.get_type_hints(group)
        return {field.name: types[field.name] for field in dataclasses.fields(group)}
    return {}


def _groups(annotation: Any) -> list[type]:
    """Every group of settings that a type mentions."""
    if isinstance(annotation, type) and _fields(annotation):
        return [annotation]
    return [group for part in typing.get_args(annotation) for group in _groups(part)]


def _paths(root: type, above: str = "") -> Iterator[str]:
    """The dotted names of all settings below `root`."""
    for name, annotation in _fields(root).items():
        yield f"{above}{name}"
        for group in _groups(annotation):
            yield from _paths(group, f"{above}{name}.")
