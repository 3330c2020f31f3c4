"""From a training checkpoint to a model directory that `sca.load` reads."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from sca.checkpoints import load_shipped, save_shipped
from sca.config import ScaConfig, with_image_size
from sca.data.annotations import READERS, described_images
from sca.data.detector_teacher import DetectorTeacher
from sca.errors import UserError
from sca.evaluation.proposals import choose_thresholds
from sca.modeling.caption_judge import CaptionJudge
from sca.modeling.sca import Sca
from sca.modeling.timm_encoder import TimmEncoder, load_caption_backbone
from sca.predictor import Predictor
from sca.training.judge import (
    JudgeExamples,
    calibrate_judge,
    fit_judge,
    judge_examples,
    judge_pictures,
)
from sca.training.optimizer import CAPTION_BACKBONE, PROPOSALS, READER

# Weights of an earlier run or of a finished model, to start a training run from.


def read_initial(path: Path) -> dict[str, Any]:
    """Weights and tokenizer to start from: a checkpoint.pt, or a model directory such as the shipped one."""
    if path.is_dir():
        shipped = load_shipped(path)
        return {"average": shipped.model.state_dict(), "tokenizer": shipped.tokenizer.to_str()}
    if not path.exists():
        raise UserError(
            f"{path} does not exist: name the checkpoint.pt of an earlier run, or a model directory"
        )
    saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return saved


def load_initial(model: Sca, state: dict[str, Any]) -> None:
    """Weights of an earlier run; a region reader or box proposals of another shape than its own begin anew."""
    encoder, mine = model.image_encoder, model.state_dict()
    head = {name for name in mine.keys() | state.keys() if name.startswith(PROPOSALS)}
    if not all(name in mine and name in state and mine[name].shape == state[name].shape for name in head):
        state = {name: value for name, value in state.items() if name not in head}
        state |= {name: value for name, value in mine.items() if name in head}
    assert isinstance(encoder, TimmEncoder)
    read = {name for name in mine.keys() | state.keys() if name.startswith((*READER, *CAPTION_BACKBONE))}
    same = all(name in mine and name in state and mine[name].shape == state[name].shape for name in read)
    if not same:
        load_caption_backbone(encoder)
        state = {name: value for name, value in state.items() if name not in read}
        state |= {name: value for name, value in model.state_dict().items() if name in read}
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()
        raise UserError(
            f"the initial weights do not fit the model of the recipe ({reason}): start from the same architecture"
        ) from None


log = logging.getLogger(__name__)

_THRESHOLD_IMAGES = 24
_JUDGE_IMAGES, _CALIBRATION_IMAGES = 1200, 175


def load_checkpoint(path: Path, image_size: int | None = None) -> tuple[Sca, Tokenizer]:
    """The averaged model and the tokenizer of a training checkpoint, in eval mode.

    image_size: input side in pixels if it is to differ from the last stage's (the weights do not depend on it).
    UserError if the file does not exist.
    """
    if not Path(path).exists():
        raise UserError(f"{path} does not exist: name the checkpoint.pt in the output folder of sca train")
    saved = torch.load(path, map_location="cpu", weights_only=True)
    config = ScaConfig.from_dict(saved["model_config"])
    if image_size is not None:
        config = with_image_size(config, image_size)
    model = Sca(config)
    model.load_state_dict(saved["average"])
    return model.eval(), Tokenizer.from_str(saved["tokenizer"])


def checkpoint_predictor(path: Path, image_size: int | None = None) -> Predictor:
    """A predictor on a training checkpoint, uncalibrated."""
    model, tokenizer = load_checkpoint(path, image_size)
    return Predictor(model, tokenizer)


@torch.no_grad()
def balance_caption_map(model: Sca) -> None:
    """Divide the caption map by its greatest gain, and multiply what reads it by that: the same captions.

    Training leaves the map's scale to chance. So no direction of the features is amplified, nor are the rounding errors of
    compiled backbones.
    """
    encoder, reader = model.image_encoder, model.region_reader
    if reader is None:
        return
    assert isinstance(encoder, TimmEncoder)
    assert encoder.caption_map is not None
    scale = torch.linalg.matrix_norm(encoder.caption_map.project.weight, ord=2)
    for value in encoder.caption_map.project.parameters():
        value.div_(scale)
    for layer in (reader.cells, reader.whole, reader.scene):
        layer.weight.mul_(scale)


def export_checkpoint(
    path: Path,
    data_dir: Path,
    directory: Path,
    image_size: int | None = None,
    seed: int = 0,
    reader: str = "jsonl",
    detector: str = "",
) -> None:
    """Write a training checkpoint as a model directory, with a judge of its captions and its own thresholds.

    Two numbers that turn the judge's answers into probabilities, and the thresholds on a few pictures, are fitted on the
    validation split: five numbers, so that measuring on the same split flatters little.
    `detector`: see `learn_judge`.
    """
    model, tokenizer = load_checkpoint(path, image_size)
    balance_caption_map(model)
    predictor = Predictor(model, tokenizer)
    choice = choose_thresholds(predictor, described_images(reader, data_dir, "val")[-_THRESHOLD_IMAGES:])
    judge = learn_judge(
        Predictor(model, tokenizer, automatic=choice.settings), data_dir, seed, reader, detector
    )
    save_shipped(model, tokenizer, directory, choice.settings, judge)
    log.info("%s: %s", directory, choice)


def learn_judge(
    predictor: Predictor, data_dir: Path, seed: int = 0, reader: str = "jsonl", detector: str = ""
) -> CaptionJudge:
    """A judge of the predictor's captions of what anything mode finds on training pictures, calibrated on validation.

    It departs from the judge that the predictor has, if any. `detector`: folder of the packaged detector
    (`sca.data.detector_teacher`), which knows of more things than people annotated.
    """
    folder = READERS.get(reader)()
    detections = dict(folder.detections(data_dir))
    teacher = DetectorTeacher(Path(detector)) if detector else None

    def examples(split: str, count: int) -> JudgeExamples:
        pictures = judge_pictures(list(folder.images(data_dir, split)), count, seed)
        if teacher is not None:
            detections.update((image.id, teacher.detections(image)) for image in pictures)
        return judge_examples(predictor, pictures, seed, detections)

    judge = fit_judge(examples("train", _JUDGE_IMAGES), predictor.judge)
    calibrate_judge(judge, examples("val", _CALIBRATION_IMAGES))
    return judge
