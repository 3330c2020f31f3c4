"""What `sca query` and `sca export` can be asked, as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from pipeline.commands.export import export
from pipeline.commands.query import query
from pipeline.core.errors import UserError
from pipeline.core.records import Batch, CaptionEvent, ResumePoint
from pipeline.store import CaptionStore
from tests.store_samples import BY_HAND, INFO, T0, S

ask, write_out = typer.Typer(), typer.Typer()
ask.command()(query)
write_out.command()(export)
TEXTS = ("a red dog", "a hotdog stand", "a blue dog, red collar", "a Cafe\u0301 sign")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = CaptionStore.create(tmp_path_factory.mktemp("asked") / "a.zarr")
    for stream, first in (("front", 0), ("yard", 2)):
        events = tuple(
            CaptionEvent(
                n, T0 + n * 2000 * S, T0 + n * 2000 * S + S, 0, S, n, (n * 10, 0, n * 10 + 8, 8), TEXTS[n], 0.5, 0,
                np.array([1, n], np.float32),
            )
            for n in range(first, first + 2)
        )  # fmt: skip
        with store.writer(stream, INFO, compaction=BY_HAND) as writer:
            writer.commit(Batch(captions=events, resume=ResumePoint(9, 9, 0, T0 + 7000 * S, 9)))
    return store.path


def told(path: Path, *words: str) -> list[dict[str, object]]:
    result = CliRunner().invoke(ask, [str(path), "--utc", "--format", "json", *words], catch_exceptions=False)
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (("--text", "DOG"), [0, 1, 2]),
        (("--word", "Dog"), [0, 2]),
        (("--word", "dog", "--word", "red"), [0, 2]),
        (("--phrase", "red dog"), [0]),
        (("--phrase", "dog red"), [2]),
        (("--word", "dog", "--not", "blue"), [0]),
        (("--regex", "^a (red|hot)"), [0, 1]),
        (("--word", "caf\u00e9"), [3]),
        (("--text", "CAFE\u0301"), [3]),
        (("--box", "9,0,19,5"), [1]),
        (("--zone", "0,0 15,0 15,9 0,9"), [0, 1]),
        (("--stream", "yard"), [2, 3]),
        (("--stream", "yard", "--stream", "front", "--track", "1"), [1]),
        (("--like-track", "front:0", "--min-similarity", "0.7"), [0, 1]),
        (("--newest", "3"), [3, 2, 1]),
        (("--newest", "2", "--word", "dog"), [2, 0]),
        (("--limit", "2", "--word", "dog"), [0, 2]),
    ],
)
def test_what_is_asked_is_found(path: Path, words: tuple[str, ...], found: list[int]) -> None:
    assert [row["track"] for row in told(path, *words)] == found


@pytest.mark.parametrize(
    ("by", "found"),
    [
        ("hour", [("2026-09-21T14:00+00:00", 2, 2), ("2026-09-21T15:00+00:00", 2, 2)]),
        ("stream", [("front", 2, 2), ("yard", 2, 2)]),
        ("track", [(key, 1, 1) for key in ("front:0", "front:1", "yard:2", "yard:3")]),
        ("text", [(text, 1, 1) for text in sorted(TEXTS)]),
    ],
)
def test_counts(path: Path, by: str, found: list[tuple[str, int, int]]) -> None:
    assert [tuple(row.values()) for row in told(path, "--count-by", by)] == found
    assert "tracks" in CliRunner().invoke(ask, [str(path), "--count-by", by]).stdout
    lines = CliRunner().invoke(ask, [str(path), "--count-by", by, "--format", "csv"]).stdout.splitlines()
    assert len(lines) == 1 + len(found)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--regex", "(" * 3000 + ")" * 3000), r"cannot be read \(it is nested too deeply\)"),
        (("--regex", "a("), r"the pattern 'a\(' cannot be read"),
        (("--word", "..."), "holds no word"),
        (("--box", "1,2,3"), "give four numbers of pixels"),
        (("--box", "5,2,3,4"), "left of and above"),
        (("--zone", "1,2 3,4"), "three corners or more"),
        (("--zone", "1,2 3,4 5"), "'5' is no corner"),
        (("--like-track", "0"), "say of which stream"),
        (("--like-track", "yard:x"), "the number of a track"),
        (("--like-track", "yard:9"), "track 9 of yard has no embedding"),
        (("--stream", "yrad"), "did you mean 'yard'|no stream 'yrad'"),
    ],
)
def test_what_cannot_be_asked_is_told(path: Path, words: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        told(path, *words)


def test_exports_are_asked_likewise_and_coverage_is_told_beside_rows(path: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.jsonl"
    words = [str(path), str(out), "--word", "dog", "--not", "blue", "--utc"]
    CliRunner().invoke(write_out, words, catch_exceptions=False)
    assert [json.loads(line)["track"] for line in out.read_text().splitlines()] == [0]
