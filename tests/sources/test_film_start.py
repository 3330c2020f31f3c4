"""When a file was made, and whether a file is the one of last time."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipeline.core.clock import NS, to_ns
from pipeline.sources import open_source
from pipeline.sources.film_start import film_start
from pipeline.sources.identity import file_fingerprint, goes_on
from tests.media.films import Film, write_film

NOW = to_ns(datetime(2026, 6, 1, tzinfo=UTC))
MODIFIED = to_ns(datetime(2026, 5, 1, 12, tzinfo=UTC))


def start(*tags: dict[str, str]) -> tuple[datetime, tuple[str, ...]]:
    found = film_start(tags, modified_ns=MODIFIED, duration_ns=60 * NS, now_ns=NOW)
    return datetime.fromtimestamp(found.wall_ns / NS, UTC), found.notices


def test_a_date_that_can_be_true_is_taken_without_a_word() -> None:
    assert start({}, {"creation_time": "2024-05-01T12:00:00.000000Z"}) == (
        datetime(2024, 5, 1, 12, tzinfo=UTC),
        (),
    )
    assert start({}) == (datetime(2026, 5, 1, 11, 59, tzinfo=UTC), ())
    assert start({"com.apple.quicktime.creationdate": "2024-05-01T14:00:00+0200"})[0].hour == 12
    # A year alone is no moment.
    assert start({"date": "2019"})[0].year == 2026


@pytest.mark.parametrize("broken", ["1904-01-01T00:00:00Z", "1970-01-01T00:00:00Z", "1980-01-01T00:00:00Z", "2040-01-01T00:00:00Z", "yesterday"])  # fmt: skip
def test_a_date_that_cannot_be_true_is_told_and_the_next_choice_taken(broken: str) -> None:
    moment, (notice,) = start({"creation_time": broken})
    assert moment == datetime(2026, 5, 1, 11, 59, tzinfo=UTC)
    assert broken in notice
    assert "2026-05-01T11:59:00" in notice
    moment, (notice,) = start({"creation_time": broken}, {"creation_time": "2023-01-01T00:00:00Z"})
    assert moment.year == 2023
    assert "2023-01-01" in notice


def test_a_file_that_was_changed_in_the_far_future_ends_now() -> None:
    found = film_start([], modified_ns=NOW + 2 * 86_400 * NS, duration_ns=60 * NS, now_ns=NOW)
    assert found.wall_ns == NOW - 60 * NS
    (notice,) = found.notices
    assert "2026-06-03" in notice
    assert "2026-05-31T23:59:00" in notice


def test_a_files_broken_date_reaches_the_notices(tmp_path: Path) -> None:
    film = Film("mkv", count=10, tags=(("creation_time", "1970-01-01T00:00:00Z"),))
    path = write_film(film, tmp_path / "clip.mkv")
    source = open_source(str(path))
    assert abs(source.info.start_wall_ns - path.stat().st_mtime_ns) < 2 * NS
    assert "1970-01-01" in " ".join(source.info.notices)
    source.close()
    # Who says when it was needs no word about it.
    told = open_source(str(path), start_ns=0)
    assert not told.info.notices
    told.close()


@pytest.mark.parametrize("container", ["mkv", "ts", "flv", "fmp4", "avi"])
@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
def test_a_recording_that_has_grown_goes_on_and_another_one_does_not(
    tmp_path: Path, container: str, share: float
) -> None:
    film = Film(container, count=500, gop=12)
    whole = write_film(film, tmp_path / f"whole{film.ending}")
    part = tmp_path / f"part{film.ending}"
    part.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * share)])
    known = file_fingerprint(part)
    other = write_film(film.but(first=300), tmp_path / f"other{film.ending}")
    now = open_source(str(whole))
    assert goes_on(known, now.info)
    assert goes_on(now.info.fingerprint, now.info)
    now.close()
    another = open_source(str(other))
    assert not goes_on(known, another.info)
    assert not goes_on(now.info.fingerprint, another.info)
    another.close()


def test_a_file_that_became_shorter_is_another_one(tmp_path: Path) -> None:
    path = write_film(Film("ts", count=120), tmp_path / "clip.ts")
    known = file_fingerprint(path)
    copy = tmp_path / "copy.ts"
    shutil.copy(path, copy)
    copy.write_bytes(copy.read_bytes()[: path.stat().st_size // 2])
    source = open_source(str(copy))
    assert not goes_on(known, source.info)
    source.close()
