"""Parts that can be exchanged, by name: the project's own, and those that installed packages announce.

A seam is a small protocol and one `Registry` of what fits it. A package announces a part as a Python entry point in the
seam's group. Nothing is imported before it is asked for, and the installed packages are not even listed while one of the
project's own parts is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module, metadata
from typing import Any, Generic, TypeVar

from sca.errors import UserError
from sca.setting_errors import did_you_mean

PREFIX = "segment_caption_stream"
"""What the entry-point groups of all seams begin with."""
_LONGEST_SHOWN = 80

Part = TypeVar("Part")


@dataclass(frozen=True)
class Registry(Generic[Part]):
    """What fits one seam.

    `kind`: what a part is called in messages, such as "tracker". `group`: of entry points. `own`: name to
    "module:attribute" of the project's own parts; no package can take one of these names. Every part is callable.
    """

    kind: str
    group: str
    own: Mapping[str, str]
    _loaded: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def names(self) -> list[str]:
        """Every known name, the project's own first. Imports none of the parts."""
        return [*self.own, *sorted(set(self._announced()) - set(self.own))]

    def knows(self, name: str) -> bool:
        """Whether `get` would look for a part of this name. Imports none of the parts."""
        return name in self.own or name in self._announced()

    def get(self, name: str) -> Part:
        """The part of this name, imported now if it was not before.

        UserError for an unknown name, with the nearest known one; for a name that two packages announce; and for a part
        that cannot be imported or is none, naming the package that announced it. A fault in one of our own parts is
        raised as it is.
        """
        if name not in self._loaded:
            self._loaded[name] = self._load_own(name) if name in self.own else self._load_announced(name)
        part: Part = self._loaded[name]
        return part

    def unknown(self, name: str) -> UserError:
        """The error for a name that is not known."""
        known = self.names()
        shown = name if len(name) <= _LONGEST_SHOWN else f"{name[:_LONGEST_SHOWN]}..."
        return UserError(
            f"unknown {self.kind} {shown!r}{did_you_mean(name, known)}; known: {', '.join(known)}"
        )

    def _load_own(self, name: str) -> Any:
        module, _, attribute = self.own[name].partition(":")
        return getattr(import_module(module), attribute)

    def _load_announced(self, name: str) -> Any:
        found = self._announced().get(name, [])
        if not found:
            raise self.unknown(name)
        if len(packages := sorted({_package(entry) for entry in found})) > 1:
            raise UserError(
                f"{self.kind} {name!r} is announced by {' and '.join(packages)}: uninstall all but one of them"
            )
        entry = found[0]
        remedy = f"update the package {packages[0]}, or uninstall it"
        try:
            part = entry.load()
        except Exception as error:  # whatever a stranger's module raises while it is imported
            reason = (
                f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'}"
            )
            raise UserError(
                f"{self.kind} {name!r} ({entry.value}) of the package {packages[0]} cannot be imported ({reason}): {remedy}"
            ) from error
        if not callable(part):
            raise UserError(
                f"{self.kind} {name!r} ({entry.value}) of the package {packages[0]} is no {self.kind} but "
                f"a {type(part).__name__}, which cannot be called: {remedy}"
            )
        return part

    def _announced(self) -> dict[str, list[metadata.EntryPoint]]:
        """Entry points of the group by name; a package that is found twice on the path counts once."""
        by_name: dict[str, list[metadata.EntryPoint]] = {}
        for entry in metadata.entry_points(group=self.group):
            by_name.setdefault(entry.name, []).append(entry)
        return by_name


def registry(kind: str, group: str, own: Mapping[str, str]) -> Registry[Any]:
    """A registry of the project; `group` without the project's prefix, such as "trackers"."""
    return Registry(kind, f"{PREFIX}.{group}", own)


def _package(entry: metadata.EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else entry.module
