"""`sca train`: run a training recipe on a data folder."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from pipeline.core.errors import UserError
from pipeline.store.durable_files import refusal


def train(
    config: Annotated[Path, typer.Argument(help="Recipe, such as configs/train/demo.yaml.")],
    data: Annotated[
        Path,
        typer.Option(
            help="Folder with annotations.jsonl.gz and the pictures, or what the recipe's reader reads."
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="Folder for checkpoints, caches and the log; resumed if it has some.")
    ],
    initial: Annotated[
        Path | None,
        typer.Option(help="Start from these weights: checkpoint.pt of an earlier run, or a model directory."),
    ] = None,
    device: Annotated[
        str, typer.Option(help="Where to train: cpu, or cuda (then set loaders in the recipe).")
    ] = "cpu",
    export_only: Annotated[
        bool, typer.Option("--export-only", help="Do not train: write OUT/model from OUT/checkpoint.pt.")
    ] = False,
) -> None:
    """Train a model and write it to OUT/model, which --model takes.

    Can be cut at any moment: the same command goes on where it stopped.
    """
    from sca.training.config import read_training_config

    recipe = read_training_config(config)
    _check_folders(data, out)
    # After what can be wrong with the command: these bring torch.
    from sca.training.checkpoints import export_checkpoint
    from sca.training.run import train as run
    from sca.training.trainer import CHECKPOINT

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if not export_only:
        run(recipe, data, out, initial, device)
    export_checkpoint(out / CHECKPOINT, data, out / "model", reader=recipe.reader, detector=recipe.detector)
    typer.echo(f"{out / 'model'}")


def _check_folders(data: Path, out: Path) -> None:
    if not data.is_dir():
        raise UserError(f"{data} is no folder: --data names the one with the annotations and pictures")
    if (out.exists() or out.is_symlink()) and not out.is_dir():
        raise UserError(f"{out} is no folder: --out names one for checkpoints, caches and the log")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise refusal(error, out, "write") from None
