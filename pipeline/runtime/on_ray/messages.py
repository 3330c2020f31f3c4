"""What travels between the driver and the stages, besides pixels and rows."""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass

from ray.exceptions import RayError, RayTaskError

from pipeline.core.errors import StageFailed, UserError
from pipeline.keyframes.reader import SourceStep
from pipeline.sources import redact_text

# What a remote call raised, in words for the user.


def plain(error: Exception) -> Exception:
    """The error without Ray's wrapping and without credentials: `UserError` for bad input, else `StageFailed`."""
    if isinstance(error, RayTaskError):
        cause = error.cause
        if isinstance(cause, RayTaskError):
            return plain(cause)
        if isinstance(cause, UserError):
            return UserError(redact_text(str(cause)))
        if not isinstance(cause, RayError):
            where = getattr(error, "function_name", "a stage")
            return StageFailed(f"{where} failed: {type(cause).__name__}: {redact_text(str(cause))}")
        error = cause
    if isinstance(error, UserError):
        return UserError(redact_text(str(error)))
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return StageFailed(f"stopped unexpectedly ({redact_text(reason)})")


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


@dataclass(frozen=True, slots=True)
class AnalysisReport:
    """What became of a keyframe. `requests`: captions wanted; `avoided`: in total. `fault`: why there is no result."""

    requests: int = 0
    avoided: int = 0
    fault: str | None = None


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
