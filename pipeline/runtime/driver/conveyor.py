"""Moves keyframes from the sources through perception and captioning to the recorder, by reference."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from functools import partial

from pipeline.core.records import Gap
from pipeline.recording.recorder import Recorded
from pipeline.runtime.driver.attempt import Attempt, Keyframe
from pipeline.runtime.driver.calls import Calls, log_trace
from pipeline.runtime.driver.lane import Lane, LaneState
from pipeline.runtime.driver.lifecycle import Lifecycle
from pipeline.runtime.driver.messages import AnalysisReport, StepReport, Work
from pipeline.runtime.driver.remote import Fault, FaultKind, PerceptionProcess, RecorderProcess, Ref
from pipeline.runtime.driver.stage import Stage
from pipeline.runtime.progress import RunObserver, StopRequest
from pipeline.settings.config import RuntimeOptions

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
        return Counter(key.place.name.lower() for lane in self._lanes for key in lane.attempt.keyframes)

    def feed(self, lane: Lane, now_s: float) -> None:
        """Ask the source for more, pass on what is ready, and finish when nothing is left."""
        attempt = lane.attempt
        over = attempt.end is not None or self._stop.is_set
        if self._stop.is_set:
            attempt.discard_waiting()
        elif lane.wants_more:
            self._read(lane)
        for keyframe in attempt.to_caption:
            self._caption(lane, keyframe)
        self._record(lane)
        recorder = self._shared.recorder
        if recorder is None or not attempt.idle:
            return
        if over:
            attempt.nothing_follows()
            self._hand_over_gaps(lane, recorder)
            self._lifecycle.finish(lane, recorder)
        elif lane.commit_due(now_s):
            self._hand_over_gaps(lane, recorder)
            self._commit(lane, recorder)

    def dispatch(self, now_ns: int) -> None:
        """Give every perception actor with room the keyframes that wait for it, oldest first, as one batch."""
        for stage in self._shared.perceptions:
            if not stage.ready or stage.calls >= _BATCHES:
                continue
            chosen: list[tuple[Lane, Keyframe]] = []
            for lane in self._lanes:
                if lane.attempt.perception is stage and lane.state is LaneState.RUNNING:
                    lane.drop_stale(now_ns)
                    keyframe = lane.to_analyse
                    if keyframe is not None:
                        chosen.append((lane, keyframe))
            chosen = sorted(chosen, key=lambda pair: pair[1].read_ns)[: self._options.encode_batch]
            if chosen:
                self._analyse(stage, chosen)

    def _read(self, lane: Lane) -> None:
        source = lane.attempt.source
        assert source is not None
        lane.attempt.ask_source()
        call, frame = source.process.step(_STEP_WAIT_S, lane.load.effort.interval_factor)
        self._lifecycle.call(lane, source, call, partial(self._stepped, lane, frame))

    def _stepped(self, lane: Lane, frame: Ref, report: StepReport) -> None:
        for line in report.logs:
            logging.getLogger(line.logger).log(line.level, "%s", line.text)
        if lane.stepped(report, frame, wanted=not self._stop.is_set) is not None:
            self._observer.progress(lane.tally.progress)

    def _analyse(self, stage: Stage[PerceptionProcess], chosen: list[tuple[Lane, Keyframe]]) -> None:
        works = [
            Work(lane.name, lane.attempt.number, effort.probe_share, effort.view_share)
            for lane, _ in chosen
            for effort in (lane.load.effort,)
        ]
        call, results = stage.process.analyse(works, [keyframe.frame for _, keyframe in chosen])
        asked: list[tuple[Lane, Attempt, Keyframe]] = []
        for (lane, keyframe), (analysed, requests) in zip(chosen, results, strict=True):
            lane.attempt.analyse(keyframe, analysed, requests)
            asked.append((lane, lane.attempt, keyframe))
        stage.asked()

        def then(reports: list[AnalysisReport]) -> None:
            stage.answered()
            told = [
                (lane, keyframe, report)
                for (lane, attempt, keyframe), report in zip(asked, reports, strict=True)
                if lane.attempt is attempt
            ]
            for lane, keyframe, report in told:
                self._analysed(lane, keyframe, report)
            faults = [report.fault for _, _, report in told]
            if None in faults:
                stage.trust.went_well()
            elif faults:
                self._shared.failed(stage, str(faults[0]))

        def failed(fault: Fault) -> None:
            stage.answered()
            for lane, attempt, _ in asked:
                self._lifecycle.failed(lane, attempt, stage, fault)
            if fault.kind is FaultKind.RAISED:
                self._shared.failed(stage, str(fault.error))

        self._calls.add(call, then, failed, self._options.stall_deadline_s)

    def _analysed(self, lane: Lane, keyframe: Keyframe, report: AnalysisReport) -> None:
        if report.fault is not None:
            log_trace(f"{lane.name}: perception failed: {report.fault}", report.trace)
            self._lifecycle.lost(lane, f"perception failed: {report.fault}")
            return
        lane.attempt.analysed(keyframe, report)
        if report.requests:
            self._caption(lane, keyframe)
        else:
            self._record(lane)

    def _caption(self, lane: Lane, keyframe: Keyframe) -> None:
        ready = [stage for stage in self._shared.captioners if stage.ready]
        if not ready:
            return
        stage = min(ready, key=lambda stage: stage.calls)
        attempt = lane.attempt
        call, captions = stage.process.caption(keyframe.requests)
        attempt.ask_captions(keyframe, stage)
        stage.asked()

        def then(_: object) -> None:
            stage.answered()
            stage.trust.went_well()
            if lane.attempt is attempt:
                attempt.captioned(keyframe, captions)
                self._record(lane)

        def failed(fault: Fault) -> None:
            stage.answered()
            # When its process died, the same question goes to another one: captioning keeps nothing.
            attempt.captions_missed(keyframe)
            if fault.kind is not FaultKind.DIED:
                self._lifecycle.failed(lane, attempt, stage, fault)
            # What it was to be asked about may be gone with another stage, which is no fault of this one.
            if fault.kind is FaultKind.RAISED:
                self._shared.failed(stage, str(fault.error))

        self._calls.add(call, then, failed, self._options.stall_deadline_s)

    def _record(self, lane: Lane) -> None:
        """Hand finished keyframes to the recorder, in order."""
        recorder = self._shared.recorder
        while recorder is not None and (keyframe := lane.attempt.to_record) is not None:
            self._hand_over(lane, recorder, keyframe)

    def _hand_over_gaps(self, lane: Lane, recorder: Stage[RecorderProcess]) -> None:
        if lane.attempt.has_gaps:
            self._hand_over(lane, recorder, None)

    def _hand_over(self, lane: Lane, recorder: Stage[RecorderProcess], keyframe: Keyframe | None) -> None:
        attempt = lane.attempt
        number, gaps = attempt.record(keyframe)
        analysed, captions = (None, None) if keyframe is None else (keyframe.analysed, keyframe.captions)
        call = recorder.process.record(lane.name, attempt.number, number, gaps, analysed, captions)

        def then(recorded: Recorded) -> None:
            if keyframe is not None:
                lane.recorded(keyframe)
            for gap in gaps:
                if isinstance(gap, Gap):
                    self._observer.gap(lane.name, gap)
            self._lifecycle.recorded(lane, recorded)

        self._lifecycle.call(lane, recorder, call, then)

    def _commit(self, lane: Lane, recorder: Stage[RecorderProcess]) -> None:
        """Nothing came for a while: make what waits in the recorder durable."""
        attempt = lane.attempt
        attempt.commit()

        def then(recorded: Recorded) -> None:
            attempt.committed()
            self._lifecycle.recorded(lane, recorded)

        call = recorder.process.commit(lane.name, attempt.number)
        self._lifecycle.call(lane, recorder, call, then)
