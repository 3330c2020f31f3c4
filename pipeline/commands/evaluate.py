"""`sca evaluate`: measure a model on a data folder, or what a run names on annotated clips."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.terminal import PlainConsole, say
from pipeline.core.errors import UserError


def evaluate(
    data: Annotated[
        Path,
        typer.Argument(
            help="Folder with annotations.jsonl.gz, tracks.jsonl.gz and the pictures; or a JSON file of what is to be "
            "seen in some clips: then a run of each is scored; or, with --data, the model."
        ),
    ],
    clips: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="Folders of the clips that a JSON file names; may be given again."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Model name or directory; else demo, or what a preset or --set says.")
    ] = None,
    preset: Annotated[
        str, typer.Option(help="Settings of the runs: a name in configs/, or a file.")
    ] = "default",
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting of the runs.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Only this clip of the file; may be given again.")
    ] = None,
    lines: Annotated[
        Path | None, typer.Option(help="Also write the regions of each moment to this folder, as JSON lines.")
    ] = None,
    images: Annotated[
        int | None, typer.Option(min=1, max=10**9, help="Use only so many validation images for captions.")
    ] = None,
    recall_images: Annotated[
        int, typer.Option(min=0, max=10**9, help="Validation images for the recall of proposals.")
    ] = 60,
    mistakes: Annotated[
        Path | None, typer.Option(help="Write a picture of the commonest mistakes, such as mistakes.jpg.")
    ] = None,
    reader: Annotated[
        str, typer.Option(help="How the folder is read: jsonl, or a reader of an installed package.")
    ] = "jsonl",
    published: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="KIND:DIR",
            help="Published data: vg, grit, refcoco, coco, flickr30k or jsonl, and its folder; the argument is the model.",
        ),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split of --data, such as test or testA.")] = None,
    protocol: Annotated[
        str | None, typer.Option(help="Of --data: densecap-test, grit, one-region or all-regions.")
    ] = None,
    prompt: Annotated[str, typer.Option(help="Of --data: box, centre, random or anything.")] = "box",
    beams: Annotated[int, typer.Option(min=1, max=100, help="Of --data; the paper has 3.")] = 3,
    dtype: Annotated[str, typer.Option(help="Of --data: float32, float16 or bfloat16.")] = "float32",
    device: Annotated[str, typer.Option(help="Of --data: cpu, cuda or cuda:N.")] = "cpu",
    predictions: Annotated[
        Path | None, typer.Option(help="Of --data: write the captions there, as the official code does.")
    ] = None,
    json_out: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Of --data: write the table there, as JSON.")
    ] = None,
) -> None:
    """Print captions, masks, proposals and speed of a model as Markdown tables.

    With a JSON file of annotated clips: how many of the things that a person would name are found and named by a run,
    and how much of what it shows is right.

    With --data: the paper's metrics on published data, beside the paper's rows, such as
    sca evaluate sca-gpt2-large-vg --data vg:visual_genome --predictions p.json
    """
    if published is not None:
        from pipeline.commands.evaluate_published import PublishedRequest, evaluate_published

        request = PublishedRequest(
            str(data), published, split, protocol, prompt, beams, dtype, device, images, predictions, json_out
        )
        say(evaluate_published(request))
        return
    if split or protocol or predictions or json_out:
        raise UserError("--split, --protocol, --predictions and --json go with --data KIND:DIR")
    if data.is_file():
        say(_things(data, clips or [], model, preset, settings or [], only or [], lines))
        return
    if clips or settings or only or lines:
        raise UserError(f"{data}: --clips, --set, --only and --lines go with a JSON file of annotated clips")
    if not data.is_dir():
        raise UserError(
            f"{data}: neither a folder of data nor a JSON file of annotated clips; check the path"
        )
    _check_folder(data, model or "demo", reader, mistakes)
    from sca.evaluation.report import evaluate_model  # imports torch, which needs seconds

    status = PlainConsole(stderr=True)
    report = evaluate_model(
        data,
        model or "demo",
        images=images,
        recall_images=recall_images,
        mistakes=mistakes,
        reader=reader,
        progress=lambda part: status.print(f"{part} ...", style="dim"),
    )
    say(report.text())


def _check_folder(data: Path, model: str, reader: str, mistakes: Path | None) -> None:
    """What can be told before a model loads."""
    from pipeline.core.output_files import check_output
    from sca.data.annotations import described_images
    from sca.evaluation.clips import check_clips
    from sca.model_names import find_model

    find_model(model)
    if mistakes is not None:
        check_output(mistakes)
    if not described_images(reader, data, "val"):
        raise UserError(f"{data}: no picture of its validation split has described regions; check the folder")
    if reader == "jsonl" or (data / "tracks.jsonl.gz").exists():
        check_clips(data)


def _things(
    annotations: Path,
    folders: list[Path],
    model: str | None,
    preset: str,
    settings: list[str],
    only: list[str],
    lines: Path | None,
) -> str:
    """What a run names on annotated clips, as Markdown tables."""
    from pipeline.evaluation.annotations import find_clips, frames_of, read_annotations
    from pipeline.settings.config import load_config
    from sca.model_names import find_model

    config = load_config(preset, settings, changes={} if model is None else {"model": model})
    find_model(config.model)
    find_clips(frames_of(read_annotations(annotations), only, annotations), folders)
    from pipeline.evaluation.things_named import evaluate_things  # starts a run, which needs seconds

    status = PlainConsole(stderr=True)
    report = evaluate_things(
        annotations,
        folders,
        config,
        clips=only,
        lines=lines,
        progress=lambda clip: status.print(f"{clip} ...", style="dim"),
    )
    return report.text()
