"""What can be asked of captions on the command line; the same for `sca query` and `sca export`."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import typer

from pipeline.commands.terminal import say
from pipeline.core.errors import UserError
from pipeline.store import CaptionStore
from pipeline.store.row_filter import RowFilter
from pipeline.store.text_filter import TextFilter

StreamsOption = Annotated[
    list[str] | None, typer.Option("--stream", help="Only this stream; may be given several times.")
]
TrackOption = Annotated[int | None, typer.Option("--track", help="Only this track.")]
TextOption = Annotated[
    str | None, typer.Option("--text", help="Only captions that contain this, in any case.")
]
WordsOption = Annotated[
    list[str] | None,
    typer.Option("--word", help="Only captions with this whole word: dog does not find hotdog. Repeatable: all of them."),
]  # fmt: skip
PhrasesOption = Annotated[
    list[str] | None, typer.Option("--phrase", help="Only captions with these whole words in a row. Repeatable.")
]  # fmt: skip
RegexOption = Annotated[
    str | None, typer.Option("--regex", help="Only captions that this pattern is found in, as Python reads it, in any case.")
]  # fmt: skip
WithoutOption = Annotated[
    list[str] | None, typer.Option("--not", help="Only captions without this word or phrase. Repeatable.")
]
ScoreOption = Annotated[
    float | None, typer.Option("--min-score", help="Only captions at least this sure, 0 to 1.")
]
BoxOption = Annotated[
    str | None, typer.Option("--box", metavar="X0,Y0,X1,Y1", help="Only what overlaps this box, in pixels.")
]
ZoneOption = Annotated[
    str | None,
    typer.Option("--zone", metavar="X,Y X,Y X,Y ...", help="Only what has the middle of its box in this polygon, in pixels."),
]  # fmt: skip
ShotOption = Annotated[
    int | None,
    typer.Option(
        "--shot", min=0, max=2**31 - 1, help="Only what begins in this shot; 0 is before the first hard cut."
    ),
]
LikeOption = Annotated[
    str | None,
    typer.Option("--like-track", metavar="[STREAM:]TRACK", help="Only what looks like this track, by its embedding."),
]  # fmt: skip
SimilarityOption = Annotated[
    float, typer.Option("--min-similarity", help="How alike for --like-track: cosine, -1 to 1.")
]
LikeImageOption = Annotated[
    str | None,
    typer.Option("--like", metavar="PICTURE[:X0,Y0,X1,Y1]", help="Only what looks like this picture, or this box in it."),
]  # fmt: skip
ModelOption = Annotated[
    str | None,
    typer.Option("--model", help="For --like: the model that captioned the stream, where it is not one that comes along."),
]  # fmt: skip
AboutOption = Annotated[
    str | None, typer.Option("--about", help="Only captions that mean about the same as this.")
]
MeaningOption = Annotated[float, typer.Option("--min-meaning", help="How near for --about: cosine, -1 to 1.")]

_NUMBER = r"\s*(-?\d+(?:\.\d*)?(?:e[+-]?\d+)?)\s*"


@dataclass(frozen=True, slots=True)
class CaptionsAsked:
    """The options as they were typed."""

    track: int | None = None
    text: str | None = None
    words: Sequence[str] | None = None
    phrases: Sequence[str] | None = None
    regex: str | None = None
    without: Sequence[str] | None = None
    min_score: float | None = None
    box: str | None = None
    zone: str | None = None
    shot: int | None = None
    like_track: str | None = None
    min_similarity: float = 0.8
    like_image: str | None = None
    model: str | None = None
    about: str | None = None
    min_meaning: float = 0.5

    def filter(self, store: CaptionStore, streams: Sequence[str] | None = None) -> RowFilter:
        """The same as the store reads it, for any time. `streams`: that are asked. Raises `UserError` naming the option."""
        if self.like_track is not None and self.like_image is not None:
            raise UserError("--like and --like-track: choose one of them")
        for option, bound in (
            ("--min-score", self.min_score),
            ("--min-similarity", self.min_similarity),
            ("--min-meaning", self.min_meaning),
        ):
            if bound is not None and math.isnan(bound):
                raise UserError(
                    f"{option} nan is no number: nothing is as much as that; give one, or leave it out"
                )
        among = None if self.about is None else _meant(store, streams, self.about, self.min_meaning)
        texts = TextFilter(
            None,
            tuple(self.words or ()),
            tuple(self.phrases or ()),
            self.regex,
            tuple(self.without or ()),
            among,
        )
        zone = None if self.zone is None else _corners(self.zone)
        box = None if self.box is None else _box(self.box)
        like = None if self.like_track is None else _embedding(store, self.like_track)
        if self.like_image is not None:
            from pipeline.commands.like_image import embedding_of_picture

            like = embedding_of_picture(store, list(streams or store.streams()), self.like_image, self.model)
        return RowFilter(
            track=self.track, text=self.text, min_score=self.min_score, box=box, texts=texts, zone=zone,
            shot=self.shot, like=like, min_similarity=self.min_similarity,
        )  # fmt: skip


def _box(text: str) -> tuple[float, float, float, float]:
    match = re.fullmatch(",".join([_NUMBER] * 4), text, re.IGNORECASE)
    if match is None or not all(math.isfinite(float(edge)) for edge in match.groups()):
        raise UserError(f"--box {text!r}: give four numbers of pixels, such as 0,0,640,360")
    x0, y0, x1, y1 = (float(edge) for edge in match.groups())
    if x0 >= x1 or y0 >= y1:
        raise UserError(f"--box {text!r}: the first corner must be left of and above the second")
    return x0, y0, x1, y1


def _corners(text: str) -> tuple[tuple[float, float], ...]:
    corners = []
    for part in text.replace(";", " ").split():
        match = re.fullmatch(f"{_NUMBER},{_NUMBER}", part, re.IGNORECASE)
        if match is None:
            raise UserError(f"--zone: {part!r} is no corner; give corners as X,Y X,Y X,Y in pixels")
        corners.append((float(match[1]), float(match[2])))
    if len(corners) < 3:
        raise UserError(f"--zone {text!r}: a polygon has three corners or more, as X,Y X,Y X,Y")
    return tuple(corners)


def _meant(store: CaptionStore, streams: Sequence[str] | None, about: str, least: float) -> frozenset[str]:
    """The captions of some streams, or all, that mean about the same."""
    from pipeline.query.sentence_model import SentenceModel

    if not re.search(r"\w", about):
        raise UserError(f"--about {about!r} says nothing: give at least one word")
    model = SentenceModel(lambda count: say(f"finding out what {count} new texts mean, once ...", error=True))
    found: set[str] = set()
    for name in streams or store.streams():
        found.update(store.alike_texts(name, about, model, least))
    return frozenset(found)


def _embedding(store: CaptionStore, text: str) -> tuple[float, ...]:
    stream, _, number = text.rpartition(":")
    streams = list(store.streams())
    if not stream and len(streams) != 1:
        raise UserError(
            f"--like-track {text}: say of which stream, as STREAM:{text}; there are {', '.join(streams[:12])}"
        )
    if not number.isdecimal() or len(number) > 20:
        raise UserError(f"--like-track {text!r}: give the number of a track, such as 7 or yard:7")
    return store.embedding_of(stream or streams[0], int(number))
