"""One start of a stream: the stages that serve it, and its keyframes on their way from the source to the store."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto

from pipeline.core.records import Cut, EffortStep, Gap, GapReason, ResumePoint
from pipeline.core.regions import NOTHING_AVOIDED, Avoided
from pipeline.keyframes.reader import SourceStep
from pipeline.runtime.driver.messages import AnalysisReport, StepReport
from pipeline.runtime.driver.remote import CaptionerProcess, PerceptionProcess, Ref, SourceProcess
from pipeline.runtime.driver.stage import Stage

_RECENT_S = 3.0


class Place(Enum):
    """Where a keyframe is; each goes through them in this order, but for captions that nobody wants."""

    WAITING = auto()
    ANALYSING = auto()
    CAPTIONING = auto()
    READY = auto()
    RECORDING = auto()


# Only captions may overtake each other: perception and the recorder get the keyframes of a stream in order.
_BEHIND = {Place.RECORDING: 0, Place.READY: 1, Place.CAPTIONING: 1, Place.ANALYSING: 2, Place.WAITING: 3}


@dataclass(slots=True, eq=False)
class Keyframe:
    """A keyframe on its way. References stand for what only the stages see. Only its `Attempt` changes it."""

    step: SourceStep
    read_ns: int
    frame: Ref
    place: Place = Place.WAITING
    analysed: Ref = None
    requests: Ref = None
    captions: Ref = None
    captioner: Stage[CaptionerProcess] | None = None
    avoided: Avoided = NOTHING_AVOIDED

    @property
    def order(self) -> tuple[int, int]:
        return self.step.reached.epoch, self.step.reached.pts_ns


class Attempt:
    """Forgotten as a whole when its stream breaks: what is not committed is read again by the next one.

    `number`: counts the starts of a stream; stages refuse what belongs to an earlier one. Nobody sets a field: methods
    say what has happened, and `_check` holds what is true at any time.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self._source: Stage[SourceProcess] | None = None
        self._source_open = False
        self._perception: Stage[PerceptionProcess] | None = None
        self._next_track = 1
        self._stepping = self._connected = self._committing = False
        self._keyframes: deque[Keyframe] = deque()
        self._gaps: list[Gap | EffortStep | Cut] = []
        # Order and read time of the keyframes that are not committed yet.
        self._undurable: deque[tuple[tuple[int, int], int]] = deque()
        self._records = 0
        self._last: SourceStep | None = None
        self._cut_short = False
        self._touched_s = self._latency_s = 0.0
        self._latency_at_s = float("-inf")
        # Dropped as too old and not told yet: since which wall ns, and how many.
        self._stale_since_ns: int | None = None
        self._stale = 0

    # -- what it is like

    @property
    def source(self) -> Stage[SourceProcess] | None:
        return self._source

    @property
    def perception(self) -> Stage[PerceptionProcess] | None:
        return self._perception

    @property
    def next_track(self) -> int:
        """The first free track number."""
        return self._next_track

    @property
    def to_pin(self) -> bool:
        """Whether its source is open and it has no perception stage yet."""
        return self._source_open and self._perception is None

    @property
    def pinned(self) -> bool:
        return self._source_open and self._perception is not None

    @property
    def connected(self) -> bool:
        """What the source said last: False while a camera is away."""
        return self._connected

    @property
    def stepping(self) -> bool:
        """Whether the source is at work for it."""
        return self._stepping

    @property
    def keyframes(self) -> Sequence[Keyframe]:
        """On the way, in order."""
        return self._keyframes

    @property
    def last(self) -> SourceStep | None:
        return self._last

    @property
    def end(self) -> ResumePoint | None:
        """How far the source was read, once it has come to its end and nothing of it was left out."""
        if self._last is None or not self._last.ended or self._cut_short:
            return None
        return self._last.reached

    def at(self, place: Place) -> list[Keyframe]:
        return [keyframe for keyframe in self._keyframes if keyframe.place is place]

    @property
    def to_analyse(self) -> Keyframe | None:
        """The keyframe that should be analysed next, unless one is at it: a stream is analysed in order."""
        if self.at(Place.ANALYSING):
            return None
        return next(iter(self.at(Place.WAITING)), None)

    @property
    def to_caption(self) -> list[Keyframe]:
        """Keyframes whose captions nobody is at."""
        return [keyframe for keyframe in self.at(Place.CAPTIONING) if keyframe.captioner is None]

    @property
    def to_record(self) -> Keyframe | None:
        """The keyframe that can be recorded now, when it is ready: none before all earlier ones."""
        ahead = next((k for k in self._keyframes if k.place is not Place.RECORDING), None)
        return ahead if ahead is not None and ahead.place is Place.READY else None

    @property
    def records(self) -> int:
        """How many went to the recorder."""
        return self._records

    @property
    def idle(self) -> bool:
        """Whether nothing is on the way to the recorder."""
        return not self._keyframes and not self._committing

    @property
    def has_gaps(self) -> bool:
        """Whether gaps or steps of effort wait to be recorded."""
        return bool(self._gaps)

    def waits_for_commit(self, now_s: float, longest_s: float) -> bool:
        """Whether something has waited for longer than `longest_s` since the recorder was heard."""
        return bool(self._undurable or self._gaps) and now_s - self._touched_s > longest_s

    def staleness_s(self, now_ns: int, now_s: float) -> float:
        """How far the store is behind the source."""
        oldest = (now_ns - self._undurable[0][1]) / 1e9 if self._undurable else 0.0
        recent = self._latency_s if self._undurable or now_s - self._latency_at_s < _RECENT_S else 0.0
        return max(oldest, recent, 0.0)

    # -- what happens to it

    def source_started(self, source: Stage[SourceProcess]) -> None:
        """Its process comes up while the recorder looks where the stream goes on."""
        assert self._source is None
        self._source = source
        self._check()

    def goes_on(self, resume: ResumePoint) -> None:
        """The recorder has told where it goes on."""
        assert self._source is not None
        self._next_track = resume.next_track
        self._check()

    def source_opened(self) -> None:
        self._source_open = True
        self._check()

    def pin(self, stage: Stage[PerceptionProcess]) -> None:
        """Its trackers will live in `stage`."""
        assert self.to_pin
        assert not stage.dead
        self._perception = stage
        self._check()

    def touch(self, now_s: float) -> None:
        """The recorder was heard, or the stream begins to run."""
        self._touched_s = now_s

    def ask_source(self) -> None:
        """The source is asked for the next keyframe."""
        assert not self._stepping
        assert self.end is None
        self._stepping = True

    def stepped(self, report: StepReport, frame: Ref, *, wanted: bool) -> SourceStep | None:
        """The source has answered; the step that counts. Unless `wanted`, it will be read again by another run."""
        assert self._stepping
        self._stepping, self._connected = False, report.connected
        step = report.step
        if step is None or not wanted:
            return None
        self._last = step
        self._gaps.extend(step.gaps)
        if step.has_frame:
            keyframe = Keyframe(step, report.read_ns, frame)
            self._keyframes.append(keyframe)
            self._undurable.append((keyframe.order, report.read_ns))
        self._check()
        return step

    def discard_waiting(self) -> None:
        """Forget what nobody has begun to look at. Then this start has not come to the end, whatever was read."""
        for keyframe in self.at(Place.WAITING):
            self._take_out(keyframe)
            self._cut_short = True

    def drop_stale(self, before_ns: int) -> None:
        """Take out waiting keyframes that were read before a moment: they become a gap."""
        for keyframe in self.at(Place.WAITING):
            if keyframe.read_ns < before_ns:
                self._take_out(keyframe)
                self._stale += 1
                if self._stale_since_ns is None:
                    self._stale_since_ns = keyframe.step.reached.wall_ns
        self._check()

    def effort_changed(self, step: EffortStep) -> None:
        self._gaps.append(step)

    def analyse(self, keyframe: Keyframe, analysed: Ref, requests: Ref) -> None:
        """Perception has it, and will make `analysed` and `requests` of it. What was dropped before is a gap now."""
        assert keyframe is self.to_analyse
        self._close_stale(keyframe.step.reached.wall_ns)
        keyframe.place, keyframe.frame = Place.ANALYSING, None
        keyframe.analysed, keyframe.requests = analysed, requests
        self._check()

    def analysed(self, keyframe: Keyframe, report: AnalysisReport) -> None:
        assert keyframe.place is Place.ANALYSING
        assert report.fault is None
        keyframe.avoided = report.avoided
        keyframe.place = Place.CAPTIONING if report.requests else Place.READY
        self._check()

    def ask_captions(self, keyframe: Keyframe, captioner: Stage[CaptionerProcess]) -> None:
        assert keyframe.place is Place.CAPTIONING
        assert keyframe.captioner is None
        keyframe.captioner = captioner

    def captions_missed(self, keyframe: Keyframe) -> None:
        """Captioning keeps nothing: when it failed, the same question can go to another stage."""
        assert keyframe.place is Place.CAPTIONING
        keyframe.captioner = None

    def captioned(self, keyframe: Keyframe, captions: Ref) -> None:
        assert keyframe.place is Place.CAPTIONING
        assert keyframe.captioner is not None
        keyframe.captions, keyframe.place = captions, Place.READY
        self._check()

    def record(self, keyframe: Keyframe | None) -> tuple[int, tuple[Gap | EffortStep | Cut, ...]]:
        """A record goes to the recorder: its number, and the gaps and steps of effort that go with it."""
        if keyframe is not None:
            assert keyframe is self.to_record
            keyframe.place = Place.RECORDING
        gaps = tuple(self._gaps)
        self._gaps.clear()
        number, self._records = self._records, self._records + 1
        self._check()
        return number, gaps

    def recorded(self, keyframe: Keyframe) -> None:
        """The recorder has it."""
        assert keyframe.place is Place.RECORDING
        self._keyframes.remove(keyframe)
        self._check()

    def durable_up_to(self, point: ResumePoint, now_ns: int, now_s: float) -> list[float]:
        """The recorder has told what is committed. Latencies in seconds of what has become queryable by that."""
        self.touch(now_s)
        latencies = []
        while self._undurable and self._undurable[0][0] <= (point.epoch, point.pts_ns):
            _, read_ns = self._undurable.popleft()
            latencies.append(max(0.0, (now_ns - read_ns) / 1e9))
        if latencies:
            self._latency_s, self._latency_at_s = latencies[-1], now_s
        return latencies

    def commit(self) -> None:
        """The recorder is asked to commit."""
        assert self.idle
        self._committing = True

    def committed(self) -> None:
        assert self._committing
        self._committing = False

    def nothing_follows(self) -> None:
        """Every keyframe is recorded, and no other will come: what was dropped last is a gap up to the end."""
        assert self.idle
        if self.end is not None:
            self._close_stale(self.end.wall_ns)

    # -- inside

    def _take_out(self, keyframe: Keyframe) -> None:
        self._keyframes.remove(keyframe)
        self._undurable = deque(item for item in self._undurable if item[0] != keyframe.order)

    def _close_stale(self, until_ns: int) -> None:
        """What was dropped as too old becomes a gap that ends at the keyframe which is looked at next."""
        if self._stale_since_ns is not None:
            end = max(until_ns, self._stale_since_ns)
            self._gaps.append(Gap(self._stale_since_ns, end, GapReason.SHED, self._stale))
            self._stale_since_ns, self._stale = None, 0

    def _check(self) -> None:
        """What is true at any time, whatever has happened."""
        assert self._source is not None or not self._source_open
        assert self._source_open or self._perception is None
        assert self.pinned or not self._keyframes
        assert self.pinned or not self._stepping
        assert len(self.at(Place.ANALYSING)) <= 1
        places = [_BEHIND[keyframe.place] for keyframe in self._keyframes]
        assert places == sorted(places)
        assert places.count(0) <= self._records
        assert len(self._undurable) >= len(self._keyframes) - places.count(0)
        assert (self._stale_since_ns is None) == (self._stale == 0)
