"""What a person would name in some pictures of some clips: the truth that a run is measured against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from pipeline.core.errors import UserError
from sca.setting_errors import did_you_mean
from sca.small_files import parsed_json, read_small

_LARGEST = 1 << 26  # bytes; a thousand frames have one MB


@dataclass(frozen=True, slots=True)
class Thing:
    """One thing in a picture. `box`: (x0, y0, x1, y1) in shares of width and height.

    `heads`: nouns that a fair reader would accept for it; `parts`: nouns that are true of a region in it. `stuff`: it
    has no outline of its own (ground, sky, a hedge). `hard`: small, blurred or hidden.
    """

    name: str
    box: tuple[float, float, float, float]
    heads: tuple[str, ...]
    parts: tuple[str, ...] = ()
    stuff: bool = False
    hard: bool = False

    @property
    def share(self) -> float:
        """Of the picture that its box takes."""
        x0, y0, x1, y1 = self.box
        return (x1 - x0) * (y1 - y0)


@dataclass(frozen=True, slots=True)
class AnnotatedFrame:
    """The things in the picture of `clip` at `t_s` seconds. `width`, `height`: pixels that its regions are told in."""

    clip: str
    t_s: float
    width: int
    height: int
    things: tuple[Thing, ...]

    def boxes(self) -> np.ndarray:
        """(T, 4) float64 xyxy in shares."""
        return np.array([thing.box for thing in self.things], np.float64).reshape(-1, 4)


def read_annotations(path: Path) -> tuple[AnnotatedFrame, ...]:
    """The frames of a JSON file: a list of {clip, t_s, w, h, things: [{b, heads, kind, name?, parts?, hard?}]}.

    Raises `UserError` that names the entry which is not of that form.
    """
    try:
        entries = parsed_json(read_small(path, _LARGEST))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); check the path") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error}); give a list of annotated frames") from None
    if not isinstance(entries, list) or not entries:
        raise UserError(
            f"{path}: holds no list of frames; give a list of objects with clip, t_s, w, h and things"
        )
    return tuple(_frame(path, number, entry) for number, entry in enumerate(entries))


def frames_of(
    frames: Sequence[AnnotatedFrame], clips: Sequence[str], annotations: Path
) -> tuple[AnnotatedFrame, ...]:
    """The frames of these clips, all where none is named. Raises `UserError` for a clip that is not annotated."""
    known = dict.fromkeys(frame.clip for frame in frames)
    for name in clips:
        if name not in known:
            raise UserError(
                f"--only {name}: {annotations.name} annotates {', '.join(known)}{did_you_mean(name, known)}"
            )
    return tuple(frame for frame in frames if not clips or frame.clip in clips)


def find_clips(frames: Sequence[AnnotatedFrame], folders: Sequence[Path]) -> dict[str, Path]:
    """The file of each annotated clip, from the first folder that has one of its name, in order of annotation.

    Raises `UserError` that names the clips which are nowhere.
    """
    found: dict[str, Path] = {}
    for clip in dict.fromkeys(frame.clip for frame in frames):
        path = next((folder / clip for folder in folders if (folder / clip).is_file()), None)
        if path is not None:
            found[clip] = path
    if lost := sorted({frame.clip for frame in frames} - set(found)):
        raise UserError(
            f"no file for {', '.join(lost)} in {', '.join(map(str, folders)) or 'no folder'}: "
            "name the folders of the clips with --clips"
        )
    return found


class _ThingEntry(BaseModel):
    model_config = ConfigDict(extra="ignore")

    b: tuple[float, float, float, float]
    heads: tuple[str, ...] = Field(min_length=1)
    kind: Literal["thing", "stuff"] = "thing"
    name: str | None = None
    parts: tuple[str, ...] = ()
    hard: bool = False

    @field_validator("b")
    @classmethod
    def _box(cls, box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
        x0, y0, x1, y1 = box
        if not (0 <= x0 < x1 <= 1.001 and 0 <= y0 < y1 <= 1.001):
            raise ValueError("a box is x0, y0, x1, y1 in shares of the picture, x0 < x1 and y0 < y1")
        return box


class _FrameEntry(BaseModel):
    model_config = ConfigDict(extra="ignore")

    clip: str = Field(min_length=1, pattern=r"^[^/\\]+$")
    t_s: float = Field(ge=0, allow_inf_nan=False)
    w: int = Field(ge=1)
    h: int = Field(ge=1)
    things: tuple[_ThingEntry, ...]


def _frame(path: Path, number: int, entry: Any) -> AnnotatedFrame:
    try:
        read = _FrameEntry.model_validate(entry)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the entry"
        raise UserError(f"{path}: frame {number}, {where}: {first['msg']}") from None
    things = tuple(
        Thing(t.name or t.heads[0], t.b, t.heads, t.parts, t.kind == "stuff", t.hard) for t in read.things
    )
    return AnnotatedFrame(read.clip, read.t_s, read.w, read.h, things)
