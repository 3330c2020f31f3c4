"""The life of one stream in the driver's eyes: opened, running, broken and opened again, over."""

from __future__ import annotations

from enum import Enum, auto

from pipeline.core.dropping import DropPolicy
from pipeline.core.records import EffortStep
from pipeline.core.restarts import Ending, Restart, RestartHistory, next_restart
from pipeline.keyframes.reader import SourceStep
from pipeline.keyframes.shedding import LoadState, next_load
from pipeline.runtime.driver.attempt import Attempt, Keyframe, Place
from pipeline.runtime.driver.messages import StepReport
from pipeline.runtime.driver.remote import Ref
from pipeline.runtime.plan import StreamPlan
from pipeline.runtime.progress import ProgressTally


class LaneState(Enum):
    """What a stream is at."""

    WAITING = auto()
    OPENING = auto()
    RUNNING = auto()
    FINISHING = auto()
    OVER = auto()


class Lane:
    """The state of one stream. `attempt`: its present start; what belongs to an earlier one no longer counts.

    Nobody sets a field: methods say what has happened, and `_check` holds what is true at any time.
    """

    def __init__(self, plan: StreamPlan, tally: ProgressTally) -> None:
        self.plan = plan
        self.tally = tally
        self._state = LaneState.WAITING
        self._attempt = Attempt(0)
        self._closing = False
        self._retry_at_s = float("-inf")
        self._history = RestartHistory()
        self._error: Exception | None = None
        self._load = LoadState()

    # -- what it is like

    @property
    def name(self) -> str:
        return self.plan.stream

    @property
    def state(self) -> LaneState:
        return self._state

    @property
    def attempt(self) -> Attempt:
        return self._attempt

    @property
    def first_start(self) -> bool:
        return self._attempt.number == 1

    @property
    def load(self) -> LoadState:
        return self._load

    @property
    def error(self) -> Exception | None:
        """Why it was given up."""
        return self._error

    @property
    def restarts(self) -> int:
        """How many were granted lately."""
        return len(self._history.granted_s)

    @property
    def closing(self) -> bool:
        """Whether what was recorded of its last start is being committed."""
        return self._closing

    @property
    def policy(self) -> DropPolicy:
        return self.plan.config.flow.policy_of(live=self.plan.source.live)

    @property
    def up(self) -> bool:
        """Whether it is being watched: not while its camera is away, nor after its end."""
        return self._state in (LaneState.RUNNING, LaneState.FINISHING) and self._attempt.connected

    @property
    def finished(self) -> bool:
        """Over, and not because it was given up."""
        return self._state is LaneState.OVER and self._error is None

    def may_open(self, now_s: float) -> bool:
        """Whether its pause is over, and what was recorded of its last start is committed."""
        return self._state is LaneState.WAITING and not self._closing and now_s >= self._retry_at_s

    @property
    def wants_more(self) -> bool:
        """Whether the source is to be asked for another keyframe."""
        attempt = self._attempt
        if self._state is not LaneState.RUNNING or attempt.stepping or attempt.end is not None:
            return False
        waiting, on_the_way = len(attempt.at(Place.WAITING)), len(attempt.keyframes)
        return self.policy.may_read(waiting, on_the_way, self.plan.config.runtime.credits)

    @property
    def to_analyse(self) -> Keyframe | None:
        return self._attempt.to_analyse if self._state is LaneState.RUNNING else None

    def commit_due(self, now_s: float) -> bool:
        """Whether nothing came for a while, and something waits in the recorder or for it."""
        return self._attempt.waits_for_commit(now_s, self.plan.config.recording.commit_s)

    def next_restart(self, ending: Ending, now_s: float) -> Restart | None:
        """What its policy grants now."""
        return next_restart(ending, self._history, now_s, self.plan.config.restarts)

    # -- what happens to it

    def opening(self) -> None:
        """The recorder is asked where it goes on."""
        assert self._state is LaneState.WAITING
        assert not self._closing
        self._renew(LaneState.OPENING)

    def running(self, now_s: float) -> None:
        """Its source and its perception stage are ready."""
        assert self._state is LaneState.OPENING
        self._state = LaneState.RUNNING
        self._attempt.touch(now_s)
        self._check()

    def stepped(self, report: StepReport, frame: Ref, *, wanted: bool) -> SourceStep | None:
        """The source has answered; the step, where it counts."""
        wanted = wanted and self._state is LaneState.RUNNING
        step = self._attempt.stepped(report, frame, wanted=wanted)
        if step is not None:
            self.tally.read(step)
        self._check()
        return step

    def drop_stale(self, now_ns: int) -> None:
        """Take out waiting keyframes that could not be stored within the budget any more, where the effort says so."""
        if self._load.effort.drop_stale:
            self._attempt.drop_stale(now_ns - int(self.plan.config.flow.shedding.tolerated_s * 1e9))

    def recorded(self, keyframe: Keyframe) -> None:
        """The recorder has taken a keyframe in."""
        self._attempt.recorded(keyframe)
        self.tally.analysed(keyframe.step.reached.pts_ns, keyframe.avoided)

    def shed(self, now_ns: int, now_s: float) -> bool:
        """Adapt the effort to the load; whether it has changed. Streams whose source waits for us shed nothing."""
        if not self.policy.sheds or self._state is not LaneState.RUNNING:
            return False
        before, last = self._load.step, self._attempt.last
        shedding = self.plan.config.flow.shedding
        staleness_s = self._attempt.staleness_s(now_ns, now_s)
        self._load = next_load(self._load, staleness_s, now_s, shedding)
        if self._load.step == before:
            return False
        wall_ns = last.reached.wall_ns if last is not None else now_ns
        self._attempt.effort_changed(EffortStep(wall_ns, self._load.effort.name))
        return True

    def finishing(self) -> None:
        """Everything is handed over: its tracks end."""
        assert self._attempt.idle
        assert not self._attempt.has_gaps
        self._state = LaneState.FINISHING
        self._check()

    def reopen(self, restart: Restart, now_s: float) -> None:
        """It goes on behind its last commit, after a pause."""
        self._history, self._retry_at_s = restart.history, now_s + restart.delay_s
        self.tally.restarted()
        self._renew(LaneState.WAITING)

    def give_up(self, error: Exception) -> None:
        """It stays down; over as soon as what was recorded is committed."""
        self._error, self._retry_at_s = error, float("inf")
        self._renew(LaneState.WAITING)

    def begin_closing(self) -> None:
        """The recorder is asked to commit what it has of the last start."""
        self._closing = True
        self._check()

    def closed(self) -> None:
        """What was recorded of the last start is committed, or gone."""
        self._closing = False
        if self._error is not None:
            self.end()
        self._check()

    def end(self) -> None:
        """It is over: finished, given up, or stopped before it could begin."""
        assert self._state is not LaneState.RUNNING
        self._renew(LaneState.OVER)

    # -- inside

    def _renew(self, state: LaneState) -> None:
        self._state, self._attempt = state, Attempt(self._attempt.number + 1)
        self._check()

    def _check(self) -> None:
        """What is true at any time, whatever has happened."""
        attempt, state = self._attempt, self._state
        at_work = state in (LaneState.RUNNING, LaneState.FINISHING)
        assert not at_work or attempt.pinned
        assert at_work or state is LaneState.OPENING or attempt.source is None
        assert state is LaneState.RUNNING or not attempt.keyframes
        assert state is LaneState.WAITING or not self._closing
        assert self._error is None or state in (LaneState.WAITING, LaneState.OVER)
