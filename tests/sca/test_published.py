"""Published data, predictions of it, and the paper's metrics: each layout as its authors give it out."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from pipeline.commands.evaluate import evaluate
from pipeline.commands.score import score
from sca.checkpoints import save_shipped
from sca.config import AutomaticSettings
from sca.data.plain_pickle import read_plain_pickle
from sca.data.published import read_published
from sca.evaluation.paper_table import PAPER, report_on
from sca.evaluation.predictions import Prediction, predict, read_predictions, to_official
from sca.predictor import Predictor
from tests.duration import LONG
from tests.published_samples import REGIONS, SAMPLES
from tests.tiny_models import tiny_model, word_tokenizer

LENIENT = AutomaticSettings(points_per_side=3, pred_iou_thresh=-9, stability_score_thresh=0.0)


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(tiny_model(), word_tokenizer(), automatic=LENIENT)


@pytest.mark.parametrize("kind", SAMPLES)
def test_every_layout_is_read(tmp_path: Path, kind: str) -> None:
    images = read_published(kind, SAMPLES[kind](tmp_path))
    assert len(images) == 3
    assert all(image.path.is_file() for image in images)
    found = [(region.box, region.phrases[0]) for image in images for region in image.regions]
    texts = ["cat" if kind == "coco" else text for *_, text in REGIONS]
    assert found == [
        ((x, y, x + width, y + height), text)
        for (_, _, (x, y, width, height), _), text in zip(REGIONS, texts, strict=True)
    ]
    if kind == "refcoco":
        assert images[0].regions[0].phrases == ("a red bicycle", "that")
    with pytest.raises(ValueError, match=r"split|does not exist|no-such"):
        read_published(kind, tmp_path, "no-such")


@pytest.mark.promise("pickles")
def test_a_pickle_runs_nothing(tmp_path: Path) -> None:
    marker, path = tmp_path / "ran", tmp_path / "refs(unc).p"

    class Exploit:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return open, (str(marker), "w")

    for protocol in (0, 2, 4):
        path.write_bytes(pickle.dumps([Exploit()], protocol=protocol))
        with pytest.raises(ValueError, match=r"refs\(unc\)\.p is no pickle of plain values"):
            read_plain_pickle(path)
    path.write_bytes(pickle.dumps([{"a": 1}])[:-3])
    with pytest.raises(ValueError, match="no pickle of plain values"):
        read_plain_pickle(path)
    assert not marker.exists()
    value = [{"ref_id": 1, "x": 2.5, "words": ("a", None, True), "long": 1 << 70}]
    for protocol in (0, 2, 4):
        path.write_bytes(pickle.dumps(value, protocol=protocol))
        assert read_plain_pickle(path) == value


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "densecap_splits.json").unlink(), r"densecap_splits\.json does not exist"),
        (lambda folder: (folder / "region_descriptions.json").write_text("[{"), "not readable JSON"),
        (
            lambda folder: (folder / "region_descriptions.json").write_text('[{"id": 1}]'),
            "not in vg's layout",
        ),
        (
            lambda folder: (folder / "image_data.json").write_text(
                '[{"image_id": 1, "url": "x/../../a.jpg"}]'
            ),
            r"outside itself|no images",
        ),
    ],
)
def test_damaged_data_of_vg_is_named(tmp_path: Path, change: object, message: str) -> None:
    folder = SAMPLES["vg"](tmp_path)
    change(folder)  # type: ignore[operator]
    with pytest.raises(ValueError, match=message):
        read_published("vg", folder)
    with pytest.raises(ValueError, match="did you mean 'coco'"):
        read_published("cocoo", folder)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"box": [0, NaN, 9, 9], "phrases": ["x"]}', r"region 0 of 1\.png has the box"),
        ('{"box": [0, 0, 9, 9], "phrases": "x"}', "region 0 has no list of phrases"),
        ("", "has a region to caption"),
        ("[" * 100_000, "not in jsonl's layout"),
    ],
)
def test_regions_that_cannot_be_captioned_are_told_before_a_model_is_asked(
    tmp_path: Path, row: str, message: str
) -> None:
    folder = SAMPLES["jsonl"](tmp_path)
    (folder / "test.jsonl").write_text('{"image": "1.png", "regions": [' + row + "]}")
    with pytest.raises(ValueError, match=message):
        read_published("jsonl", folder)


def test_no_file_is_waited_for_and_none_is_read_as_nothing(tmp_path: Path) -> None:
    folder = SAMPLES["refcoco"](tmp_path / "refcoco")
    (folder / "refs(google).p").unlink()
    os.mkfifo(folder / "refs(google).p")
    with pytest.raises(ValueError, match=r"refs\(google\)\.p cannot be read"):
        read_published("refcoco", folder)
    folder = SAMPLES["flickr30k"](tmp_path / "flickr30k")
    (folder / "Sentences" / "2.txt").write_text("")
    with pytest.raises(ValueError, match=r"Sentences/2\.txt marks no phrase"):
        read_published("flickr30k", folder)


@pytest.mark.parametrize("prompt", ["box", "centre", "random", "anything"])
def test_predictions_have_the_official_layout(tmp_path: Path, predictor: Predictor, prompt: str) -> None:
    images = read_published("coco", SAMPLES["coco"](tmp_path))
    found = list(predict(predictor, images, protocol="all-regions", prompt=prompt, beams=2, model="tiny"))
    assert [own.region_id for own in found] == [11, 12, 21, 31]
    assert all(own.mask_iou is not None and 0 <= own.mask_iou <= 1 for own in found)
    entries = to_official(found)
    assert set(entries[0]) == {"_id", "split", "references", "candidates", "metadata", "logits"}
    path = tmp_path / "p.json"
    path.write_text(json.dumps(entries))
    assert read_predictions(path) == found
    assert found[0].run == f"tiny, all-regions, {prompt} prompts, 2 beams, float32"
    again = list(predict(predictor, images, protocol="all-regions", prompt=prompt, beams=2, model="tiny"))
    assert again == found


def test_one_region_takes_the_first_and_boxes_are_clamped(tmp_path: Path, predictor: Predictor) -> None:
    folder = SAMPLES["jsonl"](tmp_path)
    row = {
        "image": "1.png",
        "regions": [{"box": [-5, -5, 500, 20], "phrases": ["x"]}, {"box": [0, 0, 9, 9], "phrases": ["y"]}],
    }
    (folder / "test.jsonl").write_text(json.dumps(row))
    (found,) = predict(predictor, read_published("jsonl", folder), protocol="one-region", beams=1)
    assert found.box == (0, 0, 64, 20)
    (folder / "1.png").unlink()
    with pytest.raises(ValueError, match=r"1\.png does not exist: put the pictures"):
        list(predict(predictor, read_published("jsonl", folder), protocol="one-region", beams=1))


def test_of_several_candidates_the_surest_is_scored(tmp_path: Path) -> None:
    entry = {
        "references": ["a"],
        "candidates": ["one", "two", "three"],
        "logits": {"iou_scores": [0.1, 0.9, 0.3]},
    }
    (tmp_path / "p.json").write_text(json.dumps([entry]))
    assert read_predictions(tmp_path / "p.json")[0].candidate == "two"
    for bad, message in (
        ("{}", "no list"),
        ("[]", "no list"),
        ('[{"candidates": ["a"]}]', "entry 0 is no prediction"),
        ('[{"candidates": "a dog", "references": ["a"]}]', "its candidates are no list of texts"),
        ('[{"candidates": ["a"], "references": "a dog"}]', "its references are no list of texts"),
        ('[{"candidates": [null], "references": ["a"]}]', "its candidates are no list of texts"),
        (
            '[{"candidates": ["a"], "references": ["a"], "metadata": {"metadata_mask_iou": "x"}}]',
            "entry 0 is no prediction",
        ),
    ):
        (tmp_path / "p.json").write_text(bad)
        with pytest.raises(ValueError, match=message):
            read_predictions(tmp_path / "p.json")


def prediction(text: str, *references: str) -> Prediction:
    return Prediction(1, 1, (0, 0, 1, 1), references, text, (0.5,), "tiny, all-regions")


def test_all_nine_rows_of_the_paper_stand_beside_and_what_cannot_be_computed_is_a_dash(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    report = report_on([prediction("a dog", "a dog"), prediction("a cat", "the cat")], "tiny")
    text = report.text()
    assert len(PAPER) == 9
    for row in PAPER:
        assert f"| {row.name} |" in text
        assert row.source in text
    assert "| **tiny** | \u2013 | \u2013 |" in text
    assert "CIDEr-D, METEOR, SPICE, BLEU-1, BLEU-2, BLEU-3, BLEU-4, ROUGE-L: Java is not installed" in text
    assert "How: tiny, all-regions." in text
    assert "| SCA (GPT2-large, VG) | 148.8 | 17.4 | 31.2 |" in text
    assert len(report.to_dict()["paper"]) == 9
    with pytest.raises(ValueError, match="region 0 has no reference"):
        report_on([prediction("a dog")], "tiny")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_shipped(tiny_model(), word_tokenizer(), folder, LENIENT)
    return folder


def call(command: Callable[..., None], *words: object) -> Result:
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.mark.parametrize("kind", SAMPLES)
def test_a_model_is_evaluated_on_every_kind_and_its_predictions_are_scored_without_it(
    tmp_path: Path, model: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The metrics themselves, whose Java programs take long to start, are those of tests/sca/test_metrics.py."""
    if not (LONG and kind == "vg"):
        monkeypatch.setattr(shutil, "which", lambda name: None)
    data = SAMPLES[kind](tmp_path / kind)
    predictions, table = tmp_path / "p.json", tmp_path / "t.json"
    done = call(
        evaluate,
        model,
        "--data",
        f"{kind}:{data}",
        "--beams",
        2,
        "--predictions",
        predictions,
        "--json",
        table,
    )
    assert done.exit_code == 0, done.exception
    assert "4 regions of 3 images" in done.stdout
    protocol = {"vg": "densecap-test", "grit": "grit"}.get(kind, "all-regions")
    assert f"{protocol}, box prompts, 2 beams, float32" in done.stdout
    assert all(f"| {row.name} |" in done.stdout for row in PAPER)
    written = json.loads(predictions.read_text())
    assert [entry["metadata"]["metadata_region_id"] for entry in written] == [
        {"refcoco": 100 + region, "flickr30k": f"{region}-{number}"}.get(kind, region)
        for region, number in zip((11, 12, 21, 31), (0, 1, 0, 0), strict=True)
    ]
    assert all(entry["candidates"][0] for entry in written)
    assert ("mask IoU" in json.loads(table.read_text())["percent"]) == (kind in ("coco", "grit", "refcoco"))
    again = call(score, predictions, "--name", model)
    assert again.exit_code == 0, again.exception
    assert again.stdout == done.stdout


def test_what_cannot_be_evaluated_is_told_before_a_model_loads(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sca.load", lambda *_, **__: pytest.fail("the model was loaded"), raising=False)
    data = SAMPLES["vg"](tmp_path / "vg")
    (tmp_path / "empty").mkdir()
    for words, message in (
        (["--data", "vg"], "not KIND:DIR"),
        (["--data", f"coco:{data}", "--protocol", "grit"], "is of grit data"),
        (["--data", f"vg:{data}", "--protocol", "densecap"], "unknown protocol 'densecap'"),
        (["--data", f"vg:{data}", "--prompt", "circle"], "unknown prompt"),
        (["--data", f"vg:{data}", "--dtype", "int8"], "unknown dtype"),
        (["--data", f"vg:{data}", "--split", "testA"], "no split 'testA'"),
        (["--data", f"vg:{tmp_path / 'empty'}"], "densecap_splits.json does not exist"),
        (["--data", f"vg:{tmp_path / 'absent'}"], "is no folder"),
        (["--predictions", "x.json"], "go with --data"),
    ):
        refused = call(evaluate, model, *words)
        assert isinstance(refused.exception, ValueError), words
        assert message in str(refused.exception)
    assert call(evaluate, model, "--data", f"vg:{data}", "--beams", 0).exit_code == 2
