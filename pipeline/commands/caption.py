"""`sca caption`: pictures in, captions of their regions out, without a store."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.terminal import quiet_pipe


class CaptionFormat(StrEnum):
    """How `sca caption` writes."""

    TABLE = "table"
    JSONL = "jsonl"
    COCO = "coco"


class CaptionTask(StrEnum):
    """What the language model is asked for."""

    CAPTION = "caption"
    RECOGNITION = "recognition"


def caption(
    pictures: Annotated[
        list[Path], typer.Argument(metavar="PICTURE...", help="Picture files.", show_default=False)
    ],
    boxes: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Boxes x0 y0 x1 y1 in pixels: CSV, JSON, JSON lines or COCO."),
    ] = None,
    points: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Points x y in pixels: CSV, JSON or JSON lines.")
    ] = None,
    masks: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Numbered regions as PNG or .npy (or a folder of these), or COCO."),
    ] = None,
    anything: Annotated[
        bool, typer.Option("--anything", help="Find the regions too; so without boxes, points and masks.")
    ] = False,
    model: Annotated[str, typer.Option(help="Model name or directory; see `sca models list`.")] = "demo",
    task: Annotated[
        CaptionTask, typer.Option(help="What is asked for; of the released models only caption was trained.")
    ] = CaptionTask.CAPTION,
    beams: Annotated[
        int, typer.Option(min=1, max=100, help="Width of the search for words; 1 is greedy.")
    ] = 1,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    output: Annotated[
        CaptionFormat, typer.Option("--format", help="A table, one object a region, or COCO's layout.")
    ] = CaptionFormat.TABLE,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Write there. -: standard output.")] = Path("-"),
    draw: Annotated[
        Path | None,
        typer.Option(metavar="OUT", help="Draw into this picture; for several pictures a folder."),
    ] = None,
    min_score: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Leave out captions less sure than this, 0 to 1; of found regions 0.4 if not given.",
        ),
    ] = None,
) -> None:
    """Caption the regions of pictures, found or pointed at.

    Example: sca caption street.jpg --draw street_captions.jpg
    """
    from sca.model_names import find_model

    # What can be told before torch is imported, which takes seconds.
    find_model(model)
    _check_pictures(pictures)
    from pipeline.commands.caption_pictures import CaptionRequest, caption_pictures

    request = CaptionRequest.of(
        pictures,
        boxes=boxes,
        points=points,
        masks=masks,
        anything=anything,
        model=model,
        task=task.value,
        beams=beams,
        device=device,
        output=output.value,
        out=out,
        draw=draw,
        min_score=min_score,
    )
    with quiet_pipe():
        caption_pictures(request)


def _check_pictures(pictures: Sequence[Path]) -> None:
    from pipeline.core.errors import UserError
    from sca.picture_size import MOST_PIXELS, can_be_decoded

    for path in pictures:
        if path.is_dir():
            raise UserError(f"{path} is a folder: name the pictures in it, such as {path}/*.jpg")
        if not path.is_file():
            raise UserError(f"{path} does not exist, or is no file: name a picture file")
        if not can_be_decoded(path):
            raise UserError(
                f"{path} cannot be read as a picture: it is damaged, or larger than {MOST_PIXELS // 10**6} megapixels; convert it "
                "to JPEG or PNG and scale it down, or leave it out"
            )
