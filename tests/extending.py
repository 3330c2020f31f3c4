"""The package that docs/extending.md describes, installed for a test: its files, and what it announces."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

GUIDE = Path(__file__).resolve().parent.parent / "docs" / "extending.md"
_BLOCK = re.compile(r"^```(toml|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NAME = re.compile(r"# (\S+\.py)\n")


def blocks(language: str) -> list[str]:
    return [text for kind, text in _BLOCK.findall(GUIDE.read_text()) if kind == language]


def announce(site: Path, name: str, points: dict[str, dict[str, str]], version: str = "1.0") -> None:
    """Put the metadata of an installed distribution into `site`. `points`: entry points by group."""
    folder = site / f"{name.replace('-', '_')}-{version}.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = []
    for group, entries in points.items():
        lines += [f"[{group}]", *(f"{key} = {value}" for key, value in entries.items()), ""]
    (folder / "entry_points.txt").write_text("\n".join(lines))


def install_example(site: Path) -> list[Path]:
    """Write the guide's package into `site` as if it were installed; its test files."""
    project = tomllib.loads("\n".join(blocks("toml")))["project"]
    announce(site, project["name"], project["entry-points"], project["version"])
    tests = []
    for text in blocks("python"):
        named = _NAME.match(text)
        assert named, f"a block without a file name: {text[:60]!r}"
        path = site / named[1]
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parent / "__init__.py").touch() if path.parent != site else None
        assert not path.exists(), f"{path.name} is given twice"
        path.write_text(text)
        if path.name.startswith("test_"):
            tests.append(path)
    return tests
