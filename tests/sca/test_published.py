"""Published data, predictions of it, and the paper's metrics: each layout as its authors give it out."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from sca.checkpoints import save_shipped
from sca.config import AutomaticSettings
from sca.data.plain_pickle import read_plain_pickle
from sca.data.published import read_published
from sca.evaluation.paper_table import PAPER, report_on
from sca.evaluation.predictions import Prediction, predict, read_predictions, to_official
from sca.evaluation.reference_scorers import score_pairs, tokenize
from sca.predictor import Predictor
from tests.published_samples import REGIONS, SAMPLES
from tests.tiny_models import tiny_model, word_tokenizer

JAVA = pytest.mark.skipif(shutil.which("java") is None, reason="the reference scorers need Java")
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
def test_damaged_data_is_named(tmp_path: Path, change: object, message: str) -> None:
    folder = SAMPLES["vg"](tmp_path)
    change(folder)  # type: ignore[operator]
    with pytest.raises(ValueError, match=message):
        read_published("vg", folder)
    with pytest.raises(ValueError, match="did you mean 'coco'"):
        read_published("cocoo", folder)


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
    ):
        (tmp_path / "p.json").write_text(bad)
        with pytest.raises(ValueError, match=message):
            read_predictions(tmp_path / "p.json")


def pairs(count: int = 60) -> tuple[list[str], list[list[str]]]:
    rng = np.random.default_rng(5)
    subjects = [
        "a red bicycle",
        "The man's hat",
        "two dogs",
        "a white T-shirt",
        "grass",
        'A sign that says "stop"',
    ]
    places = ["on the street.", "in front of a house", "near the water, far away", "", "behind the woman"]
    draw = lambda: f"{rng.choice(subjects)} {rng.choice(places)}".strip()  # noqa: E731
    return [draw() for _ in range(count)], [
        [draw() for _ in range(int(rng.integers(1, 4)))] for _ in range(count)
    ]


@JAVA
def test_every_metric_is_that_of_its_package() -> None:
    """The packages' own order: coco-caption's tokenizer, then its scorers, each on its own."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.meteor.meteor import Meteor
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    candidates, references = pairs()
    ours = score_pairs(candidates, references)
    splitter = PTBTokenizer()
    wanted = splitter.tokenize({i: [{"caption": text} for text in own] for i, own in enumerate(references)})
    said = splitter.tokenize({i: [{"caption": text}] for i, text in enumerate(candidates)})
    assert tokenize(candidates) == [said[i][0] for i in range(len(candidates))]
    bleu, _ = Bleu(4).compute_score(wanted, said, verbose=0)
    theirs = {f"BLEU-{n}": value for n, value in enumerate(bleu, 1)}
    for name, scorer in (("CIDEr-D", Cider()), ("ROUGE-L", Rouge()), ("METEOR", Meteor())):
        theirs[name] = scorer.compute_score(wanted, said)[0]
    for name, value in theirs.items():
        assert ours.values[name] == pytest.approx(float(value), abs=1e-6), name


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


def test_the_command_runs_end_to_end_and_its_predictions_are_scored_without_a_model(tmp_path: Path) -> None:
    import typer
    from typer.testing import CliRunner

    from pipeline.commands.evaluate import evaluate
    from pipeline.commands.score import score

    model = tmp_path / "model"
    save_shipped(tiny_model(), word_tokenizer(), model, LENIENT)
    data = SAMPLES["vg"](tmp_path / "vg")
    evaluating, scoring = typer.Typer(), typer.Typer()
    evaluating.command()(evaluate)
    scoring.command()(score)
    words = [
        str(model),
        "--data",
        f"vg:{data}",
        "--beams",
        "2",
        "--predictions",
        str(tmp_path / "p.json"),
        "--json",
        str(tmp_path / "t.json"),
    ]
    done = CliRunner().invoke(evaluating, words)
    assert done.exit_code == 0, done.exception
    assert "4 regions of 3 images" in done.stdout
    assert "densecap-test, box prompts, 2 beams, float32" in done.stdout
    again = CliRunner().invoke(scoring, [str(tmp_path / "p.json"), "--name", str(model)])
    assert again.exit_code == 0, again.exception
    assert again.stdout == done.stdout
    assert json.loads((tmp_path / "t.json").read_text())["regions"] == 4
    for bad, message in (
        (["--data", "vg"], "not KIND:DIR"),
        (["--data", f"coco:{data}", "--protocol", "grit"], "is of grit data"),
        (["--data", f"vg:{data}", "--prompt", "circle"], "unknown prompt"),
        (["--predictions", "x.json"], "go with --data"),
    ):
        refused = CliRunner().invoke(evaluating, [str(model), *bad])
        assert message in str(refused.exception)
