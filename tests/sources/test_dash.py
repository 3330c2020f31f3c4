"""DASH against a real server, with what FFmpeg's own muxer writes: films of every way to name segments, and a live stream."""

from __future__ import annotations

import base64
import re
import time
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import pytest

from pipeline.core.clock import NS
from pipeline.core.records import Gap
from pipeline.core.restarts import RestartPolicy
from pipeline.sources import DecodedFrame, Source, SourceOptions, open_source
from pipeline.sources.dash_manifest import BadManifest, read_manifest
from tests.media.numbered import number_of, numbered
from tests.media.reading import point_of
from tests.web_servers import Handler, serving

_RATE, _COUNT = 25, 60
_ONCE = SourceOptions(reconnect=RestartPolicy.NEVER)


def write_dash(folder: Path, count: int = _COUNT, options: dict[str, str] | None = None) -> Path:
    """A manifest and segments of a second each; every picture carries its number."""
    manifest = folder / "film.mpd"
    options = {"seg_duration": "1", **(options or {})}
    with av.open(str(manifest), "w", format="dash", options=options) as container:
        for width, height in ((64, 48), (96, 64)):
            stream = container.add_stream("libx264", rate=_RATE)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.codec_context.options = {"g": "25", "bf": "2", "preset": "ultrafast", "threads": "1"}
        for number in range(count):
            for stream in container.streams.video:
                frame = av.VideoFrame.from_ndarray(
                    numbered(number, stream.width, stream.height), format="rgb24"
                )
                frame.pts = number
                container.mux(stream.encode(frame))
        for stream in container.streams.video:
            container.mux(stream.encode(None))
    return manifest


class FolderServer:
    """Serves the files of a folder, with ranges. `asked`: what was, in order. `lost`: names that are not there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[str] = []
        self.lost: set[str] = set()
        self.breaks: set[str] = set()

    def manifest(self) -> bytes:
        return (self.folder / "film.mpd").read_bytes()

    def __call__(self, request: Handler) -> None:
        name = request.path.rpartition("/")[2].partition("?")[0]
        self.asked.append(name)
        if name.endswith(".mpd"):
            request.send("application/dash+xml", self.manifest())
            return
        if name in self.lost or not (self.folder / name).is_file():
            request.send("text/plain", b"", 404)
            return
        content = (self.folder / name).read_bytes()
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
        since, until = (
            (int(wanted[1]), int(wanted[2] or len(content) - 1)) if wanted else (0, len(content) - 1)
        )
        part = content[since : until + 1]
        extra = {"Content_Range": f"bytes {since}-{since + len(part) - 1}/{len(content)}"}
        request.begin("video/mp4", 206, Content_Length=str(len(part)), **extra)
        if name in self.breaks:
            self.breaks.remove(name)
            part = part[: len(part) // 2]
        request.write(part)


def numbers(source: Source) -> list[int | None]:
    frames = [event for event in source if isinstance(event, DecodedFrame)]
    source.close()
    assert all(before.time.pts_ns < after.time.pts_ns for before, after in pairwise(frames))
    return [number_of(frame.to_frame().rgb) for frame in frames]


@pytest.mark.parametrize(
    "options",
    [
        {"use_template": "1", "use_timeline": "1"},
        {"use_template": "1", "use_timeline": "0"},
        {"use_template": "0", "use_timeline": "0"},
        {"single_file": "1", "use_template": "0", "use_timeline": "0"},
        {"media_seg_name": "$RepresentationID$-$Time$.m4s"},
    ],
    ids=str,
)
def test_finished_manifest_is_a_film_read_once_and_whole(options: dict[str, str], tmp_path: Path) -> None:
    write_dash(tmp_path, options=options)
    server = FolderServer(tmp_path)
    with serving(server) as address:
        source = open_source(f"{address}/film.mpd", start_ns=0)
        assert not source.info.live
        assert (source.info.width, source.info.height) == (96, 64), "the largest"
        assert numbers(source) == list(range(_COUNT))
        # A segment whose connection breaks comes again.
        segments = [name for name in server.asked if not name.endswith(".mpd")]
        server.breaks.add(segments[-1])
        assert numbers(open_source(f"{address}/film.mpd", start_ns=0)) == list(range(_COUNT))


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dash")
    write_dash(folder, 250)
    return folder


def test_segment_that_is_gone_is_told_and_resuming_goes_on_behind_what_was_seen(film: Path) -> None:
    server = FolderServer(film)
    server.lost.add("chunk-stream1-00004.m4s")
    seen: list[DecodedFrame] = []
    with serving(server) as address:
        source = open_source(f"{address}/film.mpd", start_ns=0, options=_ONCE)
        with pytest.raises(ValueError, match=r"stopped at segment 4: the server answers 404.*start again"):
            seen.extend(event for event in source if isinstance(event, DecodedFrame))
        server.lost.clear()
        again = open_source(f"{address}/film.mpd", start_ns=0)
        again.resume_after(point_of(seen[-1]))
        rest = numbers(again)
    assert rest == list(range(len(seen), 250))


class LiveDash(FolderServer):
    """What the muxer wrote, coming into being by the clock. `listing`: its manifest names each segment."""

    def __init__(self, folder: Path, *, listing: bool, age_s: float) -> None:
        super().__init__(folder)
        self.listing = listing
        self.begun = time.time() - age_s

    def manifest(self) -> bytes:
        text = super().manifest().decode()
        there = min(10, int(time.time() - self.begun))
        begun = (
            time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(self.begun)) + f"{self.begun % 1:.3f}"[1:] + "Z"
        )
        text = re.sub(r'mediaPresentationDuration="[^"]*"', "", text)
        text = text.replace(
            'type="static"',
            f'type="dynamic" availabilityStartTime="{begun}" minimumUpdatePeriod="PT1S" timeShiftBufferDepth="PT4S"',
        )
        first = max(0, there - 4)
        line = f'<S t="{first * 12800}" d="12800" r="{there - first - 1}"/>'
        if self.listing:
            text = re.sub(r"<S t=[^>]*>", line, text)
            return text.replace('startNumber="1"', f'startNumber="{first + 1}"').encode()
        text = re.sub(r"<SegmentTimeline>.*?</SegmentTimeline>", "", text, flags=re.DOTALL)
        return text.replace('timescale="12800"', 'timescale="12800" duration="12800"').encode()


@pytest.mark.parametrize("listing", [True, False])
def test_live_manifest_is_a_camera_at_its_own_pace(film: Path, listing: bool) -> None:
    """Segments of a second: every picture at its time all the same, and no outage."""
    server = LiveDash(film, listing=listing, age_s=3.5)
    frames: list[DecodedFrame] = []
    shown: list[int] = []
    gaps: list[Gap] = []
    with serving(server) as address:
        source = open_source(f"{address}/film.mpd")
        assert source.info.live
        for event in source:
            if isinstance(event, DecodedFrame):
                frames.append(event)
                shown.append(number_of(event.to_frame().rgb) or 0)
                if shown[-1] - shown[0] > 80:
                    break
            elif event is not None:
                gaps.append(event)
        source.close()
    # From the last segment but one that was there on.
    assert shown[0] % _RATE == 0
    assert shown[0] >= _RATE
    assert [frame.time.pts_ns for frame in frames] == [(number - shown[0]) * NS // _RATE for number in shown]
    # Not all of a segment at once.
    walls = [(frame.time.wall_ns - frames[0].time.wall_ns - frame.time.pts_ns) / NS for frame in frames]
    assert min(walls) > -0.1
    assert "outage" not in {gap.reason for gap in gaps}


def test_live_manifest_that_is_finished_ends_the_stream(film: Path) -> None:
    server = LiveDash(film, listing=True, age_s=3.5)
    with serving(server) as address:
        source = open_source(f"{address}/film.mpd", options=SourceOptions(reconnect=RestartPolicy.ON_ERROR))
        server.manifest = lambda: FolderServer.manifest(server)  # type: ignore[method-assign]
        events = [event for event in source if isinstance(event, DecodedFrame)]
        source.close()
    assert events


def test_login_goes_to_the_manifests_own_server_alone(film: Path) -> None:
    told: list[tuple[str, str | None]] = []
    theirs = FolderServer(film)

    def elsewhere(request: Handler) -> None:
        told.append(("elsewhere", request.headers.get("Authorization")))
        theirs(request)

    with serving(elsewhere) as other:

        def own(request: Handler) -> None:
            login = request.headers.get("Authorization")
            if login is None:
                request.send("text/plain", b"", 401, WWW_Authenticate='Basic realm="film"')
                return
            told.append(("own", login))
            text = theirs.manifest().decode()
            place = f"<BaseURL>{other}/deep/</BaseURL><Period"
            request.send("application/dash+xml", text.replace("<Period", place, 1).encode())

        with serving(own) as address:
            place = address.removeprefix("http://")
            source = open_source(f"http://user:hunter2@{place}/film.mpd", start_ns=0)
            assert "hunter2" not in repr(source.info)
            assert len(numbers(source)) == 250
    expected = "Basic " + base64.b64encode(b"user:hunter2").decode()
    assert {login for name, login in told if name == "own"} == {expected}
    assert {login for name, login in told if name == "elsewhere"} == {None}


def _manifest(inside: str, attributes: str = 'type="static" mediaPresentationDuration="PT4S"') -> bytes:
    return f'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" {attributes}>{inside}</MPD>'.encode()


def _video(inside: str, set_inside: str = "") -> str:
    start = f'<Period><AdaptationSet mimeType="video/mp4">{set_inside}<Representation id="v" width="64" height="48">'
    return start + inside + "</Representation></AdaptationSet></Period>"


_LINE = (
    '<SegmentTemplate media="$Time$" timescale="1"><SegmentTimeline>{}</SegmentTimeline></SegmentTemplate>'
)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b'<!DOCTYPE m [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><MPD>&b;</MPD>', "entities"),
        ('<?xml version="1.0" encoding="utf-16"?><!DOCTYPE m><MPD/>'.encode("utf-16"), "cannot be read"),
        (b"<MPD" + b"<a>" * 100_000, "cannot be read"),
        (_manifest(""), "nothing in it"),
        (_manifest(_video("") + _video("")), "2 periods"),
        (_manifest(_video("<BaseURL>file:///etc/passwd</BaseURL>")), "no web address"),
        (_manifest(_video('<SegmentTemplate media="concat:x$Number$" duration="1"/>')), None),
        (_manifest(_video("", '<ContentProtection schemeIdUri="urn:x"/>')), "encrypted"),
        (_manifest(_video('<SegmentTemplate media="$Number$" timescale="0" duration="1"/>')), "timescale"),
        (_manifest(_video('<SegmentTemplate media="$Number$"/>')), "neither a duration nor a timeline"),
        (_manifest(_video(_LINE.format('<S t="0" d="0"/>'))), "no length"),
        (_manifest(_video(_LINE.format('<S t="0" d="' + "9" * 5000 + '"/>'))), "cannot be read"),
        (
            _manifest(_video(""), 'type="static" mediaPresentationDuration="P' + "9" * 5000 + 'D"'),
            "cannot be read",
        ),
        (
            _manifest(_video('<SegmentTemplate media="x" duration="1" availabilityTimeOffset="1e9999"/>')),
            "read",
        ),
    ],
)
def test_hostile_and_odd_manifests_are_refused_in_a_word(content: bytes, why: str | None) -> None:
    def read() -> None:
        next(read_manifest(content, "http://host/film.mpd", Fraction(0)).segments())

    with pytest.raises(BadManifest, match=why):
        read()


def test_endless_repetition_costs_nothing_before_it_is_read() -> None:
    content = _manifest(_video(_LINE.format(f'<S t="0" d="1" r="{10**15}"/>')))
    video = read_manifest(content, "http://host/a/film.mpd", Fraction(0))
    found = video.next(Fraction(10**14), Fraction(0))
    assert found is not None
    assert found.piece.url == f"http://host/a/{10**14 + 1}"


@pytest.mark.parametrize(
    ("age", "after", "first"),
    # Ten seconds of buffer, segments of two: the newest that is whole at 21 s is number 9.
    [(21, None, 8), (21, 14, 8), (21, 16, 9), (21, 18, None), (21, 2, 4), (2, None, 0), (1, None, None)],
)
def test_segments_that_come_by_the_clock(age: int, after: int | None, first: int | None) -> None:
    head = 'type="dynamic" availabilityStartTime="2026-01-01T00:00:00Z" timeShiftBufferDepth="PT10S"'
    content = _manifest(_video('<SegmentTemplate media="$Number%03d$" startNumber="0" duration="2"/>'), head)
    begun = Fraction(1767225600)
    video = read_manifest(content, "https://host/film.mpd", begun)
    found = video.next(None if after is None else Fraction(after), begun + age)
    assert (None if found is None else found.piece.url) == (
        None if first is None else f"https://host/{first:03d}"
    )
