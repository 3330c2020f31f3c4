"""What `sca caption` does: looks at what was asked before a model loads, then describes picture by picture."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import cv2
import numpy as np
from rich.table import Table

import sca
from pipeline.commands.terminal import PlainConsole, say
from pipeline.core.errors import UserError
from pipeline.core.output_files import STANDARD_OUTPUT, check_output, writing_output
from pipeline.core.shown_text import json_text, shown
from pipeline.drawing.drawing import DisplayOptions, Label, draw_labels
from pipeline.drawing.moving_masks import whole_mask
from pipeline.sources.deep_pixels import value_range
from pipeline.sources.picture_files import Page, has_more_pages, read_page
from pipeline.store.durable_files import refusal
from sca.model_names import check_device_name, find_model
from sca.prompt_files import Kind, Picture, PromptFile
from sca.prompts import Prompts

if (
    TYPE_CHECKING
):  # what is wrong with pictures and prompts is told before torch is imported, which takes seconds
    from sca.describing import DescribedRegion
    from sca.predictor import Predictor

_PIPED_WIDTH = 140
_DRAWN = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}


@dataclass(frozen=True, slots=True)
class CaptionRequest:
    """What was asked for, checked: the pictures are there, and outputs can be written. `prompts`: None for anything mode."""

    pictures: tuple[Path, ...]
    prompts: PromptFile | None
    model: str
    task: str
    beams: int
    device: str
    output: str
    out: Path
    draw: Path | None
    min_score: float

    @classmethod
    def of(
        cls, pictures: Sequence[Path], *, anything: bool, min_score: float | None, **given: Any
    ) -> CaptionRequest:
        """UserError for what cannot be done, before a model loads."""
        kinds: tuple[Kind, ...] = ("boxes", "points", "masks")
        asked: list[tuple[Kind, Path]] = [
            (kind, path) for kind in kinds if (path := given.pop(kind)) is not None
        ]
        if len(asked) + anything > 1:
            named = " and ".join([f"--{kind}" for kind, _ in asked] + ["--anything"] * anything)
            raise UserError(f"{named} are different questions: give one of them")
        if not asked and given["task"] != "caption":
            raise UserError("--task recognition needs regions: give --boxes, --points or --masks")
        for path in pictures:
            check_output(given["out"], source=str(path))
        _check_drawing(given["draw"], pictures)
        find_model(given["model"])
        check_device_name(given["device"])
        shown = DisplayOptions().min_score if not asked else 0.0
        return cls(
            pictures=tuple(pictures),
            prompts=PromptFile(*asked[0]) if asked else None,
            min_score=shown if min_score is None else min_score,
            **given,
        )

    def drawing_of(self, picture: Path) -> Path | None:
        """Where a picture is drawn."""
        if self.draw is None or len(self.pictures) == 1:
            return self.draw
        return self.draw / f"{picture.stem}{picture.suffix if picture.suffix.lower() in _DRAWN else '.png'}"


def _check_drawing(draw: Path | None, pictures: Sequence[Path]) -> None:
    if draw is None:
        return
    if len(pictures) > 1:
        if draw.exists() and not draw.is_dir():
            raise UserError(
                f"{draw} is a file, and there are {len(pictures)} pictures: name a folder to draw into"
            )
        names = [path.stem for path in pictures]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise UserError(f"two pictures are called {twice}: they cannot be drawn into one folder")
        if any(path.resolve().parent == draw.resolve() for path in pictures):
            raise UserError(f"{draw} holds the pictures themselves: name another folder to draw into")
    elif draw.suffix.lower() not in _DRAWN:
        raise UserError(f"cannot tell the format of {draw}: end it in {', '.join(sorted(_DRAWN))}")
    else:
        check_output(draw, source=str(pictures[0]), makes_folders=True)


def caption_pictures(request: CaptionRequest) -> None:
    """Describe the pictures and write what was asked for. A picture that cannot be read is a UserError that names it."""
    if request.prompts and (others := request.prompts.strangers(request.pictures)):
        raise UserError(
            f"{request.prompts.path} has {request.prompts.kind} for other pictures only ({others}): name one of them"
        )
    # All sizes and prompts first: the tenth picture's mistake is told before the first is computed.
    wanted = [(path, _prompts(request, path)) for path in request.pictures]
    if request.prompts and all(prompts is None for _, prompts in wanted):
        raise UserError(
            f"{request.prompts.path} has no {request.prompts.kind} for what was named: write some into it"
        )
    predictor = sca.load(request.model, request.device)
    with _telling_of(request.out), ExitStack() as stack:
        if str(request.out) == STANDARD_OUTPUT:
            file: BinaryIO | None = None
        else:
            file = stack.enter_context(writing_output(request.out))
        writer = _Writer(request, file)
        hidden = 0
        for path, prompts in wanted:
            rgb = _read(path)
            regions = _describe(predictor, request, rgb, prompts)
            shown = [region for region in regions if region.caption.score >= request.min_score]
            hidden += len(regions) - len(shown)
            writer.add(path, rgb, shown)
            if (place := request.drawing_of(path)) is not None:
                _draw(rgb, shown, place)
        writer.close()
    if hidden:
        say(
            f"{hidden} regions less sure than {request.min_score:g} left out: --min-score 0 shows them",
            error=True,
        )
    if request.draw is not None:
        say(f"drawn: {request.draw}", error=True)


@contextmanager
def _telling_of(out: Path) -> Iterator[None]:
    """A full disk is told with the name of what could not be written; other errors name their files themselves."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
            raise refusal(error, out, "write") from error
        raise


def _prompts(request: CaptionRequest, path: Path) -> Prompts | None:
    height, width = _read(path).shape[:2]
    if request.prompts is None:
        return None
    return request.prompts.of(Picture(path, (height, width)), only=len(request.pictures) == 1)


def _describe(
    predictor: Predictor, request: CaptionRequest, rgb: np.ndarray, prompts: Prompts | None
) -> list[DescribedRegion]:
    from sca.describing import describe_everything, describe_prompts

    if request.prompts is None:
        return describe_everything(predictor, rgb, beams=request.beams)
    if prompts is None:
        return []
    return describe_prompts(predictor, rgb, prompts, task=request.task, beams=request.beams)


def _read(path: Path) -> np.ndarray:
    """RGB uint8 (H, W, 3). Of several pages the first, which is told."""
    pixels = read_page(Page(path))
    if pixels is None:
        raise UserError(f"{path} cannot be read as a picture: convert it to JPEG or PNG, or leave it out")
    deep = value_range([pixels])
    return pixels if deep is None else deep.to_eight_bits(pixels)


class _Writer:
    """Regions in the format that was asked for, as they come; COCO's layout when all are there."""

    def __init__(self, request: CaptionRequest, file: BinaryIO | None) -> None:
        self._request = request
        self._text = None if file is None else TextIOWrapper(file, encoding="utf-8", write_through=True)
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []

    def add(self, path: Path, rgb: np.ndarray, regions: Sequence[DescribedRegion]) -> None:
        height, width = rgb.shape[:2]
        if has_more_pages(path):
            say(f"{path}: of its several pictures the first", error=True)
        if self._request.output == "table":
            self._table(path, regions)
        elif self._request.output == "jsonl":
            for line in json_rows(path, regions):
                self._say(json_text(line))
        else:
            number = len(self._images) + 1
            self._images.append({"id": number, "file_name": path.name, "width": width, "height": height})
            for row in coco_rows(number, regions):
                self._annotations.append({"id": len(self._annotations) + 1, **row})

    def close(self) -> None:
        if self._request.output == "coco":
            categories = [{"id": 1, "name": "region"}]
            info = {"description": f"captions by {self._request.model}"}
            whole = {
                "info": info,
                "images": self._images,
                "annotations": self._annotations,
                "categories": categories,
            }
            self._say(json_text(whole))
        if self._text is not None:
            self._text.detach()

    def _say(self, line: str) -> None:
        if self._text is None:
            say(line)
        else:
            self._text.write(line + "\n")

    def _table(self, path: Path, regions: Sequence[DescribedRegion]) -> None:
        table = Table("", "caption", "score", "box x0 y0 x1 y1", "pixels", box=None, pad_edge=False)
        words = DisplayOptions().words
        for number, region in enumerate(regions, 1):
            caption = region.caption
            table.add_row(
                str(number),
                shown(words(caption.text, caption.score)),
                f"{caption.score:.2f}",
                " ".join(f"{value:.0f}" for value in region.box),
                str(region.area),
            )
        console = PlainConsole(file=self._text) if self._text is not None else PlainConsole()
        if not console.is_terminal:
            console = PlainConsole(file=self._text, width=_PIPED_WIDTH)
        if len(self._request.pictures) > 1:
            console.print(f"{path}")
        console.print(table if regions else "no regions")


def json_rows(path: Path, regions: Sequence[DescribedRegion]) -> Iterator[dict[str, Any]]:
    """One object a region; `--boxes` and `--masks` read them."""
    for number, region in enumerate(regions, 1):
        yield {
            "image": str(path),
            "region": number,
            "text": region.caption.text,
            "score": round(region.caption.score, 4),
            "logprob": round(region.caption.logprob, 4),
            "box": [round(value, 2) for value in region.box],
            "iou": round(region.iou, 4),
            "area": region.area,
            "mask": _plain(region.mask),
        }


def coco_rows(image: int, regions: Sequence[DescribedRegion]) -> Iterator[dict[str, Any]]:
    """COCO's annotations without their numbers, with `caption` and `score`."""
    for region in regions:
        x0, y0, x1, y1 = (round(value, 2) for value in region.box)
        yield {
            "image_id": image,
            "category_id": 1,
            "bbox": [x0, y0, round(x1 - x0, 2), round(y1 - y0, 2)],
            "segmentation": _plain(region.mask),
            "area": region.area,
            "iscrowd": 0,
            "caption": region.caption.text,
            "score": round(region.caption.score, 4),
        }


def _plain(rle: dict[str, object]) -> dict[str, object]:
    counts = rle["counts"]
    return {"size": rle["size"], "counts": counts.decode() if isinstance(counts, bytes) else counts}


def _draw(rgb: np.ndarray, regions: Sequence[DescribedRegion], place: Path) -> None:
    picture = rgb.copy()
    words = DisplayOptions().words
    draw_labels(
        picture,
        [
            Label(
                number,
                region.box,
                words(region.caption.text, region.caption.score),
                region.caption.score,
                whole_mask(region.pixels()),
            )
            for number, region in enumerate(regions, 1)
        ],
    )
    done, encoded = cv2.imencode(place.suffix, picture[:, :, ::-1])
    if not done:
        raise UserError(f"{place}: pictures of this format cannot be written; use .jpg or .png")
    if not place.parent.is_dir():
        place.parent.mkdir(parents=True, exist_ok=True)
    try:
        with writing_output(place) as file:
            file.write(encoded.tobytes())
    except OSError as error:
        raise UserError(f"cannot write {place}: {error.strerror or error}; choose another place") from error
