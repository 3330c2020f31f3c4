"""Cameras at web addresses against real servers: HLS in bursts, MJPEG without a clock."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import av
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.core.clock import NS
from pipeline.keyframes.gate import KeyframeOptions
from pipeline.keyframes.reader import KeyframeReader
from pipeline.sources import DecodedFrame, open_source
from pipeline.sources.clocks import Bursts, Pacing
from tests.media.films import Film, write_film
from tests.media.numbered import numbered
from tests.videos import picture
from tests.web_servers import Handler, HlsServer, mjpeg, serving

_SEGMENT_S = 2


@pytest.fixture(scope="module")
def segments() -> list[bytes]:
    """MPEG-TS of two seconds each, 25 pictures a second, time stamps going on from one to the next."""
    made = []
    for number in range(8):
        out = io.BytesIO()
        with av.open(out, "w", format="mpegts", options={"muxdelay": "0"}) as container:
            stream = container.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
            stream.codec_context.options = {"g": "50", "bf": "2", "preset": "ultrafast", "threads": "1"}
            for place in range(25 * _SEGMENT_S):
                frame = av.VideoFrame.from_ndarray(picture(place, 160, 96), format="rgb24")
                # Not from 0: muxers move what would begin before it.
                frame.pts = 25 + number * 25 * _SEGMENT_S + place
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        made.append(out.getvalue())
    return made


def test_live_hls_is_spread_over_its_media_time(segments: list[bytes]) -> None:
    """The oldest listed segment is about to go when the stream is opened, as it is at any moment but one."""
    with serving(HlsServer(segments, _SEGMENT_S, age_s=1.0)) as address:
        source = open_source(f"{address}/live.m3u8")
        assert source.info.live
        reader = KeyframeReader(source, KeyframeOptions(interval_s=0.5, max_interval_s=0.5))
        frames, gaps, begun = [], [], time.monotonic()
        while time.monotonic() - begun < 6:
            step, frame = reader.step()
            gaps += step.gaps
            frames += [] if frame is None else [frame.time]
        reader.close()
    # Counted over what was shown: where in the pace of keyframes six seconds end is chance.
    span_s = (frames[-1].wall_ns - frames[0].wall_ns) / NS
    assert span_s >= 5
    assert len(frames) >= 0.9 * span_s / 0.5
    # In a burst, four keyframes would stand within a tenth of a second and the next ones two seconds away. A machine that
    # stands still for a moment passes over pictures, and for a quarter of a second moves the schedule once.
    steps = list(pairwise(frames))
    walls = [(after.wall_ns - before.wall_ns) / NS for before, after in steps]
    assert all(0.4 <= apart <= 1.5 for apart in walls), walls
    late = [
        apart - (after.pts_ns - before.pts_ns) / NS
        for apart, (before, after) in zip(walls, steps, strict=True)
    ]
    assert sum(abs(moved) > 0.05 for moved in late) <= 1, late
    assert {time.epoch for time in frames} == {0}
    assert source.counts.corrupt == 0
    assert not [gap for gap in gaps if getattr(gap, "reason", "") == "outage"]


def test_finished_hls_is_a_film(segments: list[bytes]) -> None:
    with serving(HlsServer(segments, _SEGMENT_S)) as address:
        source = open_source(f"{address}/vod.m3u8", start_ns=0)
        assert not source.info.live
        frames = [event for event in source if isinstance(event, DecodedFrame)]
    assert len(frames) == 8 * 25 * _SEGMENT_S
    assert frames[-1].time.pts_ns == pytest.approx(15.96 * NS, abs=NS // 100)


def test_mjpeg_is_timed_by_arrival() -> None:
    """Four pictures a second, which FFmpeg would stamp as twenty-five."""
    pictures = []
    for number in range(4):
        out = io.BytesIO()
        Image.fromarray(picture(8 * number, 160, 96)).save(out, "JPEG")
        pictures.append(out.getvalue())
    with serving(mjpeg(pictures, 0.25)) as address:
        source = open_source(f"{address}/stream")
        assert source.info.live
        assert source.info.nominal_fps is None
        frames = [event for event, _ in zip(_frames(source), range(9), strict=False)]
        source.close()
    span = (frames[-1].time.pts_ns - frames[1].time.pts_ns) / NS
    numbers = frames[-1].index - frames[1].index
    assert span == pytest.approx(0.25 * numbers, rel=0.25)
    assert {frame.time.epoch for frame in frames} == {0}


def _frames(source: object) -> Iterator[DecodedFrame]:
    assert hasattr(source, "__iter__")
    for event in source:
        if isinstance(event, DecodedFrame):
            yield event


_BURSTS = st.lists(st.tuples(st.integers(1, 60), st.floats(0, 1)), min_size=1, max_size=12)


@settings(max_examples=200, deadline=None)
@given(bursts=_BURSTS, step_ms=st.integers(10, 200))
def test_pictures_that_are_there_in_time_are_shown_at_the_pace_of_their_stamps(
    bursts: list[tuple[int, float]], step_ms: int
) -> None:
    """Whatever the bursts: each is shown when due; only a sender that is late moves the schedule, and only onwards."""
    pacing, now, media, offset = Pacing(), 0, 0, None
    for count, wait_s in bursts:
        asked, arrived = now, now + round(wait_s * NS)
        for _ in range(count):
            now = max(now, arrived)
            due = pacing.due_ns(media, asked_ns=asked, now_ns=now)
            moved = offset is None or due - media != offset
            if moved and offset is not None:
                assert due - media > offset
                assert arrived - asked > NS // 4
                assert due == now
            offset = due - media
            now = max(now, due)
            asked = now
            media += step_ms * NS // 1000


@settings(max_examples=100, deadline=None)
@given(slow_ms=st.lists(st.integers(0, 2000), min_size=2, max_size=40))
def test_our_own_slowness_moves_no_schedule(slow_ms: list[int]) -> None:
    pacing, now = Pacing(), 0
    for number, took in enumerate(slow_ms):
        due = pacing.due_ns(number * NS // 25, asked_ns=now, now_ns=now)
        assert due == number * NS // 25
        now = max(now, due) + took * NS // 1000


@settings(deadline=None)
@given(step_ms=st.integers(10, 900), hole_ms=st.integers(1001, 29_000), place=st.integers(2, 30))
def test_a_hole_in_the_media_is_a_pause_as_long_and_is_told(step_ms: int, hole_ms: int, place: int) -> None:
    hole_ms = max(hole_ms, 3 * step_ms + 1)
    pacing, media, shown = Pacing(), 0, []
    for number in range(place + 3):
        now = shown[-1] if shown else 0
        shown.append(pacing.due_ns(media, asked_ns=now, now_ns=now))
        assert pacing.after_hole == (number == place + 1)
        media += (hole_ms if number == place else step_ms) * NS // 1000
    assert shown[place + 1] - shown[place] == hole_ms * NS // 1000


@settings(deadline=None)
@given(media_ms=st.integers(1500, 8000), step_ms=st.integers(10, 200), haste=st.integers(5, 100))
def test_delivery_in_bursts_is_seen_behind_the_second_one(media_ms: int, step_ms: int, haste: int) -> None:
    bursts, media, found = Bursts(), 0, []
    for burst in range(4):
        now = burst * media_ms * NS // 1000
        for place in range(media_ms // step_ms):
            bursts.note(media, now + place * step_ms * NS // 1000 // haste)
            media += step_ms * NS // 1000
        found.append(bursts.found)
    assert found == [False, False, True, True]


@settings(deadline=None)
@given(
    kept_ms=st.integers(0, 8000),
    waits_ms=st.lists(st.integers(0, 900), min_size=20, max_size=60),
    step_ms=st.integers(20, 900),
)
def test_what_a_server_keeps_for_newcomers_and_a_shaky_network_are_no_bursts(
    kept_ms: int, waits_ms: list[int], step_ms: int
) -> None:
    bursts, media, now = Bursts(), 0, 0
    while media < kept_ms * NS // 1000:
        bursts.note(media, now)
        media += step_ms * NS // 1000
    for number, wait_ms in enumerate(waits_ms):
        # Each comes as late as the network likes, but no earlier than it was made.
        now = max(now, (number * step_ms + wait_ms) * NS // 1000)
        bursts.note(media, now)
        media += step_ms * NS // 1000
    assert not bursts.found


def test_a_broadcast_that_is_delivered_in_bursts_is_shown_at_its_own_pace(tmp_path: Path) -> None:
    film = Film("ts", count=300, gop=25, size=(64, 48))
    content = write_film(film, tmp_path / "clip.ts", numbered).read_bytes()
    size = len(content) // 8 // 188 * 188

    def answer(request: Handler) -> None:
        request.begin("video/mp2t")
        for place in range(0, len(content), size):
            if not request.write(content[place : place + size]):
                return
            time.sleep(1.5)

    seen = []
    with serving(answer) as address:
        source = open_source(f"{address}/live")
        assert source.info.live
        for frame in _frames(source):
            seen.append(frame.time.wall_ns / NS)
            if seen[-1] - seen[0] > 6.5:
                break
        source.close()
    later = [at for at in seen if at - seen[0] > 3.5]
    assert len(later) > 40
    assert max(b - a for a, b in pairwise(later)) < 0.5
