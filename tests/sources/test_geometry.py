"""One geometry a stream: what a player shows, in the size of the stream's first picture."""

from __future__ import annotations

import struct
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from pipeline.core.records import Gap, GapReason
from pipeline.sources import DecodedFrame, open_source
from pipeline.sources.geometry import Geometry, fitted, pixel_aspect, without_combs
from tests.media.films import Film, write_film

WIDTH, HEIGHT = 96, 64
# a b u c d v x y w of the eight ways to put a picture down: a point (x, y) is shown at (a x + c y, b x + d y).
EIGHT = {
    "as it is": (1, 0, 0, 1),
    "mirrored": (-1, 0, 0, 1),
    "upside down, mirrored": (1, 0, 0, -1),
    "half a turn": (-1, 0, 0, -1),
    "a quarter turn": (0, 1, -1, 0),
    "three quarter turns": (0, -1, 1, 0),
    "transposed": (0, 1, 1, 0),
    "transposed, half a turn": (0, -1, -1, 0),
}


def corners(width: int, height: int) -> np.ndarray:
    """Red at the top left, green at the top right, blue at the bottom left, grey elsewhere."""
    rgb = np.full((height, width, 3), 120, np.uint8)
    rgb[: height // 3, : width // 3] = (230, 20, 20)
    rgb[: height // 3, -(width // 3) :] = (20, 200, 20)
    rgb[-(height // 3) :, : width // 3] = (20, 20, 230)
    return rgb


def with_matrix(path: Path, matrix: tuple[int, int, int, int]) -> Path:
    """Write the display matrix into the track header of an MP4."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    a, b, c, d = (value * 0x10000 for value in matrix)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 0x40000000)
    path.write_bytes(data)
    return path


def read(path: Path) -> tuple[list[DecodedFrame], list[Gap], tuple[int, int]]:
    source = open_source(str(path), start_ns=0)
    events = list(source)
    source.close()
    frames = [event for event in events if isinstance(event, DecodedFrame)]
    return (
        frames,
        [event for event in events if isinstance(event, Gap)],
        (source.info.width, source.info.height),
    )


def same(one: np.ndarray, other: np.ndarray) -> bool:
    return one.shape == other.shape and float(np.abs(one.astype(int) - other).mean()) < 12


@pytest.mark.parametrize("how", EIGHT)
def test_all_eight_display_matrices(tmp_path: Path, how: str) -> None:
    draw = lambda _, width, height: corners(width, height)  # noqa: E731
    path = write_film(Film("mp4", size=(WIDTH, HEIGHT), count=2), tmp_path / "clip.mp4", draw)
    a, b, c, d = EIGHT[how]
    (frame, _), _, size = read(with_matrix(path, EIGHT[how]))
    stored = corners(WIDTH, HEIGHT)
    turned = a == 0
    shown = np.zeros((WIDTH, HEIGHT, 3) if turned else (HEIGHT, WIDTH, 3), np.uint8)
    # By the definition of the matrix, pixel by pixel.
    for y in range(HEIGHT):
        for x in range(WIDTH):
            to_x, to_y = a * x + c * y, b * x + d * y
            shown[to_y % shown.shape[0] if b + d > 0 else to_y - 1, to_x if a + c > 0 else to_x - 1] = stored[
                y, x
            ]
    assert size == (shown.shape[1], shown.shape[0])
    assert same(frame.to_frame().rgb, shown)
    grey = cv2.cvtColor(shown, cv2.COLOR_RGB2GRAY)
    thumbnail = frame.thumbnail()
    assert same(thumbnail, cv2.resize(grey, thumbnail.shape[::-1], interpolation=cv2.INTER_AREA))


@pytest.mark.parametrize(
    ("aspect", "stored", "shown"),
    [
        (Fraction(16, 9), (180, 240), (320, 240)),
        (Fraction(8, 9), (144, 96), (144, 108)),
        (Fraction(64, 45), (144, 96), (205, 96)),
    ],
)
def test_pixels_that_are_not_square_are_made_so(
    tmp_path: Path, aspect: Fraction, stored: tuple[int, int], shown: tuple[int, int]
) -> None:
    def disc(_: int, width: int, height: int) -> np.ndarray:
        whole = np.full((shown[1], shown[0], 3), 90, np.uint8)
        cv2.circle(whole, (shown[0] // 2, shown[1] // 2), shown[1] // 3, (230, 230, 230), -1)
        return cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA)

    for container in ("mp4", "mkv", "ts"):
        film = Film(container, size=stored, count=2, aspect=aspect)
        path = write_film(film, tmp_path / f"clip{film.ending}", disc)
        frames, gaps, size = read(path)
        assert size == shown
        assert not gaps
        rgb = frames[0].to_frame().rgb
        assert rgb.shape == (shown[1], shown[0], 3)
        bright = rgb[..., 1] > 160
        wide, tall = bright.any(axis=0).sum(), bright.any(axis=1).sum()
        assert abs(int(wide) - int(tall)) <= 3
    source = open_source(str(path))
    assert source.info.pixel_aspect == str(aspect)
    source.close()


def test_a_header_that_cannot_be_true_leaves_pixels_square() -> None:
    assert pixel_aspect(Fraction(1, 65_535)) == pixel_aspect(Fraction(0)) == pixel_aspect(None) == 1
    assert pixel_aspect(Fraction(16, 11)) == Fraction(16, 11)


def test_a_quarter_turn_turns_the_pixels_aspect_too() -> None:
    assert Geometry(720, 576, Fraction(16, 15), transposed=True).display == (576, 768)


def test_a_change_of_size_is_fitted_into_the_first_one_and_told(tmp_path: Path) -> None:
    draw = lambda _, width, height: corners(width, height)  # noqa: E731
    parts = [
        write_film(Film("ts", size=size, count=10, stamps=tuple(range(start, start + 400, 40)), gop=5), tmp_path / f"{n}.ts", draw)
        for n, (size, start) in enumerate([((WIDTH, HEIGHT), 0), ((2 * WIDTH, 2 * HEIGHT), 400), ((64, 96), 800)])
    ]  # fmt: skip
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    frames, gaps, size = read(path)
    assert size == (WIDTH, HEIGHT)
    assert len(frames) == 30
    assert {frame.to_frame().rgb.shape for frame in frames} == {(HEIGHT, WIDTH, 3)}
    # The whole picture, not a corner of it.
    assert same(frames[15].to_frame().rgb, corners(WIDTH, HEIGHT))
    tall = frames[25].to_frame().rgb
    assert same(tall, fitted(corners(64, 96), size))
    assert int(tall[:, 0].max()) < 40
    assert [(gap.reason, gap.start_ns, gap.start_ns == gap.end_ns) for gap in gaps] == [
        (GapReason.RESIZED, 400_000_000, True),
        (GapReason.RESIZED, 800_000_000, True),
    ]


def test_a_folder_of_mixed_sizes_has_one(tmp_path: Path) -> None:
    for number, (width, height) in enumerate([(60, 40), (120, 80), (40, 60)]):
        cv2.imwrite(str(tmp_path / f"{number}.png"), cv2.cvtColor(corners(width, height), cv2.COLOR_RGB2BGR))
    source = open_source(str(tmp_path), start_ns=0)
    events = list(source)
    shapes = [event.to_frame().rgb.shape for event in events if isinstance(event, DecodedFrame)]
    assert shapes == [(40, 60, 3)] * 3
    assert [event.reason for event in events if isinstance(event, Gap)] == [GapReason.RESIZED] * 2


@pytest.mark.parametrize("size", [(1, 1), (1, 64), (64, 1), (3, 5), (33, 17)])
def test_odd_and_tiny_pictures(tmp_path: Path, size: tuple[int, int]) -> None:
    path = write_film(
        Film("mov", "png", size=size, count=3), tmp_path / "tiny.mov", lambda _, w, h: corners(w, h)
    )
    frames, _, told = read(path)
    assert told == size
    assert [frame.to_frame().rgb.shape for frame in frames] == [(size[1], size[0], 3)] * 3
    assert all(frame.thumbnail().shape[1] == 64 and frame.thumbnail().shape[0] <= 512 for frame in frames)


@pytest.mark.parametrize(("container", "codec"), [("ts", "h264"), ("ts", "mpeg2"), ("mpg", "mpeg2")])
def test_fields_are_one_picture_of_full_height(tmp_path: Path, container: str, codec: str) -> None:
    film = Film(container, codec, size=(96, 64), count=30, rate=25, fields=True, bframes=2)
    path = write_film(film, tmp_path / f"clip{film.ending}")
    with av.open(str(path)) as probe:
        assert any(frame.interlaced_frame for frame in probe.decode(video=0))
    frames, gaps, _ = read(path)
    assert {frame.to_frame().rgb.shape for frame in frames} == {(64, 96, 3)}
    assert [b.time.pts_ns - a.time.pts_ns for a, b in pairwise(frames)] == [40_000_000] * 29
    assert not gaps


def moving(moment: int, width: int, height: int) -> np.ndarray:
    """A scene with a square that moves by four pixels a field; what is around it stands, with edges of every kind."""
    rgb = corners(width, height)
    rgb[height // 2 : height // 2 + 8, ::6] = 200
    left = 10 + 4 * moment
    rgb[height // 3 : height - 8, left : left + 20] = (240, 220, 40)
    return rgb


def fields(index: int, width: int, height: int) -> np.ndarray:
    """Two moments in one picture: even rows of the first, odd rows of the second."""
    rgb = moving(2 * index, width, height)
    rgb[1::2] = moving(2 * index + 1, width, height)[1::2]
    return rgb


def apart(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(int) - other).mean())


@pytest.mark.parametrize("height", [1, 2, 3, 63, 64])
def test_fields_of_two_moments_become_a_picture_of_the_first(height: int) -> None:
    woven = fields(2, WIDTH, height) if height > 60 else np.full((height, WIDTH, 3), 7, np.uint8)
    shown = without_combs(woven)
    assert shown.shape == woven.shape
    if height > 60:
        truth = moving(4, WIDTH, height)
        assert apart(woven, truth) > 2
        assert apart(shown, truth) < 0.15 * apart(woven, truth)
    # What stands keeps every row, fine detail included.
    still = moving(4, WIDTH, height) if height > 60 else woven
    assert apart(without_combs(still), still) < 0.3


@pytest.mark.parametrize("codec", ["mpeg2", "h264"])
def test_an_interlaced_film_is_seen_without_combs(tmp_path: Path, codec: str) -> None:
    film = Film("ts", codec, count=6, size=(WIDTH, HEIGHT), fields=True, bframes=0)
    path = write_film(film, tmp_path / "fields.ts", fields)
    with av.open(str(path)) as plain:
        combed = [picture.to_ndarray(format="gray") for picture in plain.decode(video=0)]
    frames, _, _ = read(path)
    assert len(frames) == len(combed) == 6
    for index, frame in enumerate(frames):
        shown = cv2.cvtColor(frame.to_frame().rgb, cv2.COLOR_RGB2GRAY)
        assert teeth(shown) < teeth(moving(2 * index, WIDTH, HEIGHT)[..., 1]) + 0.25 * teeth(combed[index])


def teeth(grey: np.ndarray) -> float:
    """How far rows stick out from between their neighbours, over what moves in `moving`."""
    rows = grey[HEIGHT // 3 + 2 : HEIGHT - 10].astype(float)
    return float(np.abs(rows[1:-1] - (rows[:-2] + rows[2:]) / 2).mean())
