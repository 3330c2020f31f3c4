"""Sources: exact time stamps, damage told as gaps, resuming, and one clear error for every bad input."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.clock import NS
from pipeline.core.records import Gap, ResumePoint
from pipeline.sources import DecodedFrame, expand_inputs, open_source
from pipeline.sources.clocks import ns_to_ticks, ticks_to_ns
from pipeline.sources.identity import stream_name
from pipeline.sources.latest import FrameMailbox
from pipeline.sources.picture import from_array
from tests.videos import write_video


def read_all(source) -> tuple[list[DecodedFrame], list[Gap]]:
    events = list(source)
    source.close()
    return (
        [event for event in events if isinstance(event, DecodedFrame)],
        [event for event in events if isinstance(event, Gap)],
    )


def packets_of(path: Path) -> list[tuple[int, int, int]]:
    """(pts, position, size) of every packet in file order."""
    with av.open(str(path)) as container:
        return [(p.pts, p.pos, p.size) for p in container.demux(container.streams.video[0]) if p.size]


def damage(path: Path, packet: tuple[int, int, int], how: str) -> None:
    data = bytearray(path.read_bytes())
    _, position, size = packet
    if how == "zeros":
        data[position : position + size] = bytes(size)
    else:
        noise = random.Random(1)
        for at in range(position + size // 3, position + size):
            data[at] = noise.randrange(256)
    path.write_bytes(data)


def test_variable_frame_rate_pts_are_exact(tmp_path: Path) -> None:
    ticks = [0, 1001, 2002, 9009, 9010, 40040, 123456, 123457, 200000]
    path = write_video(tmp_path / "vfr.mp4", pts=ticks, time_base=Fraction(1, 30000))
    frames, gaps = read_all(open_source(str(path)))
    assert [frame.time.pts_ns for frame in frames] == [tick * NS // 30000 for tick in ticks]
    assert [frame.index for frame in frames] == list(range(len(ticks)))
    assert not gaps


def test_time_counts_from_the_first_frame_and_wall_clock_from_start(tmp_path: Path) -> None:
    path = write_video(tmp_path / "late.mkv", pts=[5000, 5040, 5080], time_base=Fraction(1, 1000))
    frames, _ = read_all(open_source(str(path), start_ns=1_700_000_000 * NS))
    assert [frame.time.pts_ns for frame in frames] == [0, 40_000_000, 80_000_000]
    assert frames[2].time.wall_ns == 1_700_000_000 * NS + 80_000_000


def test_wall_clock_prefers_creation_time_then_modification_time(tmp_path: Path) -> None:
    tagged = write_video(tmp_path / "tagged.mp4", frames=5, creation_time="2024-05-01T12:00:00.000000Z")
    moment = datetime(2024, 5, 1, 12, tzinfo=UTC)
    source = open_source(str(tagged))
    assert source.info.start_wall_ns == int(moment.timestamp()) * NS
    source.close()
    plain = write_video(tmp_path / "plain.mp4", frames=25)
    source = open_source(str(plain))
    assert source.info.duration_ns == 1 * NS
    assert source.info.start_wall_ns == plain.stat().st_mtime_ns - 1 * NS
    source.close()


@pytest.mark.parametrize("how", ["zeros", "noise"])
@pytest.mark.parametrize("bframes", [0, 2])
def test_corrupt_frame_is_skipped_counted_and_told_as_a_gap(tmp_path: Path, how: str, bframes: int) -> None:
    path = write_video(tmp_path / "clip.mp4", frames=40, bframes=bframes)
    victim = max(packets_of(path)[14:23], key=lambda packet: packet[2])
    lost_ns = victim[0] * NS // 12800
    damage(path, victim, how)
    source = open_source(str(path), start_ns=0)
    frames, gaps = read_all(source)
    seen = {frame.time.pts_ns for frame in frames}
    assert lost_ns not in seen
    assert 35 <= len(frames) < 40
    assert {gap.reason for gap in gaps} == {"corrupt"}
    assert sum(gap.frames for gap in gaps) == source.counts.corrupt == 40 - len(frames)
    assert any(gap.start_ns <= lost_ns < gap.end_ns for gap in gaps)
    assert all(not gap.start_ns <= pts < gap.end_ns for gap in gaps for pts in seen)


def test_damaged_last_frame_is_a_gap(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", frames=20, bframes=0)
    damage(path, packets_of(path)[-1], "zeros")
    frames, gaps = read_all(open_source(str(path), start_ns=0))
    assert len(frames) == 19
    assert [(gap.start_ns, gap.frames) for gap in gaps] == [(19 * NS // 25, 1)]


def test_damage_right_before_time_stamps_begin_anew_is_a_gap_that_does_not_run_backwards(
    tmp_path: Path,
) -> None:
    first = write_video(tmp_path / "a.ts", frames=30, bframes=0, width=320, height=240)
    second = write_video(tmp_path / "b.ts", frames=20, bframes=0, width=320, height=240)
    content = bytearray(first.read_bytes())
    position = packets_of(first)[-1][1] // 188 * 188
    noise = random.Random(1)
    # What the last picture's transport packets carry, but not their headers: it is decoded, and known to be damaged.
    for packet in range(position + 188, len(content), 188):
        for at in range(packet + 8, min(packet + 188, len(content))):
            content[at] = noise.randrange(256)
    joined = tmp_path / "joined.ts"
    joined.write_bytes(bytes(content) + second.read_bytes())
    frames, gaps = read_all(open_source(str(joined), start_ns=0))
    assert {frame.time.epoch for frame in frames} == {0, 1}
    assert len(frames) == 49
    assert [gap.frames for gap in gaps] == [1]
    assert gaps[0].start_ns <= gaps[0].end_ns
    walls = [frame.time.wall_ns for frame in frames]
    assert walls == sorted(walls)


def test_missing_tail_of_a_streamable_mp4_is_a_gap(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", frames=100, faststart=True)
    packets = packets_of(path)
    path.write_bytes(path.read_bytes()[: packets[50][1]])
    frames, gaps = read_all(open_source(str(path), start_ns=0))
    assert 40 <= len(frames) <= 51
    assert gaps
    assert gaps[-1].reason == "corrupt"
    assert gaps[-1].end_ns == 4 * NS
    assert gaps[-1].start_ns == frames[-1].time.pts_ns + NS // 25


@pytest.mark.parametrize("bframes", [0, 2])
@pytest.mark.parametrize("at", [0, 1, 13, 28, 39])
def test_resume_continues_right_behind_the_point(tmp_path: Path, at: int, bframes: int) -> None:
    path = write_video(tmp_path / "clip.mp4", frames=40, bframes=bframes)
    everything, _ = read_all(open_source(str(path)))
    source = open_source(str(path))
    point = everything[at]
    source.resume_after(ResumePoint(pts_ns=point.time.pts_ns, frame=point.index))
    rest, gaps = read_all(source)
    assert [(f.index, f.time) for f in rest] == [(f.index, f.time) for f in everything[at + 1 :]]
    assert not gaps


def test_rotated_video_is_shown_upright(tmp_path: Path) -> None:
    path = write_video(tmp_path / "phone.mp4", frames=3, rotation=90)
    source = open_source(str(path))
    assert (source.info.width, source.info.height) == (96, 160)
    frames, _ = read_all(source)
    assert frames[0].to_frame().rgb.shape == (160, 96, 3)
    grey = cv2.cvtColor(frames[0].to_frame().rgb, cv2.COLOR_RGB2GRAY)
    shown = cv2.resize(grey, frames[0].thumbnail().shape[::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(shown.astype(int) - frames[0].thumbnail()).mean() < 20


def _ruin(path: Path, since: bytes, count: int) -> None:
    """Zeros over the index, from box `since` on."""
    data = bytearray(write_video(path, frames=50).read_bytes())
    at = data.index(since) - 4
    data[at : at + count] = bytes(len(data[at : at + count]))
    path.write_bytes(data)


BAD_FILES = {
    "missing": ("no such file", lambda path: None),
    "empty": ("empty", lambda path: path.write_bytes(b"")),
    "text": ("not a video", lambda path: path.write_text("hello, I am not a video\n" * 100)),
    "noise": ("not a video", lambda path: path.write_bytes(random.Random(0).randbytes(50_000))),
    "ruined track": ("damaged.*copy it again", lambda path: _ruin(path, b"stbl", 600)),
    "ruined index": ("damaged.*copy it again", lambda path: _ruin(path, b"mvhd", 1000)),
    "truncated": ("moov", lambda path: path.write_bytes(write_video(path, frames=50).read_bytes()[:3000])),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_bad_files_are_one_clear_error(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "clip.mp4"
    phrase, make = BAD_FILES[kind]
    make(path)
    with pytest.raises(ValueError, match=phrase) as error:
        open_source(str(path))
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_plain_text_file_is_not_a_video(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("hello\n" * 50)
    with pytest.raises(ValueError, match="not a video"):
        open_source(str(path))


def test_audio_only_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(ValueError, match="only audio"):
        open_source(str(path))


def test_zero_length_video_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "nothing.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        container.start_encoding()
    with pytest.raises(ValueError, match=r"no frame|not a video|no video"):
        open_source(str(path))


def test_image_directory_in_natural_order_with_a_damaged_picture(tmp_path: Path) -> None:
    for number in (1, 2, 10):
        cv2.imwrite(str(tmp_path / f"img{number}.png"), np.full((20, 30, 3), number * 20, np.uint8))
    (tmp_path / "img3.png").write_bytes(b"not a picture")
    source = open_source(str(tmp_path), start_ns=0)
    frames, gaps = read_all(source)
    assert [int(frame.to_frame().rgb[0, 0, 0]) for frame in frames] == [20, 40, 200]
    assert [frame.time.pts_ns // NS for frame in frames] == [0, 1, 3]
    assert [(gap.start_ns // NS, gap.frames) for gap in gaps] == [(2, 1)]


def test_inputs_expand(tmp_path: Path) -> None:
    clips = [write_video(tmp_path / name, frames=2) for name in ("a.mp4", "b.mp4")]
    assert expand_inputs([str(tmp_path / "*.mp4")]) == [str(clip) for clip in clips]
    assert expand_inputs([str(tmp_path)]) == [str(clip) for clip in clips]
    assert expand_inputs(["rtsp://u:p@h/x?*"]) == ["rtsp://u:p@h/x?*"]
    with pytest.raises(ValueError, match="nothing matches"):
        expand_inputs([str(tmp_path / "*.avi")])


def test_unreachable_camera_fails_at_once_without_its_password() -> None:
    with pytest.raises(ValueError, match="cannot connect") as error:
        open_source("rtsp://admin:hunter2@127.0.0.1:9/stream?token=abc123")
    assert "hunter2" not in str(error.value)
    assert "abc123" not in str(error.value)
    assert "127.0.0.1" in str(error.value)


@given(st.integers(0, 10**12), st.integers(1, 2000), st.integers(1, 200_000))
def test_ticks_survive_the_trip_to_nanoseconds(ticks: int, numerator: int, denominator: int) -> None:
    time_base = Fraction(numerator, denominator)
    assert ns_to_ticks(ticks_to_ns(ticks, time_base), time_base) == ticks


def test_stream_names() -> None:
    assert stream_name("/a/b/my clip (1).mp4") == "my-clip-1"
    assert stream_name("rtsp://u:p@cam:554/live/main?x=1") == "cam-554-live-main"
    assert stream_name("0") == "webcam0"


def test_slow_consumer_gets_the_newest_frame_and_hears_of_the_dropped() -> None:
    from pipeline.core.frame import FrameTime

    box = FrameMailbox()
    for index in range(5):
        pixels = np.zeros((8, 8, 3), np.uint8)
        box.put(from_array("cam", index, FrameTime(index * 100, 1000 + index * 100), pixels))
    box.finish()
    gap, frame = box.take(0), box.take(0)
    assert gap == Gap(1000, 1400, "dropped", 4)
    assert isinstance(frame, DecodedFrame)
    assert frame.index == 4
    assert box.dropped == 4
    assert box.finished
