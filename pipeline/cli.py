"""The command line: `sca run|caption|query|export|config|train|evaluate|score|engines|doctor|models`."""

from __future__ import annotations

if __name__ == "__main__":
    # `python -m` looks in the working directory first: before anything is imported from there.
    from sca.child_processes import leave_working_directory

    leave_working_directory()

import io
import os
import sys
import traceback
import warnings
from typing import Annotated, Any, ClassVar

import typer

from pipeline.commands.lazy_commands import LazyCommand, LazyGroup
from pipeline.core.errors import StageFailed, UserError
from pipeline.core.leaving import end_as_by_ctrl_c, leave, ours_alone
from pipeline.core.redaction import redact_argument, redact_text
from pipeline.core.shown_text import shown
from sca.child_processes import leave_working_directory

COMMANDS = {
    "run": LazyCommand(
        "pipeline.commands.run", "Caption every region of a video and store when each was seen.", "run"
    ),
    "caption": LazyCommand(
        "pipeline.commands.caption", "Caption the regions of pictures, found or pointed at.", "run"
    ),
    "query": LazyCommand("pipeline.commands.query", "Show what was seen, by time."),
    "export": LazyCommand(
        "pipeline.commands.export",
        "Write captions as JSON lines, tables, COCO objects, subtitles or tracks, or draw them into the film.",
    ),
    "store": LazyCommand(
        "pipeline.commands.store",
        "Look after a store: check, count, merge, upgrade, set damage aside, erase.",
    ),
    "config": LazyCommand("pipeline.commands.config", "Show the settings of a run, and explain them."),
    "train": LazyCommand("pipeline.commands.train", "Train a model and write it to OUT/model.", "train"),
    "evaluate": LazyCommand(
        "pipeline.commands.evaluate", "Print captions, masks, proposals and speed of a model.", "run"
    ),
    "score": LazyCommand(
        "pipeline.commands.score", "Score predicted captions beside the paper's rows, without a model.", "run"
    ),
    "engines": LazyCommand(
        "pipeline.commands.engines", "Compile the model's stages for a device, and check them.", "run"
    ),
    "doctor": LazyCommand(
        "pipeline.commands.doctor", "Check this machine: libraries, model, processor, memory, GPU."
    ),
    "models": LazyCommand("pipeline.commands.models", "List, fetch and verify models."),
}


class _Commands(LazyGroup):
    lazy: ClassVar = COMMANDS

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name in COMMANDS and COMMANDS[cmd_name].extra == "run":
            # Beside the engines numpy multiplies small matrices only: more threads than one wait for each other, spinning.
            # It reads this once, when it is imported, which a command's module does.
            os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        return super().get_command(ctx, cmd_name)

    def before(self, name: str, command: LazyCommand) -> None:
        if command.extra:
            from pipeline.commands.extras import require

            require(name, command.extra)


app = typer.Typer(
    name="sca",
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(show: bool) -> None:
    if show:
        from importlib import metadata

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

    sca caption street.jpg --draw street_captions.jpg
    """


def main() -> None:
    """Entry point: errors of the user are one line on stderr and exit code 2, failed stages one line and code 1.

    Anything else is a fault of ours and keeps its traceback.
    """
    whole_streams()
    end_as_by_ctrl_c()
    leave_working_directory()
    hide_typed_secrets()
    os.environ.setdefault(
        "OPENCV_IO_MAX_IMAGE_PIXELS", str(1 << 27)
    )  # as sca/picture_size.py, which is not light
    if not sys.warnoptions:
        # Libraries warn of what they read, in words of the file.
        warnings.simplefilter("ignore")
    with ours_alone():
        code = _run()
    leave(code)


def whole_streams() -> None:
    """Standard input, output and error are there, and take any text.

    Where one was closed (`>&-`), the next file that is opened would get its number, and what is printed would land in it.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def hide_typed_secrets() -> None:
    """Take secrets of typed addresses out of what other users of this machine see in the list of processes.

    First of all, for what comes next takes seconds on a busy machine. A shell's history still has them, and for the moment
    in which Python starts, so has the list: `${NAME}` in an address is better.
    """
    shown = [redact_argument(argument) for argument in sys.argv]
    if shown != sys.argv:
        try:
            from setproctitle import setproctitle
        except ModuleNotFoundError:
            return  # an installation that only asks and exports

        setproctitle(" ".join(shown))


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
    except ModuleNotFoundError as error:
        from pipeline.commands.extras import explain

        if (told := explain(error)) is not None:
            return _say(str(told), 2)
        return _fault()
    except OSError as error:
        from pipeline.commands.machine_errors import machine_error

        if (text := machine_error(error)) is not None:
            return _say(text, 2)
        return _fault()
    except Exception:
        return _fault()
    return code if isinstance(code, int) else 0


def _fault() -> int:
    typer.echo(shown(redact_text(traceback.format_exc()), lines=True), err=True)
    typer.echo("sca: this is a fault of the program; please report it with the lines above", err=True)
    return 1


def _say(error: str, code: int) -> int:
    typer.echo(f"sca: {shown(_one_line(redact_text(error)))}", err=True)
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
