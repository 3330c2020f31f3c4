"""Work side by side: what comes of it is what would come of it one after the other."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sca.lanes import ONE_LANE, Lanes, in_chunks, pieces

LANES = {count: Lanes(count) for count in (1, 2, 3)}


@settings(deadline=None, max_examples=60)
@given(st.sampled_from([1, 2, 3]), st.lists(st.lists(st.integers(0, 9), max_size=6), max_size=7))
def test_parts_of_parts_come_back_in_order_and_nobody_waits_for_ever(
    count: int, items: list[list[int]]
) -> None:
    lanes = LANES[count]
    begun = [lanes.later(sum, row) for row in items]

    def work(row: list[int]) -> list[int]:
        return lanes.map(lambda one: one * one, row)

    assert lanes.map(work, items) == [[one * one for one in row] for row in items]
    assert [one.results()[0] for one in begun] == [sum(row) for row in items]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_what_the_work_raises_is_raised_where_it_is_waited_for(count: int) -> None:
    lanes = LANES[count]

    def work(number: int) -> int:
        if number == 3:
            raise ValueError("three")
        return number

    with pytest.raises(ValueError, match="three"):
        lanes.map(work, range(6))
    with pytest.raises(ValueError, match="three"):
        lanes.later(work, 3).results()
    assert lanes.map(work, range(3)) == [0, 1, 2]


def test_what_is_waited_for_comes_before_what_is_not() -> None:
    lanes = Lanes(2)
    order: list[str] = []
    gate = threading.Event()
    busy = [lanes.later(lambda _: gate.wait(5), None) for _ in range(2)]
    while any(not one.taken for one in busy):
        time.sleep(0.001)
    later = [lanes.later(lambda _: order.append("later"), None) for _ in range(3)]
    asked = threading.Thread(target=lanes.map, args=(order.append, ["asked"] * 4))
    asked.start()
    while lanes.waiting < 7:
        time.sleep(0.001)
    gate.set()
    asked.join()
    for one in later:
        one.results()
    assert order == ["asked"] * 4 + ["later"] * 3


@given(st.integers(0, 60), st.integers(1, 16), st.sampled_from([1, 2, 3]), st.integers(1, 5))
def test_pieces_hold_every_row_once_and_are_none_too_large(
    count: int, largest: int, lanes: int, least: int
) -> None:
    parts = pieces(count, largest, LANES[lanes], least)
    rows = np.arange(count)
    assert np.concatenate([rows[:0], *(rows[part] for part in parts)]).tolist() == rows.tolist()
    assert all(0 < len(rows[part]) <= largest for part in parts)
    if count > largest:
        assert len(parts) >= 2
    values = rows.astype(np.float32), rows.astype(np.float32) ** 2
    if count:
        one, other = in_chunks(lambda a, b: (a + b, a - b), largest, values, LANES[lanes], least)
        np.testing.assert_array_equal(one, values[0] + values[1])
        np.testing.assert_array_equal(other, values[0] - values[1])


def test_one_lane_works_at_once() -> None:
    done: list[int] = []
    begun = ONE_LANE.later(done.append, 1)
    assert done == [1]
    assert begun.results() == [None]
