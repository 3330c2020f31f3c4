"""Where the time of a run goes, by stage and process: a few counters that cost next to nothing, and nothing when nobody asked.

Each process counts in a small file of its own, mapped into its memory. So nobody has to be asked, and what a process has counted
outlives it, however it ends.
"""

from __future__ import annotations

import mmap
import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from pipeline.core.errors import MalformedFile

FOLDER_VARIABLE = "SCA_STAGE_TIMES"
"""Names the folder of the files to the processes that a run starts on this machine."""


class TimedStage(Enum):
    """What a process of a run may be at. One at a time a thread: what is done within another is not counted there.

    `START`: imports and loading, until a process is ready.
    """

    START = "start"
    DECODE = "decode"
    GATE = "keyframe gate"
    ENCODE = "encode"
    PROMPTS = "prompts"
    REGIONS = "regions"
    DESCRIBE = "descriptions"
    ASSOCIATION = "association"
    CAPTIONS = "captions"
    COMMIT = "commit"


_STAGES = {stage: place for place, stage in enumerate(TimedStage)}
# What the thread that is at it computes by itself; the others wait for threads of engines.
_ALONE = {TimedStage.DECODE, TimedStage.GATE, TimedStage.ASSOCIATION, TimedStage.COMMIT}


@dataclass(frozen=True, slots=True)
class StageTime:
    """What a stage took: `wall_ns` of the threads that were at it, `cpu_ns` of its process, and how often it was entered."""

    wall_ns: int = 0
    cpu_ns: int = 0
    times: int = 0

    def __add__(self, other: StageTime) -> StageTime:
        return StageTime(self.wall_ns + other.wall_ns, self.cpu_ns + other.cpu_ns, self.times + other.times)


@dataclass(frozen=True, slots=True)
class RunTimes:
    """What all processes of a run have counted.

    `other_cpu_ns`: of theirs, in no stage. `first_ns`: when the first keyframe was analysed, wall clock, 0 if none was. `later`:
    the keyframes after it, from frame to tracked regions.
    """

    stages: dict[TimedStage, StageTime]
    other_cpu_ns: int
    first_ns: int
    later: StageTime


# Of a file: three numbers a stage, three of the keyframes after the first, when the first was done, and the CPU time of the
# whole process when it counted last.
_LATER = 3 * len(TimedStage)
_FIRST = _LATER + 3
_CPU = _FIRST + 1
_NUMBERS = _CPU + 1
_SIZE = 8 * _NUMBERS


class _Counters:
    """This process's own."""

    def __init__(self, folder: Path) -> None:
        path = folder / f"{os.getpid()}.times"
        with open(path, "w+b") as file:
            file.truncate(_SIZE)
            self._map = mmap.mmap(file.fileno(), _SIZE)
        self._numbers = memoryview(self._map).cast("q")
        self._open = threading.local()
        self._lock = threading.Lock()
        # What came before belongs to the start: imports above all.
        self._shared = self._numbers[3 * _STAGES[TimedStage.START] + 1] = time.process_time_ns()
        self._alone = 0  # CPU time that threads have spent by themselves
        self._waiting: dict[int, TimedStage] = {}  # threads that wait for engines, and what for

    @contextmanager
    def measure(self, stage: TimedStage) -> Iterator[None]:
        outer: TimedStage | None = getattr(self._open, "stage", None)
        outside, self._open.wall = getattr(self._open, "wall", 0), 0
        self._turn_to(stage)
        wall = time.perf_counter_ns()
        try:
            yield
        finally:
            wall = time.perf_counter_ns() - wall
            now = self._turn_to(outer)
            self._add(3 * _STAGES[stage], wall - self._open.wall, 0, now)
            self._open.wall = outside + wall

    def _turn_to(self, stage: TimedStage | None) -> int:
        """This thread is at `stage` from now on. Counts what was computed so far; gives the CPU time of the process.

        Several threads may be at something: what one computes by itself is its own stage's, and what engines compute is
        shared among the stages that wait for them.
        """
        here, before = threading.get_ident(), getattr(self._open, "stage", None)
        with self._lock:
            now, own = time.process_time_ns(), time.thread_time_ns()
            if before in _ALONE:
                spent = own - self._open.since
                self._numbers[3 * _STAGES[before] + 1] += spent
                self._alone += spent
            stages = list(self._waiting.values())
            computed = now - self._alone - self._shared
            for place, one in enumerate(stages):
                share = computed * (place + 1) // len(stages) - computed * place // len(stages)
                self._numbers[3 * _STAGES[one] + 1] += share
            self._shared += computed
            self._waiting.pop(here, None)
            if stage is not None and stage not in _ALONE:
                self._waiting[here] = stage
        self._open.stage, self._open.since = stage, own
        return now

    @contextmanager
    def keyframe(self) -> Iterator[None]:
        wall, cpu = time.perf_counter_ns(), time.process_time_ns()
        try:
            yield
        finally:
            now = time.process_time_ns()
            if self._numbers[_FIRST]:
                self._add(_LATER, time.perf_counter_ns() - wall, now - cpu, now)
            else:
                self._numbers[_FIRST] = time.time_ns()

    def _add(self, place: int, wall_ns: int, cpu_ns: int, now_cpu_ns: int) -> None:
        numbers = self._numbers
        with self._lock:
            numbers[place] += wall_ns
            numbers[place + 1] += cpu_ns
            numbers[place + 2] += 1
            numbers[_CPU] = now_cpu_ns


_NOTHING = nullcontext()
_counters: _Counters | None = None
if _folder := os.environ.get(FOLDER_VARIABLE):
    with suppress(OSError):  # the run that asked is over
        _counters = _Counters(Path(_folder))


def begin(folder: Path) -> None:
    """Count from now on, here and in the processes that are started from here, in `folder`."""
    global _counters
    os.environ[FOLDER_VARIABLE] = str(folder)
    _counters = _Counters(folder)


def end() -> None:
    """Count no longer."""
    global _counters
    os.environ.pop(FOLDER_VARIABLE, None)
    _counters = None


def timed(stage: TimedStage) -> AbstractContextManager[None]:
    """What the block takes is `stage`'s. A stage within another is counted by itself alone."""
    return _NOTHING if _counters is None else _counters.measure(stage)


def timed_keyframe() -> AbstractContextManager[None]:
    """The block looks at one keyframe."""
    return _NOTHING if _counters is None else _counters.keyframe()


def read_times(folder: Path) -> RunTimes:
    """What all processes have counted in `folder`. MalformedFile for a file that none of them wrote."""
    return _summed(_numbers(path) for path in sorted(folder.glob("*.times")))


def _numbers(path: Path) -> memoryview:
    content = path.read_bytes()
    if len(content) != _SIZE:
        raise MalformedFile(f"{path} holds no times of stages")
    return memoryview(content).cast("q")


def _summed(files: Iterable[memoryview]) -> RunTimes:
    stages = dict.fromkeys(TimedStage, StageTime())
    later, other, first = StageTime(), 0, 0
    for numbers in files:
        own = {stage: StageTime(*numbers[3 * place : 3 * place + 3]) for stage, place in _STAGES.items()}
        stages = {stage: stages[stage] + time for stage, time in own.items()}
        other += max(0, numbers[_CPU] - sum(time.cpu_ns for time in own.values()))
        later += StageTime(*numbers[_LATER : _LATER + 3])
        told = numbers[_FIRST]
        first = min(first or told, told or first)
    return RunTimes(stages, other, first, later)
