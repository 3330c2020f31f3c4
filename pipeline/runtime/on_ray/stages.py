"""Stages as Ray actors: started where their needs are met, watched, and ended."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.runtime.on_ray import actors as ray_actors
from pipeline.runtime.plan import RunPlan, StreamPlan
from pipeline.sources import SourceKind

# When a stage that lives but fails call after call is replaced, such as one whose GPU context is broken.

FAULTS_IN_A_ROW = 3
"""One may be a bad picture's doing, and two the same picture's once more behind the last commit."""


class StageTrust:
    """Counts what failed since the last call of a stage that went well."""

    def __init__(self) -> None:
        self.faults = 0

    def went_well(self) -> None:
        self.faults = 0

    def failed(self) -> bool:
        """Note a failed call. True when the stage is to be replaced."""
        self.faults += 1
        return self.faults >= FAULTS_IN_A_ROW


# When a stage that grows and grows is replaced, so that weeks do not end in the kernel killing something.

_MIB = 1 << 20


class StageGrowth:
    """Compares what a stage's process holds with what it held when it began to work."""

    def __init__(self) -> None:
        self._first: int | None = None

    def exceeds(self, resident_bytes: int, limit_mb: int) -> bool:
        """Note a size. True when the process has grown by more than `limit_mb` MiB (0: never) and is to be replaced."""
        if self._first is None:
            self._first = resident_bytes
        return limit_mb > 0 and resident_bytes - self._first > limit_mb * _MIB


_CAPTION_CALLS = 16
_SPREAD = "SPREAD"
# Calls of this group are answered while the stage is at work.
_CONTROL = "control"


class StageKind(StrEnum):
    """The stages that are processes of their own."""

    SOURCE = "source"
    PERCEPTION = "perception"
    CAPTIONER = "captioner"
    RECORDER = "recorder"


@dataclass(slots=True, eq=False)
class Stage:
    """A running actor. `life`: pending as long as it lives. `ready`: its model is loaded. `calls`: in flight."""

    kind: StageKind
    name: str
    handle: Any
    life: Any
    ready: bool = False
    dead: bool = False
    calls: int = 0
    trust: StageTrust = field(default_factory=StageTrust)
    growth: StageGrowth = field(default_factory=StageGrowth)

    @property
    def title(self) -> str:
        """Its name among those of all stages, which says of what kind it is."""
        return self.name if self.kind in self.name else f"{self.kind}-{self.name}"

    def memory(self) -> Any:
        """The call that asks for its resident bytes."""
        return self.handle.memory.options(concurrency_group=_CONTROL).remote()

    def end(self) -> None:
        """Kill the process, whatever it does."""
        self.dead = True
        with contextlib.suppress(RayError):
            ray.kill(self.handle, no_restart=True)


class StageFactory:
    """Starts stages with the needs that the plan declares.

    The recorder, files and webcams stay on this node, where the store and they are; everything else is spread.
    """

    def __init__(self, plan: RunPlan, has_gpu: bool) -> None:
        self._plan = plan
        self._uses_gpu = has_gpu and plan.config.runtime.device != "cpu"
        here = ray.get_runtime_context().get_node_id()
        self._here = NodeAffinitySchedulingStrategy(here, soft=False)
        self._started = 0

    def source(self, stream: StreamPlan) -> Stage:
        network = stream.source.kind is SourceKind.LIVE
        where = "DEFAULT" if network else self._here
        return self._stage(StageKind.SOURCE, ray_actors.SourceActor, stream.stream, scheduling_strategy=where)

    def perception(self) -> Stage:
        needs = self._plan.config.runtime
        return self._stage(
            StageKind.PERCEPTION,
            ray_actors.PerceptionActor,
            num_cpus=needs.perception_cpus,
            num_gpus=needs.perception_gpus if self._uses_gpu else 0,
            scheduling_strategy=_SPREAD,
        )

    def captioner(self) -> Stage:
        needs = self._plan.config.runtime
        return self._stage(
            StageKind.CAPTIONER,
            ray_actors.CaptionerActor,
            num_cpus=needs.captioning_cpus,
            num_gpus=needs.captioning_gpus if self._uses_gpu else 0,
            max_concurrency=_CAPTION_CALLS,
            scheduling_strategy=_SPREAD,
        )

    def recorder(self) -> Stage:
        return self._stage(StageKind.RECORDER, ray_actors.RecorderActor, scheduling_strategy=self._here)

    def _stage(self, kind: StageKind, cls: type, name: str = "", **options: Any) -> Stage:
        # Ray never restarts a stage: the driver does, since a stage alone does not know where its streams go on.
        given = {"num_cpus": 0, "max_restarts": 0, "max_task_retries": 0, **options}
        # Ray's own types know no concurrency groups.
        remote: Any = ray.remote
        handle = remote(concurrency_groups={_CONTROL: 2}, **given)(cls).remote()
        self._started += 1
        life = handle.life.options(concurrency_group=_CONTROL).remote()
        return Stage(kind, name or f"{kind}-{self._started}", handle, life)
