"""The driver under thousands of orders of completions, deaths, faults and stops: nothing lost, doubled or out of order.

Nothing here starts a process or waits: see `simulated_cluster.py`. `SCA_SIMULATED_RUNS` says how many runs.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pipeline.core.errors import StageFailed
from pipeline.core.records import Gap, ResumePoint
from pipeline.core.restarts import RestartPolicy
from pipeline.runtime.driver.lane import Lane
from pipeline.runtime.driver.lifecycle import Lifecycle
from pipeline.runtime.driver.remote import StageKind
from tests.duration import by_day
from tests.runtime.simulated_cluster import Film, Script, SimulatedStore
from tests.runtime.simulated_run import Outcome, Setting, new_stores, simulate

RUNS = int(os.environ.get("SCA_SIMULATED_RUNS", by_day(300, otherwise=5000)))
POLICIES = (None, "keep-latest", "drop-oldest")


def in_a_gap(film: Film, frame: int, gaps: list[Gap]) -> bool:
    wall = film.wall_ns(frame)
    return any(gap.start_ns <= wall <= gap.end_ns for gap in gaps)


def check_store(setting: Setting, film: Film, store: SimulatedStore) -> None:
    """What holds of a store after any run, however it ended."""
    assert store.frames == sorted(set(store.frames)), "doubled, or out of order"
    reached = min(store.resume.frame, film.length - 1) if not film.live else store.resume.frame
    begin = 0 if not film.live else (store.frames[0] if store.frames else reached + 1)
    missing = set(range(begin, reached + 1)) - set(store.frames)
    untold = [frame for frame in missing if not in_a_gap(film, frame, store.gaps)]
    assert not untold, "lost, and no gap tells of it"
    assert all(frame <= reached for frame in store.frames), "recorded behind the point to resume from"
    for frame, text in store.texts.items():
        assert text == f"what is in {frame}", "a caption of another keyframe"
    if not film.live:
        for frame in film.gaps:
            told = store.gaps.count(film.gap_behind(frame))
            if frame < reached:
                assert told >= 1, "a gap of the source is lost"
        if setting.drops is None:
            assert not missing, "a file that may wait was not read whole"


def check_bounds(setting: Setting, script: Script, outcome: Outcome) -> None:
    """Restarts stay within the policy, and nothing is given up that the policy would restart."""
    cluster, watch = outcome.cluster, outcome.watch
    assert not cluster.broken
    assert not cluster.alive, "processes are left"
    granted = 0 if setting.policy is RestartPolicy.NEVER else setting.max_restarts
    assert cluster.renewals == watch.restarts["ray", ""] <= granted
    first = {StageKind.PERCEPTION: setting.perceptions, StageKind.CAPTIONER: setting.captioners}
    for kind in (StageKind.PERCEPTION, StageKind.CAPTIONER, StageKind.RECORDER):
        assert cluster.started[kind] <= first.get(kind, 1) * (1 + cluster.renewals) + granted
        assert watch.restarts[kind, ""] <= granted
    for name, film in zip(cluster.stores, setting.films, strict=True):
        if not film.live:
            assert watch.restarts["stream", name] <= granted
            assert watch.queryable_times[name] <= len(cluster.stores[name].frames)
    if outcome.error is None:
        assert not any(watch.up.values()), "a stream is told to be watched after the end"
    never = setting.policy is RestartPolicy.NEVER
    enough = script.disturbances == 0 if never else 2 * script.disturbances < setting.max_restarts
    if enough and not outcome.stopped:
        assert outcome.error is None, f"given up for nothing: {outcome.error}"


def check(setting: Setting, script: Script) -> Outcome:
    """Run once as the script says, then again without trouble, as its user would; whether all is there."""
    stores = new_stores(setting)
    outcome = simulate(setting, script, stores)
    check_bounds(setting, script, outcome)
    for (name, store), film in zip(stores.items(), setting.films, strict=True):
        check_store(setting, film, store)
        progress = next((one for one in outcome.progress if one.stream == name), None)
        if progress is not None and progress.finished and not film.live:
            assert store.resume.pts_ns == film.end.pts_ns, "finished before its end"
    seen = {name: list(store.frames) for name, store in stores.items()}
    calm = simulate(setting, Script(script.seed, slow=0), stores)
    assert calm.error is None
    for (name, store), film in zip(stores.items(), setting.films, strict=True):
        assert store.frames[: len(seen[name])] == seen[name], "what was committed has changed"
        check_store(setting, film, store)
        if not film.live:
            assert store.resume.pts_ns == film.end.pts_ns
            covered = [f in store.frames or in_a_gap(film, f, store.gaps) for f in range(film.length)]
            assert all(covered)
    return outcome


KINDS = st.sampled_from(list(StageKind))
MOMENTS = st.integers(1, 60)
films = st.builds(
    Film,
    length=st.integers(1, 10),
    live=st.booleans(),
    gaps=st.frozensets(st.integers(0, 9), max_size=3),
    tail=st.integers(0, 2),
    skips=st.booleans(),
)


@st.composite
def runs(draw: st.DrawFn) -> tuple[Setting, Script]:
    drops = draw(st.sampled_from(POLICIES))
    chosen = draw(st.lists(films, min_size=1, max_size=3))
    chosen = [
        replace(
            film,
            skips=film.skips and drops is not None,
            gaps=frozenset(g for g in film.gaps if g < film.length),
        )
        for film in chosen
    ]
    setting = Setting(
        films=tuple(chosen),
        drops=drops,
        policy=draw(st.sampled_from(RestartPolicy)),
        max_restarts=draw(st.sampled_from([1, 2, 16])),
        perceptions=draw(st.integers(1, 2)),
        captioners=draw(st.integers(1, 2)),
        batch=draw(st.sampled_from([1, 8])),
        credits=draw(st.integers(1, 5)),
        commit_rows=draw(st.sampled_from([1, 3, 100])),
        sheds=draw(st.booleans()),
    )
    script = Script(
        seed=draw(st.integers(0, 2**32)),
        kills=tuple(draw(st.lists(st.tuples(MOMENTS, KINDS), max_size=6))),
        raises=tuple(draw(st.lists(st.tuples(st.integers(0, 30), KINDS), max_size=4))),
        hangs=tuple(draw(st.lists(st.tuples(st.integers(0, 20), KINDS), max_size=1))),
        stop=draw(st.none() | MOMENTS),
        slow=draw(st.sampled_from([0.0, 0.02, 0.3])),
        with_objects=draw(st.booleans()),
        bloats=draw(st.booleans()),
        loses_context=draw(st.integers(0, 3)) == 0,
        all_die=tuple(draw(st.lists(MOMENTS, max_size=2))),
    )
    return setting, script


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Thousands of runs would say a lot."""
    log = logging.getLogger("pipeline.runtime")
    before, log.disabled = log.level, False
    log.setLevel(logging.CRITICAL + 1)
    yield
    log.setLevel(before)


# The record that tells of a dropped keyframe is lost on its way, and the end of the film comes right behind it.
LOST_BEFORE_THE_END = (
    Setting(
        films=(
            Film(length=2, live=False, gaps=frozenset(), tail=0, skips=True),
            Film(length=4, live=False, gaps=frozenset(), tail=0, skips=True),
        ),
        drops="keep-latest",
        policy=RestartPolicy.ALWAYS,
        max_restarts=16,
        perceptions=1,
        captioners=2,
        batch=1,
        credits=3,
        commit_rows=1,
        sheds=True,
    ),
    Script(
        seed=2667051764,
        raises=((3, StageKind.PERCEPTION), (17, StageKind.RECORDER)),
        hangs=((13, StageKind.RECORDER),),
        slow=0.3,
        with_objects=False,
        all_die=(5,),
    ),
)


@settings(
    max_examples=RUNS, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(runs())
@example(LOST_BEFORE_THE_END)
def test_whatever_happens_nothing_is_lost_doubled_or_out_of_order_and_every_run_ends(
    run: tuple[Setting, Script],
) -> None:
    check(*run)


def run_with(setting: Setting, script: Script) -> tuple[Outcome, dict[str, SimulatedStore]]:
    return simulate(setting, script, stores := new_stores(setting)), stores


@pytest.mark.parametrize("kind", StageKind)
def test_a_process_of_each_kind_may_die_at_any_moment(kind: StageKind) -> None:
    """Every single moment of a run, for each kind of stage: it comes back once, and all is there."""
    setting = Setting(films=(Film(4), Film(3, gaps=frozenset({1}))))
    for moment in range(1, 40):
        outcome = check(setting, Script(moment, kills=((moment, kind),), with_objects=moment % 2 == 0))
        assert outcome.error is None
        assert all(stream.finished for stream in outcome.progress)
        assert all(stream.restarts <= 1 for stream in outcome.progress)
        assert outcome.watch.restarts[kind, ""] <= 1


def test_the_whole_cluster_may_die_at_any_moment() -> None:
    """Nothing is lost but time: a camera's is a gap, a file's none. It is told while nothing stands."""
    setting = Setting(films=(Film(4), Film(3, gaps=frozenset({1})), Film(live=True)))
    for moment in range(1, 40):
        # Nobody is slow: two pauses of seconds, and the camera's time would be over before a film's.
        outcome = check(setting, Script(moment, all_die=(moment,), with_objects=True, slow=0))
        assert outcome.error is None
        assert outcome.cluster.renewals <= 1
        assert all(stream.finished for stream in outcome.progress if stream.stream != "film2")
        assert all(stream.restarts <= 1 for stream in outcome.progress)
        assert (
            outcome.watch.broken_times
            == ["the cluster has died; a new one is being started", None][: 2 * outcome.cluster.renewals]
        )


def test_a_cluster_that_dies_again_and_again_ends_the_run_with_one_line() -> None:
    outcome, _ = run_with(Setting(films=(Film(60),), max_restarts=2), Script(1, all_die=(5, 10, 15)))
    assert isinstance(outcome.error, StageFailed)
    assert "the cluster has died" in str(outcome.error)
    assert "the same command goes on" in str(outcome.error)
    assert outcome.cluster.renewals == 2


def test_only_the_stream_of_a_dead_source_is_opened_again_and_those_of_a_dead_recorder_all_are() -> None:
    setting = Setting(films=(Film(8), Film(8), Film(8)))
    one, _ = run_with(setting, Script(1, kills=((20, StageKind.SOURCE),)))
    assert sum(stream.restarts for stream in one.progress) == 1
    every, _ = run_with(setting, Script(1, kills=((20, StageKind.RECORDER),)))
    assert [stream.restarts for stream in every.progress] == [1, 1, 1]
    none, _ = run_with(setting, Script(1, kills=((20, StageKind.CAPTIONER),)))
    assert [stream.restarts for stream in none.progress] == [0, 0, 0]
    assert none.watch.restarts[StageKind.CAPTIONER, ""] == 1


def test_the_streams_of_a_dead_perception_stage_move_to_the_other_one() -> None:
    setting = Setting(films=(Film(10), Film(10)), perceptions=2)
    outcome, stores = run_with(setting, Script(3, kills=((30, StageKind.PERCEPTION),), with_objects=True))
    assert sorted(stream.restarts for stream in outcome.progress) == [0, 1]
    assert all(store.frames == list(range(10)) for store in stores.values())


def test_a_stage_that_lives_but_fails_every_call_is_replaced() -> None:
    """Three faults in a row: two may be the doing of one picture."""
    outcome, stores = run_with(Setting(films=(Film(12),)), Script(5, loses_context=True))
    assert outcome.error is None
    assert [stream.restarts for stream in outcome.progress] == [3]
    assert outcome.watch.restarts[StageKind.PERCEPTION, ""] == 1
    assert stores["film0"].frames == list(range(12))


def test_a_stage_that_grows_beyond_its_bound_is_replaced_and_nothing_is_lost() -> None:
    outcome, stores = run_with(Setting(films=(Film(200),)), Script(6, bloats=True))
    assert outcome.watch.restarts[StageKind.PERCEPTION, ""] == 1
    assert [stream.restarts for stream in outcome.progress] == [1]
    assert stores["film0"].frames == list(range(200))
    sizes = [sizes for stage, sizes in outcome.watch.memories.items() if "perception" in stage]
    assert sorted(size[-1] for size in sizes) == [0, 1 << 30]  # the one that was replaced, and its successor


def test_a_stage_that_does_not_answer_is_replaced_when_its_time_is_over() -> None:
    for kind in StageKind:
        outcome, stores = run_with(Setting(films=(Film(8),)), Script(7, hangs=((2, kind),)))
        assert outcome.error is None
        assert stores["film0"].frames == list(range(8))
        assert outcome.watch.restarts[kind, "film0" if kind is StageKind.SOURCE else ""] == 1


def test_without_restarts_a_dead_stage_ends_the_run_with_one_line_that_says_how_to_go_on() -> None:
    setting = Setting(films=(Film(8),), policy=RestartPolicy.NEVER)
    for kind in (StageKind.PERCEPTION, StageKind.CAPTIONER, StageKind.RECORDER):
        script = Script(8, kills=((25, kind),))
        outcome = check(setting, script)
        assert isinstance(outcome.error, StageFailed)
        assert "\n" not in str(outcome.error)
        assert str(outcome.error).endswith("run the same command to go on")


def test_a_stream_that_stays_broken_is_given_up_and_the_others_are_read_to_their_end() -> None:
    setting = Setting(films=(Film(6, breaks_at=4), Film(6)), max_restarts=2)
    outcome, stores = run_with(setting, Script(9))
    assert isinstance(outcome.error, StageFailed)
    assert "film0 failed: ValueError('no such frame') after 2 restarts" in str(outcome.error)
    assert outcome.watch.restarts["stream", "film0"] == 2
    assert [store.frames for store in stores.values()] == [list(range(4)), list(range(6))]
    assert outcome.watch.last["film1"].finished


def test_a_stop_before_the_last_keyframes_were_looked_at_leaves_them_to_the_next_run() -> None:
    for moment in range(3, 30):
        check(Setting(films=(Film(3, tail=1),) * 3, credits=5), Script(moment, stop=moment, slow=0.3))


def test_what_a_recorder_took_in_half_is_never_committed() -> None:
    for seed in range(40):
        outcome = check(
            Setting(films=(Film(6),), commit_rows=100), Script(seed, raises=((5, StageKind.RECORDER),))
        )
        assert [stream.restarts for stream in outcome.progress] == [1]


def test_a_stop_is_heard_while_a_stream_waits_for_a_perception_stage() -> None:
    script = Script(11, kills=((1, StageKind.PERCEPTION),), stop=2, slow=0)
    outcome, _ = run_with(Setting(), script)
    assert outcome.error is None
    assert outcome.cluster.started[StageKind.PERCEPTION] == 1


def test_the_process_of_a_source_comes_up_while_the_recorder_looks_where_its_stream_goes_on() -> None:
    """One comes beside the recorder that never answers that first question, and one beside its successor."""
    outcome, _ = run_with(Setting(), Script(7, hangs=((0, StageKind.RECORDER),)))
    assert outcome.error is None
    assert outcome.cluster.started[StageKind.SOURCE] == 2


def test_few_of_many_streams_are_opened_while_perception_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoders of sixteen cameras would take the processors that the model is loaded with."""
    early: list[bool] = []
    resume = Lifecycle._resume

    def watched(self: Lifecycle, lane: Lane, point: ResumePoint) -> None:
        early.append(not any(one.kind is StageKind.PERCEPTION and one.ready for one in self.shared.stages))
        resume(self, lane, point)

    monkeypatch.setattr(Lifecycle, "_resume", watched)
    for seed in range(10):
        early.clear()
        check(Setting(films=(Film(3),) * 16), Script(seed))
        assert len(early) >= 16
        assert sum(early[:16]) <= max(2, os.cpu_count() or 1)


def test_the_traceback_of_a_stage_goes_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, logger="pipeline.runtime"):
        outcome, _ = run_with(Setting(), Script(10, raises=((3, StageKind.SOURCE), (9, StageKind.RECORDER))))
    assert outcome.error is None
    assert sum("Traceback ..." in record.getMessage() for record in caplog.records) == 2


def test_the_driver_and_its_simulation_need_no_ray() -> None:
    code = "import sys, tests.runtime.simulated_stages, pipeline.runtime.driver.loop; print('ray' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout.strip() == "False"
