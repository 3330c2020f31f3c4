"""YAML that may come from anywhere: bounded in size, depth and in what its aliases stand for, and plain values only."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Any

import yaml

MAX_BYTES = 256 * 1024
"""A thousand cameras take about 100 kB; this much is read in a few seconds."""

_MAX_DEPTH = 40
_MAX_VALUES = 100_000
_MAX_INTEGER = 1 << 63
_QUOTED = re.compile(r"'[^']{2,}'|\"[^\"]{2,}\"|'[^']*$")
_LONGEST_PROBLEM = 200


class YamlFault(ValueError):
    """What is wrong with a YAML text, without quoting it: it may hold a password. `place`: ` at line 3`, or empty."""

    def __init__(self, reason: str, place: str = "") -> None:
        super().__init__(reason + place)
        self.reason, self.place = reason, place


def read_yaml(path: Path) -> Any:
    """The plain values of a YAML file. Raises `YamlFault`, and OSError where it cannot be read."""
    # Without waiting: a FIFO of that name might never be written to.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with open(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise YamlFault("not a regular file")
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise YamlFault(f"more than {MAX_BYTES // 1024} KiB")
    try:
        return parse_yaml(data.decode("utf-8"))
    except UnicodeDecodeError:
        raise YamlFault("not UTF-8 text") from None


def parse_yaml(text: str) -> Any:
    """The plain values of a YAML text. Raises `YamlFault`."""
    if len(text) > MAX_BYTES:
        raise YamlFault(f"more than {MAX_BYTES // 1024} KiB")
    try:
        loader = _BoundedLoader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            if _values(node, {}) > _MAX_VALUES:
                raise YamlFault("its aliases stand for too many values")
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" at line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or "not YAML"
        # PyYAML's words quote what stands there, at any length.
        raise YamlFault(_QUOTED.sub("'...'", problem)[:_LONGEST_PROBLEM], place) from None
    except YamlFault:
        raise
    except (ValueError, OverflowError, AttributeError, TypeError, KeyError):
        # A date such as 2026-02-31, or a number of thousands of digits: what YAML's own constructors let through.
        raise YamlFault("a date or a number that cannot be") from None


class _BoundedLoader(yaml.SafeLoader):
    """Nothing that nests deeper than Python can follow, no number that nothing counts to, and no key twice in one mapping."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._depth += 1
        try:
            if self._depth > _MAX_DEPTH:
                raise YamlFault("nested too deeply")
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """As the base class, which lets the last of several equal keys hide the others: a camera that nobody records."""
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE:
                if (key.tag, key.value) in seen:
                    raise YamlFault(
                        "a key that stands in one mapping twice", f" at line {key.start_mark.line + 1}"
                    )
                seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        number = super().construct_yaml_int(node)
        if not -_MAX_INTEGER <= number < _MAX_INTEGER:
            raise YamlFault("a date or a number that cannot be", f" at line {node.start_mark.line + 1}")
        return number


_MERGE = "tag:yaml.org,2002:merge"
_BoundedLoader.add_constructor("tag:yaml.org,2002:int", _BoundedLoader.construct_yaml_int)


def _values(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a node stands for once each alias is what it names, which may be exponential in the text."""
    if id(node) in known:
        if known[id(node)] < 0:
            raise YamlFault("an alias that holds itself")
        return known[id(node)]
    known[id(node)] = -1
    count = 1
    if isinstance(node, yaml.SequenceNode):
        count += sum(_values(item, known) for item in node.value)
    elif isinstance(node, yaml.MappingNode):
        count += sum(_values(key, known) + _values(value, known) for key, value in node.value)
    known[id(node)] = count
    return count
