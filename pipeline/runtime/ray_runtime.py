"""A run on Ray: this process only hands references on; pixels and rows travel between the actors."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError

from pipeline.config import RuntimeOptions
from pipeline.keyframe_reader import SourceStep
from pipeline.records import ResumePoint
from pipeline.run_plan import RunPlan, StreamPlan
from pipeline.runtime import ray_actors
from pipeline.runtime.failure import StageFailed
from pipeline.runtime.progress import OnProgress, ProgressTally, StopRequest, StreamProgress
from pipeline.runtime.ray_cluster import ray_session
from pipeline.sources import redact_text

_POLL_S = 0.2
_CAPTION_CALLS = 16
_GPU_SHARE = 0.5


def run_on_ray(plan: RunPlan, on_progress: OnProgress, stop: StopRequest) -> list[StreamProgress]:
    """Run all streams of `plan` at once on Ray; returns where each stands.

    Raises `ValueError` when an input or the store is at fault, `StageFailed` when a stage died or got stuck.
    """
    with ray_session(plan.config.runtime) as has_gpu:
        try:
            return _Driver(plan, on_progress, stop, has_gpu).run()
        except RayTaskError as error:
            raise _plain(error) from None
        except (RayActorError, GetTimeoutError) as error:
            reason = redact_text(str(error).strip().splitlines()[0])
            raise StageFailed(
                f"a stage stopped unexpectedly ({reason}); run the same command to go on"
            ) from None


class _StoppedEarly(Exception):
    """A stop was asked for before the stages were ready: nothing is in flight."""


@dataclass(slots=True)
class _Stream:
    """One stream in the driver's eyes. `step`: the pending (header, keyframe) of its source; `records`: in flight."""

    plan: StreamPlan
    source: Any
    tally: ProgressTally
    step: tuple[Any, Any] | None = None
    records: deque[tuple[Any, ResumePoint]] = field(default_factory=deque)
    last: SourceStep | None = None
    finish: Any = None
    done: bool = False

    @property
    def exhausted(self) -> bool:
        return self.last is not None and self.last.ended


class _Driver:
    def __init__(self, plan: RunPlan, on_progress: OnProgress, stop: StopRequest, has_gpu: bool) -> None:
        self._plan = plan
        self._options: RuntimeOptions = plan.config.runtime
        self._on_progress = on_progress
        self._stop = stop
        share = _GPU_SHARE if has_gpu and self._options.device != "cpu" else 0
        self._perception = _actor(ray_actors.PerceptionActor, num_gpus=share)
        self._captioner = _actor(ray_actors.CaptionerActor, num_gpus=share, max_concurrency=_CAPTION_CALLS)
        self._recorder = _actor(ray_actors.RecorderActor)
        self._streams: list[_Stream] = []
        self._moved = time.monotonic()

    def run(self) -> list[StreamProgress]:
        try:
            try:
                self._open()
            except _StoppedEarly:
                return [ProgressTally(plan).progress for plan in self._plan.streams]
            while not all(stream.done for stream in self._streams):
                self._ask_for_work()
                self._wait()
            return [stream.tally.progress for stream in self._streams]
        finally:
            for stream in self._streams:
                stream.source.close.remote()

    def _open(self) -> None:
        """Start every stage, all at once, and find out where each stream goes on."""
        config = self._plan.config
        loading = [self._perception.load.remote(config), self._captioner.load.remote(config)]
        (resumes,) = self._started([self._recorder.open.remote(self._plan)])
        opening = []
        for plan, resume in zip(self._plan.streams, resumes, strict=True):
            source = _actor(ray_actors.SourceActor)
            opening.append(source.open.remote(plan, config, resume))
            self._streams.append(_Stream(plan, source, ProgressTally(plan)))
        self._started(opening)
        self._started(loading)
        self._started(
            [
                self._perception.open_stream.remote(plan.stream, resume)
                for plan, resume in zip(self._plan.streams, resumes, strict=True)
            ]
        )
        self._moved = time.monotonic()

    def _started(self, calls: list[Any]) -> list[Any]:
        """Results of the calls that start a stage. A stop request is heard meanwhile."""
        deadline = self._options.start_deadline_s
        until = time.monotonic() + deadline
        waiting = calls
        while waiting:
            _, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=_POLL_S)
            if self._stop.is_set:
                raise _StoppedEarly
            if time.monotonic() > until:
                raise StageFailed(
                    f"the stages did not start within {deadline:.0f} s; is the machine overloaded?"
                )
        return list(ray.get(calls, timeout=deadline))

    def _ask_for_work(self) -> None:
        for stream in self._streams:
            if stream.done or stream.finish is not None:
                continue
            reading_over = stream.exhausted or self._stop.is_set
            if not reading_over and stream.step is None and len(stream.records) < self._options.credits:
                header, frame = stream.source.step.options(num_returns=2).remote()
                stream.step = (header, frame)
            elif reading_over and not stream.records:
                reached = stream.last.reached if stream.exhausted and stream.last is not None else None
                ended = self._perception.finish.remote(stream.plan.stream)
                stream.finish = self._recorder.finish.remote(stream.plan.stream, ended, reached)

    def _wait(self) -> None:
        """Wait for anything, take it in, and complain when nothing moves for too long."""
        pending: list[Any] = []
        for stream in self._streams:
            pending += [ref for ref, _ in list(stream.records)[:1]]
            if stream.step is not None and not self._stop.is_set:
                pending.append(stream.step[0])
            if stream.finish is not None and not stream.done:
                pending.append(stream.finish)
        ready, _ = ray.wait(pending, num_returns=1, timeout=_POLL_S) if pending else ([], [])
        if not ready:
            stuck_s = time.monotonic() - self._moved
            if stuck_s > self._options.stall_deadline_s:
                raise StageFailed(
                    f"nothing moved for {stuck_s:.0f} s; run the same command to go on where it stopped"
                )
            return
        self._moved = time.monotonic()
        for stream in self._streams:
            self._take_in(stream, set(ready))

    def _take_in(self, stream: _Stream, ready: set[Any]) -> None:
        timeout = self._options.stall_deadline_s
        if stream.step is not None and stream.step[0] in ready:
            header, frame = stream.step
            stream.step = None
            step: SourceStep = ray.get(header, timeout=timeout)
            stream.last = step
            stream.tally.read(step)
            self._pass_on(stream, step, header, frame)
        if stream.records and stream.records[0][0] in ready:
            ref, point = stream.records.popleft()
            recorded, avoided = ray.get(ref, timeout=timeout)
            stream.tally.recorded(recorded)
            if avoided:
                stream.tally.analysed(point.pts_ns, avoided)
            self._on_progress(stream.tally.progress)
        if stream.finish is not None and stream.finish in ready:
            stream.tally.recorded(ray.get(stream.finish, timeout=timeout))
            stream.tally.finish(at_end=stream.exhausted)
            stream.done = True
            self._on_progress(stream.tally.progress)

    def _pass_on(self, stream: _Stream, step: SourceStep, header: Any, frame: Any) -> None:
        """Queue the stages that a step needs; the references tie them together, nothing comes back here."""
        name = stream.plan.stream
        if step.has_frame:
            analysed, requests = self._perception.analyse.options(num_returns=2).remote(name, frame)
            captions = self._captioner.caption.remote(requests)
            record = self._recorder.record.remote(name, header, analysed, captions)
        elif step.gaps:
            record = self._recorder.record.remote(name, header)
        else:
            return
        stream.records.append((record, step.reached))


def _actor(cls: type, **options: Any) -> Any:
    # A stage is restarted by running the command again, which resumes from the store: never half-way by Ray.
    return ray.remote(cls).options(num_cpus=0, max_restarts=0, max_task_retries=0, **options).remote()


def _plain(error: RayTaskError) -> Exception:
    """What a stage raised, without Ray's wrapping."""
    cause = error.cause
    if isinstance(cause, RayTaskError):
        return _plain(cause)
    if isinstance(cause, ValueError):
        return ValueError(redact_text(str(cause)))
    if isinstance(cause, RayError):
        return StageFailed(
            f"a stage stopped unexpectedly ({type(cause).__name__}); run the same command to go on"
        )
    where = getattr(error, "function_name", "a stage")
    return StageFailed(f"{where} failed: {type(cause).__name__}: {redact_text(str(cause))}")
