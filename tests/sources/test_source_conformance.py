"""Files, images, HTTP and RTSP keep what every source keeps."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import cv2
import pytest

from pipeline.sources import open_source
from pipeline.testing.sources import STREAM, Opener, SourceTests
from tests.rtsp_camera import RtspCamera, needs_rtsp_server
from tests.videos import picture, write_video

WIDTH, HEIGHT = 160, 96


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


class TestSources(SourceTests):
    secrets = ("hunter2",)

    @pytest.fixture(params=[pytest.param(k, marks=needs_rtsp_server if k == "rtsp" else ()) for k in KINDS])
    def opener(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opener]:
        """Opens the same source again each time it is called."""
        with ExitStack() as stack:
            uri = KINDS[request.param](tmp_path, stack)
            yield lambda: open_source(uri, stream=STREAM)

    def test_pixels_are_those_of_the_picture(self, opener: Opener) -> None:
        source = opener()
        assert (source.info.width, source.info.height) == (WIDTH, HEIGHT)
        source.close()
