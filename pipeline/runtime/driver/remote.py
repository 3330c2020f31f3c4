"""What the driver knows of the processes in which stages live: how they are called, and what is heard of them.

`pipeline/runtime/on_ray` gives it with Ray; a test may give it without any process at all.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum, auto
from pathlib import Path
from typing import Any, Protocol

from pipeline.core.records import Cut, EffortStep, Gap, ResumePoint
from pipeline.runtime.driver.messages import Work
from pipeline.runtime.plan import StreamPlan
from pipeline.settings.config import RunConfig

Call = Hashable
"""A call in flight: its outcome comes as an event."""

Ref = Any
"""A value that only stages see, such as pixels. It may be given to a call before it exists."""


class StageKind(StrEnum):
    """The stages that are processes of their own."""

    SOURCE = "source"
    PERCEPTION = "perception"
    CAPTIONER = "captioner"
    RECORDER = "recorder"


class Process(Protocol):
    """A process that a stage has for itself."""

    @property
    def life(self) -> Call:
        """A call that fails when the process is gone, and has no other end."""

    def memory(self) -> Call:
        """Its resident bytes; answered while it is at work."""

    def kill(self) -> None:
        """End it, whatever it does."""


class SourceProcess(Process, Protocol):
    """Decodes one stream."""

    def open(self, plan: StreamPlan, resume: ResumePoint) -> Call: ...

    def step(self, wait_s: float, interval_factor: float) -> tuple[Call, Ref]:
        """`StepReport`, and the picture that comes with it."""


class PerceptionProcess(Process, Protocol):
    """Finds and tracks regions; holds the trackers of the streams that were opened on it."""

    def load(self, config: RunConfig) -> Call: ...

    def open_stream(self, plan: StreamPlan, attempt: int, next_track: int) -> Call: ...

    def analyse(self, works: Sequence[Work], frames: Sequence[Ref]) -> tuple[Call, Sequence[tuple[Ref, Ref]]]:
        """A list of `AnalysisReport`; for each keyframe what was found, and which captions are wanted."""

    def finish(self, stream: str, attempt: int) -> Ref:
        """The tracks that the end of the stream ends."""

    def forget(self, stream: str, attempt: int) -> None: ...


class CaptionerProcess(Process, Protocol):
    """Puts regions into words."""

    def load(self, config: RunConfig) -> Call: ...

    def caption(self, requests: Ref) -> tuple[Call, Ref]:
        """The captions, which only the recorder sees."""


class RecorderProcess(Process, Protocol):
    """The one writer of the store."""

    def open(self, store: Path | str) -> Call: ...

    def open_stream(self, plan: StreamPlan, attempt: int) -> Call:
        """The `ResumePoint` behind which the stream goes on."""

    def record(
        self,
        stream: str,
        attempt: int,
        number: int,
        gaps: tuple[Gap | EffortStep | Cut, ...],
        analysed: Ref,
        captions: Ref,
    ) -> Call:
        """`Recorded`. Takes the records of an attempt in order of their numbers only."""

    def commit(self, stream: str, attempt: int) -> Call:
        """`Recorded`."""

    def finish(
        self, stream: str, attempt: int, records: int, ended: Ref, reached: ResumePoint | None
    ) -> Call:
        """`Recorded`. `records`: how many went before; with one of them lost, the end is not reached."""

    def close_stream(self, stream: str, attempt: int) -> Call:
        """The caption events that became durable and were not told of yet."""


class FaultKind(Enum):
    """Why a call has no answer."""

    RAISED = auto()
    """The stage lives; what it was asked to do raised."""
    LOST = auto()
    """Something that it needs is gone with another process, or the connection broke."""
    DIED = auto()
    """Its process is gone."""
    LATE = auto()
    """Its time is over."""


@dataclass(frozen=True, slots=True)
class Fault:
    """`error`: in plain words without credentials; a `UserError` where the input is at fault. `trace`: the traceback
    of the stage, "" where there is none.
    """

    kind: FaultKind
    error: Exception
    trace: str = ""


@dataclass(frozen=True, slots=True)
class Answered:
    """A call has come back with `value`."""

    call: Call
    value: Any


@dataclass(frozen=True, slots=True)
class Failed:
    """A call will not come back."""

    call: Call
    fault: Fault


Event = Answered | Failed
"""What the driver hears, besides the time and the request to stop."""


class Clock(Protocol):
    """The time, which nothing in the driver takes from elsewhere."""

    def steady_s(self) -> float:
        """Seconds that never run back."""

    def wall_ns(self) -> int:
        """Wall clock, ns UTC."""


class ClusterDied(Exception):
    """Every process, every value and every call of a cluster is gone at once. `what`: who has died, in words."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what


def death_text(who: str) -> str:
    """What is told when the cluster has died and the run cannot go on by itself."""
    return (
        f"{who} has died: what was committed is in the store, and the same command goes on there (was it killed for "
        "memory? its logs are gone with it; the system's journal tells)"
    )


class Cluster(Protocol):
    """Where processes are started, and where the driver listens."""

    def source(self, plan: StreamPlan) -> SourceProcess: ...

    def perception(self) -> PerceptionProcess: ...

    def captioner(self) -> CaptionerProcess: ...

    def recorder(self) -> RecorderProcess: ...

    def wait(self, calls: Collection[Call], timeout_s: float) -> Sequence[Event]:
        """Wait up to `timeout_s` for any of `calls`; the outcomes of all that are done, each told once.

        Raises `ClusterDied`.
        """

    def death_behind(self, error: Exception) -> ClusterDied | None:
        """The death of the whole cluster, where that is why a call could not even be made."""

    @property
    def renewable(self) -> bool:
        """Whether the driver may start another cluster in place of one that has died."""

    def renew(self) -> None:
        """Start another cluster. Nothing of the one before may be held any more. Raises `StageFailed`."""
