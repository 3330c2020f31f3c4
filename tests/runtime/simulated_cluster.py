"""A cluster without a process: a clock that jumps, calls that come back in any order, stages that die or fail at will.

Times come from a seed: a run is repeated exactly by its `Script`.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.core.errors import StageFailed, UserError
from pipeline.core.records import Batch, Gap, GapReason, ResumePoint
from pipeline.runtime.driver.remote import (
    Answered,
    Call,
    ClusterDied,
    Event,
    Failed,
    Fault,
    FaultKind,
    StageKind,
)
from pipeline.runtime.on_ray.actors import StaleCall

NS = 10**9
START_NS = 1_700_000_000 * NS


@dataclass(frozen=True)
class Script:
    """What happens in a simulated run. Moments are counted in pieces of work that stages have done so far.

    `kills`: (moment, kind) of which a process dies. `raises`, `hangs`: the n-th piece of work of a kind raises, or is
    never answered. `stop`: the moment at which a stop is asked for. `slow`: share of answers that take seconds.
    `with_objects`: whether what a dead process had made is gone too, as with its node. `bloats`: one perception process
    comes to hold ever more. `loses_context`: the first one fails every keyframe from its fourth on, as after a fault of
    its GPU. `all_die`: moments at which the whole cluster dies, with all its processes, values and calls.
    """

    seed: int
    kills: tuple[tuple[int, StageKind], ...] = ()
    raises: tuple[tuple[int, StageKind], ...] = ()
    hangs: tuple[tuple[int, StageKind], ...] = ()
    stop: int | None = None
    slow: float = 0.02
    with_objects: bool = False
    bloats: bool = False
    loses_context: bool = False
    all_die: tuple[int, ...] = ()

    @property
    def disturbances(self) -> int:
        own = len(self.kills) + len(self.raises) + len(self.hangs) + self.bloats + 4 * self.loses_context
        return own + len(self.all_die)


@dataclass
class Film:
    """What a stream shows: keyframes a second apart, at frames 0, 1, 2, ...; a file has `length` of them.

    `gaps`: a stretch is missing behind each of these keyframes. `tail`: frames behind the last keyframe. `skips`: some
    keyframes are dropped before the driver hears of them. `breaks_at`: no source gets beyond this keyframe.
    """

    length: int = 8
    live: bool = False
    gaps: frozenset[int] = frozenset()
    tail: int = 0
    skips: bool = False
    breaks_at: int | None = None

    def wall_ns(self, frame: int) -> int:
        return START_NS + frame * NS

    def gap_behind(self, frame: int) -> Gap:
        at = self.wall_ns(frame)
        return Gap(at + NS // 4, at + NS // 2, GapReason.CORRUPT, 1)

    @property
    def end(self) -> ResumePoint:
        frame = self.length - 1 + self.tail
        return ResumePoint(frame * NS, frame, 0, self.wall_ns(frame))


@dataclass
class SimulatedStore:
    """What is committed of one stream. `rows`: frame and text of what was seen there."""

    resume: ResumePoint = field(default_factory=ResumePoint)
    frames: list[int] = field(default_factory=list)
    texts: dict[int, str] = field(default_factory=dict)
    gaps: list[Gap] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)

    def commit(self, batch: Batch) -> None:
        assert (batch.resume.epoch, batch.resume.pts_ns) >= (self.resume.epoch, self.resume.pts_ns)
        self.frames += [row.frame for row in batch.observations]
        self.texts |= {event.frame: event.text for event in batch.captions}
        self.gaps += batch.gaps
        self.ended += [track.track for track in batch.tracks]
        self.resume = batch.resume


class SimulatedClock:
    """Seconds since the run began."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def steady_s(self) -> float:
        return self.now_s

    def wall_ns(self) -> int:
        return START_NS + int(self.now_s * NS)


class Lost(Exception):
    """A value was gone with its process."""


class _Value:
    """What a reference stands for."""

    def __init__(self, maker: SimulatedProcess) -> None:
        self._maker = maker
        self._made: Any = None
        self.is_made = self.is_lost = False

    def make(self, value: Any) -> None:
        self._made, self.is_made = value, True

    def get(self) -> Any:
        if self.is_lost:
            raise Lost
        assert self.is_made
        return self._made


class _Pending:
    """A call in flight."""

    def __init__(self, run: Callable[[], Any], needs: tuple[Any, ...], makes: tuple[_Value, ...]) -> None:
        self.run = run
        self.needs = [need for need in needs if isinstance(need, _Value)]
        self.makes = makes
        self.told = False


class SimulatedProcess:
    """A process with its actor: work is done in the order in which it came, one piece after the other."""

    kind: StageKind
    concurrent = False

    def __init__(self, cluster: Happenings) -> None:
        self.cluster = cluster
        self.dead = False
        self.in_flight: list[_Pending] = []
        self.values: list[_Value] = []
        self.busy_until_s = 0.0
        self.stuck = False
        self.life: Call = _Pending(lambda: None, (), ())
        self.in_flight.append(self.life)
        self._asked_memory = 0
        cluster.born(self)

    def memory(self) -> Call:
        self._asked_memory += 1
        script = self.cluster.script
        bloated = script.bloats and self.kind is StageKind.PERCEPTION and not self.cluster.bloated
        if bloated and self._asked_memory > 1:
            self.cluster.bloated = True
            return self._call(lambda: 64 << 30, work=False)
        return self._call(lambda: 1 << 30, work=False)

    def kill(self) -> None:
        self.cluster.end(self)

    def value(self) -> _Value:
        value = _Value(self)
        self.values.append(value)
        return value

    def _call(
        self,
        run: Callable[[], Any],
        *needs: Any,
        makes: tuple[_Value, ...] = (),
        after_s: float = 0.0,
        work: bool = True,
    ) -> _Pending:
        pending = _Pending(run, needs, makes)
        self.in_flight.append(pending)
        self.cluster.submit(self, pending, after_s, work)
        return pending


class Happenings:
    """Does what a `Script` says. `claims` that did not hold are kept in `broken`."""

    def __init__(
        self,
        script: Script,
        films: dict[str, Film],
        stores: dict[str, SimulatedStore],
        clock: SimulatedClock,
        stop: Callable[[], None],
    ) -> None:
        self.script = script
        self.films = films
        self.stores = stores
        self.clock = clock
        self.random = random.Random(script.seed)
        self.started: Counter[StageKind] = Counter()
        self.broken: list[str] = []
        self.rounds = 0
        self.bloated = self.dead = False
        self.renewals = 0
        self.breaks_half_way = False
        self._stop = stop
        self._done = 0
        self._done_of: Counter[StageKind] = Counter()
        self._processes: list[SimulatedProcess] = []
        self._future: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        self._ready: list[Event] = []

    @property
    def alive(self) -> list[SimulatedProcess]:
        return list(self._processes)

    # -- what the driver asks for, besides processes

    def wait(self, calls: Collection[Call], timeout_s: float) -> Sequence[Event]:
        self.rounds += 1
        if self.dead:
            raise ClusterDied("the cluster")
        until_s = self.clock.now_s + timeout_s
        while not (ready := [event for event in self._ready if event.call in calls]):
            if not self._future or self._future[0][0] > until_s:
                self.clock.now_s = until_s
                return []
            at_s, _, happen = heapq.heappop(self._future)
            self.clock.now_s = max(self.clock.now_s, at_s)
            happen()
        # A driver that was busy finds more than one answer.
        looks_s = self.clock.now_s + self.random.choice((0.0, 0.0, 0.03, 0.3))
        while self._future and self._future[0][0] <= looks_s:
            at_s, _, happen = heapq.heappop(self._future)
            self.clock.now_s = max(self.clock.now_s, at_s)
            happen()
        ready = [event for event in self._ready if event.call in calls]
        # All that are done are told in any order, and some only the next time.
        self.random.shuffle(ready)
        ready = ready[: self.random.randint(1, len(ready))]
        told = set(map(id, ready))
        self._ready = [event for event in self._ready if id(event) not in told]
        return ready

    def death_behind(self, error: Exception) -> ClusterDied | None:
        return error if isinstance(error, ClusterDied) else None

    @property
    def renewable(self) -> bool:
        return True

    def renew(self) -> None:
        self.claim(self.dead, "a cluster that lives is replaced")
        self.claim(not self._processes, "processes are left of a dead cluster")
        self._ready, self._future, self.dead = [], [], False
        self.renewals += 1
        self.clock.now_s += self.random.uniform(0.5, 5)

    # -- what happens

    def claim(self, holds: bool, otherwise: str) -> None:
        if not holds:
            self.broken.append(otherwise)

    def born(self, process: SimulatedProcess) -> None:
        process.dead = self.dead
        if self.dead:
            return
        self.started[process.kind] += 1
        self._processes.append(process)

    def submit(self, process: SimulatedProcess, pending: _Pending, after_s: float, work: bool) -> None:
        if process.dead:
            self._tell_death(pending)
            return
        at_s = self.clock.now_s + after_s + self._delay_s()
        if not process.concurrent:
            at_s = process.busy_until_s = max(at_s, process.busy_until_s)
        self._at(at_s, lambda: self._do(process, pending, work))

    def end(self, process: SimulatedProcess) -> None:
        """It is gone, with all that it has not told."""
        if process.dead:
            return
        process.dead = True
        self._processes.remove(process)
        unmade = [value for value in process.values if not value.is_made]
        for value in process.values if self.script.with_objects or self.dead else unmade:
            value.is_lost = True
        for pending in process.in_flight:
            self._tell_death(pending)

    def _do(self, process: SimulatedProcess, pending: _Pending, work: bool) -> None:
        """One piece of work is done, and perhaps something happens to somebody afterwards."""
        if process.dead or pending.told or process.stuck:
            return
        if any(not need.is_made and not need.is_lost for need in pending.needs):
            self._at(self.clock.now_s + 0.01, lambda: self._do(process, pending, work))
            return
        event: Event | None
        number = self._done_of[process.kind]
        if work and (number, process.kind) in self.script.hangs:
            event, process.stuck = None, not process.concurrent
        else:
            event = self._outcome(process, pending, work and (number, process.kind) in self.script.raises)
        if event is not None:
            self._at(self.clock.now_s + self._delay_s(), lambda: self._tell(process, pending, event))
        if not work:
            return
        self._done_of[process.kind] += 1
        self._done += 1
        if self.script.stop is not None and self._done >= self.script.stop:
            self._stop()
        for moment, kind in self.script.kills:
            alive = [other for other in self._processes if other.kind is kind]
            if moment == self._done and alive:
                self.end(self.random.choice(alive))
        if self._done in self.script.all_die:
            self.dead = True
            for every in self.alive:
                self.end(every)

    def _outcome(self, process: SimulatedProcess, pending: _Pending, raises: bool) -> Event:
        try:
            how = self.random.choice(("before", "half way", "behind")) if raises else ""
            if how == "before":
                raise ValueError("operands could not be broadcast together")
            self.breaks_half_way = how == "half way"
            value = pending.run()
            if raises:
                raise ValueError("no more room")
            return Answered(pending, value)
        except Lost:
            fault = Fault(FaultKind.LOST, StageFailed("stopped unexpectedly (an object is gone)"))
        except UserError as error:
            fault = Fault(FaultKind.RAISED, error)
        except StaleCall as error:
            fault = Fault(FaultKind.RAISED, StageFailed(f"failed: StaleCall: {error}"))
        except (ValueError, AttributeError) as error:
            fault = Fault(FaultKind.RAISED, StageFailed(f"failed: {error!r}"), "Traceback ...")
        finally:
            self.breaks_half_way = False
        for value in pending.makes:
            value.is_lost = True
        return Failed(pending, fault)

    def _tell(self, process: SimulatedProcess, pending: _Pending, event: Event) -> None:
        if not pending.told:
            pending.told = True
            process.in_flight.remove(pending)
            self._ready.append(event)

    def _tell_death(self, pending: _Pending) -> None:
        if pending.told:
            return
        pending.told = True
        fault = Fault(FaultKind.DIED, StageFailed("stopped unexpectedly (its process is gone)"))
        notice_s = self.clock.now_s + self.random.uniform(0, 0.05)
        self._at(notice_s, lambda: self._ready.append(Failed(pending, fault)))

    def _at(self, at_s: float, happen: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._future, (at_s, self._number, happen))

    def _delay_s(self) -> float:
        if self.random.random() < self.script.slow:
            return self.random.uniform(0.2, 4.0)
        return self.random.uniform(0.0005, 0.02)
