"""`sca models`: which models there are, whether they are here, and whether they are whole."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table

from pipeline.commands.terminal import PlainConsole

models = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="List, fetch and verify models.",
    context_settings={"help_option_names": ["-h", "--help"]},
)

Name = Annotated[
    str, typer.Argument(help="A name from `sca models list`, owner/name on the hub, or a directory.")
]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")]


@models.command("list")
def list_models() -> None:
    """Show the models that can be named, and whether they can run here and now."""
    from sca.model_names import MODELS

    table = Table("name", "what it is", "where it comes from", "here", box=None, pad_edge=False)
    for entry in MODELS:
        table.add_row(entry.name, entry.summary, entry.repository or "shipped", _state(entry.name))
    console = PlainConsole()
    console.print(table)
    console.print(
        "A directory in the same layout, or owner/name on the hub, can be named too. A SAM and a language model make a new\n"
        "model, to be trained: sca.Sca.from_parts (docs/models.md)."
    )


def _state(name: str) -> str:
    from pipeline.commands.extras import missing
    from sca.model_names import find_model

    if missing("run"):
        return "needs the extra run"
    entry = find_model(name)
    repository = getattr(entry, "repository", None)
    if repository is None:
        return "ready"
    from sca.hub import CachedRepository

    cached = CachedRepository(repository)
    if cached.snapshot() is None:
        return f"sca models pull {name}"
    lacks = cached.missing()
    return "ready" if not lacks else f"{len(lacks)} files missing: sca models pull {name}"


@models.command()
def pull(name: Name, revision: Revision = None) -> None:
    """Fetch a model's files, and check their digests; later runs need no network.

    What was cut goes on where it stopped.
    """
    from pipeline.commands.extras import require
    from sca.model_names import find_model

    require("models pull", "run")
    found = find_model(name)
    repository = getattr(found, "repository", None)
    if repository is None:
        from sca.registry import model_directory

        PlainConsole().print(f"{name} is at {model_directory(name, revision=revision)}", soft_wrap=True)
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    from pipeline.core.shown_text import shown
    from sca.hub import CachedRepository

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    console = PlainConsole(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        tasks: dict[str, Any] = {}

        def told(file: str, done: int, total: int) -> None:
            if file not in tasks:
                tasks[file] = bar.add_task(shown(file), total=total, completed=done)
            bar.update(tasks[file], completed=done)

        place = CachedRepository(repository, revision).pull(told)
    PlainConsole().print(f"{name} is at {place}; the digests of {len(tasks)} files are right", soft_wrap=True)


@models.command()
def verify(name: Name = "demo", revision: Revision = None) -> None:
    """Load a model strictly: checksums, names, shapes and finiteness of all weights."""
    import sca
    from pipeline.core.errors import UserError
    from sca.model_names import find_model

    repository = getattr(find_model(name), "repository", None)
    if repository is not None:
        from sca.hub import CachedRepository

        if damaged := CachedRepository(repository, revision).damaged():
            raise UserError(f"{name}: {', '.join(damaged)} damaged: sca models pull {name}")
    predictor = sca.load(name, revision=revision)
    weights = sum(parameter.numel() for parameter in predictor.model.parameters())
    PlainConsole().print(
        f"{name} is whole: {weights / 1e6:.1f} million weights, input side {predictor.config.image_size}"
    )
