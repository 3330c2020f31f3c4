"""Pictures: their depth is kept, and those that move or have pages are films."""

from __future__ import annotations

from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.core.clock import NS
from pipeline.sources import DecodedFrame, open_source
from pipeline.sources.deep_pixels import value_range
from pipeline.sources.inputs import find_inputs
from pipeline.sources.source import SourceKind
from tests.videos import picture


def frames_of(path: Path) -> tuple[list[DecodedFrame], tuple[str, ...]]:
    source = open_source(str(path), start_ns=0)
    try:
        return [event for event in source if isinstance(event, DecodedFrame)], source.info.notices
    finally:
        source.close()


def grey(index: int) -> np.ndarray:
    return cv2.cvtColor(picture(index, 96, 64), cv2.COLOR_RGB2GRAY)


def seen(frame: DecodedFrame) -> np.ndarray:
    return frame.to_frame().rgb.astype(int)


def test_thermal_pictures_keep_their_contrast_and_say_how_they_were_scaled(tmp_path: Path) -> None:
    for index in range(3):
        cv2.imwrite(str(tmp_path / f"{index}.png"), 7000 + grey(index).astype(np.uint16) * 4)
    frames, notices = frames_of(tmp_path)
    assert len(frames) == 3
    for index, frame in enumerate(frames):
        scaled = np.corrcoef(seen(frame)[..., 0].ravel(), grey(index).ravel())[0, 1]
        assert scaled > 0.999
        assert seen(frame).max() - seen(frame).min() > 240
    (notice,) = notices
    assert "uint16" in notice
    assert "7" in notice
    assert "became 0 to 255" in notice


def test_a_photograph_of_16_bits_keeps_its_brightness(tmp_path: Path) -> None:
    cv2.imwrite(
        str(tmp_path / "a.png"), cv2.cvtColor(picture(1, 96, 64), cv2.COLOR_RGB2BGR).astype(np.uint16) * 257
    )
    (frame,), _ = frames_of(tmp_path / "a.png")
    assert np.abs(seen(frame) - picture(1, 96, 64)).max() <= 1


@pytest.mark.parametrize("ending", ["tiff", "pfm"])
def test_float_pictures_with_holes_are_seen(tmp_path: Path, ending: str) -> None:
    depth = 2.0 + grey(0).astype(np.float32) / 50
    if ending == "tiff":
        depth[:5, :5] = np.nan
    assert cv2.imwrite(str(tmp_path / f"a.{ending}"), depth)
    (frame,), (notice,) = frames_of(tmp_path / f"a.{ending}")
    assert np.corrcoef(seen(frame)[8:, 8:, 0].ravel(), grey(0)[8:, 8:].ravel())[0, 1] > 0.999
    assert "float32" in notice


@pytest.mark.parametrize("kind", ["transparent", "bits", "cmyk", "integers", "one value", "one pixel"])
def test_pictures_of_any_make_up_are_seen(tmp_path: Path, kind: str) -> None:
    ramp = np.tile(np.arange(96, dtype=np.uint8), (64, 1))
    path = tmp_path / {
        "cmyk": "a.jpg",
        "transparent": "a.png",
        "one value": "a.png",
        "one pixel": "a.png",
    }.get(kind, "a.tif")
    pixels, mode = {
        "transparent": (np.dstack([ramp, ramp, ramp, 255 - ramp]), None),
        "bits": (ramp > 40, None),
        "cmyk": (np.dstack([ramp] * 4), "CMYK"),
        "integers": (ramp.astype(np.int32) * 1000 - 5000, None),
        "one value": (np.full((64, 96), 7000, np.uint16), None),
        "one pixel": (np.full((1, 1, 3), 9, np.uint8), None),
    }[kind]
    image = Image.fromarray(pixels) if mode is None else Image.fromarray(pixels, mode)
    image.save(path)
    (frame,), _ = frames_of(path)
    assert seen(frame).shape[:2] == pixels.shape[:2]
    assert len(np.unique(seen(frame))) > 1 or kind.startswith("one")


def test_one_range_for_all_pictures_of_a_stream(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "0.png"), 7000 + grey(0).astype(np.uint16))
    cv2.imwrite(str(tmp_path / "1.png"), 7500 + grey(0).astype(np.uint16))
    frames, _ = frames_of(tmp_path)
    assert seen(frames[1]).mean() > seen(frames[0]).mean() + 100


@given(
    st.sampled_from([np.uint16, np.int32, np.float32, np.float64]),
    st.floats(-30_000, 30_000),
    st.floats(0.01, 20_000),
    st.integers(0, 2**32 - 1),
)
def test_any_values_become_ordered_bytes(dtype: type, black: float, span: float, seed: int) -> None:
    values = np.random.default_rng(seed).uniform(black, black + span, (8, 8, 3))
    values = np.clip(values, 0, None) if dtype is np.uint16 else values
    pixels = values.astype(dtype)
    scale = value_range([pixels])
    assert scale is not None
    eight = scale.to_eight_bits(pixels)
    assert eight.dtype == np.uint8
    order = np.argsort(pixels, axis=None)
    assert (np.diff(eight.ravel()[order].astype(int)) >= 0).all()


def moving(count: int) -> list[Image.Image]:
    return [Image.fromarray(picture(6 * index, 96, 64)) for index in range(count)]


@pytest.mark.parametrize("ending", ["ico", "icns"])
def test_an_icon_is_one_picture_and_no_film(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    Image.fromarray(picture(0, 64, 64)).save(path)
    source = open_source(str(path), start_ns=0)
    (frame,) = [event for event in source if isinstance(event, DecodedFrame)]
    source.close()
    assert source.info.kind is SourceKind.IMAGES
    smaller = cv2.resize(frame.to_frame().rgb, (64, 64), interpolation=cv2.INTER_AREA)
    assert np.abs(smaller.astype(int) - picture(0, 64, 64)).mean() < 12
    assert [found.uri for found in find_inputs([str(tmp_path)])] == [str(tmp_path)]


@pytest.mark.parametrize("ending", ["gif", "png", "webp", "avif"])
def test_a_picture_that_moves_is_a_film_with_its_own_times(tmp_path: Path, ending: str) -> None:
    first, *rest = moving(4)
    path = tmp_path / f"a.{ending}"
    first.save(path, save_all=True, append_images=rest, duration=500)
    frames, _ = frames_of(path)
    assert [frame.time.pts_ns for frame in frames] == [index * NS // 2 for index in range(4)]
    for index, frame in enumerate(frames):
        assert np.abs(seen(frame) - picture(6 * index, 96, 64)).mean() < 12


def test_the_pages_of_a_tiff_are_pictures_one_after_the_other(tmp_path: Path) -> None:
    path = tmp_path / "stack.tif"
    assert cv2.imwritemulti(str(path), [7000 + grey(6 * index).astype(np.uint16) for index in range(3)])
    frames, notices = frames_of(path)
    assert [frame.time.pts_ns // NS for frame in frames] == [0, 1, 2]
    assert all(
        np.corrcoef(seen(frame)[..., 0].ravel(), grey(6 * index).ravel())[0, 1] > 0.999
        for index, frame in enumerate(frames)
    )
    assert len(notices) == 1


def test_a_long_stack_is_resumed_at_its_next_page(tmp_path: Path) -> None:
    from pipeline.core.records import ResumePoint

    first, *rest = moving(6)
    path = tmp_path / "a.webp"
    first.save(path, save_all=True, append_images=rest, duration=200, lossless=True)
    source = open_source(str(path), start_ns=0)
    source.resume_after(ResumePoint(pts_ns=400_000_000, frame=2))
    events = [event for event in source if isinstance(event, DecodedFrame)]
    assert [event.index for event in events] == [3, 4, 5]
    assert (seen(events[0]) == picture(18, 96, 64)).all()


def test_what_only_ffmpeg_reads_is_read(tmp_path: Path) -> None:
    Image.fromarray(picture(1, 96, 64)).save(tmp_path / "a.tga")
    Image.fromarray(picture(1, 96, 64)).save(tmp_path / "a.pcx")
    for name in ("a.tga", "a.pcx"):
        (frame,), _ = frames_of(tmp_path / name)
        assert (seen(frame) == picture(1, 96, 64)).all()


def test_a_turned_photograph_is_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture(0, 96, 64)).save(tmp_path / "a.jpg", exif=exif)
    (frame,), _ = frames_of(tmp_path / "a.jpg")
    assert seen(frame).shape == (96, 64, 3)


def test_one_frame_of_a_format_that_may_move_is_a_picture(tmp_path: Path) -> None:
    for name in ("a.gif", "a.webp", "a.png", "a.tif"):
        Image.fromarray(picture(1, 96, 64)).save(tmp_path / name)
        source = open_source(str(tmp_path / name))
        assert (source.info.kind, source.info.frames) == ("images", 1)
        source.close()
        with av.open(str(tmp_path / name)):
            pass
