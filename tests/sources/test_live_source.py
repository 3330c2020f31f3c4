"""Network streams against a real HTTP server: numbering over reconnects, no credentials in texts, quick stop."""

from __future__ import annotations

import functools
import http.server
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.core.records import Gap, ResumePoint
from pipeline.sources import DecodedFrame, open_source
from tests.videos import write_video


class Quiet(http.server.SimpleHTTPRequestHandler):
    def send_header(self, keyword: str, value: str) -> None:
        # A camera does not know how long it will send.
        if keyword != "Content-Length":
            super().send_header(keyword, value)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The address of a server whose `/cam.ts` is half a second of video: every reader soon loses its connection."""
    write_video(tmp_path / "cam.ts", frames=12, bframes=0)
    handler = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://user:hunter2@127.0.0.1:{httpd.server_port}/cam.ts"
        httpd.shutdown()


def test_numbers_and_times_go_on_over_reconnects(server: str) -> None:
    source = open_source(server, stream="cam")
    assert source.info.live
    assert "hunter2" not in source.info.address + source.info.fingerprint
    frames: list[DecodedFrame] = []
    gaps: list[Gap] = []
    until = time.monotonic() + 60
    for event in source:
        if isinstance(event, DecodedFrame):
            frames.append(event)
        elif isinstance(event, Gap):
            gaps.append(event)
        if {0, 1, 2} <= {frame.time.epoch for frame in frames}:
            break
        assert time.monotonic() < until
    begun = time.monotonic()
    source.close()
    assert time.monotonic() - begun < 1
    assert source.counts.reconnects >= 2
    assert [frame.time.order for frame in frames] == sorted({frame.time.order for frame in frames})
    assert [frame.time.wall_ns for frame in frames] == sorted(frame.time.wall_ns for frame in frames)
    assert [frame.index for frame in frames] == sorted({frame.index for frame in frames})
    # Whatever the reader was too slow for is told.
    assert sum(gap.frames for gap in gaps if gap.reason == "dropped") == source.counts.dropped


def test_resumed_camera_tells_the_outage_and_counts_on(server: str) -> None:
    source = open_source(server, stream="cam")
    point = ResumePoint(pts_ns=5_000_000_000, frame=99, epoch=3, wall_ns=time.time_ns() - 60_000_000_000)
    source.resume_after(point)
    events = iter(source)
    outage = next(events)
    assert isinstance(outage, Gap)
    assert (outage.reason, outage.start_ns) == ("outage", point.wall_ns + 1)
    first = next(event for event in events if isinstance(event, DecodedFrame))
    assert first.index >= 100
    assert first.time.order > (point.epoch, point.pts_ns)
    source.close()


def test_absent_stream_is_one_clear_error(server: str) -> None:
    with pytest.raises(ValueError, match="cannot connect") as error:
        open_source(server.replace("cam.ts", "other.ts"))
    assert "hunter2" not in str(error.value)
