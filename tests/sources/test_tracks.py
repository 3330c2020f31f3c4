"""Which video track is read: the film, never a cover or a preview, or the one that was asked for."""

from __future__ import annotations

from pathlib import Path

import av
import pytest
from av.stream import Disposition
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import UserError
from pipeline.sources import SourceOptions, open_source
from pipeline.sources.tracks import VideoTrack, choose_track
from tests.videos import picture


def write_tracks(path: Path, *tracks: tuple[str, int, int, bool], frames: int = 5) -> Path:
    """One video track each: codec, width, height, whether it is default."""
    with av.open(str(path), "w") as container:
        streams = []
        for codec, width, height, default in tracks:
            stream = container.add_stream(codec, rate=10)
            stream.width, stream.height = width, height
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            stream.disposition = Disposition.default if default else Disposition(0)
            streams.append(stream)
        for index in range(frames):
            for stream in streams:
                pixels = picture(index, stream.width, stream.height)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        for stream in streams:
            container.mux(stream.encode(None))
    return path


SMALL, FILM = ("mjpeg", 32, 24, False), ("libx264", 320, 240, True)


def test_the_film_is_read_and_not_its_preview_and_that_is_said(tmp_path: Path) -> None:
    path = write_tracks(tmp_path / "a.mkv", SMALL, FILM)
    source = open_source(str(path))
    source.close()
    assert (source.info.width, source.info.height) == (320, 240)
    (notice,) = source.info.notices
    assert notice == (
        "video tracks 1 (mjpeg, 32x24), 2 (h264, 320x240, default): track 2 is read; --track takes another"
    )


def test_another_track_is_read_when_it_is_asked_for(tmp_path: Path) -> None:
    path = write_tracks(tmp_path / "a.mkv", SMALL, FILM)
    source = open_source(str(path), options=SourceOptions(track=1))
    source.close()
    assert (source.info.width, source.info.height) == (32, 24)
    assert source.info.notices == ()
    with pytest.raises(
        UserError, match=r"a\.mkv: there is no video track 3; there are 1 \(mjpeg, 32x24\), 2"
    ):
        open_source(str(path), options=SourceOptions(track=3))


def test_pictures_and_cameras_have_no_track_to_choose(tmp_path: Path) -> None:
    import cv2

    cv2.imwrite(str(tmp_path / "a.png"), picture(0, 64, 48))
    for uri in (str(tmp_path / "a.png"), "rtsp://127.0.0.1:9/x"):
        with pytest.raises(UserError, match="--track"):
            open_source(uri, options=SourceOptions(track=2))


def test_a_film_with_one_track_says_nothing(tmp_path: Path) -> None:
    source = open_source(str(write_tracks(tmp_path / "a.mkv", FILM)))
    source.close()
    assert source.info.notices == ()


def track(number: int, size: tuple[int, int], **more: object) -> VideoTrack:
    return VideoTrack(number, *size, **{"codec": "h264", **more})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("tracks", "number"),
    [
        ([track(1, (640, 480), default=True), track(2, (1920, 1080))], 1),
        ([track(1, (640, 480)), track(2, (1920, 1080))], 2),
        ([track(1, (640, 480), default=True), track(2, (1920, 1080), default=True)], 2),
        ([track(1, (640, 480)), track(2, (640, 480))], 1),
        ([track(1, (160, 90), default=True), track(2, (1920, 1080))], 2),
        ([track(1, (1280, 720), codec="mjpeg", default=True), track(2, (1920, 1080))], 2),
        ([track(1, (1280, 720), title="Preview", default=True), track(2, (640, 360))], 2),
        ([track(1, (3840, 2160), readable=False, default=True), track(2, (640, 360))], 2),
        ([track(1, (1920, 1080), side=True), track(2, (1920, 1080))], 2),
        ([track(1, (32, 24), codec="mjpeg")], 1),
        ([track(1, (1920, 1080), frames=1, default=True), track(2, (1920, 1080), codec="mjpeg")], 1),
    ],
)
def test_which_track_is_the_film(tracks: list[VideoTrack], number: int) -> None:
    assert choose_track(tracks).number == number


tracks = st.lists(
    st.builds(
        VideoTrack,
        number=st.just(0),
        width=st.integers(0, 4000),
        height=st.integers(0, 4000),
        codec=st.sampled_from(["h264", "mjpeg", ""]),
        title=st.sampled_from(["", "Cover", "main"]),
        default=st.booleans(),
        frames=st.integers(0, 2),
        readable=st.booleans(),
        side=st.booleans(),
    ),
    min_size=1,
    max_size=6,
)


@given(tracks)
def test_a_readable_track_is_chosen_where_there_is_one(described: list[VideoTrack]) -> None:
    numbered = [
        VideoTrack(n, *(getattr(t, f) for f in VideoTrack.__slots__[1:])) for n, t in enumerate(described, 1)
    ]
    chosen = choose_track(numbered)
    assert chosen in numbered
    assert chosen.readable or not any(t.readable for t in numbered)
