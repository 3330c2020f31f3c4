"""`sca caption` as a user runs it, with a small random model: its words mean nothing, all else is real."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import typer
from pycocotools import mask as coco_mask
from typer.testing import CliRunner, Result

from pipeline.commands.caption import caption
from sca.checkpoints import save_shipped
from sca.config import AutomaticSettings
from tests.tiny_models import tiny_model, word_tokenizer

app = typer.Typer()
app.command()(caption)
LENIENT = AutomaticSettings(points_per_side=3, pred_iou_thresh=-9, stability_score_thresh=0.0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_shipped(tiny_model(), word_tokenizer(), folder, LENIENT)
    return folder


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "one.png", tmp_path / "two.png"]
    for seed, path in enumerate(paths):
        pixels = np.random.default_rng(seed).integers(0, 256, (40, 64, 3), dtype=np.uint8)
        cv2.imwrite(str(path), pixels)
    return paths


def run(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def rows(result: Result) -> list[dict[str, object]]:
    assert result.exit_code == 0, result.exception
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.mark.parametrize(
    "text",
    [
        "5 4 60 38\n0,0,20,20\n",
        "x0,y0,x1,y1\n5,4,60,38\n0,0,20,20",
        "[[5, 4, 60, 38], [0, 0, 20, 20]]",
        '{"one.png": [[5, 4, 60, 38], [0, 0, 20, 20]]}',
        '{"image": "x/one.png", "box": [5, 4, 60, 38]}\n{"image": "one.png", "box": [0, 0, 20, 20]}\n',
        '{"images": [{"id": 3, "file_name": "one.png"}], "annotations": [{"image_id": 3, "bbox": [5, 4, 55, 34]}, '
        '{"image_id": 3, "bbox": [0, 0, 20, 20]}]}',
    ],
    ids=["text", "csv", "list", "by-name", "lines", "coco"],
)
def test_boxes_are_read_from_what_tools_write(
    model: Path, pictures: list[Path], tmp_path: Path, text: str
) -> None:
    (tmp_path / "boxes").write_text(text)
    found = rows(run(pictures[0], "--boxes", tmp_path / "boxes", "--model", model, "--format", "jsonl"))
    assert [row["box"] for row in found] == [[5, 4, 60, 38], [0, 0, 20, 20]]
    assert [row["region"] for row in found] == [1, 2]
    for row in found:
        mask = coco_mask.decode(row["mask"])
        assert mask.shape == (40, 64)
        assert int(mask.sum()) == row["area"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_the_first_box_of_a_spreadsheet_is_not_lost(
    model: Path, pictures: list[Path], tmp_path: Path, encoding: str
) -> None:
    """A mark in front of a text is no part of its first cell; what reaches beyond the picture ends at its edge."""
    (tmp_path / "boxes.csv").write_bytes("5,4,60,38\r\n-3,-3,99,20\r\n".encode(encoding))
    found = rows(run(pictures[0], "--boxes", tmp_path / "boxes.csv", "--model", model, "--format", "jsonl"))
    assert [row["box"] for row in found] == [[5, 4, 60, 38], [0, 0, 64, 20]]


def test_what_was_written_is_read_again(model: Path, pictures: list[Path], tmp_path: Path) -> None:
    for output in ("jsonl", "coco"):
        written = tmp_path / f"found.{output}"
        assert (
            run(*pictures, "--model", model, "--format", output, "--out", written, "--min-score", 0).exit_code
            == 0
        )
        for kind in ("boxes", "masks"):
            again = rows(run(*pictures, f"--{kind}", written, "--model", model, "--format", "jsonl"))
            assert {row["image"] for row in again} == {str(path) for path in pictures}


def test_coco_is_whole(model: Path, pictures: list[Path], tmp_path: Path) -> None:
    (tmp_path / "b.json").write_text(
        '{"one.png": [[5, 4, 60, 38]], "two.png": [[0, 0, 20, 20], [9, 9, 30, 30]]}'
    )
    result = run(*pictures, "--boxes", tmp_path / "b.json", "--model", model, "--format", "coco")
    assert result.exit_code == 0, result.exception
    found = json.loads(result.stdout)
    assert [image["file_name"] for image in found["images"]] == ["one.png", "two.png"]
    assert [row["image_id"] for row in found["annotations"]] == [1, 2, 2]
    assert [row["id"] for row in found["annotations"]] == [1, 2, 3]
    assert found["annotations"][0]["bbox"] == [5, 4, 55, 34]
    assert all(row["caption"] for row in found["annotations"])


def test_points_and_masks(model: Path, pictures: list[Path], tmp_path: Path) -> None:
    (tmp_path / "points.json").write_text("[[10, 10], [[30, 20], [40, 30]]]")
    found = rows(
        run(pictures[0], "--points", tmp_path / "points.json", "--model", model, "--format", "jsonl")
    )
    assert len(found) == 2
    labels = np.zeros((40, 64), np.uint8)
    labels[3:20, 4:30], labels[25:39, 30:60] = 1, 7
    cv2.imwrite(str(tmp_path / "labels.png"), labels)
    np.save(tmp_path / "labels.npy", labels)
    from_picture, from_array = (
        rows(run(pictures[0], "--masks", tmp_path / name, "--model", model, "--format", "jsonl"))
        for name in ("labels.png", "labels.npy")
    )
    assert from_picture == from_array
    assert [row["box"] for row in from_array] == [[4, 3, 30, 20], [30, 25, 60, 39]]


def test_everything_is_found_drawn_and_told(model: Path, pictures: list[Path], tmp_path: Path) -> None:
    drawing = tmp_path / "drawn.png"
    result = run(pictures[0], "--model", model, "--draw", drawing, "--min-score", 0)
    assert result.exit_code == 0, result.exception
    assert "box x0 y0 x1 y1" in result.stdout
    drawn = cv2.imread(str(drawing))
    assert drawn.shape == (40, 64, 3)
    assert (drawn != cv2.imread(str(pictures[0]))).any()
    strict = run(pictures[0], "--model", model, "--min-score", 1)
    assert "no regions" in strict.stdout
    assert "regions less sure than 1 left out" in strict.stderr
    folder = tmp_path / "drawn"
    assert run(*pictures, "--model", model, "--draw", folder, "--format", "jsonl").exit_code == 0
    assert sorted(path.name for path in folder.iterdir()) == ["one.png", "two.png"]


@pytest.mark.parametrize(
    ("words", "content", "message"),
    [
        (["--boxes", "F", "--anything"], "0 0 1 1", "different questions"),
        (["--boxes", "F"], "0 0 1", "entry 1 is"),
        (["--boxes", "F"], "5 5 1 9", "box 1 is empty"),
        (["--boxes", "F"], "0 0 nan 9", "entry 1 is"),
        (["--boxes", "F"], '{"boxes": [[1, 2', "not readable JSON"),
        (["--boxes", "F"], "[" * 100_000, "not readable JSON"),
        (
            ["--boxes", "F"],
            '{"images": [], "annotations": [{"image_id": 1, "bbox": [1, 2, 3, 4]}]}',
            "not whole in COCO",
        ),
        (["--boxes", "F"], "64 0 80 20", "lies outside one.png, which is 64 x 40"),
        (["--boxes", "F"], "1e300 0 2e300 5", "lies outside one.png"),
        (["--points", "F"], "[[[5, 5], [64.5, 6]]]", "lies outside one.png"),
        (["--boxes", "F"], '{"other.png": [[0, 0, 5, 5]]}', "boxes for other pictures only (other.png)"),
        (["--masks", "F.json"], '{"one.png": [{"size": [40, 64], "counts": [2560]}]}', "mask 1 is empty"),
        (["--beams", "101"], "", "beams"),
        (["--masks", "F.json"], '{"one.png": [{"size": [9, 9], "counts": "x"}]}', "a mask cannot be read"),
        (["--masks", "F.npy"], "no array", "cannot be read as an array"),
        (["--boxes", "absent.txt"], "", "does not exist: name a file of boxes"),
        (["--task", "recognition"], "", "needs regions"),
        (["--draw", "F.mov"], "", "cannot tell the format"),
        (["--model", "dmeo"], "", "did you mean 'demo'"),
    ],
)
def test_mistakes_are_told_before_a_model_loads(
    pictures: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    content: str,
    message: str,
) -> None:
    monkeypatch.setattr("sca.load", lambda *_: pytest.fail("the model was loaded"), raising=False)
    monkeypatch.chdir(tmp_path)
    for name in ("F", "F.json", "F.npy"):
        (tmp_path / name).write_text(content)
    result = run(pictures[0], *words)
    assert isinstance(result.exception, ValueError | SystemExit), result.exception
    assert message in str(result.exception) + result.stderr


def test_a_file_that_is_no_picture_is_named(tmp_path: Path, model: Path) -> None:
    (tmp_path / "notes.jpg").write_text("no picture")
    result = run(tmp_path / "notes.jpg", "--model", model)
    assert "notes.jpg cannot be read as a picture" in str(result.exception)


def test_boxes_of_one_picture_are_not_taken_for_several(pictures: list[Path], tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("0 0 9 9")
    result = run(*pictures, "--boxes", tmp_path / "b.txt")
    assert "does not say which picture" in str(result.exception)
