"""Load is shed in order, one step at a time, without swinging, and given back."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from pipeline.keyframes.shedding import EFFORTS, MAX_PATIENCE, LoadState, SheddingOptions, next_load

options_ = st.builds(
    SheddingOptions,
    staleness_s=st.floats(0.5, 20),
    shed_share=st.floats(0.1, 1),
    calm_share=st.floats(0, 0.9),
    hold_s=st.floats(0, 10),
    calm_s=st.floats(0, 30),
)


def test_steps_degrade_in_the_order_of_the_design() -> None:
    """No windows, fewer prompts for new regions, fewer keyframes, dropped frames; nothing ever gets better on the way."""
    full, *less = EFFORTS
    assert (full.view_share, full.probe_share, full.interval_factor, full.drop_stale) == (1, 1, 1, False)
    kinds = [(e.drop_stale, e.interval_factor > 1, e.probe_share < 1, e.view_share < 1) for e in EFFORTS]
    assert kinds == sorted(kinds)
    for before, after in zip(EFFORTS, less, strict=False):
        assert after.view_share <= before.view_share
        assert after.probe_share <= before.probe_share
        assert after.interval_factor >= before.interval_factor
        assert (after.view_share, after.probe_share, after.interval_factor, after.drop_stale) != (
            before.view_share,
            before.probe_share,
            before.interval_factor,
            before.drop_stale,
        )
    assert len({effort.name for effort in EFFORTS}) == len(EFFORTS)


@given(options=options_, samples=st.lists(st.tuples(st.floats(0, 5), st.floats(0, 60)), max_size=200))
def test_every_change_is_one_step_and_earned(
    options: SheddingOptions, samples: list[tuple[float, float]]
) -> None:
    now, state = 0.0, LoadState()
    history: list[tuple[float, float]] = []
    changed = float("-inf")
    for pause, staleness in samples:
        now += pause
        history.append((now, staleness))
        before, state = state, next_load(state, staleness, now, options)
        assert abs(state.step - before.step) <= 1
        assert 0 <= state.step < len(EFFORTS)
        if state.step > before.step:
            assert staleness > options.tolerated_s
            assert now - changed >= options.hold_s
        if state.step < before.step:
            assert now - changed >= options.calm_s
            calm = [staleness, *(s for t, s in history if t > now - options.calm_s)]
            assert all(s < options.calm_below_s for s in calm)
        if state.step != before.step:
            changed = now


@given(options=options_, start=st.integers(0, len(EFFORTS) - 1))
def test_lasting_overload_sheds_everything_and_lasting_calm_gives_everything_back(
    options: SheddingOptions, start: int
) -> None:
    if options.calm_below_s == 0:
        return
    state, now = LoadState(start), 0.0
    for _ in range(len(EFFORTS)):
        now += options.hold_s + 0.1
        state = next_load(state, options.tolerated_s * 1.01, now, options)
    assert state.step == len(EFFORTS) - 1
    for _ in range(2 * len(EFFORTS)):
        now += options.calm_s + 0.1
        state = next_load(state, 0.0, now, options)
    assert state.step == 0


@given(
    options=options_,
    start=st.integers(0, len(EFFORTS) - 1),
    shares=st.lists(st.floats(0, 1), min_size=1, max_size=50),
)
def test_between_calm_and_what_is_tolerated_nothing_changes(
    options: SheddingOptions, start: int, shares: list[float]
) -> None:
    state, now = LoadState(start, changed_s=0.0), 0.0
    for share in shares:
        now += 5.0
        low, high = options.calm_below_s, options.tolerated_s
        state = next_load(state, min(low + share * (high - low), high), now, options)
        assert state.step == start


def test_a_machine_that_bears_one_step_but_not_the_one_before_swings_less_and_less() -> None:
    """At step 3 all is calm, at step 2 it is not: the pauses between attempts grow, but attempts never end."""
    options = SheddingOptions()
    state, relaxed, budget = LoadState(), [], options.staleness_s
    for tenth in range(30_000):
        before, now = state, tenth / 10
        state = next_load(state, 0.0 if state.step >= 3 else 2 * budget, now, options)
        if state.step < before.step:
            relaxed.append(now)
    pauses = [b - a for a, b in pairwise(relaxed)]
    assert max(pauses[:1]) < max(pauses)
    assert max(pauses) <= MAX_PATIENCE * options.calm_s + 10
    assert len(relaxed) < 3000 / (4 * options.calm_s)
    assert 3000 - relaxed[-1] <= MAX_PATIENCE * options.calm_s + 10


def test_shedding_can_be_turned_off() -> None:
    state = next_load(LoadState(3), 1e9, 0.0, SheddingOptions(enabled=False))
    assert state.step == 0
