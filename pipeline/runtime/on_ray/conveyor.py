"""Moves keyframes from the sources through perception and captioning to the recorder, by reference."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

from ray.exceptions import RayActorError, RayError, RayTaskError

from pipeline.core.records import Gap
from pipeline.recording.recorder import Recorded
from pipeline.runtime.on_ray.calls import Calls
from pipeline.runtime.on_ray.lane import Keyframe, Lane, LaneState, Place
from pipeline.runtime.on_ray.lifecycle import Lifecycle
from pipeline.runtime.on_ray.messages import AnalysisReport, StepReport, Work, plain
from pipeline.runtime.on_ray.stages import Stage
from pipeline.runtime.progress import RunObserver, StopRequest
from pipeline.settings.config import RuntimeOptions

log = logging.getLogger(__name__)

_STEP_WAIT_S = 1.0
# One batch at work and one on its way keep a perception actor busy.
_BATCHES = 2


class Conveyor:
    """Keyframes of all streams on their way. Perception gets what waits from different streams as one batch; captions
    go to the captioner with the least to do; the recorder gets the keyframes of a stream in order.
    """

    def __init__(
        self,
        lanes: Sequence[Lane],
        options: RuntimeOptions,
        lifecycle: Lifecycle,
        calls: Calls,
        observer: RunObserver,
        stop: StopRequest,
    ) -> None:
        self._lanes = lanes
        self._options = options
        self._lifecycle = lifecycle
        self._shared = lifecycle.shared
        self._calls = calls
        self._observer = observer
        self._stop = stop

    @property
    def depths(self) -> Counter[str]:
        """Keyframes at each place."""
        return Counter(key.place.name.lower() for lane in self._lanes for key in lane.keyframes)

    def feed(self, lane: Lane, now_s: float) -> None:
        """Ask the source for more, pass on what is ready, and finish when nothing is left."""
        over = lane.exhausted or self._stop.is_set
        if self._stop.is_set:
            lane.discard_waiting()
        elif not over and not lane.stepping and lane.has_room:
            self._read(lane)
        for keyframe in lane.keyframes:
            if keyframe.place is Place.CAPTIONING and keyframe.captioner is None:
                self._caption(lane, keyframe)
        self._record(lane)
        recorder = self._shared.recorder
        if recorder is None or lane.keyframes or lane.committing:
            return
        if over:
            self._hand_over_gaps(lane, recorder)
            self._lifecycle.finish(lane, recorder)
        elif (lane.undurable or lane.gaps) and now_s - lane.touched_s > lane.plan.config.recording.commit_s:
            self._hand_over_gaps(lane, recorder)
            self._commit(lane, recorder)

    def dispatch(self, now_ns: int) -> None:
        """Give every perception actor with room the keyframes that wait for it, oldest first, as one batch."""
        for stage in self._shared.perceptions:
            if not stage.ready or stage.calls >= _BATCHES:
                continue
            chosen: list[tuple[Lane, Keyframe]] = []
            for lane in self._lanes:
                if lane.perception is stage and lane.state is LaneState.RUNNING:
                    lane.drop_stale(now_ns)
                    keyframe = lane.next_waiting()
                    if keyframe is not None:
                        chosen.append((lane, keyframe))
            chosen = sorted(chosen, key=lambda pair: pair[1].read_ns)[: self._options.encode_batch]
            if chosen:
                self._analyse(stage, chosen)

    def _read(self, lane: Lane) -> None:
        assert lane.source is not None
        lane.stepping = True
        step = lane.source.handle.step.options(num_returns=2)
        header, frame = step.remote(_STEP_WAIT_S, lane.load.effort.interval_factor)
        self._lifecycle.call(lane, lane.source, header, partial(self._stepped, lane, frame))

    def _stepped(self, lane: Lane, frame: Any, report: StepReport) -> None:
        lane.stepping, lane.connected = False, report.connected
        for line in report.logs:
            logging.getLogger(line.logger).log(line.level, "%s", line.text)
        step = report.step
        if step is None or lane.state is not LaneState.RUNNING or self._stop.is_set:
            return
        lane.last = step
        lane.tally.read(step)
        lane.gaps.extend(step.gaps)
        if step.has_frame:
            lane.keyframes.append(Keyframe(step, report.read_ns, frame))
            lane.undurable.append(((step.reached.epoch, step.reached.pts_ns), report.read_ns))
        elif step.ended:
            lane.close_stale(step.reached.wall_ns)
        self._observer.progress(lane.tally.progress)

    def _analyse(self, stage: Stage, chosen: list[tuple[Lane, Keyframe]]) -> None:
        works, frames = [], []
        for lane, keyframe in chosen:
            lane.close_stale(keyframe.step.reached.wall_ns)
            works.append(Work(lane.name, lane.attempt, lane.load.effort.probe_share))
            frames.append(keyframe.frame)
            keyframe.place, keyframe.frame = Place.ANALYSING, None
        analyse = stage.handle.analyse.options(num_returns=1 + 2 * len(chosen))
        reports, *results = analyse.remote(tuple(works), *frames)
        for (_, keyframe), analysed, requests in zip(chosen, results[::2], results[1::2], strict=True):
            keyframe.analysed, keyframe.requests = analysed, requests
        stage.calls += 1
        attempts = [lane.attempt for lane, _ in chosen]

        def then(told: list[AnalysisReport]) -> None:
            stage.calls -= 1
            current = [lane.attempt == attempt for (lane, _), attempt in zip(chosen, attempts, strict=True)]
            faults = [report.fault for report, asked in zip(told, current, strict=True) if asked]
            for (lane, keyframe), asked, report in zip(chosen, current, told, strict=True):
                if asked:
                    self._analysed(lane, keyframe, report)
            if None in faults:
                stage.trust.went_well()
            elif faults:
                self._shared.failed(stage, str(faults[0]))

        def failed(error: Exception) -> None:
            stage.calls -= 1
            for (lane, _), attempt in zip(chosen, attempts, strict=True):
                self._lifecycle.failed(lane, attempt, stage, error)

        self._calls.add(reports, then, failed, self._options.stall_deadline_s)

    def _analysed(self, lane: Lane, keyframe: Keyframe, report: AnalysisReport) -> None:
        if report.fault is not None:
            self._lifecycle.lost(lane, f"perception failed: {report.fault}")
            return
        keyframe.avoided = report.avoided
        if report.requests:
            keyframe.place = Place.CAPTIONING
            self._caption(lane, keyframe)
        else:
            keyframe.place = Place.READY
            self._record(lane)

    def _caption(self, lane: Lane, keyframe: Keyframe) -> None:
        ready = [stage for stage in self._shared.captioners if stage.ready]
        if not ready:
            return
        stage = min(ready, key=lambda stage: stage.calls)
        keyframe.captioner = stage
        stage.calls += 1
        attempt = lane.attempt
        captions = stage.handle.caption.remote(keyframe.requests)

        def then(_: object) -> None:
            stage.calls -= 1
            stage.trust.went_well()
            keyframe.captions, keyframe.place = captions, Place.READY
            if lane.attempt == attempt:
                self._record(lane)

        def failed(error: Exception) -> None:
            stage.calls -= 1
            # Captioning keeps nothing: when its actor died, the same question goes to another one.
            keyframe.captioner = None
            if isinstance(error, RayTaskError) or not isinstance(error, RayActorError):
                self._lifecycle.failed(lane, attempt, stage, error)
            # What it was to be asked about may be gone with another stage, which is no fault of this one.
            if isinstance(error, RayTaskError) and not isinstance(error.cause, RayError):
                self._shared.failed(stage, str(plain(error)))

        self._calls.add(captions, then, failed, self._options.stall_deadline_s)

    def _record(self, lane: Lane) -> None:
        """Hand finished keyframes to the recorder, in order."""
        recorder = self._shared.recorder
        if lane.state is not LaneState.RUNNING or recorder is None:
            return
        for keyframe in lane.keyframes:
            if keyframe.place is Place.RECORDING:
                continue
            if keyframe.place is not Place.READY:
                return
            keyframe.place = Place.RECORDING
            self._hand_over(lane, recorder, keyframe)

    def _hand_over_gaps(self, lane: Lane, recorder: Stage) -> None:
        if lane.gaps:
            self._hand_over(lane, recorder, None)

    def _hand_over(self, lane: Lane, recorder: Stage, keyframe: Keyframe | None) -> None:
        gaps = lane.taken_gaps()
        number, lane.records = lane.records, lane.records + 1
        analysed, captions = (None, None) if keyframe is None else (keyframe.analysed, keyframe.captions)
        record = recorder.handle.record.remote(lane.name, lane.attempt, number, gaps, analysed, captions)

        def then(recorded: Recorded) -> None:
            if keyframe is not None:
                lane.keyframes.remove(keyframe)
                lane.tally.analysed(keyframe.step.reached.pts_ns, keyframe.avoided)
            for gap in gaps:
                if isinstance(gap, Gap):
                    self._observer.gap(lane.name, gap)
            self._lifecycle.recorded(lane, recorded)

        self._lifecycle.call(lane, recorder, record, then)

    def _commit(self, lane: Lane, recorder: Stage) -> None:
        """Nothing came for a while: make what waits in the recorder durable."""
        lane.committing = True

        def then(recorded: Recorded) -> None:
            lane.committing = False
            self._lifecycle.recorded(lane, recorded)

        commit = recorder.handle.commit.remote(lane.name, lane.attempt)
        self._lifecycle.call(lane, recorder, commit, then)
