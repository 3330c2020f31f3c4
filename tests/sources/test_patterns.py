"""Patterns match what Python's `glob` matches, and end whatever links and folders there are."""

from __future__ import annotations

import glob
import os
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.core.errors import SourceRefused
from pipeline.sources import patterns
from pipeline.sources.inputs import find_inputs
from pipeline.sources.patterns import matching
from tests.duration import by_day

pytestmark = pytest.mark.promise("inputs-bounded")

names = st.sampled_from(("a", "b", "a.mp4", "b.MP4", ".h", "[x]", "ü"))
parts = st.sampled_from(("**", "*", "a", "?", "*.mp4", "[ab]", ".*", ""))


@settings(max_examples=by_day(40, 2000))
@given(
    files=st.lists(st.lists(names, min_size=1, max_size=4), max_size=8),
    pattern=st.lists(parts, min_size=1, max_size=4),
)
@example(files=[["a", "b", "a.mp4"]], pattern=["**", "b", "**", "*.mp4"])
@example(files=[["[x]", "b", "a.mp4"]], pattern=["**", "b", "*.mp4"])
@example(files=[["a", "a.mp4"], [".h", "a.mp4"]], pattern=["**", ""])
@example(files=[], pattern=["a", "**"])
@example(files=[["a"]], pattern=["a", "**"])
def test_what_python_matches(files: list[list[str]], pattern: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for path in files:
            place = Path(folder, *path)
            if not any(above.is_file() for above in place.parents) and not place.exists():
                place.parent.mkdir(parents=True, exist_ok=True)
                place.touch()
        wanted = os.path.join(glob.escape(folder), *pattern)
        # Of a folder that is not there it matches the folder itself.
        theirs = {
            os.path.normpath(match) for match in glob.glob(wanted, recursive=True) if os.path.lexists(match)
        }
        assert {os.path.normpath(match) for match in matching(wanted)} == theirs


def test_links_that_lead_around_are_followed_once(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).mkdir()
        for link in range(8):
            (tmp_path / name / f"up{link}").symlink_to(tmp_path)
        (tmp_path / name / "x.mp4").touch()
    outside = tmp_path.with_name("outside")
    outside.mkdir()
    (outside / "y.mp4").touch()
    (tmp_path / "c" / "linked").symlink_to(outside)
    begun = time.process_time()
    found = matching(f"{tmp_path}/**/*.mp4")
    assert [Path(match).name for match in found] == ["x.mp4", "x.mp4", "y.mp4", "x.mp4"]
    assert time.process_time() - begun < 10


def test_everything_there_is_ends_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "MOST_FOLDERS", 500)
    with pytest.raises(SourceRefused, match="more than 500 folders") as error:
        find_inputs(["/**/*.mp4"])
    assert "\n" not in str(error.value)
    monkeypatch.setattr(patterns, "MOST_MATCHES", 100)
    with pytest.raises(SourceRefused, match="more than 100 matches"):
        find_inputs(["/**"])
