"""A whole training run: the data made ready once, then one trainer in every process."""

from __future__ import annotations

import logging
from pathlib import Path

import cv2
import torch

from sca.data.annotations import READERS
from sca.data.detector_teacher import grow_detections
from sca.data.image_cache import ImageCache
from sca.data.pseudo_masks import grow_pseudo_masks, read_pseudo_masks
from sca.data.targets import TrainingImage, training_images
from sca.errors import UserError
from sca.training.config import TrainingConfig
from sca.training.trainer import DETECTIONS, Trainer
from sca.training.workers import Team, run_team

log = logging.getLogger(__name__)


def prepare_data(
    data_dir: Path,
    cache_dir: Path,
    reader: str = "jsonl",
    detector: str = "",
    outlines: bool = True,
) -> tuple[list[TrainingImage], ImageCache]:
    """Training images with their targets, and their decoded pictures; slow parts are kept in `cache_dir`.

    `outlines`: masks are grown for boxes without any, which takes a teacher and its time.
    """
    cv2.setNumThreads(1)
    source = READERS.get(reader)()
    images = list(source.images(data_dir, "train"))
    pictures = ImageCache(images, cache_dir)
    masks = Path(cache_dir) / "pseudo_masks.jsonl.gz"
    if outlines:
        added = grow_pseudo_masks((image for image in images if image.described), masks)
        log.info("%d new pseudo-masks", added)
    if detector:
        log.info(
            "%d pictures shown to the detector",
            grow_detections(images, Path(detector), Path(cache_dir) / DETECTIONS),
        )
    grown = read_pseudo_masks(masks) if masks.exists() else {}
    return training_images(images, source.detections(data_dir), grown), pictures


def train(
    config: TrainingConfig,
    data_dir: Path,
    folder: Path,
    initial: Path | None = None,
    device: str = "cpu",
) -> None:
    """Run or resume the whole recipe: data from `data_dir`, checkpoints and caches in `folder`.

    `initial`: a checkpoint of an earlier run, or a model directory, whose (averaged) weights and tokenizer to start
    from. `device`: as torch names it; UserError where it cannot be used, or where several processes would share a GPU.
    """
    _check_device(config, device)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    outlines = any(stage.trains in ("all", "masks") for stage in config.stages)
    # Once, before the processes share it.
    prepare_data(Path(data_dir), folder / "cache", config.reader, config.detector, outlines)
    run_team(_train, config.processes, folder / "meeting", config, Path(data_dir), folder, initial, device)


def _check_device(config: TrainingConfig, device: str) -> None:
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"cannot train on device {device!r} ({str(error).splitlines()[0]}): use cpu, or cuda where torch sees a GPU"
        ) from None
    if torch.device(device).type == "cpu":
        fresh = [stage.name for stage in config.stages if stage.trains == "language" and not stage.views]
        if fresh:
            log.warning("stage %s computes its features anew for every batch: slow without a GPU", fresh[0])
    elif config.processes > 1:
        raise UserError(
            f"processes: {config.processes} would share one GPU: set processes to 1, and loaders to the number of cores"
        )


def _train(
    team: Team, config: TrainingConfig, data_dir: Path, folder: Path, initial: Path | None, device: str
) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    data, pictures = prepare_data(data_dir, folder / "cache", config.reader, outlines=False)
    Trainer(config, data, pictures, folder, initial, team, device).run()
