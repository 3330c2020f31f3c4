"""What training on a GPU needs: batches made by other processes, features made anew, the second backbone learning."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from sca.config import ScaConfig
from sca.data.annotations import AnnotatedImage, Box, Detection, RegionAnnotation
from sca.data.batches import BatchMaker, ahead
from sca.data.detector_names import with_detector_names
from sca.data.targets import training_images
from sca.errors import UserError
from sca.modeling.timm_encoder import TimmEncoder
from sca.stages.vision import model_stages
from sca.training.config import parse_training_config
from sca.training.mask_losses import rgb_to_lab
from sca.training.run import prepare_data, train
from sca.training.trainer import Trainer
from tests.sca.conftest import TINY, WITH_READER
from tests.tiny_models import region_reader_config, tiny_config, tiny_model


@pytest.mark.parametrize("config", [tiny_config(), region_reader_config()], ids=["plain", "reader"])
def test_all_that_a_stage_computes_with_lies_where_its_model_lies(config: ScaConfig) -> None:
    """On a GPU one weight left on the host ends a run."""
    with torch.device("meta"):
        model = tiny_model(config)
    for stage in model_stages(model, 4):
        tensors = dict(stage.module.named_parameters()) | dict(stage.module.named_buffers())
        assert [name for name, value in tensors.items() if value.device.type != "meta"] == []


def test_colours_are_those_of_the_library() -> None:
    rgb = np.random.default_rng(0).random((8, 8, 3), dtype=np.float32)
    got = rgb_to_lab(torch.from_numpy(rgb).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
    assert np.abs(got - cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB)).max() < 0.3


def test_batches_made_by_other_processes_are_the_same(data_dir: Path) -> None:
    data, pictures = prepare_data(data_dir, data_dir / "cache")
    maker = BatchMaker(data, pictures, seed=3, size=64, images=2, regions=2, zoom=(0.8, 1.2))
    own, others = (list(ahead(maker.make, 1, 4, processes)) for processes in (0, 2))
    for one, other in zip(own, others, strict=True):
        assert torch.equal(one.pixels, other.pixels)
        assert (one.phrases, one.references) == (other.phrases, other.references)


def test_a_collection_shown_less_often_has_fewer_of_the_pictures() -> None:
    def image(index: int) -> AnnotatedImage:
        region = RegionAnnotation((1.0, 1.0, 30.0, 30.0), ("a thing",), 1, "1", (), None, None)
        source = "many" if index % 2 else "few"
        return AnnotatedImage(str(index), Path("x"), source, "train", 32, 32, 1.0, (), (), (region,))

    data = training_images([image(index) for index in range(40)], {}, {})
    maker = BatchMaker(
        data,
        {},
        seed=0,
        size=32,
        images=11,
        regions=1,
        zoom=(1.0, 1.0),
        shares={"few": 0.1},  # type: ignore[arg-type]
    )
    assert maker.steps_per_epoch == pytest.approx(2.0)
    shown = [data[i].image.source for step in range(2) for i in maker._indices(step)]
    assert (shown.count("many"), shown.count("few")) == (20, 2)


def test_what_only_a_detector_says_counts_for_less_and_loose_names_outline_nothing() -> None:
    def region(name: str, score: float, loose: bool) -> RegionAnnotation:
        return RegionAnnotation((1.0, 1.0, 30.0, 30.0), (f"a {name}",), 1, "1", (), name, None, score, loose)

    regions = (
        region("cow", 1.0, False),
        region("cow", 0.5, False),
        region("person", 0.5, False),
        region("mug", 1.0, True),
    )
    image = AnnotatedImage("0", Path("x"), "any", "train", 32, 32, 1.0, (), (), regions)
    ((drawn, seen, person, loose),) = [entry.targets for entry in training_images([image], {}, {})]
    assert drawn.weight == loose.weight == 1.0
    assert 0 < person.weight < seen.weight < drawn.weight
    assert (drawn.outlined, loose.outlined, loose.loose) == (True, False, True)


def test_a_detector_names_what_nobody_described_and_rare_things_more_often() -> None:
    def image(number: int, *regions: RegionAnnotation) -> AnnotatedImage:
        return AnnotatedImage(str(number), Path("x"), "any", "train", 99, 99, 1.0, (), (), regions)

    def region(box: Box, score: float, loose: bool = False) -> RegionAnnotation:
        return RegionAnnotation(box, ("a red thing",), 1, "1", (), "thing", None, score, loose)

    here, near, there = (1.0, 1.0, 30.0, 30.0), (2.0, 1.0, 31.0, 30.0), (50.0, 50.0, 90.0, 90.0)
    images = [
        image(0, region(here, 1.0), region(there, 0.5)),  # drawn by people; guessed by another detector
        image(1, region(here, 1.0, loose=True)),  # somewhere in this box
        image(2, region(here, 0.5)),  # which the detector was never shown
        *(image(number) for number in range(3, 20000)),
    ]
    seen = {
        "0": [
            Detection("dog", 0.9, near),
            Detection("couch", 0.9, there),
            Detection("cow", 0.3, (0, 40, 20, 60)),
        ],
        "1": [Detection("person", 0.9, near)],
        **{str(number): [Detection("car", 0.9, here)] for number in range(3, 20000)},
    }
    found = {entry.image.id: entry.targets for entry in with_detector_names(images, seen)}
    drawn, couch = found["0"]
    assert (drawn.phrases, drawn.weak, couch.phrases, couch.weak) == (
        ("a red thing",),
        True,
        ("a couch",),
        True,
    )
    assert [target.phrases for target in found["1"]] == [("a red thing",), ("a person",)]
    assert [target.phrases for target in found["2"]] == [("a red thing",)]
    (car,) = found["3"]
    assert 0 < found["1"][1].weight < car.weight < couch.weight <= drawn.weight == 1.0


@pytest.mark.parametrize("backbone", ["frozen", "late"])
def test_the_caption_backbone_learns_where_the_recipe_says_so(
    data_dir: Path, tmp_path: Path, backbone: str
) -> None:
    stage = {"name": "names", "steps": 9, "size": 64, "images": 2, "regions": 2, "mask_every": 3, "warmup_steps": 1,
             "backbone": "late", "caption_backbone": backbone, "feature_dropout": 0.2}  # fmt: skip
    trainer = Trainer(
        parse_training_config(TINY | {"stages": [stage], "model": WITH_READER}, "tiny"),
        *prepare_data(data_dir, data_dir / "cache"),
        tmp_path,
    )
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    for step in range(3):
        trainer.train_step(trainer.make_batch(step))
    after = trainer.model.state_dict()
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    reads = [name for name in changed if name.startswith(("region_reader", "image_encoder.caption_map"))]
    learnt = [name for name in changed if name.startswith("image_encoder.caption_backbone")]
    assert bool(learnt) == bool(reads) == (backbone != "frozen")
    assert not [name for name in learnt if ".blocks.0." in name or "conv_stem" in name]


def test_features_made_anew_for_every_batch_teach_the_same_parts(data_dir: Path, tmp_path: Path) -> None:
    stage = {"name": "words", "trains": "language", "views": 0, "steps": 60, "size": 64, "images": 2, "regions": 4,
             "learning_rate": 3e-3, "warmup_steps": 1, "ema": 0.5}  # fmt: skip
    score = stage | {"name": "score", "objective": "consensus", "samples": 2}
    config = parse_training_config(TINY | {"stages": [stage, score], "model": WITH_READER}, "tiny")
    trainer = Trainer(config, *prepare_data(data_dir, data_dir / "cache"), tmp_path)
    encoder = trainer.model.image_encoder
    assert isinstance(encoder, TimmEncoder)
    before = encoder.neck.to_fine.weight.clone()
    losses = [trainer.train_step(trainer.make_batch(step)).caption for step in range(30)]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:3])
    assert torch.equal(encoder.neck.to_fine.weight, before)
    assert not list(tmp_path.glob("region_features_*"))
    trainer.progress.stage, trainer.progress.step = 1, 0
    trainer._enter_stage(None)
    assert np.isfinite(trainer.train_step(trainer.make_batch(0)).reward)


def test_a_device_that_is_not_there_is_named_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot train on device 'meta0'"):
        train(parse_training_config(TINY, "tiny"), tmp_path, tmp_path, device="meta0")
