"""Caption scores: what is right scores high, what is wrong low, and what cannot be computed says why."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from sca.data.annotations import AnnotatedImage, RegionAnnotation
from sca.evaluation.captions import RegionCaption, frequent_mistakes, paper_metrics, score_captions
from sca.evaluation.mistake_sheet import write_mistakes
from tests.duration import LONG

_TRUTH = [
    ("a brown dog", "a dog"),
    ("a man in a red shirt", "a man"),
    ("the green grass", "grass"),
    ("a white car", "a car"),
    ("two boats on the water", "boats"),
    ("a tall building", "a building"),
]


def captions(texts: list[str]) -> list[RegionCaption]:
    return [
        RegionCaption(
            f"{index}", 0, text, truth, -float(index), 4, 0.1 * index, 0.01 * (1 + index), ("other",)
        )
        for index, (text, truth) in enumerate(zip(texts, _TRUTH, strict=True))
    ]


def test_the_references_themselves_score_best_and_a_shuffle_scores_nothing() -> None:
    texts = [truth[0] for truth in _TRUTH]
    rows = {row.name: row for row in score_captions(captions(texts))}
    assert rows["all"].head == rows["all"].exact == rows["all"].content == 1.0
    assert rows["confident half"].count == rows["higher-scored half"].count == 3
    mixed = {row.name: row for row in score_captions(captions(["a dog", "a man", "grass", "x", "x", "x"]))}
    assert (mixed["confident half"].head, mixed["higher-scored half"].head) == (1.0, 0.0)
    wrong = {row.name: row for row in score_captions(captions(texts[1:] + texts[:1]))}
    assert wrong["all"].head == 0.0
    assert wrong["all"].cider < 0.1 < rows["all"].cider
    assert frequent_mistakes(captions(texts[1:] + texts[:1]))[0][2] == 1
    assert frequent_mistakes(captions(texts)) == []


def test_mistakes_are_shown_and_a_bad_place_for_them_is_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = []
    for index in range(len(_TRUTH)):
        path = tmp_path / f"{index}.png"
        cv2.imwrite(str(path), rng.integers(0, 255, (64, 64, 3)).astype(np.uint8))
        region = RegionAnnotation((5.0, 5.0, 50.0, 60.0), _TRUTH[index], 1, "1", ("other",), None, None)
        images.append(AnnotatedImage(str(index), path, "x", "val", 64, 64, 1.5, (), (), (region,)))
    right = captions([truth[0] for truth in _TRUTH])
    wrong = captions(["a cat", *(truth[0] for truth in _TRUTH[1:])])
    write_mistakes(wrong, images, tmp_path / "wrong.png")
    write_mistakes(right, images, tmp_path / "right.png")
    assert cv2.imread(str(tmp_path / "wrong.png")).any()
    assert not cv2.imread(str(tmp_path / "right.png")).any()
    with pytest.raises(ValueError, match="nowhere"):
        write_mistakes(wrong, images, tmp_path / "nowhere" / "wrong.png")


@pytest.mark.skipif(
    shutil.which("java") is None, reason="METEOR is a Java program, and there is no Java here"
)
@pytest.mark.skipif(not LONG, reason="METEOR takes ten seconds to start; `make test-all` waits for it")
def test_meteor_prefers_what_is_right() -> None:
    texts = [truth[0] for truth in _TRUTH]
    right, wrong = paper_metrics(captions(texts)), paper_metrics(captions(texts[1:] + texts[:1]))
    assert right.meteor is not None
    assert wrong.meteor is not None
    assert right.meteor > 0.9 > 0.4 > wrong.meteor


def test_a_metric_that_cannot_run_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    metrics = paper_metrics(captions([truth[0] for truth in _TRUTH]))
    assert metrics.meteor is None
    assert "Java" in metrics.text()
