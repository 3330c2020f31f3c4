"""Probing: the budget is kept, changed and uncovered places come first, and nothing is left out for ever."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.perception.probing import ProbeOptions, ProbeSchedule, grid_points

NOTHING = np.zeros((8, 8), bool)


def visited(
    schedule: ProbeSchedule, covered: np.ndarray, keyframes: int, changed: np.ndarray = NOTHING
) -> set[tuple[float, float]]:
    return {tuple(p) for _ in range(keyframes) for p in schedule.next_points(covered, NOTHING, changed)}


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 12), st.integers(1, 20), st.integers(0, 1000))
def test_every_uncovered_point_is_visited(grid: int, budget: int, seed: int) -> None:
    covered = np.random.default_rng(seed).random((grid, grid)) < 0.5
    schedule = ProbeSchedule(ProbeOptions(grid=grid, budget=budget, first_budget=budget))
    # Neighbours of a choice wait, but only for a bounded number of keyframes.
    seen = visited(schedule, covered, 40 * (grid * grid // budget + 1))
    expected = {tuple(p) for p, hit in zip(grid_points(grid), covered.ravel(), strict=True) if not hit}
    assert seen == expected


def test_budgets_are_kept() -> None:
    schedule = ProbeSchedule(ProbeOptions(grid=8, budget=5, first_budget=20))
    counts = [len(schedule.next_points(NOTHING, NOTHING, NOTHING)) for _ in range(3)]
    assert counts == [20, 5, 5]
    schedule.new_scene()
    assert len(schedule.next_points(NOTHING, NOTHING, NOTHING)) == 20


def test_points_of_one_keyframe_spread_over_the_picture() -> None:
    schedule = ProbeSchedule(ProbeOptions(grid=12, budget=4, first_budget=4))
    quarters = {(x > 0.5, y > 0.5) for x, y in schedule.next_points(NOTHING, NOTHING, NOTHING)}
    assert len(quarters) >= 3


def test_changed_places_come_first() -> None:
    changed = np.zeros((8, 8))
    changed[:4, :4] = 1.0
    schedule = ProbeSchedule(ProbeOptions(grid=8, budget=4, first_budget=4))
    points = schedule.next_points(NOTHING, NOTHING, changed)
    assert (points[:2] < 0.5).all()


def test_large_regions_are_probed_less_often_than_open_ground() -> None:
    hidden = np.zeros((8, 8), bool)
    hidden[:, :4] = True
    schedule = ProbeSchedule(ProbeOptions(grid=8, budget=8, first_budget=8))
    inside = outside = 0
    for _ in range(40):
        points = schedule.next_points(NOTHING, hidden, NOTHING)
        inside += int((points[:, 0] < 0.5).sum())
        outside += int((points[:, 0] >= 0.5).sum())
    assert 0 < inside < outside


@pytest.mark.parametrize(
    ("share", "expected"), [(1.0, [16, 8, 8]), (0.5, [8, 4, 4]), (0.125, [2, 1, 1]), (0.01, [1, 1, 1])]
)
def test_less_effort_tries_fewer_points_but_never_none(share: float, expected: list[int]) -> None:
    schedule = ProbeSchedule(ProbeOptions(grid=8, budget=8, first_budget=16))
    nothing = np.zeros((4, 4), bool)
    counts = [len(schedule.next_points(nothing, nothing, nothing.astype(float), share)) for _ in range(3)]
    assert counts == expected
    off = ProbeSchedule(ProbeOptions(grid=8, budget=0, first_budget=0))
    assert len(off.next_points(nothing, nothing, nothing.astype(float), share)) == 0
