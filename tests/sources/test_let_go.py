"""Pictures that were read are let go at once: a camera is watched for months, and a picture is megabytes."""

from __future__ import annotations

import gc
import struct
import sys
from dataclasses import dataclass, field
from pathlib import Path

import av
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.sources import open_source
from pipeline.sources.geometry import Orientations
from tests.videos import write_video


@pytest.fixture
def no_search_for_cycles() -> None:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_search_for_cycles")
def test_nothing_is_left_of_the_pictures_of_a_film(tmp_path: Path) -> None:
    film = write_video(tmp_path / "film.mp4", frames=600, width=96, height=64)
    blocks = []
    for number, frame in enumerate(open_source(str(film), stream="film")):
        assert frame is not None
        if number in (200, 599):
            alive = sum(isinstance(one, av.VideoFrame) for one in gc.get_objects())
            assert alive < 30
            blocks.append(sys.getallocatedblocks())
    # Python's own objects; a picture has dozens.
    assert blocks[1] - blocks[0] < 200


def matrix(turn: str) -> bytes:
    """An FFmpeg display matrix, 16.16 fixed point."""
    a, b, c, d = {
        "none": (1, 0, 0, 1),
        "90": (0, 1, -1, 0),
        "180": (-1, 0, 0, -1),
        "mirrored": (-1, 0, 0, 1),
        "upside down": (1, 0, 0, -1),
    }[turn]
    return struct.pack("<9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)


@dataclass
class Shown:
    """What is asked of a picture."""

    turn: str
    key_frame: bool
    asked: list[str] = field(default_factory=list)

    @property
    def rotation(self) -> int:
        return {"none": 0, "90": -90, "180": -180, "mirrored": -180, "upside down": 0}[self.turn]

    @property
    def side_data(self) -> dict[str, bytes]:
        self.asked.append(self.turn)
        return {"DISPLAYMATRIX": matrix(self.turn)}


RIGHT = {
    "none": (False, False, False),
    "90": (True, True, False),
    "180": (False, True, True),
    "mirrored": (False, True, False),
    "upside down": (False, False, True),
}


@given(
    st.lists(st.tuples(st.sampled_from(["none", "90", "180"]), st.integers(1, 40)), min_size=1, max_size=8)
)
def test_a_film_that_is_turned_midway_is_shown_upright_from_there_on(runs: list[tuple[str, int]]) -> None:
    known, asked = Orientations(), 0
    for turn, length in runs:
        for number in range(length):
            picture = Shown(turn, key_frame=number == 0)
            assert known.of(picture) == RIGHT[turn]  # type: ignore[arg-type]
            asked += len(picture.asked)
    assert asked <= len(runs) + sum(length for _, length in runs) // 250


def test_a_film_that_stands_on_its_head_midway_is_noticed_at_a_key_picture() -> None:
    known = Orientations()
    assert known.of(Shown("none", key_frame=True)) == RIGHT["none"]  # type: ignore[arg-type]
    seen = [known.of(Shown("upside down", key_frame=number % 50 == 0)) for number in range(600)]  # type: ignore[arg-type]
    assert seen[300:] == [RIGHT["upside down"]] * 300
