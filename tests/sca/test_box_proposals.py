"""Boxes in which things are expected: how they are taught, chosen, and computed without torch."""

from __future__ import annotations

import base64
import gzip
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sca.data.annotations import AnnotatedImage, Detection, RegionAnnotation
from sca.data.detector_teacher import CLASSES, DetectorTeacher, grow_detections, read_detections
from sca.data.image_cache import ImageCache
from sca.data.jsonl_folder import JsonlFolder
from sca.data.thing_boxes import ThingBatchMaker, Things, plain_things, thing_pictures
from sca.errors import UserError
from sca.predictor import Predictor
from sca.proposals import NO_PROPOSALS, Proposals, distinct_proposals
from sca.training.config import parse_training_config
from sca.training.proposal_losses import cells_of, owners
from sca.training.run import prepare_data
from sca.training.trainer import DETECTIONS, Trainer
from tests.sca.conftest import TINY
from tests.tiny_models import region_token_config, tiny_config, tiny_model, word_tokenizer

SIDE = 64
CELLS = cells_of(SIDE, torch.device("cpu"))


@st.composite
def boxes(draw: st.DrawFn, most: int = 6) -> torch.Tensor:
    count = draw(st.integers(0, most))
    corner = st.floats(0, SIDE - 8)
    rows = [
        (x, y, min(x + w, SIDE), min(y + h, SIDE))
        for x, y, w, h in (
            (draw(corner), draw(corner), draw(st.floats(5, 60)), draw(st.floats(5, 60))) for _ in range(count)
        )
    ]
    return torch.tensor(rows).reshape(-1, 4)


@settings(max_examples=60)
@given(boxes(), boxes(3), st.integers(0, 99))
def test_cells_answer_for_things_that_they_lie_in_and_are_told_nothing_where_nobody_knows(
    things: torch.Tensor, unknown: torch.Tensor, seed: int
) -> None:
    torch.manual_seed(seed)
    spread = torch.rand(len(CELLS), 4) * 30
    guessed = torch.cat([CELLS[:, :2] - spread[:, :2], CELLS[:, :2] + spread[:, 2:]], dim=1)
    told = Things(things, torch.zeros(len(things), dtype=torch.int64), torch.ones(len(things)), unknown)
    owner = owners(guessed, torch.rand(len(CELLS)), told, CELLS)
    assert owner.shape == (len(CELLS),)
    for number in range(len(things)):
        mine = CELLS[owner == number]
        low, high = things[number, :2], things[number, 2:]
        middle = (low + high) / 2
        inside = ((mine[:, :2] > low) & (mine[:, :2] < high)).all(1)
        central = ((mine[:, :2] - middle).abs() < 1.5 * mine[:, 2:]).all(1)
        assert bool((inside | central).all())
    free = CELLS[owner == -1][:, :2]
    for x0, y0, x1, y1 in unknown.tolist():
        assert not bool(((free[:, 0] > x0) & (free[:, 0] < x1) & (free[:, 1] > y0) & (free[:, 1] < y1)).any())


@settings(max_examples=60)
@given(boxes(12), st.integers(0, 99), st.integers(20, 300), st.integers(20, 300))
def test_of_proposals_each_thing_stays_once_and_inside_the_picture(
    proposed: torch.Tensor, seed: int, height: int, width: int
) -> None:
    scores = np.random.default_rng(seed).uniform(0, 1, len(proposed)).astype(np.float32)
    longest = max(height, width)
    inner = (max(1, round(SIDE * height / longest)), max(1, round(SIDE * width / longest)))
    moved = proposed.numpy() * 1.5 - 10  # some of it beside the picture
    kept = distinct_proposals(moved, scores, inner, (height, width))
    assert (np.diff(kept.scores) <= 0).all()
    assert (kept.boxes >= 0).all()
    assert (kept.boxes <= np.array([width, height] * 2) * (1 + 1e-6)).all()
    low = np.maximum(kept.boxes[:, None, :2], kept.boxes[None, :, :2])
    high = np.minimum(kept.boxes[:, None, 2:], kept.boxes[None, :, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=-1)
    area = np.diagonal(shared)
    iou = shared / np.maximum(area[:, None] + area[None] - shared, 1e-9)
    assert (iou[~np.eye(len(iou), dtype=bool)] <= 0.6 + 1e-4).all()
    # The surest that lies in the picture is always among them.
    limit = np.array([inner[1], inner[0]] * 2)
    cut = np.clip(moved, 0, limit)
    large = (np.prod(cut[:, 2:] - cut[:, :2], axis=1) > 1) & (scores >= 0.05)
    assert (len(kept.scores) > 0) == large.any()
    if large.any():
        assert kept.scores[0] == scores[large].max()


def test_a_box_fits_as_far_as_the_surest_proposal_there_agrees() -> None:
    proposals = Proposals(
        np.array([[0, 0, 10, 10], [20, 20, 40, 40]], np.float32), np.array([0.8, 0.6], np.float32)
    )
    asked = np.array([[0, 0, 10, 10], [0, 0, 10, 5], [20, 20, 40, 40], [50, 50, 60, 60], [5, 5, 5, 5]])
    np.testing.assert_allclose(proposals.fits(asked.astype(np.float32)), [0.8, 0.4, 0.6, 0, 0], atol=1e-6)
    assert proposals.fits(np.zeros((0, 4))).shape == (0,)
    assert NO_PROPOSALS.fits(asked).tolist() == [0] * 5


def test_a_model_without_the_head_proposes_nothing() -> None:
    predictor = Predictor(tiny_model(tiny_config()), word_tokenizer())
    (encoding,) = predictor.encode_batch([np.zeros((20, 30, 3), np.uint8)])
    assert len(predictor.propose(encoding).boxes) == 0
    with pytest.raises(UserError, match="finer map"):
        tiny_config(proposals=region_token_config(True).proposals)


def _image(path: Path, **changed: Any) -> AnnotatedImage:
    values: dict[str, Any] = {
        "id": "1", "path": path, "source": "some", "split": "train", "width": 64, "height": 64, "aspect": 1.0,
        "captions": (), "scene_phrases": (), "regions": (),
    }  # fmt: skip
    return AnnotatedImage(**values | changed)


def test_things_are_what_people_drew_and_what_the_detector_is_sure_of(tmp_path: Path) -> None:
    def region(box: tuple[float, ...], **changed: Any) -> RegionAnnotation:
        values: dict[str, Any] = {
            "box": box, "phrases": ("a ball",), "boxes_of_phrase": 1, "chain": "", "types": ("other",),
            "category": None, "counts": None,
        }  # fmt: skip
        return RegionAnnotation(**values | changed)

    regions = (
        region((0, 0, 20, 20)),
        region((30, 30, 50, 50)),  # which the detector has found as well
        region((0, 30, 20, 60), types=("scene",)),
        region((1, 1, 63, 63)),  # nearly all of the picture
        region((40, 0, 60, 20), loose=True),
        region((20, 0, 30, 20), category="road", phrases=("a road",)),
    )
    seen = [Detection("dog", 0.9, (31, 30, 50, 50)), Detection("cat", 0.2, (0, 50, 9, 60))]
    (found,) = thing_pictures([_image(tmp_path, regions=regions)], {"1": seen}, CLASSES)
    assert found.boxes.tolist() == [[31, 30, 50, 50], [0, 0, 20, 20]]
    assert found.kinds.tolist() == [CLASSES.index("dog"), -1]
    assert found.unknown.tolist() == [[0, 50, 9, 60], [40, 0, 60, 20]]
    assert thing_pictures([_image(tmp_path)], {}, CLASSES) == []
    shown = plain_things(found, 32)
    assert shown.boxes.tolist() == [[15.5, 15, 25, 25], [0, 0, 10, 10]]


def test_views_show_the_things_where_they_are(tmp_path: Path) -> None:
    picture = np.full((64, 64, 3), 40, np.uint8)
    picture[20:44, 10:34] = 250
    path = tmp_path / "1.png"
    cv2.imwrite(str(path), picture)
    image = _image(path)
    data = thing_pictures([image], {"1": [Detection("dog", 0.9, (10, 20, 34, 44))]}, CLASSES)
    maker = ThingBatchMaker(data, ImageCache([image], tmp_path / "cache"), seed=3, size=96, images=12)
    batch, again = maker.make(0), maker.make(0)
    assert torch.equal(batch.pixels, again.pixels)
    seen = 0
    for pixels, things in zip(batch.pixels.numpy(), batch.things, strict=True):
        for x0, y0, x1, y1 in things.boxes.round().int().tolist():
            if min(x1 - x0, y1 - y0) < 12 or min(x0, y0) < 3 or max(x1, y1) > 93:
                continue
            seen += 1
            inside = np.median(pixels[y0 + 3 : y1 - 3, x0 + 3 : x1 - 3])
            assert inside > np.median(pixels[y0 - 3 : y0 - 1, x0:x1]) + 40
    assert seen > 5


RECIPE = {
    **TINY,
    "model": {**TINY["model"], "proposals": {"width": 16}},  # type: ignore[dict-item]
    "stages": [
        {"name": "boxes", "trains": "proposals", "steps": 40, "size": 64, "images": 4, "learning_rate": 5e-3,
         "warmup_steps": 1, "ema": 0.9},
    ],
}  # fmt: skip


def test_training_learns_where_things_are_and_nothing_else(data_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    with gzip.open(tmp_path / "cache" / DETECTIONS, "wt") as stream:
        stream.write("")
    data, pictures = prepare_data(data_dir, tmp_path / "cache")
    trainer = Trainer(parse_training_config(RECIPE, "tiny"), data, pictures, tmp_path)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    losses = [trainer.train_step(trainer.make_batch(step)).total.item() for step in range(40)]
    assert np.mean(losses[-8:]) < 0.9 * np.mean(losses[:8])
    changed = {
        name.split(".")[0]
        for name, value in trainer.model.state_dict().items()
        if not value.equal(before[name])
    }
    assert changed == {"box_proposals"}
    trainer.save()
    resumed = Trainer(parse_training_config(RECIPE, "tiny"), data, pictures, tmp_path)
    assert resumed.progress.step == 40


def test_a_recipe_that_trains_proposals_of_a_model_without_them_is_refused(
    data_dir: Path, tmp_path: Path
) -> None:
    values = {**RECIPE, "model": TINY["model"]}
    data, pictures = prepare_data(data_dir, data_dir / "cache")
    with pytest.raises(UserError, match=r"model\.proposals"):
        Trainer(parse_training_config(values, "tiny"), data, pictures, tmp_path)


def _package(folder: Path) -> Path:
    """A graph in the layout of the package, which sees a white cell as a dog, by its brightness alone."""
    folder.mkdir()
    weights: list[dict[str, Any]] = []
    raw = b""
    nodes: list[dict[str, Any]] = [{"name": "x", "op": "Placeholder"}]

    def constant(name: str, value: np.ndarray) -> None:
        nonlocal raw
        weights.append({"name": name, "shape": list(value.shape), "dtype": str(value.dtype)})
        raw += value.tobytes()
        nodes.append({"name": name, "op": "Const"})

    for stride in (8, 16, 32):
        kernel = np.zeros((stride, stride, 3, 255), np.float32)
        bias = np.full(255, -10.0, np.float32)
        bias[:4] = 0.0  # the first anchor: in the middle of the cell, of the anchor's size
        kernel[..., 4] = kernel[..., 5 + CLASSES.index("dog")] = 20.0 / (stride * stride * 3) * (stride == 8)
        constant(f"w{stride}", kernel)
        constant(f"b{stride}", bias)
        nodes.append(
            {
                "name": f"c{stride}",
                "op": "_FusedConv2D",
                "input": ["x", f"w{stride}", f"b{stride}"],
                "attr": {
                    "strides": {"list": {"i": ["1", str(stride), str(stride), "1"]}},
                    "padding": {"s": base64.b64encode(b"VALID").decode()},
                },
            }
        )
    (folder / "part.bin").write_bytes(raw)
    told = {
        "modelTopology": {"node": nodes},
        "weightsManifest": [{"paths": ["part.bin"], "weights": weights}],
    }
    (folder / "model.json").write_text(json.dumps(told))
    return folder


def test_the_packaged_detector_is_read_and_its_boxes_lie_in_the_stored_picture(tmp_path: Path) -> None:
    package = _package(tmp_path / "package")
    picture = np.zeros(
        (104, 104, 3), np.uint8
    )  # a quarter of what the detector is shown: a cell of 8 is 2 pixels
    picture[40:42, 60:62] = 255
    path = tmp_path / "1.png"
    cv2.imwrite(str(path), picture)
    image = _image(path, width=104, height=104)
    (dog,) = DetectorTeacher(package).detections(image)
    assert dog.category == "dog"
    assert dog.score > 0.5
    x0, y0, x1, y1 = dog.box  # of the anchor's 10 x 13 pixels, in the middle of the cell
    assert (x0 + x1) / 2 == pytest.approx(61, abs=0.2)
    assert (y0 + y1) / 2 == pytest.approx(41, abs=0.2)
    assert (x1 - x0, y1 - y0) == (pytest.approx(2.5, abs=0.1), pytest.approx(3.25, abs=0.1))
    kept = tmp_path / "found.jsonl.gz"
    assert grow_detections([image], package, kept) == 1
    assert grow_detections([image], package, kept) == 0
    assert read_detections(kept)["1"][0].category == "dog"
    (package / "part.bin").write_bytes(b"")
    with pytest.raises(UserError, match="npm pack"):
        DetectorTeacher(package)


def test_the_shape_of_a_squashed_picture_is_what_was_guessed(tmp_path: Path) -> None:
    row = {"id": "1", "file": "1.png", "src": "coco256", "split": "train", "w": 256, "h": 256, "ow": None, "oh": None,
           "regions": [], "aspect_guess": [4, 3]}  # fmt: skip
    with gzip.open(tmp_path / "annotations.jsonl.gz", "wt") as stream:
        stream.write(json.dumps(row))
    (image,) = JsonlFolder().images(tmp_path)
    assert image.aspect == pytest.approx(4 / 3)
