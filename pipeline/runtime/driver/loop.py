"""The loop that keeps a run going whose stages are processes of their own.

This process never touches pixels: it hands references on. It knows where each keyframe is, so a stage that dies costs
no more than the keyframes that are not committed yet. What goes in is events, the time and the request to stop; what
comes out is calls. So the same decisions run on a cluster of machines and, in tests, on none.
"""

from __future__ import annotations

import logging
from functools import partial

from pipeline.core.errors import StageFailed, UserError
from pipeline.core.restarts import Ending, RestartHistory, next_restart
from pipeline.runtime.driver.calls import Calls
from pipeline.runtime.driver.conveyor import Conveyor
from pipeline.runtime.driver.lane import Lane, LaneState
from pipeline.runtime.driver.latecomers import Latecomers
from pipeline.runtime.driver.lifecycle import Lifecycle
from pipeline.runtime.driver.remote import Clock, Cluster, Process, death_text
from pipeline.runtime.driver.stage import Stage
from pipeline.runtime.plan import RunPlan
from pipeline.runtime.progress import ProgressTally, RunObserver, StopRequest, StreamProgress

log = logging.getLogger(__name__)

_POLL_S = 0.1
MEMORY_S = 5.0
"""Between two questions to a stage how much memory it holds."""


class Driver:
    """Runs the streams of a plan until all are over or a stop is asked for."""

    def __init__(
        self, plan: RunPlan, observer: RunObserver, stop: StopRequest, cluster: Cluster, clock: Clock
    ) -> None:
        self._options = plan.config.runtime
        self._observer = observer
        self._cluster = cluster
        self._clock = clock
        self._calls = calls = Calls(clock)
        self._lanes = [Lane(stream, ProgressTally(stream)) for stream in plan.streams]
        self._lifecycle = Lifecycle(plan, self._lanes, cluster, clock, calls, observer, stop)
        self._conveyor = Conveyor(self._lanes, self._options, self._lifecycle, calls, observer, stop)
        self._stop = stop
        self._latecomers = Latecomers(plan.away, plan.streams[0].info.engines)
        self._unfinished: set[str] = set()
        self._restarts = plan.config.restarts
        self._deaths = RestartHistory()
        self._memory_due_s = float("-inf")

    def run(self) -> list[StreamProgress]:
        """Where each stream stands at the end.

        Raises `UserError` when an input or the store is at fault, `StageFailed` when something stays down. A stream
        that is given up does not stop the others.
        """
        try:
            self._lifecycle.shared.start()
            while any(lane.state is not LaneState.OVER for lane in self._lanes):
                if (death := self._go_round()) is not None:
                    self._go_on_elsewhere(death)
            self._tell_up()
            self._report_failures()
            return [lane.tally.progress for lane in self._lanes]
        finally:
            self._latecomers.end()
            for lane in self._lanes:
                if lane.attempt.source is not None:
                    lane.attempt.source.end()
            self._lifecycle.shared.end()

    def _go_round(self) -> str | None:
        """Decide and listen once. Returns who has died when the whole cluster has."""
        try:
            self._decide()
            self._listen()
        except Exception as error:
            # No exception leaves here with the death: its traceback would hold on to values of the dead cluster.
            death = self._cluster.death_behind(error)
            if death is None:
                raise
            return death.what
        return None

    def _go_on_elsewhere(self, who: str) -> None:
        """The cluster has died: start another one, and open every stream again behind its last commit.

        Raises `StageFailed` where that cannot be, or the run's `restarts` do not allow it.
        """
        again = next_restart(Ending.FAILED, self._deaths, self._clock.steady_s(), self._restarts)
        if again is None or self._stop.is_set or not self._cluster.renewable:
            raise StageFailed(death_text(who))
        self._deaths = again.history
        log.warning(
            "%s has died (was it killed for memory?): a new Ray is started, and the run goes on behind what is committed",
            who,
        )
        self._tell_up(down=True)
        self._observer.broken(f"{who} has died; a new one is being started")
        self._observer.restarted("ray", "")
        self._lifecycle.cluster_died(f"{who} died")
        self._cluster.renew()
        self._lifecycle.shared.start()
        self._observer.broken(None)

    def _decide(self) -> None:
        """Give out all the work that can be given out now."""
        now_ns, now_s = self._clock.wall_ns(), self._clock.steady_s()
        self._lifecycle.shared.respawn(now_s)
        for stream in self._latecomers.arrived():
            log.warning("%s: it answers now, and is watched", stream.stream)
            # Everybody who goes through the lanes holds this list.
            self._lanes.append(Lane(stream, ProgressTally(stream)))
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

    def _listen(self) -> None:
        """Wait for what happens next, and hear all that has happened."""
        for event in self._cluster.wait(self._calls.pending, _POLL_S):
            self._calls.hear(event)
        self._calls.expire()

    def _tell(self, now_s: float) -> None:
        self._tell_up()
        self._observer.depths(self._conveyor.depths)
        self._observer.alive()
        if now_s >= self._memory_due_s:
            self._memory_due_s = now_s + MEMORY_S
            sources = [lane.attempt.source for lane in self._lanes if lane.attempt.source is not None]
            for stage in (*sources, *self._lifecycle.shared.stages):
                self._ask_memory(stage)

    def _tell_up(self, *, down: bool = False) -> None:
        ready = self._lifecycle.shared.serving and not down
        up = {lane.name: ready and lane.up for lane in self._lanes if not lane.finished}
        up |= dict.fromkeys(self._latecomers.missing, False)
        if finished := self._unfinished - up.keys():
            # A finished stream is down; it is told once only, since nobody waits for it.
            self._observer.running({**up, **dict.fromkeys(finished, False)})
        if up:
            self._observer.running(up)
        self._unfinished = set(up)

    def _ask_memory(self, stage: Stage[Process]) -> None:
        if not stage.dead:
            self._calls.add(
                stage.process.memory(),
                partial(self._lifecycle.shared.holds, stage),
                lambda fault: None,
                self._options.stall_deadline_s,
            )

    def _report_failures(self) -> None:
        errors = [lane.error for lane in self._lanes if lane.error is not None]
        if not self._stop.is_set:
            errors += self._latecomers.missing.values()
        text = "; ".join(str(error) for error in errors)
        if errors and all(isinstance(error, UserError) for error in errors):
            raise UserError(text)
        if errors:
            raise StageFailed(text)
