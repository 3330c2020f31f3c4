"""A simulated run from its settings to its end, and what was told of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.core.errors import StageFailed, UserError
from pipeline.core.frame import ClockSource
from pipeline.core.restarts import RestartOptions, RestartPolicy
from pipeline.keyframes.buffer import FlowOptions
from pipeline.keyframes.shedding import SheddingOptions
from pipeline.recording.recorder import RecordingOptions
from pipeline.runtime.driver.loop import Driver
from pipeline.runtime.plan import RunPlan, StreamPlan
from pipeline.runtime.progress import RunObserver, StopRequest, StreamProgress
from pipeline.settings.config import RunConfig, RuntimeOptions
from pipeline.sources import SourceInfo, SourceKind
from pipeline.store import StreamInfo
from tests.runtime.simulated_cluster import START_NS, Film, Script, SimulatedClock, SimulatedStore
from tests.runtime.simulated_stages import SimulatedCluster

MOST_ROUNDS = 40_000
LIVE_S = 12.0


@dataclass(frozen=True)
class Setting:
    """How a run is set up."""

    films: tuple[Film, ...] = (Film(),)
    drops: str | None = None
    policy: RestartPolicy = RestartPolicy.ON_ERROR
    max_restarts: int = 8
    perceptions: int = 1
    captioners: int = 1
    batch: int = 8
    credits: int = 4
    commit_rows: int = 2
    sheds: bool = False

    def config(self) -> RunConfig:
        shedding = SheddingOptions(staleness_s=0.5, hold_s=0.05, calm_s=5, enabled=self.sheds)
        return RunConfig(
            flow=FlowOptions(policy=self.drops, shedding=shedding),
            recording=RecordingOptions(commit_s=1.0, commit_rows=self.commit_rows),
            restarts=RestartOptions(
                policy=self.policy,
                max_restarts=self.max_restarts,
                first_delay_s=0.2,
                max_delay_s=2,
                window_s=1e6,
            ),
            runtime=RuntimeOptions(
                perception_actors=self.perceptions,
                captioning_actors=self.captioners,
                encode_batch=self.batch,
                credits=self.credits,
                start_deadline_s=60,
                stall_deadline_s=20,
            ),
        )

    def plan(self, stores: dict[str, SimulatedStore]) -> RunPlan:
        config = self.config()
        streams = []
        for name, film in zip(stores, self.films, strict=True):
            kind = SourceKind.LIVE if film.live else SourceKind.FILE
            clock = ClockSource.ARRIVAL if film.live else ClockSource.FILE
            source = SourceInfo(name, name, kind, 8, 8, START_NS, name)
            info = StreamInfo(name, clock, START_NS, 8, 8)
            streams.append(StreamPlan(name, config, None, source, info, stores[name].resume))
        return RunPlan(Path("simulated.zarr"), tuple(streams), config)


class Watch(RunObserver):
    """What is told of a run."""

    def __init__(self) -> None:
        self.restarts: Counter[tuple[str, str]] = Counter()
        self.queryable_times: Counter[str] = Counter()
        self.up: dict[str, bool] = {}
        self.last: dict[str, StreamProgress] = {}
        self.memories: dict[str, list[int]] = {}
        self.broken_times: list[str | None] = []

    def broken(self, why: str | None) -> None:
        assert why is None or not any(self.up.values()), "told to be up on a cluster that is dead"
        self.broken_times.append(why)

    def memory(self, stage: str, resident_bytes: int) -> None:
        self.memories.setdefault(stage, []).append(resident_bytes)

    def restarted(self, what: str, stream: str) -> None:
        self.restarts[what, stream] += 1

    def queryable(self, stream: str, latency_s: float) -> None:
        assert latency_s >= 0
        self.queryable_times[stream] += 1

    def running(self, streams: dict[str, bool]) -> None:  # type: ignore[override]
        self.up |= streams

    def progress(self, now: StreamProgress) -> None:
        before = self.last.get(now.stream, now)
        assert now.restarts >= before.restarts
        assert now.keyframes >= before.keyframes
        assert now.position_ns >= before.position_ns
        self.last[now.stream] = now


@dataclass
class Outcome:
    """How a simulated run ended."""

    cluster: SimulatedCluster
    watch: Watch
    stopped: bool
    error: Exception | None = None
    progress: list[StreamProgress] = field(default_factory=list)


def simulate(setting: Setting, script: Script, stores: dict[str, SimulatedStore]) -> Outcome:
    """One run to its end, on top of what `stores` hold."""
    clock, stop, watch = SimulatedClock(), StopRequest(), Watch()
    films = dict(zip(stores, setting.films, strict=True))
    cluster = SimulatedCluster(script, films, stores, clock, stop.set)
    any_live = any(film.live for film in setting.films)
    outcome = Outcome(cluster, watch, False)

    def alive() -> None:
        if any_live and clock.now_s > LIVE_S:
            stop.set()
        if cluster.rounds > MOST_ROUNDS or clock.now_s > 100_000:
            raise AssertionError(f"does not end: {cluster.rounds} rounds, {clock.now_s} s")

    watch.alive = alive  # type: ignore[method-assign]
    try:
        outcome.progress = Driver(setting.plan(stores), watch, stop, cluster, clock).run()
    except (StageFailed, UserError) as error:
        outcome.error = error
    outcome.stopped = stop.is_set
    return outcome


def new_stores(setting: Setting) -> dict[str, SimulatedStore]:
    return {f"film{number}": SimulatedStore() for number in range(len(setting.films))}
