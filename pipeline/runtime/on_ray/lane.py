"""One stream in the driver's eyes: where its keyframes are, and what is to be done next."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

from pipeline.core.dropping import DropPolicy
from pipeline.core.records import Cut, EffortStep, Gap, GapReason
from pipeline.core.restarts import RestartHistory
from pipeline.keyframes.reader import SourceStep
from pipeline.keyframes.shedding import LoadState, next_load
from pipeline.runtime.on_ray.stages import Stage
from pipeline.runtime.plan import StreamPlan
from pipeline.runtime.progress import ProgressTally

_RECENT_S = 3.0


class LaneState(Enum):
    """What a stream is at."""

    WAITING = auto()
    OPENING = auto()
    RUNNING = auto()
    FINISHING = auto()
    OVER = auto()


class Place(Enum):
    """Where a keyframe is."""

    WAITING = auto()
    ANALYSING = auto()
    CAPTIONING = auto()
    READY = auto()
    RECORDING = auto()


@dataclass(slots=True, eq=False)
class Keyframe:
    """A keyframe on its way. References stand for what only the stages see."""

    step: SourceStep
    read_ns: int
    frame: Any
    place: Place = Place.WAITING
    analysed: Any = None
    requests: Any = None
    captions: Any = None
    captioner: Stage | None = None
    avoided: int = 0


@dataclass(slots=True, eq=False)
class Lane:
    """The state of one stream. `attempt`: number of its start; what belongs to an earlier one no longer counts.

    `keyframes`: on the way, in order. `gaps`: with steps of effort, not handed to the recorder yet. `undurable`: order and read time of
    the keyframes that are not committed yet. `stale`: dropped by shedding, since which wall ns and how many.
    `connected`: what the source said last.
    """

    plan: StreamPlan
    tally: ProgressTally
    state: LaneState = LaneState.WAITING
    attempt: int = 0
    closing: bool = False
    retry_at: float = 0.0
    history: RestartHistory = field(default_factory=RestartHistory)
    error: Exception | None = None
    source: Stage | None = None
    source_open: bool = False
    perception: Stage | None = None
    next_track: int = 1
    stepping: bool = False
    connected: bool = False
    committing: bool = False
    keyframes: deque[Keyframe] = field(default_factory=deque)
    gaps: list[Gap | EffortStep | Cut] = field(default_factory=list)
    undurable: deque[tuple[tuple[int, int], int]] = field(default_factory=deque)
    records: int = 0
    last: SourceStep | None = None
    touched_s: float = 0.0
    load: LoadState = field(default_factory=LoadState)
    latency_s: float = 0.0
    latency_at_s: float = 0.0
    stale_since_ns: int | None = None
    stale: int = 0

    @property
    def name(self) -> str:
        return self.plan.stream

    @property
    def first_start(self) -> bool:
        return self.attempt == 1

    @property
    def policy(self) -> DropPolicy:
        return self.plan.config.flow.policy_of(live=self.plan.source.live)

    @property
    def exhausted(self) -> bool:
        return self.last is not None and self.last.ended

    @property
    def up(self) -> bool:
        """Whether it is being watched: not while its camera is away, nor after its end."""
        return self.state in (LaneState.RUNNING, LaneState.FINISHING) and self.connected

    @property
    def finished(self) -> bool:
        """Over, and not because it was given up."""
        return self.state is LaneState.OVER and self.error is None

    @property
    def has_room(self) -> bool:
        """Whether another keyframe may be asked for."""
        waiting = sum(keyframe.place is Place.WAITING for keyframe in self.keyframes)
        return self.policy.may_read(waiting, len(self.keyframes), self.plan.config.runtime.credits)

    @property
    def analysing(self) -> bool:
        return any(keyframe.place is Place.ANALYSING for keyframe in self.keyframes)

    def next_waiting(self) -> Keyframe | None:
        """The keyframe that should be analysed next, unless one is at it: a stream is analysed in order."""
        if self.state is not LaneState.RUNNING or self.analysing:
            return None
        return next((k for k in self.keyframes if k.place is Place.WAITING), None)

    def reset(self) -> None:
        """Forget what is on the way: it is read again behind the last commit."""
        self.attempt += 1
        self.source = self.perception = None
        self.source_open = self.stepping = self.committing = self.connected = False
        self.keyframes.clear()
        self.gaps.clear()
        self.undurable.clear()
        self.records = 0
        self.last = None
        self.latency_s = 0.0
        self.stale_since_ns, self.stale = None, 0

    def discard_waiting(self) -> None:
        """Forget what nobody has begun to look at."""
        for keyframe in [k for k in self.keyframes if k.place is Place.WAITING]:
            self.keyframes.remove(keyframe)
            self._forget_undurable(keyframe)

    def taken_gaps(self) -> tuple[Gap | EffortStep | Cut, ...]:
        """The gaps and steps of effort to record now."""
        gaps = tuple(self.gaps)
        self.gaps.clear()
        return gaps

    def drop_stale(self, now_ns: int) -> None:
        """Take out waiting keyframes that could not be stored within the budget any more, where the effort says so."""
        if not self.load.effort.drop_stale:
            return
        oldest_ns = self.plan.config.flow.shedding.tolerated_s * 1e9
        for keyframe in [k for k in self.keyframes if k.place is Place.WAITING]:
            if now_ns - keyframe.read_ns > oldest_ns:
                self.keyframes.remove(keyframe)
                self._forget_undurable(keyframe)
                self.stale += 1
                if self.stale_since_ns is None:
                    self.stale_since_ns = keyframe.step.reached.wall_ns

    def close_stale(self, until_ns: int) -> None:
        """What was dropped as too old becomes a gap that ends at the keyframe which is looked at next."""
        if self.stale_since_ns is not None:
            end = max(until_ns, self.stale_since_ns)
            self.gaps.append(Gap(self.stale_since_ns, end, GapReason.SHED, self.stale))
            self.stale_since_ns, self.stale = None, 0

    def durable_up_to(self, order: tuple[int, int], now_ns: int) -> list[float]:
        """Latencies in seconds of the keyframes that have become queryable, up to stream `order`."""
        latencies = []
        while self.undurable and self.undurable[0][0] <= order:
            _, read_ns = self.undurable.popleft()
            latencies.append(max(0.0, (now_ns - read_ns) / 1e9))
        if latencies:
            self.latency_s, self.latency_at_s = latencies[-1], time.monotonic()
        return latencies

    def staleness_s(self, now_ns: int, now_s: float) -> float:
        """How far the store is behind the source."""
        oldest = (now_ns - self.undurable[0][1]) / 1e9 if self.undurable else 0.0
        recent = self.latency_s if self.undurable or now_s - self.latency_at_s < _RECENT_S else 0.0
        return max(oldest, recent, 0.0)

    def shed(self, now_ns: int, now_s: float) -> bool:
        """Adapt the effort to the load; whether it has changed. Streams whose source waits for us shed nothing."""
        if not self.policy.sheds or self.state is not LaneState.RUNNING:
            return False
        before = self.load.step
        staleness = self.staleness_s(now_ns, now_s)
        self.load = next_load(self.load, staleness, now_s, self.plan.config.flow.shedding)
        if self.load.step == before:
            return False
        wall_ns = self.last.reached.wall_ns if self.last is not None else now_ns
        self.gaps.append(EffortStep(wall_ns, self.load.effort.name))
        return True

    def _forget_undurable(self, keyframe: Keyframe) -> None:
        order = (keyframe.step.reached.epoch, keyframe.step.reached.pts_ns)
        self.undurable = deque(item for item in self.undurable if item[0] != order)
