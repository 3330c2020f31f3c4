"""The command line: `sca run|query|export|config|models|doctor|train|evaluate|engines`."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
from importlib import metadata
from typing import Annotated

import typer

from pipeline.commands.doctor import doctor
from pipeline.commands.models import models
from pipeline.commands.run import run
from pipeline.core.errors import StageFailed, UserError
from pipeline.core.leaving import leave
from pipeline.core.redaction import redact_text


def _new_app() -> typer.Typer:
    return typer.Typer(
        name="sca",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


app = _new_app()

# Commands whose modules import a lot are loaded only when they are called: name -> (module, one line of help).
LATER = {
    "query": ("pipeline.commands.query", "Show what was seen, by time."),
    "export": ("pipeline.commands.export", "Write captions as JSON lines, CSV or subtitles."),
    "config": ("pipeline.commands.config", "Show the settings of a run, and explain them."),
    "train": ("pipeline.commands.train", "Train a model from a recipe in configs/train."),
    "evaluate": ("pipeline.commands.evaluate", "Score a model's captions and masks."),
    "engines": ("pipeline.commands.engines", "Compile the model's stages for this machine, and check them."),
}


def _version(show: bool) -> None:
    if show:
        typer.echo(f"sca {metadata.version('segment-caption-stream')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Segment and caption every region of a video, and ask by time what was seen.

    Examples:

    sca run street.mp4

    sca run rtsp://camera/stream --store yard.zarr

    sca query street.zarr --from 10s --to 20s --text dog
    """


app.command()(run)


def _register_later(name: str) -> None:
    """Register a command that hands its arguments to the function or app of its name in its own module."""
    module_name, summary = LATER[name]
    if importlib.util.find_spec(module_name) is None:
        return

    @app.command(
        name,
        help=summary,
        add_help_option=False,
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    )
    def later(context: typer.Context) -> int | None:
        target = getattr(importlib.import_module(module_name), name)
        if not isinstance(target, typer.Typer):
            single = _new_app()
            single.command()(target)
            target = single
        code = typer.main.get_command(target).main(
            context.args, prog_name=f"sca {name}", standalone_mode=False
        )
        if isinstance(code, int) and code:
            raise typer.Exit(code)
        return None


for _name in LATER:
    _register_later(_name)
app.add_typer(models, name="models")
app.command()(doctor)


def main() -> None:
    """Entry point: errors of the user are one line on stderr and exit code 2, failed stages one line and code 1.

    Anything else is a fault of ours and keeps its traceback.
    """
    leave(_run())


def _run() -> int:
    try:
        code = app(standalone_mode=False)
    except (typer.Abort, KeyboardInterrupt):
        return 130
    except typer.TyperException as error:
        return _say(_message(error), 2)
    except UserError as error:
        return _say(str(error), 2)
    except StageFailed as error:
        return _say(str(error), 1)
    except Exception:
        typer.echo(redact_text(traceback.format_exc()), err=True)
        typer.echo("sca: this is a fault of the program; please report it with the lines above", err=True)
        return 1
    return code if isinstance(code, int) else 0


def _say(error: str, code: int) -> int:
    typer.echo(f"sca: {_one_line(redact_text(error))}", err=True)
    return code


def _message(error: typer.TyperException) -> str:
    format_message = getattr(error, "format_message", None)
    text = str(format_message()) if format_message is not None else str(error)
    # `sca run -clip.mp4`: what begins with a dash is taken for options.
    named = next((word for word in sys.argv[1:] if word.startswith("-") and os.path.lexists(word)), None)
    return text if named is None else f"{text} If {named} is a file, write ./{named}"


def _one_line(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    main()
