"""Logs of a run: lines for people, or one JSON object a line."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum

from rich.console import Console
from rich.logging import RichHandler

from pipeline.core.clock import NS, iso_text
from pipeline.core.redaction import redact_text
from pipeline.core.shown_text import json_text, shown

_OURS = ("pipeline", "engines", "sca")


class LogFormat(StrEnum):
    """How `sca run` logs."""

    TEXT = "text"
    JSON = "json"


class JsonLines(logging.Formatter):
    """One JSON object a record: time (ISO 8601 UTC), level, logger, message; without credentials."""

    def format(self, record: logging.LogRecord) -> str:
        document = {
            "time": iso_text(int(record.created * NS)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redact_text(record.getMessage()),
        }
        if record.exc_info:
            document["exception"] = redact_text(self.formatException(record.exc_info))
        return json_text(document)


class PlainLines(logging.Formatter):
    """The message, and what was raised: without credentials, and without what would act on a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return shown(redact_text(super().format(record)), lines=True)


class _Redacted(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = redact_text(record.getMessage()), ()
        return True


@contextmanager
def run_logs(form: LogFormat, console: Console) -> Iterator[None]:
    """Write this program's log records for the length of the block.

    As text, warnings go to `console`, above its progress bar; as JSON, everything from INFO goes to stderr.
    """
    handler: logging.Handler
    if form is LogFormat.JSON:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(JsonLines())
        level = logging.INFO
    else:
        handler = RichHandler(console=console, show_path=False, markup=False)
        handler.setFormatter(PlainLines("%(message)s", datefmt="[%X]"))
        level = logging.WARNING
    handler.setLevel(level)
    handler.addFilter(_Redacted())
    loggers = [logging.getLogger(name) for name in _OURS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(level)
    try:
        yield
    finally:
        for logger, before in zip(loggers, levels, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(before)
