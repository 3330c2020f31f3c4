"""`--like PICTURE[:X0,Y0,X1,Y1]`: what a stream's model makes of a picture, to look for things that look like it."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.commands.extras import require
from pipeline.commands.terminal import say
from pipeline.core.errors import UserError
from pipeline.store import CaptionStore

_BOX = re.compile(r":" + ",".join([r"\s*(-?\d+(?:\.\d*)?)\s*"] * 4))
Box = tuple[float, float, float, float]


def embedding_of_picture(
    store: CaptionStore, streams: Sequence[str], typed: str, model: str | None
) -> tuple[float, ...]:
    """The embedding of a picture, or of a box in it, as the model that captioned the streams makes it; of length one.

    Raises `UserError` for a picture that cannot be read, a box outside it, and where it is not clear which model to take,
    before a model is loaded.
    """
    require("query --like", "run")
    path, box = _picture_and_box(typed)
    pixels = _pixels(path)
    height, width = pixels.shape[:2]
    x0, y0, x1, y1 = box or (0.0, 0.0, float(width), float(height))
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        raise UserError(
            f"--like {typed}: the box must lie within the {width} x {height} pixels of the picture, its first corner left of and above "
            "the second"
        )
    name = model or _model_of(store, streams)

    from pipeline.perception.candidates import on_host
    from pipeline.perception.sightings import association_features
    from pipeline.runtime.model_loading import eyes_of_one_picture

    predictor = eyes_of_one_picture(name)
    (encoding,) = predictor.encode_batch([pixels])
    boxes = np.array([[x0, y0, x1, y1]])
    found = predictor.segment(encoding, boxes=boxes)
    tokens = predictor.region_features(encoding, found, boxes)
    return tuple(association_features(on_host(tokens))[0].tolist())


def _picture_and_box(typed: str) -> tuple[Path, Box | None]:
    match = _BOX.search(typed)
    if os.path.lexists(typed) or match is None or match.end() != len(typed):
        return Path(typed), None
    x0, y0, x1, y1 = (float(edge) for edge in match.groups())
    if not all(math.isfinite(edge) for edge in (x0, y0, x1, y1)):
        raise UserError(f"--like {typed}: give four numbers of pixels behind the colon, such as :0,0,64,64")
    return Path(typed[: match.start()]), (x0, y0, x1, y1)


def _pixels(path: Path) -> np.ndarray:
    """RGB uint8 (H, W, 3); of several pages the first. Raises `UserError` for what is no picture."""
    from pipeline.sources.picture_files import Page, has_more_pages, read_page

    if not path.is_file():
        raise UserError(f"--like {path}: there is no such picture; write PICTURE or PICTURE:X0,Y0,X1,Y1")
    pixels = read_page(Page(path))
    if pixels is None:
        raise UserError(f"--like {path}: this cannot be read as a picture; give a JPEG or PNG file")
    if has_more_pages(path):
        say(f"--like {path}: of its several pictures the first is taken", error=True)
    return np.asarray(pixels)


def _model_of(store: CaptionStore, streams: Sequence[str]) -> str:
    """The model of the streams. A store may be anybody's: only a model that comes with the program is taken from its word."""
    from sca.model_names import model_names

    infos = store.streams()
    names = {infos[name].model for name in streams if name in infos}
    if len(names) != 1:
        raise UserError("--like: the streams are of several models; choose one with --stream")
    (name,) = names
    if name not in model_names():
        raise UserError(
            f"--like: the stream was captioned by {name or 'a model that it does not name'}; say --model to have it loaded"
        )
    return name
