"""How streams begin and end on Ray, and how they come back when something under them broke."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ray.exceptions import RayActorError

from pipeline.core.errors import StageFailed, UserError
from pipeline.core.records import ResumePoint, StoredCaption
from pipeline.core.restarts import Ending, next_restart
from pipeline.recording.recorder import Recorded
from pipeline.runtime.on_ray.calls import Calls
from pipeline.runtime.on_ray.lane import Lane, LaneState
from pipeline.runtime.on_ray.messages import plain
from pipeline.runtime.on_ray.stages import Stage, StageFactory, StageKind
from pipeline.runtime.on_ray.supervisor import Supervisor
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
        factory: StageFactory,
        calls: Calls,
        observer: RunObserver,
        stop: StopRequest,
    ) -> None:
        self._options = plan.config.runtime
        self._lanes = lanes
        self._factory = factory
        self._calls = calls
        self._observer = observer
        self._stop = stop
        self.shared = Supervisor(plan, factory, calls, observer, self._stage_died)

    def call(
        self, lane: Lane, stage: Stage, ref: Any, then: Callable[[Any], None], deadline_s: float | None = None
    ) -> None:
        """Wait for a call that concerns this start of a stream; an answer for an earlier start is not heard."""
        attempt = lane.attempt

        def answered(value: Any) -> None:
            if lane.attempt == attempt:
                then(value)

        deadline = self._options.stall_deadline_s if deadline_s is None else deadline_s
        self._calls.add(ref, answered, partial(self.failed, lane, attempt, stage), deadline)

    # -- opening

    def open_when_due(self, lane: Lane, now_s: float) -> None:
        """Open a waiting stream when its pause is over and the recorder is there."""
        recorder = self.shared.recorder
        if lane.closing:
            return
        if self._stop.is_set:
            lane.state = LaneState.OVER
        elif now_s >= lane.retry_at and recorder is not None and recorder.ready:
            lane.reset()
            lane.state = LaneState.OPENING
            opening = recorder.handle.open_stream.remote(lane.plan, lane.attempt)
            self.call(lane, recorder, opening, partial(self._resume, lane))

    def go_on_opening(self, lane: Lane) -> None:
        """Give a stream whose source is open to a perception actor as soon as one is ready."""
        if self._stop.is_set:
            lane.attempt += 1
            lane.state = LaneState.OVER
        elif lane.source_open and lane.perception is None:
            self._pin(lane)

    def _resume(self, lane: Lane, point: ResumePoint) -> None:
        lane.next_track = point.next_track
        lane.source = source = self._factory.source(lane.plan)
        self.shared.watch(source)
        opening = source.handle.open.remote(lane.plan, point)
        self.call(lane, source, opening, partial(self._source_opened, lane), self._options.start_deadline_s)

    def _source_opened(self, lane: Lane, _: None) -> None:
        lane.source_open = True
        self._pin(lane)

    def _pin(self, lane: Lane) -> None:
        """Choose the perception actor with the fewest streams. A first start waits for all, to spread evenly."""
        streams = {stage: 0 for stage in self.shared.perceptions if stage.ready}
        if not streams or (lane.first_start and len(streams) < self._options.perception_actors):
            return
        for other in self._lanes:
            if other.perception in streams and other.state is not LaneState.OVER:
                streams[other.perception] += 1
        lane.perception = stage = min(streams, key=lambda stage: streams[stage])
        opening = stage.handle.open_stream.remote(lane.plan, lane.attempt, lane.next_track)
        self.call(lane, stage, opening, partial(self._running, lane))

    def _running(self, lane: Lane, _: None) -> None:
        lane.state = LaneState.RUNNING
        lane.touched_s = time.monotonic()

    def recorded(self, lane: Lane, recorded: Recorded) -> None:
        """The recorder has told where the stream stands."""
        lane.touched_s = time.monotonic()
        order = (recorded.durable.epoch, recorded.durable.pts_ns)
        tell_recorded(self._observer, lane.tally, recorded, lane.durable_up_to(order, time.time_ns()))

    # -- ending

    def finish(self, lane: Lane, recorder: Stage) -> None:
        """Everything of the stream is recorded: end its tracks and commit."""
        assert lane.perception is not None
        lane.state = LaneState.FINISHING
        reached = lane.last.reached if lane.exhausted and lane.last is not None else None
        ended = lane.perception.handle.finish.remote(lane.name, lane.attempt)
        finish = recorder.handle.finish.remote(lane.name, lane.attempt, ended, reached)
        self.call(lane, recorder, finish, partial(self._finished, lane))

    def _finished(self, lane: Lane, recorded: Recorded) -> None:
        lane.tally.finish(at_end=lane.exhausted)
        self.recorded(lane, recorded)
        again = None
        if lane.exhausted and lane.plan.source.live and not self._stop.is_set:
            restarts = lane.plan.config.restarts
            again = next_restart(Ending.FINISHED, lane.history, time.monotonic(), restarts)
        if again is not None:
            lane.history = again.history
            self._reopen(lane, again.delay_s)
        else:
            self._let_go(lane)
            lane.state = LaneState.OVER

    # -- failing

    def failed(self, lane: Lane, attempt: int, stage: Stage, error: Exception) -> None:
        """A call that concerns a stream went wrong: its stage died or got stuck, its input is bad, or by itself."""
        if isinstance(error, TimeoutError):
            self.shared.died(stage, "gave no answer in time")
        elif stage.kind is StageKind.SOURCE and isinstance(error, RayActorError):
            self.shared.died(stage, str(plain(error)))
        if lane.attempt != attempt or lane.state is LaneState.OVER:
            return
        cause = plain(error)
        bad_input = isinstance(cause, UserError)
        # A recorder that has just died may hold the stream's lock for another moment. What a store refuses in the midst
        # of a run, such as for a full disk, may pass: a camera goes on then, while a file can wait for its user.
        opening = lane.state is LaneState.OPENING
        may_pass = not lane.first_start if opening else lane.plan.source.live
        if bad_input and stage.kind is StageKind.RECORDER and not may_pass:
            raise cause
        # A camera that cannot be reached is waited for by its source: what that gives up on is over, such as a
        # password that is refused and must not be tried again.
        if bad_input and stage.kind is StageKind.SOURCE:
            self._give_up(lane, cause)
        else:
            self.lost(lane, f"{stage.name} {cause}")

    def lost(self, lane: Lane, reason: str) -> None:
        """A stream broke: open it again behind its last commit, if its policy allows that."""
        if lane.state in (LaneState.OVER, LaneState.WAITING):
            return
        restarts = lane.plan.config.restarts
        again = next_restart(Ending.FAILED, lane.history, time.monotonic(), restarts)
        if again is None or self._stop.is_set:
            count = len(lane.history.granted_s)
            after = f" after {count} restarts" if count else ""
            self._give_up(lane, StageFailed(f"{lane.name}: {reason}{after}; run the same command to go on"))
            return
        log.warning("%s: %s; going on behind the last commit in %.1f s", lane.name, reason, again.delay_s)
        lane.history = again.history
        self._reopen(lane, again.delay_s)

    def _stage_died(self, stage: Stage) -> None:
        """Open the streams of a dead stage again. Of a captioner nothing is lost: it is only asked again."""
        for lane in self._lanes:
            if stage in (lane.source, lane.perception) or stage.kind is StageKind.RECORDER:
                self.lost(lane, f"the {stage.kind} stage died")

    def _reopen(self, lane: Lane, delay_s: float) -> None:
        self._let_go(lane)
        lane.tally.restarted()
        lane.state = LaneState.WAITING
        lane.retry_at = time.monotonic() + delay_s
        self._close(lane)
        self._observer.restarted("stream", lane.name)
        self._observer.progress(lane.tally.progress)

    def _give_up(self, lane: Lane, error: Exception) -> None:
        log.error("%s", error)
        self._let_go(lane)
        lane.error = error
        lane.retry_at = float("inf")
        lane.state = LaneState.WAITING
        self._close(lane)

    def _close(self, lane: Lane) -> None:
        """Have what was recorded of this start committed; the stream is over afterwards if it was given up."""
        recorder, attempt = self.shared.recorder, lane.attempt
        lane.reset()

        def told(stored: tuple[StoredCaption, ...]) -> None:
            if stored:
                self._observer.captions(lane.name, stored)
            closed(None)

        def closed(_: object) -> None:
            lane.closing = False
            if lane.error is not None:
                lane.state = LaneState.OVER

        if recorder is None or recorder.dead:
            closed(None)
            return
        lane.closing = True
        closing = recorder.handle.close_stream.remote(lane.name, attempt)
        self._calls.add(closing, told, closed, self._options.stall_deadline_s)

    def _let_go(self, lane: Lane) -> None:
        if lane.source is not None:
            self.shared.unwatch(lane.source)
            lane.source.end()
        if lane.perception is not None and not lane.perception.dead:
            lane.perception.handle.forget.remote(lane.name, lane.attempt)
