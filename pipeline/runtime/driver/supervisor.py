"""Keeps the stages that all streams share alive: perception, captioning, the recorder."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from functools import partial
from typing import Any

from pipeline.core.errors import StageFailed, UserError
from pipeline.core.restarts import Ending, RestartHistory, next_restart
from pipeline.runtime.driver.calls import Calls
from pipeline.runtime.driver.remote import (
    CaptionerProcess,
    Clock,
    Cluster,
    Fault,
    FaultKind,
    PerceptionProcess,
    Process,
    RecorderProcess,
    StageKind,
)
from pipeline.runtime.driver.stage import Stage
from pipeline.runtime.plan import RunPlan
from pipeline.runtime.progress import RunObserver

log = logging.getLogger(__name__)


class Supervisor:
    """Starts the shared stages, notices the death of any stage at once, and starts shared ones again.

    `on_death` hears of each stage that died, sources included. The run's own `restarts` bound how often.
    """

    def __init__(
        self,
        plan: RunPlan,
        cluster: Cluster,
        clock: Clock,
        calls: Calls,
        observer: RunObserver,
        on_death: Callable[[Stage[Process]], None],
    ) -> None:
        self._plan = plan
        self._cluster = cluster
        self._clock = clock
        self._calls = calls
        self._observer = observer
        self._on_death = on_death
        self._due: list[tuple[float, StageKind]] = []
        self._started = 0
        self._histories = {kind: RestartHistory() for kind in StageKind}
        self.perceptions: list[Stage[PerceptionProcess]] = []
        self.captioners: list[Stage[CaptionerProcess]] = []
        self.recorder: Stage[RecorderProcess] | None = None

    def start(self) -> None:
        runtime = self._plan.config.runtime
        self._spawn(StageKind.RECORDER)
        for _ in range(runtime.perception_actors):
            self._spawn(StageKind.PERCEPTION)
        for _ in range(runtime.captioning_actors):
            self._spawn(StageKind.CAPTIONER)

    @property
    def stages(self) -> list[Stage[Process]]:
        """Shared stages that run now."""
        recorder = [self.recorder] if self.recorder is not None else []
        return [*self.perceptions, *self.captioners, *recorder]

    @property
    def serving(self) -> bool:
        """Whether at least one stage of each kind is ready."""
        return {stage.kind for stage in self.stages if stage.ready} == set(StageKind) - {StageKind.SOURCE}

    def respawn(self, now_s: float) -> None:
        """Start the stages whose pause is over."""
        due = [kind for moment, kind in self._due if moment <= now_s]
        self._due = [(moment, kind) for moment, kind in self._due if moment > now_s]
        for kind in due:
            self._spawn(kind)

    def watch(self, stage: Stage[Process]) -> None:
        """Hear of the death of `stage`."""

        def failed(fault: Fault) -> None:
            self.died(stage, str(fault.error))

        self._calls.add(stage.process.life, lambda _: None, failed, math.inf)

    def unwatch(self, stage: Stage[Process]) -> None:
        self._calls.forget(stage.process.life)

    def died(self, stage: Stage[Process], reason: str) -> None:
        """`stage` is dead or stuck: end it, tell, and start it again if it is a shared one.

        Raises `StageFailed` when the policy does not allow that.
        """
        if stage.dead:
            return
        self.unwatch(stage)
        stage.end()
        self._observer.memory(stage.title, 0)
        log.warning("the %s stage %s %s", stage.kind, stage.name, reason)
        if stage.kind is not StageKind.SOURCE:
            self._remove(stage)
            history, now = self._histories[stage.kind], self._clock.steady_s()
            again = next_restart(Ending.FAILED, history, now, self._plan.config.restarts)
            if again is None:
                raise StageFailed(
                    f"the {stage.kind} stage {reason} ({len(history.granted_s)} restarts); "
                    "run the same command to go on"
                )
            self._histories[stage.kind] = again.history
            self._due.append((now + again.delay_s, stage.kind))
        shared = stage.kind is not StageKind.SOURCE
        self._observer.restarted(stage.kind, "" if shared else stage.name)
        self._on_death(stage)

    def failed(self, stage: Stage[Process], reason: str) -> None:
        """A call of a stage raised, though its process lives: replaced when that happens again and again."""
        if not stage.dead and stage.trust.failed():
            self.died(stage, f"failed {stage.trust.faults} times in a row: {reason}")

    def holds(self, stage: Stage[Process], resident_bytes: int) -> None:
        """A stage has told its resident memory: replaced when it has outgrown its bound."""
        if stage.dead:
            return
        self._observer.memory(stage.title, resident_bytes)
        limit_mb = self._plan.config.runtime.max_growth_mb
        # A shared stage loads its model first, which is no growth; a source has none.
        at_work = stage.ready or stage.kind is StageKind.SOURCE
        if at_work and stage.growth.exceeds(resident_bytes, limit_mb):
            self.died(
                stage,
                f"has come to hold {resident_bytes >> 20} MiB, over {limit_mb} MiB more than when it began "
                "(runtime.max_growth_mb): replaced",
            )

    def end(self) -> None:
        """End every shared stage."""
        for stage in self.stages:
            self.unwatch(stage)
            stage.end()

    def lost(self) -> None:
        """The whole cluster has died: nothing of it is left, and nothing is to be started until `start`."""
        for stage in self.stages:
            stage.end()
            self._observer.memory(stage.title, 0)
        self._due = []
        self.perceptions, self.captioners, self.recorder = [], [], None

    def _remove(self, stage: Stage[Process]) -> None:
        if stage is self.recorder:
            self.recorder = None
        self.perceptions = [other for other in self.perceptions if other is not stage]
        self.captioners = [other for other in self.captioners if other is not stage]

    def _spawn(self, kind: StageKind) -> None:
        self._started += 1
        name = f"{kind}-{self._started}"
        stage: Stage[Process]
        if kind is StageKind.RECORDER:
            recorder = self._cluster.recorder()
            stage = self.recorder = Stage(kind, name, recorder)
            loading = recorder.open(self._plan.store)
        elif kind is StageKind.PERCEPTION:
            perception = self._cluster.perception()
            self.perceptions.append(eyes := Stage(kind, name, perception))
            stage, loading = eyes, perception.load(self._plan.config)
        else:
            captioner = self._cluster.captioner()
            self.captioners.append(words := Stage(kind, name, captioner))
            stage, loading = words, captioner.load(self._plan.config)
        self.watch(stage)
        deadline = self._plan.config.runtime.start_deadline_s
        self._calls.add(loading, partial(self._loaded, stage), partial(self._not_loaded, stage), deadline)

    def _loaded(self, stage: Stage[Process], _: Any) -> None:
        if not stage.dead:
            stage.loaded()

    def _not_loaded(self, stage: Stage[Process], fault: Fault) -> None:
        if stage.dead:
            return
        deadline = self._plan.config.runtime.start_deadline_s
        others = [other for other in self.stages if other.kind is stage.kind and other.ready]
        if fault.kind is FaultKind.LATE and others:
            # A cluster that has lost a node may have no room for it; the others carry on meanwhile.
            log.warning("no %s stage could be added within %.0f s; trying again", stage.kind, deadline)
            self.unwatch(stage)
            stage.end()
            self._remove(stage)
            self._due.append((self._clock.steady_s() + deadline, stage.kind))
            return
        if fault.kind is FaultKind.LATE:
            raise StageFailed(
                f"the {stage.kind} stage did not start within {deadline:.0f} s: the machine is overloaded, or no "
                "node of the cluster has what it needs (runtime.*_cpus, runtime.*_gpus)"
            )
        if isinstance(fault.error, UserError):
            raise fault.error
        self.died(stage, str(fault.error))
