"""`sca config`: the settings of a run as they are in effect, and what each of them means."""

from __future__ import annotations

from typing import Annotated

import typer
import yaml

from pipeline.settings.config import load_config
from pipeline.settings.reference import Group, Setting, find_setting, groups_of, markdown, run_settings
from pipeline.settings.stream_list import StreamEntry

config = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Show the settings of a run, and explain them.",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@config.command()
def show(
    preset: Annotated[
        str, typer.Option(help="default, fast, quality, gpu, live, or the path of a YAML file.")
    ] = "default",
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A setting, as in: --set keyframes.interval_s=1")
    ] = None,
) -> None:
    """Print the settings that a run would have, as YAML: a preset file to begin with.

    Example: sca config show --preset live --set keyframes.interval_s=1
    """
    values = load_config(preset, settings or []).model_dump(mode="json")
    typer.echo(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), nl=False)


@config.command()
def explain(
    key: Annotated[
        str, typer.Argument(help="A setting or a group of them: keyframes.interval_s, keyframes.")
    ],
) -> None:
    """Print what a setting means, its default and range, and the presets that change it.

    Example: sca config explain keyframes.interval_s
    """
    found = find_setting(key)
    typer.echo(_of_group(found) if isinstance(found, Group) else _of_setting(found))


@config.command()
def reference() -> None:
    """Print the reference of all settings as Markdown: what docs/settings.md holds."""
    typer.echo(settings_reference(), nl=False)


def settings_reference() -> str:
    """The text of docs/settings.md."""
    from sca.training.config import TrainingConfig

    streams = [group for group in groups_of(StreamEntry, key="streams") if group.settings]
    recipes = [group for group in groups_of(TrainingConfig)]
    return "\n".join(
        [
            "# Settings",
            "",
            "Written by `sca config reference` from the typed settings; a test compares the two. Names are as `--set`, a preset",
            "file and a stream list take them; a default is that of the default preset, and of a run that names no preset.",
            "`sca config show` prints the values in effect, `sca config explain NAME` one line of this page.",
            "",
            "## Of a run: `sca run`",
            "",
            markdown(run_settings(), others="other presets"),
            "## Of a list of streams: `sca run cams.yaml`",
            "",
            "The file holds `streams:` with an entry for each source. What an entry does not say comes from the command line.",
            "",
            markdown(streams),
            "## Of a training recipe: `sca train RECIPE`",
            "",
            markdown(recipes),
        ]
    )


def _of_setting(setting: Setting) -> str:
    lines = [f"{setting.key}: {setting.meaning}", f"  {setting.type}"]
    if setting.allowed:
        lines[-1] += f", {setting.allowed}"
    lines.append(f"  default: {setting.default}")
    lines += [f"  preset {name}: {value}" for name, value in setting.presets.items()]
    return "\n".join(lines)


def _of_group(group: Group) -> str:
    lines = [f"{group.key}: {group.meaning}"]
    return "\n".join(
        [*lines, *(f"  {setting.key} ({setting.default}): {setting.meaning}" for setting in group.settings)]
    )
