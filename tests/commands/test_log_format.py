"""Logs for people and for machines; never with a password."""

from __future__ import annotations

import io
import json
import logging
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from pipeline.commands.log_format import LogFormat, run_logs

log = logging.getLogger("pipeline.sources.somewhere")


def test_json_is_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with run_logs(LogFormat.JSON, Console(quiet=True)):
        log.info("connected to %s", "rtsp://admin:hunter2@camera/x")
        try:
            raise OSError("rtsp://admin:hunter2@camera/x is gone")
        except OSError:
            log.exception("two\nlines")
        log.debug("not this")
    lines = capsys.readouterr().err.splitlines()
    first, second = (json.loads(line) for line in lines)
    assert first["level"] == "info"
    assert first["logger"] == "pipeline.sources.somewhere"
    assert first["message"] == "connected to rtsp://camera/x"
    assert abs(datetime.fromisoformat(first["time"]) - datetime.now(UTC)) < timedelta(minutes=5)
    assert second["message"] == "two\nlines"
    assert "OSError" in second["exception"]
    assert "hunter2" not in "".join(lines)


def test_text_shows_warnings_only_and_leaves_nothing_behind() -> None:
    shown = io.StringIO()
    console = Console(file=shown, width=200)
    before = logging.getLogger("pipeline").handlers[:]
    with run_logs(LogFormat.TEXT, console):
        log.info("quiet")
        log.warning("lost rtsp://admin:hunter2@camera/x")
    log.warning("afterwards")
    assert "lost rtsp://camera/x" in shown.getvalue()
    assert "quiet" not in shown.getvalue()
    assert "afterwards" not in shown.getvalue()
    assert logging.getLogger("pipeline").handlers == before
