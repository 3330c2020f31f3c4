"""`sca train`: run a training recipe on a data folder."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer


def train(
    config: Annotated[Path, typer.Argument(help="Recipe, such as configs/train/demo.yaml.")],
    data: Annotated[Path, typer.Option(help="Folder with annotations.jsonl.gz and the pictures.")],
    out: Annotated[Path, typer.Option(help="Folder for checkpoints, caches and the log; resumed if it has some.")],
    initial: Annotated[
        Path | None, typer.Option(help="checkpoint.pt of an earlier run whose weights to start from.")
    ] = None,
) -> None:
    """Train a model. Can be cut at any moment; the same command goes on where it stopped."""
    from sca.training.config import read_training_config
    from sca.training.trainer import train as run

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    run(read_training_config(config), data, out, initial)


def export(
    checkpoint: Annotated[Path, typer.Argument(help="checkpoint.pt of a training run.")],
    data: Annotated[Path, typer.Option(help="Folder with annotations.jsonl.gz: calibrates the caption score.")],
    out: Annotated[Path, typer.Option(help="Model directory to write; sca.load reads it.")],
    image_size: Annotated[int | None, typer.Option(help="Another input side in pixels, a multiple of 32.")] = None,
) -> None:
    """Turn a training checkpoint into a model directory with a calibrated caption score."""
    from sca.training.export import export_checkpoint

    export_checkpoint(checkpoint, data, out, image_size)
