"""The annotated video: same pictures and times as the input, boxes where the tracks were."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.drawing.annotate import TrackPath, labels_at, without_repeats, write_annotated
from pipeline.drawing.drawing import DisplayOptions, Label, draw_labels, place_text, track_colour
from pipeline.sources import open_source
from tests.videos import write_video

NS = 1_000_000_000


def path(track: int = 1, text: str = "a dog", score: float = 0.8, down: int = 0) -> TrackPath:
    return TrackPath(
        track,
        np.array([0, NS, 6 * NS]),
        np.add([[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]], [0.0, down, 0.0, down]),
        np.array([0]),
        np.array([2 * NS]),
        (text,),
        np.array([score]),
    )


def test_boxes_are_interpolated_by_time_but_not_over_long_gaps() -> None:
    assert path().box_at(NS // 4, 3 * NS).tolist() == [5, 0, 15, 10]
    assert path().box_at(NS, 3 * NS).tolist() == [20, 0, 30, 10]
    assert path().box_at(3 * NS, 3 * NS) is None
    assert path().box_at(7 * NS, 3 * NS) is None


def test_unsure_captions_are_not_shown_and_sure_ones_come_first() -> None:
    paths = [path(1, "a dog", 0.4), path(2, "a cat", 0.9, down=20), path(3, "a cow", 0.1)]
    display = DisplayOptions(min_score=0.3, sure_score=0.5)
    labels = labels_at(paths, NS // 2, 3 * NS, display)
    assert [(label.track, label.text) for label in labels] == [(2, "a cat"), (1, "a dog?")]


def test_what_is_said_of_a_place_is_said_once() -> None:
    labels = [
        Label(1, (0, 0, 100, 100), "a group of people", 0.9),
        Label(2, (10, 10, 60, 90), "a group of people", 0.8),
        Label(3, (10, 10, 60, 90), "a man", 0.7),
        Label(4, (80, 80, 180, 180), "a group of people", 0.6),
    ]
    assert [label.track for label in without_repeats(labels)] == [1, 3, 4]


def test_annotated_video_keeps_every_frame_and_time(tmp_path: Path) -> None:
    ticks = [0, 3000, 6001, 6500, 15000, 30000]
    video = write_video(tmp_path / "in.mp4", pts=ticks, time_base=Fraction(1, 30000))
    output = tmp_path / "out.mp4"
    source = open_source(str(video))
    assert write_annotated(
        source, [path()], output, max_gap_s=3, display=DisplayOptions(min_score=0.3)
    ) == len(ticks)
    source.close()
    with av.open(str(output)) as container:
        frames = list(container.decode(video=0))
    assert [round(float(f.pts * f.time_base) * 30000) for f in frames] == ticks
    shown = frames[0].to_ndarray(format="rgb24").astype(int)
    plain = next(iter(open_source(str(video)))).to_frame().rgb.astype(int)
    assert shown.shape == plain.shape
    difference = np.abs(shown - plain).max(axis=2)
    assert difference[:12, :12].max() > 60
    assert difference[60:, 100:].mean() < 8


def test_unwritable_output_is_one_clear_error(tmp_path: Path) -> None:
    video = write_video(tmp_path / "in.mp4", frames=3)
    with pytest.raises(ValueError, match=r"out\.mp4: cannot be written"):
        write_annotated(
            open_source(str(video)), [], tmp_path / "no" / "out.mp4", max_gap_s=1, display=DisplayOptions()
        )


def test_captions_are_drawn_on_their_own_ground() -> None:
    picture = np.zeros((240, 320, 3), np.uint8)
    draw_labels(picture, [Label(3, (50, 80, 150, 160), "a man in a red shirt", 0.9)])
    colour = np.array(track_colour(3))
    ground = (np.abs(picture.astype(int) - colour).max(axis=2) < 5).sum()
    assert ground > 800


@given(
    st.lists(
        st.tuples(st.floats(-50, 350), st.floats(-50, 250), st.floats(1, 200), st.floats(1, 200)), max_size=12
    ),
    st.integers(5, 300),
    st.integers(5, 40),
)
def test_texts_stay_inside_the_picture_and_never_cover_each_other(
    boxes: list[tuple[float, float, float, float]], width: int, height: int
) -> None:
    taken: list[tuple[int, int, int, int]] = []
    for x, y, w, h in boxes:
        place = place_text((x, y, x + w, y + h), (width, height), (320, 240), taken)
        if place is None:
            continue
        left, top, right, bottom = place
        assert left >= 0
        assert top >= 0
        assert right <= 320
        assert bottom <= 240
        assert all(left >= r or l >= right or top >= b or t >= bottom for l, t, r, b in taken)  # noqa: E741
        taken.append(place)
