"""Restarts are bounded, spaced out, and forgotten when things went well for long enough."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.restarts import Ending, RestartHistory, RestartOptions, RestartPolicy, next_restart


@pytest.mark.parametrize(
    ("policy", "ending", "granted"),
    [
        ("never", Ending.FAILED, False),
        ("never", Ending.FINISHED, False),
        ("on-error", Ending.FAILED, True),
        ("on-error", Ending.FINISHED, False),
        ("always", Ending.FAILED, True),
        ("always", Ending.FINISHED, True),
    ],
)
def test_the_policy_decides_which_endings_are_undone(policy: str, ending: Ending, granted: bool) -> None:
    options = RestartOptions(policy=RestartPolicy(policy))
    assert (next_restart(ending, RestartHistory(), 0.0, options) is not None) == granted


@given(
    pauses=st.lists(st.floats(0, 300), min_size=1, max_size=60),
    limit=st.integers(1, 6),
    window=st.floats(1, 500),
)
def test_no_window_holds_more_failures_undone_than_allowed(
    pauses: list[float], limit: int, window: float
) -> None:
    options = RestartOptions(max_restarts=limit, window_s=window)
    now, history, granted = 0.0, RestartHistory(), []
    for pause in pauses:
        now += pause
        restart = next_restart(Ending.FAILED, history, now, options)
        recent = [moment for moment in granted if now - moment < window]
        assert (restart is None) == (len(recent) >= limit)
        if restart is None:
            continue
        assert 0 <= restart.delay_s <= options.max_delay_s
        granted.append(now)
        history = restart.history


def test_pauses_double_up_to_the_longest_and_start_anew_after_a_good_time() -> None:
    options = RestartOptions(max_restarts=8, first_delay_s=1, max_delay_s=5, window_s=100)
    history, delays = RestartHistory(), []
    for now in range(5):
        restart = next_restart(Ending.FAILED, history, float(now), options)
        assert restart is not None
        history = restart.history
        delays.append(restart.delay_s)
    assert delays == [1, 2, 4, 5, 5]
    later = next_restart(Ending.FAILED, history, 200.0, options)
    assert later is not None
    assert later.delay_s == 1


def test_a_stream_that_ends_often_is_restarted_for_ever() -> None:
    options = RestartOptions(policy=RestartPolicy.ALWAYS, max_restarts=2)
    history = RestartHistory()
    for now in range(2000):
        restart = next_restart(Ending.FINISHED, history, float(now), options)
        assert restart is not None
        history = restart.history
