"""The loop that keeps a run on Ray going.

This process never touches pixels: it hands references on. It knows where each keyframe is, so a stage that dies costs
no more than the keyframes that are not committed yet.
"""

from __future__ import annotations

import logging
import time
from functools import partial

from ray.exceptions import RayError

from pipeline.core.errors import StageFailed, UserError
from pipeline.runtime.on_ray.calls import Calls
from pipeline.runtime.on_ray.cluster import ray_session
from pipeline.runtime.on_ray.conveyor import Conveyor
from pipeline.runtime.on_ray.lane import Lane, LaneState
from pipeline.runtime.on_ray.lifecycle import Lifecycle
from pipeline.runtime.on_ray.messages import plain
from pipeline.runtime.on_ray.stages import Stage, StageFactory
from pipeline.runtime.plan import RunPlan
from pipeline.runtime.progress import ProgressTally, RunObserver, StopRequest, StreamProgress

log = logging.getLogger(__name__)

_POLL_S = 0.1
_MEMORY_S = 5.0


class Driver:
    """Runs the streams of a plan until all are over or a stop is asked for."""

    def __init__(self, plan: RunPlan, observer: RunObserver, stop: StopRequest, has_gpu: bool) -> None:
        factory = StageFactory(plan, has_gpu)
        self._options = plan.config.runtime
        self._observer = observer
        self._calls = Calls()
        self._lanes = [Lane(stream, ProgressTally(stream)) for stream in plan.streams]
        self._lifecycle = Lifecycle(plan, self._lanes, factory, self._calls, observer, stop)
        self._conveyor = Conveyor(self._lanes, self._options, self._lifecycle, self._calls, observer, stop)
        self._unfinished: set[str] = set()
        self._memory_due_s = 0.0

    def run(self) -> list[StreamProgress]:
        """Where each stream stands at the end.

        Raises `UserError` when an input or the store is at fault, `StageFailed` when something stays down. A stream
        that is given up does not stop the others.
        """
        try:
            self._lifecycle.shared.start()
            while any(lane.state is not LaneState.OVER for lane in self._lanes):
                self._go_round()
            self._tell_up()
            self._report_failures()
            return [lane.tally.progress for lane in self._lanes]
        finally:
            for lane in self._lanes:
                if lane.source is not None:
                    lane.source.end()
            self._lifecycle.shared.end()

    def _go_round(self) -> None:
        now_ns, now_s = time.time_ns(), time.monotonic()
        self._lifecycle.shared.respawn(now_s)
        for lane in self._lanes:
            if lane.state is LaneState.WAITING:
                self._lifecycle.open_when_due(lane, now_s)
            elif lane.state is LaneState.OPENING:
                self._lifecycle.go_on_opening(lane)
            elif lane.state is LaneState.RUNNING:
                if lane.shed(now_ns, now_s):
                    log.warning("%s: works at effort %s now", lane.name, lane.load.effort.name)
                    self._observer.shed(lane.name, lane.load.step)
                self._conveyor.feed(lane, now_s)
        self._conveyor.dispatch(now_ns)
        self._tell(now_s)
        self._calls.wait(_POLL_S)

    def _tell(self, now_s: float) -> None:
        self._tell_up()
        self._observer.depths(self._conveyor.depths)
        self._observer.alive()
        if now_s >= self._memory_due_s:
            self._memory_due_s = now_s + _MEMORY_S
            sources = [lane.source for lane in self._lanes if lane.source is not None]
            for stage in (*sources, *self._lifecycle.shared.stages):
                self._ask_memory(stage)

    def _tell_up(self) -> None:
        ready = self._lifecycle.shared.serving
        up = {lane.name: ready and lane.up for lane in self._lanes if not lane.finished}
        if finished := self._unfinished - up.keys():
            # A finished stream is down; it is told once only, since nobody waits for it.
            self._observer.running({**up, **dict.fromkeys(finished, False)})
        if up:
            self._observer.running(up)
        self._unfinished = set(up)

    def _ask_memory(self, stage: Stage) -> None:
        if not stage.dead:
            self._calls.add(
                stage.memory(),
                partial(self._lifecycle.shared.holds, stage),
                lambda error: None,
                self._options.stall_deadline_s,
            )

    def _report_failures(self) -> None:
        errors = [lane.error for lane in self._lanes if lane.error is not None]
        text = "; ".join(str(error) for error in errors)
        if errors and all(isinstance(error, UserError) for error in errors):
            raise UserError(text)
        if errors:
            raise StageFailed(text)


# A run on Ray: this process only hands references on; pixels and rows travel between the actors.


def run_on_ray(plan: RunPlan, observer: RunObserver, stop: StopRequest) -> list[StreamProgress]:
    """Run all streams of `plan` at once on Ray; returns where each stands.

    Stages and streams that die are started again as far as the restart policies go. Raises `UserError` when an input
    or the store is at fault, `StageFailed` when a stage or a stream stays down.
    """
    with ray_session(plan.config.runtime) as has_gpu:
        try:
            return Driver(plan, observer, stop, has_gpu).run()
        except RayError as error:
            raise StageFailed(f"Ray {plain(error)}; run the same command to go on") from None
