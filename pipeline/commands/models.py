"""`sca models`: which models there are, whether they are here, and whether they are whole."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

models = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="List, fetch and verify models.",
    context_settings={"help_option_names": ["-h", "--help"]},
)

Name = Annotated[str, typer.Argument(help="A name from `sca models list`, or a checkpoint directory.")]


@models.command("list")
def list_models() -> None:
    """Show the models that can be named."""
    from sca.model_names import MODELS

    table = Table("name", "what it is", "where it comes from", box=None, pad_edge=False)
    for entry in MODELS:
        table.add_row(entry.name, entry.summary, entry.repository or "shipped")
    Console().print(table)


@models.command()
def pull(name: Name) -> None:
    """Fetch a model's files, once; later runs need no network."""
    from sca.registry import model_directory

    Console().print(f"{name} is at {model_directory(name)}", soft_wrap=True)


@models.command()
def verify(name: Name = "demo") -> None:
    """Load a model strictly: checksums, names and shapes of all weights."""
    import sca

    predictor = sca.load(name)
    weights = sum(parameter.numel() for parameter in predictor.model.parameters())
    Console().print(
        f"{name} is whole: {weights / 1e6:.1f} million weights, input side {predictor.config.image_size}"
    )
