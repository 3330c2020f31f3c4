"""What every kind of source keeps, whatever it reads: one suite for files, images, HTTP and RTSP."""

from __future__ import annotations

import functools
import http.server
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import cv2
import pytest

from pipeline.core.frame import ClockSource
from pipeline.core.records import Gap, ResumePoint
from pipeline.sources import DecodedFrame, Source, open_source
from tests.rtsp_camera import RtspCamera, needs_rtsp_server
from tests.videos import picture, write_video

WIDTH, HEIGHT = 160, 96
ENOUGH = 12
Opener = Callable[[], Source]


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


def video_file(folder: Path, stack: ExitStack) -> str:
    return str(write_video(folder / "clip.mp4", frames=40, width=WIDTH, height=HEIGHT))


def pictures(folder: Path) -> Path:
    target = folder / "pictures"
    target.mkdir()
    for index in range(40):
        bgr = cv2.cvtColor(picture(index, WIDTH, HEIGHT), cv2.COLOR_RGB2BGR)
        cv2.imwrite(str(target / f"shot{index}.png"), bgr)
    return target


def image_folder(folder: Path, stack: ExitStack) -> str:
    return str(pictures(folder))


def image_glob(folder: Path, stack: ExitStack) -> str:
    return str(pictures(folder) / "shot*.png")


def web(folder: Path, stack: ExitStack) -> str:
    write_video(folder / "clip.ts", frames=40, width=WIDTH, height=HEIGHT, bframes=0)
    httpd = stack.enter_context(
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    )
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    stack.callback(httpd.shutdown)
    return f"http://user:hunter2@127.0.0.1:{httpd.server_port}/clip.ts?token=hunter2"


def camera(folder: Path, stack: ExitStack) -> str:
    size = ("--width", str(WIDTH), "--height", str(HEIGHT))
    server = stack.enter_context(RtspCamera(folder, *size, login="user:hunter2"))
    return server.url_as("user:hunter2")


KINDS = {
    "video file": video_file,
    "image folder": image_folder,
    "image glob": image_glob,
    "http": web,
    "rtsp": camera,
}


@pytest.fixture(params=[pytest.param(k, marks=needs_rtsp_server if k == "rtsp" else ()) for k in KINDS])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opener]:
    """Opens the same source again each time it is called."""
    with ExitStack() as stack:
        uri = KINDS[request.param](tmp_path, stack)
        yield lambda: open_source(uri, stream="one")


def some(source: Source, count: int = ENOUGH) -> tuple[list[DecodedFrame], list[Gap]]:
    """The first `count` frames and the gaps between them."""
    frames: list[DecodedFrame] = []
    gaps: list[Gap] = []
    until = time.monotonic() + 60
    for event in source:
        if isinstance(event, DecodedFrame):
            frames.append(event)
        elif isinstance(event, Gap):
            gaps.append(event)
        if len(frames) >= count:
            break
        assert time.monotonic() < until, "no more frames came"
    source.close()
    return frames, gaps


def test_it_is_known_before_it_is_read(opener: Opener) -> None:
    before = time.time_ns()
    source = opener()
    info = source.info
    source.close()
    assert (info.stream, info.width, info.height) == ("one", WIDTH, HEIGHT)
    assert info.fingerprint
    assert info.start_wall_ns > 0
    if info.live:
        assert before <= info.start_wall_ns <= time.time_ns()
    assert "hunter2" not in repr(info)


def test_frames_are_numbered_and_timed_in_order(opener: Opener) -> None:
    source = opener()
    info = source.info
    frames, gaps = some(source)
    assert len(frames) == ENOUGH
    for before, after in itertools.pairwise(frames):
        assert after.index > before.index
        assert after.time.order > before.time.order
        assert after.time.wall_ns > before.time.wall_ns
    assert frames[0].time.wall_ns >= info.start_wall_ns
    assert all(frame.stream == "one" for frame in frames)
    clocks = {frame.time.clock for frame in frames}
    assert clocks <= ({ClockSource.ARRIVAL, ClockSource.RTCP} if info.live else {ClockSource.FILE})
    assert all(gap.start_ns < gap.end_ns for gap in gaps)
    if not info.live:
        assert [frame.index for frame in frames] == list(range(ENOUGH))


def test_pixels_have_the_size_that_was_told_and_fit_their_thumbnail(opener: Opener) -> None:
    frames, _ = some(opener(), 3)
    for frame in frames:
        full = frame.to_frame()
        assert full.rgb.shape == (HEIGHT, WIDTH, 3)
        assert full.rgb.dtype == "uint8"
        assert (full.index, full.time) == (frame.index, frame.time)
        thumbnail = frame.thumbnail()
        grey = cv2.cvtColor(full.rgb, cv2.COLOR_RGB2GRAY)
        small = cv2.resize(grey, thumbnail.shape[::-1], interpolation=cv2.INTER_AREA)
        assert abs(small.astype(int) - thumbnail).mean() < 20


def test_resuming_never_repeats_and_never_goes_back(opener: Opener) -> None:
    frames, _ = some(opener())
    last = frames[5]
    point = ResumePoint(last.time.pts_ns, last.index, last.time.epoch, last.time.wall_ns)
    source = opener()
    live = source.info.live
    source.resume_after(point)
    again, gaps = some(source)
    assert all(frame.index > point.frame for frame in again)
    assert all(frame.time.order > last.time.order for frame in again)
    assert all(frame.time.wall_ns > point.wall_ns for frame in again)
    if live:
        # What could not be seen in between is told.
        assert any(gap.reason == "outage" and gap.start_ns == point.wall_ns + 1 for gap in gaps)
        assert again[0].time.epoch > point.epoch
    else:
        assert again[0].index == point.frame + 1
        assert not gaps


def test_what_was_dropped_or_damaged_is_counted_and_told(opener: Opener) -> None:
    source = opener()
    frames, gaps = some(source)
    counts = source.counts
    assert counts.frames >= len(frames)
    assert counts.dropped >= sum(gap.frames for gap in gaps if gap.reason == "dropped")
    assert counts.corrupt == sum(gap.frames for gap in gaps if gap.reason == "corrupt") == 0


def test_closing_ends_it_within_a_second(opener: Opener) -> None:
    source = opener()
    events = iter(source)
    next(event for event in events if isinstance(event, DecodedFrame))
    begun = time.monotonic()
    source.close()
    if source.info.live:
        assert sum(isinstance(event, DecodedFrame) for event in events) <= 1
    source.close()
    assert time.monotonic() - begun < 1


def test_it_can_be_closed_without_being_read(opener: Opener) -> None:
    source = opener()
    source.close()
    source.close()


def test_the_same_source_has_the_same_fingerprint(opener: Opener) -> None:
    first, second = opener(), opener()
    assert first.info.fingerprint == second.info.fingerprint
    first.close()
    second.close()
