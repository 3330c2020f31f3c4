"""Windows beside the whole picture: which are due, what their borders cut, and where a known thing is looked for."""

from __future__ import annotations

from itertools import chain

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.perception.views import Needs, ViewSchedule, choose_views, view_for, whole_of, windows_of

PICTURE = (300, 400)
NONE = np.zeros((0, 4), np.float32)
STILL = np.zeros((9, 12))


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 900), st.integers(1, 900))
def test_windows_cover_the_picture_and_stay_in_it(height: int, width: int) -> None:
    windows = windows_of((height, width))
    seen = np.zeros((height, width), bool)
    for window in windows:
        seen[window.y0 : window.y1, window.x0 : window.x1] = True
        assert 0 <= window.x0 < window.x1 <= width
        assert 0 <= window.y0 < window.y1 <= height
    assert seen.all() or not windows
    assert len(windows) == 4 or min(height, width) < 4


def test_what_goes_on_behind_an_inner_border_is_cut_and_what_ends_at_the_picture_is_not() -> None:
    first = windows_of(PICTURE)[0]
    boxes = np.array(
        [[0, 0, 100, 100], [100, 20, 240, 100], [100, 20, 239.9, 100], [20, 20, 230, 170]], np.float32
    )
    assert first.cuts(boxes, PICTURE).tolist() == [False, True, True, False]
    assert whole_of(PICTURE).holds(np.array([[0, 0, 400, 300]]), PICTURE).all()
    assert first.part(np.arange(108).reshape(9, 12), PICTURE).shape == (5, 7)


def test_all_windows_at_first_then_each_in_its_turn() -> None:
    schedule = ViewSchedule()
    look = [[n for n, _ in schedule.due(PICTURE, 1, STILL, NONE, NONE)] for _ in range(9)]
    assert look[0] == [0, 1, 2, 3]
    assert sorted(chain(*look[1:5])) == sorted(chain(*look[5:9])) == [0, 1, 2, 3]
    schedule.new_scene()
    assert len(schedule.due(PICTURE, 1, STILL, NONE, NONE)) == 4
    assert schedule.due(PICTURE, 0, STILL, NONE, NONE) == []
    # Without effort for windows the first look is put off, not given up.
    late = ViewSchedule()
    assert late.due(PICTURE, 0, STILL, NONE, NONE) == []
    assert len(late.due(PICTURE, 1, STILL, NONE, NONE)) == 4


def test_a_window_where_something_happens_is_due_sooner_and_none_is_forgotten() -> None:
    schedule = ViewSchedule()
    schedule.due(PICTURE, 1, STILL, NONE, NONE)
    busy = STILL.copy()
    busy[:4, :4] = 1  # the first window's own corner
    looks = [schedule.due(PICTURE, 1, busy, NONE, NONE)[0][0] for _ in range(40)]
    counts = np.bincount(looks, minlength=4)
    assert counts[0] == counts.max()
    assert counts.min() > 0
    cut = ViewSchedule()
    cut.due(PICTURE, 1, STILL, NONE, NONE)
    cut.note_cut(np.array([[180, 150, 260, 280]], np.float32))  # whole in the lower right one alone
    assert [n for n, _ in cut.due(PICTURE, 1, STILL, NONE, NONE)] == [3]


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 4), st.integers(0, 1000))
def test_the_most_due_windows_are_chosen(count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    needs = Needs(*(rng.random((5, 4)) * 5))
    chosen = choose_views(needs, count)
    assert len(chosen) == count
    urgency = needs.urgency()
    left = [n for n in range(4) if n not in chosen]
    assert all(urgency[a] >= urgency[b] for a in chosen for b in left)


def test_a_small_thing_is_looked_for_where_it_is_large_and_whole() -> None:
    views = [whole_of(PICTURE), windows_of(PICTURE)[3]]
    small, middle, large, elsewhere = (
        [300, 200, 320, 220],
        [250, 160, 330, 260],
        [170, 130, 400, 300],
        [10, 10, 30, 30],
    )
    boxes = np.array([small, middle, large, elsewhere, [100, 100, 200, 150]], np.float32)
    assert view_for(boxes, views, PICTURE).tolist() == [1, 1, 0, -1, 0]
