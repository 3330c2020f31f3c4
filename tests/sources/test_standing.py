"""Pictures that stand: slide shows, screen recordings, and the last picture of a film with its duration."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.core.records import Gap, GapReason
from pipeline.keyframes.gate import KeyframeOptions
from pipeline.keyframes.reader import KeyframeReader
from pipeline.sources import DecodedFrame, SourceOptions, open_source
from pipeline.sources.standing import StandingPictures
from tests.media.films import NS, Film, restamped, write_film
from tests.media.numbered import number_of, numbered
from tests.media.reading import point_of


def slides(folder: Path, draw: Callable[[int, int, int], np.ndarray] = numbered) -> Path:
    """Two pictures of ten seconds each."""
    film = Film("mp4", count=2, rate=1, stamps=(0, 10_000), size=(160, 96))
    path = write_film(film, folder / "plain.mp4", draw)

    def ten_seconds(_: int, packet: object) -> None:
        packet.duration = round(10 / packet.time_base)  # type: ignore[attr-defined]

    return restamped(path, folder / "slides.mp4", ten_seconds)


def shown(path: Path, after: DecodedFrame | None = None) -> list[DecodedFrame | Gap]:
    source = StandingPictures(open_source(str(path), start_ns=0))
    if after is not None:
        source.resume_after(point_of(after))
    events = [event for event in source if event is not None]
    source.close()
    return events


def test_a_picture_comes_again_every_second_until_the_next_and_to_the_end_of_the_last(tmp_path: Path) -> None:
    events = shown(slides(tmp_path))
    frames = [event for event in events if isinstance(event, DecodedFrame)]
    assert len(frames) == len(events)
    assert [frame.time.pts_ns // NS for frame in frames] == list(range(21))
    assert [number_of(frame.to_frame().rgb) for frame in frames] == [0] * 10 + [1] * 11
    assert [frame.index for frame in frames] == [0] * 10 + [1] * 11
    assert [frame.held for frame in frames] == [False, *[True] * 9, False, *[True] * 10]


@pytest.mark.parametrize("at", [0, 4, 9, 10, 13, 19])
def test_resuming_in_the_middle_of_a_standing_picture_goes_on_there(tmp_path: Path, at: int) -> None:
    path = slides(tmp_path)
    frames = [event for event in shown(path) if isinstance(event, DecodedFrame)]
    rest = [event for event in shown(path, frames[at]) if isinstance(event, DecodedFrame)]
    assert [(f.index, f.time) for f in rest] == [(f.index, f.time) for f in frames[at + 1 :]]
    assert not [event for event in shown(path, frames[-1])]


def test_a_film_in_motion_has_no_standing_pictures(tmp_path: Path) -> None:
    events = shown(write_film(Film("mp4", count=30, bframes=2), tmp_path / "clip.mp4"))
    assert len(events) == 30
    assert not any(event.held for event in events if isinstance(event, DecodedFrame))


def test_a_broadcast_that_leaps_has_a_gap_and_no_standing_picture(tmp_path: Path) -> None:
    stamps = [*range(0, 1000, 40), *range(31_000, 32_000, 40)]
    path = write_film(Film("ts", count=50, stamps=tuple(stamps)), tmp_path / "clip.ts")
    events = shown(path)
    (gap,) = [event for event in events if isinstance(event, Gap)]
    assert gap.reason is GapReason.OUTAGE
    assert 0.9 * NS < gap.start_ns < 1.1 * NS
    assert gap.end_ns == 31 * NS
    assert len(events) == 51


def test_pictures_of_a_folder_stand_as_long_as_they_are_shown(tmp_path: Path) -> None:
    for number in range(2):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((20, 30, 3), 100 * number, np.uint8))
    source = StandingPictures(
        open_source(str(tmp_path), start_ns=0, options=SourceOptions(image_interval_s=3))
    )
    frames = [event for event in source if isinstance(event, DecodedFrame)]
    assert [frame.time.pts_ns // NS for frame in frames] == [0, 1, 2, 3, 4, 5, 6]


def test_keyframes_after_a_resume_are_those_of_the_whole_run(tmp_path: Path) -> None:
    # A still scene after a moving one: what the last keyframe looked like decides when the next one is due.
    film = Film("ts", count=500, gop=50, bframes=2)
    path = write_film(
        film, tmp_path / "clip.ts", lambda i, w, h: np.full((h, w, 3), 30 + min(i, 250) % 200, np.uint8)
    )

    def keyframes(after: DecodedFrame | None = None) -> list[tuple[int, int]]:
        source = StandingPictures(open_source(str(path), start_ns=0))
        reader = KeyframeReader(source, KeyframeOptions(), None if after is None else point_of(after))
        found = []
        while not (made := reader.step())[0].ended:
            if made[1] is not None:
                found.append((made[1].index, made[1].time.pts_ns))
        reader.close()
        return found

    whole = keyframes()
    assert len(whole) > 12
    frames = {event.index: event for event in shown(path) if isinstance(event, DecodedFrame)}
    for place in (0, 3, len(whole) // 2, len(whole) - 3):
        index, _ = whole[place]
        assert keyframes(frames[index]) == whole[place + 1 :]
