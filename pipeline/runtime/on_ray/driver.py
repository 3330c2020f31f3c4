"""A run on Ray: this process only hands references on; pixels and rows travel between the actors."""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Sequence
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.core.errors import StageFailed, UserError
from pipeline.runtime.driver.loop import Driver
from pipeline.runtime.driver.remote import Answered, Call, ClusterDied, Event, Failed, Fault, FaultKind
from pipeline.runtime.on_ray import actors as ray_actors
from pipeline.runtime.on_ray.cluster import RaySession, ray_session
from pipeline.runtime.on_ray.processes import RayCaptioner, RayPerception, RayRecorder, RaySource
from pipeline.runtime.plan import RunPlan, StreamPlan
from pipeline.runtime.progress import RunObserver, StopRequest, StreamProgress
from pipeline.sources import SourceKind, redact_text

_CAPTION_CALLS = 16
_SPREAD = "SPREAD"
# Results are small and ready when they are fetched: this only bounds a broken connection.
_FETCH_S = 30.0
# Until Ray's death is known, which is why a call raises at once.
_DEATH_S = 25.0
# Ray paints the tracebacks that it hands on.
_COLOURS = re.compile(r"\x1b\[[\d;]*m")


class RayCluster:
    """Starts stages with the needs that the plan declares.

    The recorder, files and webcams stay on this node, where the store and they are; everything else is spread.
    """

    def __init__(self, plan: RunPlan, session: RaySession) -> None:
        self._needs = plan.config.runtime
        self._session = session
        self._look_around()

    def _look_around(self) -> None:
        self._uses_gpu = self._needs.device != "cpu" and self._session.has_gpu
        here = ray.get_runtime_context().get_node_id()
        self._here = NodeAffinitySchedulingStrategy(here, soft=False)

    def source(self, plan: StreamPlan) -> RaySource:
        network = plan.source.kind is SourceKind.LIVE
        where = "DEFAULT" if network else self._here
        return RaySource(ray_actors.SourceActor, scheduling_strategy=where)

    def perception(self) -> RayPerception:
        return RayPerception(
            ray_actors.PerceptionActor,
            num_cpus=self._needs.perception_cpus,
            num_gpus=self._needs.perception_gpus if self._uses_gpu else 0,
            scheduling_strategy=_SPREAD,
        )

    def captioner(self) -> RayCaptioner:
        return RayCaptioner(
            ray_actors.CaptionerActor,
            num_cpus=self._needs.captioning_cpus,
            num_gpus=self._needs.captioning_gpus if self._uses_gpu else 0,
            max_concurrency=_CAPTION_CALLS,
            scheduling_strategy=_SPREAD,
        )

    def recorder(self) -> RayRecorder:
        return RayRecorder(ray_actors.RecorderActor, scheduling_strategy=self._here)

    def wait(self, calls: Collection[Call], timeout_s: float) -> Sequence[Event]:
        if (death := self._session.watch.death) is not None:
            raise ClusterDied(death)
        refs: list[Any] = list(calls)
        if not refs:
            time.sleep(timeout_s)
            return []
        ready, _ = ray.wait(refs, num_returns=1, timeout=timeout_s)
        if ready:
            more, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
            ready = list(dict.fromkeys([*ready, *more]))
        return [_outcome(ref) for ref in ready]

    def death_behind(self, error: Exception) -> ClusterDied | None:
        if isinstance(error, ClusterDied):
            return error
        if not isinstance(error, RayError):
            return None
        death = self._session.watch.died_within(_DEATH_S)
        return None if death is None else ClusterDied(death)

    @property
    def renewable(self) -> bool:
        return self._session.renewable

    def renew(self) -> None:
        self._session.renew()
        self._look_around()


def _outcome(ref: Any) -> Event:
    try:
        return Answered(ref, ray.get(ref, timeout=_FETCH_S))
    except Exception as error:
        return Failed(ref, fault_of(error))


def fault_of(error: Exception) -> Fault:
    """What a remote call raised, without Ray's wrapping and without credentials.

    The error is a `UserError` where the input is at fault, else `StageFailed` with what happened in words.
    """
    kind = FaultKind.DIED if isinstance(error, RayActorError) else FaultKind.LOST
    if isinstance(error, RayTaskError):
        cause = error.cause
        if isinstance(cause, RayTaskError):  # what it was given was never made
            return Fault(FaultKind.LOST, fault_of(cause).error)
        if isinstance(cause, UserError):
            return Fault(FaultKind.RAISED, UserError(redact_text(str(cause))))
        if not isinstance(cause, RayError):
            # A call that came too late is refused on purpose.
            trace = (
                "" if isinstance(cause, ray_actors.StaleCall) else redact_text(_COLOURS.sub("", str(error)))
            )
            text = f"failed: {type(cause).__name__}: {redact_text(str(cause))}"
            return Fault(FaultKind.RAISED, StageFailed(text), trace)
        error = cause
    if isinstance(error, UserError):
        return Fault(kind, UserError(redact_text(str(error))))
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return Fault(kind, StageFailed(f"stopped unexpectedly ({redact_text(reason)})"))


class SystemClock:
    """The clocks of this machine."""

    def steady_s(self) -> float:
        return time.monotonic()

    def wall_ns(self) -> int:
        return time.time_ns()


def run_on_ray(plan: RunPlan, observer: RunObserver, stop: StopRequest) -> list[StreamProgress]:
    """Run all streams of `plan` at once on Ray; returns where each stands.

    Stages and streams that die are started again as far as the restart policies go. Raises `UserError` when an input
    or the store is at fault, `StageFailed` when a stage or a stream stays down, or Ray itself has died.
    """
    with ray_session(plan.config.runtime) as session:
        try:
            return Driver(plan, observer, stop, RayCluster(plan, session), SystemClock()).run()
        except RayError as error:
            raise StageFailed(f"Ray {fault_of(error).error}; run the same command to go on") from None
