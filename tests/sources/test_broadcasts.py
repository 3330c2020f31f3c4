"""Broadcasts in segments that stand still, leap, or are away for a moment: nothing is shown twice, every pause is told."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator

import av
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.clock import NS
from pipeline.core.restarts import RestartPolicy
from pipeline.sources import DecodedFrame, SourceOptions, open_source
from pipeline.sources.camera import Picture
from pipeline.sources.clocks import Pacing
from pipeline.sources.film_or_camera import FeedTiming
from pipeline.sources.live import LiveStream
from tests.media.numbered import number_of, numbered
from tests.rtsp_camera import wait_for
from tests.source_watch import Watch
from tests.sources.test_lost_pictures import Stamped
from tests.web_servers import Handler, serving

pytestmark = pytest.mark.promise("broadcast-once")

FPS = 10


def segment(number: int) -> bytes:
    """MPEG-TS of a second: ten numbered pictures, the count of packets begun anew, as many packagers do."""
    out = io.BytesIO()
    with av.open(out, "w", format="mpegts") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.options = {"g": "10", "bf": "0", "preset": "ultrafast", "threads": "1"}
        for place in range(number * FPS, (number + 1) * FPS):
            frame = av.VideoFrame.from_ndarray(numbered(place), format="rgb24")
            frame.pts = FPS + place
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return out.getvalue()


class Broadcast:
    """Lists `listed` segments, the newest four of them. `down`: answers with 404."""

    def __init__(self, listed: int) -> None:
        self.listed = listed
        self.down = False
        self._segments = [segment(number) for number in range(10)]

    def __call__(self, request: Handler) -> None:
        name = request.path.strip("/")
        first = max(0, self.listed - 4)
        if self.down:
            request.send("text/plain", b"", 404)
        elif name.endswith(".m3u8"):
            lines = ["#EXTM3U", "#EXT-X-TARGETDURATION:1", f"#EXT-X-MEDIA-SEQUENCE:{first}"]
            lines += [f"#EXTINF:1.0,\n{number}.ts" for number in range(first, self.listed)]
            request.send("application/vnd.apple.mpegurl", "\n".join([*lines, ""]).encode())
        else:
            request.send("video/mp2t", self._segments[int(name.removesuffix(".ts"))])


def test_what_was_shown_is_not_shown_again_when_it_is_connected_to_again() -> None:
    """Away for a moment, then a playlist that nobody continues: FFmpeg begins two segments from its end each time."""
    broadcast = Broadcast(2)
    options = SourceOptions(stall_timeout_s=0.3, max_backoff_s=0.2, reconnect=RestartPolicy.ON_ERROR)
    with serving(broadcast) as address, Watch(open_source(f"{address}/live.m3u8", options=options)) as watch:
        watch.wait_frames(2)
        broadcast.down, broadcast.listed = True, 3
        wait_for(lambda: not watch.source.counts.connected, "the server to be missed")
        broadcast.down = False
        wait_for(lambda: watch.epoch == 1, "pictures, now that it is there again")
        wait_for(lambda: not watch.source.counts.connected, "the playlist to be found standing still")
        time.sleep(1)
        broadcast.listed = 5
        wait_for(lambda: watch.epoch >= 2, "pictures of what is listed anew")
        watch.wait_frames(3)
    assert watch.error is None
    watch.check_order()
    seen = [number_of(frame.to_frame().rgb) for frame in watch.frames]
    assert None not in seen
    assert seen == sorted(set(seen)), seen  # type: ignore[type-var]
    assert watch.source.counts.corrupt == 0
    outages = [(gap.end_ns - gap.start_ns) / NS for gap in watch.gaps if gap.reason == "outage"]
    assert max(outages) > 1.5


class Late(Stamped):
    """Two pictures of a segment, then nothing for a while; what comes then begins with a damaged one."""

    timing = FeedTiming.SEGMENTED

    def pictures(self) -> Iterator[Picture]:
        for number, picture in enumerate(super().pictures()):
            if number == 2:
                time.sleep(0.6)
            yield picture


def test_a_damaged_picture_hides_no_pause() -> None:
    """The ones behind it were shown as if they had come in time, and so was all that came later."""
    source = LiveStream(
        Late([0, 1, None, 2, 3]), stream="cam", options=SourceOptions(reconnect=RestartPolicy.NEVER)
    )
    frames = [event for event in source if isinstance(event, DecodedFrame)]
    assert frames[-1].time.wall_ns - frames[0].time.wall_ns > NS // 2


@settings(deadline=None)
@given(leap_s=st.integers(8, 28), kept_s=st.integers(2, 4))
def test_stamps_that_leap_are_not_waited_for_again_and_again(leap_s: int, kept_s: int) -> None:
    """Segments of a second, of which the server keeps the last few: who waits out a leap finds the next ones gone."""
    pacing, now, number, shown = Pacing(), kept_s * NS, 0, 0
    for _ in range(40):
        # What is listed now; the newest but one is what a stream begins with.
        newest = now // NS
        number = max(number, newest - kept_s, 0)
        now = max(now, (number + 1) * NS)
        leap = leap_s * NS if number >= 8 else 0
        for place in range(10):
            asked, media = now, number * NS + place * NS // 10 + leap
            now = max(now, pacing.due_ns(media, asked_ns=asked, now_ns=now))
        number += 1
        shown += 1
    # Three leaps at most are waited out; from then on every segment is shown.
    assert number - shown <= 3 * (leap_s + kept_s)
    assert now // NS - number <= kept_s + 2
