"""Stages as Ray actors: what `pipeline.runtime.driver.remote` asks of a process, with Ray's calls."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from pipeline.core.records import Cut, EffortStep, Gap, ResumePoint
from pipeline.runtime.driver.messages import Work
from pipeline.runtime.driver.remote import Call, Ref
from pipeline.runtime.plan import StreamPlan
from pipeline.settings.config import RunConfig

# Calls of this group are answered while the stage is at work.
_CONTROL = "control"


class RayProcess:
    """An actor. Ray never restarts one: the driver does, since a stage alone does not know where its streams go on."""

    def __init__(self, cls: type, **options: Any) -> None:
        given = {"num_cpus": 0, "max_restarts": 0, "max_task_retries": 0, **options}
        # Ray's own types know no concurrency groups.
        remote: Any = ray.remote
        self._actor: Any = remote(concurrency_groups={_CONTROL: 2}, **given)(cls).remote()
        self._life = self._actor.life.options(concurrency_group=_CONTROL).remote()

    @property
    def life(self) -> Call:
        return self._life

    def memory(self) -> Call:
        return self._actor.memory.options(concurrency_group=_CONTROL).remote()

    def kill(self) -> None:
        with contextlib.suppress(RayError):
            ray.kill(self._actor, no_restart=True)


class RaySource(RayProcess):
    def __init__(self, cls: type, **options: Any) -> None:
        super().__init__(cls, **options)
        self._actor.prepare.remote()

    def open(self, plan: StreamPlan, resume: ResumePoint) -> Call:
        return self._actor.open.remote(plan, resume)

    def step(self, wait_s: float, interval_factor: float) -> tuple[Call, Ref]:
        report, frame = self._actor.step.options(num_returns=2).remote(wait_s, interval_factor)
        return report, frame


class RayPerception(RayProcess):
    def load(self, config: RunConfig) -> Call:
        return self._actor.load.remote(config)

    def open_stream(self, plan: StreamPlan, attempt: int, next_track: int) -> Call:
        return self._actor.open_stream.remote(plan.stream, plan.config, attempt, next_track)

    def analyse(self, works: Sequence[Work], frames: Sequence[Ref]) -> tuple[Call, Sequence[tuple[Ref, Ref]]]:
        analyse = self._actor.analyse.options(num_returns=1 + 2 * len(works))
        reports, *results = analyse.remote(tuple(works), *frames)
        return reports, list(zip(results[::2], results[1::2], strict=True))

    def finish(self, stream: str, attempt: int) -> Ref:
        return self._actor.finish.remote(stream, attempt)

    def forget(self, stream: str, attempt: int) -> None:
        self._actor.forget.remote(stream, attempt)


class RayCaptioner(RayProcess):
    def load(self, config: RunConfig) -> Call:
        return self._actor.load.remote(config)

    def caption(self, requests: Ref) -> tuple[Call, Ref]:
        captions = self._actor.caption.remote(requests)
        return captions, captions


class RayRecorder(RayProcess):
    def open(self, store: Path | str) -> Call:
        return self._actor.open.remote(store)

    def open_stream(self, plan: StreamPlan, attempt: int) -> Call:
        return self._actor.open_stream.remote(plan, attempt)

    def record(
        self,
        stream: str,
        attempt: int,
        number: int,
        gaps: tuple[Gap | EffortStep | Cut, ...],
        analysed: Ref,
        captions: Ref,
    ) -> Call:
        return self._actor.record.remote(stream, attempt, number, gaps, analysed, captions)

    def commit(self, stream: str, attempt: int) -> Call:
        return self._actor.commit.remote(stream, attempt)

    def finish(
        self, stream: str, attempt: int, records: int, ended: Ref, reached: ResumePoint | None
    ) -> Call:
        return self._actor.finish.remote(stream, attempt, records, ended, reached)

    def close_stream(self, stream: str, attempt: int) -> Call:
        return self._actor.close_stream.remote(stream, attempt)
