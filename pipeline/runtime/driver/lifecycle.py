"""How streams begin and end, and how they come back when something under them broke."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from pipeline.core.errors import StageFailed, UserError
from pipeline.core.records import ResumePoint, StoredCaption
from pipeline.core.restarts import Ending, Restart
from pipeline.recording.recorder import Recorded
from pipeline.runtime.driver.attempt import Attempt
from pipeline.runtime.driver.calls import Calls
from pipeline.runtime.driver.lane import Lane, LaneState
from pipeline.runtime.driver.remote import (
    Call,
    Clock,
    Cluster,
    Fault,
    FaultKind,
    Process,
    RecorderProcess,
    StageKind,
)
from pipeline.runtime.driver.stage import Stage
from pipeline.runtime.driver.supervisor import Supervisor
from pipeline.runtime.plan import RunPlan
from pipeline.runtime.progress import RunObserver, StopRequest, tell_recorded

log = logging.getLogger(__name__)


class Lifecycle:
    """Opens streams behind their last commit, gives them to a perception actor, and opens them again when they break.

    A stream that breaks costs what was not committed yet, which is read again; rows are never written twice, since
    whatever belongs to an earlier start is refused by the stages.
    """

    def __init__(
        self,
        plan: RunPlan,
        lanes: Sequence[Lane],
        cluster: Cluster,
        clock: Clock,
        calls: Calls,
        observer: RunObserver,
        stop: StopRequest,
    ) -> None:
        self._options = plan.config.runtime
        self._lanes = lanes
        # Who opens while perception loads takes from its processors; as many as there are lose nothing by it.
        self._early = max(2, os.cpu_count() or 1)
        self._cluster = cluster
        self._clock = clock
        self._calls = calls
        self._observer = observer
        self._stop = stop
        self.shared = Supervisor(plan, cluster, clock, calls, observer, self._stage_died)

    def call(
        self,
        lane: Lane,
        stage: Stage[Process],
        call: Call,
        then: Callable[[Any], None],
        deadline_s: float | None = None,
    ) -> None:
        """Wait for a call that concerns this start of a stream; an answer for an earlier start is not heard."""
        attempt = lane.attempt

        def answered(value: Any) -> None:
            if lane.attempt is attempt:
                then(value)

        deadline = self._options.stall_deadline_s if deadline_s is None else deadline_s
        self._calls.add(call, answered, partial(self.failed, lane, attempt, stage), deadline)

    # -- opening

    def open_when_due(self, lane: Lane, now_s: float) -> None:
        """Open a waiting stream when its pause is over and the recorder is there."""
        recorder = self.shared.recorder
        if lane.closing:
            return
        if self._stop.is_set:
            lane.end()
        elif lane.may_open(now_s) and recorder is not None and recorder.ready and not self._too_early():
            lane.opening()
            opening = recorder.process.open_stream(lane.plan, lane.attempt.number)
            # A process takes as long to come up as the recorder to answer.
            source = Stage(StageKind.SOURCE, lane.name, self._cluster.source(lane.plan))
            lane.attempt.source_started(source)
            self.shared.watch(source)
            self.call(lane, recorder, opening, partial(self._resume, lane))

    def _too_early(self) -> bool:
        """Whether a further stream waits for perception: decoders of 16 cameras on two cores kept it from being loaded for minutes."""
        if any(stage.kind is StageKind.PERCEPTION and stage.ready for stage in self.shared.stages):
            return False
        return sum(lane.state is LaneState.OPENING for lane in self._lanes) >= self._early

    def go_on_opening(self, lane: Lane) -> None:
        """Give a stream whose source is open to a perception actor as soon as one is ready."""
        if self._stop.is_set:
            self._let_go(lane)
            lane.end()
        elif lane.attempt.to_pin:
            self._pin(lane)

    def _resume(self, lane: Lane, point: ResumePoint) -> None:
        source = lane.attempt.source
        assert source is not None
        lane.attempt.goes_on(point)
        opening = source.process.open(lane.plan, point)
        self.call(lane, source, opening, partial(self._source_opened, lane), self._options.start_deadline_s)

    def _source_opened(self, lane: Lane, _: None) -> None:
        lane.attempt.source_opened()
        self._pin(lane)

    def _pin(self, lane: Lane) -> None:
        """Choose the perception actor with the fewest streams. A first start waits for all, to spread evenly."""
        streams = {stage: 0 for stage in self.shared.perceptions if stage.ready}
        if not streams or (lane.first_start and len(streams) < self._options.perception_actors):
            return
        for other in self._lanes:
            if other.attempt.perception in streams:
                streams[other.attempt.perception] += 1
        stage = min(streams, key=lambda stage: streams[stage])
        lane.attempt.pin(stage)
        opening = stage.process.open_stream(lane.plan, lane.attempt.number, lane.attempt.next_track)
        self.call(lane, stage, opening, partial(self._running, lane))

    def _running(self, lane: Lane, _: None) -> None:
        lane.running(self._clock.steady_s())

    def recorded(self, lane: Lane, recorded: Recorded) -> None:
        """The recorder has told where the stream stands."""
        now_ns, now_s = self._clock.wall_ns(), self._clock.steady_s()
        latencies_s = lane.attempt.durable_up_to(recorded.durable, now_ns, now_s)
        tell_recorded(self._observer, lane.tally, recorded, latencies_s)

    # -- ending

    def finish(self, lane: Lane, recorder: Stage[RecorderProcess]) -> None:
        """Everything of the stream is recorded: end its tracks and commit."""
        attempt = lane.attempt
        assert attempt.perception is not None
        lane.finishing()
        ended = attempt.perception.process.finish(lane.name, attempt.number)
        finish = recorder.process.finish(lane.name, attempt.number, attempt.records, ended, attempt.end)
        self.call(lane, recorder, finish, partial(self._finished, lane))

    def _finished(self, lane: Lane, recorded: Recorded) -> None:
        at_end = lane.attempt.end is not None
        lane.tally.finish(at_end=at_end)
        self.recorded(lane, recorded)
        again = None
        if at_end and lane.plan.source.live and not self._stop.is_set:
            again = lane.next_restart(Ending.FINISHED, self._clock.steady_s())
        if again is not None:
            self._reopen(lane, again)
        else:
            self._let_go(lane)
            lane.end()

    # -- failing

    def failed(self, lane: Lane, attempt: Attempt, stage: Stage[Process], fault: Fault) -> None:
        """A call that concerns a stream went wrong: its stage died or got stuck, its input is bad, or by itself."""
        if fault.kind is FaultKind.LATE or (stage.kind is StageKind.SOURCE and fault.kind is FaultKind.DIED):
            self.shared.died(stage, str(fault.error))
        if lane.attempt is not attempt or lane.state is LaneState.OVER:
            return
        # Only a `UserError` says that the input is at fault. Whatever else a stage raised is a failure of that stage.
        bad_input = isinstance(fault.error, UserError)
        # A recorder that has just died may hold the stream's lock for another moment. What a store refuses in the midst
        # of a run, such as for a full disk, may pass: a camera goes on then, while a file can wait for its user.
        opening = lane.state is LaneState.OPENING
        may_pass = not lane.first_start if opening else lane.plan.source.live
        if bad_input and stage.kind is StageKind.RECORDER and not may_pass:
            raise fault.error
        # A camera that cannot be reached is waited for by its source: what that gives up on is over, such as a
        # password that is refused and must not be tried again.
        if bad_input and stage.kind is StageKind.SOURCE:
            self._give_up(lane, fault.error)
        else:
            self.lost(lane, f"{stage.name} {fault.error}")

    def lost(self, lane: Lane, reason: str) -> None:
        """A stream broke: open it again behind its last commit, if its policy allows that."""
        if lane.state in (LaneState.OVER, LaneState.WAITING):
            return
        again = lane.next_restart(Ending.FAILED, self._clock.steady_s())
        if again is None or self._stop.is_set:
            count = lane.restarts
            after = f" after {count} restarts" if count else ""
            self._give_up(lane, StageFailed(f"{lane.name}: {reason}{after}; run the same command to go on"))
            return
        log.warning("%s: %s; going on behind the last commit in %.1f s", lane.name, reason, again.delay_s)
        self._reopen(lane, again)

    def cluster_died(self, reason: str) -> None:
        """Everything is gone at once, calls too: every stream that is not over is opened again, where its policy allows it."""
        self._calls.forget_all()
        self.shared.lost()
        for lane in self._lanes:
            if lane.closing:
                lane.closed()
            else:
                self.lost(lane, reason)

    def _stage_died(self, stage: Stage[Process]) -> None:
        """Open the streams of a dead stage again. Of a captioner nothing is lost: it is only asked again."""
        for lane in self._lanes:
            mine = stage in (lane.attempt.source, lane.attempt.perception)
            if mine or stage.kind is StageKind.RECORDER:
                self.lost(lane, f"the {stage.kind} stage died")

    def _reopen(self, lane: Lane, restart: Restart) -> None:
        self._let_go(lane)
        recorded = lane.attempt.number
        lane.reopen(restart, self._clock.steady_s())
        self._close(lane, recorded)
        self._observer.restarted("stream", lane.name)
        self._observer.progress(lane.tally.progress)

    def _give_up(self, lane: Lane, error: Exception) -> None:
        log.error("%s", error)
        self._let_go(lane)
        recorded = lane.attempt.number
        lane.give_up(error)
        self._close(lane, recorded)

    def _close(self, lane: Lane, attempt: int) -> None:
        """Have what was recorded of a start committed; the stream is over afterwards if it was given up."""
        recorder = self.shared.recorder
        if recorder is None or recorder.dead:
            lane.closed()
            return
        lane.begin_closing()
        closing = recorder.process.close_stream(lane.name, attempt)

        def told(stored: tuple[StoredCaption, ...]) -> None:
            if stored:
                self._observer.captions(lane.name, stored)
            lane.closed()

        def failed(_: object) -> None:
            lane.closed()

        self._calls.add(closing, told, failed, self._options.stall_deadline_s)

    def _let_go(self, lane: Lane) -> None:
        source, perception = lane.attempt.source, lane.attempt.perception
        if source is not None:
            self.shared.unwatch(source)
            source.end()
        if perception is not None and not perception.dead:
            perception.process.forget(lane.name, lane.attempt.number)
