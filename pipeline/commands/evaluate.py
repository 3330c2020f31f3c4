"""`sca evaluate`: measure a model on a data folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def evaluate(
    data: Annotated[
        Path, typer.Argument(help="Folder with annotations.jsonl.gz, tracks.jsonl.gz and the pictures.")
    ],
    model: Annotated[str, typer.Option(help="Model name or directory.")] = "demo",
    images: Annotated[
        int | None, typer.Option(help="Use only so many validation images for captions.")
    ] = None,
    recall_images: Annotated[int, typer.Option(help="Validation images for the recall of proposals.")] = 60,
    mistakes: Annotated[
        Path | None, typer.Option(help="Write a picture of the commonest mistakes, such as mistakes.jpg.")
    ] = None,
    reader: Annotated[
        str, typer.Option(help="How the folder is read: jsonl, or a reader of an installed package.")
    ] = "jsonl",
) -> None:
    """Print captions, masks, proposals and speed of a model as Markdown tables."""
    from sca.evaluation.report import evaluate_model

    status = Console(stderr=True)
    report = evaluate_model(
        data,
        model,
        images=images,
        recall_images=recall_images,
        mistakes=mistakes,
        reader=reader,
        progress=lambda part: status.print(f"[dim]{part} ...[/dim]"),
    )
    typer.echo(report.text())
