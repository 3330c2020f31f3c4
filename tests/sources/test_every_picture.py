"""Every decodable picture once, in order, at its time: random films of every container and codec, cut and resumed."""

from __future__ import annotations

import random
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.core.records import GapReason, ResumePoint
from pipeline.sources import SourceOptions, open_source
from pipeline.sources.file import VideoFile
from tests.duration import by_day
from tests.media.corpus import faults_of, random_trial
from tests.media.films import CONTAINERS, NS, Film, restamped, write_film
from tests.media.reading import Seen, plain_decode, point_of, read_film


@settings(
    max_examples=by_day(100, otherwise=200),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(seed=st.integers(0, 2**32))
def test_any_film_cut_and_resumed_anywhere_gives_what_a_plain_decode_gives(tmp_path: Path, seed: int) -> None:
    trial = random_trial(random.Random(seed))
    assert not list(faults_of(trial, tmp_path))


@pytest.mark.parametrize("codec", ["h264", "hevc", "mpeg2"])
@pytest.mark.parametrize("container", ["ts", "m2ts"])
@pytest.mark.parametrize("gop", [20, 250])
def test_a_broadcast_loses_none_of_its_first_group(
    tmp_path: Path, container: str, codec: str, gop: int
) -> None:
    if codec not in CONTAINERS[container].codecs:
        codec = "h264"
    film = Film(container, codec, count=60, rate=25, gop=gop, bframes=2)
    seen = read_film(write_film(film, tmp_path / f"clip{film.ending}"))
    assert seen.numbers == list(range(60))
    assert seen.times_ns[0] == 0
    assert not seen.gaps


@pytest.fixture(
    scope="module",
    params=[("ts", "h264"), ("mpg", "mpeg2"), ("vob", "mpeg2"), ("mkv", "h264")],
    ids=lambda kind: "-".join(kind),
)
def long_film(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Seen]:
    """A film of 400 pictures and what is seen of it, made once for all places to go on at."""
    container, codec = request.param
    film = Film(container, codec, count=400, rate=25, gop=100)
    path = write_film(film, tmp_path_factory.mktemp("films") / f"clip{film.ending}")
    return path, read_film(path)


@pytest.mark.parametrize("at", [0, 11, 150, 290, 398])
def test_resuming_goes_on_with_the_very_next_picture(long_film: tuple[Path, Seen], at: int) -> None:
    path, seen = long_film
    rest = read_film(path, point_of(seen.frames[at]))
    assert rest.numbers == list(range(at + 1, 400))
    assert [(f.index, f.time) for f in rest.frames] == [(f.index, f.time) for f in seen.frames[at + 1 :]]
    assert not rest.gaps


@pytest.mark.parametrize("codec", ["h264", "mpeg4", "mpeg2"])
def test_an_avi_plays_its_pictures_in_display_order_at_an_even_pace(tmp_path: Path, codec: str) -> None:
    film = Film("avi", codec, count=30, rate=25, bframes=3)
    seen = read_film(write_film(film, tmp_path / "clip.avi"))
    assert seen.numbers == list(range(30))
    assert seen.times_ns == film.times_ns
    assert {frame.time.epoch for frame in seen.frames} == {0}


def test_a_film_that_begins_between_key_pictures_has_a_gap_at_its_beginning(tmp_path: Path) -> None:
    path = write_film(Film("ts", "mpeg4", count=60, rate=25, gop=20), tmp_path / "clip.ts")
    data = path.read_bytes()
    path.write_bytes(data[len(data) // 188 // 8 * 188 :])
    seen = read_film(path)
    first = seen.numbers[0]
    assert first is not None
    assert first % 20 == 0
    assert seen.numbers == list(range(first, 60)) == plain_decode(path)
    (gap,) = seen.gaps
    assert gap.reason is GapReason.CORRUPT
    assert gap.start_ns == 0
    assert gap.end_ns == seen.times_ns[0] == gap.frames * NS // 25


def test_a_broadcast_that_begins_anew_goes_on_in_a_new_epoch_also_behind_a_resume(tmp_path: Path) -> None:
    first = write_film(Film("ts", count=50), tmp_path / "a.ts").read_bytes()
    second = write_film(Film("ts", count=50, first=50), tmp_path / "b.ts").read_bytes()
    path = tmp_path / "joined.ts"
    path.write_bytes(first + second)
    seen = read_film(path)
    assert seen.numbers == list(range(100))
    assert seen.times_ns == [index * NS // 25 for index in range(100)]
    assert [frame.time.epoch for frame in seen.frames] == [0] * 50 + [1] * 50
    for at in (20, 49, 50, 80):
        rest = read_film(path, point_of(seen.frames[at]))
        assert [(f.index, f.time) for f in rest.frames] == [(f.index, f.time) for f in seen.frames[at + 1 :]]


@pytest.mark.parametrize("counts", [(50, 60), (15, 15, 15), (60, 50)])
@pytest.mark.parametrize("bframes", [0, 2])
def test_recordings_that_were_joined_have_no_gap_at_their_joints(
    tmp_path: Path, counts: tuple[int, ...], bframes: int
) -> None:
    parts = [
        write_film(Film("ts", count=count, gop=25, bframes=bframes), tmp_path / "part.ts").read_bytes()
        for count in counts
    ]
    path = tmp_path / "clip.ts"
    path.write_bytes(b"".join(parts))
    seen = read_film(path)
    assert seen.numbers == [number for count in counts for number in range(count)]
    assert not seen.gaps
    assert seen.times_ns == pytest.approx([place * NS // 25 for place in range(sum(counts))], abs=NS // 1000)
    for at in (counts[0] - 3, counts[0] - 1, counts[0], counts[0] + 3):
        rest = read_film(path, point_of(seen.frames[at]))
        assert [(f.index, f.time) for f in rest.frames] == [(f.index, f.time) for f in seen.frames[at + 1 :]]


@pytest.mark.parametrize(("rate", "pace"), [(None, 25), (10.0, 10)])
def test_a_stream_without_a_clock_plays_at_the_rate_given_and_says_so(
    tmp_path: Path, rate: float | None, pace: int
) -> None:
    path = write_film(Film("h264", "h264", count=20, bframes=2), tmp_path / "clip.h264")
    source = open_source(str(path), start_ns=0, options=SourceOptions(rate=rate))
    times = [frame.time.pts_ns for frame in source]
    assert times == [index * NS // pace for index in range(20)]
    (notice,) = source.info.notices
    assert f"{pace} pictures a second" in notice
    source.close()


def test_sound_that_begins_before_the_picture_counts_as_the_beginning(tmp_path: Path) -> None:
    for container in ("mp4", "mkv"):
        film = Film(container, count=50, sound=True, late_s=Fraction(3))
        seen = read_film(write_film(film, tmp_path / f"clip{film.ending}"))
        assert abs(seen.times_ns[0] - 3 * NS) < NS // 10
        assert not seen.gaps
        assert seen.info.duration_ns is not None
        assert abs(seen.info.duration_ns - 5 * NS) < NS // 5


def test_one_stray_stamp_of_a_file_leaves_the_others_as_they_are(tmp_path: Path) -> None:
    stamps = [index * 40 for index in range(50)]
    for container in ("mkv", "ts"):
        film = Film(container, count=50)
        clean = write_film(film, tmp_path / f"clean{film.ending}")

        def astray(number: int, packet: av.Packet) -> None:
            if number == 10 and packet.pts is not None:
                packet.pts += round(3600 / packet.time_base)

        seen = read_film(restamped(clean, tmp_path / f"stray{film.ending}", astray))
        assert seen.numbers == list(range(50))
        assert [round(time / 1e6) for time in seen.times_ns] == stamps
        assert not seen.gaps


def test_a_resume_point_that_is_no_picture_of_the_file_goes_on_with_the_next_one(tmp_path: Path) -> None:
    path = write_film(Film("mp4", count=500, gop=25), tmp_path / "clip.mp4")
    between = ResumePoint(pts_ns=18 * NS + 1, frame=450, wall_ns=18 * NS + 1)
    rest = read_film(path, between)
    assert rest.numbers == list(range(451, 500))
    assert rest.frames[0].index == 451


def test_a_long_film_is_sought_not_decoded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_film(Film("ts", count=700, gop=25, bframes=2), tmp_path / "clip.ts")
    source = VideoFile(path, stream="film", start_ns=0)
    frames = [event for event in source if hasattr(event, "index")]
    source.close()
    monkeypatch.setattr(VideoFile, "_shown", lambda *_: pytest.fail("the film is decoded from its beginning"))
    source = VideoFile(path, stream="film", start_ns=0)
    source.resume_after(point_of(frames[600]))
    assert [frame.index for frame in source] == list(range(601, 700))
    source.close()


def test_times_of_all_containers_grow(tmp_path: Path) -> None:
    for name, container in CONTAINERS.items():
        film = Film(name, container.codecs[0], count=12, rate=25)
        if container.codecs[0] in ("dv",):
            film = film.but(size=(720, 576))
        seen = read_film(write_film(film, tmp_path / f"{name}{film.ending}"))
        assert len(seen.frames) == 12, name
        assert all(a.time.order < b.time.order for a, b in pairwise(seen.frames)), name


@pytest.mark.parametrize("container", ["ts", "mpg"])
@pytest.mark.parametrize("begins_s", [36_000, (1 << 33) // 90_000 - 10, (1 << 33) // 90_000 - 100])
def test_late_stamps_and_a_clock_that_wraps_change_no_time(
    tmp_path: Path, container: str, begins_s: int
) -> None:
    film = Film(container, "mpeg2", count=500, gop=25, bframes=2)
    clean = write_film(film, tmp_path / f"clean{film.ending}")

    def later(_: int, packet: av.Packet) -> None:
        packet.pts = None if packet.pts is None else packet.pts + begins_s * 90_000
        packet.dts = None if packet.dts is None else packet.dts + begins_s * 90_000

    path = restamped(clean, tmp_path / f"late{film.ending}", later)
    seen = read_film(path)
    assert seen.numbers == list(range(500))
    assert seen.times_ns == film.times_ns
    rest = read_film(path, point_of(seen.frames[470]))
    assert [(f.index, f.time) for f in rest.frames] == [(f.index, f.time) for f in seen.frames[471:]]


def test_a_length_that_is_not_true_moves_no_wall_clock_without_a_word(tmp_path: Path) -> None:
    film = Film("mkv", count=100)
    clean = write_film(film, tmp_path / "clean.mkv")

    def astray(number: int, packet: av.Packet) -> None:
        if number == 10 and packet.pts is not None:
            packet.pts += round(3600 / packet.time_base)

    path = restamped(clean, tmp_path / "stray.mkv", astray)
    source = open_source(str(path))
    assert abs(source.info.start_wall_ns - (path.stat().st_mtime_ns - 4 * NS)) < NS
    assert "do not agree" in " ".join(source.info.notices)
    source.close()
    source = open_source(str(clean))
    assert abs(source.info.start_wall_ns - (clean.stat().st_mtime_ns - 4 * NS)) < NS // 10
    assert not source.info.notices
    source.close()


@pytest.mark.parametrize("bframes", [0, 2])
@pytest.mark.parametrize("part", [0.2, 0.41, 0.63])
def test_packets_that_are_missing_in_a_broadcast_are_a_gap(tmp_path: Path, bframes: int, part: float) -> None:
    film = Film("ts", count=150, gop=12, bframes=bframes)
    path = write_film(film, tmp_path / "clip.ts")
    packets = path.read_bytes()
    begin, end = (int(len(packets) * share) // 188 * 188 for share in (part, part + 0.13))
    path.write_bytes(packets[:begin] + packets[end:])
    seen = read_film(path)
    # Pictures that build on what is missing are shown as FFmpeg makes them.
    missing = sorted(set(range(150)) - {round(at * 25 / NS) for at in seen.times_ns})
    assert len(missing) > 10
    for number in missing:
        at = number * NS // 25
        assert any(gap.start_ns <= at < gap.end_ns for gap in seen.gaps), (number, seen.gaps)
    assert sum(gap.end_ns - gap.start_ns for gap in seen.gaps) <= (len(missing) + 3) * NS // 25
