"""YAML from anywhere is refused in a moment, in words that do not quote it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sca.yaml_files import MAX_BYTES, YamlFault, parse_yaml, read_yaml

pytestmark = pytest.mark.promise("yaml-bounds")

_BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9)
)
_MERGED = "a0: &a0 {k: 1}\n" + "".join(
    f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 9)
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (_BOMB, "aliases"),
        (_MERGED, "aliases"),
        ("a: &a [*a]", "holds itself"),
        ("[" * 100_000, "too deeply"),
        ("a: " * 50, "line 1"),
        ("a: 2026-02-31", "a date or a number"),
        ("a: " + "9" * 5000, "a date or a number"),
        ("- x\n" * MAX_BYTES, "more than 256 KiB"),
        ("a: 0x" + "f" * 4000, "a date or a number"),
        ("streams: [{uri: a}]\nother: 1\nstreams: [{uri: secret}]\n", "twice at line 3"),
        ("a: {secret: 1, 'secret': 2}", "twice at line 1"),
        ("a: !secret x", "line 1"),
        ("a: !<" + "secret" * 9000 + "> x", "line 1"),
        ("a: *secret", "line 1"),
        ("%TAG ! tag:x,secret:\n--- !secret 1", "line 2"),
        ("a: !!int secret", "a date or a number"),
        ("!!python/object/apply:os.system ['echo secret']", "line 1"),
    ],
)
def test_hostile_yaml_is_refused(text: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    for read in (lambda: parse_yaml(text), lambda: read_yaml(path)):
        with pytest.raises(YamlFault, match=reason) as fault:
            read()
        assert "secret" not in str(fault.value)
        assert len(str(fault.value)) < 300


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.yaml")
    for path in (tmp_path / "a.yaml", Path("/dev/zero")):
        with pytest.raises(YamlFault, match="not a regular file"):
            read_yaml(path)


def test_aliases_as_people_use_them_are_read() -> None:
    text = "base: &base {preset: live}\nstreams: [{uri: a, <<: *base}, {uri: b, <<: *base}]\n"
    assert parse_yaml(text)["streams"][1] == {"uri": "b", "preset": "live"}
