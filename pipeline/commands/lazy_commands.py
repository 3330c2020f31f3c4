"""Commands that cost nothing until they are called: each module is imported when its command, or its help, is wanted.

typer turns typed words into values with pydantic, which takes longer to import than a small store to answer. Values
that are plainly right are therefore taken as they are, and only the others go to typer, which says what is wrong.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup


@dataclass(frozen=True, slots=True)
class LazyCommand:
    """Where a command is found: `module` holds a function or a typer app of the command's name.

    `summary`: its line in the list of commands. `extra`: the part of the installation that it needs, none if "".
    """

    module: str
    summary: str
    extra: str = ""


class _QuickParameters:
    """Of a command that asks typer to convert only what is not plainly right already."""

    def get_params(self, ctx: Any) -> list[Any]:
        parameters: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for parameter in parameters:
            if not isinstance(parameter.process_value, partial):
                parameter.process_value = partial(_process, parameter, parameter.process_value)
        return parameters


class QuickCommand(_QuickParameters, TyperCommand):
    """A command that imports little to understand its arguments."""


class LazyGroup(_QuickParameters, TyperGroup):
    """A group whose commands are made on demand from `lazy`, in its order."""

    lazy: ClassVar[Mapping[str, LazyCommand]] = {}

    def before(self, name: str, command: LazyCommand) -> None:
        """Called before a command runs, not before its help is shown. Raises `UserError` when it cannot run."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.lazy)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        found = self.lazy.get(cmd_name)
        if found is None:
            return None
        target = getattr(importlib.import_module(found.module), cmd_name)
        command = typer.main.get_command(target if isinstance(target, typer.Typer) else _app_of(target))
        command.name = cmd_name
        invoke = command.invoke

        def checked(context: Any) -> Any:
            self.before(cmd_name, found)
            return invoke(context)

        command.invoke = checked  # type: ignore[method-assign,assignment]
        return command

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.summary) for name, command in self.lazy.items()])


def _app_of(function: Callable[..., Any]) -> typer.Typer:
    app = typer.Typer(
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.command(cls=QuickCommand)(function)
    return app


def _process(parameter: Any, careful: Callable[..., Any], ctx: Any, value: Any) -> Any:
    single = (
        parameter.nargs == 1 and not parameter.multiple and parameter.min is None and parameter.max is None
    )
    plain = _plain(parameter.type_descriptor.annotation, value) if single and value is not None else None
    absent = value is None and not parameter.required and parameter.nargs == 1 and not parameter.multiple
    if parameter.multiple and parameter.nargs == 1 and not value and not parameter.required:
        plain = []  # the same as an option without a default that was not given
        absent = parameter.callback is None
    if plain is None and not absent:
        return careful(ctx, value)
    return plain if parameter.callback is None else parameter.callback(ctx, parameter, plain)


def _plain(wanted: object, value: Any) -> Any:
    """`value` as a `wanted`, or None where that takes more than a look."""
    if not isinstance(wanted, type):
        return None
    if isinstance(value, wanted):
        return value
    if wanted is Path and isinstance(value, str):
        return Path(value)
    if issubclass(wanted, Enum) and isinstance(value, str):
        return next((member for member in wanted if member.value == value), None)
    return None
