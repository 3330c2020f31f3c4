"""Keeps the stages that all streams share alive: perception, captioning, the recorder."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from pipeline.core.errors import StageFailed, UserError
from pipeline.core.restarts import Ending, RestartHistory, next_restart
from pipeline.runtime.on_ray.calls import Calls
from pipeline.runtime.on_ray.messages import plain
from pipeline.runtime.on_ray.stages import Stage, StageFactory, StageKind
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
        factory: StageFactory,
        calls: Calls,
        observer: RunObserver,
        on_death: Callable[[Stage], None],
    ) -> None:
        self._plan = plan
        self._factory = factory
        self._calls = calls
        self._observer = observer
        self._on_death = on_death
        self._due: list[tuple[float, StageKind]] = []
        self._histories = {kind: RestartHistory() for kind in StageKind}
        self.perceptions: list[Stage] = []
        self.captioners: list[Stage] = []
        self.recorder: Stage | None = None

    def start(self) -> None:
        runtime = self._plan.config.runtime
        self._spawn(StageKind.RECORDER)
        for _ in range(runtime.perception_actors):
            self._spawn(StageKind.PERCEPTION)
        for _ in range(runtime.captioning_actors):
            self._spawn(StageKind.CAPTIONER)

    @property
    def stages(self) -> list[Stage]:
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

    def watch(self, stage: Stage) -> None:
        """Hear of the death of `stage`."""

        def failed(error: Exception) -> None:
            self.died(stage, str(plain(error)))

        self._calls.add(stage.life, lambda _: None, failed, math.inf)

    def unwatch(self, stage: Stage) -> None:
        self._calls.forget(stage.life)

    def died(self, stage: Stage, reason: str) -> None:
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
            history, now = self._histories[stage.kind], time.monotonic()
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

    def failed(self, stage: Stage, reason: str) -> None:
        """A call of a stage raised, though its process lives: replaced when that happens again and again."""
        if not stage.dead and stage.trust.failed():
            self.died(stage, f"failed {stage.trust.faults} times in a row: {reason}")

    def holds(self, stage: Stage, resident_bytes: int) -> None:
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

    def _remove(self, stage: Stage) -> None:
        if stage is self.recorder:
            self.recorder = None
        for group in (self.perceptions, self.captioners):
            if stage in group:
                group.remove(stage)

    def _spawn(self, kind: StageKind) -> None:
        if kind is StageKind.RECORDER:
            stage = self.recorder = self._factory.recorder()
            loading = stage.handle.open.remote(self._plan.store)
        elif kind is StageKind.PERCEPTION:
            stage = self._factory.perception()
            self.perceptions.append(stage)
            loading = stage.handle.load.remote(self._plan.config)
        else:
            stage = self._factory.captioner()
            self.captioners.append(stage)
            loading = stage.handle.load.remote(self._plan.config)
        self.watch(stage)
        deadline = self._plan.config.runtime.start_deadline_s
        self._calls.add(loading, partial(self._loaded, stage), partial(self._not_loaded, stage), deadline)

    def _loaded(self, stage: Stage, _: Any) -> None:
        stage.ready = True

    def _not_loaded(self, stage: Stage, error: Exception) -> None:
        if stage.dead:
            return
        deadline = self._plan.config.runtime.start_deadline_s
        others = [other for other in self.stages if other.kind is stage.kind and other.ready]
        if isinstance(error, TimeoutError) and others:
            # A cluster that has lost a node may have no room for it; the others carry on meanwhile.
            log.warning("no %s stage could be added within %.0f s; trying again", stage.kind, deadline)
            self.unwatch(stage)
            stage.end()
            self._remove(stage)
            self._due.append((time.monotonic() + deadline, stage.kind))
            return
        if isinstance(error, TimeoutError):
            raise StageFailed(
                f"the {stage.kind} stage did not start within {deadline:.0f} s: the machine is overloaded, or no "
                "node of the cluster has what it needs (runtime.*_cpus, runtime.*_gpus)"
            )
        cause = plain(error)
        if isinstance(cause, UserError):
            raise cause
        self.died(stage, str(cause))
