"""What travels between the driver and the stages, besides pixels and rows."""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.core.redaction import redact_text
from pipeline.core.regions import NOTHING_AVOIDED, Avoided

if TYPE_CHECKING:
    from pipeline.keyframes.reader import SourceStep

_KEPT_LINES = 200


@dataclass(frozen=True, slots=True)
class LogLine:
    """A log record of a stage, for the log of the run. `text` holds no credentials."""

    logger: str
    level: int
    text: str


@dataclass(frozen=True, slots=True)
class StepReport:
    """What a source has to say. `step`: None when nothing came. `read_ns`: wall clock when it was read.

    `connected`: whether frames may be expected now; False while a camera is away.
    """

    step: SourceStep | None
    read_ns: int
    connected: bool
    logs: tuple[LogLine, ...] = ()


@dataclass(frozen=True, slots=True)
class Work:
    """A keyframe of a stream to analyse. `attempt`: the stream's, so that nothing of an earlier one gets through."""

    stream: str
    attempt: int
    probe_share: float
    view_share: float = 1.0


@dataclass(frozen=True, slots=True)
class AnalysisReport:
    """What became of a keyframe. `requests`: captions wanted; `avoided`: by the stream so far.

    `fault`: why there is no result, and `trace` where that came from; without credentials.
    """

    requests: int = 0
    avoided: Avoided = NOTHING_AVOIDED
    fault: str | None = None
    trace: str = ""


class LogCollector(logging.Handler):
    """Keeps the log records of a stage until the driver fetches them."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._lines: deque[LogLine] = deque(maxlen=_KEPT_LINES)

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(LogLine(record.name, record.levelno, redact_text(record.getMessage())))

    def taken(self) -> tuple[LogLine, ...]:
        """Everything since the last call."""
        lines = []
        while self._lines:
            lines.append(self._lines.popleft())
        return tuple(lines)
