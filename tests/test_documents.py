"""What the pages point to is there: links, files, folders, and nothing from outside in the hooks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tests.test_rooms import MAY_IMPORT

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("sca/shipped/*/*.md")])
FILE = re.compile(r"`((?:sca|engines|pipeline|tests|benchmarks|configs|docs)/[\w./-]*)`")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_named_files_are_there(page: Path) -> None:
    text = page.read_text()
    links = {target.split("#")[0] for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text)}
    missing = [link for link in links if link and not (page.parent / link).exists()]
    named = [name for name in FILE.findall(text) if not (ROOT / name).exists()]
    assert not missing, "mend these links"
    assert not named, "these have moved"


def test_every_room_stands_in_the_architecture() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    absent = [
        folder for folder in MAY_IMPORT if f"{folder.removeprefix('pipeline/').split('/')[-1]}/" not in text
    ]
    assert absent in ([], ["pipeline"])


def test_every_decision_is_listed() -> None:
    listed = (ROOT / "docs/decisions/README.md").read_text()
    pages = [path for path in (ROOT / "docs/decisions").glob("[0-9]*.md")]
    assert pages
    for page in pages:
        assert f"({page.name})" in listed
        assert all(
            f"**{part}.**" in page.read_text()
            for part in ("Why it came up", "Decided", "What it costs", "Where")
        )


def test_hooks_fetch_nothing_and_do_what_make_check_does() -> None:
    repositories = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [repository["repo"] for repository in repositories] == ["local"]
    entries = [hook["entry"] for hook in repositories[0]["hooks"]]
    checks = re.findall(r"\$\(BIN\)/(ruff format|ruff check|mypy)", (ROOT / "Makefile").read_text())
    assert all(any(f"/{check}" in entry for entry in entries) for check in checks)
    assert {hook["language"] for hook in repositories[0]["hooks"]} == {"system"}
